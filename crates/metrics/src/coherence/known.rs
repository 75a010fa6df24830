//! Known answers of coherence, and of the metrics that it is the least of.

use burn::tensor::{Device, Tensor};

use super::{Coherence, CoherenceOptions, Hidden, Metric};
use crate::Expected::{AtLeast, Near};
use crate::geometry::lattice;
use crate::{Analogies, Bootstrap, Check, Expected, Neighbours, Reconstruction, biased_cka, cka, host, jsd_per_token};

/// The known answers of coherence and of the metrics that it is the least of.
pub(crate) fn checks() -> Vec<Check> {
    [EXACT, CHANCE, BIAS, TABLE].concat()
}

const fn check(quantity: &'static str, expected: Expected, measure: fn(&Device) -> f64) -> Check {
    Check { concept: "coherence", quantity, expected, measure }
}

const fn near(value: f64, within: f64) -> Expected {
    Near { value, within }
}

/// What moves no information.
const EXACT: &[Check] = &[
    check("kNN overlap of a copy turned, scaled, moved", AtLeast(1.0 - 1e-3), |device| {
        of_copy(Metric::KnnOverlap, device)
    }),
    check("trustworthiness of a copy turned, scaled, moved", near(1.0, 1e-6), |device| {
        of_copy(Metric::Trustworthiness, device)
    }),
    check("continuity of a copy turned, scaled, moved", near(1.0, 1e-6), |device| of_copy(Metric::Continuity, device)),
    check("debiased CKA of a copy turned, scaled, moved", near(1.0, 1e-6), |device| of_copy(Metric::Cka, device)),
    check("RSA of a copy turned, scaled, moved", near(1.0, 1e-6), |device| of_copy(Metric::Rsa, device)),
    check("1 - Procrustes disparity of a copy turned, scaled, moved", near(1.0, 1e-6), |device| {
        of_copy(Metric::Procrustes, device)
    }),
    check("1 - loss of reconstruction of a copy turned, scaled, moved", near(1.0, 1e-6), |device| {
        of_copy(Metric::Reconstruction, device)
    }),
    check("errors of reconstruction after an affine map", near(0.0, 1e-6), affine),
    check("analogies of a lattice", near(1.0, 0.0), |device| of_lattice(device).accuracy().unwrap_or(f64::NAN)),
    check("cosine of opposite sides in a lattice, at least", near(1.0, 1e-5), |device| {
        of_lattice(device).parallelism.into_iter().fold(1.0, f64_min)
    }),
    check("kNN overlap of points that occur five times, with themselves", near(1.0, 0.0), |device| {
        let some = host::gaussian(40, 6, 1, device);
        let all = Neighbours::of(Tensor::cat(vec![some; 5], 0), 10);
        mean(all.overlap(&all))
    }),
    check("JSD of distributions that share nothing, ln 2", near(std::f64::consts::LN_2, 1e-6), |device| {
        let apart = |values: [f32; 2]| host::matrix(values.into(), 2, device);
        mean(jsd_per_token(apart([90.0, 0.0]), apart([0.0, 90.0])))
    }),
];

/// What is left of samples that have nothing to do with each other, within 3 standard errors.
const CHANCE: &[Check] = &[
    check("kNN overlap of independent samples, beyond chance", near(0.0, 3e-3), |device| {
        independent(Metric::KnnOverlap, device)
    }),
    check("trustworthiness of independent samples, beyond chance", near(0.0, 0.02), |device| {
        independent(Metric::Trustworthiness, device)
    }),
    check("continuity of independent samples, beyond chance", near(0.0, 0.02), |device| {
        independent(Metric::Continuity, device)
    }),
    check("debiased CKA of independent samples", near(0.0, 0.01), |device| independent(Metric::Cka, device)),
    check("RSA of independent samples", near(0.0, 0.015), |device| independent(Metric::Rsa, device)),
    check("1 - Procrustes of independent samples, beyond chance", near(0.0, 0.01), |device| {
        independent(Metric::Procrustes, device)
    }),
    check("reconstruction of independent samples, beyond chance", near(0.0, 0.05), |device| {
        independent(Metric::Reconstruction, device)
    }),
    check("kNN overlap of one side in another order, beyond chance", near(0.0, 3e-3), |device| {
        let x = host::gaussian(1000, 16, 1, device);
        score(Metric::KnnOverlap, x.clone(), x.flip([0]))
    }),
    check("debiased CKA of one side in another order", near(0.0, 0.01), |device| {
        let x = host::gaussian(1000, 16, 1, device);
        score(Metric::Cka, x.clone(), x.flip([0]))
    }),
];

