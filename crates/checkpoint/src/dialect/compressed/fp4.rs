//! `nvfp4-pack-quantized` and `mxfp4-pack-quantized`: two E2M1 numbers in a byte.
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.weight_packed` | U8 | `[out, in / 2]` | the codes, the even column in the lower half of a byte |
//! | `<layer>.weight_scale` | F8_E4M3 | `[out, in / 16]` | NVFP4: the scales, times `weight_global_scale` |
//! | `<layer>.weight_global_scale` | F32 | `[1]` | NVFP4: what the scales are to be divided by |
//! | `<layer>.weight_scale` | U8 or F8_E8M0 | `[out, in / 32]` | MXFP4: the scales, `2^(byte − 127)` |
//!
//! ```text
//! NVFP4   w[o, i] = e2m1(q[o, i]) · e4m3(weight_scale[o, i / 16]) / weight_global_scale
//! MXFP4   w[o, i] = e2m1(q[o, i]) · 2^(weight_scale[o, i / 32] − 127)
//! ```
//!
//! **The division.** A [`Packed`] multiplies by its outer scale, which is the reciprocal of `weight_global_scale`, rounded to f32:
//! a scale read here may differ from the tool's quotient in the last bits of f32. (The tool then rounds the weight to bf16, which
//! has 16 bits fewer.) Not every f32 is the rounded reciprocal of another, about one of six is none: a matrix with such an outer
//! scale is not written. [`writable`] gives the nearest outer scale that is.
//!
//! Source: vllm-project/compressed-tensors, `compressors/nvfp4`, `compressors/mxfp4`.

use quench_format::{Code, FloatKind, Group, Minifloat, Offsets, Packed, Parts, Scale, Scales, Scheme};
use safetensors::Dtype;

use super::{numbers, tensor};
use crate::CheckpointError;
use crate::dialect::{Dialect, Spelled, Unwritable, row_bytes, row_words};
use crate::native::{NamedTensor, exponent, power};

/// Columns that share a scale of NVFP4.
pub(super) const NVFP4_GROUP: usize = 16;
/// Columns that share a scale of MXFP4.
pub(super) const MXFP4_GROUP: usize = 32;

/// How the scales of an NVFP4 matrix are kept.
const NVFP4_SCALE: Scale =
    Scale::Nested { code: Code::Float(Minifloat::E4M3), group: Group::Tensor, outer: FloatKind::F32 };

/// Reads a layer in either format; the type of its scales tells which.
pub(super) fn read(layer: Spelled<'_>) -> Result<Packed, CheckpointError> {
    layer.absent("weight_zero_point", "no zero points: E2M1 has a zero of its own")?;
    let [rows, pairs] = layer.matrix("weight_packed", Dtype::U8)?;
    let columns = 2 * pairs;
    let info = layer.needed("weight_scale")?;
    if !matches!(info.dtype, Dtype::F8_E4M3 | Dtype::F8_E8M0 | Dtype::U8) {
        return Err(layer.refused("weight_scale", "scales of F8_E4M3, F8_E8M0 or U8".to_owned(), &info));
    }
    let [scale_rows, groups] = layer.matrix("weight_scale", info.dtype)?;
    if scale_rows != rows {
        return Err(layer.invalid("weight_scale", format!("{scale_rows} rows of scales for {rows} outputs")));
    }
    let (group, _) = layer.groups("weight_scale", columns, groups, None)?;
    let scales = layer.tensor("weight_scale", info.dtype, &[rows, groups])?;
    let (scale, scales) = match info.dtype {
        Dtype::F8_E4M3 => {
            let codes = layer.e4m3("weight_scale", scales.bytes())?;
            let whole = layer.scalar("weight_global_scale")?;
            let outer = 1.0 / whole;
            if !(whole > 0.0 && outer.is_finite() && outer > 0.0) {
                let reason = format!("scales cannot be divided by {whole:e}");
                return Err(layer.invalid("weight_global_scale", reason));
            }
            (NVFP4_SCALE, Scales::Nested { codes, outer: vec![outer] })
        }
        _ => (Scale::PowerOfTwo, Scales::Float(scales.bytes().iter().map(|&byte| power(byte)).collect())),
    };
    let codes = row_words(layer.tensor("weight_packed", Dtype::U8, &[rows, pairs])?.bytes(), pairs);
    let scheme = Scheme::new(Code::Float(Minifloat::E2M1), group, scale);
    let parts = Parts { codes, scales, offsets: Offsets::None, order: None };
    layer.packed("weight_scale", Packed::new(scheme, [rows, columns], parts))
}

