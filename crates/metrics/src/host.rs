//! Values of a tensor on the host.

use burn::tensor::{DType, Tensor};

/// The values of `x`, row-major, as f32; 16-bit floats are widened.
///
/// # Panics
///
/// If the device fails while it computes or is read.
#[track_caller]
pub(crate) fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    match x.cast(DType::F32).into_data().try_into_vec() {
        Ok(values) => values,
        Err(error) => panic!("a tensor of f32 could not be read as f32: {error}"),
    }
}