/// CKA of independent samples in 256 dimensions.
const BIAS: &[Check] = &[
    check("biased CKA of 20 independent samples, d = 256", near(0.930, 0.01), |device| biased(20, device)),
    check("biased CKA of 50 independent samples, d = 256", near(0.844, 0.01), |device| biased(50, device)),
    check("biased CKA of 200 independent samples, d = 256", near(0.567, 0.01), |device| biased(200, device)),
    check("biased CKA of 1000 independent samples, d = 256", near(0.202, 0.01), |device| biased(1000, device)),
    check("debiased CKA of 20 independent samples, mean of 200", near(0.0, 0.02), |device| {
        debiased(20, 200, device)[0]
    }),
    check("debiased CKA of 50 independent samples, mean of 200", near(0.0, 0.01), |device| {
        debiased(50, 200, device)[0]
    }),
    check("debiased CKA of 50 independent samples, deviation of one", near(0.029, 0.006), |device| {
        debiased(50, 200, device)[1]
    }),
    check("debiased CKA of 200 independent samples, mean of 50", near(0.0, 4e-3), |device| {
        debiased(200, 50, device)[0]
    }),
];

/// Eight dimensions in 64 and a tenth of noise, of variance 1, rounded in steps: what each metric says of the same loss. Measured in the
/// theory note on a draw of its own; tolerances are those of a draw.
const TABLE: &[Check] = &[
    check("kNN overlap, rank 8 in 64 and noise, δ = .5", near(0.88, 0.02), |device| {
        rounded(Metric::KnnOverlap, 0.5, device)
    }),
    check("kNN overlap, rank 8 in 64 and noise, δ = 1", near(0.765, 0.02), |device| {
        rounded(Metric::KnnOverlap, 1.0, device)
    }),
    check("kNN overlap, rank 8 in 64 and noise, δ = 2", near(0.495, 0.02), |device| {
        rounded(Metric::KnnOverlap, 2.0, device)
    }),
    check("kNN overlap, rank 8 in 64 and noise, δ = 3", near(0.295, 0.02), |device| {
        rounded(Metric::KnnOverlap, 3.0, device)
    }),
    check("kNN overlap, rank 8 in 64 and noise, δ = 4", near(0.141, 0.02), |device| {
        rounded(Metric::KnnOverlap, 4.0, device)
    }),
    check("trustworthiness, rank 8 in 64 and noise, δ = .5", near(0.9996, 0.02), |device| {
        rounded(Metric::Trustworthiness, 0.5, device)
    }),
    check("trustworthiness, rank 8 in 64 and noise, δ = 1", near(0.998, 0.02), |device| {
        rounded(Metric::Trustworthiness, 1.0, device)
    }),
    check("trustworthiness, rank 8 in 64 and noise, δ = 2", near(0.985, 0.02), |device| {
        rounded(Metric::Trustworthiness, 2.0, device)
    }),
    check("trustworthiness, rank 8 in 64 and noise, δ = 3", near(0.935, 0.02), |device| {
        rounded(Metric::Trustworthiness, 3.0, device)
    }),
    check("trustworthiness, rank 8 in 64 and noise, δ = 4", near(0.835, 0.02), |device| {
        rounded(Metric::Trustworthiness, 4.0, device)
    }),
    check("RSA, rank 8 in 64 and noise, δ = .5", near(0.997, 0.02), |device| rounded(Metric::Rsa, 0.5, device)),
    check("RSA, rank 8 in 64 and noise, δ = 1", near(0.988, 0.02), |device| rounded(Metric::Rsa, 1.0, device)),
    check("RSA, rank 8 in 64 and noise, δ = 2", near(0.937, 0.02), |device| rounded(Metric::Rsa, 2.0, device)),
    check("RSA, rank 8 in 64 and noise, δ = 3", near(0.805, 0.02), |device| rounded(Metric::Rsa, 3.0, device)),
    check("RSA, rank 8 in 64 and noise, δ = 4", near(0.687, 0.02), |device| rounded(Metric::Rsa, 4.0, device)),
    check("debiased CKA, rank 8 in 64 and noise, δ = .5", near(0.998, 0.02), |device| {
        rounded(Metric::Cka, 0.5, device)
    }),
    check("debiased CKA, rank 8 in 64 and noise, δ = 1", near(0.991, 0.02), |device| {
        rounded(Metric::Cka, 1.0, device)
    }),
    check("debiased CKA, rank 8 in 64 and noise, δ = 2", near(0.951, 0.02), |device| {
        rounded(Metric::Cka, 2.0, device)
    }),
    check("debiased CKA, rank 8 in 64 and noise, δ = 3", near(0.833, 0.02), |device| {
        rounded(Metric::Cka, 3.0, device)
    }),
    check("debiased CKA, rank 8 in 64 and noise, δ = 4", near(0.632, 0.02), |device| {
        rounded(Metric::Cka, 4.0, device)
    }),
    check("1 - Procrustes, rank 8 in 64 and noise, δ = .5", near(0.979, 0.02), |device| {
        rounded(Metric::Procrustes, 0.5, device)
    }),
    check("1 - Procrustes, rank 8 in 64 and noise, δ = 1", near(0.923, 0.02), |device| {
        rounded(Metric::Procrustes, 1.0, device)
    }),
    check("1 - Procrustes, rank 8 in 64 and noise, δ = 2", near(0.751, 0.02), |device| {
        rounded(Metric::Procrustes, 2.0, device)
    }),
    check("1 - Procrustes, rank 8 in 64 and noise, δ = 3", near(0.558, 0.02), |device| {
        rounded(Metric::Procrustes, 3.0, device)
    }),
    check("1 - Procrustes, rank 8 in 64 and noise, δ = 4", near(0.378, 0.02), |device| {
        rounded(Metric::Procrustes, 4.0, device)
    }),
];

