//! The nearest Monarch matrix.

use faer::Mat;
use quench_metrics::{Check, Expected};

use super::{Structured, gaussian, rank_one};

/// The Monarch matrix that is nearest to `w [n, n]`, `n = m²`: two block diagonals of `m` blocks `[m, m]` around a permutation.
///
/// ```text
/// M[(l, j), (k, i)] = L[j, l, k] · R[k, j, i]        j, k, l, i below m;  (l, j) = l · m + j
/// ```
///
/// For each `j, k` that is a block of rank one over `l, i`, and no other block has a part in it: each is projected by itself.
///
/// Source: Dao et al. 2022, "Monarch: Expressive Structured Matrices for Efficient and Accurate Training"
/// (`docs/references.md#structures`).
///
/// # Panics
/// If `w` is not square, or its size is no square.
pub fn monarch(w: &Mat<f64>) -> Structured {
    let n = w.nrows();
    let m = n.isqrt();
    assert!(n == w.ncols() && m * m == n, "[{n}, {}] is no shape of a Monarch matrix: [m², m²] is", w.ncols());
    let mut matrix = Mat::<f64>::zeros(n, n);
    for (j, k) in (0..m).flat_map(|j| (0..m).map(move |k| (j, k))) {
        let (left, right) = rank_one(&Mat::from_fn(m, m, |l, i| w[(l * m + j, k * m + i)]));
        for (l, i) in (0..m).flat_map(|l| (0..m).map(move |i| (l, i))) {
            matrix[(l * m + j, k * m + i)] = left[l] * right[i];
        }
    }
    Structured { matrix, parameters: 2 * m * m * m }
}

const M: usize = 8;

fn planted() -> Mat<f64> {
    // L[j, l, k] in row j, column l · m + k, and R[k, j, i] likewise.
    let (left, right) = (gaussian(M, M * M, 1), gaussian(M, M * M, 2));
    Mat::from_fn(M * M, M * M, |row, column| {
        let ((l, j), (k, i)) = ((row / M, row % M), (column / M, column % M));
        left[(j, l * M + k)] * right[(k, j * M + i)]
    })
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "structure",
        quantity: "error of a planted Monarch matrix of 64",
        expected: Expected::AtMost(1e-12),
        measure: |_| monarch(&planted()).relative_error(&planted()),
    },
    Check {
        concept: "structure",
        quantity: "how many times fewer numbers it takes: m / 2",
        expected: Expected::Near { value: 4.0, within: 0.0 },
        measure: |_| (M * M * M * M) as f64 / monarch(&planted()).parameters as f64,
    },
];
