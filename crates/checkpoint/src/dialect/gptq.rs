//! The dialect of GPTQ, as GPTQModel, AutoGPTQ and AutoRound write it.
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.qweight` | I32 | `[in · b / 32, out]` | the codes, packed along `in` from the lowest bit |
//! | `<layer>.qzeros` | I32 | `[groups, out · b / 32]` | the zero points, packed along `out`; less one in version 1 |
//! | `<layer>.scales` | F16 | `[groups, out]` | scales |
//! | `<layer>.g_idx` | I32 | `[in]` | the group of each column; may be absent where groups are runs of columns |
//!
//! ```text
//! w[o, i] = scales[g_idx[i], o] · (q[o, i] − zero[g_idx[i], o])
//! ```
//!
//! Which version a file is in is told by `checkpoint_format` (`gptq`, the default, or `gptq_v2`), and there are files that tell it
//! wrongly. Where all zero points of a layer are equal they tell it themselves: `2^(b−1) − 1` is version 1 of a symmetric grid,
//! `2^(b−1)` is version 2. Version 1 subtracts from whole words, so that a zero point of 0 borrows from its neighbour; it is read
//! in the same way.
//!
//! A third `checkpoint_format`, `gptq_p`, keeps the bits of a code in several words ([`planes`]), has 5, 6 and 7 bits too, and zero
//! points as they are. Its tensors have the same names and shapes; files of 5, 6 and 7 bits are in no other format.
//!
//! Source: ModelCloud/GPTQModel, `nn_modules/qlinear`, `convert_gptq_v1_to_v2_format_module`, `utils/planar_packing.py`.

pub mod planes;

use quench_format::{Bits, Code, Packed, Scale, Scales, Scheme, bits};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{
    Dialect, Grid, Spelled, Unwritable, group_size, halves, in_stored_order, natural, to_words, turned, word_bytes,
};
use crate::native::NamedTensor;
use crate::{CheckpointError, Source};

/// The last words of a layer's tensors.
pub const TENSORS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

/// The widths of versions 1 and 2.
const WIDTHS: [u32; 4] = [2, 3, 4, 8];

/// What a file says of how its codes lie in words, and of its zero points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// Zero points less one.
    First,
    Second,
    /// Codes in planes.
    Planar,
}

impl Version {
    fn said(source: &dyn Source) -> Self {
        match source.quantization().and_then(|config| config.get("checkpoint_format")).and_then(Value::as_str) {
            Some("gptq_v2") => Self::Second,
            Some("gptq_p") => Self::Planar,
            _ => Self::First,
        }
    }

    /// The version of a layer of this width.
    fn of(source: &dyn Source, width: u32) -> Self {
        if WIDTHS.contains(&width) { Self::said(source) } else { Self::Planar }
    }

    /// Codes, so many in a row, of rows of words.
    fn unpack(self, words: &[u32], count: usize, width: u32) -> Vec<u16> {
        match self {
            Self::First | Self::Second => bits::unpack(words, count, width),
            Self::Planar => planes::unpack(words, width),
        }
    }
}

/// Whether `source` has `layer` in this dialect: words of codes for every output.
pub fn is_packed(source: &dyn Source, layer: &str) -> bool {
    let layer = Spelled { source, layer };
    let width = |suffix: &str| layer.info(suffix).and_then(|info| info.shape.get(1).copied());
    layer.info("qzeros").is_some() && width("qweight").is_some() && width("qweight") == width("scales")
}

