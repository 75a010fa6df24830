//! How other tools spell a packed matrix: recognised by its tensors, read as what a [`Packed`] is, and written exactly or not
//! at all.
//!
//! | dialect | a layer's tensors | who writes and reads it |
//! | --- | --- | --- |
//! | [`gptq`] | `qweight`, `qzeros`, `scales`, `g_idx` | GPTQModel, AutoGPTQ, AutoRound, vLLM, transformers |
//! | [`awq`] | `qweight`, `qzeros`, `scales` | AutoAWQ, vLLM, transformers |
//! | [`compressed`] | `weight_packed` or `weight`, `weight_scale` | llm-compressor, vLLM, transformers |
//! | [`bitsandbytes`] | `weight`, `weight.absmax`, `weight.quant_state.*` | bitsandbytes, transformers; only read |
//! | [`gguf`] | one, in blocks, named for their type: `q4_k` | llama.cpp, in files of its own: [`crate::gguf`] |
//! | [`exl3`] | `trellis`, `suh`, `svh` | exllamav3; only read, and [`decoded`] |
//!
//! Our own is [`native`]. `docs/checkpoint.md` has every shape and bit order.

#[cfg(test)]
mod attacks;
pub mod awq;
pub mod bitsandbytes;
pub mod compressed;
pub mod decoded;
pub mod exl3;
pub mod gguf;
#[cfg(test)]
mod golden;
pub mod gptq;
mod grid;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

use std::fmt;

use quench_format::{FloatKind, FormatError, Group, Packed, Scale, Scales, Scheme};
use safetensors::Dtype;
use serde_json::{Value, json};

pub use grid::Grid;

use crate::native::NamedTensor;
use crate::source::{TensorInfo, words};
use crate::{CheckpointError, FORMAT_VERSION, Source, TensorView, native};

/// A way to spell a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Our own.
    Native,
    /// That of GPTQ, zero points stored less one (v1) or as they are (v2).
    Gptq,
    /// That of AWQ, for the product with whole matrices ("GEMM").
    Awq,
    /// That of compressed-tensors, in the format that the scheme asks for.
    Compressed,
    /// NF4 of bitsandbytes; only read.
    Bitsandbytes,
    /// Blocks of llama.cpp.
    Gguf,
}

impl Dialect {
    /// The dialect in which `source` has `layer`, by the names and shapes of its tensors; `None` where it is dense or absent.
    pub fn of(source: &dyn Source, layer: &str) -> Option<Self> {
        if native::is_packed(source, layer) {
            return Some(Self::Native);
        }
        if compressed::is_packed(source, layer) {
            return Some(Self::Compressed);
        }
        if bitsandbytes::is_packed(source, layer) {
            return Some(Self::Bitsandbytes);
        }
        if gguf::is_packed(source, layer) {
            return Some(Self::Gguf);
        }
        if awq::is_packed(source, layer) {
            return Some(Self::Awq);
        }
        gptq::is_packed(source, layer).then_some(Self::Gptq)
    }

    /// The names of the tensors that spell `layer`; some of them may be absent.
    pub fn tensors(self, source: &dyn Source, layer: &str) -> Result<Vec<String>, CheckpointError> {
        let named = |suffixes: &[&str]| suffixes.iter().map(|suffix| format!("{layer}.{suffix}")).collect();
        match self {
            Self::Native => Ok(native::names(source, layer)?.unwrap_or_default()),
            Self::Gptq => Ok(named(&gptq::TENSORS)),
            Self::Awq => Ok(named(&awq::TENSORS)),
            Self::Compressed => Ok(named(&compressed::TENSORS)),
            Self::Bitsandbytes => Ok(named(&bitsandbytes::TENSORS)),
            Self::Gguf => Ok(gguf::name(source, layer).into_iter().collect()),
        }
    }

    /// The tensors that spell `packed` as `layer`.
    ///
    /// Errors: what the dialect cannot express exactly.
    pub fn write(self, layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
        match self {
            Self::Native => Ok(native::tensors(layer, packed)),
            Self::Gptq => gptq::tensors(layer, packed),
            Self::Awq => awq::tensors(layer, packed),
            Self::Compressed => compressed::tensors(layer, packed),
            Self::Bitsandbytes => Err(Unwritable::new(self, "is only read")),
            Self::Gguf => gguf::tensors(layer, packed),
        }
    }

