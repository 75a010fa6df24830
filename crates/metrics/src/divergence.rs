//! The distance of one predicted distribution from another, token by token.

use std::ops::Range;

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::host;
use crate::vectors::nearest;

/// Kullback-Leibler divergence `KL(p || q) = sum_v p_v log(p_v / q_v)` of each row, in nats.
///
/// - `reference_logits`: `[rows, vocab]`, finite; `p = softmax(reference_logits)`
/// - `logits`: `[rows, vocab]`, finite; `q = softmax(logits)`
///
/// Computed in f32 as `sum_v p_v (log p_v - log q_v) - p_v + q_v`, which is the same number because `p` and `q` sum
/// to 1. Each term is nonnegative and flat where `p = q`, so the rounding of a normaliser, which is as large as a
/// small divergence, drops out: about 1e-7 nats instead of 1e-6. Equal logits give exactly 0.
///
/// # Panics
///
/// If the shapes differ, naming both, or the vocabulary is empty.
pub fn kl_per_token(reference_logits: Tensor<2>, logits: Tensor<2>) -> Vec<f32> {
    let [rows, vocab] = same_shape(&reference_logits, &logits);
    let divergence = |range: Range<usize>| {
        let log_p = log_probabilities(&reference_logits, range.clone());
        let log_q = log_probabilities(&logits, range); // [range, vocab]
        let (p, q) = (log_p.clone().exp(), log_q.clone().exp());
        let terms = p.clone() * (log_p - log_q) - p + q;
        // The exact sum is not negative; the rounded one may be, by 1e-8.
        host::floats(terms.sum_dim(1).clamp_min(0.0))
    };
    chunks(rows, vocab).flat_map(divergence).collect()
}

/// Negative log-likelihood `-log softmax(logits)_target` of each row, in nats; the exponential of its mean is the
/// perplexity.
///
/// - `logits`: `[rows, vocab]`, finite
/// - `targets`: `[rows]`, each below `vocab`
///
/// # Panics
///
/// If there is not one target per row, or the vocabulary is empty. A target that is not below `vocab` panics on
/// backends that check indices (Flex and NdArray do, Cube does not).
pub fn nll(logits: Tensor<2>, targets: Tensor<1, Int>) -> Vec<f32> {
    let [rows, vocab] = logits.dims();
    let [found] = targets.dims();
    assert_eq!(found, rows, "logits [{rows}, {vocab}] need one target per row, found {found}");
    let likelihood = |range: Range<usize>| {
        let index = targets.clone().slice([range.clone()]).unsqueeze_dim(1); // [range, 1]
        host::floats(log_probabilities(&logits, range).gather(1, index).neg())
    };
    chunks(rows, vocab).flat_map(likelihood).collect()
}

/// Whether both rows have their largest logit at the same index (top-1 agreement).
///
/// - `reference_logits`, `logits`: `[rows, vocab]`
///
/// Between equal largest logits the backend's `argmax` decides, on both sides alike.
///
/// # Panics
///
/// If the shapes differ, naming both, or the vocabulary is empty.
pub fn agreement(reference_logits: Tensor<2>, logits: Tensor<2>) -> Vec<bool> {
    same_shape(&reference_logits, &logits);
    let same = reference_logits.argmax(1).equal(logits.argmax(1)); // [rows, 1]
    same.into_data().iter::<bool>().collect()
}

/// Jensen-Shannon divergence `(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2` of each row, in nats: 0 to `ln 2`.
///
/// - `reference_logits`, `logits`: `[rows, vocab]`, finite; `p` and `q` are their softmax
///
/// Computed in f32 from `x = log p − log q`, as `(p (min(x, 0) − s) + q (min(−x, 0) − s)) / 2` with `s = log((1 + exp(−|x|)) / 2)`:
/// no probability is divided by. Either side may be the reference.
///
/// Source: Lin 1991, "Divergence measures based on the Shannon entropy" (`docs/references.md#jsd`).
///
/// # Panics
///
/// If the shapes differ, naming both, or the vocabulary is empty.
pub fn jsd_per_token(reference_logits: Tensor<2>, logits: Tensor<2>) -> Vec<f32> {
    let [rows, vocab] = same_shape(&reference_logits, &logits);
    let divergence = |range: Range<usize>| {
        let log_p = log_probabilities(&reference_logits, range.clone());
        let log_q = log_probabilities(&logits, range); // [range, vocab]
        let x = log_p.clone() - log_q.clone();
        let s = x.clone().abs().neg().exp().log1p() - std::f32::consts::LN_2;
        let terms = log_p.exp() * (x.clone().clamp_max(0.0) - s.clone()) + log_q.exp() * (x.neg().clamp_max(0.0) - s);
        host::floats(terms.sum_dim(1).clamp_min(0.0) * 0.5)
    };
    chunks(rows, vocab).flat_map(divergence).collect()
}

