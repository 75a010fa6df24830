//! Known answers about fine-tuning.

use burn::tensor::{Device, Tensor, TensorData};
use quench_format::{Packed, Scales};
use quench_metrics::{Check, Expected};
use quench_quantize::{Gram, Matrix};

use crate::{LearnedStep, Start, Targets, host, recover};

const LEARNED: &str = "learned step";
const DISTILLED: &str = "distillation";
const RECOVERED: &str = "error recovery";

const fn near(value: f64, within: f64) -> Expected {
    Expected::Near { value, within }
}

/// Every known answer about fine-tuning.
pub fn known_answers() -> Vec<Check> {
    CHECKS.to_vec()
}

/// Levels of int3 are −4 to 3, so that `Q = 3`; four weights share the scale 0.5: the published factor is `1 / √12`.
const CHECKS: &[Check] = &[
    Check {
        concept: LEARNED,
        quantity: "∂Ŵ/∂s · √(N Q) at w = 0.65 s, inside: round(w/s) − w/s",
        expected: near(0.35, 1e-6),
        measure: |device| step_gradient(0.65, device)[1] * 12f64.sqrt(),
    },
    Check {
        concept: LEARNED,
        quantity: "∂Ŵ/∂s · √(N Q) at w = 9 s, above: Q",
        expected: near(3.0, 1e-6),
        measure: |device| step_gradient(9.0, device)[1] * 12f64.sqrt(),
    },
    Check {
        concept: LEARNED,
        quantity: "∂Ŵ/∂s · √(N Q) at w = −9 s, below: −Q − 1",
        expected: near(-4.0, 1e-6),
        measure: |device| step_gradient(-9.0, device)[1] * 12f64.sqrt(),
    },
    Check {
        concept: LEARNED,
        quantity: "∂Ŵ/∂w inside",
        expected: near(1.0, 1e-6),
        measure: |device| step_gradient(0.65, device)[0],
    },
    Check {
        concept: LEARNED,
        quantity: "∂Ŵ/∂w outside",
        expected: near(0.0, 0.0),
        measure: |device| step_gradient(9.0, device)[0],
    },
    Check {
        concept: DISTILLED,
        quantity: "KL of (1/2, 1/2) from (1/4, 3/4): ½ ln 2 + ½ ln 2/3",
        expected: near(0.143_841_036_225_890_4, 1e-6),
        measure: |device| divergence(&[0.5, 0.5], &[0.25, 0.75], 2, device),
    },
    Check {
        concept: DISTILLED,
        quantity: "KL of (.5, .25, .25) from (.5, .4, .1), whole",
        expected: near(0.111_571_775_657_104_9, 1e-6),
        measure: |device| divergence(&[0.5, 0.25, 0.25], &[0.5, 0.4, 0.1], 3, device),
    },
    Check {
        concept: DISTILLED,
        quantity: "the same with one class and a tail, which are alike",
        expected: near(0.0, 1e-6),
        measure: |device| divergence(&[0.5, 0.25, 0.25], &[0.5, 0.4, 0.1], 1, device),
    },
    Check {
        concept: RECOVERED,
        quantity: "what rank 1 leaves of diag(3, 2, 1), G = I: (4 + 1) / 14",
        expected: near(5.0 / 14.0, 1e-6),
        measure: |device| left([1.0, 1.0, 1.0], 1, device),
    },
    Check {
        concept: RECOVERED,
        quantity: "what rank 1 leaves of diag(3, 2, 1), G = diag(1, 9, 1): (9 + 1) / 46",
        expected: near(10.0 / 46.0, 1e-6),
        measure: |device| left([1.0, 9.0, 1.0], 1, device),
    },
];

/// `∂Ŵ/∂w` and `∂Ŵ/∂s` of one weight at `at` scales; three others, in the middle of their cell, add nothing.
fn step_gradient(at: f32, device: &Device) -> [f64; 2] {
    const SCALE: f32 = 0.5;
    let scheme = "int3/row/f32".parse().unwrap_or_else(|error| unreachable!("{error}"));
    let packed = Packed::from_codes(scheme, [1, 4], &[4; 4], Scales::Float(vec![SCALE]), None, None)
        .unwrap_or_else(|error| unreachable!("{error}"));
    let dense = Matrix { rows: 1, columns: 4, values: vec![at * SCALE, 0.0, 0.0, 0.0] };
    let mut step = LearnedStep::new(&packed, Start::Dense(&dense), &device.clone().autodiff())
        .unwrap_or_else(|scheme| unreachable!("{scheme} is scalar"));
    let grads = step.weight().sum().backward();
    let mut of = |name| {
        let found = step.tensors().into_iter().find(|(found, _)| *found == name);
        let gradient = found.and_then(|(_, x)| x.grad(&grads)).map(host);
        // Weights and scales are both in units of the scale at the start.
        gradient.map_or(f64::NAN, |g| f64::from(g[0]) / f64::from(SCALE))
    };
    [of("latent"), of("scale")]
}

fn divergence(p: &[f64], q: &[f64], top: usize, device: &Device) -> f64 {
    let logits = |p: &[f64]| {
        let values: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        Tensor::<2>::from_data(TensorData::new(values, [1, p.len()]), device)
    };
    f64::from(host(Targets::new(logits(p), top).divergence(logits(q)))[0])
}

/// The share that a correction of this rank leaves, the damping negligible.
fn left(gram: [f32; 3], rank: usize, device: &Device) -> f64 {
    let diagonal =
        |values: [f32; 3]| (0..9).map(|at| if at % 4 == 0 { values[at / 4] } else { 0.0 }).collect::<Vec<f32>>();
    let residual = Matrix { rows: 3, columns: 3, values: diagonal([3.0, 2.0, 1.0]) };
    let gram = Gram::new(Tensor::from_data(TensorData::new(diagonal(gram), [3, 3]), device), 1);
    recover(&residual, &gram, rank, 1e-9).map_or(f64::NAN, |found| found.after / found.before)
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_answers_hold() {
        quench_metrics::require(super::CHECKS, &burn::tensor::Device::flex());
    }
}