    /// The `quantization_config` of a checkpoint whose packed layers are all on one grid; [`Dialect::config_of`] has that of several.
    ///
    /// - `dense`: the matrices that are not packed
    pub fn config(self, grid: impl Into<Grid>, dense: &[String]) -> Value {
        let grid = grid.into();
        match self {
            Self::Native => json!({ "quant_method": "quench", "format_version": FORMAT_VERSION }),
            Self::Gptq => gptq::config(grid),
            Self::Awq => awq::config(grid),
            Self::Compressed => compressed::config(grid, dense),
            Self::Bitsandbytes => json!({ "quant_method": "bitsandbytes" }),
            Self::Gguf => json!({ "quant_method": "gguf" }),
        }
    }
}

/// `quench`, `gptq`, `awq`, `compressed-tensors`, `bitsandbytes`, `gguf`.
impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "quench",
            Self::Gptq => "gptq",
            Self::Awq => "awq",
            Self::Compressed => "compressed-tensors",
            Self::Bitsandbytes => "bitsandbytes",
            Self::Gguf => "gguf",
        })
    }
}

/// Reads a packed layer in whichever dialect `source` has it; `None` where it is dense or absent.
///
/// Errors: as those of the dialects.
pub fn read(source: &dyn Source, layer: &str) -> Result<Option<Packed>, CheckpointError> {
    match Dialect::of(source, layer) {
        None => Ok(None),
        Some(Dialect::Native) => native::read(source, layer),
        Some(Dialect::Gptq) => gptq::read(source, layer).map(Some),
        Some(Dialect::Awq) => awq::read(source, layer).map(Some),
        Some(Dialect::Compressed) => compressed::read(source, layer).map(Some),
        Some(Dialect::Bitsandbytes) => bitsandbytes::read(source, layer).map(Some),
        Some(Dialect::Gguf) => gguf::read(source, layer).map(Some),
    }
}

/// Every layer that `source` has packed, in any dialect, sorted.
pub fn layers(source: &dyn Source) -> Vec<String> {
    let mut layers: Vec<String> = source.manifest().layers.keys().cloned().collect();
    let own = ["qweight", "weight_packed", "weight_scale", "weight.absmax"].map(str::to_owned);
    let marks: Vec<String> = own.into_iter().chain(gguf::suffixes()).map(|mark| format!(".{mark}")).collect();
    let of = |name: &'_ str| marks.iter().find_map(|mark| name.strip_suffix(mark.as_str())).map(str::to_owned);
    let marked = source.names().into_iter().filter_map(of);
    layers.extend(marked.filter(|layer| Dialect::of(source, layer).is_some()));
    layers.sort_unstable();
    layers.dedup();
    layers
}

/// Why a packed matrix cannot be written in a dialect without a loss.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{dialect} {reason}")]
pub struct Unwritable {
    /// The dialect.
    pub dialect: Dialect,
    /// What it lacks, in words that follow its name.
    pub reason: String,
}

impl Unwritable {
    fn new(dialect: Dialect, reason: impl Into<String>) -> Self {
        Self { dialect, reason: reason.into() }
    }
}

/// One layer of a source under inspection: errors name file and tensor.
#[derive(Clone, Copy)]
struct Spelled<'a> {
    source: &'a dyn Source,
    layer: &'a str,
}

