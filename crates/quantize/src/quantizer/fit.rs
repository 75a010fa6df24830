//! The grid of a matrix: scales and zero points as they are stored, found before any weight is rounded and refitted afterwards.

use std::ops::Range;

use quench_format::{Group, Offsets, Packed, Scale, Scales, Scheme, power_of_two};
use rayon::prelude::*;

use super::levels::{Levels, Map};
use super::search::{Finder, Found, ScaleSearch, rounded};
use super::{Matrix, curve};
use crate::{CodeChoice, QuantizeError, Target};

/// What is asked of the grid of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) target: Target,
    pub(super) search: ScaleSearch,
    /// What a squared error in each column counts, `[columns]`; in every column the same where absent.
    pub(super) importance: Option<&'a [f32]>,
}

/// The grid of one matrix: for every row and group a scale and a zero point or a minimum, as they will be stored.
#[derive(Clone)]
pub(super) struct Fit {
    pub(super) scheme: Scheme,
    rows: usize,
    columns: usize,
    scales: Scales,
    offsets: Offsets,
    /// Minimums as they decode, `[rows, groups]`, where there are any.
    minimums: Vec<f32>,
    /// Scales as they decode, `[rows, groups]`.
    effective: Vec<f32>,
    groups: usize,
    size: usize,
    levels: Levels,
}

impl Fit {
    /// Finds the code of `w` where it is left open, and the scales; columns are in stored order.
    pub(super) fn new(w: &Matrix, request: Request<'_>, map: Map) -> Self {
        match request.target.code {
            CodeChoice::Code(code) => Self::on(w, request.target.with_code(code), request, map),
            CodeChoice::AnyMu(bits) => curve::fit(w, bits, request),
        }
    }

    /// Finds the scales of `w` under `scheme`, as `request` has them searched.
    pub(super) fn on(w: &Matrix, scheme: Scheme, request: Request<'_>, map: Map) -> Self {
        let (groups, size) = (scheme.group.groups_per_row(w.columns), scheme.group.size(w.columns));
        let levels = Levels::new(scheme.code, map);
        let finder = Finder { scheme, search: request.search, levels: &levels };
        let found: Vec<Found> = if scheme.group == Group::Tensor {
            let importance = request.importance.map(|importance| importance.repeat(w.rows));
            vec![finder.find(&w.values, importance.as_deref())]
        } else {
            let rows = (0..w.rows).into_par_iter();
            let of_row = |row: usize| {
                let groups = w.row(row).chunks(size).enumerate();
                groups.map(|(group, values)| {
                    finder.find(values, request.importance.map(|h| &h[group * size..][..values.len()]))
                })
            };
            rows.flat_map_iter(of_row).collect()
        };
        let kept = |kept: Scale, ideal: Vec<f32>| {
            let (stored, effective) = store(ideal, kept, groups, w.rows);
            (stored, if scheme.group == Group::Tensor { vec![effective[0]; w.rows] } else { effective })
        };
        let (scales, effective) = kept(scheme.scale, found.iter().map(|found| found.scale).collect());
        let (offsets, minimums) = match scheme.minimum {
            Some(minimum) => {
                let (stored, minimums) = kept(minimum, found.iter().map(|found| found.minimum).collect());
                (Offsets::Minimums(stored), minimums)
            }
            None if scheme.has_zeros() => (Offsets::Zeros(found.iter().map(|found| found.zero).collect()), Vec::new()),
            None => (Offsets::None, Vec::new()),
        };
        Self { scheme, rows: w.rows, columns: w.columns, scales, offsets, minimums, effective, groups, size, levels }
    }

    /// The group of stored column `column`.
    pub(super) fn group_of(&self, column: usize) -> usize {
        column / self.size
    }

    /// The stored columns of a group.
    pub(super) fn columns_of(&self, group: usize) -> Range<usize> {
        group * self.size..((group + 1) * self.size).min(self.columns)
    }

    /// Groups in a row.
    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    /// Whether groups have zero points or minimums.
    pub(super) fn has_offsets(&self) -> bool {
        self.offsets != Offsets::None
    }

    /// The scale of a group as it decodes.
    pub(super) fn scale(&self, row: usize, group: usize) -> f32 {
        self.effective[row * self.groups + group]
    }

    /// What the scale of a group is multiplied with in a weight of this code.
    pub(super) fn level(&self, row: usize, group: usize, code: u16) -> f32 {
        let zero = self.offsets.zeros().map_or(0.0, |zeros| f32::from(zeros[self.stored(row, group)]));
        self.levels.grid.level(code) - zero
    }

