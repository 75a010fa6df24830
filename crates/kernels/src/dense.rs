//! The product with a matrix that stays dense.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::ops::QuantBackend;

/// `y = x · Wᵀ`, `x`: `[rows, in]`, `w`: `[out, in]` → `[rows, out]`, differentiable in both.
///
/// On Flex and NdArray up to 16 rows in f32 take a product of our own, on all threads and limited by memory; elsewhere it is
/// the backend's.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn dense_matmul(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    assert_eq!(x.dims()[1], w.dims()[1], "x {:?} does not fit a matrix {:?}", x.dims(), w.dims());
    Tensor::from_dispatch(<Dispatch as QuantBackend>::dense_matmul(x.into_dispatch(), w.into_dispatch()))
}
