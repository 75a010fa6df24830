//! How many dimensions vectors have.

use burn::tensor::Tensor;

use crate::geometry::{centred, cross, squares};
use crate::{Bootstrap, Neighbours, Value, host};

/// Points that lie on others, where an estimate needs distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twins {
    /// How many points have no distance to their neighbours.
    pub points: usize,
    /// Of so many.
    pub n: usize,
}

impl std::fmt::Display for Twins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { points, n } = self;
        write!(
            f,
            "{points} of {n} points lie on others, as quantized ones do: estimate on the vectors before they are quantized"
        )
    }
}

impl std::error::Error for Twins {}

/// The intrinsic dimension by the distances `r_1 < r_2` of each point to its two nearest neighbours.
///
/// ```text
/// d = n / Σ log(r_2 / r_1)
/// ```
///
/// Good for a few dimensions and many points; too low at edges and in many dimensions: 14.6 for 16 of the normal distribution. The
/// interval draws points with the distances that they have. Neighbours are found in f32, distances computed in f64.
///
/// Source: Facco, d'Errico, Rodriguez, Laio 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
/// information", by maximum likelihood (`docs/references.md#two-nn`).
///
/// # Errors
///
/// If a point lies on another.
///
/// # Panics
///
/// If there are fewer than 3 points.
pub fn two_nn(x: Tensor<2>, bootstrap: Bootstrap) -> Result<Value, Twins> {
    let [n, width] = x.dims();
    assert!(n > 2, "the two neighbours of a point need 3 points, found {n}");
    // Two more than are needed: the order of the nearest is that of f32.
    let neighbours = Neighbours::of(x.clone(), 4.min(n - 1));
    let values = host::floats(x);
    let row = |index: usize| &values[index * width..][..width];
    let ratio = |(point, list): (usize, &[u32])| {
        let square = |index: &u32| -> f64 {
            row(*index as usize).iter().zip(row(point)).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        };
        let mut squares: Vec<f64> = list.iter().map(square).collect();
        squares.sort_unstable_by(f64::total_cmp);
        (squares[0] > 0.0).then(|| 0.5 * (squares[1] / squares[0]).ln())
    };
    let ratios: Vec<f64> = neighbours.lists().enumerate().filter_map(ratio).collect();
    if ratios.len() < n {
        return Err(Twins { points: n - ratios.len(), n });
    }
    let dimension = |drawn: &[usize]| drawn.len() as f64 / drawn.iter().map(|index| ratios[*index]).sum::<f64>();
    let value = n as f64 / ratios.iter().sum::<f64>();
    Ok(Value::measured(value, "TwoNN, maximum likelihood", n)
        .with_interval(bootstrap.interval(n, |drawn| Some(dimension(drawn))), bootstrap.seed))
}

/// The number of directions that carry the variance, `(Σ λ)² / Σ λ²` over the eigenvalues of the covariance: 1 to the width.
///
/// `None` if nothing varies.
pub fn participation_ratio(x: Tensor<2>) -> Option<f64> {
    let x = centred(x);
    let trace: f64 = squares(&x).iter().sum();
    (trace > 0.0).then(|| trace * trace / cross(&x, &x).squared_norm_l2())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn ratios_by_hand() {
        let device = Device::flex();
        // From 0: 1, 3; from 1: 1, 2; from 3: 2, 3; from 7: 4, 6.
        let line = host::matrix(vec![0.0, 1.0, 3.0, 7.0], 1, &device);
        let expected = 4.0 / (3f64.ln() + 2f64.ln() + 1.5f64.ln() + 1.5f64.ln());
        let found = two_nn(line, Bootstrap::default()).unwrap();
        assert!((found.value - expected).abs() < 1e-9, "{found:?} {expected}");
        assert!(found.interval.is_some_and(|interval| interval.low <= expected && expected <= interval.high));
    }

    #[test]
    fn twins_are_an_error() {
        let device = Device::flex();
        let x = host::gaussian(200, 2, 1, &device);
        let rounded = (x.clone() * 2.0).round();
        let twins = two_nn(rounded, Bootstrap::default()).unwrap_err();
        assert!(twins.points > 100 && twins.n == 200, "{twins}");
        let pair = Tensor::cat(vec![x.clone(), x.slice_dim(0, 7..8)], 0);
        assert_eq!(two_nn(pair, Bootstrap::default()), Err(Twins { points: 2, n: 201 }));
    }

    #[test]
    fn nothing_takes_no_part() {
        let x = host::matrix(vec![3.0, 5.0, 3.0, 1.0, 3.0, 3.0], 2, &Device::flex());
        assert!((participation_ratio(x.clone()).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(participation_ratio(x * 0.0), None);
    }
}
