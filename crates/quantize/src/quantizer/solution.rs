//! Codes and what they stand for, before they are packed.

use rayon::prelude::*;

use super::Matrix;
use super::fit::Fit;
use crate::Gram;

/// Codes with the weights that they stand for, `[rows, columns]`.
pub(super) struct Solution {
    pub(super) codes: Vec<u16>,
    pub(super) decoded: Vec<f32>,
}

impl Solution {
    /// Plain rounding on the grid of `fit`; columns in stored order.
    pub(super) fn plain(w: &Matrix, fit: &Fit) -> Self {
        let rows = (0..w.rows).into_par_iter();
        let pairs = rows.flat_map_iter(|row| {
            let weights = w.row(row).iter().enumerate();
            weights.map(move |(column, value)| fit.round(row, fit.group_of(column), *value))
        });
        let (codes, decoded) = pairs.unzip();
        Self { codes, decoded }
    }

    /// Puts columns that stand in `order` back to where they came from.
    pub(super) fn restored(self, order: &[u32]) -> Self {
        Self { codes: restored(&self.codes, order), decoded: restored(&self.decoded, order) }
    }

    /// `Ŵ − W`.
    pub(super) fn errors(&self, w: &Matrix) -> Matrix {
        Matrix { values: self.decoded.iter().zip(&w.values).map(|(q, w)| q - w).collect(), ..*w }
    }

    /// Takes each row in which `other` has the smaller loss; returns which those are.
    pub(super) fn take_better_rows(&mut self, other: &Self, w: &Matrix, gram: &Gram) -> Vec<usize> {
        let (own, others) = (gram.energy(&self.errors(w)), gram.energy(&other.errors(w)));
        let better: Vec<usize> = (0..w.rows).filter(|row| others[*row] < own[*row]).collect();
        for row in &better {
            let range = row * w.columns..(row + 1) * w.columns;
            self.codes[range.clone()].copy_from_slice(&other.codes[range.clone()]);
            self.decoded[range.clone()].copy_from_slice(&other.decoded[range]);
        }
        better
    }
}

fn restored<T: Copy + Default>(values: &[T], order: &[u32]) -> Vec<T> {
    let mut restored = vec![T::default(); values.len()];
    for (from, to) in values.chunks(order.len()).zip(restored.chunks_mut(order.len())) {
        for (value, column) in from.iter().zip(order) {
            to[*column as usize] = *value;
        }
    }
    restored
}
