//! What each metric of coherence measures.
//!
//! Intervals draw sequences, or samples where there are none, of metrics that are means over samples: overlap, trustworthiness,
//! continuity, reconstruction (with neighbours as they were found), KL divergence, agreement. Alignment, RSA and Procrustes
//! compare samples with each other; a resampled set has samples twice, which look like structure. They have no interval.

use burn::tensor::{Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{CoherenceOptions, Metric};
use crate::geometry::paired;
use crate::{Bootstrap, Neighbours, Preservation, Reconstruction, Total, Value, cka, procrustes, rsa};

/// Hidden states of the same samples in two models.
#[derive(Clone, Debug)]
pub struct Hidden<'a> {
    /// `[n, width]`.
    pub reference: Tensor<2>,
    /// `[n, width]`; the width may be another one.
    pub approximation: Tensor<2>,
    /// How many samples each sequence has, one after the other; empty where each sample is on its own.
    pub sequences: &'a [usize],
}

/// What two models predict for the same tokens, compared.
#[derive(Clone, Copy, Debug)]
pub struct Predictions<'a> {
    /// The KL divergence of each token, in nats; see [`kl_per_token`](crate::kl_per_token).
    pub kl: &'a [f32],
    /// Whether both hold the same successor likeliest; see [`agreement`](crate::agreement). May be empty without that metric.
    pub agreement: &'a [bool],
    /// How many tokens each sequence has, one after the other; empty where each token is on its own.
    pub sequences: &'a [usize],
}

impl Hidden<'_> {
    pub(super) fn measure(&self, metric: Metric, options: &CoherenceOptions) -> Option<Value> {
        let n = paired(&self.reference, &self.approximation);
        let (x, y) = (self.reference.clone(), self.approximation.clone());
        let bootstrap = options.bootstrap;
        let mean = |name: String, scores: Vec<f32>| mean(name, &scores, self.sequences, bootstrap);
        let permuted = || permuted(y.clone(), bootstrap.seed);
        match metric {
            Metric::KnnOverlap => {
                let neighbours = Neighbours::of(x, options.k);
                let scores = neighbours.overlap(&Neighbours::of(y, options.k));
                Some(mean(format!("overlap of {} neighbours", options.k), scores)?.with_null(neighbours.chance()))
            }
            Metric::Trustworthiness | Metric::Continuity => {
                let found = Preservation::of(x, y, options.k);
                let chance = found.chance();
                let scores = if metric == Metric::Continuity { found.continuity } else { found.trustworthiness };
                Some(mean(format!("{metric} of {} neighbours", options.k), scores)?.with_null(chance))
            }
            Metric::Cka => Some(Value::measured(cka(x, y)?, "debiased linear CKA", n).with_null(0.0)),
            Metric::Rsa => {
                let value = Value::measured(rsa(x, y, options.pairs)?, "Spearman of distances", n).with_null(0.0);
                Some(Value { seed: (!options.pairs.all(n)).then_some(options.pairs.seed), ..value })
            }
            Metric::Procrustes => {
                let null = 1.0 - procrustes(x.clone(), permuted())?;
                let value = Value::measured(1.0 - procrustes(x, y)?, "1 - Procrustes disparity", n).with_null(null);
                Some(Value { seed: Some(bootstrap.seed), ..value })
            }
            Metric::Reconstruction => {
                let found = Reconstruction::of(x.clone(), y.clone(), options.k);
                let null = 1.0 - Reconstruction::of(x, permuted(), options.k).loss(0..n)?;
                let starts = starts(self.sequences, n);
                let interval = bootstrap.interval(starts.len() - 1, |drawn| {
                    let loss = found.loss(drawn.iter().flat_map(|&index| starts[index]..starts[index + 1]))?;
                    Some(1.0 - loss)
                });
                let name = format!("1 - loss of reconstruction by {} neighbours", options.k);
                let value = Value::measured(1.0 - found.loss(0..n)?, name, n);
                Some(value.with_null(null).with_interval(interval, bootstrap.seed))
            }
            Metric::ExpKl | Metric::Agreement => None,
        }
    }
}

impl Predictions<'_> {
    pub(super) fn measure(&self, metric: Metric, options: &CoherenceOptions) -> Option<Value> {
        if metric == Metric::Agreement {
            let scores: Vec<f32> = self.agreement.iter().map(|same| if *same { 1.0 } else { 0.0 }).collect();
            return mean("top-1 agreement".into(), &scores, self.sequences, options.bootstrap);
        }
        let kl = mean("exp(-mean KL)".into(), self.kl, self.sequences, options.bootstrap)?;
        // A large divergence is a small coherence: the ends of the interval change places.
        let interval = kl.interval.map(|interval| interval.map(|kl| -kl).map(f64::exp));
        let interval = interval.map(|interval| crate::Interval { low: interval.high, high: interval.low, ..interval });
        Some(Value { value: (-kl.value).exp(), interval, ..kl })
    }
}

