//! Where calibration vectors are, and whether others are there as well.

use burn::tensor::{Device, Tensor};
use faer::{Mat, Side};
use serde::{Deserialize, Serialize};

use crate::geometry::{centred, cross};
use crate::{Bootstrap, Total, Value, host};

/// What an activation function allows, for each coordinate: `A`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bounds {
    /// Anything.
    Free,
    /// `x ≥ 0`, after a ReLU.
    Orthant,
    /// `|x| ≤ side`; 1 after a tanh.
    Cube(f64),
}

impl Bounds {
    pub(super) fn contain(self, x: f64) -> bool {
        match self {
            Self::Free => true,
            Self::Orthant => x >= 0.0,
            Self::Cube(side) => x.abs() <= side,
        }
    }
}

/// How far from what is usual vectors may be: `R`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// `|x| ≤ r`.
    Ball,
    /// `(x − μ)ᵀ (S + λI)⁻¹ (x − μ) ≤ r²`, with mean and covariance of the calibration vectors.
    Ellipsoid,
}

/// How a [`Latent`] space is drawn around its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LatentOptions {
    /// `A`.
    pub bounds: Bounds,
    /// The shape of `R`.
    pub reach: Reach,
    /// The share of the calibration vectors that `R` holds, and, on its own, the distance from the span: 0.99.
    pub quantile: f64,
    /// The share of the variance that the span `E` holds: 0.99.
    pub variance: f64,
    /// `λ` as a share of the mean variance of a coordinate: 1e-6.
    pub ridge: f64,
}

impl Default for LatentOptions {
    fn default() -> Self {
        Self { bounds: Bounds::Free, reach: Reach::Ellipsoid, quantile: 0.99, variance: 0.99, ridge: 1e-6 }
    }
}

/// `A ∩ R ∩ E`: a box, an ellipsoid and the surroundings of a subspace.
///
/// ```text
/// A: x_c within the bounds of its coordinate        R: |z| ≤ r,  z_c = vᵀ_c (x − centre) / length_c
/// E: |x − μ|² − Σ_{c < k} (vᵀ_c (x − μ))² ≤ ρ²,    v_1, v_2, … the principal axes
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    pub(super) bounds: Bounds,
    pub(super) reach: Reach,
    pub(super) mean: Vec<f64>,
    /// `[d, d]`; a column is an axis, by falling variance.
    pub(super) axes: Mat<f64>,
    /// `√(variance + λ)` along each axis; 1 for a ball.
    pub(super) lengths: Vec<f64>,
    pub(super) radius: f64,
    /// `k`.
    pub(super) span: usize,
    residual: f64,
}

impl Latent {
    /// The space of `x`, `[n, d]`, finite.
    ///
    /// `None` if the eigenvalues of the covariance cannot be found, or nothing varies.
    ///
    /// # Panics
    ///
    /// If there is no row, or a share is not between 0 and 1.
    pub fn fit(x: Tensor<2>, options: LatentOptions) -> Option<Self> {
        let LatentOptions { bounds, reach, quantile, variance, ridge } = options;
        let [n, d] = x.dims();
        let shares = [quantile, variance];
        assert!(
            n > 0 && shares.iter().all(|share| (0.0..=1.0).contains(share)),
            "{shares:?} of {n} vectors are no shares"
        );
        let mean = host::floats(x.clone().mean_dim(0)).into_iter().map(f64::from).collect();
        let centred = centred(x.clone());
        let covariance = cross(&centred, &centred) * faer::Scale(1.0 / n as f64);
        let decomposition = covariance.self_adjoint_eigen(Side::Lower).ok()?;
        let values: Vec<f64> = decomposition.S().column_vector().iter().rev().map(|value| value.max(0.0)).collect();
        let total: f64 = values.iter().sum();
        if total.is_nan() || total <= 0.0 {
            return None;
        }
        let axes = Mat::from_fn(d, d, |row, column| decomposition.U()[(row, d - 1 - column)]);
        let mut reached = 0.0;
        let short = |value: &&f64| {
            reached += **value;
            reached < variance * total
        };
        let span = (values.iter().take_while(short).count() + 1).min(d);
        let ridge = ridge * total / d as f64;
        let lengths = match reach {
            Reach::Ball => vec![1.0; d],
            Reach::Ellipsoid => values.iter().map(|value| (value + ridge).sqrt()).collect(),
        };
        let mut latent = Self { bounds, reach, mean, axes, lengths, radius: 0.0, span, residual: 0.0 };
        let (mut radii, mut residuals): (Vec<f64>, Vec<f64>) = latent.distances(x).into_iter().unzip();
        latent.radius = smallest_that_holds(&mut radii, quantile);
        latent.residual = smallest_that_holds(&mut residuals, quantile);
        Some(latent)
    }

    /// The part of a ball around 0 that is within the bounds, in `d` dimensions.
    pub fn ball(bounds: Bounds, d: usize, radius: f64) -> Self {
        let (mean, axes, lengths) = (vec![0.0; d], Mat::identity(d, d), vec![1.0; d]);
        Self { bounds, reach: Reach::Ball, mean, axes, lengths, radius, span: d, residual: 0.0 }
    }

    /// `k`, the dimensions of the span.
    pub fn span(&self) -> usize {
        self.span
    }