impl Spelled<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.layer)
    }

    fn info(&self, suffix: &str) -> Option<TensorInfo> {
        self.source.info(&self.name(suffix))
    }

    /// Type and shape of a tensor that must be there.
    fn needed(&self, suffix: &str) -> Result<TensorInfo, CheckpointError> {
        let missing =
            || CheckpointError::MissingTensor { path: self.source.path().to_owned(), tensor: self.name(suffix) };
        self.info(suffix).ok_or_else(missing)
    }

    /// The extents of a matrix of `dtype`, none of them 0: so each is at most what the file has bytes for.
    fn matrix(&self, suffix: &str, dtype: Dtype) -> Result<[usize; 2], CheckpointError> {
        let info = self.needed(suffix)?;
        match (<[usize; 2]>::try_from(info.shape.as_slice()), info.dtype == dtype) {
            (Ok(shape), true) if !shape.contains(&0) => Ok(shape),
            _ => Err(self.refused(suffix, format!("a matrix of {dtype}"), &info)),
        }
    }

    /// A tensor of exactly this type and shape.
    fn tensor(&self, suffix: &str, dtype: Dtype, shape: &[usize]) -> Result<TensorView, CheckpointError> {
        let info = self.needed(suffix)?;
        if info.dtype != dtype || info.shape != shape {
            return Err(self.refused(suffix, format!("{dtype} {shape:?}"), &info));
        }
        self.source.tensor(&self.name(suffix))
    }

    fn refused(&self, suffix: &str, expected: String, found: &TensorInfo) -> CheckpointError {
        self.invalid(suffix, format!("expected {expected}, found {} {:?}", found.dtype, found.shape))
    }

    fn invalid(&self, suffix: &str, reason: String) -> CheckpointError {
        CheckpointError::Foreign { path: self.source.path().to_owned(), tensor: self.name(suffix), reason }
    }

    /// What [`Packed`] refuses, as an error about a tensor.
    fn packed(&self, suffix: &str, packed: Result<Packed, FormatError>) -> Result<Packed, CheckpointError> {
        packed.map_err(|error| self.invalid(suffix, error.to_string()))
    }

    /// Scales of any float type: their values, `[rows, columns]`, and their kind.
    fn scales(&self, suffix: &str) -> Result<([usize; 2], FloatKind, Vec<f32>), CheckpointError> {
        let info = self.needed(suffix)?;
        let kind = match info.dtype {
            Dtype::F32 => FloatKind::F32,
            Dtype::F16 => FloatKind::F16,
            Dtype::BF16 => FloatKind::BF16,
            _ => return Err(self.refused(suffix, "a matrix of F32, F16 or BF16".to_owned(), &info)),
        };
        let shape = self.matrix(suffix, info.dtype)?;
        Ok((shape, kind, self.source.tensor(&self.name(suffix))?.to_f32()?))
    }

    /// The only element of a tensor of F32.
    fn scalar(&self, suffix: &str) -> Result<f32, CheckpointError> {
        let info = self.needed(suffix)?;
        let one = info.dtype == Dtype::F32 && info.shape.iter().all(|&extent| extent == 1);
        let value = if one { self.source.tensor(&self.name(suffix))?.to_f32()?.pop() } else { None };
        value.ok_or_else(|| self.refused(suffix, "one element of F32".to_owned(), &info))
    }

    /// The codes of E4M3 numbers, of which none may be not a number.
    fn e4m3(&self, suffix: &str, bytes: &[u8]) -> Result<Vec<u16>, CheckpointError> {
        match bytes.iter().position(|byte| byte & 0x7f == 0x7f) {
            None => Ok(bytes.iter().map(|&byte| u16::from(byte)).collect()),
            Some(at) => Err(self.invalid(suffix, format!("element {at} is not a number"))),
        }
    }

    /// Errors where there is a tensor that has no meaning here.
    fn absent(&self, suffix: &str, why: &str) -> Result<(), CheckpointError> {
        match self.info(suffix) {
            None => Ok(()),
            Some(_) => Err(self.invalid(suffix, format!("expected {why}"))),
        }
    }

    /// Who shares a scale, where a row has `groups` of them; and the order of the columns, where groups are not runs of them.
    ///
    /// - `scales`: the tensor that errors name
    /// - `members`: the group of each column, where the file says it
    fn groups(
        &self,
        scales: &str,
        columns: usize,
        groups: usize,
        members: Option<(&str, Vec<u32>)>,
    ) -> Result<(Group, Option<Vec<u32>>), CheckpointError> {
        let Some((suffix, members)) = members else {
            let size = match groups {
                0 => return Err(self.invalid(scales, "there is no scale".to_owned())),
                1 => return Ok((Group::Row, None)),
                // Without a word about it, all groups are full; the last one may be shorter where the configuration says so.
                _ => self
                    .said_size()
                    .filter(|size| columns.div_ceil(*size) == groups)
                    .or_else(|| columns.is_multiple_of(groups).then(|| columns / groups)),
            };
            return match size.and_then(columns_group) {
                Some(group) => Ok((group, None)),
                None => Err(self.invalid(scales, format!("{groups} groups do not divide {columns} columns"))),
            };
        };
        let mut sizes = vec![0usize; groups];
        for (column, &group) in members.iter().enumerate() {
            match sizes.get_mut(group as usize) {
                Some(size) => *size += 1,
                None => return Err(self.invalid(suffix, format!("column {column} is in group {group} of {groups}"))),
            }
        }
        let full = sizes.first().copied().unwrap_or(0);
        let fits = sizes
            .iter()
            .enumerate()
            .all(|(index, &size)| if index + 1 < groups { size == full } else { size > 0 && size <= full });
        let Some(group) = columns_group(full).filter(|_| fits) else {
            return Err(
                self.invalid(suffix, format!("groups of {sizes:?} columns; all but the last must be of one size"))
            );
        };
        let mut order: Vec<u32> = (0..members.len() as u32).collect();
        order.sort_by_key(|&column| members[column as usize]);
        let natural = order.iter().enumerate().all(|(at, &column)| at == column as usize);
        Ok((if groups == 1 { Group::Row } else { group }, (!natural).then_some(order)))
    }

    /// The `group_size` of the configuration.
    fn said_size(&self) -> Option<usize> {
        let config = self.source.quantization()?;
        let own = config.get("group_size");
        let groups = config.get("config_groups").and_then(serde_json::Value::as_object);
        let nested =
            groups.into_iter().flat_map(|groups| groups.values()).find_map(|group| group["weights"].get("group_size"));
        own.or(nested)
            .and_then(serde_json::Value::as_u64)
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size > 0)
    }
}

