//! A tile times a panel of bf16 rows, two columns at a time.

use quench_format::FloatKind;
use quench_format::tiles::{CHUNK, Layout, ROWS, STEPS, scale_words};

use crate::input::{PairPanel, bf16};
use crate::simd::{Job, Simd};
use crate::unpack::{AHEAD, chunks, each_step, step};
use crate::weights::{Levels, Tile};

/// What a product needs to know of its matrix.
#[derive(Clone, Copy)]
pub(crate) struct PairCode {
    layout: Layout,
    levels: [u16; 32],
}

impl PairCode {
    /// Rows that a panel may have: each has two chains of sums in registers.
    pub(crate) fn height<S: Simd>() -> usize {
        S::HEIGHT.min(8)
    }

    pub(crate) fn new(layout: Layout, levels: Levels<'_>) -> Self {
        let level = |u: usize| match levels {
            Levels::Signed => u as f32 - (1 << (layout.bits - 1)) as f32,
            Levels::Affine(_) | Levels::Unsigned => u as f32,
            Levels::Table(levels) => levels[u],
        };
        // Repeated, so that bits above the code do no harm.
        Self { layout, levels: std::array::from_fn(|u| bf16(level(u % (1 << layout.bits)))) }
    }
}

/// The product of a tile and a panel of `height` rows, `[height, 16]`, to `to`; false where the machine does not
/// multiply bf16.
pub(crate) fn multiply<S: Simd>(
    simd: S,
    code: &PairCode,
    tile: Tile<'_>,
    panel: &PairPanel,
    height: usize,
    to: &mut [[f32; ROWS]],
) -> bool {
    match height {
        1 => rows::<S, 1>(simd, code, tile, panel, to),
        2 if const { S::HEIGHT >= 2 } => rows::<S, 2>(simd, code, tile, panel, to),
        4 if const { S::HEIGHT >= 4 } => rows::<S, 4>(simd, code, tile, panel, to),
        8 if const { S::HEIGHT >= 8 } => rows::<S, 8>(simd, code, tile, panel, to),
        _ => unreachable!("a panel of {height} rows"),
    }
}

fn rows<S: Simd, const M: usize>(
    simd: S,
    code: &PairCode,
    tile: Tile<'_>,
    panel: &PairPanel,
    to: &mut [[f32; ROWS]],
) -> bool {
    let to = to.first_chunk_mut().expect("a row of sums for each row of the panel");
    let product = Product { code, tile, panel, to };
    match code.layout.bits {
        2 => simd.vectorize_pairs(Bits::<2, M>(product)).is_ok(),
        3 => simd.vectorize_pairs(Bits::<3, M>(product)).is_ok(),
        4 => simd.vectorize_pairs(Bits::<4, M>(product)).is_ok(),
        _ => simd.vectorize_pairs(Bits::<5, M>(product)).is_ok(),
    }
}

struct Product<'a, const M: usize> {
    code: &'a PairCode,
    tile: Tile<'a>,
    panel: &'a PairPanel,
    to: &'a mut [[f32; ROWS]; M],
}

/// A product with what the inner loop must know as constants.
struct Bits<'a, const BITS: usize, const M: usize>(Product<'a, M>);

impl<const BITS: usize, const M: usize> Job for Bits<'_, BITS, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { code, tile, panel, to } = self.0;
        let table = simd.pair_table(&code.levels);
        let codes = chunks::<BITS>(tile.codes);
        let x: &[[[[u32; M]; 2]; STEPS]] = panel.x.as_chunks::<M>().0.as_chunks::<2>().0.as_chunks::<STEPS>().0;
        let sums = panel.sums.as_chunks::<M>().0;
        let per_group = match code.layout.groups() {
            1 => usize::MAX,
            _ => code.layout.group / CHUNK,
        };
        let words = scale_words(code.layout.scale);
        let mut y = [simd.splat(0.0); M];
        let (mut left, mut group) = (per_group, 0);
        for (c, (codes, x)) in codes.iter().zip(x).enumerate() {
            if left == 0 {
                (left, group) = (per_group, group + 1);
            }
            left -= 1;
            for line in codes {
                simd.prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
            }
            // Two chains, so that the sums of a step need not wait for those before.
            let mut even = [simd.splat(0.0); M];
            let mut odd = [simd.splat(0.0); M];
            each_step!(STEP => {
                let codes = step::<S, BITS>(simd, codes, STEP);
                let (w0, w1) = (simd.pairs(table, codes, false), simd.pairs(table, codes, true));
                for i in 0..M {
                    even[i] = simd.dot_pairs(even[i], w0, x[STEP][0][i]);
                    odd[i] = simd.dot_pairs(odd[i], w1, x[STEP][1][i]);
                }
            });
            let scale = simd.scales(code.layout.scale, &tile.scales[group * words..][..words]);
            let zero = tile.zeros.map(|zeros| zeros.as_chunks().0[group]);
            let minimum = tile.minimums.map(|words| simd.scales(FloatKind::F32, &words[group * ROWS..][..ROWS]));
            for i in 0..M {
                let mut sum = simd.add(even[i], odd[i]);
                if let Some(zero) = &zero {
                    sum = simd.mul_add(simd.zeros(zero), simd.splat(-sums[c][i]), sum);
                }
                y[i] = simd.mul_add(sum, scale, y[i]);
                if let Some(minimum) = minimum {
                    y[i] = simd.mul_add(minimum, simd.splat(sums[c][i]), y[i]);
                }
            }
        }
        for i in 0..M {
            simd.store(y[i], &mut to[i]);
        }
    }
}
