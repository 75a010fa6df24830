//! The 4-bit dialect of bitsandbytes: NF4 and FP4, only read.
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.weight` | any, of whole bytes | `out · in / 2` bytes | codes of the flattened matrix, the even one in the upper half |
//! | `<layer>.weight.absmax` | F32 | `[blocks]` | one scale for `blocksize` weights of the flattened matrix |
//! | `<layer>.weight.absmax` | U8 | `[blocks]` | double quantization: the codes of the scales |
//! | `<layer>.weight.nested_absmax` | F32 | `[nested blocks]` | double quantization: one scale for `nested_blocksize` of those |
//! | `<layer>.weight.nested_quant_map` | F32 | `[256]` | double quantization: what their codes stand for |
//! | `<layer>.weight.quant_map` | F32 | `[16]` | what the codes stand for |
//! | `<layer>.weight.quant_state.bitsandbytes__nf4` or `__fp4` | U8 | any | JSON: type, block sizes, shape, `nested_offset` |
//!
//! ```text
//! w[n] = quant_map[q[n]] · absmax[n / blocksize]                                                        n = o · in + i
//! absmax[k] = nested_quant_map[c[k]] · nested_absmax[k / nested_blocksize] + nested_offset
//! ```
//!
//! in f32, rounded at each operation, as the tool computes it. Scales that are double-quantized become those f32: the offset is
//! added to them, which no nested scheme does. The matrix is `nf4/64/f32` then, and takes 4.5 bits a weight, not 4.127.
//!
//! Blocks run over the flattened matrix. They are groups of a [`Packed`] where a row is whole blocks, or a block is whole rows. A
//! matrix of other blocks, and one in FP4, whose least level (1/192 of the largest) is that of no code here, are [decoded](super::decoded).
//!
//! Source: bitsandbytes-foundation/bitsandbytes, `functional.py` (`QuantState`), `backends/default/ops.py`. Its kernel for the CPU
//! (0.50.2) takes other scales where a block goes over the end of a row; that for GPUs and `backends/default` are followed here.

use std::fmt;

use quench_format::{Code, FloatKind, Group, Packed, Scale, Scales, Scheme};
use safetensors::Dtype;
use serde::Deserialize;

use super::{Spelled, columns_group};
use crate::{CheckpointError, Source};

/// The last words of a layer's tensors.
pub const TENSORS: [&str; 7] = [WEIGHT, ABSMAX, NESTED_ABSMAX, NESTED_MAP, MAP, STATES[0], STATES[1]];

const WEIGHT: &str = "weight";
const ABSMAX: &str = "weight.absmax";
const MAP: &str = "weight.quant_map";
const NESTED_ABSMAX: &str = "weight.nested_absmax";
const NESTED_MAP: &str = "weight.nested_quant_map";
const STATES: [&str; 2] = ["weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4"];

/// The levels of FP4, by code: 0, 1/16, 8, 12, 4, 6, 2, 3 twelfths, then their negatives.
const TWELFTHS: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];

/// What the JSON says; the type in which the tool would compute is not of interest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    quant_type: Kind,
    blocksize: usize,
    #[serde(rename = "dtype")]
    _dtype: String,
    shape: [usize; 2],
    nested_blocksize: Option<usize>,
    #[serde(rename = "nested_dtype")]
    _nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Nf4,
    Fp4,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nf4 => "NF4",
            Self::Fp4 => "FP4",
        })
    }
}

impl Kind {
    /// `[16]`, by code.
    fn levels(self) -> Vec<f32> {
        match self {
            Self::Nf4 => Code::Normal4.levels(),
            Self::Fp4 => [1.0, -1.0].into_iter().flat_map(|sign| TWELFTHS.map(|level| sign * (level / 12.0))).collect(),
        }
    }
}

impl State {
    /// Checks what it says against the tensors beside it, reading only itself and the table of levels.
    fn of(layer: Spelled<'_>) -> Result<Self, CheckpointError> {
        let name = STATES.into_iter().find(|state| layer.info(state).is_some()).unwrap_or(STATES[0]);
        let info = layer.needed(name)?;
        if info.dtype != Dtype::U8 {
            return Err(layer.refused(name, "bytes of JSON".to_owned(), &info));
        }
        let view = layer.source.tensor(&layer.name(name))?;
        let state: Self =
            serde_json::from_slice(view.bytes()).map_err(|error| layer.invalid(name, error.to_string()))?;
        let [rows, columns] = state.shape;
        let count = rows.checked_mul(columns).filter(|count| *count > 0);
        let bytes = layer.source.tensor(&layer.name(WEIGHT))?.bytes().len();
        if state.blocksize == 0 || count.is_none_or(|count| count.div_ceil(2) != bytes) {
            let (block, shape) = (state.blocksize, state.shape);
            let reason = format!("{bytes} bytes are no codes of 4 bits for a matrix {shape:?} in blocks of {block}");
            return Err(layer.invalid(WEIGHT, reason));
        }
        let found = layer.tensor(MAP, Dtype::F32, &[16])?.to_f32()?;
        if found != state.quant_type.levels() {
            return Err(layer.invalid(MAP, format!("these are not the levels of {}", state.quant_type)));
        }
        Ok(state)
    }

