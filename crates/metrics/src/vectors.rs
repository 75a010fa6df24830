//! Vectors of the same things before and after: their angles, and who is near whom.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::host;

/// The cosine of each row of `a` with the same row of `b`, computed in f32; NaN for a vector of length 0.
///
/// ```text
/// cos_i = a_i · b_i / (|a_i| |b_i|)
/// ```
///
/// # Panics
///
/// If the shapes differ, naming both.
pub fn cosines(a: Tensor<2>, b: Tensor<2>) -> Vec<f32> {
    let (shape, other) = (a.dims(), b.dims());
    assert_eq!(shape, other, "vectors are paired row by row: {shape:?} and {other:?}");
    host::floats((unit(a) * unit(b)).sum_dim(1))
}

/// Each row divided by its length, `[rows, width]`.
pub fn unit(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().square().sum_dim(1).sqrt(); // [rows, 1]
    x / length
}

/// For each of `n` points, the `k` that are nearest to it.
///
/// Nearest by Euclidean distance, which on vectors of length 1 is the order of their cosines. A point is not its own
/// neighbour; of points at the same distance, those with the lower index are nearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbours {
    points: usize,
    k: usize,
    /// `[points, k]`, each row in the order of the indices.
    lists: Vec<u32>,
}

impl Neighbours {
    /// The neighbours of each row of `x`, `[points, width]`, finite.
    ///
    /// `|x_j|² / 2 − x_i · x_j`, in f32 and after the mean of all points is taken away, has the order of the distances;
    /// it is computed for some `i` at a time, so that `n` points never need `n²` numbers.
    ///
    /// # Panics
    ///
    /// If there are not at least `k + 1` points, or `k` is 0.
    pub fn of(x: Tensor<2>, k: usize) -> Self {
        let [points, _] = x.dims();
        assert!(0 < k && k < points, "{points} points have no {k} neighbours each");
        let x = x.clone() - x.mean_dim(0);
        let halves = x.clone().square().sum_dim(1).transpose() * 0.5; // [1, points]
        let transposed = x.clone().transpose();
        let mut lists = Vec::with_capacity(points * k);
        for rows in blocks(points) {
            let distances = halves.clone() - x.clone().slice([rows.clone()]).matmul(transposed.clone());
            for (distances, point) in host::floats(distances).chunks(points).zip(rows) {
                lists.extend(nearest(distances, point, k));
            }
        }
        Self { points, k, lists }
    }

    /// For each point, the share of its neighbours that it has in `other` as well, 0 to 1.
    ///
    /// # Panics
    ///
    /// If the two are not of as many points and neighbours.
    pub fn overlap(&self, other: &Self) -> Vec<f32> {
        let (a, b) = ((self.points, self.k), (other.points, other.k));
        assert_eq!(a, b, "neighbours of the same points are compared: (points, k) is {a:?} and {b:?}");
        let shared = |(a, b): (&[u32], &[u32])| {
            a.iter().filter(|index| b.binary_search(index).is_ok()).count() as f32 / self.k as f32
        };
        self.lists.chunks(self.k).zip(other.lists.chunks(self.k)).map(shared).collect()
    }

    /// The overlap that is expected of unrelated points, `k / (n − 1)`.
    pub fn chance(&self) -> f64 {
        self.k as f64 / (self.points - 1) as f64
    }
}

/// What of `value` is not chance, `(value − chance) / (1 − chance)`: 1 stays 1, chance becomes 0.
pub fn beyond_chance(value: f64, chance: f64) -> f64 {
    (value - chance) / (1.0 - chance)
}

/// The `k` smallest of `distances` but that of `point` itself, in the order of their indices.
fn nearest(distances: &[f32], point: usize, k: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(k + 1);
    for (index, &distance) in distances.iter().enumerate() {
        if index == point || (best.len() == k && best.last().is_some_and(|(worst, _)| distance >= *worst)) {
            continue;
        }
        // Behind what is as near: that has the lower index.
        let place = best.partition_point(|(other, _)| *other <= distance);
        best.insert(place, (distance, index as u32));
        best.truncate(k);
    }
    let mut indices: Vec<u32> = best.into_iter().map(|(_, index)| index).collect();
    indices.sort_unstable();
    indices
}

/// Ranges of points with at most 2^23 distances (32 MB) each.
fn blocks(points: usize) -> impl Iterator<Item = Range<usize>> {
    let step = ((1 << 23) / points).max(1);
    (0..points).step_by(step).map(move |start| start..(start + step).min(points))
}
