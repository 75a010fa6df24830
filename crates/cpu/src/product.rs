//! The operations: who computes which part, on all threads of rayon's pool.

use std::ops::Range;

use quench_format::tiles::{CHUNK, ROWS};
use rayon::prelude::*;

use crate::decoded::{self, Decoder, MultiplyPlain, STRETCH};
use crate::input::{self, Panels};
use crate::int8::{self, Grid, Int8Code};
use crate::isa::{Block, Matrix};
use crate::matrix;
use crate::pairs::{self, PairCode};
use crate::simd::{Job, Simd};
use crate::threads::{Columns, share};
use crate::weights::Route;
use crate::{Activations, Isa, Weights};

/// Which side of the product the packed matrix is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// `x · Wᵀ`, `[rows, in]` → `[rows, out]`: the forward pass.
    Transposed,
    /// `x · W`, `[rows, out]` → `[rows, in]`: the gradient of the forward pass; always in f32.
    Plain,
}

impl Side {
    /// The side of the gradient: if `y = x · Wᵀ` then `dx = dy · W`, and the other way round.
    pub fn flip(self) -> Self {
        match self {
            Self::Transposed => Self::Plain,
            Self::Plain => Self::Transposed,
        }
    }

    /// The columns of the left operand and of the product for a matrix `[out, in]`.
    pub fn columns(self, [out, columns]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Transposed => [columns, out],
            Self::Plain => [out, columns],
        }
    }
}

/// `x · Wᵀ` or `x · W`, by `side`.
///
/// - `x`: `[rows, in]` or `[rows, out]`
/// - returns `[rows, out]` or `[rows, in]`
///
/// Where an element of `x` is not finite the whole product is in f32, so that it spreads as in the dense product.
///
/// # Panics
///
/// If `x` is not `rows` rows.
pub fn matmul(w: &Weights<'_>, x: &[f32], rows: usize, side: Side, activations: Activations, isa: Isa) -> Vec<f32> {
    let [k, n] = side.columns(w.layout().shape);
    assert_eq!(x.len(), rows * k, "x is not {rows} rows of {k}, for a matrix {:?}", w.layout().shape);
    let mut y = vec![0.0; rows * n];
    if !y.is_empty() {
        isa.run(Matmul { w, x, rows, side, activations, y: &mut y });
    }
    y
}

/// The whole matrix, `[out, in]`, columns in their original order; the very values of `Packed::decode`.
pub fn decode(w: &Weights<'_>, isa: Isa) -> Vec<f32> {
    let [out, columns] = w.layout().shape;
    let mut values = vec![0.0; out * columns];
    if !values.is_empty() {
        isa.run(Decode { w, values: &mut values });
    }
    values
}

/// Some rows of the matrix, `[rows, in]`.
///
/// # Panics
///
/// If a row is not below `out`.
pub fn select(w: &Weights<'_>, rows: &[usize]) -> Vec<f32> {
    let [out, columns] = w.layout().shape;
    let mut values = vec![0.0; rows.len() * columns];
    let (decoder, codes) = (Decoder::new(*w), vec![0; w.layout().chunks() * CHUNK]);
    values.par_chunks_exact_mut(columns).zip(rows).for_each_init(
        || codes.clone(),
        |codes, (values, &row)| {
            assert!(row < out, "row {row} of a matrix {:?}", w.layout().shape);
            decoder.row(row, codes, values);
        },
    );
    values
}

struct Matmul<'a> {
    w: &'a Weights<'a>,
    x: &'a [f32],
    rows: usize,
    side: Side,
    activations: Activations,
    y: &'a mut [f32],
}

impl Job for Matmul<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { w, x, rows, side, activations, y } = self;
        if side == Side::Plain {
            return plain(simd, w, x, rows, y);
        }
        let columns = w.layout().shape[1];
        let permuted: Vec<f32>;
        let x = match w.order() {
            None => x,
            Some(order) => {
                let row = |x: &[f32]| order.iter().map(|&column| x[column as usize]).collect::<Vec<_>>();
                permuted = x.chunks_exact(columns).flat_map(row).collect();
                &permuted
            }
        };
        if let Some(unit) = simd.matrix()
            && rows >= matrix::rows_from(w.activations(activations))
        {
            return matrix(simd, unit, w, x, rows, y);
        }
        let done = match w.route(activations) {
            Route::Int8 { block } => int8(simd, w, x, rows, block, y),
            Route::Pairs => pairs(simd, w, x, rows, y),
            Route::Decoded => false,
        };
        if !done {
            floats(simd, w, x, rows, y);
        }
    }
}

