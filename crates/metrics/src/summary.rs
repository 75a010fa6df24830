//! Many values as a few numbers, with an interval.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Mean, median and 99th percentile of a set of values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values there were.
    pub n: usize,
    /// Their mean, summed in f64.
    pub mean: f64,
    /// The 50th percentile.
    pub median: f64,
    /// The 99th percentile.
    pub p99: f64,
}

impl Summary {
    /// The summary of `values`, or `None` for no values.
    ///
    /// A percentile between two values is interpolated: for sorted `x_0 .. x_{n-1}` the quantile `q` is at position
    /// `q (n - 1)`, as in NumPy's default and R's type 7. NaN sorts above everything.
    pub fn of(values: &[f32]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f32::total_cmp);
        let n = sorted.len();
        (n > 0).then(|| Self {
            n,
            mean: sorted.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64,
            median: quantile(&sorted, 0.5),
            p99: quantile(&sorted, 0.99),
        })
    }
}

/// The total of a quantity over the tokens of one sequence: the unit that a [`Bootstrap`] draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Sum over the tokens; for a paired comparison, of the differences.
    pub sum: f64,
    /// How many tokens.
    pub n: usize,
}

/// A confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// The share of such intervals that hold the true value, e.g. 0.95.
    pub level: f64,
}

impl Interval {
    /// The interval of `f` of the quantity, for a monotonically increasing `f`.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { low: f(self.low), high: f(self.high), level: self.level }
    }
}

/// Percentile bootstrap over sequences: which means would other texts of the same kind have given?
///
/// Tokens of one sequence depend on each other, so whole sequences are drawn, with replacement, as many as there are;
/// the mean of a draw is the sum of its sums over the sum of its token counts. The interval is the middle `level` of
/// the means of all draws. Two models compared on the same sequences are paired by giving the sums of the
/// differences: what makes a text hard for both drops out.
///
/// Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// How many times sequences are drawn.
    pub resamples: usize,
    /// The share of the means that the interval holds, between 0 and 1.
    pub level: f64,
    /// Seed of the draws; the same seed gives the same interval on every machine.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0 }
    }
}

impl Bootstrap {
    /// The interval of the mean per token, or `None` where there is no spread to draw from: fewer than two sequences
    /// with tokens, or no resamples.
    pub fn mean(&self, sequences: &[Total]) -> Option<Interval> {
        let sequences: Vec<Total> = sequences.iter().copied().filter(|total| total.n > 0).collect();
        self.interval(sequences.len(), |drawn| {
            let (sum, n) = drawn.iter().fold((0.0, 0), |(sum, n), &index| {
                let total: Total = sequences[index];
                (sum + total.sum, n + total.n)
            });
            Some(sum / n as f64)
        })
    }

    /// The interval of any statistic of `units` that are drawn as sequences are: one pair of texts, or one image each.
    ///
    /// - `statistic`: the indices of the units drawn, `units` of them → the value; a draw without one is left out
    ///
    /// `None` where there is no spread to draw from: fewer than two units, no resamples, or no draw with a value.
    pub fn interval(&self, units: usize, mut statistic: impl FnMut(&[usize]) -> Option<f64>) -> Option<Interval> {
        if units < 2 {
            return None;
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut drawn = vec![0; units];
        let mut values: Vec<f64> = Vec::with_capacity(self.resamples);
        for _ in 0..self.resamples {
            // A range of u64 is drawn alike on 32-bit and 64-bit machines, one of usize need not be.
            drawn.fill_with(|| random.random_range(0..units as u64) as usize);
            values.extend(statistic(&drawn));
        }
        if values.is_empty() {
            return None;
        }
        values.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.level.clamp(0.0, 1.0)) / 2.0;
        Some(Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail), level: self.level })
    }
}

