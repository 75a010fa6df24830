//! Two tiles times a strip of 8-bit rows, on a unit that multiplies matrices.
//!
//! The sums are those of `int8.rs`; codes are decoded to signed bytes first, some columns at a time, so that many rows share
//! the work.

use quench_format::tiles::{ROWS, STEP, STEPS, scale_words};

use crate::input::Int8Panel;
use crate::int8::Int8Code;
use crate::isa::Matrix;
use crate::simd::{Job, Simd};
use crate::unpack::{chunks, each_step, step};
use crate::weights::Tile;

/// Columns decoded at a time, whole blocks and whole rows of 64: 8 KB of each tile.
pub(crate) fn stretch(block: usize) -> usize {
    if block == 96 { 576 } else { 512 }
}

/// The product of two tiles and a strip of `height` rows over some columns, added to `y`.
#[expect(clippy::too_many_arguments, reason = "a match over heights")]
pub(crate) fn multiply<S: Simd>(
    simd: S,
    unit: Matrix,
    code: &Int8Code,
    tiles: [Tile<'_>; 2],
    codes: [&[[u32; ROWS]]; 2],
    x: &Int8Panel,
    first: usize,
    height: usize,
    y: &mut [[[f32; ROWS]; HEIGHT]; 2],
) {
    match height {
        4 => simd.vectorize(Multiply::<4> { unit, code, tiles, codes, x, first, y }),
        8 => simd.vectorize(Multiply::<8> { unit, code, tiles, codes, x, first, y }),
        _ => simd.vectorize(Multiply::<HEIGHT> { unit, code, tiles, codes, x, first, y }),
    }
}

/// Rows of the largest strip.
pub(crate) const HEIGHT: usize = 16;

/// Decodes columns `32 · first ..` of a tile as signed bytes, a line for each step.
pub(crate) fn decode<S: Simd>(simd: S, code: &Int8Code, tile: Tile<'_>, first: usize, to: &mut [[u32; ROWS]]) {
    match (code.table, code.layout.bits) {
        (Some(_), 1 | 2) => simd.vectorize(Decode::<2, true> { code, tile, first, to }),
        (Some(_), 3) => simd.vectorize(Decode::<3, true> { code, tile, first, to }),
        (Some(_), _) => simd.vectorize(Decode::<4, true> { code, tile, first, to }),
        (None, 1) => simd.vectorize(Decode::<1, false> { code, tile, first, to }),
        (None, 2) => simd.vectorize(Decode::<2, false> { code, tile, first, to }),
        (None, 3) => simd.vectorize(Decode::<3, false> { code, tile, first, to }),
        (None, 4) => simd.vectorize(Decode::<4, false> { code, tile, first, to }),
        (None, 5) => simd.vectorize(Decode::<5, false> { code, tile, first, to }),
        (None, 6) => simd.vectorize(Decode::<6, false> { code, tile, first, to }),
        (None, 7) => simd.vectorize(Decode::<7, false> { code, tile, first, to }),
        (None, _) => simd.vectorize(Decode::<8, false> { code, tile, first, to }),
    }
}

/// What is taken off each code to make it a signed byte.
fn center(code: &Int8Code) -> u8 {
    match (code.table.is_some(), code.affine) {
        (true, _) => 128,
        (false, false) => 1 << (code.layout.bits - 1),
        (false, true) => offset(code) as u8,
    }
}

/// What is taken off zero points because it was taken off codes.
fn offset(code: &Int8Code) -> f32 {
    if code.affine && code.layout.bits == 8 { 128.0 } else { 0.0 }
}

struct Decode<'a, const BITS: usize, const LOOKUP: bool> {
    code: &'a Int8Code,
    tile: Tile<'a>,
    first: usize,
    to: &'a mut [[u32; ROWS]],
}

impl<const BITS: usize, const LOOKUP: bool> Job for Decode<'_, BITS, LOOKUP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let center = center(self.code);
        // A table's bytes are signed already once the center is taken off them, once.
        let (table, _) = self.code.table.unwrap_or(([0; 16], 1.0));
        let table = simd.bytes(&table.map(|byte| byte.wrapping_sub(center)));
        let codes = &chunks::<BITS>(self.tile.codes)[self.first..];
        for (codes, to) in codes.iter().zip(self.to.as_chunks_mut::<STEPS>().0) {
            for line in codes {
                simd.prefetch(line.as_ptr().wrapping_byte_add(3584));
            }
            each_step!(S_ => {
                let codes = step::<S, BITS>(simd, codes, S_);
                let bytes = if LOOKUP { simd.lookup(table, codes) } else { simd.minus(codes, center) };
                simd.store_codes(bytes, &mut to[S_]);
            });
        }
    }
}

struct Multiply<'a, const M: usize> {
    unit: Matrix,
    code: &'a Int8Code,
    tiles: [Tile<'a>; 2],
    /// Of both tiles, `[steps, 16]`.
    codes: [&'a [[u32; ROWS]]; 2],
    /// The strip, rounded: `[columns / 64, M, 64 bytes]`.
    x: &'a Int8Panel,
    /// The first column, a multiple of the block and of 64.
    first: usize,
    y: &'a mut [[[f32; ROWS]; HEIGHT]; 2],
}

impl<const M: usize> Job for Multiply<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { unit, code, tiles, codes, x, first, y } = self;
        let block = code.block / STEP;
        let unit = unit.tiles(M, if code.block % 64 == 0 { 16 } else { 8 });
        let words = scale_words(code.layout.scale);
        let (scales, sums) = (x.scales.as_chunks::<M>().0, x.sums.as_chunks::<M>().0);
        let group = |block: usize| if code.layout.groups() == 1 { 0 } else { block * code.block / code.layout.group };
        let mut totals = [[simd.splat(0.0); M]; 2];
        for t in 0..2 {
            for i in 0..M {
                totals[t][i] = simd.load(&y[t][i]);
            }
        }
        // The unit multiplies a block while the vector registers add up the one before.
        let mut ring = [[[[0_i32; ROWS]; M]; 2]; 2];
        let blocks = codes[0].len() / block;
        for b in 0..=blocks {
            if b < blocks {
                let start = b * block;
                let w = [&codes[0][start..][..block], &codes[1][start..][..block]];
                unit.multiply(&x.q, first / STEP + start, w, &mut ring[b % 2]);
            }
            if b > 0 {
                let at = first / code.block + b - 1;
                let (scales, sums, ints) = (&scales[at], &sums[at], &ring[(b - 1) % 2]);
                for t in 0..2 {
                    let scale = simd.scales(code.layout.scale, &tiles[t].scales[group(at) * words..][..words]);
                    match tiles[t].zeros {
                        None => {
                            for i in 0..M {
                                let sum = simd.to_floats(simd.load_sums(&ints[t][i]));
                                totals[t][i] = simd.mul_add(sum, simd.mul(scale, simd.splat(scales[i])), totals[t][i]);
                            }
                        }
                        Some(zeros) => {
                            let zero = simd.zeros(&zeros.as_chunks().0[group(at)]);
                            let zero = simd.sub(zero, simd.splat(offset(code)));
                            for i in 0..M {
                                let sum = simd.to_floats(simd.load_sums(&ints[t][i]));
                                let sum = simd.mul_add(zero, simd.splat(-sums[i] as f32), sum);
                                totals[t][i] = simd.mul_add(sum, simd.mul(scale, simd.splat(scales[i])), totals[t][i]);
                            }
                        }
                    }
                }
            }
        }
        for t in 0..2 {
            for i in 0..M {
                simd.store(totals[t][i], &mut y[t][i]);
            }
        }
    }
}
