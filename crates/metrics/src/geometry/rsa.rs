//! Representational similarity analysis: is what is far apart on one side far apart on the other?

use burn::tensor::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::paired;
use crate::{host, spearman};

/// The pairs of points whose distances are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pairs {
    /// All pairs of distinct points if they are not more than this; else this many, drawn evenly and independently of each other.
    pub limit: usize,
    /// Seed of the draw; the same seed gives the same pairs on every machine.
    pub seed: u64,
}

impl Default for Pairs {
    /// All pairs of up to 2,048 points.
    fn default() -> Self {
        Self { limit: 1 << 21, seed: 0 }
    }
}

impl Pairs {
    /// Whether all pairs of `n` points are taken.
    pub fn all(self, n: usize) -> bool {
        n * n.saturating_sub(1) / 2 <= self.limit
    }

    /// The pairs of `n` points.
    fn of(self, n: usize) -> Vec<[u32; 2]> {
        if self.all(n) {
            return (0..n as u32).flat_map(|i| (0..i).map(move |j| [i, j])).collect();
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut draw = || {
            let first = random.random_range(0..n as u32);
            // One of the others.
            let second = random.random_range(0..n as u32 - 1);
            [first, second + u32::from(second >= first)]
        };
        (0..self.limit).map(|_| draw()).collect()
    }
}

/// Spearman's correlation of the Euclidean distances in `x` with those of the same pairs in `y`; 0 expected of independent points.
///
/// `None` if there are fewer than 3 rows, or all distances of one side are equal. Distances of a resampled set have zeros that the
/// points have not: there is no bootstrap. `m` drawn pairs add a standard error of at most `1 / √m`, .0007 by default.
///
/// Source: Kriegeskorte, Mur, Bandettini 2008 (`docs/references.md#rsa`).
///
/// # Panics
///
/// If the sides have not equally many rows.
pub fn rsa(x: Tensor<2>, y: Tensor<2>, pairs: Pairs) -> Option<f64> {
    let n = paired(&x, &y);
    if n < 3 {
        return None;
    }
    let pairs = pairs.of(n);
    let distances = |x: Tensor<2>| -> Vec<f64> {
        let [_, width] = x.dims();
        let x = host::floats(x);
        let row = |index: u32| &x[index as usize * width..][..width];
        pairs.iter().map(|[i, j]| squared_distance(row(*i), row(*j))).collect()
    };
    spearman(&distances(x), &distances(y))
}

/// `|a − b|²`, which has the order of the distances, in sixteen sums of f32 side by side.
fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += (a[lane] - b[lane]).powi(2);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b).powi(2)).sum();
    sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() + f64::from(rest)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn distances_on_a_line() {
        let device = Device::flex();
        // Distances 1, 3, 2 and 1, 2, 3: one exchange of three.
        let x = host::matrix(vec![0.0, 1.0, 3.0], 1, &device);
        let y = host::matrix(vec![1.0, 0.0, 3.0], 1, &device);
        let expected = 1.0 - 6.0 * 2.0 / 24.0;
        assert!((rsa(x.clone(), y, Pairs::default()).unwrap() - expected).abs() < 1e-12);
        assert_eq!(rsa(x.clone(), x.clone() * 0.0, Pairs::default()), None);
        assert_eq!(rsa(x.clone().slice_dim(0, 0..2), x.slice_dim(0, 0..2), Pairs::default()), None);
    }

    #[test]
    fn pairs_are_distinct_points() {
        let all = Pairs { limit: 10, seed: 0 }.of(5);
        assert_eq!((all.len(), all.iter().collect::<std::collections::BTreeSet<_>>().len()), (10, 10));
        let drawn = Pairs { limit: 9999, seed: 3 }.of(150);
        assert_eq!(drawn.len(), 9999);
        assert!(drawn.iter().all(|[i, j]| i != j && *i < 150 && *j < 150));
        let of = |point: u32| drawn.iter().flatten().filter(|index| **index == point).count();
        // 133 expected of each: within five standard errors.
        assert!((0..150).all(|point| of(point).abs_diff(133) < 58));
    }

    #[test]
    fn a_draw_is_near_the_whole() {
        let device = Device::flex();
        let x = host::gaussian(400, 20, 1, &device);
        let y = x.clone() + host::gaussian(400, 20, 2, &device) * 0.7;
        let whole = rsa(x.clone(), y.clone(), Pairs::default()).unwrap();
        let drawn = rsa(x, y, Pairs { limit: 20_000, seed: 0 }).unwrap();
        assert!((whole - drawn).abs() < 3.0 / 20_000f64.sqrt(), "{whole} {drawn}");
    }
}