/// The share of the `k` largest logits of each row that is among the `k` largest on both sides (top-k agreement).
///
/// - `reference_logits`, `logits`: `[rows, vocab]`, finite
///
/// Of equal logits those with the lower index are larger. With `k = 1` it is [`agreement`] as 0 and 1.
///
/// # Panics
///
/// If the shapes differ, naming both, or `k` is 0 or larger than the vocabulary.
pub fn top_agreement(reference_logits: Tensor<2>, logits: Tensor<2>, k: usize) -> Vec<f32> {
    let [rows, vocab] = same_shape(&reference_logits, &logits);
    assert!(0 < k && k <= vocab, "logits of {vocab} tokens have no {k} largest");
    let largest = |logits: &Tensor<2>, range: Range<usize>| -> Vec<Vec<u32>> {
        let values = host::floats(logits.clone().slice([range]).neg());
        values.chunks(vocab).map(|row| nearest(row, usize::MAX, k)).collect()
    };
    let shares = |range: Range<usize>| {
        let (a, b) = (largest(&reference_logits, range.clone()), largest(&logits, range));
        let share = |(a, b): (Vec<u32>, Vec<u32>)| {
            a.iter().filter(|index| b.binary_search(index).is_ok()).count() as f32 / k as f32
        };
        a.into_iter().zip(b).map(share).collect::<Vec<_>>()
    };
    chunks(rows, vocab).flat_map(shares).collect()
}

/// Answers that changed between right and wrong.
///
/// Accuracy may stay as it is while many of them change; their share says how different two models are on a task.
///
/// Source: Dutta et al. 2024, "Accuracy is Not All You Need" (`docs/references.md#flips`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flips {
    /// Right before, wrong now.
    pub lost: usize,
    /// Wrong before, right now.
    pub gained: usize,
    /// Of so many.
    pub n: usize,
}

impl Flips {
    /// The flips between two models, by whether each answered each question right.
    ///
    /// # Panics
    ///
    /// If they have not answered equally many.
    pub fn of(reference: &[bool], right: &[bool]) -> Self {
        let (a, b) = (reference.len(), right.len());
        assert_eq!(a, b, "answers to the same questions are compared: {a} and {b}");
        let count = |change: (bool, bool)| reference.iter().zip(right).filter(|(a, b)| (**a, **b) == change).count();
        Self { lost: count((true, false)), gained: count((false, true)), n: a }
    }

    /// The share that changed; `None` of no answers.
    pub fn share(self) -> Option<f64> {
        (self.n > 0).then(|| (self.lost + self.gained) as f64 / self.n as f64)
    }
}

/// `log softmax` of some rows, in f32 whatever the logits are kept in.
fn log_probabilities(logits: &Tensor<2>, rows: Range<usize>) -> Tensor<2> {
    log_softmax(logits.clone().slice([rows]).cast(DType::F32), 1)
}

