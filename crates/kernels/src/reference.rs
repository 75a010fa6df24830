//! The portable bodies of [`QuantBackend`], in Burn's own operations: they run, correct, wherever Burn runs.

use std::cmp::Ordering;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, IntDType, Shape, Slice};
use quench_format::tiles::{CHUNK, ROWS, planes};

use crate::ops::{Layout, Levels, Order, PackedParts, QuantBackend, Side};

/// `W` `[out, in]`, f32: unpack, level, zero point, scale, order; the same roundings as `Packed::decode`, so the same bits.
pub(crate) fn decode<B: Backend>(w: PackedParts<B>) -> FloatTensor<B> {
    let layout = w.layout;
    let [out, columns] = layout.shape;
    let (tiles, groups, group) = (layout.tiles(), layout.groups(), layout.group);
    // A short last group is decoded as if it were whole, and what is too much cut off at the end.
    let by_group = Shape::from([tiles, ROWS, groups, group]);

    let codes = unpack::<B>(w.codes, layout); // [tiles, 16, 32 · chunks]
    let codes = resize::<B>(codes, groups * group);
    let values = match w.levels {
        Levels::Signed => {
            let half = 1i64 << (layout.bits - 1);
            let values = B::int_into_float(codes, FloatDType::F32);
            B::float_reshape(B::float_sub_scalar(values, half.into()), by_group)
        }
        Levels::Affine(zeros) => {
            let values = B::float_reshape(B::int_into_float(codes, FloatDType::F32), by_group);
            let per_word = (ROWS * groups / layout.zero_words()) as u32;
            let words = B::int_reshape(zeros, Shape::from([tiles, groups, layout.zero_words() / groups, 1]));
            let width = 32 / per_word;
            let fields = (0..per_word).map(|e| keep::<B>(right::<B>(words.clone(), e * width), width)).collect();
            let zeros = B::int_reshape(B::int_cat(fields, 3), Shape::from([tiles, groups, ROWS]));
            B::float_sub(values, across::<B>(B::int_into_float(zeros, FloatDType::F32)))
        }
        Levels::Table(levels) => {
            let codes = B::int_reshape(codes, Shape::from([tiles * ROWS * groups * group]));
            B::float_reshape(B::float_select(levels, 0, codes), by_group)
        }
    };
    let scales = match w.scales.dtype() {
        DType::F32 => w.scales,
        _ => B::float_cast(w.scales, FloatDType::F32),
    };
    let scales = across::<B>(B::float_reshape(scales, Shape::from([tiles, groups, ROWS])));
    let values = B::float_reshape(B::float_mul(values, scales), Shape::from([tiles * ROWS, groups * group]));
    let values = B::float_slice(values, &[Slice::from(0..out), Slice::from(0..columns)]);
    match w.order {
        Order::Natural => values,
        Order::Permuted(order) => {
            let device = order.device();
            let stored = B::int_arange(0..columns as i64, &device, IntDType::I32);
            let zeros = B::int_zeros(Shape::from([columns]), &device, IntDType::I32);
            let inverse = B::int_select_assign(zeros, 0, order, stored, IndexingUpdateOp::Add);
            B::float_select(values, 1, inverse)
        }
    }
}

/// `[tiles, groups, 16]` → `[tiles, 16, groups, 1]`.
fn across<B: Backend>(values: FloatTensor<B>) -> FloatTensor<B> {
    let [tiles, groups, rows] = values.shape().dims::<3>();
    B::float_reshape(B::float_permute(values, &[0, 2, 1]), Shape::from([tiles, rows, groups, 1]))
}

/// Codes `[tiles, 16, columns]` with so many columns: cut, or filled up with code 0.
fn resize<B: Backend>(codes: IntTensor<B>, columns: usize) -> IntTensor<B> {
    let [tiles, rows, have] = codes.shape().dims::<3>();
    match have.cmp(&columns) {
        Ordering::Equal => codes,
        Ordering::Greater => {
            B::int_slice(codes, &[Slice::from(0..tiles), Slice::from(0..rows), Slice::from(0..columns)])
        }
        Ordering::Less => {
            let zeros = B::int_zeros(Shape::from([tiles, rows, columns - have]), &codes.device(), IntDType::I32);
            B::int_cat(vec![codes, zeros], 2)
        }
    }
}