fn columns_group(size: usize) -> Option<Group> {
    let size = u32::try_from(size).ok().and_then(std::num::NonZeroU32::new)?;
    Some(Group::Columns(size))
}

/// Rows of `per_row` bytes as rows of words, padded with zeros: codes of 4 or 8 bits as [`quench_format::bits`] has them.
fn row_words(bytes: &[u8], per_row: usize) -> Vec<u32> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
    bytes.chunks_exact(per_row).flat_map(|row| row.chunks(4).map(word)).collect()
}

/// The reverse of [`row_words`].
fn row_bytes(words: &[u32], rows: usize, per_row: usize) -> Vec<u8> {
    let row = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).take(per_row).collect::<Vec<_>>();
    words.chunks_exact(words.len() / rows).flat_map(row).collect()
}

/// Codes in the columns' own order, `[rows, columns]`, put in the order in which they are stored.
fn in_stored_order(codes: Vec<u16>, columns: usize, order: Option<&[u32]>) -> Vec<u16> {
    let Some(order) = order else { return codes };
    codes.chunks_exact(columns).flat_map(|row| order.iter().map(|&column| row[column as usize])).collect()
}

/// The words of an I32 tensor.
fn to_words(view: &TensorView) -> Vec<u32> {
    words(view.bytes(), u32::from_le_bytes).collect()
}

fn word_bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// `[rows, columns]` turned into `[columns, rows]`.
fn turned<T: Copy>(values: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Refuses minimums, for dialects that have integer zero points only.
fn no_minimums(dialect: Dialect, packed: &Packed) -> Result<(), Unwritable> {
    match packed.scheme().minimum {
        None => Ok(()),
        Some(_) => Err(Unwritable::new(dialect, "has integer zero points and no minimums")),
    }
}

/// The scales of `packed` as halves, `[out, groups]`, for dialects that have no other.
fn halves(dialect: Dialect, packed: &Packed) -> Result<Vec<half::f16>, Unwritable> {
    no_minimums(dialect, packed)?;
    let (Scale::Float(_), Scales::Float(_)) = (packed.scheme().scale, &packed.parts().scales) else {
        return Err(Unwritable::new(dialect, "has scales that are halves, and no others"));
    };
    let values = packed.scale_values();
    match values.iter().find(|value| !FloatKind::F16.holds(**value)) {
        None => Ok(values.into_iter().map(half::f16::from_f32).collect()),
        Some(value) => {
            Err(Unwritable::new(dialect, format!("keeps scales as f16, which does not hold {value:e} exactly")))
        }
    }
}

/// The codes `[out, in]` in the columns' own order, and the group of each column where groups are not runs of columns.
fn natural(packed: &Packed) -> (Vec<u16>, Option<Vec<u32>>) {
    let codes = packed.codes();
    let Some(order) = &packed.parts().order else { return (codes, None) };
    let [rows, columns] = packed.shape();
    let size = packed.scheme().group.size(columns);
    let (mut own, mut groups) = (vec![0; codes.len()], vec![0; columns]);
    for (at, &column) in order.iter().enumerate() {
        let column = column as usize;
        groups[column] = (at / size) as u32;
        for row in 0..rows {
            own[row * columns + column] = codes[row * columns + at];
        }
    }
    let runs = groups.iter().enumerate().all(|(column, &group)| group as usize == column / size);
    (own, (!runs).then_some(groups))
}

/// Columns of a group, or -1 where all columns of a row are one.
fn group_size(scheme: Scheme) -> i64 {
    match scheme.group {
        Group::Columns(size) => i64::from(size.get()),
        Group::Tensor | Group::Row => -1,
    }
}
