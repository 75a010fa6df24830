//! The input of a product, rounded and laid out in the order in which the inner loops read it.
//!
//! Rows are taken some at a time, a *panel*: 1, 2, 4, 8 or 12 of them, the last panel filled up with zeros. Within a panel
//! the rows of one step lie beside each other. For a matrix unit it is *strips* of 16 rows.

use rayon::prelude::*;

use quench_format::tiles::{CHUNK, ROWS, STEP, STEPS};

use crate::isa::Block;
use crate::simd::{Job, Simd};

/// Rows in panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    rows: usize,
    /// Rows of every panel but the last.
    height: usize,
}

/// Rows of a panel may be these many.
const HEIGHTS: [usize; 5] = [1, 2, 4, 8, 12];

impl Panels {
    /// Panels of at most `height` rows.
    pub(crate) fn new(rows: usize, height: usize) -> Self {
        Self { rows, height }
    }

    pub(crate) fn count(&self) -> usize {
        self.rows.div_ceil(self.height)
    }

    /// First row, rows, and rows with zeros added, of panel `p`.
    pub(crate) fn panel(&self, p: usize) -> (usize, usize, usize) {
        let first = p * self.height;
        let rows = self.height.min(self.rows - first);
        let padded = HEIGHTS.into_iter().find(|&height| height >= rows).unwrap_or(rows);
        (first, rows, padded.min(self.height))
    }
}

/// Rows in 8 bits: `x ≈ scale · q`.
pub(crate) struct Int8Panel {
    /// `[chunks, 8, height]`, four signed bytes each.
    pub q: Vec<i32>,
    /// `[blocks, height]`.
    pub scales: Vec<f32>,
    /// `−center · Σ q` of each block, where its integer sums begin; `[blocks, height]`.
    pub starts: Vec<i32>,
    /// `−Σ q` of each block, for zero points; `[blocks, height]`.
    pub sums: Vec<f32>,
}

/// Rounds all panels to 8 bits; `None` where an element is not finite, which 8 bits do not say.
///
/// - `x`: `[rows, columns]`
/// - `block`: columns that share a scale, 16 or a multiple of 32
/// - `center`: the code that stands for 0
pub(crate) fn int8<S: Simd>(
    simd: S,
    x: &[f32],
    columns: usize,
    panels: Panels,
    block: usize,
    center: i32,
) -> Option<Vec<Int8Panel>> {
    let make = |p: usize| {
        let (first, rows, height) = panels.panel(p);
        simd.vectorize(RoundToInt8 { x: &x[first * columns..][..rows * columns], columns, height, block, center })
    };
    match panels.count() {
        1 => Some(vec![make(0)?]),
        n => (0..n).into_par_iter().map(make).collect(),
    }
}

struct RoundToInt8<'a> {
    x: &'a [f32],
    columns: usize,
    height: usize,
    block: usize,
    center: i32,
}

impl Job for RoundToInt8<'_> {
    type Output = Option<Int8Panel>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Option<Int8Panel> {
        let Self { x, columns, height, block, center } = self;
        let padded = columns.next_multiple_of(CHUNK);
        let blocks = padded.div_ceil(block);
        let mut panel = Int8Panel {
            q: vec![0; padded / STEP * height],
            scales: vec![0.0; blocks * height],
            starts: vec![0; blocks * height],
            sums: vec![0.0; blocks * height],
        };
        let mut bytes = vec![0_u8; padded];
        for (i, x) in x.chunks_exact(columns).enumerate() {
            for (b, (x, bytes)) in x.chunks(block).zip(bytes.chunks_mut(block)).enumerate() {
                // As integers, magnitudes are in the order of the numbers, with those that are none on top.
                let top = x.iter().fold(0, |top, x| top.max(x.to_bits() & 0x7fff_ffff));
                if top >= f32::INFINITY.to_bits() {
                    return None;
                }
                let top = f32::from_bits(top);
                let inverse = 127.0 / top;
                // Of magnitudes below 1e-36 nothing is left: their inverse is no number.
                let inverse = if inverse.is_finite() { inverse } else { 0.0 };
                panel.scales[b * height + i] = top / 127.0;
                let sum = round(x, inverse, bytes);
                panel.starts[b * height + i] = -center * sum;
                panel.sums[b * height + i] = -sum as f32;
            }
            let words = bytes.as_chunks::<STEP>().0.iter().map(|step| i32::from_le_bytes(*step));
            panel.q.iter_mut().skip(i).step_by(height).zip(words).for_each(|(q, word)| *q = word);
        }
        Some(panel)
    }
}

