//! A matrix in the blocks of llama.cpp, as [`Folder`](crate::Folder) gives it from a GGUF file.
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.<type>` | U8 | `[out, bytes of a row]` | rows of blocks; the type in lower case, `q4_k` |
//!
//! [`BlockType`] has the types, their bits and their schemes. In a file of its own the tensor has another name, and maybe its
//! rows another order: see [`crate::gguf`].

use quench_format::Packed;
use safetensors::Dtype;

use super::{Dialect, Spelled, Unwritable};
use crate::gguf::{BlockType, fits};
use crate::native::NamedTensor;
use crate::{CheckpointError, Source};

/// The last words of the names of tensors in blocks.
pub fn suffixes() -> impl Iterator<Item = String> {
    BlockType::ALL.into_iter().map(suffix)
}

/// The last word of the name of a tensor in blocks of this type.
pub fn suffix(kind: BlockType) -> String {
    kind.to_string().to_lowercase()
}

/// The type of the blocks in which `source` has `layer`.
fn kind(source: &dyn Source, layer: &str) -> Option<BlockType> {
    let has = |kind: &BlockType| {
        let info = source.info(&format!("{layer}.{}", suffix(*kind)));
        info.is_some_and(|info| info.dtype == Dtype::U8 && info.shape.len() == 2)
    };
    BlockType::ALL.into_iter().find(has)
}

/// The tensor that spells `layer`, where `source` has it in blocks.
pub fn name(source: &dyn Source, layer: &str) -> Option<String> {
    kind(source, layer).map(|kind| format!("{layer}.{}", suffix(kind)))
}

/// True if the checkpoint holds `layer` in blocks.
pub fn is_packed(source: &dyn Source, layer: &str) -> bool {
    kind(source, layer).is_some()
}

/// Reads a layer in blocks.
///
/// Errors: no such layer; rows that are no whole blocks; a scale that is not finite, or too large.
pub fn read(source: &dyn Source, layer: &str) -> Result<Packed, CheckpointError> {
    let spelled = Spelled { source, layer };
    let Some(kind) = kind(source, layer) else {
        return Err(CheckpointError::MissingTensor { path: source.path().to_owned(), tensor: layer.to_owned() });
    };
    let suffix = suffix(kind);
    let [rows, bytes] = spelled.matrix(&suffix, Dtype::U8)?;
    if rows == 0 || bytes == 0 || !bytes.is_multiple_of(kind.bytes()) {
        let reason = format!("{rows} rows of {bytes} bytes are no blocks of {} bytes", kind.bytes());
        return Err(spelled.invalid(&suffix, reason));
    }
    let columns = bytes / kind.bytes() * kind.weights();
    let view = spelled.tensor(&suffix, Dtype::U8, &[rows, bytes])?;
    spelled.packed(&suffix, kind.decode([rows, columns], view.bytes()))
}

/// The tensor that spells `packed`.
///
/// Errors: what no type holds exactly, and the schemes that would do.
pub fn tensors(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    let [rows, _] = packed.shape();
    let kind = fits(packed.scheme(), packed.shape(), packed.parts().order.is_some())
        .map_err(|reason| Unwritable::new(Dialect::Gguf, reason))?;
    let bytes = kind.encode(packed);
    let (name, shape) = (format!("{layer}.{}", suffix(kind)), vec![rows, bytes.len() / rows]);
    Ok(vec![NamedTensor { name, dtype: Dtype::U8, shape, bytes }])
}