/// Reads a layer; a symmetric one becomes a symmetric code.
///
/// Errors: a tensor missing, of the wrong type or shape, or groups that a [`Packed`] cannot express; naming file and tensor.
pub fn read(source: &dyn Source, layer: &str) -> Result<Packed, CheckpointError> {
    let layer = Spelled { source, layer };
    let ([groups, rows], kind, scales) = layer.scales("scales")?;
    let [depth, _] = layer.matrix("qweight", Dtype::I32)?;
    let [_, zero_words] = layer.matrix("qzeros", Dtype::I32)?;
    // The width follows from the shapes, and then the columns.
    let width = (2..=8).find(|width| rows * *width as usize == zero_words * 32);
    let Some(width) = width.filter(|width| (depth * 32).is_multiple_of(*width as usize)) else {
        let reason = format!("{zero_words} words of zero points for {rows} outputs are not of 2 to 8 bits");
        return Err(layer.invalid("qzeros", reason));
    };
    let (columns, version) = (depth * 32 / width as usize, Version::of(source, width));
    if version == Version::Planar && !(rows.is_multiple_of(32) && columns.is_multiple_of(32)) {
        let reason = format!(
            "planes of bits have 32 codes in a block, and {columns} inputs and {rows} outputs do not fill blocks"
        );
        return Err(layer.invalid("qweight", reason));
    }
    let members = match layer.info("g_idx") {
        None => None,
        Some(_) => Some(("g_idx", to_words(&layer.tensor("g_idx", Dtype::I32, &[columns])?))),
    };
    let (group, order) = layer.groups("scales", columns, groups, members)?;

    let words = to_words(&layer.tensor("qweight", Dtype::I32, &[depth, rows])?);
    let codes = version.unpack(&turned(&words, [depth, rows]), columns, width);
    let codes = in_stored_order(codes, columns, order.as_deref());
    let words = to_words(&layer.tensor("qzeros", Dtype::I32, &[groups, zero_words])?);
    let zeros = turned(&zeros(&words, rows, width, version), [groups, rows]);
    let half = 1u16 << (width - 1);
    let symmetric = zeros.iter().all(|zero| *zero == half);
    let bits = Bits::new(width as u8).unwrap_or_else(|| unreachable!("{width} is a width"));
    let code = if symmetric { Code::Int { bits } } else { Code::Affine { bits } };
    let scheme = Scheme::new(code, group, Scale::Float(kind));
    let scales = Scales::Float(turned(&scales, [groups, rows]));
    let packed = Packed::from_codes(scheme, [rows, columns], &codes, scales, (!symmetric).then_some(zeros), order);
    layer.packed("scales", packed)
}

/// True zero points, `[groups, rows]`, of words `[groups, rows · width / 32]`.
fn zeros(words: &[u32], rows: usize, width: u32, version: Version) -> Vec<u16> {
    let half = 1u16 << (width - 1);
    let stored = version.unpack(words, rows, width);
    let second = match stored.first() {
        _ if version == Version::Planar => true,
        Some(&first) if (first == half || first == half - 1) && stored.iter().all(|zero| *zero == first) => {
            first == half
        }
        _ => version == Version::Second,
    };
    if second {
        return stored;
    }
    if width == 3 {
        // Its fields straddle words, and no tool borrows over them.
        return stored.into_iter().map(|zero| (zero + 1) % 8).collect();
    }
    let words: Vec<u32> = words.iter().map(|word| word.wrapping_add(ones(width))).collect();
    bits::unpack(&words, rows, width)
}

/// A word with 1 in every field.
fn ones(width: u32) -> u32 {
    (0..32 / width).fold(0, |word, field| word | 1 << (field * width))
}