/// Row ranges of at most 2^24 logits (64 MB in f32) each, so that a vocabulary of 256,000 does not multiply the
/// memory of a batch by the number of intermediate results.
fn chunks(rows: usize, vocab: usize) -> impl Iterator<Item = Range<usize>> {
    let step = ((1 << 24) / vocab).max(1);
    (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
}

#[track_caller]
fn same_shape(reference: &Tensor<2>, other: &Tensor<2>) -> [usize; 2] {
    let (a, b) = (reference.dims(), other.dims());
    assert_eq!(a, b, "logits of one shape are compared: reference {a:?}, found {b:?}");
    a
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;

    fn rows(values: Vec<f32>, vocab: usize) -> Tensor<2> {
        let rows = values.len() / vocab;
        Tensor::from_data(TensorData::new(values, [rows, vocab]), &Device::flex())
    }

    fn ids(values: &[i32]) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::from(values), &Device::flex())
    }

    /// The definition, in f64.
    fn naive(a: &[f32], b: &[f32]) -> f64 {
        let log_softmax = |x: &[f32]| -> Vec<f64> {
            let top = x.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = x.iter().map(|x| f64::from(x - top).exp()).sum();
            x.iter().map(|x| f64::from(*x) - f64::from(top) - sum.ln()).collect()
        };
        let (p, q) = (log_softmax(a), log_softmax(b));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    #[test]
    fn identical_logits_do_not_diverge() {
        let logits = rows((0..600).map(|i| (i as f32 * 0.7).sin() * 9.0).collect(), 200);
        assert_eq!(kl_per_token(logits.clone(), logits.clone()), [0.0; 3]);
        assert_eq!(agreement(logits.clone(), logits), [true; 3]);
    }

    /// p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
    #[test]
    fn two_classes_by_hand() {
        let p = rows(vec![3f32.ln(), 0.0], 2);
        let q = rows(vec![5.0, 5.0], 2);
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        let kl = kl_per_token(p.clone(), q.clone())[0];
        assert!((f64::from(kl) - expected).abs() < 1e-7, "{kl} {expected}");
        let back = kl_per_token(q, p)[0];
        assert!((f64::from(back) - 0.5 * (4.0f64 / 3.0).ln()).abs() < 1e-7, "{back}");
    }

    #[test]
    fn uniform_logits_cost_ln_vocab() {
        let vocab = 1000;
        let values = nll(rows(vec![-7.5; 2 * vocab], vocab), ids(&[0, 999]));
        for value in values {
            assert!((f64::from(value) - (vocab as f64).ln()).abs() < 2e-6, "{value}");
        }
    }

    #[test]
    fn likelihood_of_each_target() {
        let logits = rows(vec![3f32.ln(), 0.0, 3f32.ln(), 0.0], 2);
        let values = nll(logits, ids(&[0, 1]));
        assert!((values[0] - (4.0f32 / 3.0).ln()).abs() < 1e-6 && (values[1] - 4f32.ln()).abs() < 1e-6, "{values:?}");
    }

    /// p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): JSD = KL(p || m); and ln 2 for distributions that share nothing.
    #[test]
    fn jensen_and_shannon_by_hand() {
        let p = rows(vec![3f32.ln(), 0.0, 0.0, 200.0, 1.0, 2.0], 2);
        let q = rows(vec![0.0, 3f32.ln(), 200.0, 0.0, 1.0, 2.0], 2);
        let found = jsd_per_token(p.clone(), q.clone());
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((f64::from(found[0]) - expected).abs() < 1e-7, "{found:?} {expected}");
        assert!((found[1] - std::f32::consts::LN_2).abs() < 1e-6 && found[2] < 1e-7, "{found:?}");
        assert_eq!(found, jsd_per_token(q, p));
    }

    #[test]
    fn the_largest_are_compared_as_sets() {
        let a = rows(vec![5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 0.0], 4);
        let b = rows(vec![4.0, 5.0, 0.0, 2.0, 0.0, 1.0, 1.0, 1.0], 4);
        assert_eq!(top_agreement(a.clone(), b.clone(), 1), [0.0, 0.0]);
        // Of the equal logits of the second row the first two count: {0, 1} and {1, 2}.
        assert_eq!(top_agreement(a.clone(), b.clone(), 2), [1.0, 0.5]);
        assert_eq!(top_agreement(a.clone(), b.clone(), 3), [2.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(top_agreement(a, b, 4), [1.0, 1.0]);
    }

    #[test]
    fn equal_accuracies_may_hide_flips() {
        let flips = Flips::of(&[true, true, false, false, true], &[true, false, true, false, true]);
        assert_eq!(flips, Flips { lost: 1, gained: 1, n: 5 });
        assert_eq!((flips.share(), Flips::of(&[], &[]).share()), (Some(0.4), None));
    }

    /// Far apart, where probabilities underflow, and on a shift, which softmax does not see.
    #[test]
    fn extremes_stay_finite() {
        let a = rows(vec![0.0, -300.0, 1000.0, 0.0], 2);
        let b = rows(vec![-300.0, 0.0, 0.0, 1000.0], 2);
        let kl = kl_per_token(a.clone(), b);
        assert!((kl[0] - 300.0).abs() < 1e-3 && (kl[1] - 1000.0).abs() < 1e-3, "{kl:?}");
        let shifted = kl_per_token(a.clone(), a + 64.0);
        assert!(shifted.iter().all(|kl| *kl < 1e-6), "{shifted:?}");
    }

    #[test]
    fn agreement_is_top_1() {
        let a = rows(vec![1.0, 2.0, 0.0, 5.0, 4.0, 3.0], 3);
        let b = rows(vec![1.0, 9.0, 0.0, 4.0, 5.0, 3.0], 3);
        assert_eq!(agreement(a, b), [true, false]);
    }

    /// Rows do not know of the chunk they are in.
    #[test]
    fn chunks_cover_the_rows() {
        for (count, vocab) in [(0, 7), (1, 1 << 25), (5, 1 << 24), (7, 1 << 23), (100, 3)] {
            let parts: Vec<_> = chunks(count, vocab).collect();
            assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), count);
            assert!(parts.iter().all(|part| part.len() == 1 || part.len() * vocab <= 1 << 24));
        }
        let vocab = 1 << 23;
        let values: Vec<f32> = (0..3 * vocab).map(|i| (i % 1009) as f32 / 1009.0).collect();
        let targets = [5, 1008, 4_000_000];
        let together = nll(rows(values.clone(), vocab), ids(&targets));
        for (row, target) in targets.iter().enumerate() {
            let alone = nll(rows(values[row * vocab..(row + 1) * vocab].to_vec(), vocab), ids(&[*target]));
            assert_eq!(alone[0], together[row]);
        }
    }

    #[test]
    #[should_panic(expected = "reference [1, 2], found [1, 3]")]
    fn shapes_must_agree() {
        kl_per_token(rows(vec![0.0; 2], 2), rows(vec![0.0; 3], 3));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            pairs in prop::collection::vec((-12f32..12.0, -12f32..12.0), 2..80),
            closeness in 0f32..4.0,
        ) {
            // b = a + noise of a size between 1 and 1e-4.
            let size = 10f32.powf(-closeness);
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().map(|(a, n)| (a, a + n * size)).unzip();
            let kl = f64::from(kl_per_token(rows(a.clone(), a.len()), rows(b.clone(), b.len()))[0]);
            let expected = naive(&a, &b);
            prop_assert!((kl - expected).abs() <= 2e-7 + 2e-6 * expected, "{kl:e} {expected:e}");
        }
    }
}
