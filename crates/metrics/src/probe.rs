//! A linear probe: how well a straight cut through vectors tells classes apart.

use std::collections::VecDeque;

use burn::tensor::Tensor;

use crate::host;

/// Multinomial logistic regression on vectors, trained on the host in f64: the same vectors give the same probe.
///
/// ```text
/// J(W, b) = (1/n) Σ_i −log softmax(W z_i + b)_{y_i} + (λ/2) |W|²,   z = (x − mean) / std
/// ```
///
/// `mean` and `std` are those of the training vectors; a feature that is constant there counts as 0. `λ` is
/// [`L2`](Self::L2) always, so that no held-out vectors are needed to choose it. `J` has one smallest value, and it is
/// followed with L-BFGS until its gradient is shorter than 1e-7.
///
/// Source: Conneau and Kiela 2018, "SentEval" (`docs/references.md#senteval`); Liu and Nocedal 1989
/// (`docs/references.md#lbfgs`).
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    mean: Vec<f64>,
    /// `1 / std`; 0 for a constant feature.
    scale: Vec<f64>,
    /// `[classes, width + 1]`; the bias is last in its row.
    weights: Vec<f64>,
}

impl Probe {
    /// The strength `λ` of the penalty: the strongest of those that SentEval chooses from.
    pub const L2: f64 = 0.01;

    /// The probe that fits `labels` best.
    ///
    /// - `vectors`: `[rows, width]`, finite
    /// - `labels`: one per row, each below `classes`
    ///
    /// # Panics
    ///
    /// If there is no row, not one label per row, or a label is not below `classes`.
    pub fn fit(vectors: Tensor<2>, labels: &[usize], classes: usize) -> Self {
        let [rows, width] = vectors.dims();
        assert!(
            rows == labels.len() && rows > 0,
            "[{rows}, {width}] vectors need a label each, found {}",
            labels.len()
        );
        assert!(labels.iter().all(|label| *label < classes), "every label must be below {classes}");
        let mut z = host::floats(vectors);
        let (mean, scale) = moments(&z, width);
        standardise(&mut z, &mean, &scale);
        let objective = |weights: &[f64], gradient: &mut [f64]| objective(weights, &z, labels, width, gradient);
        let weights = minimum(vec![0.0; classes * (width + 1)], objective);
        Self { mean, scale, weights }
    }

    /// The likeliest class of each row of `vectors`, `[rows, width]`; the lowest of several.
    ///
    /// # Panics
    ///
    /// If the vectors are not as wide as those that the probe was fitted to.
    pub fn predict(&self, vectors: Tensor<2>) -> Vec<usize> {
        let [rows, width] = vectors.dims();
        assert_eq!(width, self.mean.len(), "a probe of {} features cannot read [{rows}, {width}]", self.mean.len());
        let mut z = host::floats(vectors);
        standardise(&mut z, &self.mean, &self.scale);
        let best = |z: &[f32]| {
            let logits = logits(&self.weights, z);
            (1..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best })
        };
        z.chunks(width.max(1)).map(best).collect()
    }

    /// `−log softmax(W z + b)_y` of the label of each row, in nats: what its class costs a code that trusts the probe.
    ///
    /// - `vectors`: `[rows, width]`, finite
    /// - `labels`: one per row, each below the number of classes that the probe was fitted to
    ///
    /// # Panics
    ///
    /// If the vectors are not as wide as those of the fit, there is not one label per row, or a label is not one of the classes.
    pub fn cross_entropy(&self, vectors: Tensor<2>, labels: &[usize]) -> Vec<f64> {
        let [rows, width] = vectors.dims();
        assert_eq!(width, self.mean.len(), "a probe of {} features cannot read [{rows}, {width}]", self.mean.len());
        assert_eq!(labels.len(), rows, "[{rows}, {width}] vectors need a label each, found {}", labels.len());
        let mut z = host::floats(vectors);
        standardise(&mut z, &self.mean, &self.scale);
        let cost = |(z, label): (&[f32], &usize)| {
            let logits = logits(&self.weights, z);
            assert!(*label < logits.len(), "label {label} is not one of {} classes", logits.len());
            let top = logits.iter().copied().fold(f64::MIN, f64::max);
            top - logits[*label] + logits.iter().map(|logit| (logit - top).exp()).sum::<f64>().ln()
        };
        z.chunks(width.max(1)).zip(labels).map(cost).collect()
    }
}

/// Mean and `1 / std` of each feature of `x`, `[rows, width]`.
fn moments(x: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (x.len() / width) as f64;
    let mut mean = vec![0.0; width];
    for row in x.chunks(width) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / rows);
    }
    let mut variance = vec![0.0; width];
    for row in x.chunks(width) {
        let deviations = row.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean);
        variance.iter_mut().zip(deviations).for_each(|(sum, deviation)| *sum += deviation * deviation / rows);
    }
    // What is below the rounding of f32 is no signal.
    let constant = |variance: f64, mean: f64| variance.sqrt() <= 1e-7 * mean.abs();
    let scale = variance.iter().zip(&mean).map(|(v, mean)| if constant(*v, *mean) { 0.0 } else { 1.0 / v.sqrt() });
    (mean.clone(), scale.collect())
}

