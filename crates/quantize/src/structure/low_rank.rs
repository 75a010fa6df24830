//! The nearest matrix of low rank, as the inputs see it.

use faer::{Mat, Side};
use quench_metrics::{Check, Expected};

use super::{Structured, gaussian};

/// The matrix of rank `rank` that loses the least output of `w [out, in]` on inputs with the Gram matrix `g [in, in]`.
///
/// ```text
/// minimize tr((W − P) G (W − P)ᵀ)        P = U Uᵀ W,  U the first eigenvectors of W G Wᵀ
/// ```
///
/// which is the singular value decomposition of `W G^½`, cut off and divided by `G^½` again, without a root or an inverse.
///
/// Source: Yuan et al. 2023, "ASVD"; Wang et al. 2024, "SVD-LLM" (`docs/references.md#structures`).
///
/// # Panics
/// If `g` does not fit, or the rank is more than the rows.
pub fn low_rank(w: &Mat<f64>, g: &Mat<f64>, rank: usize) -> Structured {
    let (rows, columns) = (w.nrows(), w.ncols());
    assert_eq!([g.nrows(), g.ncols()], [columns; 2], "the Gram matrix of {columns} inputs");
    assert!(rank <= rows, "a matrix of {rows} rows has no rank {rank}");
    let outputs = w * g * w.transpose();
    let matrix = match outputs.self_adjoint_eigen(Side::Lower) {
        Ok(found) => {
            // Eigenvalues rise.
            let first = found.U().subcols(rows - rank, rank);
            first * (first.transpose() * w)
        }
        // Nothing is kept, and the error says so.
        Err(_) => Mat::zeros(rows, columns),
    };
    Structured { matrix, parameters: rank * (rows + columns) }
}

const SIZE: usize = 256;

/// A Gram matrix with eigenvalues over four powers of ten.
fn gram(n: usize) -> Mat<f64> {
    let x = gaussian(2 * n, n, 7);
    let scaled = Mat::from_fn(2 * n, n, |i, j| x[(i, j)] * 10.0_f64.powf(2.0 * j as f64 / n as f64));
    scaled.transpose() * &scaled
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "structure",
        quantity: "energy that a tenth of the rank keeps of noise [256, 256]",
        expected: Expected::Near { value: 0.31, within: 0.015 },
        measure: |_| {
            let w = gaussian(SIZE, SIZE, 5);
            low_rank(&w, &Mat::identity(SIZE, SIZE), SIZE / 10).score(&w)
        },
    },
    Check {
        concept: "structure",
        quantity: "error of a planted matrix of rank 5, any inputs",
        expected: Expected::AtMost(1e-10),
        measure: |_| {
            let w = gaussian(48, 5, 1) * gaussian(5, 64, 2);
            low_rank(&w, &gram(64), 5).relative_error(&w)
        },
    },
    Check {
        concept: "structure",
        quantity: "output lost with the Gram matrix over that without it, rank 8 of 48",
        expected: Expected::Between(0.0, 0.8),
        measure: |_| {
            let (w, g) = (gaussian(48, 64, 3), gram(64));
            low_rank(&w, &g, 8).output_loss(&w, &g) / low_rank(&w, &Mat::identity(64, 64), 8).output_loss(&w, &g)
        },
    },
];