    /// Whether each row of `x`, `[n, d]`, is in the space; distances in f32, with a relative slack of 1e-5.
    ///
    /// # Panics
    ///
    /// If the rows are not as wide as those of the fit.
    pub fn contains(&self, x: Tensor<2>) -> Vec<bool> {
        let (shape, d) = (x.dims(), self.mean.len());
        assert_eq!(shape[1], d, "a space of {d} dimensions cannot hold vectors {shape:?}");
        let bounded: Vec<bool> = host::floats(x.clone())
            .chunks(d.max(1))
            .map(|row| row.iter().all(|x| self.bounds.contain(f64::from(*x))))
            .collect();
        let size = self.lengths.iter().fold(0.0, |size: f64, length| size.max(*length)) * self.radius;
        let near = |(radius, residual): (f64, f64)| {
            radius <= self.radius * (1.0 + 1e-5) && (self.span == d || residual <= self.residual + 1e-5 * size)
        };
        self.distances(x).into_iter().zip(bounded).map(|(distances, bounded)| bounded && near(distances)).collect()
    }

    /// The share of `x` that is not in the space: of `Q(x)`, how often a quantizer makes what the network has never seen.
    ///
    /// `x` of the calibration itself escapes by its quantiles: by up to 2 (1 − quantile).
    ///
    /// # Panics
    ///
    /// As [`contains`](Self::contains).
    pub fn escape_rate(&self, x: Tensor<2>, bootstrap: Bootstrap) -> Value {
        let outside: Vec<Total> =
            self.contains(x).into_iter().map(|inside| Total { sum: if inside { 0.0 } else { 1.0 }, n: 1 }).collect();
        let rate = outside.iter().map(|total| total.sum).sum::<f64>() / outside.len() as f64;
        Value::measured(rate, "share outside of the latent space", outside.len())
            .with_interval(bootstrap.mean(&outside), bootstrap.seed)
    }

    /// `|z|` and the distance from the span, of each row.
    fn distances(&self, x: Tensor<2>) -> Vec<(f64, f64)> {
        let d = self.mean.len();
        let device = x.device();
        let axes = self.matrix(|row, column| self.axes[(row, column)], &device);
        let mean = host::matrix(self.mean.iter().map(|x| *x as f32).collect(), d, &device);
        let along = (x.clone() - mean).matmul(axes); // [n, d]
        let scaled = match self.reach {
            Reach::Ball => x,
            Reach::Ellipsoid => {
                let inverse = self.lengths.iter().map(|length| (1.0 / length) as f32).collect();
                along.clone() * host::matrix(inverse, d, &device)
            }
        };
        let length = |x: Tensor<2>| host::floats(x.square().sum_dim(1).sqrt()).into_iter().map(f64::from);
        let radii: Vec<f64> = length(scaled).collect();
        if self.span == d {
            return radii.into_iter().map(|radius| (radius, 0.0)).collect();
        }
        // What is off the span, by its own coordinates: no difference of large numbers.
        radii.into_iter().zip(length(along.slice_dim(1, self.span..d))).collect()
    }

    fn matrix(&self, entry: impl Fn(usize, usize) -> f64, device: &Device) -> Tensor<2> {
        let d = self.mean.len();
        let values = (0..d * d).map(|index| entry(index / d, index % d) as f32).collect();
        host::matrix(values, d, device)
    }
}

/// The smallest of `values` below or at which `share` of them are.
fn smallest_that_holds(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let count = (share * values.len() as f64).ceil() as usize;
    values[count.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plane in five dimensions, ten times as wide in one direction as in the other.
    fn plane(n: usize, seed: u64, device: &Device) -> Tensor<2> {
        let x = host::gaussian(n, 2, seed, device) * host::matrix(vec![10.0, 1.0], 2, device);
        let frame = host::matrix(vec![0.6, 0.0, 0.8, 0.0, 0.0, 0.0, 0.6, 0.0, 0.8, 0.0], 5, device);
        x.matmul(frame) + 3.0
    }

    #[test]
    fn a_plane_is_its_own_span() {
        let device = Device::flex();
        let options = LatentOptions { variance: 0.995, ..LatentOptions::default() };
        let latent = Latent::fit(plane(2000, 1, &device), options).unwrap();
        assert_eq!(latent.span(), 2);
        // The 99th percentile of a χ variable of two degrees is √(−2 ln 0.01).
        assert!((latent.radius - (-2.0 * 0.01f64.ln()).sqrt()).abs() < 0.15, "{}", latent.radius);
        let escape = |x: Tensor<2>| latent.escape_rate(x, Bootstrap::default()).value;
        assert!((escape(plane(2000, 2, &device)) - 0.01).abs() < 0.01);
        assert_eq!(escape(plane(2000, 2, &device) + host::gaussian(2000, 5, 3, &device) * 0.1), 1.0);
        assert_eq!(escape(plane(100, 2, &device) + 1e3), 1.0);
    }

    #[test]
    fn bounds_are_those_of_each_coordinate() {
        let x = host::matrix(vec![0.5, -0.5, 0.9, 0.9, -1.2, 0.0, 0.3, 0.0], 2, &Device::flex());
        let within = |bounds| Latent::ball(bounds, 2, 1.25).contains(x.clone());
        assert_eq!(within(Bounds::Free), [true, false, true, true]);
        assert_eq!(within(Bounds::Cube(1.0)), [true, false, false, true]);
        assert_eq!(within(Bounds::Orthant), [false, false, false, true]);
    }

    #[test]
    fn nothing_has_no_space() {
        let x = host::matrix(vec![1.0; 12], 3, &Device::flex());
        assert_eq!(Latent::fit(x, LatentOptions::default()), None);
    }

    #[test]
    fn quantiles_hold_their_share() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(smallest_that_holds(&mut values, 0.99), 198.0);
        assert_eq!((smallest_that_holds(&mut values, 0.0), smallest_that_holds(&mut values, 1.0)), (1.0, 200.0));
    }
}
