//! The part of a matrix that a group of permutations leaves unchanged.

use std::collections::BTreeSet;

use faer::Mat;
use quench_metrics::{Check, Expected};

use super::{Structured, gaussian};

/// An element of a group, as the permutations that it makes of outputs and of inputs: `out[i]` is where output `i` goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// `[out]`.
    pub out: Vec<usize>,
    /// `[in]`.
    pub into: Vec<usize>,
}

/// The cyclic group of `n` elements, which shifts `n` outputs and `n` inputs together.
pub fn cyclic(n: usize) -> Vec<Element> {
    let shift = |by: usize| (0..n).map(|i| (i + by) % n).collect::<Vec<usize>>();
    (0..n).map(|by| Element { out: shift(by), into: shift(by) }).collect()
}

/// The Reynolds operator: the mean of what the group makes of `w [out, in]`, which is its nearest invariant matrix.
///
/// ```text
/// P(W) = 1/|G|  Σ over g of  ρ_out(g) W ρ_in(g)⁻¹        score: ‖P(W)‖² / ‖W‖²,  1 / n on average of noise for a cyclic group
/// ```
///
/// The elements must be all of a group: for others the mean is no projection.
///
/// # Panics
/// If there is no element, or one permutes other numbers of outputs or inputs.
pub fn reynolds(w: &Mat<f64>, group: &[Element]) -> Structured {
    let (rows, columns) = (w.nrows(), w.ncols());
    assert!(!group.is_empty(), "a group has at least one element");
    let mut matrix = Mat::<f64>::zeros(rows, columns);
    for element in group {
        let found = [element.out.len(), element.into.len()];
        assert_eq!(found, [rows, columns], "an element permutes {found:?}, the matrix is [{rows}, {columns}]");
        for j in 0..columns {
            for i in 0..rows {
                matrix[(element.out[i], element.into[j])] += w[(i, j)] / group.len() as f64;
            }
        }
    }
    // One number for each orbit of places, named by the least of them.
    let place = |element: &Element, i: usize, j: usize| element.out[i] * columns + element.into[j];
    let least = |i: usize, j: usize| group.iter().map(|element| place(element, i, j)).min();
    let orbits: BTreeSet<_> =
        (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| least(i, j)).collect();
    Structured { matrix, parameters: orbits.len() }
}

const SIZE: usize = 64;

/// A circulant matrix of a random first column.
fn circulant() -> Mat<f64> {
    let first = gaussian(SIZE, 1, 4);
    Mat::from_fn(SIZE, SIZE, |i, j| first[((i + SIZE - j) % SIZE, 0)])
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "structure",
        quantity: "symmetry score of a circulant matrix under the cyclic group of 64",
        expected: Expected::Near { value: 1.0, within: 1e-12 },
        measure: |_| reynolds(&circulant(), &cyclic(SIZE)).score(&circulant()),
    },
    Check {
        concept: "structure",
        quantity: "numbers of a matrix that is unchanged by it",
        expected: Expected::Near { value: 64.0, within: 0.0 },
        measure: |_| reynolds(&circulant(), &cyclic(SIZE)).parameters as f64,
    },
    Check {
        concept: "structure",
        quantity: "score of noise: 1 / 64, mean of 20",
        expected: Expected::Near { value: 0.0156, within: 0.0029 },
        measure: |_| {
            let group = cyclic(SIZE);
            let score = |seed| {
                let w = gaussian(SIZE, SIZE, seed);
                reynolds(&w, &group).score(&w)
            };
            (0..20).map(score).sum::<f64>() / 20.0
        },
    },
    Check {
        concept: "structure",
        quantity: "what a second projection changes",
        expected: Expected::AtMost(1e-13),
        measure: |_| {
            let once = reynolds(&gaussian(SIZE, SIZE, 9), &cyclic(SIZE)).matrix;
            reynolds(&once, &cyclic(SIZE)).relative_error(&once)
        },
    },
];
