//! The header of an `.lsq` file, checked against the file's length.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use safetensors::Dtype;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as DtypeError;
use serde::{Deserialize, Serialize};

use crate::entropy;
use crate::header::{Container, Header, LONGEST_HEADER, Range, check_length};
use crate::lsq::{HEAD_BYTES, LSQ_CODED_VERSION, LSQ_VERSION, LsqError, MAGIC, Stored};
use crate::manifest::{MANIFEST_KEY, Sha256Sum};
use crate::native::{self, Piece};
use crate::{CheckpointError, Layer, Manifest, TensorInfo};

/// The JSON of the header. Lists and not maps, so that a name that repeats is seen.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spelled {
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<SpelledTensor>,
    pub layers: Vec<SpelledLayer>,
}

/// A dense tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpelledTensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Begin and end, counted from the start of the data.
    pub bytes: [u64; 2],
    pub sha256: Sha256Sum,
}

/// A packed layer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpelledLayer {
    pub name: String,
    pub scheme: String,
    pub shape: [usize; 2],
    pub parts: Vec<SpelledPart>,
}

/// A part of a packed layer, under the last word of its name in the native dialect.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpelledPart {
    pub part: String,
    /// How its bytes spell the codes, where they are not the codes themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coding: Option<SpelledCoding>,
    pub bytes: [u64; 2],
    pub sha256: Sha256Sum,
}

/// The coding of a part.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SpelledCoding {
    Rans,
}

impl Spelled {
    /// The version of what it holds.
    fn version(&self) -> u32 {
        let mut parts = self.layers.iter().flat_map(|layer| &layer.parts);
        if parts.any(|part| part.coding.is_some()) { LSQ_CODED_VERSION } else { LSQ_VERSION }
    }

    /// The bytes of a file before its parts.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let text = serde_json::to_vec(self)?;
        Ok([fixed(self.version(), &text), text].concat())
    }
}

/// The fixed bytes before a JSON text.
pub(super) fn fixed(version: u32, text: &[u8]) -> Vec<u8> {
    let (version, zero, length) = (version.to_le_bytes(), [0; 4], (text.len() as u64).to_le_bytes());
    [&MAGIC[..], &version, &zero, &length, &Sha256Sum::of(text).bytes()].concat()
}

/// Reads the header of a file of `found` bytes, from its start.
pub(crate) fn read(path: &Path, mut file: File, found: u64) -> Result<Header, CheckpointError> {
    let unreadable = |source| CheckpointError::Read { file: path.to_path_buf(), source };
    let refused = |source| CheckpointError::Lsq { file: path.to_path_buf(), source };
    let truncated = |expected| Err(CheckpointError::Truncated { file: path.to_path_buf(), expected, found });

    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(unreadable)?;
    let Some((magic, rest)) = head.split_first_chunk::<8>() else { return truncated(HEAD_BYTES) };
    if *magic == *b"version " {
        return Err(CheckpointError::LfsPointer { file: path.to_path_buf() });
    }
    if *magic != MAGIC {
        return Err(refused(LsqError::Magic { found: *magic }));
    }
    let Some((version, rest)) = rest.split_first_chunk::<4>() else { return truncated(HEAD_BYTES) };
    let version = u32::from_le_bytes(*version);
    if ![LSQ_VERSION, LSQ_CODED_VERSION].contains(&version) {
        return Err(refused(LsqError::Version { found: version }));
    }
    let Some((zero, rest)) = rest.split_first_chunk::<4>() else { return truncated(HEAD_BYTES) };
    let Some((length, sum)) = rest.split_first_chunk::<8>() else { return truncated(HEAD_BYTES) };
    let Ok(sum) = <[u8; 32]>::try_from(sum) else { return truncated(HEAD_BYTES) };
    if *zero != [0; 4] {
        let reason = format!("bytes 12 to 15 must be zero, found {zero:02x?}");
        return Err(refused(LsqError::Header { reason }));
    }
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        return Err(refused(LsqError::HeaderTooLong { bytes: length }));
    }
    let data = HEAD_BYTES + length;
    if data > found {
        return truncated(data);
    }
    let mut text = Vec::new();
    file.by_ref().take(length).read_to_end(&mut text).map_err(unreadable)?;
    // Shorter only if somebody cut the file after its length was asked for.
    check_length(path, length, text.len() as u64)?;
    if Sha256Sum::of(&text).bytes() != sum {
        return Err(refused(LsqError::HeaderDamaged));
    }
    let spelled: Spelled =
        serde_json::from_slice(&text).map_err(|error| refused(LsqError::Header { reason: error.to_string() }))?;
    let expected = spelled.version();
    if version != expected {
        let reason = format!("it is of version {expected}, and the file says {version}");
        return Err(refused(LsqError::Header { reason }));
    }
    if spelled.metadata.contains_key(MANIFEST_KEY) {
        let reason = format!("the metadata key `{MANIFEST_KEY}` is not for this container");
        return Err(refused(LsqError::Header { reason }));
    }

    let mut parts = Parts::default();
    spelled.tensors.into_iter().try_for_each(|tensor| parts.dense(path, tensor))?;
    spelled.layers.into_iter().try_for_each(|layer| parts.layer(path, layer))?;
    let end = parts.end().map_err(refused)?;
    let end =
        end.checked_add(data).ok_or_else(|| refused(LsqError::Header { reason: "its offsets overflow".into() }))?;
    check_length(path, end, found)?;
    let Parts { mut tensors, manifest } = parts;
    tensors.values_mut().for_each(|range| range.begin += data);
    Ok(Header { path: path.into(), file, container: Container::Lsq, tensors, metadata: spelled.metadata, manifest })
}

