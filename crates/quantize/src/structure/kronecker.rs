//! The nearest Kronecker product.

use faer::Mat;
use quench_metrics::{Check, Expected};

use super::{Structured, gaussian, rank_one};

/// The product `A ⊗ B` that is nearest to `w [out, in]`, with `A` of shape `outer` and `B [out / outer, in / outer]`.
///
/// ```text
/// R(W)[(i, j), (k, l)] = W[i · b_out + k, j · b_in + l]        W = A ⊗ B  ⟺  R(W) = vec A · (vec B)ᵀ
/// ```
///
/// so that the first singular pair of the rearranged matrix is the answer.
///
/// Source: Van Loan and Pitsianis 1993, "Approximation with Kronecker Products" (`docs/references.md#structures`).
///
/// # Panics
/// If `outer` does not divide the shape.
pub fn kronecker(w: &Mat<f64>, outer: [usize; 2]) -> Structured {
    let (rows, columns) = (w.nrows(), w.ncols());
    let fits = outer.iter().all(|side| *side > 0) && rows.is_multiple_of(outer[0]) && columns.is_multiple_of(outer[1]);
    assert!(fits, "an outer factor {outer:?} does not divide [{rows}, {columns}]");
    let inner = [rows / outer[0], columns / outer[1]];
    let place = |a: usize, b: usize| {
        let ((i, j), (k, l)) = ((a / outer[1], a % outer[1]), (b / inner[1], b % inner[1]));
        (i * inner[0] + k, j * inner[1] + l)
    };
    let (a, b) = (outer[0] * outer[1], inner[0] * inner[1]);
    let (left, right) = rank_one(&Mat::from_fn(a, b, |a, b| w[place(a, b)]));
    let mut matrix = Mat::<f64>::zeros(rows, columns);
    for at in 0..a * b {
        matrix[place(at / b, at % b)] = left[at / b] * right[at % b];
    }
    Structured { matrix, parameters: a + b }
}

/// A product of factors `[16, 8]` and `[8, 16]`.
fn planted() -> Mat<f64> {
    let (a, b) = (gaussian(16, 8, 1), gaussian(8, 16, 2));
    Mat::from_fn(128, 128, |i, j| a[(i / 8, j / 16)] * b[(i % 8, j % 16)])
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "structure",
        quantity: "error of a planted Kronecker product of [16, 8] and [8, 16]",
        expected: Expected::AtMost(1e-12),
        measure: |_| kronecker(&planted(), [16, 8]).relative_error(&planted()),
    },
    Check {
        concept: "structure",
        quantity: "how many times fewer numbers it takes",
        expected: Expected::Near { value: 64.0, within: 0.0 },
        measure: |_| 128.0 * 128.0 / kronecker(&planted(), [16, 8]).parameters as f64,
    },
    Check {
        concept: "structure",
        quantity: "energy of noise [128, 128] that such a product keeps",
        expected: Expected::Near { value: 0.029, within: 0.002 },
        measure: |_| {
            let w = gaussian(128, 128, 3);
            kronecker(&w, [16, 8]).score(&w)
        },
    },
];
