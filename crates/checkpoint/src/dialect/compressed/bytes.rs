//! `int-quantized`, `float-quantized` and `mxfp8-quantized`: one number in a byte.
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.weight` | I8 or F8_E4M3 | `[out, in]` | the integers themselves, or the floats |
//! | `<layer>.weight_scale` | F32, F16, BF16; U8 or F8_E8M0 in `mxfp8-quantized` | below | scales |
//! | `<layer>.weight_zero_point` | I8 | as the scales | zero points of integers; asymmetric only |
//! | `<layer>.weight_g_idx` | I32 | `[in]` | the group of each column, where they are not runs of columns |
//!
//! ```text
//! w[o, i] = weight_scale[g] · (weight[o, i] − weight_zero_point[g])
//! ```
//!
//! The shape of the scales says who shares one: `[]` or `[1]` all weights, `[out]` or `[out, 1]` a row, `[out, groups]` a group of
//! columns. Where the configuration has a `block_structure` `[h, w]`, they are `[ceil(out / h), ceil(in / w)]`; every row then gets
//! those of its block. Integers are in the bits that the configuration says (`num_bits`), 8 where it is silent.
//!
//! Source: vllm-project/compressed-tensors, `compressors/naive_quantized`, `compressors/mxfp8`.

use quench_format::{Bits, Code, FloatKind, Group, Minifloat, Packed, Scale, Scales, Scheme};
use safetensors::Dtype;
use serde_json::Value;

use super::{numbers, said, said_width, scale_bytes, tensor};
use crate::CheckpointError;
use crate::dialect::{Dialect, Spelled, Unwritable, columns_group, in_stored_order, row_bytes, to_words};
use crate::native::{NamedTensor, power};

/// Reads a layer in any of the three formats.
pub(super) fn read(layer: Spelled<'_>) -> Result<Packed, CheckpointError> {
    let info = layer.needed("weight")?;
    let [rows, columns] = layer.matrix("weight", info.dtype)?;
    let sharing = Sharing::of(layer, [rows, columns])?;
    let scale_info = layer.needed("weight_scale")?;
    let view = layer.source.tensor(&layer.name("weight_scale"))?;
    let (scale, scales) = match scale_info.dtype {
        Dtype::U8 | Dtype::F8_E8M0 => (Scale::PowerOfTwo, view.bytes().iter().map(|&byte| power(byte)).collect()),
        Dtype::F32 => (Scale::Float(FloatKind::F32), view.to_f32()?),
        Dtype::F16 => (Scale::Float(FloatKind::F16), view.to_f32()?),
        Dtype::BF16 => (Scale::Float(FloatKind::BF16), view.to_f32()?),
        _ => {
            let expected = "scales of F32, F16, BF16, F8_E8M0 or U8".to_owned();
            return Err(layer.refused("weight_scale", expected, &scale_info));
        }
    };
    let bytes = layer.tensor("weight", info.dtype, &[rows, columns])?;
    let (code, codes, zeros) = if info.dtype == Dtype::F8_E4M3 {
        layer.absent("weight_zero_point", "no zero points: E4M3 has a zero of its own")?;
        (Code::Float(Minifloat::E4M3), layer.e4m3("weight", bytes.bytes())?, None)
    } else {
        let width = said_width(layer.source).filter(|width| (1..=8).contains(width)).unwrap_or(8);
        let codes = integers(layer, "weight", bytes.bytes(), width)?;
        let zeros = match layer.info("weight_zero_point") {
            None => None,
            Some(_) => {
                let zeros = layer.tensor("weight_zero_point", Dtype::I8, &scale_info.shape)?;
                Some(sharing.spread(integers(layer, "weight_zero_point", zeros.bytes(), width)?))
            }
        };
        let bits = Bits::new(width as u8).unwrap_or_else(|| unreachable!("{width} is a width"));
        (if zeros.is_some() { Code::Affine { bits } } else { Code::Int { bits } }, codes, zeros)
    };
    let codes = in_stored_order(codes, columns, sharing.order.as_deref());
    let scheme = Scheme::new(code, sharing.group, scale);
    let scales = Scales::Float(sharing.spread(scales));
    let packed = Packed::from_codes(scheme, [rows, columns], &codes, scales, zeros, sharing.order);
    layer.packed("weight_scale", packed)
}

