//! [`Weight`]: the matrix of a layer, dense or packed.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use quench_kernels::QTensor;

/// The matrix of a layer, `[out, in]`: dense, or packed.
///
/// `[out, in]` is the order of PyTorch and of Hugging Face files, and the transpose of Burn's own `Linear`.
#[derive(Module, Debug)]
pub enum Weight {
    /// A float tensor `[out, in]`.
    Dense(Param<Tensor<2>>),
    /// Codes and scales that stand for one.
    Quantized(QTensor),
}

impl Weight {
    /// A dense weight from a tensor `[out, in]`.
    pub fn dense(w: Tensor<2>) -> Self {
        Self::Dense(Param::from_tensor(w))
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(w) => w.val().dims(),
            Self::Quantized(w) => w.shape(),
        }
    }

    /// Whether the matrix is packed.
    pub fn is_quantized(&self) -> bool {
        matches!(self, Self::Quantized(_))
    }

    /// The matrix as a dense tensor `[out, in]`; a packed one is decoded into f32.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Dense(w) => w.val(),
            Self::Quantized(w) => w.dequantize(),
        }
    }

    /// `y = x · Wᵀ`, `x`: `[.., in]` → `y`: `[.., out]`.
    ///
    /// # Panics
    ///
    /// If the last dimension of `x` is not `in`, naming both shapes.
    pub fn matmul<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Dense(w) => dense_matmul(x, w.val()),
            Self::Quantized(w) => w.matmul(x),
        }
    }
}

impl From<QTensor> for Weight {
    fn from(w: QTensor) -> Self {
        Self::Quantized(w)
    }
}

/// One product of two matrices whatever the rank of `x`: a batched product would read `w` once per batch.
fn dense_matmul<const D: usize>(x: Tensor<D>, w: Tensor<2>) -> Tensor<D> {
    let [out, columns] = w.dims();
    let mut dims = x.dims();
    assert_eq!(
        dims[D - 1],
        columns,
        "x {dims:?} does not fit a weight [{out}, {columns}]: its last dimension must be {columns}"
    );
    let rows = dims[..D - 1].iter().product();
    let y = x.reshape([rows, columns]).matmul(w.transpose()); // [rows, out]
    dims[D - 1] = out;
    y.reshape(dims)
}