    /// The groups of a [`Packed`] that its blocks are, where they are any.
    fn group(&self) -> Option<Group> {
        let columns = self.shape[1];
        match () {
            () if self.quant_type != Kind::Nf4 => None,
            // One block may be a part of one row, which is shorter than it.
            () if self.blocksize.is_multiple_of(columns) || self.blocksize >= self.shape[0] * columns => {
                Some(Group::Row)
            }
            () if columns.is_multiple_of(self.blocksize) => columns_group(self.blocksize),
            () => None,
        }
    }

    /// The scale of each block.
    fn absmax(&self, layer: Spelled<'_>) -> Result<Vec<f32>, CheckpointError> {
        let blocks = (self.shape[0] * self.shape[1]).div_ceil(self.blocksize);
        let (size, offset) = match (self.nested_blocksize, self.nested_offset) {
            (None, None) => return layer.tensor(ABSMAX, Dtype::F32, &[blocks])?.to_f32(),
            (Some(size), Some(offset)) if size > 0 => (size, offset as f32),
            _ => {
                let reason = "its JSON needs both `nested_blocksize` and `nested_offset`, or neither".to_owned();
                return Err(layer.invalid(ABSMAX, reason));
            }
        };
        let codes = layer.tensor(ABSMAX, Dtype::U8, &[blocks])?;
        let levels = layer.tensor(NESTED_MAP, Dtype::F32, &[256])?.to_f32()?;
        let outer = layer.tensor(NESTED_ABSMAX, Dtype::F32, &[blocks.div_ceil(size)])?.to_f32()?;
        let codes = codes.bytes().iter().enumerate();
        Ok(codes.map(|(block, &code)| levels[usize::from(code)] * outer[block / size] + offset).collect())
    }

    /// The codes of the flattened matrix.
    fn codes(&self, layer: Spelled<'_>) -> Result<Vec<u16>, CheckpointError> {
        let view = layer.source.tensor(&layer.name(WEIGHT))?;
        let halves = view.bytes().iter().flat_map(|&byte| [byte >> 4, byte & 15].map(u16::from));
        Ok(halves.take(self.shape[0] * self.shape[1]).collect())
    }
}

/// Whether `source` has `layer` in this dialect.
pub fn is_packed(source: &dyn Source, layer: &str) -> bool {
    let layer = Spelled { source, layer };
    [WEIGHT, ABSMAX].into_iter().all(|tensor| layer.info(tensor).is_some())
        && STATES.into_iter().any(|state| layer.info(state).is_some())
}

/// Reads a layer in NF4 whose blocks are groups.
///
/// Errors: a tensor missing, of the wrong type or shape; JSON that says something else than the tensors do, or something unknown;
/// levels that are not NF4's; blocks that are no groups; naming file and tensor.
pub fn read(source: &dyn Source, layer: &str) -> Result<Packed, CheckpointError> {
    let layer = Spelled { source, layer };
    let state = State::of(layer)?;
    let [rows, columns] = state.shape;
    let Some(group) = state.group() else {
        let (kind, block) = (state.quant_type, state.blocksize);
        let reason =
            format!("{kind} in blocks of {block} weights over rows of {columns} has no scheme: it can be read decoded");
        return Err(layer.invalid(WEIGHT, reason));
    };
    let absmax = state.absmax(layer)?;
    let scales = match group {
        Group::Tensor | Group::Row => (0..rows).map(|row| absmax[row * columns / state.blocksize]).collect(),
        Group::Columns(_) => absmax,
    };
    let scheme = Scheme::new(Code::Normal4, group, Scale::Float(FloatKind::F32));
    let codes = state.codes(layer)?;
    let packed = Packed::from_codes(scheme, [rows, columns], &codes, Scales::Float(scales), None, None);
    layer.packed(ABSMAX, packed)
}

/// The shape of a layer that [`read`] refuses for its blocks or its levels, and [`decode`] does not.
pub(super) fn decoded_shape(source: &dyn Source, layer: &str) -> Option<[usize; 2]> {
    // Whatever is wrong with it, whoever reads it is told.
    let state = State::of(Spelled { source, layer }).ok()?;
    state.group().is_none().then_some(state.shape)
}

/// The weights of a layer, `[out, in]`, whatever its blocks and levels.
///
/// Errors: as [`read`], but for blocks and levels.
pub fn decode(source: &dyn Source, layer: &str) -> Result<Vec<f32>, CheckpointError> {
    let layer = Spelled { source, layer };
    let state = State::of(layer)?;
    let (levels, absmax) = (state.quant_type.levels(), state.absmax(layer)?);
    let codes = state.codes(layer)?;
    let blocks = codes.chunks(state.blocksize).zip(absmax);
    Ok(blocks
        .flat_map(|(codes, scale)| codes.iter().map(|&code| levels[usize::from(code)] * scale).collect::<Vec<_>>())
        .collect())
}