/// `round(x · inverse)` as signed bytes, and their sum.
#[inline(always)]
fn round(x: &[f32], inverse: f32, bytes: &mut [u8]) -> i32 {
    // 1.5 · 2^23: the sum has the nearest integer in its low bits, ties to even.
    const SHIFT: f32 = 12_582_912.0;
    let mut sum = 0;
    for (x, byte) in x.iter().zip(bytes) {
        let q = (x * inverse + SHIFT).to_bits() as u8;
        sum += i32::from(q.cast_signed());
        *byte = q;
    }
    sum
}

/// Rows in bf16.
pub(crate) struct PairPanel {
    /// `[chunks, 8, 2, height]`: columns 0 and 2 of each step, then 1 and 3, the first in the low half.
    pub x: Vec<u32>,
    /// `Σ x` of each chunk, rounded as it is multiplied: `[chunks, height]`.
    pub sums: Vec<f32>,
}

/// Rounds all panels to bf16; numbers that are none stay what they are.
pub(crate) fn pairs<S: Simd>(simd: S, x: &[f32], columns: usize, panels: Panels) -> Vec<PairPanel> {
    let make = |p: usize| {
        let (first, rows, height) = panels.panel(p);
        simd.vectorize(RoundToPairs { x: &x[first * columns..][..rows * columns], columns, height })
    };
    match panels.count() {
        1 => vec![make(0)],
        n => (0..n).into_par_iter().map(make).collect(),
    }
}

struct RoundToPairs<'a> {
    x: &'a [f32],
    columns: usize,
    height: usize,
}

impl Job for RoundToPairs<'_> {
    type Output = PairPanel;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> PairPanel {
        let Self { x, columns, height } = self;
        let chunks = columns.div_ceil(CHUNK);
        let mut panel = PairPanel { x: vec![0; chunks * STEPS * 2 * height], sums: vec![0.0; chunks * height] };
        let mut halves = vec![0_u16; chunks * CHUNK];
        for (i, x) in x.chunks_exact(columns).enumerate() {
            for (half, x) in halves.iter_mut().zip(x) {
                *half = bf16(*x);
            }
            for (c, halves) in halves.as_chunks::<CHUNK>().0.iter().enumerate() {
                panel.sums[c * height + i] = halves.iter().map(|&half| f32::from_bits(u32::from(half) << 16)).sum();
                for (s, &[a, b, c, d]) in (c * STEPS..).zip(halves.as_chunks::<STEP>().0) {
                    panel.x[2 * s * height + i] = u32::from(a) | u32::from(c) << 16;
                    panel.x[(2 * s + 1) * height + i] = u32::from(b) | u32::from(d) << 16;
                }
            }
        }
        panel
    }
}

/// The nearest bf16, ties to even. What is no number stays none: its payload is cut, but never to that of an infinity.
#[inline(always)]
pub(crate) fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 }
}

/// Sixteen rows in bf16: for each chunk of columns, 32 of every row. Rows and columns are filled up with zeros.
pub(crate) struct Strip(pub Vec<Block<u32>>);

/// Rounds all rows to bf16, in strips.
pub(crate) fn strips<S: Simd>(simd: S, x: &[f32], columns: usize) -> Vec<Strip> {
    x.par_chunks(ROWS * columns).map(|x| simd.vectorize(RoundToStrip { x, columns })).collect()
}

struct RoundToStrip<'a> {
    x: &'a [f32],
    columns: usize,
}

impl Job for RoundToStrip<'_> {
    type Output = Strip;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Strip {
        let mut strip = vec![Block([[0; ROWS]; ROWS]); self.columns.div_ceil(CHUNK)];
        for (i, x) in self.x.chunks_exact(self.columns).enumerate() {
            for (block, x) in strip.iter_mut().zip(x.chunks(CHUNK)) {
                let mut halves = [0; CHUNK];
                for (half, x) in halves.iter_mut().zip(x) {
                    *half = bf16(*x);
                }
                for (word, [low, high]) in block.0[i].iter_mut().zip(halves.as_chunks().0) {
                    *word = u32::from(*low) | u32::from(*high) << 16;
                }
            }
        }
        Strip(strip)
    }
}

/// Rows as they are: `[columns, height]`.
pub(crate) fn floats(x: &[f32], columns: usize, panels: Panels) -> Vec<Vec<f32>> {
    let make = |p: usize| {
        let (first, rows, height) = panels.panel(p);
        let padded = columns.div_ceil(CHUNK) * CHUNK;
        let mut panel = vec![0.0; padded * height];
        for (i, x) in x[first * columns..][..rows * columns].chunks_exact(columns).enumerate() {
            for (to, x) in panel.iter_mut().skip(i).step_by(height).zip(x) {
                *to = *x;
            }
        }
        panel
    };
    match panels.count() {
        1 => vec![make(0)],
        n => (0..n).into_par_iter().map(make).collect(),
    }
}
