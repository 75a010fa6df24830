//! Codes to numbers: the device functions that every kernel shares, and the kernel that writes the dense matrix.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;
use quench_format::FloatKind;
use quench_format::tiles::{Plane, ROWS, STEP, STEPS, planes, scale_words};

use super::{Operands, Packing, Values, ValuesExpand, Words, address_type, empty};
use crate::ops::PackedParts;

/// `W` `[out, in]`, dense, in this dtype, columns in their original order.
pub(crate) fn decode(w: PackedParts<CubeBackend>, dtype: DType) -> CubeTensor {
    launch(&Operands::new(w), None, dtype)
}

/// The rows of `W` named by `rows` `[n]`: `[n, in]`, f32. A row that is not below `out` counts as the last one.
pub(crate) fn select_rows(rows: CubeTensor, w: PackedParts<CubeBackend>) -> CubeTensor {
    launch(&Operands::new(w), Some(into_contiguous(rows)), DType::F32)
}

fn launch(w: &Operands, rows: Option<CubeTensor>, dtype: DType) -> CubeTensor {
    let [out, columns] = w.layout.shape;
    let n = rows.as_ref().map_or(out, |rows| rows.meta.shape()[0]);
    let output = empty(&w.codes, [n, columns], dtype);
    if n == 0 {
        return output;
    }
    // Steps are written as vectors where their columns lie together and none is cut off.
    let lanes = if w.order.is_none() && columns.is_multiple_of(STEP) { STEP } else { 1 };
    let units = n * columns.div_ceil(STEP);
    let index = dtype_to_storage_type(rows.as_ref().map_or(DType::I32, |rows| rows.dtype));
    let dim = CubeDim::new(&w.codes.client, units);
    // SAFETY: units beyond the last step return at once, and the kernel keeps rows and columns within the matrix.
    unsafe {
        decode_kernel::launch_unchecked(
            &w.codes.client,
            calculate_cube_count_elemwise(&w.codes.client, units, dim),
            dim,
            address_type([&w.codes, &output]),
            lanes,
            w.words(1, 1),
            w.order(),
            rows.map(CubeTensor::into_buffer_arg).into(),
            output.clone().into_buffer_arg(),
            n,
            w.packing(),
            [dtype_to_storage_type(dtype), index],
        );
    }
    output
}

/// Writes one step, four neighbouring stored columns of a row, a unit.
#[cube(launch_unchecked, address_type = "dynamic")]
fn decode_kernel<F: Float, I: Int, N: Size>(
    w: &Words<u32, u32>,
    order: &ComptimeOption<Box<[u32]>>,
    rows: &ComptimeOption<Box<[I]>>,
    output: &mut [Vector<F, N>],
    count: usize,
    #[comptime] packing: Packing,
    #[define(F, I)] _dtypes: [ElemType; 2],
) {
    let steps = w.columns.div_ceil(STEP);
    let index = ABSOLUTE_POS / steps;
    let step = ABSOLUTE_POS % steps;
    if index >= count {
        terminate!();
    }
    #[comptime]
    let row = match rows {
        ComptimeOption::Some(rows) => usize::cast_from(u32::cast_from(rows[index])).min(w.out - 1),
        ComptimeOption::None => index,
    };
    let values = decode_step(w, row, step, packing);
    let lanes = N::value();
    if comptime!(lanes == STEP) {
        output[ABSOLUTE_POS] = Vector::cast_from(values);
    } else {
        #[unroll]
        for e in 0..STEP {
            let stored = step * STEP + e;
            if stored < w.columns {
                #[comptime]
                let column = match order {
                    ComptimeOption::Some(order) => usize::cast_from(order[stored]),
                    ComptimeOption::None => stored,
                };
                output[index * w.columns + column] = Vector::cast_from(values.extract(e));
            }
        }
    }
}

/// `scale · (level − zero)` of the four columns of a step; of columns beyond the row, code 0 in its last group.
#[cube]
pub(super) fn decode_step(
    w: &Words<u32, u32>,
    row: usize,
    step: usize,
    #[comptime] packing: Packing,
) -> Vector<f32, Const<4>> {
    let codes = step_codes(w, row, step, packing);
    let mut values = Vector::<f32, Const<4>>::empty();
    if comptime!(packing.whole_steps) {
        let group = step * STEP / w.group;
        let scale = scale_of(w, row, group, packing);
        let zero = zero_of(w, row, group, packing);
        #[unroll]
        for e in 0..STEP {
            values.insert(e, scale * level_of(w, codes.extract(e), zero));
        }
    } else {
        #[unroll]
        for e in 0..STEP {
            let group = (step * STEP + e).min(w.columns - 1) / w.group;
            let zero = zero_of(w, row, group, packing);
            values.insert(e, scale_of(w, row, group, packing) * level_of(w, codes.extract(e), zero));
        }
    }
    values
}

