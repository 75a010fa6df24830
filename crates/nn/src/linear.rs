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
            assert_eq!(bias.dims(), [weight.shape()[0]], "a weight {:?} needs one bias per row", weight.shape());
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::testing::values;

    #[test]
    fn adds_its_bias_to_every_row() {
        let device = Device::flex();
        let weight = Weight::dense(Tensor::from_floats([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], &device));
        let layer = Linear::new(weight, Some(Tensor::from_floats([10.0, 20.0, 30.0], &device)));
        let x = Tensor::<3>::from_floats([[[1.0, 2.0]], [[3.0, 4.0]]], &device);
        assert_eq!(values(layer.forward(x)), [11.0, 24.0, 33.0, 13.0, 28.0, 37.0]);
        assert_eq!(values(layer.forward(Tensor::<1>::from_floats([1.0, 2.0], &device))), [11.0, 24.0, 33.0]);
    }

    #[test]
    #[should_panic(expected = "a weight [3, 2] needs one bias per row")]
    fn a_bias_of_another_length_is_refused() {
        let device = Device::flex();
        Linear::new(Weight::dense(Tensor::ones([3, 2], &device)), Some(Tensor::ones([2], &device)));
    }
}
