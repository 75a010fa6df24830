//! Products in f32: some columns of a tile are decoded into the first-level cache and multiplied from there.
//!
//! Serves every code, group and width; what the faster kernels do not serve comes here.

use quench_format::FloatKind;
use quench_format::tiles::{CHUNK, ROWS, STEP, STEPS, scale, scale_words, zero};

use crate::input::bf16;
use crate::isa::Block;
use crate::simd::{Job, Simd};
use crate::unpack::{AHEAD, chunks, each_step, step};
use crate::weights::{Levels, Tile, Weights};

/// Columns decoded at a time: 16 KB of weights.
pub(crate) const STRETCH: usize = 8 * CHUNK;

/// The columns of a chunk, sixteen rows each.
pub(crate) type Columns32 = [[f32; ROWS]; CHUNK];

/// Where the columns of a chunk go.
pub(crate) trait Decoded {
    /// The four columns of a step.
    fn put<S: Simd>(&mut self, simd: S, step: usize, columns: [S::Floats; STEP]);
    /// A single element.
    fn put_one(&mut self, row: usize, column: usize, value: f32);
}

/// As they are.
impl Decoded for Columns32 {
    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, step: usize, columns: [S::Floats; STEP]) {
        for e in 0..STEP {
            simd.store(columns[e], &mut self[step * STEP + e]);
        }
    }

    fn put_one(&mut self, row: usize, column: usize, value: f32) {
        self[column][row] = value;
    }
}

/// As pairs of bf16, the even column in the low half.
impl Decoded for Block<u32> {
    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, step: usize, [a, b, c, d]: [S::Floats; STEP]) {
        simd.store_codes(simd.halves(a, b), &mut self.0[step * 2]);
        simd.store_codes(simd.halves(c, d), &mut self.0[step * 2 + 1]);
    }

    fn put_one(&mut self, row: usize, column: usize, value: f32) {
        let word = &mut self.0[column / 2][row];
        let half = u32::from(bf16(value));
        *word = if column.is_multiple_of(2) { *word & 0xffff_0000 | half } else { *word & 0xffff | half << 16 };
    }
}

/// How codes become numbers, prepared once for a product.
pub(crate) struct Decoder<'a> {
    weights: Weights<'a>,
    levels: Kind,
}

/// Columns for which a scale serves at least.
const HALF: usize = CHUNK / 2;

enum Kind {
    /// Up to 16 levels.
    Table16([f32; 16]),
    /// Up to 256.
    Table256(Box<[f32; 256]>),
    /// Integers around a center, or around zero points.
    Integer { center: f32 },
    /// Codes of more than 8 bits, and groups that end within half a chunk: one by one.
    Single,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(weights: Weights<'a>) -> Self {
        let layout = weights.layout();
        let whole = layout.groups() == 1 || layout.group.is_multiple_of(HALF);
        let center = (1_u32 << (layout.bits - 1)) as f32;
        let levels = match weights.levels() {
            _ if layout.bits > 8 || !whole => Kind::Single,
            Levels::Signed if layout.bits <= 4 => Kind::Table16(std::array::from_fn(|u| u as f32 - center)),
            Levels::Unsigned if layout.bits <= 4 => Kind::Table16(std::array::from_fn(|u| u as f32)),
            Levels::Signed => Kind::Integer { center },
            Levels::Affine(_) | Levels::Unsigned => Kind::Integer { center: 0.0 },
            Levels::Table(levels) if layout.bits <= 4 => Kind::Table16(fill(levels)),
            Levels::Table(levels) => Kind::Table256(Box::new(fill(levels))),
        };
        Self { weights, levels }
    }

    /// Columns `32 · first ..` of a tile, sixteen rows each, scaled: as [`quench_format::Packed::decode`] rounds them.
    ///
    /// What is beyond the last column is some number or other.
    pub(crate) fn columns<S: Simd, D: Decoded>(&self, simd: S, tile: Tile<'_>, first: usize, to: &mut [D]) {
        match tile.minimums {
            None => self.columns_with::<S, D, false>(simd, tile, first, to),
            Some(_) => self.columns_with::<S, D, true>(simd, tile, first, to),
        }
    }

    fn columns_with<S: Simd, D: Decoded, const MIN: bool>(&self, simd: S, tile: Tile<'_>, first: usize, to: &mut [D]) {
        match self.weights.layout().bits {
            1 => simd.vectorize(Columns::<1, MIN, D> { decoder: self, tile, first, to }),
            2 => simd.vectorize(Columns::<2, MIN, D> { decoder: self, tile, first, to }),
            3 => simd.vectorize(Columns::<3, MIN, D> { decoder: self, tile, first, to }),
            4 => simd.vectorize(Columns::<4, MIN, D> { decoder: self, tile, first, to }),
            5 => simd.vectorize(Columns::<5, MIN, D> { decoder: self, tile, first, to }),
            6 => simd.vectorize(Columns::<6, MIN, D> { decoder: self, tile, first, to }),
            7 => simd.vectorize(Columns::<7, MIN, D> { decoder: self, tile, first, to }),
            8 => simd.vectorize(Columns::<8, MIN, D> { decoder: self, tile, first, to }),
            _ => self.singly(tile, first, to),
        }
    }

