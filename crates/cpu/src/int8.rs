//! A tile times a panel of 8-bit rows.
//!
//! ```text
//! y[i, r] = Σ over blocks  scale[r] · a[i] · (Σ u[r, j] · q[i, j]  −  center[r] · Σ q[i, j])
//! ```
//!
//! with the inner sums in i32. The center is half the range of signed codes, the zero point of affine ones, and 128 for
//! tables, whose levels are bytes around it.

use quench_format::tiles::{CHUNK, Layout, ROWS, STEPS, scale_words};

use crate::input::Int8Panel;
use crate::simd::{Job, Simd};
use crate::unpack::{AHEAD, chunks, each_step, step};
use crate::weights::{Levels, Tile};

/// What a product needs to know of its matrix.
#[derive(Clone, Copy)]
pub(crate) struct Int8Code {
    layout: Layout,
    /// Columns of a scale of the input.
    block: usize,
    /// Sixteen levels as bytes around 128, and the scale that makes levels of them.
    table: Option<([u8; 16], f32)>,
    affine: bool,
}

impl Int8Code {
    pub(crate) fn new(layout: Layout, levels: Levels<'_>, block: usize) -> Self {
        let (table, affine) = match levels {
            Levels::Signed => (None, false),
            Levels::Affine(_) => (None, true),
            Levels::Table(levels) => (Some(byte_table(levels)), false),
        };
        Self { layout, block, table, affine }
    }

    /// The code that stands for 0, as the instruction set counts codes; zero points are taken off in floats.
    pub(crate) fn center<S: Simd>(&self) -> i32 {
        match (&self.table, self.affine) {
            (Some(_), _) => 128 - S::BIAS,
            (None, true) => 0,
            (None, false) => (1 << (self.layout.bits - 1)) - if self.layout.bits == 8 { S::BIAS } else { 0 },
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

/// The product of a tile and a panel of `height` rows, `[height, 16]`, to `to`.
pub(crate) fn multiply<S: Simd>(
    simd: S,
    code: &Int8Code,
    tile: Tile<'_>,
    panel: &Int8Panel,
    height: usize,
    to: &mut [[f32; ROWS]],
) {
    match height {
        1 => rows::<S, 1>(simd, code, tile, panel, to),
        2 if const { S::HEIGHT >= 2 } => rows::<S, 2>(simd, code, tile, panel, to),
        4 if const { S::HEIGHT >= 4 } => rows::<S, 4>(simd, code, tile, panel, to),
        8 if const { S::HEIGHT >= 8 } => rows::<S, 8>(simd, code, tile, panel, to),
        12 if const { S::HEIGHT >= 12 } => rows::<S, 12>(simd, code, tile, panel, to),
        _ => unreachable!("a panel of {height} rows"),
    }
}

fn rows<S: Simd, const M: usize>(simd: S, code: &Int8Code, tile: Tile<'_>, panel: &Int8Panel, to: &mut [[f32; ROWS]]) {
    let to = to.first_chunk_mut().expect("a row of sums for each row of the panel");
    let product = Product { code, tile, panel, to };
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
    panel: &'a Int8Panel,
    to: &'a mut [[f32; ROWS]; M],
}

/// A product with what the inner loop must know as constants.
struct Bits<'a, const BITS: usize, const LOOKUP: bool, const M: usize>(Product<'a, M>);

impl<const BITS: usize, const LOOKUP: bool, const M: usize> Job for Bits<'_, BITS, LOOKUP, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { code, tile, panel, to } = self.0;
        let wide = LOOKUP || BITS == 8;
        let bias = if wide { S::BIAS } else { 0 };
        let (table, unit) = code.table.unwrap_or(([0; 16], 1.0));
        let table = simd.bytes(&table);
        let codes = chunks::<BITS>(tile.codes);
        let x: &[[[i32; M]; STEPS]] = panel.q.as_chunks::<M>().0.as_chunks::<STEPS>().0;
        let (x, codes) = (&x[..codes.len()], codes);
        let (scales, starts) = (panel.scales.as_chunks::<M>().0, panel.starts.as_chunks::<M>().0);
        let sums = panel.sums.as_chunks::<M>().0;
        let mut y = [simd.splat(0.0); M];
        let mut sum = [simd.sums(0); M];

        macro_rules! dot {
            ($codes:expr, $x:expr, $step:expr) => {{
                let mut codes = step::<S, BITS>(simd, $codes, $step);
                if LOOKUP {
                    codes = simd.lookup(table, codes);
                }
                for i in 0..M {
                    sum[i] = match wide {
                        true => simd.dot_wide(sum[i], codes, $x[$step][i]),
                        false => simd.dot(sum[i], codes, $x[$step][i]),
                    };
                }
            }};
        }
        macro_rules! begin {
            ($block:expr) => {
                if let Some(starts) = starts.get($block) {
                    for i in 0..M {
                        sum[i] = simd.sums(starts[i]);
                    }
                }
            };
        }
        // The integer sums of a block, in floats, with their scales.
        macro_rules! end {
            ($block:expr, $group:expr) => {{
                let (scales, sums) = (&scales[$block], &sums[$block]);
                let words = scale_words(code.layout.scale);
                let scale = simd.scales(code.layout.scale, &tile.scales[$group * words..][..words]);
                let zero = tile.zeros.map(|zeros| zeros.as_chunks().0[$group]);
                for i in 0..M {
                    let mut sum = simd.to_floats(sum[i]);
                    if let Some(zero) = &zero {
                        // Exact: all of it are integers below 2^24.
                        let zero = simd.sub(simd.zeros(zero), simd.splat(bias as f32));
                        sum = simd.mul_add(zero, simd.splat(sums[i]), sum);
                    }
                    y[i] = simd.mul_add(sum, simd.mul(scale, simd.splat(scales[i])), y[i]);
                }
            }};
        }

        // Of blocks of half a chunk the first ends in the middle of it.
        let halves = code.block < CHUNK;
        let per_block = (code.block / CHUNK).max(1);
        let per_group = if code.layout.groups() == 1 { usize::MAX } else { code.layout.group / code.block };
        let (mut block, mut group, mut left_of_group, mut left_of_block) = (0, 0, per_group, per_block);
        macro_rules! next {
            () => {{
                end!(block, group);
                block += 1;
                left_of_group = left_of_group.saturating_sub(1);
                // Beyond the last group there are only columns that are not there, with the scales of the last one.
                if left_of_group == 0 && group + 1 < code.layout.groups() {
                    (left_of_group, group) = (per_group, group + 1);
                }
                begin!(block);
            }};
        }
        begin!(0);
        for (codes, x) in codes.iter().zip(x) {
            for line in codes {
                simd.prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
            }
            each_step!(half 0, STEP => dot!(codes, x, STEP));
            if halves {
                next!();
            }
            each_step!(half 1, STEP => dot!(codes, x, STEP));
            left_of_block -= 1;
            if left_of_block == 0 {
                next!();
                left_of_block = per_block;
            }
        }
        if left_of_block < per_block {
            end!(block, group);
        }
        for i in 0..M {
            simd.store(if LOOKUP { simd.mul(y[i], simd.splat(unit)) } else { y[i] }, &mut to[i]);
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
