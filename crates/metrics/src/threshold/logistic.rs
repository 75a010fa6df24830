//! A step in `ln δ`: where it is, and how wide.

use serde::{Deserialize, Serialize};

use super::Sweep;
use super::minimum::minimum;
use crate::{Bootstrap, Value};

/// A logistic function of `ln δ`, fitted to a sweep with the weights of its errors.
///
/// ```text
/// y = b + (a − b) / (1 + exp((ln δ − c) / w))        δ_half = e^c        W = ln(δ_10 / δ_90) = 2 ln 9 · w
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    /// The metric at small steps, `a`.
    pub before: f64,
    /// The metric at large steps, `b`.
    pub after: f64,
    /// The step at which half of the change has happened.
    pub half: Value,
    /// The width `W`: the logarithm of the ratio of the steps at which 90 and 10 percent of the change have happened. Its null value is
    /// that of linear response, [`response_width`] of 2.
    pub width: Value,
}

/// The width of a smooth decay `1 − exp(−k δ^power)`, `ln(ln 10 / ln(10/9)) / power`: 1.54 for 2, which is linear response of a
/// divergence, and 3.08 for 1.
pub fn response_width(power: f64) -> f64 {
    (10f64.ln() / (10.0 / 9.0f64).ln()).ln() / power
}

/// Widths in units of `w`.
fn width_of(w: f64) -> f64 {
    2.0 * 9f64.ln() * w
}

impl Logistic {
    /// The fit, with intervals from metrics that are drawn anew.
    ///
    /// The two levels are solved for at each `c` and `w`; those are sought from a table of starts by Nelder and Mead's method. `w` is
    /// held above a twentieth of the smallest ratio of two steps, below which the sweep cannot tell widths apart, and `c` within
    /// the sweep.
    ///
    /// # Panics
    ///
    /// If the sweep has fewer than 5 points: the function has 4 numbers.
    pub fn of(sweep: &Sweep, bootstrap: &Bootstrap) -> Self {
        let (logs, weights, metrics) = (sweep.logs(), sweep.weights(), sweep.metrics());
        assert!(logs.len() > 4, "a logistic function is fitted to at least 5 steps, found {}", logs.len());
        let (first, last) = (logs[0], logs[logs.len() - 1]);
        let gap = logs.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        let (narrow, wide) = ((gap / 20.0).ln(), (last - first).ln());
        let inside = |[c, w]: [f64; 2]| [c.clamp(first, last), w.clamp(narrow, wide).exp()];
        let reach = [(last - first) / 10.0, 0.5];
        let fit = |metrics: &[f64], start: [f64; 2]| {
            let found = minimum(start, reach, |at| {
                let [c, w] = inside(at);
                // Outside, the further the worse: a clamped function is flat there, and the simplex would not come back.
                let outside = (at[0] - c).abs() + (at[1] - w.ln()).abs();
                levels(&logs, metrics, &weights, c, w).2 * (1.0 + outside)
            });
            inside(found)
        };
        let starts = (1..8).flat_map(|c| (0..6).map(move |w| (c, w))).map(|(c, w)| {
            let share = |at: i32, of: f64, low: f64, high: f64| low + (high - low) * f64::from(at) / of;
            [share(c, 8.0, first, last), share(w, 6.0, narrow, wide)]
        });
        let badness = |[c, w]: &[f64; 2]| levels(&logs, &metrics, &weights, *c, w.exp()).2;
        let mut starts: Vec<[f64; 2]> = starts.collect();
        starts.sort_by(|a, b| badness(a).total_cmp(&badness(b)));
        let best = starts[..3].iter().map(|start| fit(&metrics, *start));
        let Some([c, w]) = best.min_by(|a, b| badness(&[a[0], a[1].ln()]).total_cmp(&badness(&[b[0], b[1].ln()])))
        else {
            unreachable!("three starts were taken");
        };
        let (before, after, _) = levels(&logs, &metrics, &weights, c, w);
        let [half, width] = sweep.intervals(bootstrap, |metrics| {
            let [c, w] = fit(metrics, [c, w.ln()]);
            Some([c.exp(), width_of(w)])
        });
        Self {
            before,
            after,
            half: sweep.value(c.exp(), "half of a logistic fit in ln step", half, bootstrap),
            width: sweep
                .value(width_of(w), "width of a logistic fit in ln step", width, bootstrap)
                .with_null(response_width(2.0)),
        }
    }
}

/// The levels `(a, b)` of the least squares at `c` and `w`, and those squares.
fn levels(logs: &[f64], metrics: &[f64], weights: &[f64], c: f64, w: f64) -> (f64, f64, f64) {
    // y = b + (a − b) s with the share s that is left: a line in s.
    let left: Vec<f64> = logs.iter().map(|log| 1.0 / (1.0 + ((log - c) / w).exp())).collect();
    let total: f64 = weights.iter().sum();
    let mean = |values: &[f64]| values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / total;
    let (middle, metric) = (mean(&left), mean(metrics));
    let (mut spread, mut product) = (0.0, 0.0);
    for ((share, y), weight) in left.iter().zip(metrics).zip(weights) {
        spread += weight * (share - middle).powi(2);
        product += weight * (share - middle) * (y - metric);
    }
    let slope = if spread > 0.0 { product / spread } else { 0.0 };
    let after = metric - slope * middle;
    let residual = |((share, y), weight): ((&f64, &f64), &f64)| weight * (y - after - slope * share).powi(2);
    (after + slope, after, left.iter().zip(metrics).zip(weights).map(residual).sum())
}

#[cfg(test)]
mod tests {
    use super::super::Point;
    use super::*;

    /// Where there is no noise, the numbers that the function was made of come back.
    #[test]
    fn exact_data_gives_exact_numbers() {
        for (a, b, half, w) in [(1.0, 0.0, 1.0, 0.1), (0.2, 3.0, 2.5, 0.4), (5.0, 4.0, 0.3, 0.03)] {
            let y = |step: f64| b + (a - b) / (1.0 + ((step / half).ln() / w).exp());
            let steps = (0..24).map(|k| 0.1 * 100f64.powf(f64::from(k) / 23.0));
            let sweep = Sweep::new(steps.map(|step| Point { step, metric: y(step), error: 0.01 }).collect());
            let fit = Logistic::of(&sweep, &Bootstrap { resamples: 20, ..Bootstrap::default() });
            for (found, expected) in
                [(fit.before, a), (fit.after, b), (fit.half.value, half), (fit.width.value, 4.394449 * w)]
            {
                assert!((found - expected).abs() < 1e-3 * expected.abs().max(1.0), "{a} {b} {half} {w}: {fit:?}");
            }
            assert!(fit.width.interval.is_some());
        }
    }

    #[test]
    fn null_widths() {
        assert!((response_width(2.0) - 1.542).abs() < 1e-3 && (response_width(1.0) - 3.084).abs() < 1e-3);
    }
}
