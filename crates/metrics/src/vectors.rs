//! Vectors of the same things before and after: their angles, and who is near whom.

use std::ops::Range;

use burn::tensor::{DType, Tensor};

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
    /// Distances are compared in f32, after the mean of all points is taken away, and for some points at a time, so that `n` points
    /// never need `n²` numbers.
    ///
    /// # Panics
    ///
    /// If there are not at least `k + 1` points, or `k` is 0.
    pub fn of(x: Tensor<2>, k: usize) -> Self {
        let [points, _] = x.dims();
        assert!(0 < k && k < points, "{points} points have no {k} neighbours each");
        let distances = Distances::of(x);
        let mut lists = Vec::with_capacity(points * k);
        for rows in blocks(points) {
            for (distances, point) in distances.between(rows.clone()).chunks(points).zip(rows) {
                lists.extend(nearest(distances, point, k));
            }
        }
        Self { points, k, lists }
    }

    /// The neighbours of each point in turn, in the order of their indices.
    pub fn lists(&self) -> impl Iterator<Item = &[u32]> {
        self.lists.chunks(self.k)
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

/// What has the order of the distances to each of `n` points: `|x_j|² / 2 − q · x_j` for a point `q`, in f32.
pub(crate) struct Distances {
    mean: Tensor<2>,
    /// `[n, width]`, without their mean.
    x: Tensor<2>,
    /// `|x_j|² / 2`, `[1, n]`.
    halves: Tensor<2>,
}

impl Distances {
    pub(crate) fn of(x: Tensor<2>) -> Self {
        let x = x.cast(DType::F32);
        let mean = x.clone().mean_dim(0); // [1, width]
        let x = x - mean.clone();
        let halves = x.clone().square().sum_dim(1).transpose() * 0.5;
        Self { mean, x, halves }
    }

    /// From some of the points to all, `[rows, n]`; to themselves as well.
    pub(crate) fn between(&self, rows: Range<usize>) -> Vec<f32> {
        self.products(self.x.clone().slice([rows]))
    }

    /// From other points, `[queries, width]`, to all, `[queries, n]`.
    pub(crate) fn from(&self, queries: Tensor<2>) -> Vec<f32> {
        self.products(queries.cast(DType::F32) - self.mean.clone())
    }

    fn products(&self, queries: Tensor<2>) -> Vec<f32> {
        host::floats(self.halves.clone() - queries.matmul(self.x.clone().transpose()))
    }
}

/// The `k` smallest of `distances` but that of `point` itself, in the order of their indices.
pub(crate) fn nearest(distances: &[f32], point: usize, k: usize) -> Vec<u32> {
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
pub(crate) fn blocks(points: usize) -> impl Iterator<Item = Range<usize>> {
    let step = ((1 << 23) / points).max(1);
    (0..points).step_by(step).map(move |start| start..(start + step).min(points))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};
    use proptest::prelude::*;

    use super::*;

    fn points(values: Vec<f32>, width: usize) -> Tensor<2> {
        let rows = values.len() / width;
        Tensor::from_data(TensorData::new(values, [rows, width]), &Device::flex())
    }

    fn random(rows: usize, width: usize, seed: u64) -> Tensor<2> {
        let device = Device::flex();
        device.seed(seed);
        Tensor::random([rows, width], Distribution::Normal(0.0, 1.0), &device)
    }

    fn mean(shares: &[f32]) -> f64 {
        shares.iter().map(|share| f64::from(*share)).sum::<f64>() / shares.len() as f64
    }

    #[test]
    fn known_cosines() {
        let a = points(vec![1.0, 0.0, 3.0, 4.0, 2.0, 2.0, 0.0, 0.0], 2);
        let b = points(vec![0.0, 2.0, 3.0, 4.0, -1.0, 0.0, 1.0, 0.0], 2);
        let found = cosines(a, b);
        for (found, expected) in found.iter().zip([0.0, 1.0, -(0.5f32.sqrt())]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert!(found[3].is_nan());
    }

    #[test]
    fn neighbours_on_a_line() {
        let line = points(vec![0.0, 1.0, 3.0, 7.0, 15.0], 1);
        assert_eq!(Neighbours::of(line.clone(), 2).lists, [1, 2, 0, 2, 0, 1, 1, 2, 2, 3]);
        // The last point moves to the front: it has new neighbours, and points 1 and 2 lose one.
        let moved = points(vec![0.0, 1.0, 3.0, 7.0, -1.5], 1);
        let moved = Neighbours::of(moved, 2);
        assert_eq!(moved.lists, [1, 4, 0, 2, 0, 1, 1, 2, 0, 1]);
        assert_eq!(Neighbours::of(line, 2).overlap(&moved), [0.5, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(moved.chance(), 0.5);
    }

    #[test]
    fn equal_points_go_by_index() {
        let x = random(8, 5, 3);
        let twice = Tensor::cat(vec![x.clone(), x.clone(), x], 0);
        let neighbours = Neighbours::of(twice, 3);
        for (point, list) in neighbours.lists.chunks(3).enumerate() {
            let twins = [point % 8, point % 8 + 8, point % 8 + 16].map(|twin| twin as u32);
            let twins: Vec<u32> = twins.into_iter().filter(|twin| *twin != point as u32).collect();
            assert!(twins.iter().all(|twin| list.contains(twin)), "{point}: {list:?}");
        }
        let equal = Neighbours::of(points(vec![0.5; 12], 2), 2);
        assert_eq!(equal.lists, [1, 2, 0, 2, 0, 1, 0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn rotation_scale_and_shift_keep_neighbours() {
        let x = random(500, 2, 1);
        let (sin, cos) = 0.7f32.sin_cos();
        let rotation = points(vec![cos, sin, -sin, cos], 2);
        let moved = x.clone().matmul(rotation) * 8.0 + 100.0;
        let overlap = Neighbours::of(x, 10).overlap(&Neighbours::of(moved, 10));
        // Only what is equally far within the rounding of the shift may change.
        assert!(mean(&overlap) > 0.999, "{}", mean(&overlap));
    }

    /// Unrelated points share `k / (n − 1)`, as does one set in two orders; within 3 standard errors.
    #[test]
    fn unrelated_points_overlap_by_chance() {
        let (x, y) = (random(1001, 16, 1), random(1001, 16, 2));
        let a = Neighbours::of(x.clone(), 10);
        assert_eq!(a.chance(), 0.01);
        for other in [y, x.flip([0])] {
            let found = mean(&a.overlap(&Neighbours::of(other, 10)));
            // Hubs make neighbours of different points depend on each other: three times the binomial error.
            assert!((found - 0.01).abs() < 3.0 * 3.0 * (0.01 * 0.99 / 10010.0f64).sqrt(), "{found}");
            assert!(beyond_chance(found, a.chance()).abs() < 0.01);
        }
        assert_eq!((beyond_chance(1.0, 0.2), beyond_chance(0.2, 0.2)), (1.0, 0.0));
    }

    /// A point does not know of the block that its row is in.
    #[test]
    fn blocks_cover_the_points() {
        for count in [2, 2897, 20_000] {
            let parts: Vec<_> = blocks(count).collect();
            assert_eq!(parts.iter().map(Range::len).sum::<usize>(), count);
            assert!(parts.iter().all(|rows| rows.len() * count <= 1 << 23), "{count}");
        }
        // On a line of equal steps, everyone is between its neighbours.
        let line = Neighbours::of(points((0..3000).map(|place| place as f32).collect(), 1), 2);
        assert!((1..2999).all(|point| line.lists[2 * point..2 * point + 2] == [point as u32 - 1, point as u32 + 1]));
    }

    #[test]
    #[should_panic(expected = "10 points have no 10 neighbours each")]
    fn there_must_be_neighbours() {
        Neighbours::of(random(10, 2, 1), 10);
    }

    proptest! {
        /// What a sort of all distances gives, on whole numbers, which f32 computes exactly.
        #[test]
        fn agrees_with_a_sort(values in prop::collection::vec(-9i8..9, 8..90), k in 1usize..4) {
            let values: Vec<f32> = values[..values.len() / 8 * 8].iter().map(|value| f32::from(*value)).collect();
            // Each point and its mirror: the mean is 0, and so taken away exactly.
            let values: Vec<f32> = values.iter().copied().chain(values.iter().map(|value| -value)).collect();
            let rows: Vec<&[f32]> = values.chunks(2).collect();
            let found = Neighbours::of(points(values.clone(), 2), k);
            for (point, list) in found.lists.chunks(k).enumerate() {
                let distance = |other: &[f32]| -> f32 { other.iter().zip(rows[point]).map(|(a, b)| (a - b).powi(2)).sum() };
                let mut order: Vec<usize> = (0..rows.len()).filter(|other| *other != point).collect();
                order.sort_by(|a, b| distance(rows[*a]).total_cmp(&distance(rows[*b])));
                let mut expected: Vec<u32> = order[..k].iter().map(|index| *index as u32).collect();
                expected.sort_unstable();
                prop_assert_eq!(list, &expected[..]);
            }
        }
    }
}
