//! Which features of a cloud a change of its points cannot have destroyed.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::distances::{doubles, wide};
use super::{Diagram, Distances, Landmarks};
use crate::{Evidence, Value};

/// Three bounds on the bottleneck distance between the Rips diagrams of points and of the same points after a change, in every
/// dimension.
///
/// ```text
/// d_B(Dgm X, Dgm Y) ≤ max_ij |d_ij − d'_ij| ≤ 2 max_i |x_i − y_i| ≤ δ √width
/// ```
///
/// The first needs all distances, the second none, the third only the step of the quantizer. All are of the distances as they were
/// computed, whose own relative error is below `(width / 2 + 3) · 2⁻²⁴` for f32.
///
/// Source: Chazal, de Silva, Oudot 2014 (`docs/references.md#stability`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// `max_ij |d_ij − d'_ij|`.
    pub distances: Value,
    /// `2 max_i |x_i − y_i|`.
    pub displacement: Value,
    /// `δ √width`. `None` if no step was given, or a coordinate moved by more than half a step, as where a quantizer clips.
    pub step: Option<Value>,
}

impl Stability {
    /// The bounds for `x` that became `y`, both `[points, width]`, by rounding to multiples of `step` if there is one.
    ///
    /// # Panics
    ///
    /// If the shapes differ or there is no point.
    pub fn of(x: Tensor<2>, y: Tensor<2>, step: Option<f64>) -> Self {
        let (shape, other) = (x.dims(), y.dims());
        assert_eq!(shape, other, "points are paired row by row: {shape:?} and {other:?}");
        let change = Distances::of(x.clone()).largest_change(&Distances::of(y.clone()));
        Self::with_change(change, x, y, step)
    }

    /// As [`Stability::of`], of points whose distances are known to change by at most `change`.
    fn with_change(change: f64, x: Tensor<2>, y: Tensor<2>, step: Option<f64>) -> Self {
        let [points, width] = x.dims();
        let moved = wide(x) - wide(y);
        let largest = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
        let displacement = largest(doubles(moved.clone().square().sum_dim(1).sqrt()));
        let coordinate = largest(doubles(moved.abs().max_dim(1)));
        // Half a step, and what a difference of f32 numbers may lose.
        let rounded = |step: &f64| coordinate <= step / 2.0 * (1.0 + f64::exp2(-20.0));
        Self {
            distances: certified(change, "largest change of a distance", points),
            displacement: certified(2.0 * displacement, "twice the largest displacement", points),
            step: step
                .filter(rounded)
                .map(|step| certified(step * (width as f64).sqrt(), "step times the root of the width", points)),
        }
    }

    /// The smallest of the bounds.
    pub fn bound(&self) -> f64 {
        let step = self.step.as_ref().map_or(f64::INFINITY, |value| value.value);
        self.distances.value.min(self.displacement.value).min(step)
    }

    /// The features of a diagram of the points that the changed points have too: those that live longer than twice the bound. Essential
    /// ones always stay.
    pub fn surviving<'a>(&self, diagram: &'a Diagram) -> &'a [(f64, f64)] {
        diagram.longer_than(2.0 * self.bound())
    }
}

/// The bounds of [`Stability`] for clouds of too many points for all distances, by landmarks.
///
/// ```text
/// d_B(Dgm X, Dgm Y) ≤ 2 r + 2 r' + max over landmarks of |d_ij − d'_ij|
/// ```
///
/// `r` and `r'` are the cover radii of the same rows before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LandmarkStability {
    /// The cover radius before, `r`.
    pub radius: f64,
    /// The cover radius after, `r'`.
    pub changed_radius: f64,
    /// The bounds for the landmarks alone.
    pub landmarks: Stability,
    /// The bound for all points.
    pub total: Value,
}

impl LandmarkStability {
    /// The bounds for `x` that became `y`, both `[points, width]`, by landmarks of `x`.
    ///
    /// # Panics
    ///
    /// If the shapes differ, or a landmark is not a row.
    pub fn of(x: Tensor<2>, y: Tensor<2>, landmarks: &Landmarks, step: Option<f64>) -> Self {
        let (shape, other) = (x.dims(), y.dims());
        assert_eq!(shape, other, "points are paired row by row: {shape:?} and {other:?}");
        let (radius, changed_radius) = (landmarks.radius_in(x.clone()), landmarks.radius_in(y.clone()));
        let own = Stability::of(landmarks.of(x), landmarks.of(y), step);
        let total = 2.0 * radius + 2.0 * changed_radius + own.bound();
        Self { radius, changed_radius, landmarks: own, total: certified(total, "landmarks and cover radii", shape[0]) }
    }
}

fn certified(value: f64, estimator: &'static str, n: usize) -> Value {
    Value { evidence: Evidence::Certified, ..Value::measured(value, estimator, n) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn bounds_of_two_points() {
        let device = Device::flex();
        let x = Tensor::<2>::from_floats([[0.0, 0.0], [4.0, 0.0]], &device);
        let y = Tensor::<2>::from_floats([[-0.5, 0.0], [4.25, 0.0]], &device);
        let stability = Stability::of(x.clone(), y.clone(), Some(1.0));
        let found =
            (stability.distances.value, stability.displacement.value, stability.step.as_ref().map(|step| step.value));
        assert_eq!(found, (0.75, 1.0, Some(2f64.sqrt())));
        assert_eq!((stability.bound(), stability.distances.evidence), (0.75, Evidence::Certified));
        // A coordinate that moved further than half a step was not rounded to that step.
        assert_eq!(Stability::of(x, y, Some(0.9)).step, None);
        let diagram = Diagram::new(1, [(0.0, 1.6), (0.0, 1.5)]);
        assert_eq!(stability.surviving(&diagram), [(0.0, 1.6)]);
    }
}
