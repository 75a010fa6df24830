//! Known answers of hypercubicity.

use std::cell::RefCell;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Cube, Hypercubicity};
use crate::{Check, Expected, Source};

/// A check of this module.
const fn check(quantity: &'static str, expected: Expected, measure: fn(&Device) -> f64) -> Check {
    Check { concept: "hypercubicity", quantity, expected, measure }
}

const fn near(value: f64, within: f64) -> Expected {
    Expected::Near { value, within }
}

const TANH: Cube = Cube::Bounded { low: -1.0, high: 1.0 };

/// `f` of samples of a source, `[n, d]`, in the box from −1 to 1 with δ = 0.2.
fn measured(source: Source, n: usize, d: usize, f: impl Fn(f32) -> f32, device: &Device) -> Hypercubicity {
    let values: Vec<f32> = source.samples(n * d, 11).into_iter().map(f).collect();
    Hypercubicity::of(Tensor::from_data(TensorData::new(values, [n, d]), device), TANH, 0.2, 1)
}

/// The uniform source on −1 to 1.
fn unit_uniform(x: f32) -> f32 {
    x / 3f32.sqrt()
}

/// Corners of the cube and normal noise of deviation 0.1, `[20000, 2]`.
fn noisy_corners(device: &Device) -> Hypercubicity {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let corner = RefCell::new(move || if random.random::<bool>() { 1.0 } else { -1.0 });
    measured(Source::Gaussian, 20_000, 2, |z| (corner.borrow_mut())() + 0.1 * z, device)
}

/// The known answers of this module; δ = 0.2 always.
const CHECKS: &[Check] = &[
    check("h_coord of uniform coordinates, δ", near(0.2, 0.01), |device| {
        measured(Source::Uniform, 20_000, 2, unit_uniform, device).h_coord.value
    }),
    check("h_corner of 2 uniform coordinates, δ²", near(0.04, 0.01), |device| {
        measured(Source::Uniform, 20_000, 2, unit_uniform, device).h_corner
    }),
    check("h_coord of tanh(z), 2 Φ(−atanh(1 − δ))", near(0.2719, 0.01), |device| {
        measured(Source::Gaussian, 10_000, 2, f32::tanh, device).h_coord.value
    }),
    check("h_coord of tanh(5 z), 2 Φ(−atanh(1 − δ) / 5)", near(0.8261, 0.01), |device| {
        measured(Source::Gaussian, 10_000, 2, |z| (5.0 * z).tanh(), device).h_coord.value
    }),
    check("h_corner of tanh(5 z) in 32 dimensions, 0.8261³²", near(0.0022, 0.001), |device| {
        measured(Source::Gaussian, 20_000, 32, |z| (5.0 * z).tanh(), device).h_corner
    }),
    check("h_coord of ±1 + N(0, 0.1), Φ(2)", near(0.9772, 0.01), |device| noisy_corners(device).h_coord.value),
    check("1-bit SNR of ±1 + N(0, 0.1), dB", near(20.05, 0.1), |device| noisy_corners(device).one_bit_db),
    check("1-bit SNR of uniform coordinates, dB", near(6.0206, 0.05), |device| {
        measured(Source::Uniform, 20_000, 2, unit_uniform, device).one_bit_db
    }),
    check("1-bit SNR of normal coordinates, dB", near(4.396, 0.05), |device| {
        measured(Source::Gaussian, 20_000, 2, |z| z, device).one_bit_db
    }),
    check("bimodality of normal coordinates, 1/3", near(1.0 / 3.0, 0.01), |device| {
        measured(Source::Gaussian, 20_000, 2, |z| z, device).bimodality
    }),
    check("bimodality of uniform coordinates, 5/9", near(5.0 / 9.0, 0.01), |device| {
        measured(Source::Uniform, 20_000, 2, unit_uniform, device).bimodality
    }),
    check("bimodality of two points", near(1.0, 0.001), |device| {
        measured(Source::Gaussian, 20_000, 2, f32::signum, device).bimodality
    }),
    check("vertex entropy of 6 fair signs, bits", near(6.0, 0.01), |device| {
        measured(Source::Gaussian, 20_000, 6, |z| z, device).vertices.entropy
    }),
    check("share of signs in which two points differ", near(0.5, 0.01), |device| {
        measured(Source::Gaussian, 20_000, 6, |z| z, device).vertices.hamming
    }),
    check("standard errors of normal coordinates above the normal null", Expected::Between(-3.0, 3.0), |device| {
        measured(Source::Gaussian, 20_000, 8, |z| 0.7 * z, device).z_gaussian
    }),
    check("standard errors of normal coordinates above their rotation", Expected::Between(-3.0, 3.0), |device| {
        measured(Source::Gaussian, 20_000, 8, |z| 0.7 * z, device).z_rotated
    }),
    check("standard errors of tanh(5 z) above the normal null", Expected::AtLeast(100.0), |device| {
        measured(Source::Gaussian, 20_000, 8, |z| (5.0 * z).tanh(), device).z_gaussian
    }),
    check("standard errors of tanh(5 z) above its rotation", Expected::AtLeast(100.0), |device| {
        measured(Source::Gaussian, 20_000, 8, |z| (5.0 * z).tanh(), device).z_rotated
    }),
];

/// The known answers of this module.
pub(crate) fn checks() -> &'static [Check] {
    CHECKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        crate::require(checks(), &Device::flex());
    }
}
