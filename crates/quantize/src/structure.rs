//! Matrices of a structure that takes fewer numbers, the nearest one to a given matrix, and how far it is.
//!
//! | structure | numbers of `[n, n]` | nearest by |
//! | --- | --- | --- |
//! | [`reynolds`]: unchanged by a group | one for each orbit | the mean over the group |
//! | [`kronecker`]: `A ⊗ B` | `2 n` of square parts | the first singular pair of the rearranged matrix |
//! | [`monarch`]: block diagonals around a permutation | `2 n^1.5` | the first singular pair of every block |
//! | [`low_rank`] | `2 n rank` | the first eigenvectors of `W G Wᵀ` |
//!
//! All are projections: what they give is the nearest of its kind, and the certificate is the distance itself, computed from it, not a
//! bound. On weights without the structure little is kept: compare with a quantized matrix of as many bytes, always.

mod kronecker;
mod low_rank;
mod monarch;
mod reynolds;

use faer::Mat;
use quench_metrics::Check;

pub use kronecker::kronecker;
pub use low_rank::low_rank;
pub use monarch::monarch;
pub use reynolds::{Element, cyclic, reynolds};

/// A matrix of some structure.
#[derive(Clone, Debug)]
pub struct Structured {
    /// The matrix, written out: `[out, in]`.
    pub matrix: Mat<f64>,
    /// How many numbers it takes.
    pub parameters: usize,
}

impl Structured {
    /// `‖W − P‖ / ‖W‖`, Frobenius norms: 0 for a matrix of the structure; not a number where `W` is zero.
    ///
    /// # Panics
    /// If `w` has another shape.
    pub fn relative_error(&self, w: &Mat<f64>) -> f64 {
        (w - &self.matrix).norm_l2() / w.norm_l2()
    }

    /// `tr((W − P) G (W − P)ᵀ) / tr(W G Wᵀ)`: the part of the output's energy that is lost on inputs with the Gram matrix `g [in, in]`.
    ///
    /// # Panics
    /// If `w` has another shape, or `g` does not fit.
    pub fn output_loss(&self, w: &Mat<f64>, g: &Mat<f64>) -> f64 {
        energy(&(w - &self.matrix), g) / energy(w, g)
    }

    /// The part of the energy of `W` that it keeps: `‖P‖² / ‖W‖²`, as the projection is orthogonal.
    pub fn score(&self, w: &Mat<f64>) -> f64 {
        self.matrix.squared_norm_l2() / w.squared_norm_l2()
    }
}

/// `tr(W G Wᵀ)`.
fn energy(w: &Mat<f64>, g: &Mat<f64>) -> f64 {
    let product = w * g;
    (0..w.nrows()).flat_map(|i| (0..w.ncols()).map(move |j| (i, j))).map(|(i, j)| product[(i, j)] * w[(i, j)]).sum()
}

/// The first singular pair, `σ u vᵀ` as `(σ u, v)`: the nearest matrix of rank one. Zeros where the decomposition does not converge,
/// which makes the error that of keeping nothing.
fn rank_one(matrix: &Mat<f64>) -> (Vec<f64>, Vec<f64>) {
    let (rows, columns) = (matrix.nrows(), matrix.ncols());
    match matrix.thin_svd() {
        Ok(svd) => {
            let scale = svd.S().column_vector()[0];
            ((0..rows).map(|i| scale * svd.U()[(i, 0)]).collect(), (0..columns).map(|j| svd.V()[(j, 0)]).collect())
        }
        Err(_) => (vec![0.0; rows], vec![0.0; columns]),
    }
}

/// Standard normal numbers.
fn gaussian(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
    let samples = quench_metrics::Source::Gaussian.samples(rows * columns, seed);
    Mat::from_fn(rows, columns, |i, j| f64::from(samples[i * columns + j]))
}

/// The known answers about structures.
pub(crate) fn checks() -> Vec<Check> {
    [reynolds::CHECKS, kronecker::CHECKS, monarch::CHECKS, low_rank::CHECKS].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_what_they_say() {
        let w = gaussian(6, 4, 1);
        let identity = Mat::<f64>::identity(4, 4);
        let half = Structured { matrix: faer::Scale(0.5) * &w, parameters: 1 };
        assert!((half.relative_error(&w) - 0.5).abs() < 1e-15);
        assert!((half.output_loss(&w, &identity) - 0.25).abs() < 1e-15);
        assert!((half.score(&w) - 0.25).abs() < 1e-15);
    }

    #[test]
    fn projections_do_nothing_twice_and_split_the_energy() {
        let w = gaussian(16, 16, 2);
        let group = cyclic(16);
        type Project<'a> = Box<dyn Fn(&Mat<f64>) -> Structured + 'a>;
        let projections: [Project<'_>; 4] = [
            Box::new(|w| reynolds(w, &group)),
            Box::new(|w| kronecker(w, [4, 2])),
            Box::new(monarch),
            Box::new(|w| low_rank(w, &Mat::identity(16, 16), 3)),
        ];
        for project in projections {
            let (once, kept) = (project(&w), project(&w).score(&w));
            assert!(once.parameters < 256 && kept > 0.0 && kept < 1.0);
            assert!((once.relative_error(&w).powi(2) + kept - 1.0).abs() < 1e-12, "{kept}");
            let twice = project(&once.matrix);
            assert!((&twice.matrix - &once.matrix).norm_l2() < 1e-12 * w.norm_l2());
        }
    }
}
