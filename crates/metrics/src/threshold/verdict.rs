//! Is there a cliff?

use serde::{Deserialize, Serialize};

use super::{Logistic, Sweep};
use crate::{Bootstrap, Interval, Value, normal};

/// Below this width a change is not one of linear response, which has 1.54.
const SHARP: f64 = 1.0;

/// A width of just 1.0 would ask for infinitely many samples.
const MOST_TIMES: f64 = 1e6;

/// What a sweep, or sweeps of several sizes, are evidence of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Verdict {
    /// Smooth degradation: there is no critical step, only one at which somebody's tolerance ends.
    Smooth,
    /// Too few samples: the interval of the width, of the largest system, has 1.0 inside.
    Inconclusive {
        /// The width.
        width: Value,
        /// How many times as many samples would probably tell, above 1: an interval narrows as the root of their number.
        times: f64,
    },
    /// The width of the change is surely below 1.0, but nothing is known of its dependence on the size.
    Sharp {
        /// Where half of the change has happened, in the largest system.
        step: Value,
    },
    /// The change sharpens as a power of the size.
    Transition {
        /// Where half of the change has happened, in the largest system.
        step: Value,
        /// `ν` of `W ~ size^(−1/ν)`.
        nu: Value,
    },
}

/// Judges sweeps of one or several sizes.
///
/// - [`Verdict::Sharp`] needs the upper bound of the [`Logistic`] width of the largest system below 1.0.
/// - [`Verdict::Transition`] needs that, three or more sizes, an exponent `1 / ν` of `W ~ size^(−1/ν)` whose interval is above 0, and a
///   power law that the widths do not contradict: the squares of their deviations, in standard errors, are not above what chance
///   exceeds in one case of a hundred.
/// - [`Verdict::Inconclusive`] has 1.0 inside the interval of that width.
/// - All else is [`Verdict::Smooth`].
///
/// # Panics
///
/// If there is no sweep, one has fewer than 5 points, or of several one has no size or that of another.
pub fn verdict(sweeps: &[Sweep], bootstrap: &Bootstrap) -> Verdict {
    let mut order: Vec<&Sweep> = sweeps.iter().collect();
    let size = |sweep: &Sweep| sweep.size().unwrap_or(f64::NAN);
    if sweeps.len() > 1 {
        assert!(sweeps.iter().all(|sweep| sweep.size().is_some()), "each of {} sweeps needs a size", sweeps.len());
        order.sort_by(|a, b| size(a).total_cmp(&size(b)));
        assert!(order.windows(2).all(|pair| size(pair[0]) < size(pair[1])), "each size has one sweep");
    }
    // Draws of different systems are independent of each other.
    let seeded = |at: usize| Bootstrap { seed: bootstrap.seed.wrapping_add(at as u64), ..*bootstrap };
    let fits: Vec<Logistic> = order.iter().enumerate().map(|(at, sweep)| Logistic::of(sweep, &seeded(at))).collect();
    let Some(largest) = fits.last() else { panic!("there is no sweep to judge") };
    let width = &largest.width;
    let Interval { low, high, .. } =
        width.interval.unwrap_or(Interval { low: width.value, high: width.value, level: bootstrap.level });
    if low >= SHARP {
        return Verdict::Smooth;
    }
    if high >= SHARP {
        // In logarithms, where a width has about the same error on both sides.
        let times = ((high / low).ln() / 2.0 / (width.value / SHARP).ln()).powi(2).clamp(1.0, MOST_TIMES);
        return Verdict::Inconclusive { width: width.clone(), times };
    }
    let step = largest.half.clone();
    match scaling(&order.iter().map(|sweep| size(sweep)).collect::<Vec<_>>(), &fits, bootstrap) {
        Some(nu) => Verdict::Transition { step, nu },
        None => Verdict::Sharp { step },
    }
}

/// `ν` of widths that fall as a power of the size, if they do.
fn scaling(sizes: &[f64], fits: &[Logistic], bootstrap: &Bootstrap) -> Option<Value> {
    if sizes.len() < 3 {
        return None;
    }
    let logs: Vec<f64> = sizes.iter().map(|size| size.ln()).collect();
    let widths: Vec<f64> = fits.iter().map(|fit| fit.width.value.ln()).collect();
    let two_sided = normal::quantile((1.0 + bootstrap.level) / 2.0);
    // A standard error in ln W from the interval of W; without one, all count alike and are taken as exact to a percent.
    let error = |fit: &Logistic| {
        fit.width.interval.map_or(0.0, |interval| (interval.high / interval.low).ln() / (2.0 * two_sided)).max(0.01)
    };
    let errors: Vec<f64> = fits.iter().map(error).collect();
    let (slope, deviation, squares) = line(&logs, &widths, &errors);
    let (low, high) = (-slope - two_sided * deviation, -slope + two_sided * deviation);
    let contradicted = squares > chi_square_quantile(0.99, sizes.len() - 2);
    let falls = widths.first() > widths.last();
    (falls && low > 0.0 && !contradicted).then(|| {
        let interval = Interval { low: 1.0 / high, high: 1.0 / low, level: bootstrap.level };
        let nu = Value::measured(-1.0 / slope, "inverse slope of ln width over ln size", sizes.len());
        nu.with_interval(Some(interval), bootstrap.seed)
    })
}

