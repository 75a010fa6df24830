//! Known answers of persistent homology.

use std::f64::consts::{PI, TAU};

use burn::tensor::{Device, Tensor, TensorData};

use super::{Diagram, Distances, LandmarkStability, Landmarks, Stability, bottleneck, persistence, wasserstein};
use crate::{Check, Expected, Source};

/// Of polygons in f32: what of a distance is lost where the corners are near each other.
const ROUNDING: f64 = 1e-6;

/// A check of this module.
const fn check(quantity: &'static str, expected: Expected, measure: fn(&Device) -> f64) -> Check {
    Check { concept: "topology", quantity, expected, measure }
}

const fn near(value: f64) -> Expected {
    Expected::Near { value, within: ROUNDING }
}

/// Regular polygons in the unit circle have one loop, born at the side `2 sin(π / n)` and gone at `2 sin(π ⌈n / 3⌉ / n)`.
const CHECKS: &[Check] = &[
    check("birth of the loop of 6 points on a circle", near(1.0), |device| circle_loop(6, device).0),
    check("birth of the loop of 12 points on a circle", near(0.517_638_09), |device| circle_loop(12, device).0),
    check("birth of the loop of 60 points on a circle", near(0.104_671_91), |device| circle_loop(60, device).0),
    check("death of the loop of 60 points on a circle, √3", near(1.732_050_81), |device| circle_loop(60, device).1),
    check("death of the loop of 10 points on a circle, 2 sin(0.4 π)", near(1.902_113_03), |device| {
        circle_loop(10, device).1
    }),
    check(
        "loops of 3 to 40 points on a circle, beyond one for each with 4 or more",
        Expected::Near { value: 0.0, within: 0.0 },
        |device| {
            (3..=40)
                .map(|n| circle(n, device)[1].longer_than(1e-3).len() as f64 - f64::from(u8::from(n >= 4)))
                .map(f64::abs)
                .sum()
        },
    ),
    check("largest |death of a piece − side|, 3 to 40 points on a circle", Expected::AtMost(ROUNDING), |device| {
        let wrong = |n: usize| {
            let pieces = &circle(n, device)[0];
            assert_eq!(pieces.pairs.len(), n - 1);
            pieces.persistences().map(|death| (death - 2.0 * (PI / n as f64).sin()).abs()).fold(0.0, f64::max)
        };
        (3..=40).map(wrong).fold(0.0, f64::max)
    }),
    check("gaps between five clusters", Expected::Near { value: 4.0, within: 0.0 }, |device| {
        let noise = Source::Gaussian.samples(5 * 20 * 2, 1);
        let center = |cluster: usize| [10.0 * (cluster as f32), 7.0 * (cluster % 2) as f32];
        let points = noise
            .chunks(2)
            .enumerate()
            .flat_map(|(i, noise)| [0, 1].map(|axis| center(i / 20)[axis] + 0.3 * noise[axis]));
        persistence(&Distances::of(tensor(points.collect(), 2, device)))[0].longer_than(5.0).len() as f64
    }),
    check("bottleneck distance of a diagram to itself", Expected::Near { value: 0.0, within: 0.0 }, |device| {
        let diagram = random_loops(device);
        bottleneck(&diagram, &diagram) + wasserstein(&diagram, &diagram, 2.0).unwrap_or(f64::NAN)
    }),
    check("bottleneck distance of a loop shifted by 0.25", Expected::Near { value: 0.25, within: 1e-12 }, |device| {
        let diagram = circle(30, device)[1].clone();
        let shifted = Diagram::new(1, diagram.pairs.iter().map(|(birth, death)| (birth + 0.25, death + 0.25)));
        bottleneck(&diagram, &shifted)
    }),
    check("violations of the stability bounds in 200 clouds", Expected::Near { value: 0.0, within: 0.0 }, violations),
    check("δ √d for δ = 0.1 and a circle in 64 dimensions", Expected::Near { value: 0.8, within: 1e-9 }, |device| {
        planted_circle(device).1.step.map_or(f64::NAN, |step| step.value)
    }),
    // The theory note's .492, .227 and .206 are of a plane of its own.
    check("its displacement bound", Expected::Between(0.45, 0.53), |device| {
        planted_circle(device).1.displacement.value
    }),
    check("its certificate", Expected::Between(0.17, 0.29), |device| planted_circle(device).1.distances.value),
    check("how far its loop moves over the certificate", Expected::Between(0.28, 1.0), |device| {
        let ([before, after], stability) = planted_circle(device);
        bottleneck(&persistence(&before)[1], &persistence(&after)[1]) / stability.distances.value
    }),
    // 11.69 with the noise, for 11.23.
    check(
        "mean distance of 100 Gaussian points in 64 dimensions after rounding, without the noise's square, over that before",
        Expected::Near { value: 1.0, within: 0.003 },
        |device| {
            let x = cloud(100, 64, 4, device);
            let (before, after) =
                (Distances::of(x.clone()), Distances::of(rounded(&x, 1.0)).without_noise(64, 1.0 / 12.0));
            after.condensed().iter().sum::<f64>() / before.condensed().iter().sum::<f64>()
        },
    ),
];