/// `x · Wᵀ` or `x · W`: decode, then the backend's own product in the dtype of `x`.
pub(crate) fn matmul<B: QuantBackend>(x: FloatTensor<B>, w: PackedParts<B>, side: Side) -> FloatTensor<B> {
    let dtype = FloatDType::from(x.dtype());
    let [rows, _] = x.shape().dims::<2>();
    if rows == 0 {
        // Not every backend multiplies a matrix without rows (nor launches a kernel over nothing).
        let [_, columns] = side.columns(w.layout.shape);
        return B::float_empty(Shape::from([0, columns]), &x.device(), dtype);
    }
    let w = B::packed_decode(w);
    let w = match dtype {
        FloatDType::F32 => w,
        dtype => B::float_cast(w, dtype),
    };
    match side {
        Side::Transposed => B::float_matmul(x, B::float_transpose(w)),
        Side::Plain => B::float_matmul(x, w),
    }
}

/// The rows of `W` named by `rows` `[n]`: `[n, in]`; only the tiles that they are in are decoded.
pub(crate) fn select<B: QuantBackend>(rows: IntTensor<B>, w: PackedParts<B>) -> FloatTensor<B> {
    let [n] = rows.shape().dims::<1>();
    let columns = w.layout.shape[1];
    if n == 0 {
        return B::float_empty(Shape::from([0, columns]), &rows.device(), FloatDType::F32);
    }
    let size = (ROWS as i64).into();
    let tiles = B::int_div_scalar(rows.clone(), size);
    let within = B::int_sub(rows, B::int_mul_scalar(tiles.clone(), size));
    let levels = match w.levels {
        Levels::Affine(zeros) => Levels::Affine(B::int_select(zeros, 0, tiles.clone())),
        levels => levels,
    };
    let mut layout = w.layout;
    layout.shape[0] = n * ROWS;
    let decoded = B::packed_decode(PackedParts {
        codes: B::int_select(w.codes, 0, tiles.clone()),
        scales: B::float_select(w.scales, 0, tiles),
        levels,
        order: w.order,
        layout,
        activations: w.activations,
    }); // [16 n, in]
    let first = B::int_arange_step(0..(n * ROWS) as i64, ROWS, &within.device(), IntDType::I32);
    B::float_select(decoded, 0, B::int_add(first, B::int_cast(within, IntDType::I32)))
}

/// The codes of all tiles, one integer each: `[tiles, 16, 32 · chunks]`.
fn unpack<B: Backend>(words: IntTensor<B>, layout: Layout) -> IntTensor<B> {
    let (chunks, lines) = (layout.tiles() * layout.chunks(), layout.bits as usize);
    let words = B::int_reshape(words, Shape::from([chunks, lines, ROWS]));
    let codes = planes(layout.bits).map(|plane| {
        let (first, lines) = (plane.low as usize, plane.width as usize);
        let lines = B::int_slice(
            words.clone(),
            &[Slice::from(0..chunks), Slice::from(first..first + lines), Slice::from(0..ROWS)],
        );
        let lines = B::int_reshape(lines, Shape::from([chunks, plane.width as usize, ROWS, 1]));
        // A line holds 8 / width steps, and each of them four columns, one to a byte.
        let shifts = (0..8 / plane.width).flat_map(|field| (0..4).map(move |byte| 8 * byte + field * plane.width));
        let fields = shifts.map(|shift| keep::<B>(right::<B>(lines.clone(), shift), plane.width)).collect();
        let codes = B::int_permute(B::int_cat(fields, 3), &[0, 2, 1, 3]); // [chunks, 16, lines, columns of a line]
        let codes = B::int_reshape(codes, Shape::from([chunks, ROWS, CHUNK]));
        match plane.low {
            0 => codes,
            low => B::bitwise_left_shift_scalar(codes, i64::from(low).into()),
        }
    });
    let codes = codes.reduce(B::bitwise_or).unwrap_or_else(|| unreachable!("a code has a bit"));
    let codes = B::int_reshape(codes, Shape::from([layout.tiles(), layout.chunks(), ROWS, CHUNK]));
    let codes = B::int_permute(codes, &[0, 2, 1, 3]);
    B::int_reshape(codes, Shape::from([layout.tiles(), ROWS, layout.chunks() * CHUNK]))
}