    /// The weight that a code stands for.
    #[inline]
    pub(super) fn weight(&self, row: usize, group: usize, code: u16) -> f32 {
        self.weight_of(row, group, self.level(row, group, code))
    }

    /// The weight of a level, with the roundings of [`Packed::decode`].
    #[inline]
    pub(super) fn weight_of(&self, row: usize, group: usize, level: f32) -> f32 {
        let product = self.scale(row, group) * level;
        match self.minimums.get(row * self.groups + group) {
            None => product,
            Some(minimum) => product + minimum,
        }
    }

    /// Whether one scale serves all rows.
    fn is_shared(&self) -> bool {
        self.scheme.group == Group::Tensor
    }

    /// Rows whose codes can only be taken from another solution together: each its own, but for those of one string, and all where
    /// they share a scale.
    pub(super) fn parts(&self) -> Vec<Range<usize>> {
        match self.scheme.code.strings([self.rows, self.columns]) {
            _ if self.is_shared() => std::iter::once(0..self.rows).collect(),
            Some(strings) => (0..strings.bands()).map(|band| strings.rows(band)).collect(),
            None => (0..self.rows).map(|row| row..row + 1).collect(),
        }
    }

    /// Takes the scales and offsets of some [parts](Self::parts) from another grid of the same scheme.
    pub(super) fn take(&mut self, other: &Self, parts: &[Range<usize>]) {
        if self.is_shared() {
            if !parts.is_empty() {
                self.clone_from(other);
            }
            return;
        }
        let groups = self.groups;
        let copy = |row: usize| row * groups..(row + 1) * groups;
        let take = |own: &mut Scales, other: &Scales, row: usize| match (own, other) {
            (Scales::Float(own), Scales::Float(other)) => own[copy(row)].copy_from_slice(&other[copy(row)]),
            (Scales::Nested { codes: own, .. }, Scales::Nested { codes: other, .. }) => {
                own[copy(row)].copy_from_slice(&other[copy(row)]);
            }
            _ => unreachable!("both grids are of one scheme"),
        };
        for row in parts.iter().cloned().flatten() {
            self.effective[copy(row)].copy_from_slice(&other.effective[copy(row)]);
            take(&mut self.scales, &other.scales, row);
            match (&mut self.offsets, &other.offsets) {
                (Offsets::None, Offsets::None) => {}
                (Offsets::Zeros(own), Offsets::Zeros(other)) => own[copy(row)].copy_from_slice(&other[copy(row)]),
                (Offsets::Minimums(own), Offsets::Minimums(minimums)) => {
                    take(own, minimums, row);
                    self.minimums[copy(row)].copy_from_slice(&other.minimums[copy(row)]);
                }
                _ => unreachable!("both grids are of one scheme"),
            }
        }
    }

    /// The codes whose weights are next below and next above that of `code`, and what those weights are; itself at the ends.
    #[inline]
    pub(super) fn neighbours(&self, row: usize, group: usize, code: u16) -> [(u16, f32); 2] {
        let scale = self.scale(row, group);
        let [below, above] = self.levels.neighbours[usize::from(code)];
        let codes = if scale < 0.0 { [above, below] } else { [below, above] };
        codes.map(|code| (code, self.weight(row, group, code)))
    }

    /// Where the scale of a group is stored: one serves all rows with [`Group::Tensor`].
    fn stored(&self, row: usize, group: usize) -> usize {
        if self.is_shared() { 0 } else { row * self.groups + group }
    }

    /// Moves the scale of `group` in every row to where a loss is least, and returns by how much it moved.
    ///
    /// - `parabolas`: `(b, c)` for each row, where a step `δ` of the scale changes the loss by `2bδ + cδ²`
    pub(super) fn step_scales(&mut self, group: usize, parabolas: &[(f64, f64)]) -> Vec<f32> {
        let (kept, groups, shared) = (self.scheme.scale, self.groups, self.is_shared());
        step_all(&mut self.scales, &mut self.effective, kept, parabolas, At { group, groups, shared })
    }

