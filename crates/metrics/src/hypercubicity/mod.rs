//! Do activations sit in the corners of a cube?

mod known;
mod points;
mod rotation;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::Value;
use points::{Points, Share};
use rotation::rotation;

pub(crate) use known::checks;

/// The box whose corners are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Cube {
    /// All coordinates have this range, as those of tanh have −1 to 1 and those of a sigmoid 0 to 1.
    Bounded {
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
    },
    /// Each coordinate has the range of its own values: its center is half-way between its smallest and its largest, its half-width the
    /// 99th percentile of the distances to the center.
    Fitted,
}

/// How near `n` points of `d` coordinates are to the corners of a cube, and what chance would give.
///
/// `c_j` and `a_j` are the center and the half-width of a coordinate in the [`Cube`]; `near(x) = |x − c_j| ≥ (1 − δ) a_j`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hypercubicity {
    /// The share of coordinates near an end, `mean_ij near(x_ij)`. The null value is that of normal coordinates of the same
    /// means and variances, cut off at the box.
    pub h_coord: Value,
    /// The share of points all of whose coordinates are near an end, `mean_i Π_j near(x_ij)`. Falls as `h^d` where coordinates are
    /// independent: it says nothing for more than some 10 of them.
    pub h_corner: f64,
    /// Sarle's coefficient `(skew² + 1) / kurtosis`, the mean over coordinates that are not constant: 1/3 for a normal law, 5/9 for a
    /// uniform one, 1 for two points.
    pub bimodality: f64,
    /// What is left when each coordinate keeps one bit, in dB: `10 log10(variance / mean squared error)` of the two means of the values
    /// below and above `c_j`. 6.02 for a uniform law, 4.40 for a normal one.
    pub one_bit_db: f64,
    /// The patterns of signs.
    pub vertices: Vertices,
    /// Standard errors by which `h_coord` is above the normal null.
    pub z_gaussian: f64,
    /// `h_coord` after a random rotation of the points, with the box fitted anew; what is left of it does not come from the axes.
    pub rotated: f64,
    /// Standard errors by which `h_coord` is above that of the rotated points; with a bounded box both are measured in it.
    pub z_rotated: f64,
}

/// Which corners points are nearest to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vertices {
    /// How many patterns of signs occur.
    pub occupied: usize,
    /// The entropy of their frequencies in bits; too small by about `(K − 1) / 2n` nats for `K` patterns, at most `log2 n`.
    pub entropy: f64,
    /// In how many coordinates two different points differ in sign on average, as a share of all: 1/2 for independent fair signs.
    pub hamming: f64,
}

impl Hypercubicity {
    /// Measures `x`, `[n, d]`, finite.
    ///
    /// - `delta`: which share of the half-width still counts as near, 0 to 1
    /// - `seed`: of the random rotation
    ///
    /// The rotation is about the mean of the points and, up to 256 coordinates, uniform among all; above, signs and cosine transforms take
    /// turns, since a uniform one costs `d³`. A standard error is that of the mean over points, so that coordinates may depend on each
    /// other, or that of independent coordinates where it is larger.
    ///
    /// # Panics
    ///
    /// If there are fewer than two points or no coordinate, a value is not finite, `delta` is not 0 to 1, or a bounded box is empty.
    pub fn of(x: Tensor<2>, cube: Cube, delta: f64, seed: u64) -> Self {
        let [n, d] = x.dims();
        assert!(n > 1 && d > 0, "[{n}, {d}] activations have no spread");
        assert!((0.0..=1.0).contains(&delta), "a share is 0 to 1, found {delta}");
        let mean = x.clone().mean_dim(0);
        let turned = (x.clone() - mean.clone()).matmul(rotation(d, seed, &x)) + mean;
        let (points, turned) = (Points::of(x, cube), Points::of(turned, cube));
        let (own, other) = (Share::of(points.near(delta), d), Share::of(turned.near(delta), d));
        let (null, null_error) = points.gaussian_null(delta);
        let z = |difference: f64, error: f64| match (difference, error) {
            (0.0, 0.0) => 0.0,
            (difference, error) => difference / error,
        };
        Self {
            h_coord: Value::measured(own.mean, "share of coordinates near the ends of their range", n).with_null(null),
            h_corner: own.corner,
            bimodality: points.bimodality(),
            one_bit_db: points.one_bit_db(),
            vertices: points.vertices(),
            z_gaussian: z(own.mean - null, own.error.max(null_error)),
            rotated: other.mean,
            z_rotated: z(own.mean - other.mean, own.error.hypot(other.error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::Source;

    const TANH: Cube = Cube::Bounded { low: -1.0, high: 1.0 };

    fn points<const N: usize>(rows: &[[f32; N]]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), N]), &Device::flex())
    }