/// The tensors of a matrix in `nvfp4-pack-quantized`.
///
/// Errors: another scheme than `e2m1/16/e4m3/tensor:f32`, groups that are not full, an order of columns, an outer scale that is no
/// reciprocal.
pub(super) fn nvfp4(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    let refused = |reason: String| Unwritable::new(Dialect::Compressed, reason);
    let (NVFP4_SCALE, Scales::Nested { codes, outer }) = (packed.scheme().scale, &packed.parts().scales) else {
        let scheme = packed.scheme();
        let known = "e2m1/16/e4m3/tensor:f32 and e2m1/32/e8m0";
        return Err(refused(format!("has e2m1 as {known}, and not {scheme}")));
    };
    let [rows, groups] = full_groups(packed, NVFP4_GROUP)?;
    let Some(whole) = divisor(outer[0]) else {
        let (found, near) = (outer[0], writable(outer[0]));
        return Err(refused(format!("divides by a scale in f32, and {found:e} is no reciprocal of one ({near:e} is)")));
    };
    let scales: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
    numbers(&scales)?;
    Ok(vec![
        codes_tensor(layer, packed),
        tensor(layer, "weight_scale", Dtype::F8_E4M3, vec![rows, groups], scales),
        tensor(layer, "weight_global_scale", Dtype::F32, vec![1], whole.to_le_bytes().to_vec()),
    ])
}

/// The tensors of a matrix in `mxfp4-pack-quantized`.
///
/// Errors: groups of other than 32 columns, or not full; an order of columns.
pub(super) fn mxfp4(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    let [rows, groups] = full_groups(packed, MXFP4_GROUP)?;
    let scales = packed.scale_values().into_iter().map(exponent).collect();
    Ok(vec![codes_tensor(layer, packed), tensor(layer, "weight_scale", Dtype::U8, vec![rows, groups], scales)])
}

fn codes_tensor(layer: &str, packed: &Packed) -> NamedTensor {
    let [rows, columns] = packed.shape();
    let bytes = row_bytes(&packed.parts().codes, rows, columns / 2);
    tensor(layer, "weight_packed", Dtype::U8, vec![rows, columns / 2], bytes)
}

/// Rows, and groups along one, where all groups are full ones of this size.
fn full_groups(packed: &Packed, size: usize) -> Result<[usize; 2], Unwritable> {
    let refused = |reason: String| Err(Unwritable::new(Dialect::Compressed, reason));
    let [rows, columns] = packed.shape();
    let group = packed.scheme().group;
    if group == Group::Tensor || group.size(columns) != size || !columns.is_multiple_of(size) {
        return refused(format!("has full groups of {size} columns, and not {group} of {columns}"));
    }
    if packed.scheme().minimum.is_some() || packed.parts().order.is_some() {
        return refused("has neither minimums nor an order of columns for e2m1".to_owned());
    }
    Ok([rows, group.groups_per_row(columns)])
}

/// The f32 whose reciprocal, rounded, is `outer`.
fn divisor(outer: f32) -> Option<f32> {
    let near = 1.0 / outer;
    let fits = |whole: &f32| whole.is_finite() && *whole > 0.0 && 1.0 / whole == outer;
    [near, near.next_down(), near.next_up()].into_iter().find(fits)
}

/// The outer scale nearest to `outer` that NVFP4 can be written with here: the rounded reciprocal of an f32. At most one step
/// of f32 away; `outer` itself where it is one, or is no positive number with a reciprocal.
pub fn writable(outer: f32) -> f32 {
    if divisor(outer).is_some() {
        return outer;
    }
    // Of two neighbours, at least one is a reciprocal: the values skipped are single.
    [outer.next_down(), outer.next_up()].into_iter().find(|near| divisor(*near).is_some()).unwrap_or(outer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_scale_is_at_most_one_step_from_one_that_can_be_written() {
        let mut skipped = 0;
        for step in 0..100_000_u32 {
            // All over two octaves.
            let outer = f32::from_bits(0x3f00_0000 + step * 167);
            let near = writable(outer);
            skipped += u32::from(near != outer);
            assert!(near == outer || near == outer.next_up() || near == outer.next_down(), "{outer:e}");
            assert!(divisor(near).is_some_and(|whole| 1.0 / whole == near), "{outer:e}");
        }
        // (√2 − 1) of 2^23 reciprocals for (1 − 1/√2) of 2^24 numbers: 17 of 100 have none.
        assert!((16_000..18_500).contains(&skipped), "{skipped}");
        for outer in [1.0, 0.25, 3.0e-6, f32::MIN_POSITIVE, 1.0e38] {
            assert!(divisor(writable(outer)).is_some(), "{outer:e}");
        }
    }
}
