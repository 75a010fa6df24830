//! [`Turn`]: a rotation of activations.

use burn::tensor::{Device, Tensor, TensorData};
use quench_format::Rotation;

/// `x ← x R` over the last dimension, for a [`Rotation`] `R`, at `n (f₁ + f₂ + …)` products for each vector, where `f₁ f₂ … = n`.
#[derive(Clone, Debug)]
pub struct Turn {
    signs: Tensor<1>,
    /// `[f, f]` each, symmetric.
    factors: Vec<Tensor<2>>,
}

/// Rows of the largest factor: a matrix product of this width costs little more than reading its input.
const FACTOR: usize = 32;

impl Turn {
    /// The rotation on a device, in f32.
    pub fn new(rotation: &Rotation, device: &Device) -> Self {
        let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let signs = Tensor::from_data(TensorData::new(single(rotation.signs()), [rotation.size()]), device);
        let factor = |(size, values): (usize, Vec<f64>)| {
            Tensor::from_data(TensorData::new(single(&values), [size, size]), device)
        };
        Self { signs, factors: rotation.factors(FACTOR).into_iter().map(factor).collect() }
    }

    /// `x`: `[.., n]` → the same.
    ///
    /// # Panics
    ///
    /// If the last dimension of `x` is not `n`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (shape, [size]) = (x.dims(), self.signs.dims());
        let rows = shape.iter().product::<usize>() / size;
        let x = x * self.signs.clone().unsqueeze();
        // Each factor in turn is the last of the index, which so comes round to where it was.
        let turned = self.factors.iter().rev().fold(x.reshape([rows, 1, size]), |x, factor| {
            let [width, _] = factor.dims();
            let y = x.reshape([rows * (size / width), width]).matmul(factor.clone());
            y.reshape([rows, size / width, width]).swap_dims(1, 2)
        });
        turned.reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn a_turn_is_its_rotation() {
        let device = Device::flex();
        for size in [1, 2, 6, 40, 96, 768, 1024] {
            let rotation = Rotation::new(size, 5);
            let x: Vec<f32> = (0..3 * size).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
            let mut expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            expected.chunks_exact_mut(size).for_each(|row| rotation.apply(row));
            let x = Tensor::<3>::from_data(TensorData::new(x, [3, 1, size]), &device);
            let found = values(Turn::new(&rotation, &device).forward(x));
            for (found, expected) in found.into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-5, "{size}: {found} {expected}");
            }
        }
    }
}
