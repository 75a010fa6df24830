//! A tile times a panel of 8-bit rows.
//!
//! ```text
//! y[i, r] = Σ over blocks  scale[r] · a[i] · (Σ u[r, j] · q[i, j]  −  center[r] · Σ q[i, j])  +  minimum[r] · a[i] · Σ q[i, j]
//! ```
//!
//! with the inner sums in i32. The center is half the range of signed codes, the zero point of affine ones, and 128 for
//! tables, whose levels are bytes around it. Minimums are multiplied with the rounded input, as everything else is: the errors of both
//! terms, which may be much larger than their sum, so cancel as the terms do.

use quench_format::FloatKind;
use quench_format::tiles::{CHUNK, Layout, ROWS, STEPS, scale_words};

use crate::input::Int8Panel;
use crate::simd::{Job, Simd};
use crate::unpack::{AHEAD, chunks, step};
use crate::weights::{Levels, Tile, Weights};

/// What a product needs to know of its matrix.
#[derive(Clone, Copy)]
pub(crate) struct Int8Code {
    layout: Layout,
    /// Columns of a scale of the input.
    block: usize,
    /// Sixteen levels as bytes around 128, and the scale that makes levels of them.
    table: Option<([u8; 16], f32)>,
    integer: Integer,
    minimums: bool,
}

/// Where integers are counted from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Integer {
    Middle,
    Zero,
    /// The zero point of the group.
    Affine,
}

impl Int8Code {
    pub(crate) fn new(w: &Weights<'_>, block: usize) -> Self {
        let (table, integer) = match w.levels() {
            Levels::Signed => (None, Integer::Middle),
            Levels::Unsigned => (None, Integer::Zero),
            Levels::Affine(_) => (None, Integer::Affine),
            Levels::Table(levels) => (Some(byte_table(levels)), Integer::Middle),
        };
        Self { layout: w.layout(), block, table, integer, minimums: w.has_minimums() }
    }

    /// The code that stands for 0, as the instruction set counts codes; zero points are taken off in floats.
    pub(crate) fn center<S: Simd>(&self) -> i32 {
        let bias = if self.layout.bits == 8 { S::BIAS } else { 0 };
        match (&self.table, self.integer) {
            (Some(_), _) => 128 - S::BIAS,
            (None, Integer::Affine) => 0,
            (None, Integer::Middle) => (1 << (self.layout.bits - 1)) - bias,
            (None, Integer::Zero) => -bias,
        }
    }
}

/// Up to sixteen levels as `128 + level / scale`, rounded, and the scale: the one that rounds them least.
///
/// The candidates make the largest magnitude an integer of 64 to 127, so that grids of few bits are exact: ±2^-k, or the
/// halves of E2M1.
fn byte_table(levels: &[f32]) -> ([u8; 16], f32) {
    let top = levels.iter().fold(0.0, |top: f32, level| top.max(level.abs()));
    let error = |scale: f32| levels.iter().map(|level| (level - (level / scale).round() * scale).powi(2)).sum::<f32>();
    let scales = (64..=127).rev().map(|n| top / n as f32);
    // The first of the best, which is the finest grid.
    let scale = scales.min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap_or(1.0);
    let mut table = [128; 16];
    for (byte, level) in table.iter_mut().zip(levels) {
        *byte = ((level / scale).round() as i32 + 128) as u8;
    }
    (table, scale)
}

/// The scales and zero points of a tile as floats, for each row and block of columns.
pub(crate) struct Grid {
    /// `[blocks, 16]`.
    scales: Vec<[f32; ROWS]>,
    /// `[blocks, 16]` as the instruction set counts codes, or none.
    zeros: Vec<[f32; ROWS]>,
    /// `[blocks, 16]`, or none.
    minimums: Vec<[f32; ROWS]>,
}

impl Grid {
    pub(crate) fn new(code: &Int8Code) -> Self {
        let blocks = (code.layout.chunks() * CHUNK).div_ceil(code.block);
        let rows = |some: bool| vec![[0.0; ROWS]; if some { blocks } else { 0 }];
        Self { scales: rows(true), zeros: rows(code.integer == Integer::Affine), minimums: rows(code.minimums) }
    }

    /// That of another tile.
    pub(crate) fn fill<S: Simd>(&mut self, simd: S, code: &Int8Code, tile: Tile<'_>) {
        simd.vectorize(Fill { grid: self, code, tile });
    }
}

struct Fill<'a> {
    grid: &'a mut Grid,
    code: &'a Int8Code,
    tile: Tile<'a>,
}

