//! Decoding over plain slices, row by row on all threads: what Flex and NdArray share.
//!
//! A product decodes a block of rows, calls the backend's own matmul, and goes on to the next block. Fused products,
//! which read codes in place of weights and write no dense block at all, come next and live in this file.

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, IntDType, Slice, TensorData};
use rayon::prelude::*;

use crate::ops::{Levels, Order, PackedParts, QuantBackend, Side};
use crate::reference;

/// A backend whose tensors are in host memory.
pub(crate) trait HostBackend: Backend {
    /// The elements of an f32 tensor, row-major; copied only if strided.
    fn f32s(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]>;
    /// The elements of an i32 tensor, row-major; copied only if strided.
    fn i32s(tensor: &IntTensor<Self>) -> Cow<'_, [i32]>;
}

/// `W` `[out, in]`, f32.
pub(crate) fn decode<B: HostBackend>(w: PackedParts<B>) -> FloatTensor<B> {
    let [out, columns] = w.layout.shape;
    let values = Matrix::new::<B>(&w).rows(out, |row| row);
    B::float_from_data(TensorData::new(values, [out, columns]), &w.scales.device())
}

/// The rows of `W` named by `rows` `[n]`: `[n, in]`, f32.
///
/// # Panics
///
/// If a row is not below `out`, naming both.
pub(crate) fn select<B: HostBackend>(rows: IntTensor<B>, w: PackedParts<B>) -> FloatTensor<B> {
    let [out, columns] = w.layout.shape;
    let rows = B::int_cast(rows, IntDType::I32);
    let rows = B::i32s(&rows);
    if let Some(row) = rows.iter().find(|&&row| row < 0 || row as usize >= out) {
        panic!("row {row} of a matrix {:?}", w.layout.shape);
    }
    let values = Matrix::new::<B>(&w).rows(rows.len(), |index| rows[index] as usize);
    B::float_from_data(TensorData::new(values, [rows.len(), columns]), &w.scales.device())
}

/// Weights that a product decodes at a time: 4 MB, which the allocator hands out again and again.
///
/// A dense matrix fresh from the system costs more in page faults than in decoding: of 60 ms for `[4096, 4096]` at
/// 4 bits, 40 ms were the first touch of its 64 MB.
const BLOCK: usize = 1 << 20;

/// `x · Wᵀ` or `x · W`, a block of rows of `W` at a time; `x` `[rows, in or out]` of any float dtype.
pub(crate) fn matmul<B: HostBackend + QuantBackend>(
    x: FloatTensor<B>,
    w: PackedParts<B>,
    side: Side,
) -> FloatTensor<B> {
    let [out, columns] = w.layout.shape;
    let [rows, _] = x.shape().dims::<2>();
    let height = BLOCK.div_ceil(columns);
    if rows == 0 || out <= height {
        return reference::matmul::<B>(x, w, side);
    }
    let (matrix, dtype, device) = (Matrix::new::<B>(&w), FloatDType::from(x.dtype()), x.device());
    let blocks = (0..out).step_by(height).map(|first| {
        let height = height.min(out - first);
        let values = matrix.rows(height, |index| first + index);
        let block = B::float_from_data(TensorData::new(values, [height, columns]), &device);
        (first..first + height, if dtype == FloatDType::F32 { block } else { B::float_cast(block, dtype) })
    });
    match side {
        Side::Transposed => {
            let products = blocks.map(|(_, block)| B::float_matmul(x.clone(), B::float_transpose(block)));
            B::float_cat(products.collect(), 1) // [rows, out]
        }
        Side::Plain => {
            let products = blocks.map(|(part, block)| {
                let x = B::float_slice(x.clone(), &[Slice::from(0..rows), Slice::from(part)]);
                B::float_matmul(x, block)
            });
            products.reduce(B::float_add).unwrap_or_else(|| unreachable!("a matrix has rows")) // [rows, in]
        }
    }
}

/// [`PackedParts`] as slices.
struct Matrix<'a> {
    words: Cow<'a, [i32]>,
    words_per_row: usize,
    scales: Cow<'a, [f32]>,
    levels: Values<'a>,
    inverse: Option<Cow<'a, [i32]>>,
    bits: u32,
    columns: usize,
    group: usize,
}

