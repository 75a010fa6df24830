//! A metric at many steps of a quantizer.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::monotone::{Trend, interpolated, monotone};
use crate::summary::quantile;
use crate::{Bootstrap, Interval, Value, normal};

/// A metric at one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The step of the quantizer, above 0.
    pub step: f64,
    /// What was measured there.
    pub metric: f64,
    /// Its standard error, over the offsets of the grid and over the sequences that it was measured on.
    pub error: f64,
}

impl Point {
    /// The mean of a metric that was measured at one step with several offsets of the grid, each on the same sequences.
    ///
    /// ```text
    /// error² = s²(means of offsets) / R + s²(means of sequences) / S
    /// ```
    ///
    /// Both are drawn, and both count; what they share is counted twice, so that the error is rather too large.
    ///
    /// - `found`: `[R offsets][S sequences]`
    ///
    /// # Panics
    ///
    /// If there is no value, or rows differ in length.
    pub fn crossed(step: f64, found: &[Vec<f64>]) -> Self {
        let sequences = found.first().map_or(0, Vec::len);
        assert!(sequences > 0 && found.iter().all(|row| row.len() == sequences), "each offset has the same sequences");
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let offsets: Vec<f64> = found.iter().map(|row| mean(row)).collect();
        let columns: Vec<f64> =
            (0..sequences).map(|at| found.iter().map(|row| row[at]).sum::<f64>() / found.len() as f64).collect();
        let metric = mean(&offsets);
        // The squared standard error of a mean; a single value says nothing of its own.
        let square = |means: &[f64]| match means.len() {
            1 => 0.0,
            n => means.iter().map(|x| (x - metric).powi(2)).sum::<f64>() / (n - 1) as f64 / n as f64,
        };
        Self { step, metric, error: (square(&offsets) + square(&columns)).sqrt() }
    }
}

/// A metric at many steps, and of how large a system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    points: Vec<Point>,
    size: Option<f64>,
}

impl Sweep {
    /// A sweep of points in any order; 16 or more steps with equal ratios are a good one.
    ///
    /// # Panics
    ///
    /// If there are fewer than two points, two of the same step, a step that is not above 0, or a number that is not finite.
    pub fn new(mut points: Vec<Point>) -> Self {
        assert!(points.len() > 1, "a sweep has at least two steps, found {}", points.len());
        for point in &points {
            let sound = point.step > 0.0 && point.error >= 0.0 && point.step.is_finite();
            assert!(sound && point.error.is_finite() && point.metric.is_finite(), "a sweep cannot have {point:?}");
        }
        points.sort_by(|a, b| a.step.total_cmp(&b.step));
        let twice = points.windows(2).find(|pair| pair[0].step == pair[1].step);
        assert!(twice.is_none(), "a sweep has each step once, found {twice:?}");
        Self { points, size: None }
    }

    /// The sweep as one of a system of this size, for finite-size scaling.
    ///
    /// # Panics
    ///
    /// If the size is not above 0.
    pub fn with_size(self, size: f64) -> Self {
        assert!(size > 0.0 && size.is_finite(), "a system of size {size}");
        Self { size: Some(size), ..self }
    }

    /// The points, by ascending step.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The size of the system, if it is known.
    pub fn size(&self) -> Option<f64> {
        self.size
    }

    /// The monotone function that is nearest to the metric at each step; it rises or falls as the metric does on the whole.
    ///
    /// By pooling adjacent violators, with weights of one over the squared errors. An error below a tenth of the largest one counts
    /// as that tenth: a share of exactly 0 or 1 has none.
    ///
    /// Source: Ayer et al. 1955 (`docs/references.md#isotonic`).
    pub fn monotone(&self) -> Vec<f64> {
        monotone(&self.metrics(), &self.weights(), self.trend())
    }

    /// The tolerance step: the smallest at which the metric is beyond `limit`, in the direction in which it changes.
    ///
    /// Where the monotone fit crosses, interpolated linearly in `ln δ`. The interval is that of metrics drawn anew from normal laws of
    /// their errors. `None` if the fit does not start on the near side of the limit and end beyond it.
    pub fn crossing(&self, limit: f64, bootstrap: &Bootstrap) -> Option<Value> {
        let (logs, weights, trend) = (self.logs(), self.weights(), self.trend());
        let step =
            |metrics: &[f64]| Some([interpolated(&logs, &monotone(metrics, &weights, trend), limit, trend)?.exp()]);
        let [value] = step(&self.metrics())?;
        let [interval] = self.intervals(bootstrap, step);
        Some(self.value(value, "crossing of a monotone fit", interval, bootstrap))
    }