/// Codes of the integers in these bytes, `q + 2^(b−1)`.
fn integers(layer: Spelled<'_>, suffix: &str, bytes: &[u8], width: u32) -> Result<Vec<u16>, CheckpointError> {
    let half = 1_i16 << (width - 1);
    let fits = |byte: u8| (-half..half).contains(&i16::from(byte as i8));
    if let Some(at) = bytes.iter().position(|&byte| !fits(byte)) {
        let reason = format!("element {at} is {}, which has no {width} bits as `num_bits` says", bytes[at] as i8);
        return Err(layer.invalid(suffix, reason));
    }
    Ok(bytes.iter().map(|&byte| (i16::from(byte as i8) + half) as u16).collect())
}

/// Which weights share a scale, and how the scales of the file become those of a [`Packed`].
struct Sharing {
    group: Group,
    order: Option<Vec<u32>>,
    /// Rows in all, and those of one block; where scales are of blocks of several rows.
    blocks: Option<Blocks>,
}

#[derive(Clone, Copy)]
struct Blocks {
    rows: usize,
    height: usize,
    /// Blocks along a row.
    across: usize,
}

impl Sharing {
    fn of(layer: Spelled<'_>, [rows, columns]: [usize; 2]) -> Result<Self, CheckpointError> {
        let info = layer.needed("weight_scale")?;
        let runs = |group| Ok(Self { group, order: None, blocks: None });
        if let Some([height, width]) = said_block(layer) {
            let expected = [rows.div_ceil(height), columns.div_ceil(width)];
            if info.shape != expected {
                let expected = format!("{expected:?} for blocks of {height} by {width}");
                return Err(layer.refused("weight_scale", expected, &info));
            }
            let group = if width >= columns { Some(Group::Row) } else { columns_group(width) };
            let Some(group) = group else {
                return Err(layer.invalid("weight_scale", format!("a block of {width} columns is too wide")));
            };
            let blocks = Blocks { rows, height, across: expected[1] };
            return Ok(Self { group, order: None, blocks: Some(blocks) });
        }
        match info.shape[..] {
            [] | [1] | [1, 1] => runs(Group::Tensor),
            [count] | [count, 1] if count == rows => runs(Group::Row),
            [count, groups] if count == rows => {
                let members = match layer.info("weight_g_idx") {
                    None => None,
                    Some(_) => Some(("weight_g_idx", to_words(&layer.tensor("weight_g_idx", Dtype::I32, &[columns])?))),
                };
                let (group, order) = layer.groups("weight_scale", columns, groups, members)?;
                Ok(Self { group, order, blocks: None })
            }
            _ => Err(layer.refused("weight_scale", format!("[1], [{rows}, 1] or [{rows}, groups]"), &info)),
        }
    }

    /// Values of blocks as values of rows; others as they are.
    fn spread<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        let Some(Blocks { rows, height, across }) = self.blocks else { return values };
        (0..rows).flat_map(|row| values[row / height * across..][..across].iter().copied()).collect()
    }
}

/// The `block_structure` of the configuration.
fn said_block(layer: Spelled<'_>) -> Option<[usize; 2]> {
    let sides = said(layer.source, "block_structure")?.as_array()?;
    let side = |value: &Value| value.as_u64().and_then(|side| usize::try_from(side).ok()).filter(|side| *side > 0);
    match &sides[..] {
        [height, width] => Some([side(height)?, side(width)?]),
        _ => None,
    }
}

/// The tensors of a matrix of E4M3 in `float-quantized`.
///
/// Errors: scales that are no floats, groups that are not full, an order of columns, a code that is no number.
pub(super) fn tensors(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    let refused = |reason: String| Err(Unwritable::new(Dialect::Compressed, reason));
    let ([rows, columns], group) = (packed.shape(), packed.scheme().group);
    let Some(kind) = packed.scheme().scale.float() else {
        return refused(format!("has float scales for e4m3, and not {}", packed.scheme().scale));
    };
    if packed.scheme().minimum.is_some() || packed.parts().order.is_some() {
        return refused("has neither minimums nor an order of columns for e4m3".to_owned());
    }
    if !columns.is_multiple_of(group.size(columns)) {
        return refused(format!("has full groups for e4m3, and not {group} of {columns} columns"));
    }
    let bytes = row_bytes(&packed.parts().codes, rows, columns);
    numbers(&bytes)?;
    let mut scales = packed.scale_values();
    let shape = match group {
        Group::Tensor => vec![1],
        Group::Row | Group::Columns(_) => vec![rows, group.groups_per_row(columns)],
    };
    scales.truncate(shape.iter().product());
    let (dtype, scales) = scale_bytes(kind, &scales);
    Ok(vec![
        tensor(layer, "weight", Dtype::F8_E4M3, vec![rows, columns], bytes),
        tensor(layer, "weight_scale", dtype, shape, scales),
    ])
}
