//! `pack-quantized`: integers in words of 32 bits.
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.weight_packed` | I32 | `[out, words(in, b)]` | the codes, plus `2^(b−1)`, packed along `in` from the lowest bit |
//! | `<layer>.weight_scale` | F32, F16, BF16 | `[out, groups]` | scales |
//! | `<layer>.weight_shape` | I64 | `[2]` | `out`, `in` |
//! | `<layer>.weight_zero_point` | I32 | `[words(out, b), groups]` | zero points, plus `2^(b−1)`, packed along `out`; asymmetric only |
//! | `<layer>.weight_g_idx` | I32 | `[in]` | the group of each column, where they are not runs of columns; only read |
//!
//! ```text
//! w[o, i] = scale[o, g] · (q[o, i] − zero[o, g])        words(n, b) = ceil(n · b / 32)
//! ```
//!
//! Until May 2026 a word held `floor(32 / b)` codes and no code crossed words, which differs at 3, 5, 6 and 7 bits: the width of
//! the tensor tells. In August 2026 (0.19) the tool ceased to read orders of columns: its configuration refuses `actorder = "group"`, and
//! nothing looks at `weight_g_idx`. Older files have it and are read; a matrix whose groups are not runs of columns is not written.
//!
//! Source: vllm-project/compressed-tensors, `compressors/pack_quantized`.

use quench_format::{Bits, Code, Packed, Scale, Scales, Scheme, bits};
use safetensors::Dtype;

use super::{said_width, scale_bytes, tensor};
use crate::CheckpointError;
use crate::dialect::{
    Dialect, Spelled, Unwritable, in_stored_order, natural, no_minimums, to_words, turned, word_bytes,
};
use crate::native::NamedTensor;
use crate::source::words;

/// How codes lie in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// One after another, over the ends of words.
    Dense,
    /// As many as a word holds whole.
    Whole,
}

impl Packing {
    /// Words for a row of so many codes.
    fn words(self, count: usize, width: u32) -> usize {
        match self {
            Self::Dense => bits::words_per_row(count, width),
            Self::Whole => count.div_ceil((32 / width) as usize),
        }
    }

    fn unpack(self, words: &[u32], count: usize, width: u32) -> Vec<u16> {
        match self {
            Self::Dense => bits::unpack(words, count, width),
            Self::Whole => {
                let fields = 32 / width;
                let of = move |word: u32| {
                    (0..fields).map(move |field| (word >> (field * width) & ((1 << width) - 1)) as u16)
                };
                let rows = words.chunks_exact(self.words(count, width));
                rows.flat_map(|row| row.iter().flat_map(move |word| of(*word)).take(count)).collect()
            }
        }
    }
}

