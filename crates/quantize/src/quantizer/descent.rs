//! Coordinate descent on the output loss: codes, scales, and zero points or minimums in turn.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Matrix;
use super::fit::Fit;
use super::solution::Solution;
use super::strings::Columns;
use crate::Gram;
use crate::stats::{host, mean_diagonal};

/// What is done to a solution after it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refine {
    /// Whether scales and zero points are refitted to the codes in closed form, before and after every sweep.
    pub refit: bool,
    /// Most sweeps of coordinate descent over the codes; it ends where a sweep gains less than a thousandth.
    pub descent: usize,
    /// Most sweeps over pairs of codes after that, with the same end.
    #[serde(default)]
    pub pairs: usize,
}

impl Refine {
    /// Whether nothing is done.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A sweep that lowers the loss by less than this part of it is the last.
const GAIN: f64 = 1e-3;
/// Columns whose codes are visited on the host before what they changed is passed on in one product.
const BLOCK: usize = 128;
/// Visits of the codes of a block before that.
const VISITS: usize = 2;

/// Lowers `tr(E H Eᵀ)`, `E = Ŵ − W`, by exact minimisation over one variable at a time; it never rises.
///
/// With the gradient `Γ = E H` (half of it), kept up to date:
///
/// ```text
/// code of weight j      ŵ_j ← the level nearest to ŵ_j − Γ_j / H_jj
/// scale of group a      s ← s − ⟨q, Γ_a⟩ / ⟨q, H_aa q⟩        q = level(code) − zero
/// zero point of a       z ← round(z + ⟨1, Γ_a⟩ / (s ⟨1, H_aa 1⟩))
/// minimum of a          m ← m − ⟨1, Γ_a⟩ / ⟨1, H_aa 1⟩
/// ```
///
/// Along one variable the loss is a parabola, so that the nearest value that can be stored is the best that can be stored.
/// Rows are independent but where they share one scale. Columns are in stored order.
///
/// - `H = G + λI`, `λ = damping · mean(diag G)`: what calibration did not see stays near the dense weights
///
/// Source: `docs/references.md#coordinate-descent`.
pub(super) struct Descent<'a> {
    w: &'a Matrix,
    refine: Refine,
    h: Tensor<2>,
    /// `h` on the host, row-major.
    h_host: Vec<f32>,
    pairs: Pairs,
    device: Device,
}

impl<'a> Descent<'a> {
    pub(super) fn new(w: &'a Matrix, gram: &Gram, damping: f64, refine: Refine) -> Self {
        let (n, device) = (w.columns, gram.device());
        let mut h_host = gram.to_host();
        let mean = mean_diagonal(&h_host);
        h_host.iter_mut().step_by(n + 1).for_each(|value| *value += (damping * mean) as f32);
        let h = Tensor::from_data(TensorData::new(h_host.clone(), [n, n]), &device);
        let pairs = if refine.pairs > 0 { Pairs::new(&h_host, n) } else { Pairs::default() };
        Self { w, refine, h, h_host, pairs, device }
    }

    /// Refines codes, one at a time and then in pairs, and the grid under them.
    pub(super) fn run(&self, fit: &mut Fit, solution: &mut Solution) {
        let refine = self.refine;
        if refine.is_none() {
            return;
        }
        let (mut gradient, mut loss) = self.gradient(solution);
        if refine.refit {
            gradient = self.refit(fit, solution, gradient);
        }
        let mut strings = Columns::new(fit, [self.w.rows, self.w.columns]);
        for (most, pairs) in [(refine.descent, false), (refine.pairs, true)] {
            // Neighbours in a string have no codes of their own to move.
            if pairs && strings.is_some() {
                continue;
            }
            for _ in 0..most {
                if pairs {
                    gradient = self.move_pairs(fit, solution, gradient);
                }
                gradient = match &mut strings {
                    Some(strings) => self.sweep_strings(strings, fit, solution, gradient),
                    None => self.sweep(fit, solution, gradient),
                };
                if refine.refit {
                    gradient = self.refit(fit, solution, gradient);
                }
                let before = std::mem::replace(&mut loss, self.loss(solution, &gradient));
                if before - loss <= GAIN * before {
                    break;
                }
            }
        }
    }

