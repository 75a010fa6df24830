//! GPTQ.

use std::borrow::Cow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::descent::{Descent, Refine};
use super::fit::{Fit, Request};
use super::levels::Map;
use super::solution::Solution;
use super::strings::Columns;
use super::{Matrix, Quantized};
use crate::factor::{Factor, factor};
use crate::stats::host;
use crate::{Gram, QuantizeError};

/// The order in which columns are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As they stand.
    Natural,
    /// Descending Gram diagonal, groups of neighbours in the file: no order is stored ("static groups").
    #[default]
    Static,
    /// Descending Gram diagonal, groups of neighbours in that order, which is stored ("act-order", `desc_act`).
    Activation,
}

/// Rounds the columns of `w` in turn, folding each column's error into the ones not yet rounded.
///
/// For column `j` with the inverse factor `U` (upper triangular, `UᵀU = (G + λI)⁻¹`):
///
/// ```text
/// e = (w_j − ŵ_j) / U_jj        w_k ← w_k − e · U_jk   for k > j
/// ```
///
/// Within a block of columns the update is done at once on the host, rows in parallel; what the block owes to the
/// columns after it is one product on the device ("lazy batch updates"). Scales are fitted beforehand, from the
/// weights as they come, so that the grid is the one plain rounding would use; a row in which plain rounding has the
/// smaller loss keeps it, since rows do not depend on each other. What comes of it is the start of a [`Descent`].
///
/// - `w`: `[out, in]`; `G`: `[in, in]`, the sum of `x xᵀ` over calibration inputs
/// - `λ = damping · mean(diag G)`, raised tenfold while the factorisation fails
///
/// Source: Frantar et al. 2022, "GPTQ", algorithm 1 (`docs/references.md#gptq`).
pub(super) struct Gptq<'a> {
    pub(super) layer: &'a str,
    pub(super) w: &'a Matrix,
    pub(super) request: Request<'a>,
    pub(super) order: Order,
    pub(super) damping: f64,
    pub(super) block: usize,
    pub(super) refine: Refine,
    pub(super) restarts: usize,
}

/// A matrix with its columns in the order in which they are rounded.
struct Turns<'t> {
    /// That order; as they stand where absent.
    visited: Option<&'t [u32]>,
    w: Cow<'t, Matrix>,
    /// The inverse factor of the Gram matrix in that order.
    u: Vec<f32>,
    damping: f64,
}

