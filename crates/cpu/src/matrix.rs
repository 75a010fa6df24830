//! Products in bf16 on a unit that multiplies matrices, for many rows at once.
//!
//! Some columns of two tiles are decoded to bf16 with their scales on, and multiplied with all rows of the input; sums are
//! f32 for the whole row. With a scale for every 32 columns an integer unit would gain nothing: taking its sums out of the
//! tile registers that often costs as much as the vector units need for the whole product.

use crate::Activations;
use crate::input::Strip;
use crate::isa::{Block, MatrixTiles};

/// Rows from which the unit is faster than vectors.
pub(crate) fn rows_from(activations: Activations) -> usize {
    match activations {
        Activations::Int8 => 13,
        Activations::Bf16 => 5,
        // It does not multiply f32.
        Activations::F32 => usize::MAX,
    }
}

/// Chunks decoded at a time: with those of two strips of the input they stay in the first-level cache.
pub(crate) const STRETCH: usize = 8;

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
    for (x, sums) in x.chunks(2).zip(sums.chunks_mut(2)) {
        match (x, sums) {
            ([x0, x1], [s0, s1]) => {
                unit.multiply([&x0.0[part.clone()], &x1.0[part.clone()]], w, [s0.each_mut(), s1.each_mut()]);
            }
            ([x], [sums]) => unit.multiply_one(&x.0[part.clone()], w, sums.each_mut()),
            _ => unreachable!("as many sums as strips"),
        }
    }
}