/// Slope, its standard error and the sum of squared deviations of the best line, all in units of the errors.
fn line(x: &[f64], y: &[f64], errors: &[f64]) -> (f64, f64, f64) {
    let weights: Vec<f64> = errors.iter().map(|error| error.powi(-2)).collect();
    let total: f64 = weights.iter().sum();
    let mean = |values: &[f64]| values.iter().zip(&weights).map(|(value, weight)| value * weight).sum::<f64>() / total;
    let (center, level) = (mean(x), mean(y));
    let (mut spread, mut product) = (0.0, 0.0);
    for ((x, y), weight) in x.iter().zip(y).zip(&weights) {
        spread += weight * (x - center).powi(2);
        product += weight * (x - center) * (y - level);
    }
    let slope = product / spread;
    let deviation = |((x, y), weight): ((&f64, &f64), &f64)| weight * (y - level - slope * (x - center)).powi(2);
    (slope, spread.powf(-0.5), x.iter().zip(y).zip(&weights).map(deviation).sum())
}

/// Which sum of squares of so many standard normal numbers is exceeded with probability `1 − p`; within some percent.
///
/// Source: Wilson and Hilferty 1931.
fn chi_square_quantile(p: f64, freedom: usize) -> f64 {
    let part = 2.0 / (9.0 * freedom as f64);
    freedom as f64 * (1.0 - part + normal::quantile(p) * part.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::super::Point;
    use super::*;

    /// A sweep of `y(ln δ)` over two decades with errors that are drawn.
    fn sweep(seed: u64, y: impl Fn(f64) -> f64) -> Sweep {
        let noise = crate::Source::Gaussian.samples(32, seed);
        let points = noise.iter().enumerate().map(|(k, noise)| {
            let log = -2.3 + 4.6 * k as f64 / 31.0;
            Point { step: log.exp(), metric: y(log) + 0.01 * f64::from(*noise), error: 0.01 }
        });
        Sweep::new(points.collect())
    }

    fn logistic(seed: u64, w: f64) -> Sweep {
        sweep(seed, move |log| 1.0 / (1.0 + (log / w).exp()))
    }

    fn quick() -> Bootstrap {
        Bootstrap { resamples: 200, ..Bootstrap::default() }
    }

    #[test]
    fn a_smooth_decay_is_smooth_at_any_size() {
        let decay = |seed: u64| sweep(seed, |log| (-(2.0 * log).exp()).exp());
        assert_eq!(verdict(&[decay(1)], &quick()), Verdict::Smooth);
        let sizes = [10.0, 20.0, 40.0].map(|size| decay(size as u64).with_size(size));
        assert_eq!(verdict(&sizes, &quick()), Verdict::Smooth);
    }

    #[test]
    fn a_cliff_alone_is_no_transition() {
        let Verdict::Sharp { step } = verdict(&[logistic(1, 0.1)], &quick()) else {
            panic!("a width of 0.44 is sharp")
        };
        let interval = step.interval.unwrap();
        assert!(interval.low <= 1.0 && 1.0 <= interval.high, "{step:?}");
        // The same width at each size, and two sizes that sharpen.
        let same = [10.0, 20.0, 40.0].map(|size| logistic(size as u64, 0.1).with_size(size));
        assert!(matches!(verdict(&same, &quick()), Verdict::Sharp { .. }));
        let two = [10.0, 40.0].map(|size: f64| logistic(size as u64, size.powf(-0.5)).with_size(size));
        assert!(matches!(verdict(&two, &quick()), Verdict::Sharp { .. }));
    }

    #[test]
    fn a_cliff_that_sharpens_with_the_size_is_one() {
        let sizes =
            [40.0, 10.0, 20.0, 80.0].map(|size: f64| logistic(size as u64, 0.6 * size.powf(-0.5)).with_size(size));
        let Verdict::Transition { nu, .. } = verdict(&sizes, &quick()) else {
            panic!("widths fall as the root of the size")
        };
        let interval = nu.interval.unwrap();
        assert!(interval.low <= 2.0 && 2.0 <= interval.high && interval.high < 2.6, "{nu:?}");
        // Widths that fall and rise again are no power law.
        let bent = [(10.0, 0.2), (20.0, 0.05), (40.0, 0.15)].map(|(size, w)| logistic(size as u64, w).with_size(size));
        assert!(matches!(verdict(&bent, &quick()), Verdict::Sharp { .. }));
    }

    /// Errors that leave the width open, and a tenth of them, with a hundred times the samples, that do not.
    #[test]
    fn too_few_samples_are_asked_for_more() {
        let steps = |error: f64| {
            let noise = crate::Source::Gaussian.samples(16, 5);
            let point = |(k, noise): (usize, &f32)| {
                let log = -2.3 + 4.6 * k as f64 / 15.0;
                let metric = 1.0 / (1.0 + (log / 0.18).exp()) + error * f64::from(*noise);
                Point { step: log.exp(), metric, error }
            };
            Sweep::new(noise.iter().enumerate().map(point).collect())
        };
        let Verdict::Inconclusive { width, times } = verdict(&[steps(0.1)], &quick()) else {
            panic!("a width of 0.79 with errors of 0.1")
        };
        let interval = width.interval.unwrap();
        assert!(interval.low < 1.0 && interval.high >= 1.0 && times > 1.0, "{width:?} {times}");
        assert!(matches!(verdict(&[steps(0.01)], &quick()), Verdict::Sharp { .. }));
    }

    #[test]
    fn known_quantiles() {
        for (freedom, expected) in [(1, 6.635), (2, 9.210), (5, 15.086)] {
            assert!((chi_square_quantile(0.99, freedom) / expected - 1.0).abs() < 0.02, "{freedom}");
        }
    }

    #[test]
    #[should_panic(expected = "each of 2 sweeps needs a size")]
    fn sizes_are_asked_for() {
        verdict(&[logistic(1, 0.1), logistic(2, 0.1)], &quick());
    }
}
