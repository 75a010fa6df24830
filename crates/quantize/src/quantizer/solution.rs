//! Codes and what they stand for, before they are packed.

use std::ops::Range;

use rayon::prelude::*;

use super::Matrix;
use super::fit::Fit;
use super::strings::Columns;
use crate::Gram;

/// Codes with the weights that they stand for, `[rows, columns]`.
pub(super) struct Solution {
    pub(super) codes: Vec<u16>,
    pub(super) decoded: Vec<f32>,
}

impl Solution {
    /// Plain rounding on the grid of `fit`; columns in stored order.
    pub(super) fn plain(w: &Matrix, fit: &Fit) -> Self {
        if let Some(mut columns) = Columns::new(fit, [w.rows, w.columns]) {
            return columns.round(w, fit);
        }
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

    /// The codes of one column, and what they stand for.
    ///
    /// - `weight`: of a row and a code
    pub(super) fn put(
        &mut self,
        column: usize,
        columns: usize,
        codes: impl Iterator<Item = u16>,
        weight: impl Fn(usize, u16) -> f32,
    ) {
        for (row, code) in codes.enumerate() {
            self.codes[row * columns + column] = code;
            self.decoded[row * columns + column] = weight(row, code);
        }
    }

    /// Takes each part in which `other` has the smaller loss; returns which those are.
    ///
    /// - `parts`: rows that are taken together
    pub(super) fn take_better(
        &mut self,
        other: &Self,
        w: &Matrix,
        gram: &Gram,
        mut parts: Vec<Range<usize>>,
    ) -> Vec<Range<usize>> {
        let (own, others) = (gram.energy(&self.errors(w)), gram.energy(&other.errors(w)));
        let sum = |energies: &[f64], part: &Range<usize>| energies[part.clone()].iter().sum::<f64>();
        parts.retain(|part| sum(&others, part) < sum(&own, part));
        for part in &parts {
            let range = part.start * w.columns..part.end * w.columns;
            self.codes[range.clone()].copy_from_slice(&other.codes[range.clone()]);
            self.decoded[range.clone()].copy_from_slice(&other.decoded[range]);
        }
        parts
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