    fn singly<D: Decoded>(&self, tile: Tile<'_>, first: usize, to: &mut [D]) {
        let layout = self.weights.layout();
        let row_layout = quench_format::tiles::Layout { shape: [ROWS, layout.shape[1]], ..layout };
        let mut codes = vec![0; layout.chunks() * CHUNK];
        for r in 0..ROWS {
            row_layout.row(tile.codes, r, &mut codes);
            let stretch = codes.as_chunks::<CHUNK>().0[first..].iter().zip(&mut *to);
            for (c, (codes, to)) in (first..).zip(stretch) {
                for (column, (j, &u)) in (c * CHUNK..).zip(codes).enumerate() {
                    to.put_one(r, column, if j < layout.shape[1] { self.single(tile, r, j, u) } else { 0.0 });
                }
            }
        }
    }

    /// Row `r` of a tile, column `j`, code `u`.
    fn single(&self, tile: Tile<'_>, r: usize, j: usize, u: u16) -> f32 {
        let layout = self.weights.layout();
        let group = j / layout.group;
        let words = scale_words(layout.scale);
        let level = match self.weights.levels() {
            Levels::Signed => f32::from(u) - (1_u32 << (layout.bits - 1)) as f32,
            Levels::Affine(_) | Levels::Unsigned => f32::from(u),
            Levels::Table(levels) => levels[usize::from(u)],
        };
        let zero = tile.zeros.map_or(0.0, |zeros| {
            let words = layout.zero_words() / layout.groups();
            f32::from(zero(&zeros[group * words..][..words], r))
        });
        let product = scale(layout.scale, &tile.scales[group * words..][..words], r) * (level - zero);
        let minimum = tile.minimums.map(|minimums| scale(FloatKind::F32, &minimums[group * ROWS..][..ROWS], r));
        minimum.map_or(product, |minimum| product + minimum)
    }

    /// Row `r` of the matrix in its original column order, `[in]`.
    pub(crate) fn row(&self, r: usize, codes: &mut [u16], to: &mut [f32]) {
        let layout = self.weights.layout();
        let tile = self.weights.tile(r / ROWS);
        let row_layout = quench_format::tiles::Layout { shape: [ROWS, layout.shape[1]], ..layout };
        row_layout.row(tile.codes, r % ROWS, codes);
        for (j, &u) in codes[..layout.shape[1]].iter().enumerate() {
            let column = self.weights.order().map_or(j, |order| order[j] as usize);
            to[column] = self.single(tile, r % ROWS, j, u);
        }
    }
}

fn fill<const N: usize>(levels: &[f32]) -> [f32; N] {
    let mut filled = [0.0; N];
    filled[..levels.len()].copy_from_slice(levels);
    filled
}

/// With minimums, or without: a sum less for each weight.
struct Columns<'a, const BITS: usize, const MIN: bool, D> {
    decoder: &'a Decoder<'a>,
    tile: Tile<'a>,
    first: usize,
    to: &'a mut [D],
}

impl<const BITS: usize, const MIN: bool, D: Decoded> Job for Columns<'_, BITS, MIN, D> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { decoder, tile, first, to } = self;
        let layout = decoder.weights.layout();
        let words = scale_words(layout.scale);
        let codes = &chunks::<BITS>(tile.codes)[first..];
        let minimums = tile.minimums.unwrap_or_default();
        // Of the first and the second half of a chunk; beyond the last column it does not matter.
        let groups = |c: usize| {
            let last = layout.groups() - 1;
            [0, HALF].map(|half| if last == 0 { 0 } else { (((first + c) * CHUNK + half) / layout.group).min(last) })
        };
        macro_rules! decode {
            ($half:ident, $groups:ident, $codes:ident, $e:ident => $level:expr) => {
                for (c, (codes, to)) in codes.iter().zip(to).enumerate() {
                    for line in codes {
                        simd.prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
                    }
                    let $groups = groups(c);
                    let scales = $groups.map(|group| simd.scales(layout.scale, &tile.scales[group * words..][..words]));
                    let minimum = |group: usize| match MIN {
                        true => simd.scales(FloatKind::F32, &minimums[group * ROWS..][..ROWS]),
                        false => simd.splat(0.0),
                    };
                    let minimums = $groups.map(minimum);
                    each_step!(S_ => {
                        let $half = const { S_ * STEP / HALF };
                        let (scale, minimum) = (scales[$half], minimums[$half]);
                        let $codes = step::<S, BITS>(simd, codes, S_);
                        to.put(simd, S_, decode!(@ $e $level, scale, minimum; 0 1 2 3));
                    });
                }
            };
            (@ $e:ident $level:expr, $scale:ident, $minimum:ident; $($value:literal)*) => {
                [$({
                    const $e: usize = $value;
                    let product = simd.mul($scale, $level);
                    // Two roundings, as the reference has them.
                    if MIN { simd.add(product, $minimum) } else { product }
                }),*]
            };
        }
        const { assert!(STEPS * STEP == CHUNK) };
        match &decoder.levels {
            Kind::Table16(levels) => {
                let table = simd.table(levels);
                decode!(_half, _groups, codes, E => simd.level(table, codes, E));
            }
            Kind::Table256(levels) => decode!(_half, _groups, codes, E => simd.gather(levels, codes, E)),
            Kind::Integer { center } => match tile.zeros {
                None => {
                    let center = simd.splat(*center);
                    decode!(_half, _groups, codes, E => simd.sub(simd.column(codes, E), center));
                }
                Some(zeros) => {
                    let zeros = zeros.as_chunks::<4>().0;
                    decode!(half, groups, codes, E => {
                        simd.sub(simd.column(codes, E), simd.zeros(&zeros[groups[half]]))
                    });
                }
            },
            Kind::Single => decoder.singly(tile, first, to),
        }
    }
}

