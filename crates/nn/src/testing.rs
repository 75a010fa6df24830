//! What the unit tests share.

use burn::tensor::Tensor;
use quench_format::{Packed, Scales};

/// A packed matrix `[out, in]` of 4-bit integers, one scale per row.
pub(crate) fn packed([out, columns]: [usize; 2]) -> Packed {
    let codes: Vec<u16> = (0..out * columns).map(|k| (k * 7 % 16) as u16).collect();
    let scales = Scales::Float((0..out).map(|row| 0.25 * (row + 1) as f32).collect());
    let scheme = "int4/row/f32".parse().expect("a scheme");
    Packed::from_codes(scheme, [out, columns], &codes, scales, None, None).expect("a matrix")
}

/// The elements, row-major.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}