/// The mean of one score per sample, with the interval over sequences; `None` of no samples.
fn mean(estimator: String, scores: &[f32], sequences: &[usize], bootstrap: Bootstrap) -> Option<Value> {
    let n = scores.len();
    let sum = |scores: &[f32]| scores.iter().map(|score| f64::from(*score)).sum::<f64>();
    let totals: Vec<Total> = starts(sequences, n)
        .windows(2)
        .map(|ends| Total { sum: sum(&scores[ends[0]..ends[1]]), n: ends[1] - ends[0] })
        .collect();
    let value = Value::measured(sum(scores) / n as f64, estimator, n);
    (n > 0).then(|| value.with_interval(bootstrap.mean(&totals), bootstrap.seed))
}

/// Where each sequence begins, and the end of the last.
fn starts(sequences: &[usize], n: usize) -> Vec<usize> {
    if sequences.is_empty() {
        return (0..=n).collect();
    }
    let mut end = 0;
    let ends = sequences.iter().map(|length| {
        end += length;
        end
    });
    let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
    let found = starts[starts.len() - 1];
    assert_eq!(found, n, "sequences of {found} samples in all cannot be those of {n}");
    starts
}

/// The rows of `y` in an order of chance: nothing is left that pairs them.
fn permuted(y: Tensor<2>, seed: u64) -> Tensor<2> {
    let [n, _] = y.dims();
    let mut order: Vec<i32> = (0..n as i32).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let device = y.device();
    y.select(0, Tensor::<1, Int>::from_data(TensorData::new(order, [n]), &device))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{Coherence, CoherenceError, host};

    const ALL: [Metric; 7] = [
        Metric::KnnOverlap,
        Metric::Trustworthiness,
        Metric::Continuity,
        Metric::Cka,
        Metric::Rsa,
        Metric::Procrustes,
        Metric::Reconstruction,
    ];

    fn measured(metrics: &[Metric], x: Tensor<2>, y: Tensor<2>, sequences: &[usize]) -> Coherence {
        let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
        let options = CoherenceOptions { metrics: metrics.into(), bootstrap, ..CoherenceOptions::default() };
        Coherence::measure(&options, Some(&Hidden { reference: x, approximation: y, sequences }), None).unwrap()
    }

    /// In order from the best, what noise of growing size leaves; an interval wherever the module says so.
    #[test]
    fn noise_lowers_every_metric() {
        let device = Device::flex();
        let x = host::gaussian(400, 12, 1, &device);
        let noise = host::gaussian(400, 12, 2, &device);
        let at = |size: f64| measured(&ALL, x.clone(), x.clone() + noise.clone() * size, &[40; 10]);
        let steps = [0.0, 0.3, 1.0, 30.0].map(at);
        for (index, metric) in ALL.into_iter().enumerate() {
            let scores = steps.each_ref().map(|coherence| coherence.scored[index].score());
            assert!((scores[0] - 1.0).abs() < 1e-6 && scores.is_sorted_by(|a, b| a > b), "{metric}: {scores:?}");
            assert!(scores[3] < 0.15, "{metric}: {scores:?}");
            let scored = &steps[1].scored[index];
            let known =
                scored.interval().map(|interval| interval.low <= scored.score() && scored.score() <= interval.high);
            let pairs = matches!(metric, Metric::Cka | Metric::Rsa | Metric::Procrustes);
            assert_eq!(known, (!pairs).then_some(true), "{scored:?}");
        }
    }

    #[test]
    fn predictions_by_hand() {
        let (kl, agreement) = ([0.5, 1.5, 0.0, 0.0], [true, false, true, true]);
        let predictions = Predictions { kl: &kl, agreement: &agreement, sequences: &[2, 2] };
        let options =
            CoherenceOptions { metrics: vec![Metric::ExpKl, Metric::Agreement], ..CoherenceOptions::default() };
        let found = Coherence::measure(&options, None, Some(&predictions)).unwrap();
        assert!((found.scored[0].score() - (-0.5f64).exp()).abs() < 1e-7);
        let interval = found.scored[0].interval().unwrap();
        assert!((interval.low - (-1f64).exp()).abs() < 1e-7 && interval.high == 1.0, "{interval:?}");
        assert_eq!((found.scored[1].score(), found.lowest().unwrap().metric), (0.75, Metric::ExpKl));
    }

    #[test]
    fn what_is_missing_is_named() {
        let options = CoherenceOptions::default();
        let x = host::gaussian(30, 3, 1, &Device::flex());
        let hidden = Hidden { reference: x.clone(), approximation: x.clone() * 0.0, sequences: &[] };
        let found = |metrics: &[Metric]| {
            let options = CoherenceOptions { metrics: metrics.into(), ..options.clone() };
            Coherence::measure(&options, Some(&hidden), None).unwrap_err()
        };
        assert_eq!(found(&options.metrics), CoherenceError::Missing(Metric::ExpKl));
        assert_eq!(found(&[]), CoherenceError::NoMetric);
        for metric in [Metric::Cka, Metric::Rsa, Metric::Procrustes, Metric::Reconstruction] {
            assert_eq!(found(&[metric]), CoherenceError::Undefined(metric));
        }
        assert_eq!(Coherence::measure(&options, None, None), Err(CoherenceError::Missing(Metric::KnnOverlap)));
    }

    #[test]
    #[should_panic(expected = "sequences of 7 samples in all cannot be those of 30")]
    fn sequences_are_all_samples() {
        let x = host::gaussian(30, 3, 1, &Device::flex());
        measured(&[Metric::KnnOverlap], x.clone(), x, &[3, 4]);
    }
}
