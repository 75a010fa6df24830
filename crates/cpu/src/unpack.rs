//! The codes of a step, out of their planes.

use quench_format::tiles::{Plane, ROWS};

use crate::simd::Simd;

/// Bytes ahead of the inner loop for which weights are asked: across the end of a page, where the hardware stops.
pub(crate) const AHEAD: usize = 1024;

/// The lines of a chunk.
pub(crate) type Chunk<const BITS: usize> = [[u32; ROWS]; BITS];

/// A tile as chunks of `BITS` lines.
#[inline(always)]
pub(crate) fn chunks<const BITS: usize>(codes: &[u32]) -> &[Chunk<BITS>] {
    codes.as_chunks::<ROWS>().0.as_chunks::<BITS>().0
}

/// The codes of a step, a constant; 1 to 8 bits.
#[inline(always)]
pub(crate) fn step<S: Simd, const BITS: usize>(simd: S, chunk: &Chunk<BITS>, step: usize) -> S::Codes {
    match BITS {
        1 => plane(simd, chunk, 1, 0, step),
        2 => plane(simd, chunk, 2, 0, step),
        3 => simd.or(plane(simd, chunk, 2, 0, step), plane(simd, chunk, 1, 2, step)),
        4 => plane(simd, chunk, 4, 0, step),
        5 => simd.or(plane(simd, chunk, 4, 0, step), plane(simd, chunk, 1, 4, step)),
        6 => simd.or(plane(simd, chunk, 4, 0, step), plane(simd, chunk, 2, 4, step)),
        7 => {
            let low = simd.or(plane(simd, chunk, 4, 0, step), plane(simd, chunk, 2, 4, step));
            simd.or(low, plane(simd, chunk, 1, 6, step))
        }
        _ => simd.line(&chunk[step]),
    }
}

#[inline(always)]
fn plane<S: Simd, const BITS: usize>(simd: S, chunk: &Chunk<BITS>, width: u32, low: u32, step: usize) -> S::Codes {
    let (line, shift) = Plane { width, low }.place(step);
    simd.field(simd.line(&chunk[line]), shift as i32 - low as i32, ((1 << width) - 1) << low)
}

/// A body for each step of a chunk, with the step a constant in it.
macro_rules! each_step {
    ($step:ident => $body:expr) => {{
        crate::unpack::each_step!(@ $step => $body; 0 1 2 3 4 5 6 7)
    }};
    (@ $step:ident => $body:expr; $($value:literal)*) => {{
        $({
            const $step: usize = $value;
            $body
        })*
    }};
}
pub(crate) use each_step;
