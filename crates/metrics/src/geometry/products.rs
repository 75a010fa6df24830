//! Sums over all points: they need `d²` numbers and not `n²`.

use burn::tensor::{DType, Tensor};
use faer::Mat;

use crate::host;

/// Rows in one product: their sum is one of f32, what is added up over blocks is in f64.
const BLOCK: usize = 2048;

/// `x` in f32 without the mean of its rows. Twice, since the first mean has the rounding of its sum.
pub(crate) fn centred(x: Tensor<2>) -> Tensor<2> {
    let once = |x: Tensor<2>| x.clone() - x.mean_dim(0);
    once(once(x.cast(DType::F32)))
}

/// `Σ_i x_i y_iᵀ`, `[d_x, d_y]`.
pub(crate) fn cross(x: &Tensor<2>, y: &Tensor<2>) -> Mat<f64> {
    let ([rows, height], [_, width]) = (x.dims(), y.dims());
    let mut sum = vec![0.0f64; height * width];
    for start in (0..rows).step_by(BLOCK) {
        let block = |x: &Tensor<2>| x.clone().slice_dim(0, start..(start + BLOCK).min(rows));
        let part = host::floats(block(x).transpose().matmul(block(y)));
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += f64::from(part));
    }
    Mat::from_fn(height, width, |row, column| sum[row * width + column])
}

/// `|x_i|²` of each row.
pub(crate) fn squares(x: &Tensor<2>) -> Vec<f64> {
    host::floats(x.clone().square().sum_dim(1)).into_iter().map(f64::from).collect()
}