/// [`Levels`] as slices.
enum Values<'a> {
    Signed { half: i32 },
    Affine(Cow<'a, [f32]>),
    Table(Cow<'a, [f32]>),
}

/// What a thread keeps between rows.
#[derive(Clone)]
struct Scratch {
    codes: Vec<u16>,
    stored: Vec<f32>,
}

/// Elements that are worth a task of their own: about 10 µs of decoding.
const TASK: usize = 1 << 14;

impl<'a> Matrix<'a> {
    fn new<B: HostBackend>(w: &'a PackedParts<B>) -> Self {
        let [_, columns] = w.layout.shape;
        let [_, words_per_row] = w.codes.shape().dims::<2>();
        Self {
            words: B::i32s(&w.codes),
            words_per_row,
            scales: B::f32s(&w.scales),
            levels: match &w.levels {
                Levels::Signed => Values::Signed { half: 1 << (w.layout.bits - 1) },
                Levels::Affine(zeros) => Values::Affine(B::f32s(zeros)),
                Levels::Table(levels) => Values::Table(B::f32s(levels)),
            },
            inverse: match &w.order {
                Order::Natural => None,
                Order::Permuted(inverse) => Some(B::i32s(inverse)),
            },
            bits: w.layout.bits,
            columns,
            group: w.layout.group,
        }
    }

    /// `n` rows, `[n, in]`, of which the one at `index` is row `of(index)` of the matrix.
    fn rows(&self, n: usize, of: impl Fn(usize) -> usize + Sync) -> Vec<f32> {
        let mut values = vec![0.0; n * self.columns];
        if values.is_empty() {
            return values;
        }
        let scratch = Scratch {
            codes: vec![0; self.columns],
            stored: if self.inverse.is_some() { vec![0.0; self.columns] } else { Vec::new() },
        };
        values
            .par_chunks_exact_mut(self.columns)
            .with_min_len(TASK.div_ceil(self.columns))
            .enumerate()
            .for_each_init(|| scratch.clone(), |scratch, (index, values)| self.row(of(index), scratch, values));
        values
    }

    fn row(&self, row: usize, Scratch { codes, stored }: &mut Scratch, values: &mut [f32]) {
        let words = &self.words[row * self.words_per_row..][..self.words_per_row];
        unpack(self.bits, words, codes);
        let Some(inverse) = &self.inverse else {
            return self.levels(row, codes, values);
        };
        self.levels(row, codes, stored);
        for (value, &column) in values.iter_mut().zip(inverse.iter()) {
            *value = stored[column as usize];
        }
    }

    /// `scale · (level − zero)`, group by group; the order of operations is that of `Packed::decode`.
    fn levels(&self, row: usize, codes: &[u16], values: &mut [f32]) {
        let first = row * self.columns.div_ceil(self.group);
        let groups = codes.chunks(self.group).zip(values.chunks_mut(self.group));
        for (group, (codes, values)) in (first..).zip(groups) {
            let scale = self.scales[group];
            let each = codes.iter().zip(values);
            match &self.levels {
                Values::Signed { half } => each.for_each(|(&u, w)| *w = scale * (i32::from(u) - half) as f32),
                Values::Affine(zeros) => {
                    let zero = zeros[group];
                    each.for_each(|(&u, w)| *w = scale * (f32::from(u) - zero));
                }
                Values::Table(levels) => each.for_each(|(&u, w)| *w = scale * levels[usize::from(u)]),
            }
        }
    }
}

/// The first `codes.len()` codes of `bits` bits in a row of words, low bits first.
fn unpack(bits: u32, words: &[i32], codes: &mut [u16]) {
    match bits {
        1 => unpack_width::<1>(words, codes),
        2 => unpack_width::<2>(words, codes),
        3 => unpack_width::<3>(words, codes),
        4 => unpack_width::<4>(words, codes),
        5 => unpack_width::<5>(words, codes),
        6 => unpack_width::<6>(words, codes),
        7 => unpack_width::<7>(words, codes),
        8 => unpack_width::<8>(words, codes),
        9 => unpack_width::<9>(words, codes),
        10 => unpack_width::<10>(words, codes),
        11 => unpack_width::<11>(words, codes),
        12 => unpack_width::<12>(words, codes),
        13 => unpack_width::<13>(words, codes),
        14 => unpack_width::<14>(words, codes),
        15 => unpack_width::<15>(words, codes),
        16 => unpack_width::<16>(words, codes),
        _ => unreachable!("a code has 1 to 16 bits, not {bits}"),
    }
}

/// The width is a constant, so that in a whole period every shift is one too and the loop becomes straight vector code.
fn unpack_width<const BITS: usize>(words: &[i32], codes: &mut [u16]) {
    let common = 1 << BITS.trailing_zeros();
    let (period_codes, period_words) = (32 / common, BITS / common);
    let (mut whole, mut rest) = (codes.chunks_exact_mut(period_codes), words);
    for codes in &mut whole {
        let (words, after) = rest.split_at(period_words);
        for (k, code) in codes.iter_mut().enumerate() {
            *code = field(words, k * BITS, BITS);
        }
        rest = after;
    }
    for (k, code) in whole.into_remainder().iter_mut().enumerate() {
        *code = field(rest, k * BITS, BITS);
    }
}

/// `bits` bits from bit `start` on; they may straddle two words.
#[inline(always)]
fn field(words: &[i32], start: usize, bits: usize) -> u16 {
    let (index, shift) = (start / 32, start % 32);
    let mut value = words[index] as u32 >> shift;
    if shift + bits > 32 {
        value |= (words[index + 1] as u32) << (32 - shift);
    }
    (value & ((1 << bits) - 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_what_was_packed() {
        for bits in 1..=16u32 {
            for columns in [1, 2, 7, 31, 32, 33, 64, 95, 129] {
                let codes: Vec<u16> =
                    (0..columns as u32).map(|k| (k.wrapping_mul(2_654_435_761) >> (32 - bits)) as u16).collect();
                let mut words = vec![0u64; (columns * bits as usize).div_ceil(32) + 1];
                for (k, &code) in codes.iter().enumerate() {
                    let start = k * bits as usize;
                    let wide = u64::from(code) << (start % 32);
                    words[start / 32] |= wide & 0xffff_ffff;
                    words[start / 32 + 1] |= wide >> 32;
                }
                words.pop();
                let words: Vec<i32> = words.into_iter().map(|word| word as u32 as i32).collect();
                let mut found = vec![0; columns];
                unpack(bits, &words, &mut found);
                assert_eq!(found, codes, "{bits} bits, {columns} columns");
            }
        }
    }
}