    #[test]
    fn corners_of_a_square() {
        let x = points(&[[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]]);
        for cube in [TANH, Cube::Fitted] {
            let found = Hypercubicity::of(x.clone(), cube, 0.0, 1);
            assert_eq!((found.h_coord.value, found.h_corner, found.vertices.occupied), (1.0, 1.0, 3));
            assert!((found.vertices.entropy - 1.5).abs() < 1e-12);
            // Of six pairs: one of the same, three in one sign and two in both; 7 of 12.
            assert!((found.vertices.hamming - 7.0 / 12.0).abs() < 1e-12);
            assert_eq!(found.one_bit_db, f64::INFINITY);
        }
    }

    /// The range of a coordinate is its own: one of scale 100 beside one of scale 1, about other centers.
    #[test]
    fn a_fitted_box_knows_no_scale() {
        let values = Source::Uniform.samples(4000, 2);
        let x = Tensor::<2>::from_data(TensorData::new(values, [2000, 2]), &Device::flex());
        let scaled = x.clone() * points(&[[100.0, 1.0]]) + points(&[[50.0, -3.0]]);
        let (own, other) =
            (Hypercubicity::of(x, Cube::Fitted, 0.2, 1), Hypercubicity::of(scaled, Cube::Fitted, 0.2, 1));
        assert!((own.h_coord.value - other.h_coord.value).abs() < 1e-3);
        assert!((own.h_coord.value - 0.2).abs() < 0.02);
        assert!((own.bimodality - other.bimodality).abs() < 1e-3);
    }

    /// Exchanged coordinates and flipped signs change nothing; a rotation does.
    #[test]
    fn only_axes_matter() {
        let values: Vec<f32> = Source::Gaussian.samples(3000, 2).into_iter().map(|z| (5.0 * z).tanh()).collect();
        let x = Tensor::<2>::from_data(TensorData::new(values, [1000, 3]), &Device::flex());
        let own = Hypercubicity::of(x.clone(), TANH, 0.2, 1);
        let flipped = Hypercubicity::of(x.flip([1]) * points(&[[-1.0, 1.0, -1.0]]), TANH, 0.2, 1);
        assert_eq!((own.h_coord.value, own.h_corner), (flipped.h_coord.value, flipped.h_corner));
        assert_eq!(
            (own.vertices.occupied, own.vertices.entropy),
            (flipped.vertices.occupied, flipped.vertices.entropy)
        );
        assert!((own.one_bit_db - flipped.one_bit_db).abs() < 1e-6);
        assert!(own.rotated < own.h_coord.value - 0.2, "{own:?}");
    }

    /// Dependent coordinates are no evidence of corners: one normal number, copied 16 times.
    #[test]
    fn copies_do_not_count_as_evidence() {
        let z = Source::Gaussian.samples(500, 3);
        let x = Tensor::<2>::from_data(TensorData::new(z, [500, 1]), &Device::flex()).repeat_dim(1, 16);
        let found = Hypercubicity::of(x, TANH, 0.2, 1);
        assert!(found.z_gaussian.abs() < 3.0, "{found:?}");
    }

    #[test]
    #[should_panic(expected = "activations are finite")]
    fn nan_is_refused() {
        Hypercubicity::of(points(&[[f32::NAN], [1.0]]), TANH, 0.2, 1);
    }
}
