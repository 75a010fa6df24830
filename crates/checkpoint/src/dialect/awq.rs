//! The dialect of AWQ, version "GEMM".
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.qweight` | I32 | `[in, out / 8]` | codes of 4 bits, packed along `out` |
//! | `<layer>.qzeros` | I32 | `[groups, out / 8]` | zero points of 4 bits, packed alike |
//! | `<layer>.scales` | F16 | `[groups, out]` | scales |
//!
//! Nibble `i` of word `c`, from the lowest, is output `8 c + [0, 2, 4, 6, 1, 3, 5, 7][i]`.
//!
//! ```text
//! w[o, i] = scales[i / group, o] · (q[o, i] − zero[i / group, o])
//! ```
//!
//! Source: casper-hansen/AutoAWQ, `awq/modules/linear/gemm.py`.

use quench_format::{Bits, Code, Packed, Scale, Scales, Scheme};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{Dialect, Grid, Spelled, Unwritable, group_size, halves, natural, to_words, turned, word_bytes};
use crate::native::NamedTensor;
use crate::{CheckpointError, Source};

/// The last words of a layer's tensors.
pub const TENSORS: [&str; 3] = ["qweight", "qzeros", "scales"];

/// The output that each nibble of a word belongs to.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Whether `source` has `layer` in this dialect: a word of codes for every eight outputs.
pub fn is_packed(source: &dyn Source, layer: &str) -> bool {
    let layer = Spelled { source, layer };
    let width = |suffix: &str| layer.info(suffix).and_then(|info| info.shape.get(1).copied());
    match (width("qweight"), width("qzeros"), width("scales")) {
        (Some(codes), Some(zeros), Some(scales)) => codes == zeros && codes.checked_mul(8) == Some(scales),
        _ => false,
    }
}

/// Reads a layer, always as an affine code.
///
/// Errors: a tensor missing, of the wrong type or shape, or groups that do not divide the columns; naming file and tensor.
pub fn read(source: &dyn Source, layer: &str) -> Result<Packed, CheckpointError> {
    let layer = Spelled { source, layer };
    let ([groups, rows], kind, scales) = layer.scales("scales")?;
    let [columns, words] = layer.matrix("qweight", Dtype::I32)?;
    let (group, order) = layer.groups("scales", columns, groups, None)?;
    let codes = nibbles(&to_words(&layer.tensor("qweight", Dtype::I32, &[columns, words])?));
    let zeros = nibbles(&to_words(&layer.tensor("qzeros", Dtype::I32, &[groups, words])?));
    let bits = Bits::new(4).unwrap_or_else(|| unreachable!("4 is a width"));
    let scheme = Scheme::new(Code::Affine { bits }, group, Scale::Float(kind));
    let packed = Packed::from_codes(
        scheme,
        [rows, columns],
        &turned(&codes, [columns, rows]),
        Scales::Float(turned(&scales, [groups, rows])),
        Some(turned(&zeros, [groups, rows])),
        order,
    );
    layer.packed("scales", packed)
}

/// Eight codes of each word, in the order of the outputs.
fn nibbles(words: &[u32]) -> Vec<u16> {
    let mut codes = vec![0; 8 * words.len()];
    for (word, codes) in words.iter().zip(codes.chunks_exact_mut(8)) {
        for (nibble, output) in ORDER.into_iter().enumerate() {
            codes[output] = (word >> (4 * nibble) & 15) as u16;
        }
    }
    codes
}

/// The reverse of [`nibbles`].
fn packed_words(codes: &[u16]) -> Vec<u32> {
    let word = |codes: &[u16]| {
        let nibbles = ORDER.into_iter().enumerate();
        nibbles.fold(0, |word, (nibble, output)| word | u32::from(codes[output]) << (4 * nibble))
    };
    codes.chunks_exact(8).map(word).collect()
}

/// The tensors of `packed`.
///
/// Errors: what the dialect cannot express exactly.
pub fn tensors(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    let refused = |reason: &str| Err(Unwritable::new(Dialect::Awq, reason));
    let [rows, columns] = packed.shape();
    let code = packed.scheme().code;
    if !matches!(code, Code::Int { .. } | Code::Affine { .. }) || code.bits() != 4 {
        return refused(&format!("has integers of 4 bits and not {code}"));
    }
    let (codes, None) = natural(packed) else { return refused("has no order of columns") };
    let groups = packed.scheme().group.groups_per_row(columns);
    if !rows.is_multiple_of(8) || !columns.is_multiple_of(packed.scheme().group.size(columns)) {
        return refused(&format!("needs outputs by eight and full groups, and the layer is {rows} by {columns}"));
    }
    let scales = halves(Dialect::Awq, packed)?;
    let zeros = match packed.zero_values() {
        None => vec![8; rows * groups],
        Some(zeros) => zeros.into_iter().map(|zero| zero as u16).collect(),
    };
    let words = |codes: &[u16], shape| word_bytes(packed_words(&turned(codes, shape)));
    let tensor = |suffix: &str, dtype, shape: [usize; 2], bytes| NamedTensor {
        name: format!("{layer}.{suffix}"),
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    let scales: Vec<u8> = turned(&scales, [rows, groups]).into_iter().flat_map(half::f16::to_le_bytes).collect();
    Ok(vec![
        tensor("qweight", Dtype::I32, [columns, rows / 8], words(&codes, [rows, columns])),
        tensor("qzeros", Dtype::I32, [groups, rows / 8], words(&zeros, [rows, groups])),
        tensor("scales", Dtype::F16, [groups, rows], scales),
    ])
}

/// The `quantization_config` of a checkpoint whose packed layers are all on one grid.
pub fn config(grid: Grid) -> Value {
    json!({
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": group_size(grid.scheme),
        "zero_point": true,
        "modules_to_not_convert": null,
    })
}

/// Errors: a layer in groups of another size, since the configuration has one for all.
pub(super) fn alike(rule: Grid, others: &[(&str, Grid)]) -> Result<(), Unwritable> {
    let size = |grid: Grid| group_size(grid.scheme);
    match others.iter().find(|(_, grid)| size(*grid) != size(rule)) {
        None => Ok(()),
        Some((layer, grid)) => {
            let (group, other) = (rule.scheme.group, grid.scheme.group);
            let reason =
                format!("has groups of one size for all layers, and {layer} has {other} where others have {group}");
            Err(Unwritable::new(Dialect::Awq, reason))
        }
    }
}
