//! The plane in which vectors vary most.

use burn::tensor::Tensor;
use faer::{Mat, Side};

use super::{centred, cross};
use crate::host;

/// The two principal axes of vectors, to draw them, and others beside them.
///
/// ```text
/// p(x) = (v_1 · (x − μ), v_2 · (x − μ))        S v_c = λ_c v_c,  λ_1 ≥ λ_2 ≥ …
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    mean: Vec<f64>,
    /// Two of the width of the vectors; the second is of zeros where they have one coordinate.
    axes: [Vec<f64>; 2],
    /// `(λ_1 + λ_2) / Σ λ`, the share of the variance that the plane shows.
    pub explained: f64,
}

impl Plane {
    /// The plane of `x`, `[n, d]`, finite; on the host, in f64. `None` if nothing varies, or the decomposition fails.
    ///
    /// The sign of an axis is that of its largest coordinate, so that the same vectors are always drawn alike.
    pub fn of(x: Tensor<2>) -> Option<Self> {
        let [_, d] = x.dims();
        let mean = host::floats(x.clone().mean_dim(0)).into_iter().map(f64::from).collect();
        let centred = centred(x);
        let covariance: Mat<f64> = cross(&centred, &centred);
        let decomposition = covariance.self_adjoint_eigen(Side::Lower).ok()?;
        let values: Vec<f64> = decomposition.S().column_vector().iter().rev().map(|value| value.max(0.0)).collect();
        let total: f64 = values.iter().sum();
        if !(total > 0.0 && total.is_finite()) {
            return None;
        }
        let axis = |at: usize| {
            if at >= d {
                return vec![0.0; d];
            }
            let axis: Vec<f64> = (0..d).map(|row| decomposition.U()[(row, d - 1 - at)]).collect();
            let largest = axis.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a }).unwrap_or(1.0);
            axis.into_iter().map(|x| x * largest.signum()).collect()
        };
        Some(Self { mean, axes: [axis(0), axis(1)], explained: values.iter().take(2).sum::<f64>() / total })
    }

    /// Where each row of `x`, `[n, d]`, is in the plane.
    ///
    /// # Panics
    ///
    /// If the rows are not as wide as those that the plane was found of.
    pub fn places(&self, x: Tensor<2>) -> Vec<[f64; 2]> {
        let (shape, d) = (x.dims(), self.mean.len());
        assert_eq!(shape[1], d, "a plane of {d} dimensions cannot show vectors {shape:?}");
        let along = |row: &[f32], axis: &[f64]| -> f64 {
            row.iter().zip(&self.mean).zip(axis).map(|((x, mean), v)| (f64::from(*x) - mean) * v).sum()
        };
        host::floats(x).chunks(d).map(|row| self.axes.each_ref().map(|axis| along(row, axis))).collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Four points on a cross with arms of 3 and 1 along two diagonals of space: by hand.
    #[test]
    fn a_cross_by_hand() {
        let device = Device::flex();
        let (a, b) = ([1.0, 1.0, 0.0], [0.0, 0.0, 1.0]);
        let point = |along: [f32; 3], by: f32| along.map(|x| x * by + 5.0);
        let points = [point(a, 3.0), point(a, -3.0), point(b, 1.0), point(b, -1.0)];
        let x = Tensor::<2>::from_floats(points, &device);
        let plane = Plane::of(x.clone()).unwrap();
        assert!((plane.explained - 1.0).abs() < 1e-9);
        let root = 18f64.sqrt();
        let expected = [[root, 0.0], [-root, 0.0], [0.0, 1.0], [0.0, -1.0]];
        for (found, expected) in plane.places(x).iter().zip(expected) {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} for {expected:?}");
        }
        let other = plane.places(Tensor::<2>::from_floats([[5.0, 5.0, 7.0]], &device));
        assert!(other[0][0].abs() < 1e-5 && (other[0][1] - 2.0).abs() < 1e-5, "{other:?}");
    }

    #[test]
    fn a_line_has_an_empty_second_axis_and_a_point_no_plane() {
        let device = Device::flex();
        let plane = Plane::of(Tensor::<2>::from_floats([[1.0], [3.0]], &device)).unwrap();
        assert_eq!(plane.places(Tensor::<2>::from_floats([[3.0]], &device)), [[1.0, 0.0]]);
        assert_eq!(Plane::of(Tensor::<2>::ones([5, 3], &device)), None);
    }
}