/// Adds `Σ x[i, j] · w[t, j]` over some columns of one or two tiles to the sums of a panel; sums of 32 columns are made
/// first.
pub(crate) fn multiply<S: Simd>(simd: S, w: &[&[Columns32]], x: &[f32], height: usize, y: &mut [PanelSums]) {
    match (w, y) {
        ([a, b], [y, z]) if const { S::TILES >= 2 } => panel(simd, [*a, *b], x, height, [y, z]),
        (w, y) => {
            for (w, y) in w.iter().zip(y) {
                panel(simd, [*w], x, height, [y]);
            }
        }
    }
}

/// Sums of a tile for each row of a panel.
pub(crate) type PanelSums = [[f32; ROWS]; 12];

fn panel<S: Simd, const T: usize>(simd: S, w: [&[Columns32]; T], x: &[f32], height: usize, y: [&mut PanelSums; T]) {
    match height {
        1 => simd.vectorize(Multiply::<1, T> { w, x, y }),
        2 if const { S::HEIGHT >= 2 } => simd.vectorize(Multiply::<2, T> { w, x, y }),
        4 if const { S::HEIGHT >= 4 } => simd.vectorize(Multiply::<4, T> { w, x, y }),
        8 if const { S::HEIGHT >= 8 } => simd.vectorize(Multiply::<8, T> { w, x, y }),
        12 if const { S::HEIGHT >= 12 } => simd.vectorize(Multiply::<12, T> { w, x, y }),
        _ => unreachable!("a panel of {height} rows"),
    }
}

struct Multiply<'a, const M: usize, const T: usize> {
    w: [&'a [Columns32]; T],
    x: &'a [f32],
    y: [&'a mut PanelSums; T],
}

impl<const M: usize, const T: usize> Job for Multiply<'_, M, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { w, x, y } = self;
        let x: &[[[f32; M]; CHUNK]] = x.as_chunks::<M>().0.as_chunks().0;
        for (c, x) in x.iter().enumerate() {
            let mut sums = [[simd.splat(0.0); M]; T];
            let mut columns = [&w[0][c]; T];
            for t in 1..T {
                columns[t] = &w[t][c];
            }
            for (j, x) in x.iter().enumerate() {
                let mut rows = [simd.splat(0.0); T];
                for t in 0..T {
                    rows[t] = simd.load(&columns[t][j]);
                }
                for i in 0..M {
                    let x = simd.splat(x[i]);
                    for t in 0..T {
                        sums[t][i] = simd.mul_add(rows[t], x, sums[t][i]);
                    }
                }
            }
            for t in 0..T {
                for i in 0..M {
                    simd.store(simd.add(simd.load(&y[t][i]), sums[t][i]), &mut y[t][i]);
                }
            }
        }
    }
}

/// Adds `Σ x[r] · w[j, r]` over the rows of a tile to the sums of columns `j`, for sixteen rows of `x` beside each other.
pub(crate) struct MultiplyPlain<'a> {
    pub w: &'a [[[f32; ROWS]; CHUNK]],
    pub x: &'a [[f32; ROWS]; ROWS],
    pub y: &'a mut [[f32; ROWS]],
}

impl Job for MultiplyPlain<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut x = [simd.splat(0.0); ROWS];
        for r in 0..ROWS {
            x[r] = simd.load(&self.x[r]);
        }
        for (w, y) in self.w.as_flattened().iter().zip(self.y) {
            let mut sum = simd.splat(0.0);
            for r in 0..ROWS {
                sum = simd.mul_add(x[r], simd.splat(w[r]), sum);
            }
            simd.store(simd.add(simd.load(y), sum), y);
        }
    }
}
