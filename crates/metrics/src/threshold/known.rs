//! Known answers of critical steps.

use super::{Logistic, Point, Rounding, Sweep, Verdict, VertexCode, response_width, verdict};
use crate::{Bootstrap, Check, Expected, Source};

/// A check of this module; none of them needs a device.
const fn check(quantity: &'static str, expected: Expected, measure: fn(&burn::tensor::Device) -> f64) -> Check {
    Check { concept: "threshold", quantity, expected, measure }
}

const fn near(value: f64, within: f64) -> Expected {
    Expected::Near { value, within }
}

/// The code of the theory note: side 1, noise 0.2, a quarter of a bit per coordinate.
const CODE: VertexCode = VertexCode { side: 1.0, noise: 0.2 };
const RATE: f64 = 0.25;

const CHECKS: &[Check] = &[
    check("critical step of corners, R = 0.25, noise 0.2", near(2.2698, 5e-5), |_| CODE.critical_step(RATE)),
    check("critical step of corners, R = 0.5, noise 0.2: twice the side", near(2.0, 1e-12), |_| {
        CODE.critical_step(0.5)
    }),
    check("critical step of corners, R = 0.9, noise 0.05", near(1.8718, 5e-5), |_| {
        VertexCode { side: 1.0, noise: 0.05 }.critical_step(0.9)
    }),
    check("information of a corner's coordinate at step 2, bits", near(0.5, 1e-6), |_| CODE.information(2.0)),
    check("width · √d by the normal approximation", near(1.40, 0.005), |_| CODE.width(RATE, 100) * 10.0),
    // The theory note's are of trials, with an error of about 0.01.
    check("step at which half of 2^4 corners of 16 coordinates are found", near(2.327, 0.03), |_| half(16)),
    check("step at which half of 2^8 corners of 32 coordinates are found", near(2.295, 0.02), |_| half(32)),
    check("step at which half of 2^14 corners of 56 coordinates are found", near(2.284, 0.02), |_| half(56)),
    check("the same, of trials", near(2.284, 0.03), |_| {
        trials(56, 600).crossing(0.5, &quick()).map_or(f64::NAN, |step| step.value)
    }),
    // Not for 16: one of 16 corners is right by chance, and 10 percent are found only far out.
    check("90 to 10 percent width · √d of 24 coordinates", near(2.17, 0.05), |_| width(24)),
    check("90 to 10 percent width · √d of 56 coordinates", near(1.76, 0.08), |_| width(56)),
    check(
        "sizes 16 to 56 in steps of 8, beyond the first, with a smaller width than the one before",
        near(5.0, 0.0),
        |_| {
            let widths: Vec<f64> = (2..8).map(|d| width(8 * d) / (8.0 * d as f64).sqrt()).collect();
            widths.windows(2).filter(|pair| pair[1] < pair[0]).count() as f64
        },
    ),
    // For large d it is 2; at these sizes the width has not yet become that of the approximation.
    check("ν of corners of 16, 24, 32 and 40 coordinates, judged by trials", Expected::Between(1.2, 2.2), |_| {
        match verdict(&[16, 24, 32, 40].map(|d| trials(d, 4000)), &quick()) {
            Verdict::Transition { nu, .. } => nu.value,
            _ => f64::NAN,
        }
    }),
    check("share of signs kept by mid-rise rounding, step 6", near(1.0, 1e-6), |_| {
        CODE.sign_kept(6.0, Rounding::MidRise)
    }),
    check("share of signs kept with dither, step 2", near(0.960, 5e-4), |_| CODE.sign_kept(2.0, Rounding::Dither)),
    check("share of signs kept with dither, step 2.5", near(0.896, 1.5e-3), |_| CODE.sign_kept(2.5, Rounding::Dither)),
    check("share of signs kept with dither, step 3", near(0.833, 5e-4), |_| CODE.sign_kept(3.0, Rounding::Dither)),
    check("share of signs kept with dither, step 4", near(0.750, 1e-3), |_| CODE.sign_kept(4.0, Rounding::Dither)),
    check("share of signs kept by the nearest, step 2", near(0.750, 5e-4), |_| CODE.sign_kept(2.0, Rounding::Nearest)),
    check("share of signs kept by the nearest, step 2.5", near(0.553, 5e-4), |_| {
        CODE.sign_kept(2.5, Rounding::Nearest)
    }),
    check("share of signs kept by the nearest, step 3", near(0.503, 5e-4), |_| CODE.sign_kept(3.0, Rounding::Nearest)),
    check("width of 1 − exp(−δ²)", near(1.542, 1e-3), |_| response_width(2.0)),
    check("width of 1 − exp(−δ)", near(3.084, 1e-3), |_| response_width(1.0)),
    check("fitted width of 1 − exp(−δ²) with errors of 0.01", near(1.54, 0.15), |_| {
        fit(|step| 1.0 - (-step * step).exp()).width.value
    }),
    // No logistic function has this form, so that its width is one of the range of the sweep as well: the theory note has 3.05.
    check("fitted width of 1 − exp(−δ) with errors of 0.01", near(3.05, 0.3), |_| {
        fit(|step| 1.0 - (-step).exp()).width.value
    }),
    check("fitted width of a logistic step, w = 0.03: 2 ln 9 · w", near(0.132, 0.02), |_| {
        fit(|step| logistic(step, 0.03)).width.value
    }),
    check("fitted width of a logistic step, w = 0.1: 2 ln 9 · w", near(0.439, 0.03), |_| {
        fit(|step| logistic(step, 0.1)).width.value
    }),
    check("where that step is", near(1.0, 0.008), |_| fit(|step| logistic(step, 0.1)).half.value),
    check("is 1 − exp(−δ²) smooth (1 is yes)", near(1.0, 0.0), |_| {
        let sweep = noisy(|step| 1.0 - (-step * step).exp());
        f64::from(u8::from(verdict(&[sweep], &quick()) == Verdict::Smooth))
    }),
    check("tolerance step of δ² tr F / 24 at 0.1, tr F = 240: √(24 τ / tr F)", near(0.1, 0.002), |_| {
        response(0.0).crossing(0.1, &quick()).map_or(f64::NAN, |step| step.value)
    }),
    check(
        "end of linear response of (1 + δ²) δ² tr F / 24: √½",
        near(std::f64::consts::FRAC_1_SQRT_2, 0.02),
        |_| response(1.0).end_of_linear_response(240.0, &quick()).map_or(f64::NAN, |step| step.value),
    ),
];

