//! The product with a matrix that stays dense.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata};
use burn::tensor::{Slice, Tensor};

use crate::ops::QuantBackend;

/// `y = x · Wᵀ`, `x`: `[rows, in]`, `w`: `[out, in]` → `[rows, out]` in the dtype of `x`, differentiable in both.
///
/// `w` may be of halves where `x` is of f32: it is read as the numbers that it is made of. On Flex and NdArray up to 16 rows
/// in f32 take a product of our own, on all threads and limited by memory; elsewhere it is the backend's.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn dense_matmul(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    assert_eq!(x.dims()[1], w.dims()[1], "x {:?} does not fit a matrix {:?}", x.dims(), w.dims());
    Tensor::from_dispatch(<Dispatch as QuantBackend>::dense_matmul(x.into_dispatch(), w.into_dispatch()))
}

/// The product by the operations of a backend.
///
/// A matrix of another dtype is converted some rows at a time, so that it does not lie in memory twice.
pub(crate) fn dense<B: Backend>(x: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
    if x.dtype() == w.dtype() {
        return B::float_matmul(x, B::float_transpose(w));
    }
    let ([out, columns], dtype) = (w.shape().dims::<2>(), x.dtype());
    let rows = (CONVERTED / columns.max(1)).max(1);
    let parts = (0..out).step_by(rows).map(|first| {
        let slices = [Slice::from(first..out.min(first + rows)), Slice::full()];
        let part = B::float_cast(B::float_slice(w.clone(), &slices), dtype.into());
        B::float_matmul(x.clone(), B::float_transpose(part))
    });
    B::float_cat(parts.collect(), 1)
}

/// Elements converted at a time: some megabytes.
const CONVERTED: usize = 1 << 20;