    /// `Γ`, and the loss.
    fn gradient(&self, solution: &Solution) -> (Tensor<2>, f64) {
        let errors = solution.errors(self.w);
        let gradient = self.upload(errors.values, self.w.columns).matmul(self.h.clone());
        let loss = self.loss(solution, &gradient);
        (gradient, loss)
    }

    /// `tr(E H Eᵀ) = ⟨E, Γ⟩`.
    fn loss(&self, solution: &Solution, gradient: &Tensor<2>) -> f64 {
        product(&solution.errors(self.w).values, &host(gradient.clone()))
    }

    /// Moves each weight to the next level below or above, where one of its partners moving to a next level of its own more than
    /// makes up for it; the best is taken.
    fn move_pairs(&self, fit: &Fit, solution: &mut Solution, gradient: Tensor<2>) -> Tensor<2> {
        let columns = self.w.columns;
        let Pairs { diagonal, partners, count } = &self.pairs;
        let mut gradient = host(gradient);
        gradient
            .par_chunks_mut(columns)
            .zip(solution.codes.par_chunks_mut(columns).zip(solution.decoded.par_chunks_mut(columns)))
            .enumerate()
            .for_each(|(row, (gradient, (codes, decoded)))| {
                let next = |column: usize, code: u16| fit.neighbours(row, fit.group_of(column), code);
                // How far the levels below and above are, 0 where there is none.
                let [mut below, mut above] = [0, 1].map(|side| -> Vec<f32> {
                    (0..columns).map(|column| next(column, codes[column])[side].1 - decoded[column]).collect()
                });
                for first in 0..columns {
                    let h = &self.h_host[first * columns..][..columns];
                    let partners = &partners[first * count..][..*count];
                    for side in 0..2 {
                        let step = [below[first], above[first]][side];
                        let cost = step * (2.0 * gradient[first] + step * h[first]);
                        if step == 0.0 {
                            continue;
                        }
                        let levels = Answers { gradient, h, below: &below, above: &above, diagonal, step };
                        let Some((second, other, gain)) = levels.best(partners) else { continue };
                        // Not for what may be a rounding of the sums.
                        if cost + gain > -1e-5 * cost.abs() {
                            continue;
                        }
                        for (column, side) in [(first, side), (second, other)] {
                            let (code, value) = next(column, codes[column])[side];
                            let step = value - decoded[column];
                            (codes[column], decoded[column]) = (code, value);
                            let h = &self.h_host[column * columns..][..columns];
                            gradient.iter_mut().zip(h).for_each(|(gradient, h)| *gradient += step * h);
                            let [low, high] = next(column, code);
                            (below[column], above[column]) = (low.1 - value, high.1 - value);
                        }
                        break;
                    }
                }
            });
        self.upload(gradient, columns)
    }