/// False where an element of `x` is not finite.
fn int8<S: Simd>(simd: S, w: &Weights<'_>, x: &[f32], rows: usize, block: usize, y: &mut [f32]) -> bool {
    let layout = w.layout();
    let code = Int8Code::new(w, block);
    let panels = Panels::new(rows, S::HEIGHT);
    let Some(input) = input::int8(simd, x, layout.shape[1], panels, block, code.center::<S>()) else {
        return false;
    };
    by_tiles(w, rows, panels.count() == 1, y, |tiles, to| {
        let mut grid = Grid::new(&code);
        for (p, panel) in input.iter().enumerate() {
            let (first, rows, height) = panels.panel(p);
            for t in tiles.clone() {
                let tile = w.tile(t);
                grid.fill(simd, &code, tile);
                let mut sums = [[0.0; ROWS]; 12];
                int8::multiply(simd, &code, (tile, &grid), panel, height, &mut sums);
                write(&sums[..rows], &mut to[first..], t - tiles.start);
            }
        }
    });
    true
}

fn matrix<S: Simd>(simd: S, unit: Matrix, w: &Weights<'_>, x: &[f32], rows: usize, y: &mut [f32]) {
    let layout = w.layout();
    let decoder = Decoder::new(*w);
    let strips = input::strips(simd, x, layout.shape[1]);
    by_tiles(w, rows, false, y, |tiles, to| {
        let unit = unit.tiles();
        let zero = Block([[0.0; ROWS]; ROWS]);
        let pairs = tiles.len().div_ceil(2);
        let mut codes = [(); 2].map(|()| vec![Block([[0; ROWS]; ROWS]); matrix::STRETCH]);
        let mut sums = vec![[zero; 2]; pairs * strips.len()];
        // Of the input, the columns of a stretch stay in the second-level cache while the tiles go by.
        for first in (0..layout.chunks()).step_by(matrix::STRETCH) {
            let chunks = (layout.chunks() - first).min(matrix::STRETCH);
            for (t, sums) in tiles.clone().step_by(2).zip(sums.chunks_exact_mut(strips.len())) {
                // The last tile may be alone: its neighbour's place keeps what was there, and is not written out.
                for (t, codes) in (t..tiles.end).zip(&mut codes) {
                    decoder.columns(simd, w.tile(t), first, &mut codes[..chunks]);
                }
                matrix::multiply(&unit, &strips, [&codes[0][..chunks], &codes[1][..chunks]], first, sums);
            }
        }
        for (t, sums) in (0..tiles.len()).step_by(2).zip(sums.chunks_exact(strips.len())) {
            for (to, sums) in to.chunks_mut(ROWS).zip(sums) {
                for (t, sums) in (t..tiles.len()).zip(sums) {
                    write(&sums.0, to, t);
                }
            }
        }
    });
}

/// False where the machine does not multiply bf16.
fn pairs<S: Simd>(simd: S, w: &Weights<'_>, x: &[f32], rows: usize, y: &mut [f32]) -> bool {
    struct Nothing;
    impl Job for Nothing {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {}
    }
    if simd.vectorize_pairs(Nothing).is_err() {
        return false;
    }
    let code = PairCode::new(w.layout(), w.levels());
    let panels = Panels::new(rows, PairCode::height::<S>());
    let input = input::pairs(simd, x, w.layout().shape[1], panels);
    by_tiles(w, rows, panels.count() == 1, y, |tiles, to| {
        for (p, panel) in input.iter().enumerate() {
            let (first, rows, height) = panels.panel(p);
            for t in tiles.clone() {
                let mut sums = [[0.0; ROWS]; 12];
                pairs::multiply(simd, &code, w.tile(t), panel, height, &mut sums);
                write(&sums[..rows], &mut to[first..], t - tiles.start);
            }
        }
    });
    true
}

fn floats<S: Simd>(simd: S, w: &Weights<'_>, x: &[f32], rows: usize, y: &mut [f32]) {
    let layout = w.layout();
    let decoder = Decoder::new(*w);
    let panels = Panels::new(rows, S::HEIGHT);
    let input = input::floats(x, layout.shape[1], panels);
    by_tiles(w, rows, panels.count() == 1, y, |tiles, to| {
        let mut decoded = [(); 2].map(|()| vec![[[0.0; ROWS]; CHUNK]; STRETCH / CHUNK]);
        let mut sums = vec![[[[0.0; ROWS]; 12]; 2]; panels.count()];
        for first_tile in tiles.clone().step_by(S::TILES) {
            let pair = first_tile..tiles.end.min(first_tile + S::TILES);
            sums.fill([[[0.0; ROWS]; 12]; 2]);
            for first in (0..layout.chunks()).step_by(STRETCH / CHUNK) {
                let chunks = (layout.chunks() - first).min(STRETCH / CHUNK);
                for (t, decoded) in pair.clone().zip(&mut decoded) {
                    decoder.columns(simd, w.tile(t), first, &mut decoded[..chunks]);
                }
                let decoded = decoded.each_ref().map(|decoded| &decoded[..chunks]);
                for (p, (x, sums)) in input.iter().zip(&mut sums).enumerate() {
                    let (_, _, height) = panels.panel(p);
                    let x = &x[first * CHUNK * height..][..chunks * CHUNK * height];
                    decoded::multiply(simd, &decoded[..pair.len()], x, height, &mut sums[..pair.len()]);
                }
            }
            for (p, sums) in sums.iter().enumerate() {
                let (first, rows, _) = panels.panel(p);
                for (t, sums) in pair.clone().zip(sums) {
                    write(&sums[..rows], &mut to[first..], t - tiles.start);
                }
            }
        }
    });
}