    /// The power `k` of `metric ~ δ^k` where the metric is above 0 and below `limit`: 2 for a divergence in linear response.
    ///
    /// The slope of the line of least squares in logarithms. `None` with fewer than 3 such steps.
    pub fn exponent(&self, limit: f64, bootstrap: &Bootstrap) -> Option<Value> {
        let logs = self.logs();
        let slope = |metrics: &[f64]| {
            let small = logs.iter().zip(metrics).filter(|(_, metric)| (f64::MIN_POSITIVE..limit).contains(metric));
            let small: Vec<(f64, f64)> = small.map(|(log, metric)| (*log, metric.ln())).collect();
            let n = small.len() as f64;
            let (x, y) = small.iter().fold((0.0, 0.0), |(x, y), (log, metric)| (x + log / n, y + metric / n));
            let product: f64 = small.iter().map(|(log, metric)| (log - x) * (metric - y)).sum();
            let spread: f64 = small.iter().map(|(log, _)| (log - x).powi(2)).sum();
            (small.len() > 2).then(|| [product / spread])
        };
        let [value] = slope(&self.metrics())?;
        let [interval] = self.intervals(bootstrap, slope);
        Some(self.value(value, "slope in logarithms", interval, bootstrap))
    }

    /// The end of linear response: from which step on a divergence is no longer within a factor of 1.5 of `δ² tr F / 24`, nats.
    ///
    /// Interpolated linearly in the logarithms of the step and of the ratio. `None` if the largest step is still within; the smallest
    /// step if none is.
    ///
    /// - `trace`: `tr F = Σ_j s_j² F_jj`, of the Fisher information and the scales that a step is relative to
    pub fn end_of_linear_response(&self, trace: f64, bootstrap: &Bootstrap) -> Option<Value> {
        let logs = self.logs();
        let step = |metrics: &[f64]| {
            let ratio =
                |(metric, log): (&f64, &f64)| (metric * 24.0 / (trace * (2.0 * log).exp())).max(f64::MIN_POSITIVE).ln();
            let ratios: Vec<f64> = metrics.iter().zip(&logs).map(ratio).collect();
            let limit = 1.5f64.ln();
            let Some(last) = ratios.iter().rposition(|ratio| ratio.abs() <= limit) else {
                return Some([logs[0].exp()]);
            };
            let (inside, outside) = (ratios[last], *ratios.get(last + 1)?);
            let share = (limit.copysign(outside) - inside) / (outside - inside);
            Some([(logs[last] + share * (logs[last + 1] - logs[last])).exp()])
        };
        let [value] = step(&self.metrics())?;
        let [interval] = self.intervals(bootstrap, step);
        Some(self.value(value, "last step within 1.5 of the linear response", interval, bootstrap))
    }

    /// A number of this sweep.
    pub(super) fn value(
        &self,
        value: f64,
        estimator: &'static str,
        interval: Option<Interval>,
        bootstrap: &Bootstrap,
    ) -> Value {
        Value::measured(value, estimator, self.points.len()).with_interval(interval, bootstrap.seed)
    }

    /// The metrics drawn anew, `resamples` times; nothing where no metric has an error.
    fn draws(&self, bootstrap: &Bootstrap) -> impl Iterator<Item = Vec<f64>> {
        let mut random = ChaCha8Rng::seed_from_u64(bootstrap.seed);
        let uncertain = self.points.iter().any(|point| point.error > 0.0);
        // The middle of one of 2^53 cells: neither 0 nor 1, whose quantiles are infinite.
        let mut standard = move || normal::quantile(((random.random::<u64>() >> 11) as f64 + 0.5) / f64::exp2(53.0));
        let resamples = if uncertain { bootstrap.resamples } else { 0 };
        (0..resamples).map(move |_| self.points.iter().map(|point| point.metric + point.error * standard()).collect())
    }

    /// The intervals of some numbers of the metrics, `None` where no draw has them.
    pub(super) fn intervals<const N: usize>(
        &self,
        bootstrap: &Bootstrap,
        mut statistic: impl FnMut(&[f64]) -> Option<[f64; N]>,
    ) -> [Option<Interval>; N] {
        let found: Vec<[f64; N]> = self.draws(bootstrap).filter_map(|metrics| statistic(&metrics)).collect();
        std::array::from_fn(|at| middle(found.iter().map(|numbers| numbers[at]).collect(), bootstrap.level))
    }

    /// `ln δ` of each point.
    pub(super) fn logs(&self) -> Vec<f64> {
        self.points.iter().map(|point| point.step.ln()).collect()
    }

    pub(super) fn metrics(&self) -> Vec<f64> {
        self.points.iter().map(|point| point.metric).collect()
    }

    pub(super) fn weights(&self) -> Vec<f64> {
        let largest = self.points.iter().map(|point| point.error).fold(0.0, f64::max);
        let weight = |point: &Point| if largest > 0.0 { (point.error / largest).max(0.1).powi(-2) } else { 1.0 };
        self.points.iter().map(weight).collect()
    }