/// The quantile `q` of sorted, nonempty values, interpolated linearly at position `q (n - 1)`.
pub(crate) fn quantile<T: Copy + Into<f64>>(sorted: &[T], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    let (low, high): (f64, f64) = (sorted[below].into(), sorted[above].into());
    low + (high - low) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles() {
        for (values, mean, median, p99) in [
            (vec![7.0], 7.0, 7.0, 7.0),
            (vec![2.0, 1.0], 1.5, 1.5, 1.99),
            (vec![3.0, 1.0, 2.0], 2.0, 2.0, 2.98),
            ((0..=100).rev().map(|x| x as f32).collect(), 50.0, 50.0, 99.0),
            ((0..200).map(|x| x as f32).collect(), 99.5, 99.5, 197.01),
        ] {
            let summary = Summary::of(&values).unwrap();
            assert_eq!(summary.n, values.len());
            for (found, expected) in [(summary.mean, mean), (summary.median, median), (summary.p99, p99)] {
                assert!((found - expected).abs() < 1e-9, "{values:?}: {summary:?}");
            }
        }
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn mean_keeps_small_terms() {
        // In f32 a running sum of ones stops at 2^24.
        let values = vec![1.0f32; (1 << 24) + 1000];
        assert_eq!(Summary::of(&values).unwrap().mean, 1.0);
    }

    #[test]
    fn bootstrap_known_answers() {
        let bootstrap = Bootstrap::default();
        let equal = vec![Total { sum: 6.0, n: 3 }; 10];
        let interval = bootstrap.mean(&equal).unwrap();
        assert_eq!((interval.low, interval.high), (2.0, 2.0));
        assert_eq!(bootstrap.mean(&equal[..1]), None);
        assert_eq!(bootstrap.mean(&[Total { sum: 1.0, n: 1 }, Total::default()]), None);
        assert_eq!(Bootstrap { resamples: 0, ..bootstrap }.mean(&equal), None);
    }

    /// For many sequences the interval is the normal one, mean ± 1.96 sd / sqrt(n).
    #[test]
    fn bootstrap_matches_the_normal_interval() {
        let n = 400;
        let sequences: Vec<Total> = (0..n).map(|i| Total { sum: if i % 2 == 0 { 1.0 } else { 3.0 }, n: 1 }).collect();
        let interval = Bootstrap { resamples: 4000, ..Bootstrap::default() }.mean(&sequences).unwrap();
        let half = 1.96 / (n as f64).sqrt();
        assert!((interval.low - (2.0 - half)).abs() < 0.01, "{interval:?}");
        assert!((interval.high - (2.0 + half)).abs() < 0.01, "{interval:?}");
    }

    /// Two noisy models a constant apart: unpaired the difference drowns, paired it is exact.
    #[test]
    fn pairing_removes_what_is_shared() {
        let hard: Vec<f64> = (0..50).map(|i| 10.0 * f64::from(i % 7)).collect();
        let difference: Vec<Total> = hard.iter().map(|dense| Total { sum: (dense + 2.0) - dense, n: 10 }).collect();
        let interval = Bootstrap::default().mean(&difference).unwrap();
        assert!((interval.low - 0.2).abs() < 1e-12 && (interval.high - 0.2).abs() < 1e-12);
    }

    #[test]
    fn any_statistic_has_an_interval() {
        let sequences: Vec<Total> = (0..30).map(|i| Total { sum: f64::from(i * i), n: 1 }).collect();
        let bootstrap = Bootstrap::default();
        let mean = |drawn: &[usize]| drawn.iter().map(|i| (i * i) as f64).sum::<f64>() / drawn.len() as f64;
        assert_eq!(bootstrap.interval(30, |drawn| Some(mean(drawn))), bootstrap.mean(&sequences));
        let largest = bootstrap.interval(30, |drawn| drawn.iter().max().map(|i| *i as f64)).unwrap();
        assert!(largest.low > 20.0 && largest.high == 29.0, "{largest:?}");
        assert_eq!(bootstrap.interval(1, |_| Some(1.0)), None);
        assert_eq!(bootstrap.interval(30, |_| None), None);
    }

    #[test]
    fn same_seed_same_interval() {
        let sequences: Vec<Total> = (0..30).map(|i| Total { sum: f64::from(i * i), n: 5 }).collect();
        let of = |seed| Bootstrap { seed, ..Bootstrap::default() }.mean(&sequences).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn json_round_trip() {
        let summary = Summary::of(&[1.0, 2.0, 4.0]).unwrap();
        let text = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
        assert!(serde_json::from_str::<Bootstrap>(r#"{"sed": 1}"#).is_err());
    }

    proptest! {
        /// Ordered, and inside the range of the values.
        #[test]
        fn summary_is_ordered(values in prop::collection::vec(-1e3f32..1e3, 1..60)) {
            let summary = Summary::of(&values).unwrap();
            let low = values.iter().copied().fold(f32::MAX, f32::min) as f64;
            let high = values.iter().copied().fold(f32::MIN, f32::max) as f64;
            prop_assert!(low <= summary.median && summary.median <= summary.p99 && summary.p99 <= high);
            prop_assert!(low - 1e-9 <= summary.mean && summary.mean <= high + 1e-9);
        }

        /// The interval lies between the smallest and the largest mean of a single sequence.
        #[test]
        fn bootstrap_stays_in_range(sums in prop::collection::vec(-5f64..5.0, 2..20), seed: u64) {
            let sequences: Vec<Total> = sums.iter().map(|sum| Total { sum: *sum, n: 1 }).collect();
            let interval = Bootstrap { resamples: 50, seed, ..Bootstrap::default() }.mean(&sequences).unwrap();
            let low = sums.iter().copied().fold(f64::MAX, f64::min);
            let high = sums.iter().copied().fold(f64::MIN, f64::max);
            prop_assert!(low - 1e-9 <= interval.low && interval.low <= interval.high && interval.high <= high + 1e-9);
        }
    }
}