/// The known answers of this module.
pub(crate) fn checks() -> &'static [Check] {
    CHECKS
}

fn tensor(values: Vec<f32>, width: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / width;
    Tensor::from_data(TensorData::new(values, [rows, width]), device)
}

/// `[points, width]` of a normal law.
fn cloud(points: usize, width: usize, seed: u64, device: &Device) -> Tensor<2> {
    tensor(Source::Gaussian.samples(points * width, seed), width, device)
}

fn circle(n: usize, device: &Device) -> [Diagram; 2] {
    let angle = |i: usize| TAU * i as f64 / n as f64;
    let points = (0..n).flat_map(|i| [angle(i).cos() as f32, angle(i).sin() as f32]).collect();
    persistence(&Distances::of(tensor(points, 2, device)))
}

fn circle_loop(n: usize, device: &Device) -> (f64, f64) {
    circle(n, device)[1].pairs[0]
}

fn random_loops(device: &Device) -> Diagram {
    let [_, loops] = persistence(&Distances::of(cloud(80, 3, 5, device)));
    assert!(loops.pairs.len() > 5, "a random cloud has loops");
    loops
}

fn rounded(x: &Tensor<2>, step: f64) -> Tensor<2> {
    x.clone().div_scalar(step).round().mul_scalar(step)
}

/// 40 points on a unit circle in a random plane of 64 dimensions, before and after rounding to multiples of 0.1.
fn planted_circle(device: &Device) -> ([Distances; 2], Stability) {
    let axes = Source::Gaussian.samples(2 * 64, 3);
    let (a, b) = axes.split_at(64);
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let length = dot(a, a).sqrt();
    let a: Vec<f32> = a.iter().map(|a| a / length).collect();
    let along = dot(&a, b);
    let b: Vec<f32> = b.iter().zip(&a).map(|(b, a)| b - along * a).collect();
    let length = dot(&b, &b).sqrt();
    let point = |i: usize| {
        let (sin, cos) = (TAU as f32 * i as f32 / 40.0).sin_cos();
        a.iter().zip(&b).map(move |(a, b)| cos * a + sin * b / length).collect::<Vec<_>>()
    };
    let x = tensor((0..40).flat_map(point).collect(), 64, device);
    let y = rounded(&x, 0.1);
    let stability = Stability::of(x.clone(), y.clone(), Some(0.1));
    ([Distances::of(x), Distances::of(y)], stability)
}

/// In 200 random clouds, rounded to steps of many sizes: how often a bound is above the next one, a diagram further away than the first
/// bound or than that by landmarks, or a diagram of landmarks further away than twice their radius.
fn violations(device: &Device) -> f64 {
    let mut violations = 0;
    let mut require = |holds: bool| violations += usize::from(!holds);
    for seed in 0..200 {
        let (points, width) = (8 + seed as usize % 23, 1 + seed as usize % 7);
        let step = 0.05 * 1.35f64.powi((seed % 11) as i32);
        let x = cloud(points, width, seed, device);
        let y = rounded(&x, step);
        let stability = Stability::of(x.clone(), y.clone(), Some(step));
        // Rounding of f32 may leave equal ones apart.
        let at_most = |a: f64, b: f64| a <= b * (1.0 + 1e-5);
        require(at_most(stability.distances.value, stability.displacement.value));
        require(stability.step.as_ref().is_some_and(|step| at_most(stability.displacement.value, step.value)));
        let landmarks = Landmarks::maxmin(x.clone(), points / 2, 0);
        let total = LandmarkStability::of(x.clone(), y.clone(), &landmarks, None).total.value;
        let part = persistence(&Distances::of(landmarks.of(x.clone())));
        let (before, after) = (persistence(&Distances::of(x)), persistence(&Distances::of(y)));
        for ((before, after), part) in before.iter().zip(&after).zip(&part) {
            let moved = bottleneck(before, after);
            require(moved <= stability.distances.value && moved <= total);
            require(at_most(bottleneck(before, part), 2.0 * landmarks.radius));
            require(stability.surviving(before).len() <= after.pairs.len());
        }
    }
    violations as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        crate::require(checks(), &Device::flex());
    }
}
