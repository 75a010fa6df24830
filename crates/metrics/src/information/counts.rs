//! Information from counts: discrete variables, or such as a quantizer has made so.

use std::collections::HashMap;
use std::hash::Hash;

use burn::tensor::Tensor;

use crate::{Value, host};

/// The entropy of what occurs in `values`, in bits.
///
/// ```text
/// H = −Σ p log2 p + (m − 1) / (2 n ln 2),   m of n values distinct
/// ```
///
/// The second term is Miller and Madow's, which takes away the first order of the bias of counts. 0 of no values.
///
/// Source: Miller 1955, "Note on the bias of information estimates" (`docs/references.md#miller-madow`).
pub fn entropy<T: Hash + Eq>(values: &[T]) -> f64 {
    let counts = counted(values.iter());
    if counts.is_empty() { 0.0 } else { plug_in(&counts) + miller_madow(counts.len(), values.len()) }
}

/// The number of the cell of side `step` that each row of `x` falls into, `[n]`, by rounding (mid-tread): `Q(x)` as one discrete
/// variable.
///
/// Cells are numbered in the order in which they occur.
///
/// # Panics
///
/// If `step` is not positive.
pub fn cells(x: Tensor<2>, step: f64) -> Vec<usize> {
    assert!(step > 0.0, "cells need a positive side, found {step}");
    let [_, width] = x.dims();
    let values: Vec<i64> =
        host::floats(x).into_iter().map(|x| (f64::from(x) / step).round_ties_even() as i64).collect();
    let mut known: HashMap<&[i64], usize> = HashMap::new();
    values
        .chunks(width.max(1))
        .map(|cell| {
            let next = known.len();
            *known.entry(cell).or_insert(next)
        })
        .collect()
}

/// The bits that `H(Q(X))` comes to for cells of side `step` that are small: `h − k log2 step`.
///
/// - `differential_entropy`: `h` of `X` in bits, in `dimension` dimensions; the logarithm of the volume where `X` is uniform
///
/// It is too small where cells are as large as what varies: a normal variable with `step = 2 σ` has 1.24 bits, and 1.05 by this.
///
/// Source: Rényi 1959, "On the dimension and entropy of probability distributions" (`docs/references.md#latent-rate`).
pub fn latent_rate(differential_entropy: f64, dimension: usize, step: f64) -> f64 {
    differential_entropy - dimension as f64 * step.log2()
}

/// Pairs of discrete values, counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Joint {
    n: usize,
    /// Of each pair that occurs, of each first and of each second value.
    counts: [Vec<usize>; 3],
}

impl Joint {
    /// The pairs of `a` and `b`.
    ///
    /// # Panics
    ///
    /// If they are not equally many, or there are none.
    pub fn of<A: Hash + Eq, B: Hash + Eq>(a: &[A], b: &[B]) -> Self {
        let n = a.len();
        assert!(n == b.len() && n > 0, "values are counted in pairs, found {n} and {}", b.len());
        Self { n, counts: [counted(a.iter().zip(b)), counted(a.iter()), counted(b.iter())] }
    }

    /// The mutual information of the counts as they are, in bits. It is too large by about `(cells − rows − columns + 1) / (2 n ln 2)`,
    /// but no function of a value raises it.
    pub fn plug_in(&self) -> f64 {
        let [both, a, b] = &self.counts;
        plug_in(a) + plug_in(b) - plug_in(both)
    }

    /// The mutual information in bits, by Miller and Madow's correction of the three entropies.
    pub fn information(&self) -> Value {
        let [both, a, b] = self.counts.each_ref().map(|counts| miller_madow(counts.len(), self.n));
        Value::measured(self.plug_in() + a + b - both, "plug-in information, Miller-Madow", self.n).with_null(0.0)
    }

    /// Whether there are at least ten pairs for each one that occurs: with fewer the correction does not suffice.
    pub fn reliable(&self) -> bool {
        10 * self.counts[0].len() <= self.n
    }
}

fn counted<T: Hash + Eq>(values: impl Iterator<Item = T>) -> Vec<usize> {
    let mut counts = HashMap::new();
    values.for_each(|value| *counts.entry(value).or_insert(0) += 1);
    let mut counts: Vec<usize> = counts.into_values().collect();
    // A hash map has an order of its own every time, and sums of floats depend on it.
    counts.sort_unstable();
    counts
}

fn plug_in(counts: &[usize]) -> f64 {
    let n = counts.iter().sum::<usize>() as f64;
    counts.iter().map(|count| *count as f64 / n).map(|p| -p * p.log2()).sum()
}

fn miller_madow(distinct: usize, n: usize) -> f64 {
    (distinct as f64 - 1.0) / (2.0 * n as f64 * std::f64::consts::LN_2)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_by_hand() {
        let (a, b) = ([0, 0, 1, 1], ["x", "x", "y", "z"]);
        let joint = Joint::of(&a, &b);
        // 1 + 1.5 − 1.5 bits; the correction of b and of the pairs is the same, that of a is left.
        assert!((joint.plug_in() - 1.0).abs() < 1e-12);
        assert!((joint.information().value - 1.0 - 1.0 / (8.0 * std::f64::consts::LN_2)).abs() < 1e-12);
        assert!(!joint.reliable());
        let many: Vec<usize> = (0..1000).map(|i| i % 4).collect();
        assert!((entropy(&many) - 2.0 - 3.0 / (2000.0 * std::f64::consts::LN_2)).abs() < 1e-12);
        assert_eq!(entropy::<u8>(&[]), 0.0);
    }

    #[test]
    fn cells_are_rounded_places() {
        let x = host::matrix(vec![0.1, 0.9, 0.2, 1.1, -0.6, 1.0, 0.0, 0.8], 2, &Device::flex());
        assert_eq!(cells(x, 1.0), [0, 0, 1, 0]);
    }

    proptest! {
        /// Data processing: a function of one side never raises the information of the counts.
        #[test]
        fn processing_gains_nothing(pairs in prop::collection::vec((0u8..6, 0u8..12), 1..300), map in prop::collection::vec(0u8..5, 12)) {
            let (y, t): (Vec<u8>, Vec<u8>) = pairs.into_iter().unzip();
            let processed: Vec<u8> = t.iter().map(|t| map[usize::from(*t)]).collect();
            let (before, after) = (Joint::of(&y, &t).plug_in(), Joint::of(&y, &processed).plug_in());
            prop_assert!(after <= before + 1e-12 && after >= -1e-12, "{after} {before}");
        }
    }
}
