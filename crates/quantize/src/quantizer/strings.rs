//! Trellis codes: the codes of a column are chosen together, so that rounding goes from column to column and not along the rows.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use quench_format::trellis::{Encoder, Sequence, Strings, level};
use rayon::prelude::*;

use super::Matrix;
use super::fit::Fit;
use super::solution::Solution;
use crate::stats::host;

/// Encoders for the columns of one matrix.
pub(super) struct Columns {
    bands: Vec<Band>,
}

/// The rows of one string, with a workspace.
struct Band {
    rows: Range<usize>,
    encoder: Encoder,
    words: Vec<u32>,
    windows: Vec<u16>,
}

impl Columns {
    /// Encoders for a matrix `[rows, ..]`; none if its code is scalar.
    pub(super) fn new(fit: &Fit, shape: [usize; 2]) -> Option<Self> {
        let strings: Strings = fit.scheme.code.strings(shape)?;
        let trellis = strings.trellis();
        let band = |band: usize| {
            let rows = strings.rows(band);
            let length = rows.len();
            Band {
                encoder: trellis.encoder(length),
                words: vec![0; trellis.words(length)],
                windows: vec![0; length],
                rows,
            }
        };
        Some(Self { bands: (0..strings.bands()).map(band).collect() })
    }

    /// The strings nearest to `x`, one column: `argmin Σ (x_r − s_r level_r)²` for each band.
    ///
    /// - `x`, `scales`: `[rows]`
    fn encode(&mut self, x: &[f32], scales: &[f32]) {
        self.bands.par_iter_mut().for_each(|Band { rows, encoder, words, windows }| {
            encoder.encode(Sequence { x: &x[rows.clone()], h: None, scales: &scales[rows.clone()] }, words);
            encoder.trellis().windows(words, windows);
        });
    }

    /// The codes of the last column that was encoded.
    fn codes(&self) -> impl Iterator<Item = u16> {
        self.bands.iter().flat_map(|band| band.windows.iter().copied())
    }

    /// Plain rounding: every column on its own.
    pub(super) fn round(&mut self, w: &Matrix, fit: &Fit) -> Solution {
        let mut solution = Solution { codes: vec![0; w.values.len()], decoded: vec![0.0; w.values.len()] };
        for column in 0..w.columns {
            let (group, x) = (fit.group_of(column), column_of(&w.values, column, w.columns));
            self.encode(&x, &scales(fit, group, w.rows));
            solution.put(column, w.columns, self.codes(), |row, code| fit.weight_of(row, group, level(code.into())));
        }
        solution
    }

    /// Rounds columns as they stand, each with the errors of those before it; see [`Gptq`](super::gptq::Gptq).
    ///
    /// - `group`: to which group of the grid each column belongs
    /// - `u`: the inverse factor, `[columns, columns]`
    /// - `block`: columns per lazy batch update
    pub(super) fn round_in_turn(
        &mut self,
        w: &Matrix,
        fit: &Fit,
        group: &[usize],
        u: &[f32],
        block: usize,
        device: &Device,
    ) -> Solution {
        let Matrix { rows, columns, .. } = *w;
        let mut solution = Solution { codes: vec![0; rows * columns], decoded: vec![0.0; rows * columns] };
        let u_device = Tensor::<2>::from_data(TensorData::new(u.to_vec(), [columns, columns]), device);
        let mut rest = Tensor::<2>::from_data(TensorData::new(w.values.clone(), [rows, columns]), device);
        for start in (0..columns).step_by(block) {
            let end = (start + block).min(columns);
            let width = end - start;
            // Column by column; errors replace weights.
            let mut of_block = host(rest.clone().slice([0..rows, 0..width]).transpose());
            for j in 0..width {
                let column = start + j;
                let (done, after) = of_block.split_at_mut((j + 1) * rows);
                let weights = &mut done[j * rows..];
                self.encode(weights, &scales(fit, group[column], rows));
                let weight = |row: usize, code: u16| fit.weight_of(row, group[column], level(code.into()));
                solution.put(column, columns, self.codes(), weight);
                let u = &u[column * columns..][start..end];
                for (row, weight) in weights.iter_mut().enumerate() {
                    *weight = (*weight - solution.decoded[row * columns + column]) / u[j];
                }
                after.par_chunks_mut(rows).zip(&u[j + 1..]).for_each(|(after, factor)| {
                    after.iter_mut().zip(weights.iter()).for_each(|(weight, error)| *weight -= error * factor);
                });
            }
            if end < columns {
                let errors = Tensor::<2>::from_data(TensorData::new(of_block, [width, rows]), device).transpose();
                let owed = errors.matmul(u_device.clone().slice([start..end, end..columns]));
                let remaining = rest.dims()[1];
                rest = rest.slice([0..rows, width..remaining]) - owed;
            }
        }
        solution
    }

    /// Encodes some columns anew, each for the codes of all others as they are, and keeps the strings that are better.
    ///
    /// - `gradient`: `Γ = E H` of these columns, `[width, rows]`, kept up to date
    /// - `h`: `H`, `[columns, columns]`
    /// - returns what each weight of these columns moved by, `[width, rows]`
    pub(super) fn sweep(
        &mut self,
        fit: &Fit,
        solution: &mut Solution,
        range: Range<usize>,
        gradient: &mut [f32],
        h: &[f32],
    ) -> Vec<f32> {
        let rows = gradient.len() / range.len();
        let columns = solution.codes.len() / rows;
        let mut changes = vec![0.0; gradient.len()];
        for column in range.clone() {
            let (group, at) = (fit.group_of(column), (column - range.start) * rows);
            let h = &h[column * columns..][range.clone()];
            let own = h[column - range.start];
            let now = column_of(&solution.decoded, column, columns);
            let targets: Vec<f32> = now.iter().zip(&gradient[at..]).map(|(now, slope)| now - slope / own).collect();
            if targets.iter().any(|target| !target.is_finite()) {
                continue;
            }
            self.encode(&targets, &scales(fit, group, rows));
            let change = &mut changes[at..at + rows];
            for Band { rows, windows, .. } in &self.bands {
                let decoded: Vec<f32> = rows
                    .clone()
                    .zip(windows)
                    .map(|(row, code)| fit.weight_of(row, group, level(u32::from(*code))))
                    .collect();
                let targets = &targets[rows.clone()];
                if distance(&decoded, targets) >= distance(&now[rows.clone()], targets) {
                    continue;
                }
                for ((row, code), decoded) in rows.clone().zip(windows).zip(decoded) {
                    solution.codes[row * columns + column] = *code;
                    solution.decoded[row * columns + column] = decoded;
                    change[row] = decoded - now[row];
                }
            }
            let change = &*change;
            gradient.par_chunks_mut(rows).zip(h).for_each(|(gradient, h)| {
                gradient.iter_mut().zip(change).for_each(|(gradient, change)| *gradient += change * h);
            });
        }
        changes
    }
}

/// One column of a row-major matrix.
fn column_of(values: &[f32], column: usize, columns: usize) -> Vec<f32> {
    values.iter().skip(column).step_by(columns).copied().collect()
}

/// The scales of a group in all rows.
fn scales(fit: &Fit, group: usize, rows: usize) -> Vec<f32> {
    (0..rows).map(|row| fit.scale(row, group)).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}
