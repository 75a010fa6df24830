//! Known answers about information.

use burn::tensor::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Joint, binary_entropy, cells, decoder_bound, entropy, fano_error, fano_information, gaussian_information};
use super::{gaussian_rate, ksg, latent_rate};
use crate::Expected::{AtMost, Between, Near};
use crate::threshold::VertexCode;
use crate::{Bootstrap, Check, Expected, Probe, Source, host};

/// The known answers about information.
pub(crate) fn checks() -> &'static [Check] {
    CHECKS
}

/// Corners of a cube with a fifth of their distance from the middle as noise.
const CORNERS: VertexCode = VertexCode { side: 1.0, noise: 0.2 };

const fn check(quantity: &'static str, expected: Expected, measure: fn(&Device) -> f64) -> Check {
    Check { concept: "information", quantity, expected, measure }
}

const fn near(value: f64, within: f64) -> Expected {
    Near { value, within }
}

/// `I_min` of equally frequent classes.
fn needed(classes: usize, error: f64) -> f64 {
    fano_information((classes as f64).log2(), classes, error)
}

const CHECKS: &[Check] = &[
    check("I_min, 10 classes, ε = .01", near(3.209, 5e-4), |_| needed(10, 0.01)),
    check("I_min, 10 classes, ε = .05", near(2.877, 5e-4), |_| needed(10, 0.05)),
    check("I_min, 10 classes, ε = .1", near(2.536, 5e-4), |_| needed(10, 0.1)),
    check("I_min, 1000 classes, ε = .01", near(9.785, 5e-4), |_| needed(1000, 0.01)),
    check("I_min, 1000 classes, ε = .05", near(9.181, 5e-4), |_| needed(1000, 0.05)),
    check("I_min, 1000 classes, ε = .1", near(8.500, 5e-4), |_| needed(1000, 0.1)),
    check("I_min, 50257 classes, ε = .01", near(15.38, 5e-3), |_| needed(50257, 0.01)),
    check("I_min, 50257 classes, ε = .05", near(14.55, 5e-3), |_| needed(50257, 0.05)),
    check("I_min, 50257 classes, ε = .1", near(13.59, 5e-3), |_| needed(50257, 0.1)),
    check("I of the symmetric channel, 16 classes, ε = .2, less I_min", near(0.0, 1e-12), |_| {
        symmetric_channel(16, 0.2) - needed(16, 0.2)
    }),
    check("I of the symmetric channel, 16 classes, ε = .2", near(2.496_694, 1e-6), |_| symmetric_channel(16, 0.2)),
    check("errors below Fano's in 1000 random channels", AtMost(0.0), |_| errors_below_fano(1000) as f64),
    check("I_min of a normal variable, D = σ²/4", near(1.0, 1e-12), |_| gaussian_rate(1.0, 0.25)),
    check("I after twice the corner, σ = .2", near(0.5, 1e-12), |_| CORNERS.erasure_information(2.0)),
    check("I of rounded corners, δ = 2, σ = .2, counted", near(0.5, 0.01), |_| rounded_corners(2.0)),
    check("I of rounded corners, δ = 1.6, σ = .2, counted, less the curve", near(0.0, 0.01), |_| {
        rounded_corners(1.6) - CORNERS.erasure_information(1.6)
    }),
    // The theory note measured 1.161, 1.147, 1.100, .962, .662 and .181 by counts of few samples; these are integrals.
    check("I(Q(X); Y), X normal, SNR 4, δ = .05", near(1.1604, 5e-3), |device| normal_chain(0.05, device)),
    check("I(Q(X); Y), X normal, SNR 4, δ = .2", near(1.1514, 5e-3), |device| normal_chain(0.2, device)),
    check("I(Q(X); Y), X normal, SNR 4, δ = .5", near(1.1044, 5e-3), |device| normal_chain(0.5, device)),
    check("I(Q(X); Y), X normal, SNR 4, δ = 1", near(0.9678, 5e-3), |device| normal_chain(1.0, device)),
    check("I(Q(X); Y), X normal, SNR 4, δ = 2", near(0.6663, 5e-3), |device| normal_chain(2.0, device)),
    check("I(Q(X); Y), X normal, SNR 4, δ = 4", near(0.1838, 5e-3), |device| normal_chain(4.0, device)),
    check("H(Q(X)) of a normal variable, δ = .25", near(4.0509, 5e-3), |device| normal_cells(0.25, device)),
    check("its formula, h - log2 δ", near(4.0471, 1e-4), |_| latent_rate(Source::Gaussian.entropy(), 1, 0.25)),
    check("H(Q(X)) of a normal variable, δ = 2", near(1.2412, 5e-3), |device| normal_cells(2.0, device)),
    check("its formula, too small", near(2.0471 - 1.0, 1e-4), |_| latent_rate(Source::Gaussian.entropy(), 1, 2.0)),
    check("KSG information, ρ = .9, d = 1", near(1.198, 0.05), |device| neighbours(1, device)),
    check("KSG information, ρ = .9, d = 2", near(2.396, 0.1), |device| neighbours(2, device)),
    check("KSG information, ρ = .9, d = 4, of 4.79: flagged", Between(3.4, 4.0), |device| neighbours(4, device)),
    check("KSG information, ρ = .9, d = 8, of 9.58: flagged", Between(4.0, 4.8), |device| neighbours(8, device)),
    check("true information, ρ = .9, d = 8", near(9.583, 5e-3), |_| 8.0 * gaussian_information(0.9)),
    check("decoder bound of two classes 2 apart, σ = 1, less the truth", Between(-0.03, 0.01), |device| {
        two_classes(device) - normal_sign_information()
    }),
];

