//! Trustworthiness and continuity: how far away are the neighbours that are new, and those that are lost?

use burn::tensor::Tensor;

use super::paired;
use crate::vectors::{Distances, blocks, nearest};

/// What becomes of the `k` nearest neighbours of each point.
///
/// ```text
/// T_i = 1 − 2 / (k (2n − 3k − 1)) · Σ_{j ∈ new_i} (r(i, j) − k)
/// ```
///
/// `new_i` are the neighbours of `i` in the approximation that it has not in the reference, and `r` is their place among the
/// neighbours there, 1 for the nearest. Continuity is the same with the sides exchanged. Of points at the same distance those with
/// the lower index are nearer. The mean over points is the number of the paper; points are given one by one for intervals.
///
/// Source: Venna and Kaski 2001, "Neighborhood preservation in nonlinear projection methods" (`docs/references.md#trustworthiness`).
#[derive(Clone, Debug, PartialEq)]
pub struct Preservation {
    /// Of each point, 1 where no neighbour is new.
    pub trustworthiness: Vec<f32>,
    /// Of each point, 1 where no neighbour is lost.
    pub continuity: Vec<f32>,
    k: usize,
}

impl Preservation {
    /// The neighbours in `reference` and in `approximation`, `[n, width]` each.
    ///
    /// Distances are computed for some points at a time; only neighbours that are new are given ranks, by counting.
    ///
    /// # Panics
    ///
    /// If the sides have not equally many rows, `k` is 0, or `3k + 1` is not below `2n`, for which the formula has no meaning.
    pub fn of(reference: Tensor<2>, approximation: Tensor<2>, k: usize) -> Self {
        let n = paired(&reference, &approximation);
        assert!(0 < k && k < n && 3 * k + 1 < 2 * n, "{n} points are too few for the ranks of {k} neighbours each");
        let factor = 2.0 / (k as f64 * (2 * n - 3 * k - 1) as f64);
        let (reference, approximation) = (Distances::of(reference), Distances::of(approximation));
        let (mut trustworthiness, mut continuity) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for rows in blocks(n) {
            let (before, after) = (reference.between(rows.clone()), approximation.between(rows.clone()));
            for ((before, after), point) in before.chunks(n).zip(after.chunks(n)).zip(rows) {
                let (own, other) = (nearest(before, point, k), nearest(after, point, k));
                let score = |found: &[u32], known: &[u32], distances: &[f32]| {
                    let new = found.iter().filter(|index| known.binary_search(index).is_err());
                    let excess = new.map(|index| rank(distances, point, *index as usize) - k).sum::<usize>();
                    (1.0 - factor * excess as f64) as f32
                };
                trustworthiness.push(score(&other, &own, before));
                continuity.push(score(&own, &other, after));
            }
        }
        Self { trustworthiness, continuity, k }
    }

    /// What is expected of unrelated points, near 1/2: new neighbours have any rank.
    ///
    /// ```text
    /// 1 − (n − k)(n − k − 1) / ((n − 1)(2n − 3k − 1))
    /// ```
    pub fn chance(&self) -> f64 {
        let (n, k) = (self.trustworthiness.len() as f64, self.k as f64);
        1.0 - (n - k) * (n - k - 1.0) / ((n - 1.0) * (2.0 * n - 3.0 * k - 1.0))
    }
}

/// The place of `index` among the neighbours of `point`, from 1.
fn rank(distances: &[f32], point: usize, index: usize) -> usize {
    let own = distances[index];
    let (before, behind) = (&distances[..index], &distances[index + 1..]);
    // Of those as near, the ones before it in order are nearer.
    let nearer =
        before.iter().filter(|other| **other <= own).count() + behind.iter().filter(|other| **other < own).count();
    let itself = if point < index { distances[point] <= own } else { distances[point] < own };
    1 + nearer - usize::from(itself)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::host;

    #[test]
    fn a_point_that_moves_by_hand() {
        let device = Device::flex();
        let line = host::matrix((0..7).map(|x| x as f32).collect(), 1, &device);
        let moved = host::matrix(vec![0.0, 1.0, 2.0, 3.0, 4.0, 10.75, 0.25], 1, &device);
        let found = Preservation::of(line, moved, 1);
        // 2n − 3k − 1 = 10. Points 0 and 1 have now 6, which was the sixth of each, 1 − 2/10 · 5, and 6 has 0, its sixth.
        assert_eq!(found.trustworthiness, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        // Lost are 1 of 0 (now second), 0 of 1 (now second of 6, 0, 2), and 5 of 6 (now sixth).
        assert_eq!(found.continuity, [0.8, 0.8, 1.0, 1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn equal_points_go_by_index() {
        let device = Device::flex();
        let x = host::matrix(vec![1.0; 24], 2, &device);
        let found = Preservation::of(x.clone(), x, 3);
        assert!(found.trustworthiness.iter().chain(&found.continuity).all(|score| *score == 1.0));
        let distances = [2.0, 1.0, 2.0, 2.0, 0.5];
        let places: Vec<usize> = (1..5).map(|index| rank(&distances, 0, index)).collect();
        assert_eq!(places, [2, 3, 4, 1]);
        assert_eq!(rank(&distances, 3, 2), 4);
    }

    #[test]
    #[should_panic(expected = "6 points are too few for the ranks of 4 neighbours each")]
    fn there_must_be_more_points_than_neighbours() {
        let x = host::gaussian(6, 2, 1, &Device::flex());
        Preservation::of(x.clone(), x, 4);
    }

    proptest! {
        /// Ranks by a sort of all distances, on whole numbers that f32 computes exactly.
        #[test]
        fn agrees_with_a_sort(values in prop::collection::vec((-9i8..9, -9i8..9), 12..70), k in 1usize..4) {
            // Each point and its mirror: the mean is 0, and so taken away exactly.
            let values = &values[..values.len() / 2 * 2];
            let side = |of: fn(&(i8, i8)) -> i8| -> Vec<f32> {
                let half: Vec<f32> = values.iter().map(|pair| f32::from(of(pair))).collect();
                half.iter().copied().chain(half.iter().map(|value| -value)).collect()
            };
            let (x, y) = (side(|pair| pair.0), side(|pair| pair.1));
            let order = |values: &[f32], point: usize| -> Vec<usize> {
                let rows: Vec<&[f32]> = values.chunks(2).collect();
                let distance = |other: usize| -> f32 { rows[other].iter().zip(rows[point]).map(|(a, b)| (a - b).powi(2)).sum() };
                let mut order: Vec<usize> = (0..rows.len()).filter(|other| *other != point).collect();
                order.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
                order
            };
            let device = Device::flex();
            let found = Preservation::of(host::matrix(x.clone(), 2, &device), host::matrix(y.clone(), 2, &device), k);
            let n = x.len() / 2;
            let factor = 2.0 / (k * (2 * n - 3 * k - 1)) as f64;
            for point in 0..n {
                let (before, after) = (order(&x, point), order(&y, point));
                let place = |index: usize| before.iter().position(|other| *other == index).expect("a neighbour") + 1;
                let excess: usize = after[..k].iter().map(|index| place(*index).saturating_sub(k)).sum();
                let expected = (1.0 - factor * excess as f64) as f32;
                prop_assert!((found.trustworthiness[point] - expected).abs() < 1e-6);
            }
        }
    }
}