    /// Visits every code.
    fn sweep(&self, fit: &Fit, solution: &mut Solution, mut gradient: Tensor<2>) -> Tensor<2> {
        let Matrix { rows, columns, .. } = *self.w;
        for start in (0..columns).step_by(BLOCK) {
            let end = (start + BLOCK).min(columns);
            let width = end - start;
            let mut of_block = host(gradient.clone().slice([0..rows, start..end]));
            let mut changes = vec![0.0f32; rows * width];
            of_block
                .par_chunks_mut(width)
                .zip(changes.par_chunks_mut(width))
                .zip(solution.codes.par_chunks_mut(columns).zip(solution.decoded.par_chunks_mut(columns)))
                .enumerate()
                .for_each(|(row, ((gradient, changes), (codes, decoded)))| {
                    for _ in 0..VISITS {
                        let mut changed = false;
                        for j in 0..width {
                            let column = start + j;
                            let h = &self.h_host[column * columns..][start..end];
                            let (code, value) =
                                fit.round(row, fit.group_of(column), decoded[column] - gradient[j] / h[j]);
                            let step = value - decoded[column];
                            // Also false where the row of H is all zero and the quotient was not a number.
                            if code != codes[column] && step * (2.0 * gradient[j] + step * h[j]) < 0.0 {
                                changed = true;
                                (codes[column], decoded[column]) = (code, value);
                                changes[j] += step;
                                gradient.iter_mut().zip(h).for_each(|(gradient, h)| *gradient += step * h);
                            }
                        }
                        if !changed {
                            break;
                        }
                    }
                });
            if changes.iter().any(|change| *change != 0.0) {
                let changes = self.upload(changes, width);
                gradient = gradient + changes.matmul(self.h.clone().slice([start..end, 0..columns]));
            }
        }
        gradient
    }

    /// Visits every column, the strings of which are chosen for what all other columns are.
    fn sweep_strings(
        &self,
        strings: &mut Columns,
        fit: &Fit,
        solution: &mut Solution,
        mut gradient: Tensor<2>,
    ) -> Tensor<2> {
        let Matrix { rows, columns, .. } = *self.w;
        for start in (0..columns).step_by(BLOCK) {
            let range = start..(start + BLOCK).min(columns);
            let mut of_block = host(gradient.clone().slice([0..rows, range.clone()]).transpose());
            let changes = strings.sweep(fit, solution, range.clone(), &mut of_block, &self.h_host);
            if changes.iter().any(|change| *change != 0.0) {
                let changes = self.upload(changes, rows).transpose();
                gradient = gradient + changes.matmul(self.h.clone().slice([range, 0..columns]));
            }
        }
        gradient
    }

    /// Refits the scale of every group, and its zero point or minimum where it has one.
    fn refit(&self, fit: &mut Fit, solution: &mut Solution, mut gradient: Tensor<2>) -> Tensor<2> {
        for group in 0..fit.groups() {
            gradient = self.refit_scales(group, fit, solution, gradient);
            if fit.has_offsets() {
                gradient = self.refit_offsets(group, fit, solution, gradient);
            }
        }
        gradient
    }

    fn refit_scales(&self, group: usize, fit: &mut Fit, solution: &mut Solution, gradient: Tensor<2>) -> Tensor<2> {
        let Matrix { rows, columns, .. } = *self.w;
        let range = fit.columns_of(group);
        let width = range.len();
        let levels: Vec<f32> = (0..rows)
            .into_par_iter()
            .flat_map_iter(|row| {
                let codes = &solution.codes[row * columns..][range.clone()];
                codes.iter().map(|code| fit.level(row, group, *code)).collect::<Vec<f32>>()
            })
            .collect();
        let reach = self.upload(levels.clone(), width).matmul(self.h.clone().slice([range.clone(), 0..columns]));
        let curvature = host(reach.clone().slice([0..rows, range.clone()]));
        let slope = host(gradient.clone().slice([0..rows, range.clone()]));
        let of_row = |row: usize| {
            let at = row * width..(row + 1) * width;
            (product(&levels[at.clone()], &slope[at.clone()]), product(&levels[at.clone()], &curvature[at]))
        };
        let parabolas: Vec<(f64, f64)> = (0..rows).into_par_iter().map(of_row).collect();
        let steps = fit.step_scales(group, &parabolas);
        for row in (0..rows).filter(|row| steps[*row] != 0.0) {
            let decoded = &mut solution.decoded[row * columns..][range.clone()];
            for (value, level) in decoded.iter_mut().zip(&levels[row * width..]) {
                *value = fit.weight_of(row, group, *level);
            }
        }
        gradient + reach * self.upload(steps, 1)
    }