/// `log2 K − H(Y | T)` of a channel that errs with `error`, evenly, by its matrix.
fn symmetric_channel(classes: usize, error: f64) -> f64 {
    let row = (0..classes).map(|other| if other == 0 { 1.0 - error } else { error / (classes as f64 - 1.0) });
    (classes as f64).log2() + row.map(|p| p * p.log2()).sum::<f64>()
}

/// How many of `count` random channels, of 2 to 12 classes, a Bayesian decoder reads with fewer errors than Fano allows.
fn errors_below_fano(count: usize) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let violated = |_: &usize| {
        let (classes, outputs) = (random.random_range(2..13u32) as usize, random.random_range(1..20u32) as usize);
        // From nearly even to nearly certain.
        let sharpness = random.random_range(0.1..8.0f64);
        let weights: Vec<f64> = (0..classes * outputs).map(|_| random.random::<f64>().powf(sharpness)).collect();
        let total: f64 = weights.iter().sum();
        let joint: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let sum = |index: &dyn Fn(usize) -> usize, size: usize| {
            let mut sums = vec![0.0; size];
            joint.iter().enumerate().for_each(|(place, p)| sums[index(place)] += p);
            sums
        };
        let entropy = |p: &[f64]| -> f64 { p.iter().filter(|p| **p > 0.0).map(|p| -p * p.log2()).sum() };
        let (y, t) = (sum(&|place| place / outputs, classes), sum(&|place| place % outputs, outputs));
        let information = entropy(&y) + entropy(&t) - entropy(&joint);
        let best = |output: usize| (0..classes).map(|class| joint[class * outputs + output]).fold(0.0, f64::max);
        let error = 1.0 - (0..outputs).map(best).sum::<f64>();
        let slack = 1e-9;
        information < fano_information(entropy(&y), classes, error.clamp(0.0, 1.0)) - slack
            || error < fano_error(entropy(&y), classes, information + slack) - 1e-6
    };
    (0..count).filter(violated).count()
}

/// Counted information of a sign and what rounding leaves of it: `±1` with noise .2.
fn rounded_corners(step: f64) -> f64 {
    let noise = Source::Gaussian.samples(200_000, 3);
    let (signs, rounded): (Vec<bool>, Vec<i64>) = noise
        .iter()
        .enumerate()
        .map(|(index, noise)| (index % 2 == 0, if index % 2 == 0 { 1.0 } else { -1.0 } + 0.2 * f64::from(*noise)))
        .map(|(sign, x)| (sign, (x / step).round() as i64))
        .unzip();
    Joint::of(&signs, &rounded).information().value
}

/// Counted information of a normal variable in cells of `step`, and itself with a quarter of its variance as noise, in cells of .1.
fn normal_chain(step: f64, device: &Device) -> f64 {
    let n = 1_000_000;
    let x = host::gaussian(n, 1, 1, device);
    let y = x.clone() + host::gaussian(n, 1, 2, device) * 0.5;
    Joint::of(&cells(x, step), &cells(y, 0.1)).information().value
}

fn normal_cells(step: f64, device: &Device) -> f64 {
    entropy(&cells(host::gaussian(300_000, 1, 1, device), step))
}

/// KSG information of 2000 pairs of vectors whose coordinates correlate by .9.
fn neighbours(width: usize, device: &Device) -> f64 {
    let x = host::gaussian(2000, width, 1, device);
    let y = x.clone() * 0.9 + host::gaussian(2000, width, 2, device) * 0.19f32.sqrt();
    match ksg(x, y, 4) {
        Ok(found) if found.unreliable == (width > 3) => found.information.value,
        _ => f64::NAN,
    }
}

/// The bound by a probe of which of two classes, 1 above and below 0 with noise 1, a number comes from.
fn two_classes(device: &Device) -> f64 {
    let samples = |seed: u64| -> (Tensor<2>, Vec<usize>) {
        let labels: Vec<usize> = (0..20_000).map(|row| row % 2).collect();
        let signs = labels.iter().map(|label| *label as f32 * 2.0 - 1.0).collect();
        (host::matrix(signs, 1, device) + host::gaussian(20_000, 1, seed, device), labels)
    };
    let ((x, y), (x_test, y_test)) = (samples(1), samples(2));
    decoder_bound(&Probe::fit(x, &y, 2), x_test, &y_test, Bootstrap { resamples: 0, ..Bootstrap::default() }).value
}

/// `1 − E h(1 / (1 + exp(2 x)))` over `x` with mean 1 and variance 1: the information of the sign, by an integral.
fn normal_sign_information() -> f64 {
    let step = 1e-3;
    let lost = (-8000..8000).map(|place| {
        let x = f64::from(place) * step;
        Source::Gaussian.density(x) * step * binary_entropy(1.0 / (1.0 + (2.0 * (x + 1.0)).exp()))
    });
    1.0 - lost.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require;

    #[test]
    fn known_answers() {
        require(checks(), &Device::flex());
    }
}
