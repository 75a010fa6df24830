//! The linear part of a map at a point, and how much it enlarges an error.

use serde::{Deserialize, Serialize};

use crate::{Bootstrap, Value};

/// The derivatives `J_ij = ∂f_i / ∂x_j` of a map at a point.
#[derive(Clone, Debug, PartialEq)]
pub struct Jacobian {
    width: usize,
    /// By columns: how the result moves with one coordinate.
    columns: Vec<Vec<f64>>,
}

/// How much a map enlarges small errors, over some points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The largest: of the points that were looked at, not of all that there are, so it is no Lipschitz constant.
    pub largest: f64,
    /// The mean, with the interval of other points of the same kind.
    pub mean: Value,
}

impl Jacobian {
    /// By central differences, `2 d` evaluations; its error is about 1e-10 of the derivatives for smooth maps.
    ///
    /// ```text
    /// J_·j ≈ (f(x + h e_j) − f(x − h e_j)) / 2h        h = 6e-6 · max(1, |x_j|)
    /// ```
    pub fn of(map: impl Fn(&[f64]) -> Vec<f64>, x: &[f64]) -> Self {
        let mut moved = x.to_vec();
        let column = |j: usize| {
            // The cube root of the precision balances rounding and curvature; only what is added counts, so it is read back.
            let reach = f64::EPSILON.cbrt() * x[j].abs().max(1.0);
            let (high, low) = (x[j] + reach, x[j] - reach);
            moved[j] = high;
            let above = map(&moved);
            moved[j] = low;
            let below = map(&moved);
            moved[j] = x[j];
            above.iter().zip(&below).map(|(a, b)| (a - b) / (high - low)).collect()
        };
        Self { width: x.len(), columns: (0..x.len()).map(column).collect() }
    }

    /// From products `v ↦ J v`, as forward-mode differentiation gives them, for `width` coordinates.
    pub fn from_products(product: impl Fn(&[f64]) -> Vec<f64>, width: usize) -> Self {
        let unit = |j: usize| (0..width).map(|i| f64::from(u8::from(i == j))).collect::<Vec<_>>();
        Self { width, columns: (0..width).map(|j| product(&unit(j))).collect() }
    }

    /// `J v`.
    ///
    /// # Panics
    ///
    /// If `v` has not as many coordinates as the point.
    pub fn product(&self, v: &[f64]) -> Vec<f64> {
        assert_eq!(v.len(), self.width, "a map of {} coordinates has no product with {}", self.width, v.len());
        let mut sum = vec![0.0; self.columns.first().map_or(0, Vec::len)];
        for (column, v) in self.columns.iter().zip(v) {
            sum.iter_mut().zip(column).for_each(|(sum, x)| *sum += x * v);
        }
        sum
    }

    /// The gain, `max |J e| / |e|`: the largest singular value.
    ///
    /// By power iteration on `Jᵀ J`, until it changes by less than 1e-12 of itself, at most 10,000 times.
    pub fn gain(&self) -> f64 {
        // Not along an axis or a diagonal, which may be blind to what is sought.
        let mut v: Vec<f64> = (0..self.width).map(|j| 1.0 + ((j * j + 1) as f64).sin() / 2.0).collect();
        let mut gain = 0.0;
        for _ in 0..10_000 {
            let length = norm(&v);
            if length == 0.0 {
                return 0.0;
            }
            v.iter_mut().for_each(|v| *v /= length);
            let image = self.product(&v);
            let before = std::mem::replace(&mut gain, norm(&image));
            if (gain - before).abs() <= 1e-12 * gain {
                break;
            }
            v = self.columns.iter().map(|column| dot(column, &image)).collect();
        }
        gain
    }
}

impl Gain {
    /// Over some points, at least one; for a quantized recursion those are its states.
    ///
    /// # Panics
    ///
    /// If there is no point.
    pub fn over(map: impl Fn(&[f64]) -> Vec<f64>, points: &[Vec<f64>], bootstrap: &Bootstrap) -> Self {
        assert!(!points.is_empty(), "a gain is measured at a point");
        let gains: Vec<f64> = points.iter().map(|x| Jacobian::of(&map, x).gain()).collect();
        let mean = |gains: &mut dyn Iterator<Item = f64>| gains.sum::<f64>() / points.len() as f64;
        let interval =
            bootstrap.interval(points.len(), |drawn| Some(mean(&mut drawn.iter().map(|index| gains[*index]))));
        let value =
            Value::measured(mean(&mut gains.iter().copied()), "largest singular value of the Jacobian", points.len());
        Self { largest: gains.iter().copied().fold(0.0, f64::max), mean: value.with_interval(interval, bootstrap.seed) }
    }
}

/// How far a recursion `x ↦ f(Q(x))` can be from the fixed point of `f` at last, if `f` enlarges no error by more than `gain` below 1.
///
/// ```text
/// |x − x*| ≤ gain · δ √d / (2 (1 − gain))
/// ```
///
/// - `step`: the quantizer moves no coordinate by more than half of it
///
/// `None` if the gain is 1 or more: errors may then grow without a bound.
pub fn ball_radius(gain: f64, step: f64, width: usize) -> Option<f64> {
    (gain < 1.0).then(|| gain * step * (width as f64).sqrt() / (2.0 * (1.0 - gain)))
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[[3, 0], [4, 5]]` has the singular values √45 and √5.
    #[test]
    fn known_gains() {
        let linear = |x: &[f64]| vec![3.0 * x[0], 4.0 * x[0] + 5.0 * x[1]];
        for jacobian in [Jacobian::of(linear, &[0.3, -20.0]), Jacobian::from_products(linear, 2)] {
            assert!((jacobian.gain() - 45f64.sqrt()).abs() < 1e-7, "{}", jacobian.gain());
            let product = jacobian.product(&[1.0, -1.0]);
            assert!((product[0] - 3.0).abs() < 1e-8 && (product[1] + 1.0).abs() < 1e-8);
        }
        assert_eq!(Jacobian::from_products(|_| vec![0.0], 3).gain(), 0.0);
    }

    #[test]
    fn derivatives_of_curves() {
        let jacobian = Jacobian::of(|x| vec![x[0].sin() * x[1], x[1].exp()], &[1.0, 2.0]);
        let expected = [[2.0 * 1f64.cos(), 0.0], [1f64.sin(), 2f64.exp()]];
        for (column, expected) in jacobian.columns.iter().zip(expected) {
            assert!(column.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-8), "{column:?} {expected:?}");
        }
        let gain = Gain::over(|x| vec![x[0] * x[0]], &[vec![1.0], vec![2.0]], &Bootstrap::default());
        assert!((gain.largest - 4.0).abs() < 1e-8 && (gain.mean.value - 3.0).abs() < 1e-8, "{gain:?}");
    }

    #[test]
    fn a_map_that_enlarges_has_no_ball() {
        assert_eq!(ball_radius(0.5, 0.1, 4), Some(0.1));
        assert_eq!(ball_radius(1.0, 0.1, 4), None);
    }
}