/// The sums of a tile to their columns in some rows of the output.
#[inline]
fn write(sums: &[[f32; ROWS]], to: &mut [&mut [f32]], tile: usize) {
    for (sums, to) in sums.iter().zip(to) {
        let to = &mut to[tile * ROWS..];
        match to.first_chunk_mut() {
            Some(to) => *to = *sums,
            None => to.copy_from_slice(&sums[..to.len()]),
        }
    }
}

/// Weights that a thread goes through before the next panel of rows: they stay in its second-level cache.
const CACHE: usize = 1 << 19;
/// Runs `task` for ranges of tiles that make up the matrix, with the part of every row of `y` that is theirs.
///
/// - `once`: the task reads the weights once; else they are kept in a cache and read again
fn by_tiles(
    w: &Weights<'_>,
    rows: usize,
    once: bool,
    y: &mut [f32],
    task: impl Fn(Range<usize>, &mut [&mut [f32]]) + Sync,
) {
    let [out, columns] = w.layout().shape;
    debug_assert_eq!(y.len(), rows * out);
    let most = if once { w.layout().tiles() } else { (CACHE / w.tile_bytes()).max(1) };
    let columns_of = Columns { out, width: ROWS, k: columns, most: most.saturating_mul(ROWS), short: once };
    share(columns_of, y, task);
}

/// `x · W`: each thread has some columns of all tiles; sixteen rows of `x` lie beside each other.
fn plain<S: Simd>(simd: S, w: &Weights<'_>, x: &[f32], rows: usize, y: &mut [f32]) {
    let layout = w.layout();
    let [out, columns] = layout.shape;
    let (decoder, strips) = (Decoder::new(*w), rows.div_ceil(ROWS));
    // [tiles, strips, rows of the tile, rows of x]
    let mut across = vec![[[0.0; ROWS]; ROWS]; layout.tiles() * strips];
    for (i, x) in x.chunks_exact(out).enumerate() {
        for (r, &x) in x.iter().enumerate() {
            across[r / ROWS * strips + i / ROWS][r % ROWS][i % ROWS] = x;
        }
    }
    let stretches: Vec<usize> = (0..layout.chunks()).step_by(STRETCH / CHUNK).collect();
    let sums = stretches.into_par_iter().map(|first| {
        let chunks = (layout.chunks() - first).min(STRETCH / CHUNK);
        let mut decoded = vec![[[0.0; ROWS]; CHUNK]; chunks];
        let mut sums = vec![[0.0; ROWS]; strips * chunks * CHUNK];
        for t in 0..layout.tiles() {
            decoder.columns(simd, w.tile(t), first, &mut decoded);
            let across = &across[t * strips..][..strips];
            for (x, y) in across.iter().zip(sums.chunks_exact_mut(chunks * CHUNK)) {
                simd.vectorize(MultiplyPlain { w: &decoded, x, y });
            }
        }
        (first * CHUNK, chunks * CHUNK, sums)
    });
    for (first, width, sums) in sums.collect::<Vec<_>>() {
        for (strip, sums) in sums.chunks_exact(width).enumerate() {
            for (stored, sums) in (first..columns).zip(sums) {
                let column = w.order().map_or(stored, |order| order[stored] as usize);
                for (i, &sum) in (strip * ROWS..rows).zip(sums) {
                    y[i * columns + column] = sum;
                }
            }
        }
    }
}

struct Decode<'a> {
    w: &'a Weights<'a>,
    values: &'a mut [f32],
}

impl Job for Decode<'_> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { w, values } = self;
        let layout = w.layout();
        let columns = layout.shape[1];
        let decoder = Decoder::new(*w);
        values.par_chunks_mut(ROWS * columns).enumerate().for_each(|(t, values)| {
            let mut decoded = vec![[[0.0; ROWS]; CHUNK]; STRETCH / CHUNK];
            for first in (0..layout.chunks()).step_by(STRETCH / CHUNK) {
                let chunks = (layout.chunks() - first).min(STRETCH / CHUNK);
                decoder.columns(simd, w.tile(t), first, &mut decoded[..chunks]);
                let decoded = decoded.as_flattened();
                for (r, values) in values.chunks_exact_mut(columns).enumerate() {
                    for (j, column) in (first * CHUNK..columns).zip(decoded) {
                        values[w.order().map_or(j, |order| order[j] as usize)] = column[r];
                    }
                }
            }
        });
    }
}