impl Gptq<'_> {
    pub(super) fn quantize(self, gram: &Gram) -> Result<Quantized, QuantizeError> {
        let descending = (self.order != Order::Natural).then(|| descending(&gram.diagonal()));
        // The order that is stored, in which everything below stands, and the order in which columns are rounded.
        let (stored, visited) = if self.order == Order::Activation { (descending, None) } else { (None, descending) };
        let moved = stored.as_ref().map(|order| (self.w.select_columns(order), gram.permuted(order)));
        let (w, gram) = moved.as_ref().map_or((self.w, gram), |(w, gram)| (w, gram));
        let moved = |importance: &[f32]| stored.iter().flatten().map(|at| importance[*at as usize]).collect();
        let importance: Option<Vec<f32>> = self.request.importance.filter(|_| stored.is_some()).map(moved);
        let request = Request { importance: importance.as_deref().or(self.request.importance), ..self.request };

        let turns = self.turns(w, gram, visited.as_deref())?;
        let mut fit = Fit::new(w, request, Map::Nearest);
        let mut solution = self.round(&turns, &fit, &gram.device());
        let plain = solution.take_better(&Solution::plain(w, &fit), w, gram, fit.parts());
        let rounded_rows = plain.into_iter().flatten().count();
        let descent = Descent::new(w, gram, turns.damping, self.refine);
        descent.run(&mut fit, &mut solution);
        for _ in 0..self.restarts {
            let mut other = fit.clone();
            let mut again = self.round(&turns, &other, &gram.device());
            descent.run(&mut other, &mut again);
            let better = solution.take_better(&again, w, gram, fit.parts());
            fit.take(&other, &better);
        }
        let output_loss = Some(gram.share(&solution.errors(w), w));
        let packed = fit.pack(self.layer, &solution.codes, stored)?;
        Ok(Quantized { packed, output_loss, damping: Some(turns.damping), rounded_rows })
    }

    /// Everything that rounding in the order `visited` needs but a grid.
    fn turns<'t>(&self, w: &'t Matrix, gram: &Gram, visited: Option<&'t [u32]>) -> Result<Turns<'t>, QuantizeError> {
        let moved = visited.map(|order| (w.select_columns(order), gram.permuted(order)));
        let gram = moved.as_ref().map_or(gram, |(_, gram)| gram);
        let Factor { u, damping } = factor(gram, self.damping)
            .map_err(|damping| QuantizeError::Factor { layer: self.layer.to_owned(), damping })?;
        let w = moved.map_or(Cow::Borrowed(w), |(w, _)| Cow::Owned(w));
        Ok(Turns { visited, w, u, damping })
    }

    /// The weights on a grid, each column with the errors of those before it.
    fn round(&self, turns: &Turns<'_>, fit: &Fit, device: &Device) -> Solution {
        let Turns { visited, w, u, .. } = turns;
        match visited {
            Some(order) => {
                let group: Vec<usize> = order.iter().map(|column| fit.group_of(*column as usize)).collect();
                self.round_in_turn(w, fit, &group, u, device).restored(order)
            }
            None => {
                let group: Vec<usize> = (0..w.columns).map(|column| fit.group_of(column)).collect();
                self.round_in_turn(w, fit, &group, u, device)
            }
        }
    }

    /// Rounds columns as they stand; `group` says to which group of the grid each belongs.
    fn round_in_turn(&self, w: &Matrix, fit: &Fit, group: &[usize], u: &[f32], device: &Device) -> Solution {
        let Matrix { rows, columns, .. } = *w;
        if let Some(mut strings) = Columns::new(fit, [rows, columns]) {
            return strings.round_in_turn(w, fit, group, u, self.block, device);
        }
        let mut codes = vec![0u16; rows * columns];
        let mut decoded = vec![0.0f32; rows * columns];
        let u_device = Tensor::<2>::from_data(TensorData::new(u.to_vec(), [columns, columns]), device);
        let mut rest = Tensor::<2>::from_data(TensorData::new(w.values.clone(), [rows, columns]), device);
        for start in (0..columns).step_by(self.block) {
            let end = (start + self.block).min(columns);
            let width = end - start;
            let mut block = host(rest.clone().slice([0..rows, 0..width]));
            // The errors replace the weights in `block`, column by column.
            block
                .par_chunks_mut(width)
                .zip(codes.par_chunks_mut(columns).zip(decoded.par_chunks_mut(columns)))
                .enumerate()
                .for_each(|(row, (weights, (codes, decoded)))| {
                    for j in 0..width {
                        let column = start + j;
                        let (code, value) = fit.round(row, group[column], weights[j]);
                        codes[column] = code;
                        decoded[column] = value;
                        let u = &u[column * columns..][start..end];
                        let error = (weights[j] - value) / u[j];
                        weights[j] = error;
                        for (weight, factor) in weights[j + 1..].iter_mut().zip(&u[j + 1..]) {
                            *weight -= error * factor;
                        }
                    }
                });
            if end < columns {
                let errors = Tensor::<2>::from_data(TensorData::new(block, [rows, width]), device);
                let owed = errors.matmul(u_device.clone().slice([start..end, end..columns]));
                let remaining = rest.dims()[1];
                rest = rest.slice([0..rows, width..remaining]) - owed;
            }
        }
        Solution { codes, decoded }
    }
}

impl Matrix {
    /// The columns in the given order.
    fn select_columns(&self, order: &[u32]) -> Self {
        let rows = (0..self.rows).into_par_iter();
        let values =
            rows.flat_map_iter(|row| order.iter().map(move |column| self.row(row)[*column as usize])).collect();
        Self { values, ..*self }
    }
}

impl Gram {
    /// Rows and columns in the given order.
    fn permuted(&self, order: &[u32]) -> Self {
        let indices: Vec<i32> = order.iter().map(|column| *column as i32).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [order.len()]), &self.device());
        Self::new(self.sum().select(0, indices.clone()).select(1, indices), self.count())
    }
}

/// Column indices by descending diagonal; equal entries keep their order, so that the result is the same everywhere.
fn descending(diagonal: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..diagonal.len() as u32).collect();
    order.sort_by(|a, b| diagonal[*b as usize].total_cmp(&diagonal[*a as usize]));
    order
}
