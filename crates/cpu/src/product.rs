//! The operations: who computes which part, on all threads of rayon's pool.

use std::ops::Range;

use quench_format::tiles::{CHUNK, ROWS, STEP};
use rayon::prelude::*;

use crate::decoded::{self, Decoder, MultiplyPlain, STRETCH};
use crate::input::{self, Panels};
use crate::int8::{self, Int8Code};
use crate::isa::Matrix;
use crate::matrix;
use crate::pairs::{self, PairCode};
use crate::simd::{Job, Simd};
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
    let code = Int8Code::new(layout, w.levels(), block);
    if let Some(unit) = simd.matrix()
        && rows >= MATRIX_ROWS
        && block >= CHUNK
    {
        return int8_matrix(simd, unit, w, &code, x, rows, y);
    }
    let panels = Panels::new(rows, code.height::<S>());
    let Some(input) = input::int8(simd, x, layout.shape[1], panels, code.block, false) else {
        return false;
    };
    by_tiles(w, panels, y, |tiles, to| {
        for (p, panel) in input.iter().enumerate() {
            let (first, rows, height) = panels.panel(p);
            for t in tiles.clone() {
                let mut sums = [[0.0; ROWS]; 12];
                int8::multiply(simd, &code, w.tile(t), panel, height, &mut sums);
                write(&sums[..rows], &mut to[first..], t - tiles.start);
            }
        }
    });
    true
}

/// Rows from which a matrix unit is faster than vectors.
const MATRIX_ROWS: usize = 3;

/// False where an element of `x` is not finite.
fn int8_matrix<S: Simd>(
    simd: S,
    unit: Matrix,
    w: &Weights<'_>,
    code: &Int8Code,
    x: &[f32],
    rows: usize,
    y: &mut [f32],
) -> bool {
    let layout = w.layout();
    let strips = Panels::strips(rows);
    let Some(input) = input::int8(simd, x, layout.shape[1], strips, code.block, true) else {
        return false;
    };
    let columns = layout.shape[1].next_multiple_of(code.block);
    let stretch = matrix::stretch(code.block);
    by_tiles(w, strips, y, |tiles, to| {
        let mut codes = [vec![[0; ROWS]; stretch / STEP], vec![[0; ROWS]; stretch / STEP]];
        let mut sums = vec![[[[0.0; ROWS]; matrix::HEIGHT]; 2]; strips.count()];
        for t in tiles.clone().step_by(2) {
            // The last tile may be alone; its neighbour is itself, and what comes of it is not written.
            let pair = [t, (t + 1).min(tiles.end - 1)];
            let two = pair.map(|t| w.tile(t));
            sums.fill([[[0.0; ROWS]; matrix::HEIGHT]; 2]);
            for first in (0..columns).step_by(stretch) {
                let steps = (columns - first).min(stretch) / STEP;
                for (codes, tile) in codes.iter_mut().zip(two) {
                    matrix::decode(simd, code, tile, first / CHUNK, &mut codes[..steps]);
                }
                let codes = [&codes[0][..steps], &codes[1][..steps]];
                for (p, (x, sums)) in input.iter().zip(&mut sums).enumerate() {
                    let (_, _, height) = strips.panel(p);
                    matrix::multiply(simd, unit, code, two, codes, x, first, height, sums);
                }
            }
            let unit = code.table.map_or(1.0, |(_, unit)| unit);
            for (p, sums) in sums.iter_mut().enumerate() {
                let (first, rows, _) = strips.panel(p);
                for (&t, sums) in pair.iter().zip(sums).take(tiles.end - t) {
                    sums.as_flattened_mut().iter_mut().for_each(|sum| *sum *= unit);
                    write(&sums[..rows], &mut to[first..], t - tiles.start);
                }
            }
        }
    });
    true
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
    by_tiles(w, panels, y, |tiles, to| {
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
    by_tiles(w, panels, y, |tiles, to| {
        let mut decoded = vec![[[0.0; ROWS]; CHUNK]; STRETCH / CHUNK];
        let mut sums = vec![[[0.0; ROWS]; 12]; panels.count()];
        for t in tiles.clone() {
            sums.fill([[0.0; ROWS]; 12]);
            for first in (0..layout.chunks()).step_by(STRETCH / CHUNK) {
                let chunks = (layout.chunks() - first).min(STRETCH / CHUNK);
                decoder.columns(simd, w.tile(t), first, &mut decoded[..chunks]);
                for (p, (x, sums)) in input.iter().zip(&mut sums).enumerate() {
                    let (_, _, height) = panels.panel(p);
                    let x = &x[first * CHUNK * height..][..chunks * CHUNK * height];
                    decoded::multiply(simd, &decoded[..chunks], x, height, sums);
                }
            }
            for (p, sums) in sums.iter().enumerate() {
                let (first, rows, _) = panels.panel(p);
                write(&sums[..rows], &mut to[first..], t - tiles.start);
            }
        }
    });
}

/// The sums of a tile to their columns in some rows of the output.
#[inline]
fn write(sums: &[[f32; ROWS]], to: &mut [&mut [f32]], tile: usize) {
    for (sums, to) in sums.iter().zip(to) {
        let to = &mut to[tile * ROWS..];
        let n = to.len().min(ROWS);
        to[..n].copy_from_slice(&sums[..n]);
    }
}

/// Weights that a thread goes through before the next panel of rows: they stay in its second-level cache.
const CACHE: usize = 1 << 19;
/// Products of so few operations are not worth the way to another thread: some microseconds.
const ALONE: usize = 1 << 18;

/// Runs `task` for ranges of tiles that make up the matrix, with the part of every row of `y` that is theirs.
fn by_tiles(w: &Weights<'_>, panels: Panels, y: &mut [f32], task: impl Fn(Range<usize>, &mut [&mut [f32]]) + Sync) {
    let (tiles, out) = (w.layout().tiles(), w.layout().shape[0]);
    let threads = rayon::current_num_threads();
    let alone = threads == 1 || panels.rows * out * w.layout().shape[1] < ALONE;
    // One panel reads the weights once, in one go for each thread; some more parts even out what the threads get.
    let most = if panels.count() == 1 { tiles } else { (CACHE / w.tile_bytes()).max(1) };
    let per_task = if alone { most } else { most.min(tiles.div_ceil(4 * threads)) }.max(1);
    let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
    parts.resize_with(tiles.div_ceil(per_task), || Vec::with_capacity(panels.rows));
    for row in y.chunks_exact_mut(out) {
        for (part, to) in parts.iter_mut().zip(row.chunks_mut(per_task * ROWS)) {
            part.push(to);
        }
    }
    let run = |(p, mut to): (usize, Vec<&mut [f32]>)| task(p * per_task..tiles.min((p + 1) * per_task), &mut to);
    match alone {
        true => parts.into_iter().enumerate().for_each(run),
        false => parts.into_par_iter().enumerate().with_max_len(1).for_each(run),
    }
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