    /// Moves the zero point or the minimum of `group` in every row to where a loss is least, and returns by how much its weights
    /// moved.
    ///
    /// - `slopes`, `curvature`: a step `δ` of all weights of the group in row `r` changes the loss by
    ///   `2 slopes[r] δ + curvature δ²`
    pub(super) fn step_offsets(&mut self, group: usize, slopes: &[f64], curvature: f64) -> Vec<f32> {
        if let (Offsets::Minimums(stored), Some(kept)) = (&mut self.offsets, self.scheme.minimum) {
            let parabolas: Vec<(f64, f64)> = slopes.iter().map(|slope| (*slope, curvature)).collect();
            let at = At { group, groups: self.groups, shared: self.scheme.group == Group::Tensor };
            return step_all(stored, &mut self.minimums, kept, &parabolas, at);
        }
        let top = (self.scheme.code.len() - 1) as f64;
        let shared = self.is_shared();
        let (rows, scales, groups) = (self.rows, &self.effective, self.groups);
        let Offsets::Zeros(zeros) = &mut self.offsets else { return vec![0.0; rows] };
        let mut step_of = |at: usize, scale: f64, slope: f64, curvature: f64| {
            let old = f64::from(zeros[at]);
            // A larger zero point makes the weights smaller.
            let new = (old + slope / (scale * curvature)).round_ties_even().clamp(0.0, top);
            let step = scale * (old - new);
            let change = step * (2.0 * slope + step * curvature);
            // Also where there is no slope to follow and the quotient is not a number.
            if change.is_nan() || change >= 0.0 {
                return 0.0;
            }
            zeros[at] = new as u16;
            step as f32
        };
        if shared {
            let step = step_of(0, f64::from(scales[0]), slopes.iter().sum(), curvature * rows as f64);
            return vec![step; rows];
        }
        let of_row = |(row, slope): (usize, &f64)| {
            let at = row * groups + group;
            step_of(at, f64::from(scales[at]), *slope, curvature)
        };
        slopes.iter().enumerate().map(of_row).collect()
    }

    /// The code of `w` at `row`, `group`, and the weight that it stands for.
    #[inline]
    pub(super) fn round(&self, row: usize, group: usize, w: f32) -> (u16, f32) {
        let at = row * self.groups + group;
        let scale = self.effective[at];
        let w = self.minimums.get(at).map_or(w, |minimum| w - minimum);
        // A group of zeros has scale zero; every code decodes to the same there.
        let x = if scale == 0.0 { 0.0 } else { w / scale };
        match &self.offsets {
            Offsets::Zeros(zeros) => {
                let zero = f32::from(zeros[self.stored(row, group)]);
                let code = self.levels.grid.nearest(x + zero);
                (code, scale * (self.levels.grid.level(code) - zero))
            }
            Offsets::None | Offsets::Minimums(_) => {
                let code = self.levels.code(x);
                (code, self.weight_of(row, group, self.levels.grid.level(code)))
            }
        }
    }

    /// `Σ h_j (ŵ_rj − w_rj)²`, the squared error of plain rounding, each column by its importance.
    ///
    /// Summed row by row, so that the sum is the same on any number of threads.
    pub(super) fn error(&self, w: &Matrix, importance: Option<&[f32]>) -> f64 {
        let of_row = |row: usize| {
            let weights = w.row(row).iter().enumerate();
            let errors = weights.map(|(column, value)| {
                let error = f64::from(self.round(row, self.group_of(column), *value).1) - f64::from(*value);
                error * error * importance.map_or(1.0, |h| f64::from(h[column]))
            });
            errors.sum::<f64>()
        };
        (0..w.rows).into_par_iter().map(of_row).collect::<Vec<f64>>().into_iter().sum()
    }

    /// Joins codes in stored order with the scales into a packed matrix.
    pub(super) fn pack(self, layer: &str, codes: &[u16], order: Option<Vec<u32>>) -> Result<Packed, QuantizeError> {
        Packed::from_codes(self.scheme, [self.rows, self.columns], codes, self.scales, self.offsets, order)
            .map_err(|source| QuantizeError::Format { layer: layer.to_owned(), source })
    }
}

/// The power of two that is stored for `scale`, whose sign is lost.
fn power(scale: f32) -> f32 {
    power_of_two(scale.abs()).min(2.0_f32.powi(127))
}

/// A group of all rows, of as many in each.
#[derive(Clone, Copy)]
struct At {
    group: usize,
    groups: usize,
    /// Whether one number serves all rows.
    shared: bool,
}