    fn refit_offsets(&self, group: usize, fit: &mut Fit, solution: &mut Solution, gradient: Tensor<2>) -> Tensor<2> {
        let Matrix { rows, columns, .. } = *self.w;
        let range = fit.columns_of(group);
        let mut reach = vec![0.0f32; columns];
        for column in range.clone() {
            reach.iter_mut().zip(&self.h_host[column * columns..]).for_each(|(sum, h)| *sum += h);
        }
        let curvature: f64 = reach[range.clone()].iter().map(|value| f64::from(*value)).sum();
        let slope = host(gradient.clone().slice([0..rows, range.clone()]));
        let slopes: Vec<f64> =
            slope.par_chunks(range.len()).map(|row| row.iter().map(|value| f64::from(*value)).sum()).collect();
        // What a weight of the group in each row moves by.
        let steps = fit.step_offsets(group, &slopes, curvature);
        for row in (0..rows).filter(|row| steps[*row] != 0.0) {
            for column in range.clone() {
                let at = row * columns + column;
                solution.decoded[at] = fit.weight(row, group, solution.codes[at]);
            }
        }
        gradient + self.upload(steps, 1).matmul(self.upload(reach, columns))
    }

    fn upload(&self, values: Vec<f32>, columns: usize) -> Tensor<2> {
        let rows = values.len() / columns;
        Tensor::from_data(TensorData::new(values, [rows, columns]), &self.device)
    }
}

/// Partners that are tried for each column.
const PARTNERS: usize = 32;

/// Which columns are tried together.
#[derive(Default)]
struct Pairs {
    /// That of `H`.
    diagonal: Vec<f32>,
    /// Of each column, `count` others.
    partners: Vec<u32>,
    count: usize,
}

impl Pairs {
    /// The partners of column `i` are the `j` with the largest `H_ij² / H_jj`: what the loss would fall by if `j` could answer a
    /// step of `i` freely.
    fn new(h: &[f32], columns: usize) -> Self {
        let diagonal: Vec<f32> = h.iter().step_by(columns + 1).copied().collect();
        let count = PARTNERS.min(columns - 1);
        let of = |(column, h): (usize, &[f32])| {
            let answer = |other: u32| h[other as usize] * h[other as usize] / diagonal[other as usize];
            let mut others: Vec<u32> = (0..columns as u32).filter(|other| *other as usize != column).collect();
            // Equals in the order of the columns, so that the same are taken everywhere.
            others.sort_unstable_by(|a, b| answer(*b).total_cmp(&answer(*a)).then(a.cmp(b)));
            others.truncate(count);
            others
        };
        let partners = h.par_chunks(columns).enumerate().flat_map_iter(of).collect();
        Self { diagonal, partners, count }
    }
}

/// What the other weights of a row can do once one has moved by `step`.
struct Answers<'a> {
    gradient: &'a [f32],
    /// The row of `H` of the weight that has moved.
    h: &'a [f32],
    below: &'a [f32],
    above: &'a [f32],
    diagonal: &'a [f32],
    step: f32,
}

impl Answers<'_> {
    /// What the loss changes by if the weight in `column` moves in the better direction, and whether that is up.
    #[inline]
    fn change(&self, column: usize) -> (f32, bool) {
        let slope = self.gradient[column] + self.step * self.h[column];
        let up = slope <= 0.0;
        let step = if up { self.above[column] } else { self.below[column] };
        (step * (2.0 * slope + step * self.diagonal[column]), up)
    }

    /// The one of `partners` whose move gains most, its side, and the change of the loss; none if no move gains.
    fn best(&self, partners: &[u32]) -> Option<(usize, usize, f32)> {
        let mut best = (0, 0.0);
        for column in partners {
            let change = self.change(*column as usize).0;
            if change < best.1 {
                best = (*column as usize, change);
            }
        }
        (best.1 < 0.0).then(|| (best.0, usize::from(self.change(best.0).1), best.1))
    }
}

/// `⟨a, b⟩` in f64.
fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
