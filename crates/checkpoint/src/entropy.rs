//! Codes of packed layers at the length of their entropy: how such a tensor lies in a file, and how it is read.
//!
//! In a safetensors file `<layer>.qweight` is then U8 `[bytes]`, a stream of [`quench_format::rans`], and the manifest names it; in an
//! `.lsq` file the part says `"coding": "rans"`. Either way [`Source`](crate::Source) shows the words that it decodes to.

use std::collections::BTreeMap;
use std::path::Path;

use quench_format::rans::{self, RansError};
use quench_format::{Code, Packed, bits};
use safetensors::Dtype;

use crate::header::Range;
use crate::lsq::Stored;
use crate::native::{self, Piece};
use crate::source::TensorInfo;
use crate::{CheckpointError, Layer, Manifest};

/// How the codes of packed layers are kept in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    /// With the same number of bits each.
    #[default]
    Words,
    /// At the length of their entropy, where that is shorter: for storage and transfer, decoded when they are read.
    Entropy,
}

impl Coding {
    /// That of a layer with a stream of this length, if it has one.
    pub(crate) fn of(stream: Option<usize>) -> Self {
        if stream.is_some() { Self::Entropy } else { Self::Words }
    }
}

/// Bytes of the stream of a matrix, if it has one that is shorter than its words.
pub(crate) fn shorter_len(packed: &Packed) -> Option<usize> {
    let code = packed.scheme().code;
    let bytes = rans::holds(code).then(|| rans::encoded_len(&packed.codes(), code.bits()).ok()).flatten()?;
    let [rows, columns] = packed.shape();
    // As an `.lsq` file has them, which is the shorter of the two.
    let plain = (rows as u64 * columns as u64 * u64::from(code.bits())).div_ceil(8);
    ((bytes as u64) < plain).then_some(bytes)
}

/// Type and shape of a stream in a safetensors file.
pub(crate) fn info(bytes: usize) -> TensorInfo {
    TensorInfo { dtype: Dtype::U8, shape: vec![bytes] }
}

/// How the codes of a layer lie in a file as a stream; `None` if there are no streams of such a layer.
pub(crate) fn stored(layer: &Layer) -> Option<Stored> {
    let (code, [rows, columns]) = (layer.scheme.code, layer.shape);
    let fits = rows > 0 && rows.checked_mul(columns).is_some() && (1..=u32::MAX as usize).contains(&columns);
    (fits && rans::holds(code)).then_some(Stored::Rans { code, shape: layer.shape })
}

/// Puts in place of each stream that `manifest` names the words that it decodes to.
///
/// Errors: a name that is not the codes of a layer with streams; a tensor missing, or no string of bytes.
pub(crate) fn place(
    file: &Path,
    manifest: &Manifest,
    tensors: &mut BTreeMap<String, Range>,
) -> Result<(), CheckpointError> {
    for tensor in &manifest.coded {
        let layer = tensor.strip_suffix(Piece::Codes.suffix()).and_then(|name| name.strip_suffix('.'));
        let layer = layer.and_then(|name| manifest.layers.get(name));
        let Some((layer, stored)) = layer.and_then(|layer| Some((layer, stored(layer)?))) else {
            let reason =
                format!("`{tensor}` is said to be entropy-coded, and is not the codes of a layer of 1 to 8 bits");
            return Err(CheckpointError::Manifest { file: file.to_path_buf(), reason });
        };
        let Some(range) = tensors.get_mut(tensor) else {
            return Err(CheckpointError::MissingTensor { path: file.to_path_buf(), tensor: tensor.clone() });
        };
        let (file, tensor, found) = (file.to_path_buf(), tensor.clone(), range.info.clone());
        if found.dtype != Dtype::U8 {
            return Err(CheckpointError::Dtype { file, tensor, expected: Dtype::U8.to_string(), found: found.dtype });
        }
        if found.shape.len() != 1 {
            return Err(CheckpointError::Shape {
                file,
                tensor,
                expected: vec![range.len as usize],
                found: found.shape,
            });
        }
        // The codes are the first piece of every layer, and the order of columns does not change them.
        range.info = native::layout(layer, false).swap_remove(0).1;
        range.stored = stored;
    }
    Ok(())
}

/// The words of a matrix, as the native dialect spells them, from its stream.
pub(crate) fn decode(stream: &[u8], code: Code, shape: [usize; 2]) -> Result<Vec<u8>, RansError> {
    let words = rans::decode_words(stream, code, shape)?;
    debug_assert_eq!(words.len(), shape[0] * bits::words_per_row(shape[1], code.bits()));
    Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
}

#[cfg(test)]
mod tests;