impl Job for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { grid, code, tile } = self;
        let layout = code.layout;
        let per_group = if layout.groups() == 1 { usize::MAX } else { layout.group / code.block };
        let unit = simd.splat(code.table.map_or(1.0, |(_, unit)| unit));
        // A value of each group, written to all blocks of the group. Beyond the last group there are only columns that are
        // not there, and whatever scales were here before.
        macro_rules! spread {
            ($words:expr => $to:expr, |$group:ident| $value:expr) => {
                if per_group == 1 {
                    for (to, $group) in $to.iter_mut().zip($words) {
                        simd.store($value, to);
                    }
                } else {
                    for (to, $group) in $to.chunks_mut(per_group).zip($words) {
                        let value = $value;
                        for to in to {
                            simd.store(value, to);
                        }
                    }
                }
            };
        }
        let words = scale_words(layout.scale);
        macro_rules! scales {
            ($kind:expr) => {
                spread!(tile.scales.chunks_exact(words) => grid.scales, |words| simd.mul(simd.scales($kind, words), unit))
            };
        }
        match layout.scale {
            FloatKind::F32 => scales!(FloatKind::F32),
            FloatKind::F16 => scales!(FloatKind::F16),
            FloatKind::BF16 => scales!(FloatKind::BF16),
        }
        let bias = simd.splat(if layout.bits == 8 { S::BIAS as f32 } else { 0.0 });
        let zeros = tile.zeros.unwrap_or_default().as_chunks().0;
        spread!(zeros => grid.zeros, |words| simd.sub(simd.zeros(words), bias));
        let minimums = tile.minimums.unwrap_or_default().as_chunks::<ROWS>().0;
        spread!(minimums => grid.minimums, |words| simd.scales(FloatKind::F32, words));
    }
}

/// The product of a tile and a panel of `height` rows, `[height, 16]`, to `to`.
pub(crate) fn multiply<S: Simd>(
    simd: S,
    code: &Int8Code,
    (tile, grid): (Tile<'_>, &Grid),
    panel: &Int8Panel,
    height: usize,
    to: &mut [[f32; ROWS]],
) {
    match height {
        1 => rows::<S, 1>(simd, code, tile, grid, panel, to),
        2 if const { S::HEIGHT >= 2 } => rows::<S, 2>(simd, code, tile, grid, panel, to),
        4 if const { S::HEIGHT >= 4 } => rows::<S, 4>(simd, code, tile, grid, panel, to),
        8 if const { S::HEIGHT >= 8 } => rows::<S, 8>(simd, code, tile, grid, panel, to),
        12 if const { S::HEIGHT >= 12 } => rows::<S, 12>(simd, code, tile, grid, panel, to),
        _ => unreachable!("a panel of {height} rows"),
    }
}

fn rows<S: Simd, const M: usize>(
    simd: S,
    code: &Int8Code,
    tile: Tile<'_>,
    grid: &Grid,
    panel: &Int8Panel,
    to: &mut [[f32; ROWS]],
) {
    let to = to.first_chunk_mut().expect("a row of sums for each row of the panel");
    let product = Product { code, tile, grid, panel, to };
    match (code.table, code.layout.bits) {
        (Some(_), 2) => simd.vectorize(Bits::<2, true, M>(product)),
        (Some(_), 3) => simd.vectorize(Bits::<3, true, M>(product)),
        (Some(_), _) => simd.vectorize(Bits::<4, true, M>(product)),
        (None, 2) => simd.vectorize(Bits::<2, false, M>(product)),
        (None, 3) => simd.vectorize(Bits::<3, false, M>(product)),
        (None, 4) => simd.vectorize(Bits::<4, false, M>(product)),
        (None, 5) => simd.vectorize(Bits::<5, false, M>(product)),
        (None, 6) => simd.vectorize(Bits::<6, false, M>(product)),
        (None, _) => simd.vectorize(Bits::<8, false, M>(product)),
    }
}

struct Product<'a, const M: usize> {
    code: &'a Int8Code,
    tile: Tile<'a>,
    grid: &'a Grid,
    panel: &'a Int8Panel,
    to: &'a mut [[f32; ROWS]; M],
}

/// A product with what the inner loop must know as constants.
struct Bits<'a, const BITS: usize, const LOOKUP: bool, const M: usize>(Product<'a, M>);