fn f64_min(a: f64, b: f32) -> f64 {
    a.min(f64::from(b))
}

fn mean(values: Vec<f32>) -> f64 {
    let n = values.len() as f64;
    values.into_iter().map(f64::from).sum::<f64>() / n
}

fn measured(metric: Metric, reference: Tensor<2>, approximation: Tensor<2>) -> Option<Coherence> {
    let bootstrap = Bootstrap { resamples: 0, ..Bootstrap::default() };
    let options = CoherenceOptions { metrics: vec![metric], bootstrap, ..CoherenceOptions::default() };
    let hidden = Hidden { reference, approximation, sequences: &[] };
    Coherence::measure(&options, Some(&hidden), None).ok()
}

/// One metric beyond chance.
fn score(metric: Metric, reference: Tensor<2>, approximation: Tensor<2>) -> f64 {
    measured(metric, reference, approximation).and_then(|found| found.value()).unwrap_or(f64::NAN)
}

/// 500 samples in 12 dimensions, and the same turned by a product of plane rotations, eight times as large and elsewhere.
fn of_copy(metric: Metric, device: &Device) -> f64 {
    let x = host::gaussian(500, 12, 1, device);
    let mut turned = x.clone();
    for step in 1..6 {
        let (sin, cos) = (0.7 * step as f32).sin_cos();
        // Every coordinate with one half the width further.
        let half = turned.clone().slice_dim(1, 0..6);
        let rest = turned.slice_dim(1, 6..12);
        let pair = [half.clone() * cos - rest.clone() * sin, half * sin + rest * cos];
        let mixed = Tensor::cat(pair.into(), 1);
        turned = Tensor::cat(vec![mixed.clone().slice_dim(1, 1..12), mixed.slice_dim(1, 0..1)], 1);
    }
    score(metric, x, turned * 8.0 + 2.0)
}

/// One metric, with what is chance in it, of a thousand samples and of what rounding in steps makes of them.
fn rounded(metric: Metric, step: f64, device: &Device) -> f64 {
    let signal = host::gaussian(1000, 8, 11, device).matmul(host::gaussian(8, 64, 12, device)) / 8f32.sqrt();
    let x = signal + host::gaussian(1000, 64, 13, device) * 0.1;
    let x = x.clone() - x.mean_dim(0);
    let x = x.clone() / x.square().mean().sqrt().reshape([1, 1]);
    measured(metric, x.clone(), (x / step).round() * step).map_or(f64::NAN, |found| found.scored[0].value.value)
}

fn independent(metric: Metric, device: &Device) -> f64 {
    score(metric, host::gaussian(1000, 16, 1, device), host::gaussian(1000, 16, 2, device))
}

/// The unexplained share of both sides, five dimensions by ten neighbours.
fn affine(device: &Device) -> f64 {
    let x = host::gaussian(400, 5, 1, device);
    let y = x.clone().matmul(host::gaussian(5, 9, 2, device)) + 4.0;
    let found = Reconstruction::of(x, y, 10);
    let share = |errors: &[f64], variances: &[f64]| errors.iter().sum::<f64>() / variances.iter().sum::<f64>();
    share(&found.own, &found.own_variance).max(share(&found.transferred, &found.transferred_variance))
}

fn of_lattice(device: &Device) -> Analogies {
    let (x, analogies) = lattice(6, 32, 1, device);
    Analogies::of(x, &analogies)
}

fn biased(n: usize, device: &Device) -> f64 {
    biased_cka(host::gaussian(n, 256, 1, device), host::gaussian(n, 256, 2, device)).unwrap_or(f64::NAN)
}

/// Mean and standard deviation over independent draws.
fn debiased(n: usize, draws: u64, device: &Device) -> [f64; 2] {
    let draw = |seed| cka(host::gaussian(n, 256, 2 * seed, device), host::gaussian(n, 256, 2 * seed + 1, device));
    let values: Vec<f64> = (0..draws).map(|seed| draw(seed).unwrap_or(f64::NAN)).collect();
    let mean = values.iter().sum::<f64>() / draws as f64;
    [mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / draws as f64).sqrt()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require;

    #[test]
    fn known_answers() {
        require(&checks(), &Device::flex());
    }
}
