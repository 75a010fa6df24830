//! Products in bf16 on a unit that multiplies matrices, for many rows at once.
//!
//! Some columns of two tiles are decoded to f32, rounded to bf16 with their scales on, and multiplied with all rows of the
//! input; sums are f32 for the whole row. With a scale for every 32 columns an integer unit would gain nothing: taking its
//! sums out of the tile registers that often costs as much as the vector units need for the whole product.

use quench_format::tiles::{CHUNK, ROWS};

use crate::input::Strip;
use crate::isa::{Block, MatrixTiles};
use crate::simd::{Job, Simd};

/// Rows from which the unit is faster than vectors.
pub(crate) const ROWS_FROM: usize = 24;
/// Chunks decoded at a time: 16 KB of each tile.
pub(crate) const STRETCH: usize = 16;

/// Rounds decoded columns to pairs of bf16.
pub(crate) struct Pack<'a> {
    pub decoded: &'a [[[f32; ROWS]; CHUNK]],
    pub to: &'a mut [Block<u32>],
}

impl Job for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (decoded, to) in self.decoded.iter().zip(self.to) {
            for ([low, high], to) in decoded.as_chunks().0.iter().zip(&mut to.0) {
                simd.store_codes(simd.halves(simd.load(low), simd.load(high)), to);
            }
        }
    }
}

/// Adds the product of two tiles with all strips, over some chunks of columns, to `sums` `[strips, 2]`.
///
/// - `w`: the chunks of both tiles
/// - `first`: the first of the chunks
pub(crate) fn multiply(
    unit: &MatrixTiles,
    x: &[Strip],
    w: [&[Block<u32>]; 2],
    first: usize,
    sums: &mut [[Block<f32>; 2]],
) {
    let part = first..first + w[0].len();
    let mut nowhere = [Block([[0.0; ROWS]; ROWS]); 2];
    for (x, sums) in x.chunks(2).zip(sums.chunks_mut(2)) {
        match (x, sums) {
            ([x0, x1], [s0, s1]) => {
                unit.multiply([&x0.0[part.clone()], &x1.0[part.clone()]], w, [s0.each_mut(), s1.each_mut()]);
            }
            // The last strip may be alone; what its double gives is thrown away.
            ([x], [sums]) => {
                unit.multiply([&x.0[part.clone()], &x.0[part.clone()]], w, [sums.each_mut(), nowhere.each_mut()]);
            }
            _ => unreachable!("as many sums as strips"),
        }
    }
}