fn standardise(x: &mut [f32], mean: &[f64], scale: &[f64]) {
    for row in x.chunks_mut(mean.len()) {
        for ((x, mean), scale) in row.iter_mut().zip(mean).zip(scale) {
            *x = ((f64::from(*x) - mean) * scale) as f32;
        }
    }
}

/// `W z + b`.
fn logits(weights: &[f64], z: &[f32]) -> Vec<f64> {
    weights.chunks(z.len() + 1).map(|row| row[z.len()] + dot(&row[..z.len()], z)).collect()
}

/// In eight sums side by side, which the compiler makes one vector of.
fn dot(w: &[f64], z: &[f32]) -> f64 {
    let (w, w_rest) = w.as_chunks::<8>();
    let (z, z_rest) = z.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (w, z) in w.iter().zip(z) {
        for lane in 0..8 {
            sums[lane] += w[lane] * f64::from(z[lane]);
        }
    }
    let rest: f64 = w_rest.iter().zip(z_rest).map(|(w, z)| w * f64::from(*z)).sum();
    sums.iter().sum::<f64>() + rest
}

/// `J` at `weights`, and its gradient.
fn objective(weights: &[f64], z: &[f32], labels: &[usize], width: usize, gradient: &mut [f64]) -> f64 {
    let rows = labels.len() as f64;
    gradient.fill(0.0);
    let mut loss = 0.0;
    for (z, &label) in z.chunks(width).zip(labels) {
        let mut scores = logits(weights, z);
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
        loss += (top + sum.ln() - scores[label]) / rows;
        scores.iter_mut().for_each(|score| *score = (*score - top).exp() / sum / rows);
        scores[label] -= 1.0 / rows;
        for (slope, gradient) in scores.iter().zip(gradient.chunks_mut(width + 1)) {
            gradient.iter_mut().zip(z).for_each(|(sum, z)| *sum += slope * f64::from(*z));
            gradient[width] += slope;
        }
    }
    let mut penalty = 0.0;
    for (weights, gradient) in weights.chunks(width + 1).zip(gradient.chunks_mut(width + 1)) {
        for (w, gradient) in weights[..width].iter().zip(gradient) {
            penalty += w * w;
            *gradient += Probe::L2 * w;
        }
    }
    loss + 0.5 * Probe::L2 * penalty
}

