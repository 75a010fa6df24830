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
use crate::unpack::{chunks, each_step, step};
use crate::weights::{Levels, Tile};

/// What a product needs to know of its matrix.
#[derive(Clone, Copy)]
pub(crate) struct Int8Code {
    pub layout: Layout,
    /// Columns of a scale of the input.
    pub block: usize,
    /// Sixteen levels as bytes around 128, and the scale that makes levels of them.
    pub table: Option<([u8; 16], f32)>,
    pub affine: bool,
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

    /// Rows that a panel may have: fewer where a chunk has two scales.
    pub(crate) fn height<S: Simd>(&self) -> usize {
        if self.block < CHUNK { S::HEIGHT.min(4) } else { S::HEIGHT }
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
        2 => rows::<S, 2>(simd, code, tile, panel, to),
        4 => rows::<S, 4>(simd, code, tile, panel, to),
        8 if const { S::HEIGHT >= 8 } => rows::<S, 8>(simd, code, tile, panel, to),
        12 if const { S::HEIGHT >= 12 } => rows::<S, 12>(simd, code, tile, panel, to),
        _ => unreachable!("a panel of {height} rows"),
    }
}

fn rows<S: Simd, const M: usize>(simd: S, code: &Int8Code, tile: Tile<'_>, panel: &Int8Panel, to: &mut [[f32; ROWS]]) {
    let to = to.first_chunk_mut().expect("a row of sums for each row of the panel");
    let product = Product { code, tile, panel, to };
    match (code.table, code.layout.bits) {
        (Some(_), 1 | 2) => simd.vectorize(Bits::<2, true, M>(product)),
        (Some(_), 3) => simd.vectorize(Bits::<3, true, M>(product)),
        (Some(_), _) => simd.vectorize(Bits::<4, true, M>(product)),
        (None, 1) => simd.vectorize(Bits::<1, false, M>(product)),
        (None, 2) => simd.vectorize(Bits::<2, false, M>(product)),
        (None, 3) => simd.vectorize(Bits::<3, false, M>(product)),
        (None, 4) => simd.vectorize(Bits::<4, false, M>(product)),
        (None, 5) => simd.vectorize(Bits::<5, false, M>(product)),
        (None, 6) => simd.vectorize(Bits::<6, false, M>(product)),
        (None, 7) => simd.vectorize(Bits::<7, false, M>(product)),
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

/// Bytes ahead of which weights are asked for: across the end of a page, where the hardware stops.
const AHEAD: usize = 3584;

impl<const BITS: usize, const LOOKUP: bool, const M: usize> Job for Bits<'_, BITS, LOOKUP, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { code, tile, panel, to } = self.0;
        let wide = LOOKUP || BITS == 8;
        let bias = if wide { S::BIAS } else { 0 };
        let (table, unit) = code.table.unwrap_or(([0; 16], 1.0));
        let table = simd.bytes(&table);
        let center = match code.affine {
            true => 0,
            false if LOOKUP => 128 - bias,
            false => (1 << (BITS - 1)) - bias,
        };
        let codes = chunks::<BITS>(tile.codes);
        let x: &[[[i32; M]; STEPS]] = panel.q.as_chunks::<M>().0.as_chunks::<STEPS>().0;
        let (x, codes) = (&x[..codes.len()], codes);
        let (scales, sums) = (panel.scales.as_chunks::<M>().0, panel.sums.as_chunks::<M>().0);
        let mut y = [simd.splat(0.0); M];

        // One block: its integer sums, in floats, with their scales.
        macro_rules! block {
            ($block:expr, $group:expr, $sum:ident => $body:expr) => {{
                let (block, group) = ($block, $group);
                let (scales, sums) = (&scales[block], &sums[block]);
                let mut $sum = [simd.sums(0); M];
                for i in 0..M {
                    $sum[i] = simd.sums(-center * sums[i]);
                }
                $body;
                let words = scale_words(code.layout.scale);
                let scale = simd.scales(code.layout.scale, &tile.scales[group * words..][..words]);
                match tile.zeros {
                    None => {
                        for i in 0..M {
                            y[i] = simd.mul_add(simd.to_floats($sum[i]), simd.mul(scale, simd.splat(scales[i])), y[i]);
                        }
                    }
                    Some(zeros) => {
                        let zero = simd.sub(simd.zeros(&zeros.as_chunks().0[group]), simd.splat(bias as f32));
                        for i in 0..M {
                            // Exact: all of it are integers below 2^24.
                            let sum = simd.mul_add(zero, simd.splat(-sums[i] as f32), simd.to_floats($sum[i]));
                            y[i] = simd.mul_add(sum, simd.mul(scale, simd.splat(scales[i])), y[i]);
                        }
                    }
                }
            }};
        }
        macro_rules! dot {
            ($sum:ident, $codes:expr, $x:expr, $step:expr) => {{
                let mut codes = step::<S, BITS>(simd, $codes, $step);
                if LOOKUP {
                    codes = simd.lookup(table, codes);
                }
                for i in 0..M {
                    $sum[i] = match wide {
                        true => simd.dot_wide($sum[i], codes, $x[$step][i]),
                        false => simd.dot($sum[i], codes, $x[$step][i]),
                    };
                }
            }};
        }

        if code.block < CHUNK {
            let per_group = code.layout.group / code.block;
            for (c, (codes, x)) in codes.iter().zip(x).enumerate() {
                for half in 0..2 {
                    let block = 2 * c + half;
                    if block < code.layout.groups() * per_group {
                        block!(block, block / per_group, sum => each_step!(half half, STEP => dot!(sum, codes, x, STEP)));
                    }
                }
            }
        } else {
            let per_block = code.block / CHUNK;
            let blocks_per_group = match code.layout.groups() {
                1 => usize::MAX,
                _ => code.layout.group / code.block,
            };
            let (mut left, mut group) = (blocks_per_group, 0);
            for (block, (codes, x)) in codes.chunks(per_block).zip(x.chunks(per_block)).enumerate() {
                if left == 0 {
                    (left, group) = (blocks_per_group, group + 1);
                }
                left -= 1;
                block!(block, group, sum => for (codes, x) in codes.iter().zip(x) {
                    if M <= 4 {
                        for line in codes {
                            simd.prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
                        }
                    }
                    each_step!(STEP => dot!(sum, codes, x, STEP))
                });
            }
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
