//! Values of a tensor on the host, and back.

use burn::tensor::{DType, Device, Tensor, TensorData};

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

/// Values of the host, row-major, as a matrix of f32 on a device.
#[track_caller]
pub(crate) fn matrix(values: Vec<f32>, width: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / width;
    Tensor::from_data(TensorData::new(values, [rows, width]), (device, DType::F32))
}

/// `rows · width` samples of the normal distribution, the same on every device.
pub(crate) fn gaussian(rows: usize, width: usize, seed: u64, device: &Device) -> Tensor<2> {
    matrix(crate::Source::Gaussian.samples(rows * width, seed), width, device)
}
