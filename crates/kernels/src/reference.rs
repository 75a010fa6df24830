//! The portable bodies of [`QuantBackend`], in Burn's own operations: they run, correct, wherever Burn runs.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, IntDType, Shape, Slice};

use crate::ops::{Levels, Order, PackedParts, QuantBackend, Side};

/// `W` `[out, in]`, f32: unpack, level, zero point, scale, order; the same roundings as `Packed::decode`, so the same bits.
pub(crate) fn decode<B: Backend>(w: PackedParts<B>) -> FloatTensor<B> {
    let [out, columns] = w.layout.shape;
    let group = w.layout.group;
    let groups = columns.div_ceil(group);
    // A short last group is decoded as if it were whole, and what is too much cut off at the end.
    let padded = groups * group;
    let by_group = Shape::from([out, groups, group]);
    let per_group = Shape::from([out, groups, 1]);

    let codes = unpack::<B>(w.codes, w.layout.bits, padded); // [out, padded]
    let values = match w.levels {
        Levels::Signed => {
            let half = 1i64 << (w.layout.bits - 1);
            let values = B::int_into_float(codes, FloatDType::F32);
            B::float_reshape(B::float_sub_scalar(values, half.into()), by_group)
        }
        Levels::Affine(zeros) => {
            let values = B::float_reshape(B::int_into_float(codes, FloatDType::F32), by_group);
            B::float_sub(values, B::float_reshape(zeros, per_group.clone()))
        }
        Levels::Table(levels) => {
            let codes = B::int_reshape(codes, Shape::from([out * padded]));
            B::float_reshape(B::float_select(levels, 0, codes), by_group)
        }
    };
    let values = B::float_mul(values, B::float_reshape(w.scales, per_group)); // [out, groups, group]
    let values = B::float_reshape(values, Shape::from([out, padded]));
    let values = match padded == columns {
        true => values,
        false => B::float_slice(values, &[Slice::from(0..out), Slice::from(0..columns)]),
    };
    match w.order {
        Order::Natural => values,
        Order::Permuted(inverse) => B::float_select(values, 1, inverse),
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

/// The rows of `W` named by `rows` `[n]`: `[n, in]`; selects first, so only those rows are decoded.
pub(crate) fn select<B: QuantBackend>(rows: IntTensor<B>, w: PackedParts<B>) -> FloatTensor<B> {
    let [n] = rows.shape().dims::<1>();
    if n == 0 {
        return B::float_empty(Shape::from([0, w.layout.shape[1]]), &rows.device(), FloatDType::F32);
    }
    let levels = match w.levels {
        Levels::Affine(zeros) => Levels::Affine(B::float_select(zeros, 0, rows.clone())),
        levels => levels,
    };
    let mut layout = w.layout;
    layout.shape[0] = n;
    B::packed_decode(PackedParts {
        codes: B::int_select(w.codes, 0, rows.clone()),
        scales: B::float_select(w.scales, 0, rows),
        levels,
        order: w.order,
        layout,
    })
}

/// The codes in `words` `[out, words]`, one integer each: `[out, columns]`.
///
/// `columns` may exceed what the words hold; the codes beyond are 0.
fn unpack<B: Backend>(words: IntTensor<B>, bits: u32, columns: usize) -> IntTensor<B> {
    let [out, have] = words.shape().dims::<2>();
    let period = Period::of(bits);
    let periods = columns.div_ceil(period.codes);
    let want = periods * period.words;
    let words = match have == want {
        true => words,
        false => {
            let zeros = B::int_zeros(Shape::from([out, want - have]), &words.device(), IntDType::I32);
            B::int_cat(vec![words, zeros], 1)
        }
    };
    let words = B::int_reshape(words, Shape::from([out, periods, period.words]));
    let fields = (0..period.codes as u32).map(|k| field::<B>(&words, k * bits, bits)).collect();
    let codes = B::int_cat(fields, 2); // [out, periods, codes of a period]
    let codes = B::int_reshape(codes, Shape::from([out, periods * period.codes]));
    match periods * period.codes == columns {
        true => codes,
        false => B::int_slice(codes, &[Slice::from(0..out), Slice::from(0..columns)]),
    }
}

/// How often the places of codes in words repeat: `lcm(bits, 32)` bits.
struct Period {
    codes: usize,
    words: usize,
}

impl Period {
    fn of(bits: u32) -> Self {
        // The highest power of two in `bits` is its greatest common divisor with 32, as bits <= 16.
        let common = 1 << bits.trailing_zeros();
        Self { codes: (32 / common) as usize, words: (bits / common) as usize }
    }
}

/// The `bits` bits from bit `start` of every period of `words` `[out, periods, words]`: `[out, periods, 1]`.
fn field<B: Backend>(words: &IntTensor<B>, start: u32, bits: u32) -> IntTensor<B> {
    let (index, shift) = ((start / 32) as usize, start % 32);
    let word = |index: usize| {
        let [out, periods, _] = words.shape().dims::<3>();
        let slices = [Slice::from(0..out), Slice::from(0..periods), Slice::from(index..index + 1)];
        B::int_slice(words.clone(), &slices)
    };
    // The words are signed, so a shift to the right copies the sign into the high bits: mask after shifting.
    let low = bits.min(32 - shift);
    let low_part = keep::<B>(right::<B>(word(index), shift), low);
    match low == bits {
        true => low_part,
        // The rest of the code is at the bottom of the next word.
        false => {
            let high = keep::<B>(word(index + 1), bits - low);
            B::bitwise_or(low_part, B::bitwise_left_shift_scalar(high, i64::from(low).into()))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_whole_codes_in_whole_words() {
        for bits in 1..=16 {
            let period = Period::of(bits);
            assert_eq!(period.codes * bits as usize, period.words * 32, "{bits} bits");
        }
        let [three, four] = [Period::of(3), Period::of(4)];
        assert_eq!([three.codes, three.words, four.codes, four.words], [32, 3, 8, 1]);
    }
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
                Levels::Affine(zeros) => Levels::Affine(float(zeros)),
                Levels::Table(levels) => Levels::Table(float(levels)),
            },
            order: match parts.order {
                Order::Natural => Order::Natural,
                Order::Permuted(inverse) => Order::Permuted(int(inverse)),
            },
            layout: parts.layout,
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