impl<const BITS: usize, const LOOKUP: bool, const M: usize> Job for Bits<'_, BITS, LOOKUP, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { code, tile, grid, panel, to } = self.0;
        let table = simd.bytes(&code.table.map_or([0; 16], |(table, _)| table));
        let codes = chunks::<BITS>(tile.codes);
        let x: &[[[i32; M]; STEPS]] = panel.q.as_chunks::<M>().0.as_chunks::<STEPS>().0;
        let blocks = grid.scales.len();
        let scales = panel.scales.as_chunks::<M>().0;
        let (starts, sums) = (panel.starts.as_chunks::<M>().0, panel.sums.as_chunks::<M>().0);
        // One check for all blocks.
        let (scales, starts, sums) = (&scales[..blocks], &starts[..blocks], &sums[..blocks]);
        let mut y = [simd.splat(0.0); M];

        // The scales of the next tile begin where those of this one end.
        let (next, words) = (tile.scales.as_ptr().wrapping_add(tile.scales.len()), tile.scales.len().div_ceil(blocks));

        macro_rules! begin {
            ($block:expr) => {{
                let mut sum = [simd.sums(0); M];
                for i in 0..M {
                    sum[i] = simd.sums(starts[$block][i]);
                }
                sum
            }};
        }
        // The four steps of half a chunk.
        macro_rules! dots {
            ($sum:ident, $codes:expr, $x:expr; $($step:literal)*) => {{
                let mut codes = [$(step::<S, BITS>(simd, $codes, $step)),*];
                if LOOKUP {
                    for codes in &mut codes {
                        *codes = simd.lookup(table, *codes);
                    }
                }
                for i in 0..M {
                    let x = [$($x[$step][i]),*];
                    $sum[i] = match LOOKUP || BITS == 8 {
                        true => simd.dots_wide($sum[i], codes, x),
                        false => simd.dots::<BITS>($sum[i], codes, x),
                    };
                }
            }};
        }
        // The integer sums of a block, in floats, with their scales.
        macro_rules! end {
            ($sum:ident, $block:expr, $scale:expr) => {{
                let scale = simd.load($scale);
                simd.prefetch(next.wrapping_add($block * words));
                let zero = grid.zeros.get($block).map(|zero| simd.load(zero));
                let minimum = grid.minimums.get($block).map(|minimum| simd.load(minimum));
                for i in 0..M {
                    let mut sum = simd.to_floats($sum[i]);
                    if let Some(zero) = zero {
                        // Exact: all of it are integers below 2^24.
                        sum = simd.mul_add(zero, simd.splat(sums[$block][i]), sum);
                    }
                    y[i] = simd.mul_add(sum, simd.mul(scale, simd.splat(scales[$block][i])), y[i]);
                    if let Some(minimum) = minimum {
                        y[i] = simd.mul_add(minimum, simd.splat(-sums[$block][i] * scales[$block][i]), y[i]);
                    }
                }
            }};
        }
        macro_rules! ask {
            ($codes:expr) => {
                for line in $codes {
                    simd.prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
                }
            };
        }

        let mut operands = codes.iter().zip(x);
        match code.block / CHUNK {
            0 => {
                for ((c, scale), (codes, x)) in grid.scales.as_chunks::<2>().0.iter().enumerate().zip(operands) {
                    ask!(codes);
                    let mut sum = begin!(2 * c);
                    dots!(sum, codes, x; 0 1 2 3);
                    end!(sum, 2 * c, &scale[0]);
                    let mut sum = begin!(2 * c + 1);
                    dots!(sum, codes, x; 4 5 6 7);
                    end!(sum, 2 * c + 1, &scale[1]);
                }
            }
            1 => {
                for ((b, scale), (codes, x)) in grid.scales.iter().enumerate().zip(operands) {
                    ask!(codes);
                    let mut sum = begin!(b);
                    dots!(sum, codes, x; 0 1 2 3);
                    dots!(sum, codes, x; 4 5 6 7);
                    end!(sum, b, scale);
                }
            }
            chunks => {
                for (b, scale) in grid.scales.iter().enumerate() {
                    let mut sum = begin!(b);
                    for (codes, x) in operands.by_ref().take(chunks) {
                        ask!(codes);
                        dots!(sum, codes, x; 0 1 2 3);
                        dots!(sum, codes, x; 4 5 6 7);
                    }
                    end!(sum, b, scale);
                }
            }
        }
        for i in 0..M {
            simd.store(y[i], &mut to[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_grids_are_exact_bytes() {
        let halves = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
        let powers = [0.0, 1.0, 0.5, 0.25, 0.125, -1.0, -0.5, -0.015_625];
        for levels in [&halves[..], &powers] {
            let (table, scale) = byte_table(levels);
            for (byte, level) in table.iter().zip(levels) {
                assert_eq!((f32::from(*byte) - 128.0) * scale, *level);
            }
        }
    }
}
