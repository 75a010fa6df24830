//! GPTQ.

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::fit::{Fit, Map, Request};
use super::{Matrix, Quantized};
use crate::factor::{Factor, factor};
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
/// smaller loss keeps it, since rows do not depend on each other.
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
}

impl Gptq<'_> {
    pub(super) fn quantize(self, gram: &Gram) -> Result<Quantized, QuantizeError> {
        let columns = self.w.columns;
        let order = match self.order {
            Order::Natural => None,
            Order::Static | Order::Activation => Some(descending(&gram.diagonal())),
        };
        // Everything below works on columns in the order in which they are rounded.
        let ordered = order.as_ref().map(|order| self.w.select_columns(order));
        let (w, gram) = match (&ordered, &order) {
            (Some(w), Some(order)) => (w, &gram.permuted(order)),
            _ => (self.w, gram),
        };
        let (fit, group): (Fit, Vec<usize>) = match (self.order, &order) {
            (Order::Static, Some(order)) => {
                let fit = Fit::new(self.w, self.request, Map::Nearest);
                let group = order.iter().map(|column| fit.group_of(*column as usize)).collect();
                (fit, group)
            }
            (_, order) => {
                let moved = |importance: &[f32]| order.iter().flatten().map(|at| importance[*at as usize]).collect();
                let moved: Option<Vec<f32>> = self.request.importance.filter(|_| order.is_some()).map(moved);
                let request = Request { importance: moved.as_deref().or(self.request.importance), ..self.request };
                let fit = Fit::new(w, request, Map::Nearest);
                let group = (0..columns).map(|column| fit.group_of(column)).collect();
                (fit, group)
            }
        };

        let Factor { u, damping } = factor(gram, self.damping)
            .map_err(|damping| QuantizeError::Factor { layer: self.layer.to_owned(), damping })?;
        let solved = self.solve(w, &fit, &group, gram, &u);
        let rounded = Solution::plain(w, &fit, &group);
        let (codes, loss, rounded_rows) = Solution::better_rows(solved, rounded, w, gram);
        let output_loss = Some(loss / gram.energy(w).iter().sum::<f64>().max(f64::MIN_POSITIVE));

        let (codes, stored) = match (self.order, order) {
            (Order::Static, Some(order)) => (restore_columns(&codes, &order), None),
            (_, stored) => (codes, stored),
        };
        let packed = fit.pack(self.layer, &codes, stored)?;
        Ok(Quantized { packed, output_loss, damping: Some(damping), rounded_rows })
    }

    /// The codes and the weights they stand for, columns in the order of `w`.
    fn solve(&self, w: &Matrix, fit: &Fit, group: &[usize], gram: &Gram, u: &[f32]) -> Solution {
        let Matrix { rows, columns, .. } = *w;
        let device = gram.device();
        let mut codes = vec![0u16; rows * columns];
        let mut decoded = vec![0.0f32; rows * columns];
        let u_device = Tensor::<2>::from_data(TensorData::new(u.to_vec(), [columns, columns]), &device);
        let mut rest = Tensor::<2>::from_data(TensorData::new(w.values.clone(), [rows, columns]), &device);
        for start in (0..columns).step_by(self.block) {
            let end = (start + self.block).min(columns);
            let width = end - start;
            let mut block = to_host(rest.clone().slice([0..rows, 0..width]));
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
                let errors = Tensor::<2>::from_data(TensorData::new(block, [rows, width]), &device);
                let owed = errors.matmul(u_device.clone().slice([start..end, end..columns]));
                let remaining = rest.dims()[1];
                rest = rest.slice([0..rows, width..remaining]) - owed;
            }
        }
        Solution { codes, decoded }
    }
}

/// Codes with the weights that they stand for, `[rows, columns]` in the order of rounding.
struct Solution {
    codes: Vec<u16>,
    decoded: Vec<f32>,
}

impl Solution {
    /// Plain rounding on the same grid.
    fn plain(w: &Matrix, fit: &Fit, group: &[usize]) -> Self {
        let rows = (0..w.rows).into_par_iter();
        let pairs = rows.flat_map_iter(|row| {
            w.row(row).iter().zip(group).map(move |(value, group)| fit.round(row, *group, *value))
        });
        let (codes, decoded) = pairs.unzip();
        Self { codes, decoded }
    }

    /// Takes each row from the solution with the smaller loss; returns the codes, the whole loss, and in how many rows
    /// the second was better.
    fn better_rows(first: Self, second: Self, w: &Matrix, gram: &Gram) -> (Vec<u16>, f64, usize) {
        let losses = |solution: &Self| {
            let values = solution.decoded.iter().zip(&w.values).map(|(q, w)| q - w).collect();
            gram.energy(&Matrix { values, ..*w })
        };
        let (first_losses, second_losses) = (losses(&first), losses(&second));
        let mut codes = first.codes;
        let (mut loss, mut taken) = (0.0, 0);
        for (row, (a, b)) in first_losses.iter().zip(&second_losses).enumerate() {
            if b < a {
                let range = row * w.columns..(row + 1) * w.columns;
                codes[range.clone()].copy_from_slice(&second.codes[range]);
                taken += 1;
            }
            loss += a.min(*b);
        }
        (codes, loss, taken)
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

/// Puts columns that stand in `order` back to where they came from.
fn restore_columns(codes: &[u16], order: &[u32]) -> Vec<u16> {
    let mut restored = vec![0; codes.len()];
    for (from, to) in codes.chunks(order.len()).zip(restored.chunks_mut(order.len())) {
        for (code, column) in from.iter().zip(order) {
            to[*column as usize] = *code;
        }
    }
    restored
}

fn to_host(x: Tensor<2>) -> Vec<f32> {
    crate::stats::host(x)
}