/// The codes of the four columns of a step.
#[cube]
fn step_codes(w: &Words<u32, u32>, row: usize, step: usize, #[comptime] packing: Packing) -> Vector<u32, Const<4>> {
    let chunk = comptime!(packing.bits as usize * ROWS);
    let first = row / ROWS * w.code_pitch + step / STEPS * chunk + row % ROWS;
    let s = step % STEPS;
    let mut low = 0u32;
    let mut high = 0u32;
    let count = comptime!(planes(packing.bits).count());
    #[unroll]
    for p in 0..count {
        let plane = comptime!(plane(packing.bits, p));
        let fields = comptime!(8 / plane.width as usize);
        let word = w.codes[first + (s / fields + comptime!(plane.low as usize)) * ROWS];
        let field = (word >> (u32::cast_from(s % fields) * comptime!(plane.width))) & comptime!(plane.mask());
        if comptime!(plane.low < 8) {
            low |= field << comptime!(plane.low);
        } else {
            high |= field << comptime!(plane.low - 8);
        }
    }
    let mut codes = Vector::<u32, Const<4>>::empty();
    #[unroll]
    for e in 0..STEP {
        let shift = comptime!(8 * e as u32);
        codes.insert(e, ((low >> shift) & 0xff) | (((high >> shift) & 0xff) << 8));
    }
    codes
}

/// The level of a code, less the zero point; both are exact.
#[cube]
fn level_of(w: &Words<u32, u32>, code: u32, zero: f32) -> f32 {
    #[comptime]
    match &w.levels {
        Values::Table(table) => table[usize::cast_from(code)],
        _ => integer(Vector::<u32, Const<1>>::new(code), Vector::<f32, Const<1>>::new(zero)).extract(0usize),
    }
}

/// The scale of a row in a group.
#[cube]
fn scale_of(w: &Words<u32, u32>, row: usize, group: usize, #[comptime] packing: Packing) -> f32 {
    let words = comptime!(scale_words(packing.scale));
    let first = row / ROWS * w.scale_pitch + group * words;
    let r = row % ROWS;
    if comptime!(packing.scale == FloatKind::F32) {
        f32::reinterpret(w.scales[first + r])
    } else {
        half(w.scales[first + r / 2] >> (u32::cast_from(r % 2) * 16), packing.scale)
    }
}

/// What is to be subtracted from a code of a row in a group once it is a float by [`integer`].
#[cube]
fn zero_of(w: &Words<u32, u32>, row: usize, group: usize, #[comptime] packing: Packing) -> f32 {
    let r = row % ROWS;
    #[comptime]
    match &w.levels {
        Values::Signed => comptime!(BIAS + (1u32 << (packing.bits - 1)) as f32).runtime(),
        Values::Affine(zeros) => {
            let first = row / ROWS * zeros.pitch;
            let zero = if comptime!(packing.bits <= 8) {
                (zeros.words[first + group * 4 + r / 4] >> (u32::cast_from(r % 4) * 8)) & 0xff
            } else {
                (zeros.words[first + group * 8 + r / 2] >> (u32::cast_from(r % 2) * 16)) & 0xffff
            };
            f32::reinterpret(zero | BIAS_BITS)
        }
        Values::Table(_) => 0.0f32.runtime(),
    }
}

/// `2^23`: a float above it has its integer in the low bits.
pub(super) const BIAS: f32 = 8_388_608.0;
pub(super) const BIAS_BITS: u32 = 0x4b00_0000;

/// `code − zero`, exactly: codes below `2^23` become floats by their bits, and `offset` is `2^23 + zero`.
#[cube]
pub(super) fn integer<N: Size>(codes: Vector<u32, N>, offset: Vector<f32, N>) -> Vector<f32, N> {
    Vector::reinterpret(codes | Vector::new(BIAS_BITS)) - offset
}

/// The half in the low bits of a word, as it is.
#[cube]
pub(super) fn half(word: u32, #[comptime] kind: FloatKind) -> f32 {
    if comptime!(kind == FloatKind::BF16) {
        f32::reinterpret(word << 16)
    } else {
        let sign = (word & 0x8000) << 16;
        let exponent = (word >> 10) & 0x1f;
        let fraction = word & 0x3ff;
        // Below the normal range 2^-24 times an integer, which f32 holds without going below its own.
        let small = u32::reinterpret(f32::cast_from(fraction) * 5.960_464_5e-8f32);
        let normal = ((exponent + 112) << 23) | (fraction << 13);
        let beyond = 0x7f80_0000u32 | (fraction << 13);
        let magnitude = select(exponent == 0, small, select(exponent == 31, beyond, normal));
        f32::reinterpret(sign | magnitude)
    }
}

/// Plane `index` of a code of so many bits.
pub(super) fn plane(bits: u32, index: usize) -> Plane {
    planes(bits).nth(index).unwrap_or_else(|| unreachable!("{bits} bits have no plane {index}"))
}