/// The tensors of `packed`: a symmetric grid in version 1, which every tool reads, and zero points in version 2. Version 1 has no
/// place for a zero point of 0, and GPTQModel loads zero points in version 1 only from files of its own.
///
/// Errors: what the dialect cannot express exactly.
pub fn tensors(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    let refused = |reason: String| Unwritable::new(Dialect::Gptq, reason);
    let [rows, columns] = packed.shape();
    let code = packed.scheme().code;
    let width = code.bits();
    if !matches!(code, Code::Int { .. } | Code::Affine { .. }) || !WIDTHS.contains(&width) {
        return Err(refused(format!("has integers of 2, 3, 4 and 8 bits and not {code}")));
    }
    for (what, extent) in [("inputs", columns), ("outputs", rows)] {
        if !(extent * width as usize).is_multiple_of(32) {
            return Err(refused(format!("fills whole words, and {extent} {what} of {width} bits do not")));
        }
    }
    let groups = packed.scheme().group.groups_per_row(columns);
    let scales = halves(Dialect::Gptq, packed)?;
    let (codes, members) = natural(packed);
    let size = packed.scheme().group.size(columns);
    let members = members.unwrap_or_else(|| (0..columns).map(|column| (column / size) as u32).collect());
    let zeros = match packed.zero_values() {
        // One less than the middle, in version 1.
        None => vec![(1u16 << (width - 1)) - 1; rows * groups],
        Some(zeros) => zeros.into_iter().map(|zero| zero as u16).collect(),
    };
    let zero_words = bits::pack(&turned(&zeros, [rows, groups]), rows, width);
    let words = bits::pack(&codes, columns, width);
    let depth = words.len() / rows;
    let tensor = |suffix: &str, dtype, shape: Vec<usize>, bytes| NamedTensor {
        name: format!("{layer}.{suffix}"),
        dtype,
        shape,
        bytes,
    };
    let scales: Vec<u8> = turned(&scales, [rows, groups]).into_iter().flat_map(half::f16::to_le_bytes).collect();
    Ok(vec![
        tensor("qweight", Dtype::I32, vec![depth, rows], word_bytes(turned(&words, [rows, depth]))),
        tensor("qzeros", Dtype::I32, vec![groups, zero_words.len() / groups], word_bytes(zero_words)),
        tensor("scales", Dtype::F16, vec![groups, rows], scales),
        tensor("g_idx", Dtype::I32, vec![columns], word_bytes(members)),
    ])
}

/// What other tools have to know of a layer to read it, by the names that the configuration has for it.
fn settings(grid: Grid) -> Value {
    json!({
        "bits": grid.scheme.code.bits(),
        "group_size": group_size(grid.scheme),
        "sym": !grid.scheme.code.is_affine(),
        "desc_act": grid.ordered,
    })
}

/// The `quantization_config` of a checkpoint whose packed layers are all on one grid, which other tools need to read it.
pub fn config(grid: Grid) -> Value {
    let mut config = json!({
        "quant_method": "gptq",
        "checkpoint_format": if grid.scheme.code.is_affine() { "gptq_v2" } else { "gptq" },
        "lm_head": false,
        "pack_dtype": "int32",
        "true_sequential": true,
        "meta": { "quantizer": [format!("quench:{}", env!("CARGO_PKG_VERSION"))] },
    });
    merge(&mut config, settings(grid));
    config
}

/// Says in a configuration that the head is packed too, which readers look for nowhere else.
pub(super) fn with_head(config: &mut Value) {
    config["lm_head"] = true.into();
}

/// Adds to a configuration what is different in some layers: `dynamic`, by patterns of names.
///
/// Errors: layers with zero points among others without, of which the one are in version 2 and the others in version 1.
///
/// Source: ModelCloud/GPTQModel, `quantization/config.py`, `QuantizeConfig.dynamic`.
pub(super) fn except(config: &mut Value, rule: Grid, others: &[(&str, Grid)]) -> Result<(), Unwritable> {
    let mut dynamic = serde_json::Map::new();
    for (layer, grid) in others {
        if grid.scheme.code.is_affine() != rule.scheme.code.is_affine() {
            let with = if grid.scheme.code.is_affine() { "has" } else { "has no" };
            let reason = format!("has zero points in all layers or in none, and {layer} {with} zero points");
            return Err(Unwritable::new(Dialect::Gptq, reason));
        }
        dynamic.insert(format!("+:{}$", layer.replace('.', "\\.")), settings(*grid));
    }
    config["dynamic"] = dynamic.into();
    Ok(())
}

/// Adds the keys of one object to another.
fn merge(config: &mut Value, more: Value) {
    if let (Value::Object(config), Value::Object(more)) = (config, more) {
        config.extend(more);
    }
}
