//! [`Lora`]: a correction of low rank beside a packed matrix.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use quench_kernels::QTensor;

/// Two thin matrices whose product is added to a weight: `ΔW = t · B · A`.
///
/// Source: Hu et al. 2021, "LoRA" (`docs/references.md#lora`), where the factor `t` is `α / rank`.
#[derive(Module, Debug)]
pub struct Lora {
    /// `A`, `[rank, in]`.
    pub down: Param<Tensor<2>>,
    /// `B`, `[out, rank]`.
    pub up: Param<Tensor<2>>,
    /// `t`.
    #[module(skip)]
    pub strength: f64,
}

impl Lora {
    /// An adapter from its matrices; tensors that are part of a graph stay part of it.
    ///
    /// - `down`: `[rank, in]`, `up`: `[out, rank]`
    ///
    /// # Panics
    ///
    /// If both have not one rank, naming both shapes.
    pub fn new(down: Tensor<2>, up: Tensor<2>, strength: f64) -> Self {
        assert_eq!(down.dims()[0], up.dims()[1], "A {:?} and B {:?} have different ranks", down.dims(), up.dims());
        // Not `Param::from_tensor`, which would make a leaf of it.
        let param = |x| Param::initialized(burn::module::ParamId::new(), x);
        Self { down: param(down), up: param(up), strength }
    }

    /// Columns of `B`.
    pub fn rank(&self) -> usize {
        self.down.val().dims()[0]
    }

    /// `t · (x · Aᵀ) · Bᵀ`, `x`: `[rows, in]` → `[rows, out]`: nothing of the size of `W` is made.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = x.matmul(self.down.val().transpose()); // [rows, rank]
        y.matmul(self.up.val().transpose()).mul_scalar(self.strength)
    }

    /// `t · B · A`, `[out, in]`.
    pub fn product(&self) -> Tensor<2> {
        self.up.val().matmul(self.down.val()).mul_scalar(self.strength)
    }
}

/// A packed matrix with an adapter beside it: `y = x · Ŵᵀ + t · (x · Aᵀ) · Bᵀ`.
///
/// The codes are constants; under autodiff gradients reach `x`, `A` and `B`, and no dense `W` is made in either pass.
#[derive(Module, Debug)]
pub struct Adapted {
    /// `Ŵ`, `[out, in]`.
    pub base: QTensor,
    /// `A` and `B`.
    pub lora: Lora,
}

impl Adapted {
    /// # Panics
    ///
    /// If the adapter does not fit the matrix, naming both shapes.
    pub fn new(base: QTensor, lora: Lora) -> Self {
        let found = [lora.up.val().dims()[0], lora.down.val().dims()[1]];
        assert_eq!(found, base.shape(), "an adapter {found:?} does not fit a matrix {:?}", base.shape());
        Self { base, lora }
    }

    /// `Ŵ + t · B · A`, dense: `[out, in]`.
    pub fn dequantize(&self) -> Tensor<2> {
        self.base.dequantize() + self.lora.product()
    }

    /// `x`: `[.., in]` → `[.., out]`, in the float dtype of `x`.
    ///
    /// # Panics
    ///
    /// If the last dimension of `x` is not `in`.
    pub fn matmul<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let y = self.base.matmul(x.clone());
        let (dims, shape) = (x.dims(), y.dims());
        let rows = dims[..D - 1].iter().product();
        if rows == 0 {
            return y;
        }
        let (dtype, x) = (x.dtype(), x.reshape([rows, dims[D - 1]]));
        let x = if dtype == DType::F32 { x } else { x.cast(DType::F32) };
        let z = self.lora.forward(x).reshape(shape);
        y + if dtype == DType::F32 { z } else { z.cast(dtype) }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use quench_kernels::Activations;

    use super::*;
    use crate::testing::{packed, values};
    use crate::{Linear, Weight};

    fn adapted(device: &Device) -> Adapted {
        let base = QTensor::from_packed(&packed([6, 5]), device).with_activations(Activations::F32);
        let random = |shape| Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), device).require_grad();
        Adapted::new(base, Lora::new(random([2, 5]), random([6, 2]), 0.5))
    }

    fn near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found}, not {expected}");
        }
    }

    /// Product and all three gradients against those of the dense `Ŵ + t B A`, and the codes bit for bit what they were.
    #[test]
    fn product_and_gradients_are_those_of_the_dense_sum() {
        let device = Device::flex().autodiff();
        let w = adapted(&device);
        let x = Tensor::<3>::random([2, 3, 5], Distribution::Uniform(-1.0, 1.0), &device);
        let run = |weight: Weight| {
            let x = x.clone().require_grad();
            let y = Linear::new(weight, None).forward(x.clone());
            let grads = y.clone().powi_scalar(2).sum().backward();
            let gradients = [w.lora.down.val().grad(&grads), w.lora.up.val().grad(&grads)].map(Option::unwrap);
            (values(y.inner()), values(x.grad(&grads).unwrap()), gradients.map(values))
        };
        let before = w.base.to_packed();
        let (y, dx, [da, db]) = run(Weight::Adapted(w.clone()));
        // A parameter that is no leaf: the graph goes on into the adapter.
        let dense = Param::initialized(burn::module::ParamId::new(), w.dequantize());
        let (expected_y, expected_dx, [expected_da, expected_db]) = run(Weight::Dense(dense));
        near(&y, &expected_y);
        near(&dx, &expected_dx);
        near(&da, &expected_da);
        near(&db, &expected_db);
        assert_eq!(w.base.to_packed(), before);
    }

    #[test]
    #[should_panic(expected = "an adapter [6, 4] does not fit a matrix [6, 5]")]
    fn an_adapter_of_another_shape_is_refused() {
        let device = Device::flex();
        let base = QTensor::from_packed(&packed([6, 5]), &device);
        Adapted::new(base, Lora::new(Tensor::ones([2, 4], &device), Tensor::ones([6, 2], &device), 1.0));
    }
}