    /// The sign of the covariance with `ln δ`.
    fn trend(&self) -> Trend {
        let (logs, weights) = (self.logs(), self.weights());
        let total: f64 = weights.iter().sum();
        let mean = logs.iter().zip(&weights).map(|(log, weight)| log * weight).sum::<f64>() / total;
        let covariance = |((point, log), weight): ((&Point, &f64), &f64)| point.metric * (log - mean) * weight;
        let covariance: f64 = self.points.iter().zip(&logs).zip(&weights).map(covariance).sum();
        if covariance < 0.0 { Trend::Falling } else { Trend::Rising }
    }
}

/// The middle `level` of some values.
fn middle(mut values: Vec<f64>, level: f64) -> Option<Interval> {
    values.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level.clamp(0.0, 1.0)) / 2.0;
    let interval = || Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail), level };
    (!values.is_empty()).then(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(points: &[(f64, f64)]) -> Sweep {
        Sweep::new(points.iter().map(|&(step, metric)| Point { step, metric, error: 0.0 }).collect())
    }

    #[test]
    fn crosses_between_two_steps() {
        let (none, e) = (Bootstrap { resamples: 0, ..Bootstrap::default() }, std::f64::consts::E);
        let rising = sweep(&[(e, 2.0), (1.0, 0.0), (e * e, 1.0)]);
        assert_eq!(rising.monotone(), [0.0, 1.5, 1.5]);
        let crossing = rising.crossing(0.75, &none).unwrap();
        assert!((crossing.value - 0.5f64.exp()).abs() < 1e-12 && crossing.interval.is_none());
        assert_eq!((rising.crossing(1.5, &none), rising.crossing(-0.1, &none)), (None, None));
        // Agreement falls: the first step at which it is below.
        let falling = sweep(&[(1.0, 1.0), (e, 0.5), (e * e, 0.0)]);
        assert!((falling.crossing(0.75, &none).unwrap().value - 0.5f64.exp()).abs() < 1e-12);
    }

    /// Linear response with ten times the trace from step 4 on: between steps 2 and 4 the logarithm of the ratio goes from 0 to ln 10.
    #[test]
    fn leaves_the_linear_response_for_good() {
        let none = Bootstrap { resamples: 0, ..Bootstrap::default() };
        let at = |step: f64, times: f64| (step, times * step * step * 3.0 / 24.0);
        let leaving = sweep(&[at(0.5, 5.0), at(1.0, 1.2), at(2.0, 1.0), at(4.0, 10.0), at(8.0, 20.0)]);
        let found = leaving.end_of_linear_response(3.0, &none).unwrap().value;
        assert!((found - 2.0 * 2f64.powf(1.5f64.ln() / 10f64.ln())).abs() < 1e-12, "{found}");
        let saturating = sweep(&[at(1.0, 1.0), at(2.0, 0.1)]);
        let found = saturating.end_of_linear_response(3.0, &none).unwrap().value;
        assert!((found - 2f64.powf(1.5f64.ln() / 10f64.ln())).abs() < 1e-12, "{found}");
        assert_eq!(sweep(&[at(1.0, 3.0), at(2.0, 0.7)]).end_of_linear_response(3.0, &none), None);
        assert_eq!(sweep(&[at(1.0, 3.0), at(2.0, 0.1)]).end_of_linear_response(3.0, &none).unwrap().value, 1.0);
    }

    /// Offsets alone, sequences alone, and both: by hand.
    #[test]
    fn errors_of_offsets_and_sequences() {
        let point = Point::crossed(2.0, &[vec![1.0, 1.0], vec![3.0, 3.0]]);
        assert_eq!((point.step, point.metric), (2.0, 2.0));
        assert!((point.error - 1.0).abs() < 1e-12, "√(2 / 2): {point:?}");
        let point = Point::crossed(2.0, &[vec![1.0, 3.0], vec![1.0, 3.0]]);
        assert!((point.error - 1.0).abs() < 1e-12, "{point:?}");
        let point = Point::crossed(2.0, &[vec![0.0, 2.0], vec![2.0, 4.0]]);
        assert!((point.metric - 2.0).abs() < 1e-12 && (point.error - 2f64.sqrt()).abs() < 1e-12, "{point:?}");
        assert_eq!(Point::crossed(1.0, &[vec![5.0]]), Point { step: 1.0, metric: 5.0, error: 0.0 });
    }

    #[test]
    fn the_power_of_a_power_law() {
        let none = Bootstrap { resamples: 0, ..Bootstrap::default() };
        let points: Vec<(f64, f64)> =
            (1..8).map(|k| (f64::from(k), if k < 6 { 0.01 * f64::from(k).powf(1.7) } else { 9.0 })).collect();
        assert!((sweep(&points).exponent(1.0, &none).unwrap().value - 1.7).abs() < 1e-12);
        assert_eq!(sweep(&points).exponent(0.03, &none), None);
    }

    #[test]
    #[should_panic(expected = "a sweep has each step once")]
    fn steps_are_distinct() {
        sweep(&[(1.0, 0.0), (2.0, 1.0), (1.0, 1.0)]);
    }
}