fn right<B: Backend>(words: IntTensor<B>, shift: u32) -> IntTensor<B> {
    match shift {
        0 => words,
        _ => B::bitwise_right_shift_scalar(words, i64::from(shift).into()),
    }
}

fn keep<B: Backend>(words: IntTensor<B>, bits: u32) -> IntTensor<B> {
    B::bitwise_and_scalar(words, ((1i64 << bits) - 1).into())
}

/// The portable bodies on a CPU backend, where its own take their place otherwise.
#[cfg(all(test, feature = "flex"))]
mod on_flex {
    use burn::backend::{Dispatch, Flex};
    use burn::tensor::{Device, Int, Tensor, TensorData};
    use quench_format::{Code, Packed, Scales, Scheme};

    use super::*;
    use crate::QTensor;

    /// A matrix with every code in it, in turn, and an order that is not its own inverse.
    fn packed(scheme: &str, shape: [usize; 2]) -> Packed {
        let scheme: Scheme = scheme.parse().expect("a scheme");
        let [out, columns] = shape;
        let cycle = |code: Code, n: usize| (0..n).map(|k| (k * 40_503 % code.len()) as u16).collect::<Vec<_>>();
        let [rows, groups] = scheme.group.scale_shape(shape);
        let scales = (0..rows * groups).map(|g| (g as f32 - 7.5) / 32.0).collect();
        let zeros = scheme.code.is_affine().then(|| cycle(scheme.code, rows * groups));
        let order = (0..columns as u32).map(|j| (j + 3) % columns as u32).collect();
        let codes = cycle(scheme.code, out * columns);
        Packed::from_codes(scheme, shape, &codes, Scales::Float(scales), zeros, Some(order)).expect("a matrix")
    }

    fn parts(packed: &Packed) -> PackedParts<Flex> {
        let parts = QTensor::from_packed(packed, &Device::flex()).parts();
        let float =
            |t: FloatTensor<Dispatch>| Tensor::<2>::from_dispatch(t).try_into_primitive::<Flex>().expect("flex");
        let int =
            |t: IntTensor<Dispatch>| Tensor::<2, Int>::from_dispatch(t).try_into_primitive::<Flex>().expect("flex");
        PackedParts {
            codes: int(parts.codes),
            scales: float(parts.scales),
            levels: match parts.levels {
                Levels::Signed => Levels::Signed,
                Levels::Affine(zeros) => Levels::Affine(int(zeros)),
                Levels::Table(levels) => Levels::Table(float(levels)),
            },
            order: match parts.order {
                Order::Natural => Order::Natural,
                Order::Permuted(order) => Order::Permuted(int(order)),
            },
            layout: parts.layout,
            activations: parts.activations,
        }
    }

    fn values(tensor: FloatTensor<Flex>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32")
    }

    #[test]
    fn every_width_decodes_as_the_format_says() {
        for bits in 1..=16 {
            for (code, group) in [("int", "32"), ("uint", "13"), ("slog", "tensor"), ("int", "row")] {
                for shape in [[3, 1], [2, 33], [5, 70], [4, 128]] {
                    if (code, bits) == ("slog", 1) {
                        continue;
                    }
                    let case = format!("{code}{bits}/{group}/f32");
                    let packed = packed(&case, shape);
                    assert_eq!(values(decode(parts(&packed))), packed.decode(), "{case} {shape:?}");
                }
            }
        }
    }

    #[test]
    fn rows_are_selected_before_they_are_decoded() {
        for scheme in ["int4/8/f32", "uint3/8/f32", "nf4/8/f32"] {
            let packed = packed(scheme, [5, 19]);
            let rows = Tensor::<1, Int>::from_data(TensorData::from([4, 0, 4]), &Device::flex());
            let found = values(select(rows.try_into_primitive::<Flex>().expect("flex"), parts(&packed)));
            let w = packed.decode();
            let expected = [&w[4 * 19..], &w[..19], &w[4 * 19..]].concat();
            assert_eq!(found, expected, "{scheme}");
        }
    }
}
