//! Random rotations, which destroy what is aligned with the axes.

use burn::tensor::{Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Source;

/// Up to so many coordinates a rotation is uniform.
const UNIFORM: usize = 256;

/// A random rotation of `d` coordinates, `[d, d]`, on the device of `like`.
pub(super) fn rotation(d: usize, seed: u64, like: &Tensor<2>) -> Tensor<2> {
    let matrix = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [d, d]), &like.device());
    if d <= UNIFORM {
        return matrix(orthonormal(d, seed).into_iter().map(|x| x as f32).collect());
    }
    // [i, j] of the orthonormal cosine transform of type 2. It has no axis in common with the identity after two turns of signs.
    let scale = |i: usize| if i == 0 { 1.0 / d as f64 } else { 2.0 / d as f64 }.sqrt();
    let angle = |i: usize, j: usize| std::f64::consts::PI * (i * (2 * j + 1) % (4 * d)) as f64 / (2 * d) as f64;
    let cosines =
        matrix((0..d * d).map(|at| (at / d, at % d)).map(|(i, j)| (scale(i) * angle(i, j).cos()) as f32).collect());
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut signs = || {
        let signs: Vec<f32> = (0..d).map(|_| if random.random::<bool>() { 1.0 } else { -1.0 }).collect();
        Tensor::<2>::from_data(TensorData::new(signs, [1, d]), &like.device())
    };
    (cosines.clone() * signs()).matmul(cosines) * signs()
}

/// `d` orthonormal rows, uniform among all: Gram and Schmidt's method on normal vectors, twice for the digits.
fn orthonormal(d: usize, seed: u64) -> Vec<f64> {
    let mut rows: Vec<f64> = Source::Gaussian.samples(d * d, seed).into_iter().map(f64::from).collect();
    for i in 0..d {
        let (before, rest) = rows.split_at_mut(i * d);
        let row = &mut rest[..d];
        for other in before.chunks(d).chain(before.chunks(d)) {
            let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let length = row.iter().map(|a| a * a).sum::<f64>().sqrt();
        row.iter_mut().for_each(|a| *a /= length);
    }
    rows
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Both kinds of rotation have orthonormal rows, and leave no coordinate where it was.
    #[test]
    fn rotations_rotate() {
        for d in [2, 17, 256, 300] {
            let turn = rotation(d, 3, &Tensor::zeros([1, 1], &Device::flex()));
            let product = turn.clone().matmul(turn.clone().transpose()) - Tensor::eye(d, &Device::flex());
            assert!(product.abs().max().into_scalar::<f32>() < 1e-4, "{d}");
            if d > 100 {
                assert!(turn.abs().max().into_scalar::<f32>() < 0.5, "{d}");
            }
        }
    }
}
