//! [`Linear`]: a weight and, perhaps, a bias.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::Weight;

/// A linear layer, `y = x · Wᵀ + b`, over a dense or packed weight.
#[derive(Module, Debug)]
pub struct Linear {
    /// `W`, `[out, in]`.
    pub weight: Weight,
    /// `b`, `[out]`; always dense.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A layer from its weight `[out, in]` and bias `[out]`.
    ///
    /// # Panics
    ///
    /// If the bias has not one value per row of the weight, naming both shapes.
    pub fn new(weight: Weight, bias: Option<Tensor<1>>) -> Self {
        if let Some(bias) = &bias {
            assert_eq!(
                bias.dims(),
                [weight.shape()[0]],
                "a weight {:?} needs one bias per row",
                weight.shape()
            );
        }
        Self { weight, bias: bias.map(Param::from_tensor) }
    }

    /// `y = x · Wᵀ + b`, `x`: `[.., in]` → `y`: `[.., out]`.
    ///
    /// The layer does not tap its input: several layers read one input point, and the model taps it once.
    ///
    /// # Panics
    ///
    /// If the last dimension of `x` is not `in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let y = self.weight.matmul(x);
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }
}