/// What was found so far, its ranges counted from the start of the data.
#[derive(Default)]
struct Parts {
    tensors: BTreeMap<String, Range>,
    manifest: Manifest,
}

impl Parts {
    fn dense(&mut self, path: &Path, tensor: SpelledTensor) -> Result<(), CheckpointError> {
        let SpelledTensor { name, dtype: spelled, shape, bytes, sha256 } = tensor;
        let text = spelled.as_str().into_deserializer();
        let dtype: Result<Dtype, DtypeError> = Dtype::deserialize(text);
        match dtype {
            Ok(dtype) => self.part(path, name, TensorInfo { dtype, shape }, Stored::Plain, bytes, sha256),
            Err(_) => {
                let reason = format!("unknown type `{spelled}`, expected one of safetensors such as F32 or I64");
                Err(refused(path, name, reason))
            }
        }
    }

    fn layer(&mut self, path: &Path, layer: SpelledLayer) -> Result<(), CheckpointError> {
        let SpelledLayer { name, scheme, shape, parts } = layer;
        let scheme = scheme.parse().map_err(|error| refused(path, name.clone(), format!("{error}")))?;
        let [rows, columns] = shape;
        // Anything larger is no file of ours, and might overflow below.
        if rows == 0 || columns == 0 || u32::try_from(rows.max(columns)).is_err() {
            let reason = format!("it has the shape {shape:?}, both sides from 1 to 2^32 - 1 expected");
            return Err(refused(path, name, reason));
        }
        let coded = Layer { scheme, shape };
        let ordered = parts.iter().any(|part| part.part == Piece::Order.suffix());
        let mut expected = native::layout(&coded, ordered);
        for SpelledPart { part, coding, bytes, sha256 } in parts {
            let Some(at) = expected.iter().position(|(piece, _)| piece.suffix() == part) else {
                let reason = format!("part `{part}` is repeated, or none of a layer in {scheme}");
                return Err(refused(path, name, reason));
            };
            let (piece, info) = expected.remove(at);
            let stored = match coding {
                None => Stored::of(piece, &coded),
                Some(SpelledCoding::Rans) => match (piece, entropy::stored(&coded)) {
                    (Piece::Codes, Some(stored)) => stored,
                    _ => return Err(refused(path, name, format!("part `{part}` in {scheme} has no streams"))),
                },
            };
            if matches!(stored, Stored::Rans { .. }) {
                self.manifest.coded.insert(piece.name(&name));
            }
            self.part(path, piece.name(&name), info, stored, bytes, sha256)?;
        }
        if let Some((piece, _)) = expected.first() {
            let reason = format!("a layer in {scheme} has a part `{}`, found none", piece.suffix());
            return Err(refused(path, name, reason));
        }
        match self.manifest.layers.insert(name.clone(), coded) {
            None => Ok(()),
            Some(_) => Err(twice(path, name)),
        }
    }

    fn part(
        &mut self,
        path: &Path,
        name: String,
        info: TensorInfo,
        stored: Stored,
        [begin, end]: [u64; 2],
        sha256: Sha256Sum,
    ) -> Result<(), CheckpointError> {
        let len = match stored {
            // As long as it is: what it decodes to is compared with the shape.
            Stored::Rans { .. } => end.checked_sub(begin),
            _ => stored.len(&info),
        };
        let Some(len) = len else {
            let reason = format!("shape {:?} takes no whole number of bytes below 2^64", info.shape);
            return Err(refused(path, name, reason));
        };
        if end.checked_sub(begin) != Some(len) {
            let reason = format!("it lies in bytes {begin} to {end} of the data, {len} bytes expected");
            return Err(refused(path, name, reason));
        }
        self.manifest.sha256.insert(name.clone(), sha256);
        match self.tensors.insert(name.clone(), Range { info, begin, len, stored }) {
            None => Ok(()),
            Some(_) => Err(twice(path, name)),
        }
    }

    /// The end of the data; errors where two parts overlap or nothing lies between two.
    fn end(&self) -> Result<u64, LsqError> {
        let mut parts: Vec<_> = self.tensors.iter().map(|(name, range)| (range.begin, range.len, name)).collect();
        parts.sort();
        let (mut end, mut other) = (0, None);
        for (begin, len, name) in parts {
            let tensor = name.clone();
            match (begin.cmp(&end), other) {
                (std::cmp::Ordering::Less, Some(other)) => {
                    return Err(LsqError::Overlap { tensor, begin, other: String::clone(other), end });
                }
                (std::cmp::Ordering::Equal, _) => {}
                _ => {
                    let reason = format!("it begins at byte {begin} of the data, {end} expected");
                    return Err(LsqError::Tensor { tensor, reason });
                }
            }
            (end, other) = (begin + len, Some(name));
        }
        Ok(end)
    }
}

fn refused(path: &Path, tensor: String, reason: String) -> CheckpointError {
    CheckpointError::Lsq { file: path.to_path_buf(), source: LsqError::Tensor { tensor, reason } }
}

fn twice(path: &Path, tensor: String) -> CheckpointError {
    CheckpointError::DuplicateTensor { tensor, first: path.to_path_buf(), second: path.to_path_buf() }
}
