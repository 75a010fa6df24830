//! Known answers about latent spaces.

use burn::tensor::{Device, Tensor};

use super::{Bounds, Latent, LatentOptions, participation_ratio, two_nn};
use crate::Expected::Near;
use crate::{Bootstrap, Check, Expected, Source, cells, entropy, host, latent_rate, unit};

/// The known answers about latent spaces.
pub(crate) fn checks() -> &'static [Check] {
    CHECKS
}

const fn check(quantity: &'static str, expected: Expected, measure: fn(&Device) -> f64) -> Check {
    Check { concept: "latent space", quantity, expected, measure }
}

const fn near(value: f64, within: f64) -> Expected {
    Near { value, within }
}

const CHECKS: &[Check] = &[
    check("share of [-1, 1]³ in a ball of 1, π / 6", near(std::f64::consts::PI / 6.0, 5e-3), |_| share_of_cube(1.0)),
    check("share of [-1, 1]³ in a ball of 1.2", near(0.7980, 5e-3), |_| share_of_cube(1.2)),
    check("share of [-1, 1]³ in a ball of 1.4", near(0.9592, 5e-3), |_| share_of_cube(1.4)),
    check("H(Q(X)) of [-1, 1], δ = .5", near(2.0, 5e-3), |device| cube_cells(1, device)),
    check("H(Q(X)) of [-1, 1]², δ = .5", near(4.0, 5e-3), |device| cube_cells(2, device)),
    check("H(Q(X)) of [-1, 1]³, δ = .5", near(6.0, 5e-3), |device| cube_cells(3, device)),
    check("its formula, log2 Vol - 3 log2 δ", near(6.0, 1e-12), |_| latent_rate(3.0, 3, 0.5)),
    check("TwoNN of a sphere in 32 dimensions", near(2.0, 0.1), |device| dimension(sphere(device))),
    check("TwoNN of a 5-cube, low by its edges", near(4.68, 0.25), |device| dimension(cube(2000, 5, device))),
    check("TwoNN of 16 normal dimensions, known to be low", near(14.6, 1.0), |device| {
        dimension(host::gaussian(2000, 16, 4, device))
    }),
    check("points of 2000 in 81 cells that are twins, so that TwoNN refuses", near(2000.0, 0.0), |device| {
        let quantized = (cube(2000, 2, device) * 4.0).round();
        two_nn(quantized, Bootstrap::default()).map_or_else(|twins| twins.points as f64, |_| f64::NAN)
    }),
    check("participation ratio of a 5-cube", near(5.0, 0.05), |device| {
        participation_ratio(cube(20_000, 5, device)).unwrap_or(f64::NAN)
    }),
    check("participation ratio of a sphere in 32 dimensions", near(3.0, 0.05), |device| {
        participation_ratio(sphere(device)).unwrap_or(f64::NAN)
    }),
    check("calibration vectors that escape from their own ellipsoid", near(0.01, 1e-12), |device| escape(0.0, device)),
    // Two of eight coordinates at ±4 are outside, 32 > χ²(.99) = 20.1; one is inside: 1 − q⁸ − 8 (1 − q) q⁷, q = P(|x| < 2).
    check("Q(x) that escapes from the ellipsoid of x, d = 8, δ = 4 σ", near(0.0484, 0.012), |device| {
        escape(4.0, device)
    }),
];

/// The share of the cube of three dimensions that a ball around its middle holds.
fn share_of_cube(radius: f64) -> f64 {
    let volume = Latent::ball(Bounds::Cube(1.0), 3, radius).log2_volume(200_000, 7);
    volume.map_or(f64::NAN, |volume| volume.value.exp2() / 8.0)
}

fn cube(n: usize, width: usize, device: &Device) -> Tensor<2> {
    let values = Source::Uniform.samples(n * width, 3).into_iter().map(|x| x / 3f32.sqrt()).collect();
    host::matrix(values, width, device)
}

/// In cells whose edges are at the edge of the cube.
fn cube_cells(width: usize, device: &Device) -> f64 {
    // Just inside, since the draw may be at the edge itself.
    let inside = cube(100_000, width, device) * 0.999_999;
    entropy(&cells(inside + 0.25, 0.5))
}

/// A sphere of two dimensions, turned into 32.
fn sphere(device: &Device) -> Tensor<2> {
    let points = unit(host::gaussian(2000, 3, 1, device));
    let axes: Vec<f32> =
        (0..96).map(|index| if index % 32 / 8 == index / 32 { 8f32.sqrt().recip() } else { 0.0 }).collect();
    points.matmul(host::matrix(axes, 32, device)) + 1.0
}

fn dimension(x: Tensor<2>) -> f64 {
    let found = two_nn(x, Bootstrap { resamples: 0, ..Bootstrap::default() });
    found.map_or(f64::NAN, |found| found.value)
}

/// The share of 4000 normal vectors of eight dimensions that is outside of their space, in steps; 0 for none.
fn escape(step: f64, device: &Device) -> f64 {
    let x = host::gaussian(4000, 8, 1, device);
    let options = LatentOptions { variance: 1.0, ..LatentOptions::default() };
    let Some(latent) = Latent::fit(x.clone(), options) else { return f64::NAN };
    let quantized = if step > 0.0 { (x / step).round() * step } else { x };
    latent.escape_rate(quantized, Bootstrap { resamples: 0, ..Bootstrap::default() }).value
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