/// Where a smooth convex function is smallest, by L-BFGS with 10 pairs and halved steps.
///
/// - `function`: the point → its value; writes the gradient
fn minimum(mut x: Vec<f64>, function: impl Fn(&[f64], &mut [f64]) -> f64) -> Vec<f64> {
    const PAIRS: usize = 10;
    const STEPS: usize = 1000;
    const GRADIENT: f64 = 1e-7;
    let product = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let mut gradient = vec![0.0; x.len()];
    let mut value = function(&x, &mut gradient);
    // Steps s, the changes y of the gradient, and 1 / (s · y).
    let mut pairs: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::with_capacity(PAIRS + 1);
    for _ in 0..STEPS {
        let length = product(&gradient, &gradient).sqrt();
        if length < GRADIENT {
            break;
        }
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut shares = Vec::with_capacity(pairs.len());
        for (s, y, inverse) in pairs.iter().rev() {
            let share = inverse * product(s, &direction);
            direction.iter_mut().zip(y).for_each(|(d, y)| *d -= share * y);
            shares.push(share);
        }
        // Without a pair, a step of length 1.
        let curvature = pairs.back().map_or(length, |(_, y, inverse)| inverse * product(y, y));
        direction.iter_mut().for_each(|d| *d /= curvature);
        for ((s, y, inverse), share) in pairs.iter().zip(shares.into_iter().rev()) {
            let excess = share - inverse * product(y, &direction);
            direction.iter_mut().zip(s).for_each(|(d, s)| *d += excess * s);
        }

        let slope = product(&gradient, &direction);
        let mut next_gradient = vec![0.0; x.len()];
        let mut along = |step: f64| {
            let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            let next_value = function(&next, &mut next_gradient);
            // Armijo: at least a ten-thousandth of what the slope promises.
            (next_value <= value + 1e-4 * step * slope).then_some((next, next_value))
        };
        let Some((next, next_value)) = (0..40).find_map(|halvings| along(0.5f64.powi(halvings))) else {
            // Rounding hides what is still to gain.
            break;
        };
        let s: Vec<f64> = next.iter().zip(&x).map(|(next, x)| next - x).collect();
        let y: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(next, g)| next - g).collect();
        let bend = product(&s, &y);
        if bend > 0.0 {
            pairs.push_back((s, y, 1.0 / bend));
            if pairs.len() > PAIRS {
                pairs.pop_front();
            }
        }
        (x, value, gradient) = (next, next_value, next_gradient);
    }
    x
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;

    fn matrix(values: Vec<f32>, width: usize) -> Tensor<2> {
        let rows = values.len() / width;
        Tensor::from_data(TensorData::new(values, [rows, width]), &Device::flex())
    }

    /// One feature, −1 and 1, each with its class: `W = (−w, w)` with `λ w = 1 / (1 + exp(2 w))`, and no bias.
    #[test]
    fn two_classes_by_hand() {
        let probe = Probe::fit(matrix(vec![4.0, 6.0, 4.0, 6.0], 1), &[0, 1, 0, 1], 2);
        let w = probe.weights[2];
        assert!((Probe::L2 * w - 1.0 / (1.0 + (2.0 * w).exp())).abs() < 1e-6, "{w}");
        assert!((probe.weights[0] + w).abs() < 1e-6 && probe.weights[1].abs() < 1e-6, "{:?}", probe.weights);
        assert_eq!(probe.predict(matrix(vec![-100.0, 4.9, 5.1, 7.0], 1)), [0, 0, 1, 1]);
        // At the mean both classes cost one bit, at a training vector the logistic loss of its margin 2 w.
        let cost = probe.cross_entropy(matrix(vec![5.0, 5.0, 6.0], 1), &[0, 1, 1]);
        for (found, expected) in cost.iter().zip([2f64.ln(), 2f64.ln(), (-2.0 * w).exp().ln_1p()]) {
            assert!((found - expected).abs() < 1e-6, "{cost:?}");
        }
    }

    /// Features that say nothing leave the shares of the classes: `softmax(b)`.
    #[test]
    fn without_features_the_frequent_class_wins() {
        let probe = Probe::fit(matrix(vec![3.0; 10], 2), &[2, 2, 2, 0, 1], 3);
        assert_eq!(probe.scale, [0.0, 0.0]);
        let odds: Vec<f64> = probe.weights.chunks(3).map(|row| row[2].exp()).collect();
        for (odd, share) in odds.iter().zip([0.2, 0.2, 0.6]) {
            assert!((odd / odds.iter().sum::<f64>() - share).abs() < 1e-6, "{odds:?}");
        }
        assert_eq!(probe.predict(matrix(vec![3.0, -8.0], 2)), [2]);
    }

    #[test]
    fn units_and_offsets_do_not_matter() {
        let device = Device::flex();
        device.seed(5);
        let x: Tensor<2> = Tensor::random([200, 7], Distribution::Normal(0.0, 1.0), &device);
        let classes: Vec<usize> = host::floats(x.clone().slice([0..200, 0..3]).argmax(1).float())
            .into_iter()
            .map(|class| class as usize)
            .collect();
        let probe = Probe::fit(x.clone(), &classes, 3);
        let right = probe.predict(x.clone()).iter().zip(&classes).filter(|(a, b)| a == b).count();
        assert!(right > 180, "{right} of 200");
        let units = matrix(vec![1.0, 100.0, 0.01, 1.0, 3.0, 1.0, 7.0], 7);
        let moved = x * units + 5.0;
        let other = Probe::fit(moved.clone(), &classes, 3);
        let distance = probe.weights.iter().zip(&other.weights).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(distance < 1e-3, "{distance}");
        assert_eq!(other, Probe::fit(moved, &classes, 3));
    }

    #[test]
    fn the_gradient_is_that_of_the_objective() {
        let z: Vec<f32> = (0..33).map(|i| (i as f32 * 1.7).sin()).collect(); // [3, 11]
        let weights: Vec<f64> = (0..24).map(|i| (f64::from(i) * 0.9).cos()).collect();
        let at = |weights: &[f64]| objective(weights, &z, &[1, 0, 1], 11, &mut [0.0; 24]);
        let mut gradient = [0.0; 24];
        objective(&weights, &z, &[1, 0, 1], 11, &mut gradient);
        for index in 0..24 {
            let moved = |by: f64| {
                let mut weights = weights.clone();
                weights[index] += by;
                at(&weights)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - gradient[index]).abs() < 1e-8, "{index}: {slope} {}", gradient[index]);
        }
    }

    /// `Σ c_i (x_i − i)² / 2` with `c` from 1 to 10,000.
    #[test]
    fn a_narrow_valley_is_followed_to_its_end() {
        let curvature = |i: usize| 10f64.powf(4.0 * i as f64 / 29.0);
        let found = minimum(vec![0.0; 30], |x, gradient| {
            for (i, (x, gradient)) in x.iter().zip(gradient).enumerate() {
                *gradient = curvature(i) * (x - i as f64);
            }
            x.iter().enumerate().map(|(i, x)| 0.5 * curvature(i) * (x - i as f64).powi(2)).sum()
        });
        for (i, x) in found.iter().enumerate() {
            assert!((x - i as f64).abs() < 1e-6, "{i}: {x}");
        }
    }

    #[test]
    #[should_panic(expected = "every label must be below 2")]
    fn labels_are_classes() {
        Probe::fit(matrix(vec![1.0, 2.0], 1), &[0, 2], 2);
    }
}