/// Reads a layer; one without zero points becomes a symmetric code.
///
/// Errors: a tensor missing, of the wrong type or shape, a width that shape and configuration do not tell, or groups that a
/// [`Packed`] cannot express; naming file and tensor.
pub(super) fn read(layer: Spelled<'_>) -> Result<Packed, CheckpointError> {
    let shape = layer.tensor("weight_shape", Dtype::I64, &[2])?;
    let mut shape =
        words(shape.bytes(), i64::from_le_bytes).map(|extent| usize::try_from(extent).ok().filter(|n| *n > 0));
    let (Some(Some(rows)), Some(Some(columns))) = (shape.next(), shape.next()) else {
        return Err(layer.invalid("weight_shape", "a shape has two extents above 0".to_owned()));
    };
    let [found_rows, row_words] = layer.matrix("weight_packed", Dtype::I32)?;
    let ways =
        [Packing::Dense, Packing::Whole].into_iter().flat_map(|packing| (1..=8).map(move |width| (packing, width)));
    let mut fitting = ways.filter(|(packing, width)| {
        found_rows == rows && columns <= row_words.saturating_mul(32) && packing.words(columns, *width) == row_words
    });
    let said = said_width(layer.source);
    let way = fitting.clone().find(|(_, width)| Some(*width) == said).or_else(|| {
        // At 1, 2, 4 and 8 bits both packings are one.
        let first = fitting.next()?;
        fitting.all(|(_, width)| width == first.1).then_some(first)
    });
    let Some((packing, width)) = way else {
        let reason =
            format!("[{found_rows}, {row_words}] words are no codes of one width for a matrix [{rows}, {columns}]");
        return Err(layer.invalid("weight_packed", reason));
    };
    let ([scale_rows, groups], kind, scales) = layer.scales("weight_scale")?;
    if scale_rows != rows {
        return Err(layer.invalid("weight_scale", format!("{scale_rows} rows of scales for {rows} outputs")));
    }
    let members = match layer.info("weight_g_idx") {
        None => None,
        Some(_) => Some(("weight_g_idx", to_words(&layer.tensor("weight_g_idx", Dtype::I32, &[columns])?))),
    };
    let (group, order) = layer.groups("weight_scale", columns, groups, members)?;
    let words = to_words(&layer.tensor("weight_packed", Dtype::I32, &[rows, row_words])?);
    let codes = in_stored_order(packing.unpack(&words, columns, width), columns, order.as_deref());
    let zeros = match layer.info("weight_zero_point") {
        None => None,
        Some(_) => {
            let [zero_words, _] = layer.matrix("weight_zero_point", Dtype::I32)?;
            if zero_words != packing.words(rows, width) {
                let reason = format!("{zero_words} words for zero points of {rows} outputs at {width} bits");
                return Err(layer.invalid("weight_zero_point", reason));
            }
            let words = to_words(&layer.tensor("weight_zero_point", Dtype::I32, &[zero_words, groups])?);
            let zeros = packing.unpack(&turned(&words, [zero_words, groups]), rows, width);
            Some(turned(&zeros, [groups, rows]))
        }
    };
    let bits = Bits::new(width as u8).unwrap_or_else(|| unreachable!("{width} is a width"));
    let code = if zeros.is_some() { Code::Affine { bits } } else { Code::Int { bits } };
    let scheme = Scheme::new(code, group, Scale::Float(kind));
    let packed = Packed::from_codes(scheme, [rows, columns], &codes, Scales::Float(scales), zeros, order);
    layer.packed("weight_scale", packed)
}

/// The tensors of `packed`.
///
/// Errors: what the dialect cannot express exactly.
pub(super) fn tensors(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    let refused = |reason: String| Unwritable::new(Dialect::Compressed, reason);
    let [rows, columns] = packed.shape();
    let code = packed.scheme().code;
    let width = code.bits();
    if !matches!(code, Code::Int { .. } | Code::Affine { .. }) || !(2..=8).contains(&width) {
        return Err(refused(format!("packs integers of 2 to 8 bits and not {code}")));
    }
    no_minimums(Dialect::Compressed, packed)?;
    let Scale::Float(kind) = packed.scheme().scale else {
        return Err(refused("has scales that are floats for integers, and no others".to_owned()));
    };
    let groups = packed.scheme().group.groups_per_row(columns);
    let (codes, None) = natural(packed) else {
        // Files with `weight_g_idx` say `actorder = "group"`; without it 0.19 would not look at the tensor, and read other weights.
        return Err(refused("has no order of columns since version 0.19 of the tool".to_owned()));
    };
    let tensor = |suffix, dtype, shape, bytes| tensor(layer, suffix, dtype, shape, bytes);
    let words = bits::pack(&codes, columns, width);
    let (dtype, scales) = scale_bytes(kind, &packed.scale_values());
    let shape = [rows as i64, columns as i64].into_iter().flat_map(i64::to_le_bytes).collect();
    let mut tensors = vec![
        tensor("weight_packed", Dtype::I32, vec![rows, words.len() / rows], word_bytes(words)),
        tensor("weight_scale", dtype, vec![rows, groups], scales),
        tensor("weight_shape", Dtype::I64, vec![2], shape),
    ];
    if let Some(zeros) = packed.zero_values() {
        let zeros: Vec<u16> = zeros.into_iter().map(|zero| zero as u16).collect();
        let words = bits::pack(&turned(&zeros, [rows, groups]), rows, width);
        let zero_words = words.len() / groups;
        let bytes = word_bytes(turned(&words, [groups, zero_words]));
        tensors.push(tensor("weight_zero_point", Dtype::I32, vec![zero_words, groups], bytes));
    }
    Ok(tensors)
}