/// Moves what is stored for one group of all rows to where the loss of each row is least, and returns the steps.
///
/// - `effective`: as they decode, `[rows, groups]`
/// - `parabolas`: `(b, c)` for each row, where a step `δ` changes the loss by `2bδ + cδ²`
fn step_all(
    stored: &mut Scales,
    effective: &mut [f32],
    kept: Scale,
    parabolas: &[(f64, f64)],
    At { group, groups, shared }: At,
) -> Vec<f32> {
    if shared {
        let sum = parabolas.iter().fold((0.0, 0.0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let step = step_one(stored, 0, effective[0], kept, groups, sum);
        effective.fill(decoded(stored, 0, kept, groups));
        return vec![step; parabolas.len()];
    }
    let of_row = |(row, parabola): (usize, &(f64, f64))| {
        let at = row * groups + group;
        let step = step_one(stored, at, effective[at], kept, groups, *parabola);
        effective[at] = decoded(stored, at, kept, groups);
        step
    };
    parabolas.iter().enumerate().map(of_row).collect()
}

/// Stores the best number in place of `now`, if it is better, and returns the step.
fn step_one(
    stored: &mut Scales,
    at: usize,
    now: f32,
    kept: Scale,
    groups: usize,
    (slope, curvature): (f64, f64),
) -> f32 {
    let ideal = (f64::from(now) - slope / curvature) as f32;
    if !ideal.is_finite() {
        return 0.0;
    }
    let better = |candidate: f32| {
        let step = f64::from(candidate) - f64::from(now);
        candidate != 0.0 && step * (2.0 * slope + step * curvature) < 0.0
    };
    match (stored, kept) {
        (Scales::Float(stored), kept @ (Scale::Float(_) | Scale::PowerOfTwo)) => {
            let candidate = match kept.float() {
                Some(kind) => rounded(kind, ideal),
                None => power(ideal),
            };
            if !better(candidate) {
                return 0.0;
            }
            stored[at] = candidate;
            candidate - now
        }
        (Scales::Nested { codes, outer }, Scale::Nested { code, group, .. }) => {
            let outer = outer[outer_of(group, at, groups)];
            let grid = code.grid();
            let inner = grid.nearest(ideal / outer);
            let candidate = outer * grid.level(inner);
            if !better(candidate) {
                return 0.0;
            }
            codes[at] = inner;
            candidate - now
        }
        _ => unreachable!("what is stored has the form of the scheme"),
    }
}

/// What is stored, as it decodes.
fn decoded(stored: &Scales, at: usize, kept: Scale, groups: usize) -> f32 {
    match (stored, kept) {
        (Scales::Nested { codes, outer }, Scale::Nested { code, group, .. }) => {
            outer[outer_of(group, at, groups)] * code.level(codes[at])
        }
        (Scales::Float(stored), _) => stored[at],
        _ => unreachable!("what is stored has the form of the scheme"),
    }
}

/// Scales or minimums as they are stored, and as they decode.
fn store(ideal: Vec<f32>, scale: Scale, groups: usize, rows: usize) -> (Scales, Vec<f32>) {
    match scale {
        Scale::Float(kind) => {
            let stored: Vec<f32> = ideal.iter().map(|s| rounded(kind, *s)).collect();
            (Scales::Float(stored.clone()), stored)
        }
        Scale::PowerOfTwo => {
            let stored: Vec<f32> = ideal.into_iter().map(power).collect();
            (Scales::Float(stored.clone()), stored)
        }
        Scale::Nested { code, group, outer: kind } => {
            let grid = code.grid();
            let per = match group {
                Group::Tensor => ideal.len(),
                _ => group.size(groups),
            };
            // A tensor scale is one number whatever the rows; otherwise groups of scales do not cross rows.
            let row = if group == Group::Tensor { ideal.len() } else { ideal.len() / rows.min(ideal.len()) };
            let (mut codes, mut outers, mut effective) = (Vec::new(), Vec::new(), Vec::new());
            for group in ideal.chunks(row).flat_map(|row| row.chunks(per)) {
                // With the sign of the largest, which inner codes without one need: minimums are all below zero.
                let largest = group.iter().fold(0.0f32, |a, s| if s.abs() > a.abs() { *s } else { a });
                let largest = if code.is_affine() { largest } else { largest.abs() };
                let outer = rounded(kind, largest / code.max_level());
                outers.push(outer);
                for s in group {
                    let inner = grid.nearest(if outer == 0.0 { 0.0 } else { s / outer });
                    codes.push(inner);
                    effective.push(outer * grid.level(inner));
                }
            }
            (Scales::Nested { codes, outer: outers }, effective)
        }
    }
}

/// Which outer scale the scale at `at` is nested in; rows have `groups` scales each.
fn outer_of(group: Group, at: usize, groups: usize) -> usize {
    match group {
        Group::Tensor => 0,
        Group::Row | Group::Columns(_) => at / groups * group.groups_per_row(groups) + at % groups / group.size(groups),
    }
}

#[cfg(test)]
mod tests {
    use quench_format::FloatKind;

    use super::super::solution::Solution;
    use super::*;

    fn gaussian(n: usize) -> Vec<f32> {
        // Box-Muller over a linear congruential generator: enough for a fixed sample.
        let mut state = 1u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as f64 + 0.5) / (1u64 << 31) as f64
        };
        (0..n).map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32).collect()
    }

    fn snr(code: &str, search: ScaleSearch) -> f64 {
        let w = Matrix { rows: 512, columns: 128, values: gaussian(512 * 128) };
        let scheme = Scheme::new(code.parse().unwrap(), "128".parse().unwrap(), Scale::Float(FloatKind::F32));
        let request = Request { target: scheme.into(), search, importance: None };
        let fit = Fit::new(&w, request, Map::Nearest);
        let codes = Solution::plain(&w, &fit).codes;
        let decoded = fit.pack("test", &codes, None).unwrap().decode();
        let power: f64 = w.values.iter().map(|v| f64::from(v * v)).sum();
        let noise: f64 = w.values.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        10.0 * (power / noise).log10()
    }

    /// Gaussian weights, group 128 (theory note, section 3): the signed grid with a searched scale lies between the
    /// symmetric one and mid-rise with a searched clip; NF4 and int8 have known values.
    #[test]
    fn signal_to_noise_on_gaussian_weights() {
        for (code, search, low, high) in [
            ("int4", ScaleSearch::Mse, 19.4, 20.4),
            ("int3", ScaleSearch::Mse, 13.5, 14.9),
            ("int2", ScaleSearch::Mse, 7.2, 9.6),
            ("int8", ScaleSearch::AbsMax, 43.3, 44.3),
            ("int8", ScaleSearch::Mse, 43.5, 45.5),
            ("uint4", ScaleSearch::Mse, 19.3, 20.6),
            ("nf4", ScaleSearch::AbsMax, 19.5, 20.8),
            ("e4m3", ScaleSearch::AbsMax, 30.5, 32.5),
        ] {
            let measured = snr(code, search);
            assert!((low..high).contains(&measured), "{code} {search:?}: {measured:.2} dB, expected {low}..{high}");
        }
    }

    #[test]
    fn search_is_never_worse_than_absmax() {
        for code in ["int2", "int3", "int4", "int8", "uint2", "uint4", "nf4", "e2m1", "e4m3", "slog4", "slog5"] {
            assert!(snr(code, ScaleSearch::Mse) >= snr(code, ScaleSearch::AbsMax) - 1e-3, "{code}");
        }
    }

    #[test]
    fn zeros_and_huge_weights() {
        let values: Vec<f32> = std::iter::repeat_n(0.0, 16).chain(std::iter::repeat_n(1e30, 16)).collect();
        let w = Matrix { rows: 1, columns: 32, values };
        let scheme = Scheme::new("int4".parse().unwrap(), "16".parse().unwrap(), Scale::Float(FloatKind::F16));
        let request = Request { target: scheme.into(), search: ScaleSearch::Mse, importance: None };
        let fit = Fit::new(&w, request, Map::Nearest);
        let codes = Solution::plain(&w, &fit).codes;
        let decoded = fit.pack("test", &codes, None).unwrap().decode();
        assert!(decoded[..16].iter().all(|v| *v == 0.0));
        assert!(decoded[16..].iter().all(|v| v.is_finite() && *v > 1e5));
    }

    /// Scales that have no sign are not searched among negative ones, which would be stored as zero or turned around.
    #[test]
    fn scales_without_a_sign() {
        let w = Matrix { rows: 64, columns: 64, values: gaussian(64 * 64) };
        for (scale, least) in [("uint6/4:f16", 19.0), ("e8m0", 17.0), ("int6/4:f16", 19.0)] {
            let scheme: Scheme = format!("int4/16/{scale}").parse().unwrap();
            let request = Request { target: scheme.into(), search: ScaleSearch::Mse, importance: None };
            let fit = Fit::new(&w, request, Map::Nearest);
            let decoded = Solution::plain(&w, &fit).decoded;
            let power: f64 = w.values.iter().map(|v| f64::from(v * v)).sum();
            let noise: f64 = w.values.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let snr = 10.0 * (power / noise).log10();
            assert!(snr > least, "{scale}: {snr:.2} dB");
        }
    }
}
