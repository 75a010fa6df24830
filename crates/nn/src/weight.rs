//! [`Weight`]: the matrix of a layer, dense, packed, or packed with an adapter.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use quench_format::Packed;
use quench_kernels::{Activations, QTensor};

use crate::Adapted;

/// The matrix of a layer, `[out, in]`: dense, packed, or packed with an adapter beside it.
///
/// `[out, in]` is the order of PyTorch and of Hugging Face files, and the transpose of Burn's own `Linear`.
#[derive(Module, Debug)]
pub enum Weight {
    /// A float tensor `[out, in]`, of f32 or of halves.
    Dense(Param<Tensor<2>>),
    /// Codes and scales that stand for one.
    Quantized(QTensor),
    /// Codes and scales, and two thin matrices whose product is added.
    Adapted(Adapted),
}

impl Weight {
    /// A dense weight from a tensor `[out, in]`.
    pub fn dense(w: Tensor<2>) -> Self {
        Self::Dense(Param::from_tensor(w))
    }

    /// A packed matrix on a device: as it is where products are made from its codes, and decoded where they are not
    /// ([`QTensor::is_served`]).
    pub fn packed(packed: &Packed, device: &Device) -> Self {
        match QTensor::is_served(packed.scheme(), device) {
            true => Self::Quantized(QTensor::from_packed(packed, device)),
            false => Self::dense(Tensor::from_data(TensorData::new(packed.decode(), packed.shape()), device)),
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(w) => w.val().dims(),
            Self::Quantized(w) => w.shape(),
            Self::Adapted(w) => w.base.shape(),
        }
    }

    /// Whether the matrix is packed, with an adapter or without.
    pub fn is_quantized(&self) -> bool {
        !matches!(self, Self::Dense(_))
    }

    /// Sets in which precision products of a packed matrix read their input; see [`QTensor::with_activations`].
    pub fn set_activations(&mut self, activations: Activations) {
        if let Self::Quantized(w) | Self::Adapted(Adapted { base: w, .. }) = self {
            *w = w.clone().with_activations(activations);
        }
    }

    /// The matrix as a dense tensor `[out, in]`, f32.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Dense(w) => in_f32(w.val()),
            Self::Quantized(w) => w.dequantize(),
            Self::Adapted(w) => w.dequantize(),
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
            Self::Adapted(w) => w.matmul(x),
        }
    }
}

impl From<QTensor> for Weight {
    fn from(w: QTensor) -> Self {
        Self::Quantized(w)
    }
}

/// `x` in f32: itself, unless it is of halves.
pub(crate) fn in_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) }
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
    dims[D - 1] = out;
    if rows == 0 {
        // `reshape` reads a 0 as "keep this dimension", and not every backend multiplies nothing.
        return Tensor::zeros(dims, (&x.device(), x.dtype()));
    }
    quench_kernels::dense_matmul(x.reshape([rows, columns]), w).reshape(dims)
}

#[cfg(test)]
mod tests {
    use quench_format::{Offsets, Scales};

    use super::*;
    use crate::testing::{packed, values};

    #[test]
    fn what_no_kernel_serves_is_decoded() {
        let device = Device::flex();
        let scales = || Scales::Float(vec![0.5]);
        let cases = [
            ("int4/tensor/f32", Offsets::None, true),
            ("int4/tensor/f32/min:f32", Offsets::Minimums(Scales::Float(vec![3.0])), true),
            ("trellis2:8/tensor/f32", Offsets::None, false),
        ];
        for (scheme, offsets, has_kernel) in cases {
            let packed = Packed::from_codes(scheme.parse().unwrap(), [4, 2], &[0; 8], scales(), offsets, None).unwrap();
            let weight = Weight::packed(&packed, &device);
            assert_eq!(weight.is_quantized(), has_kernel, "{scheme}");
            assert_eq!(values(weight.val()), packed.decode(), "{scheme}");
        }
    }

    #[test]
    fn dense_and_packed_multiply_alike() {
        let device = Device::flex();
        let packed = packed([3, 5]);
        let mut quantized = Weight::from(QTensor::from_packed(&packed, &device));
        quantized.set_activations(Activations::F32);
        let dense = Weight::dense(quantized.val());
        assert!(quantized.is_quantized() && !dense.is_quantized());
        assert_eq!((dense.shape(), quantized.shape()), ([3, 5], [3, 5]));
        assert_eq!(values(dense.val()), packed.decode());

        let x = Tensor::<1, burn::tensor::Int>::arange(0..20, &device).float().reshape([2, 2, 5]);
        let [y, z] = [dense.matmul(x.clone()), quantized.matmul(x.clone())];
        assert_eq!((y.dims(), z.dims()), ([2, 2, 3], [2, 2, 3]));
        assert_eq!(values(y.clone()), values(z));

        let first = x.slice([0..1, 0..1]).reshape([5]);
        assert_eq!(values(dense.matmul(first)), values(y)[..3]);
    }

    #[test]
    fn an_empty_batch_stays_empty() {
        let device = Device::flex();
        let dense = Weight::dense(Tensor::ones([3, 5], &device));
        let packed = Weight::from(QTensor::from_packed(&packed([3, 5]), &device));
        for weight in [dense, packed] {
            assert_eq!(weight.matmul(Tensor::<3>::zeros([2, 0, 5], &device)).dims(), [2, 0, 3]);
        }
    }

    #[test]
    #[should_panic(expected = "x [2, 4] does not fit a weight [3, 5]")]
    fn a_wrong_shape_names_both() {
        let device = Device::flex();
        Weight::dense(Tensor::ones([3, 5], &device)).matmul(Tensor::<2>::ones([2, 4], &device));
    }
}