/// The known answers of this module.
pub(crate) fn checks() -> &'static [Check] {
    CHECKS
}

fn quick() -> Bootstrap {
    Bootstrap { resamples: 200, ..Bootstrap::default() }
}

fn half(d: usize) -> f64 {
    CODE.step_where_found(RATE, d, 0.5)
}

/// Times the root of `d`.
fn width(d: usize) -> f64 {
    (CODE.step_where_found(RATE, d, 0.1) - CODE.step_where_found(RATE, d, 0.9)) * (d as f64).sqrt()
}

/// Corners found in trials, at 17 steps around the critical one.
fn trials(d: usize, trials: usize) -> Sweep {
    let point = |k: u64| {
        let step = 1.7 * (3.2f64 / 1.7).powf(k as f64 / 16.0);
        let metric = CODE.found_in_trials(RATE, d, step, Rounding::Nearest, trials, 100 * d as u64 + k);
        Point { step, metric, error: (metric * (1.0 - metric) / trials as f64).sqrt() }
    };
    Sweep::new((0..17).map(point).collect()).with_size(d as f64)
}

fn logistic(step: f64, w: f64) -> f64 {
    1.0 / (1.0 + (step.ln() / w).exp())
}

/// A function of the step at 40 steps from 1/50 to 50 and with errors of 0.01.
fn noisy(y: fn(f64) -> f64) -> Sweep {
    let noise = Source::Gaussian.samples(40, 7);
    let point = |(k, noise): (usize, &f32)| {
        let step = 0.02 * 2500f64.powf(k as f64 / 39.0);
        Point { step, metric: y(step) + 0.01 * f64::from(*noise), error: 0.01 }
    };
    Sweep::new(noise.iter().enumerate().map(point).collect())
}

fn fit(y: fn(f64) -> f64) -> Logistic {
    Logistic::of(&noisy(y), &Bootstrap { resamples: 0, ..quick() })
}

/// `δ² tr F / 24 · (1 + excess δ²)` with tr F = 240 and errors of a percent.
fn response(excess: f64) -> Sweep {
    let noise = Source::Gaussian.samples(30, 3);
    let point = |(k, noise): (usize, &f32)| {
        let step = 0.01 * 300f64.powf(k as f64 / 29.0);
        let metric = step * step * 10.0 * (1.0 + excess * step * step);
        Point { step, metric: metric * (1.0 + 0.01 * f64::from(*noise)), error: 0.01 * metric }
    };
    Sweep::new(noise.iter().enumerate().map(point).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_answers() {
        crate::require(super::checks(), &burn::tensor::Device::flex());
    }
}
