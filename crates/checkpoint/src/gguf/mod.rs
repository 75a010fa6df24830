//! GGUF, the files of llama.cpp: read as a checkpoint with the names of Hugging Face, and written.
//!
//! | question | answer |
//! | --- | --- |
//! | what is in the file? | [`container`]: metadata and tensors, checked against the file's length |
//! | what does a block mean? | [`BlockType`]: its fields, the scheme of a matrix of them, and back |
//! | how do I read a layer? | [`Folder`](crate::Folder) opens the file; [`dialect::read`] gives the layer |
//! | and the model around it? | [`Gguf::config`], its `config.json`; [`Gguf::tokenizer`], and [`Tokenizer::to_json`] |
//! | how do I write one? | [`Writer`] |
//!
//! Models are of the architecture `llama`. A dense tensor has its Hugging Face name; one in blocks is `<layer>.<type>`, U8
//! `[out, bytes of a row]` ([`crate::dialect::gguf`]). Rows of `q_proj` and `k_proj` come in the order of Hugging Face, blocks
//! unchanged. Of a tied head there is no tensor.

mod blocks;
mod bpe;
mod config;
pub mod container;
mod error;
#[cfg(test)]
mod golden;
mod names;
#[cfg(test)]
mod tests;
mod tokenizer;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;

pub use blocks::{BlockType, Fields, fits};
pub use container::MAGIC;
pub use error::GgufError;
pub(crate) use names::rows_of_model;
pub use tokenizer::Tokenizer;
pub use writer::Writer;

use container::{Contents, Elements, Entry, Value};
use names::Heads;

use crate::header::{Container, Header, Range};
use crate::lsq::Stored;
use crate::source::words;
use crate::{CheckpointError, Manifest, TensorInfo, dialect};

/// The header of a GGUF file, of a model or of anything else.
#[derive(Clone, Debug)]
pub struct Gguf {
    path: PathBuf,
    contents: Contents,
    /// The divisors of RoPE's frequencies.
    factors: Option<Vec<f32>>,
}

impl Gguf {
    /// Reads the header of a file.
    ///
    /// Errors: [`CheckpointError::Gguf`] for whatever is wrong with it, [`CheckpointError::Read`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| CheckpointError::Read { file: path.to_owned(), source })?;
        Self::of(path, &file)
    }

    fn of(path: &Path, file: &File) -> Result<Self, CheckpointError> {
        // SAFETY: the map is read-only, and dropped before this returns. The one thing that can go wrong is another process
        // changing the file meanwhile; our own writer never does, it replaces files by renaming.
        let map = unsafe { Mmap::map(file) };
        let map = map.map_err(|source| CheckpointError::Read { file: path.to_owned(), source })?;
        let refused = |source| CheckpointError::Gguf { file: path.to_owned(), source };
        let contents = container::read(&map).map_err(refused)?;
        let of_rope = |entry: &&Entry| entry.name == names::FACTORS && entry.elements == Elements::Dense(Dtype::F32);
        let factors = contents.tensors.iter().find(of_rope).map(|entry| {
            let begin = entry.begin as usize;
            words(&map[begin..begin + entry.bytes as usize], f32::from_le_bytes).collect()
        });
        Ok(Self { path: path.to_owned(), contents, factors })
    }

    /// The metadata and the tensors, by the names that they have in the file.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The `config.json` of the model.
    ///
    /// Errors: an architecture other than `llama`, an entry missing or of another kind, a way to scale RoPE for which
    /// `config.json` has no words.
    pub fn config(&self) -> Result<serde_json::Value, CheckpointError> {
        config::read(&self.contents, self.factors.as_deref()).map_err(|source| self.refused(source))
    }

    /// The tokenizer of the model.
    ///
    /// Errors: an entry missing or of another kind, a list of another length than the tokens.
    pub fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        Tokenizer::read(&self.contents.metadata).map_err(|source| self.refused(source))
    }

    /// The `tokenizer.json` of the model.
    ///
    /// Errors: as [`Gguf::tokenizer`] and [`Tokenizer::to_json`].
    pub fn tokenizer_json(&self) -> Result<serde_json::Value, CheckpointError> {
        self.tokenizer()?.to_json().map_err(|source| self.refused(source))
    }

    fn refused(&self, source: GgufError) -> CheckpointError {
        CheckpointError::Gguf { file: self.path.clone(), source }
    }
}

/// Reads the header of a file as that of a checkpoint with the names of Hugging Face.
pub(crate) fn read_header(path: &Path, file: File) -> Result<Header, CheckpointError> {
    let gguf = Gguf::of(path, &file)?;
    let refused = |source| gguf.refused(source);
    let metadata = &gguf.contents.metadata;
    config::check_architecture(metadata).map_err(refused)?;
    let [queries, keys] = config::heads(metadata).map_err(refused)?;
    let shards = metadata.get("split.count").and_then(Value::count).unwrap_or(1);
    if shards > 1 {
        let reason = format!("it is one of {shards} shards: join them with llama-gguf-split --merge");
        return Err(refused(GgufError::Model { reason }));
    }
    let mut tensors = BTreeMap::new();
    for Entry { name, elements, shape, begin, bytes } in &gguf.contents.tensors {
        if name == names::FACTORS {
            continue;
        }
        let wrong = |reason: String| refused(GgufError::Tensor { tensor: name.clone(), reason });
        let own = names::to_model(name).ok_or_else(|| wrong("is none of a Llama that is known here".to_owned()))?;
        let heads = match names::heads(&own) {
            Heads::None => None,
            Heads::Query => Some(queries),
            Heads::Key => Some(keys),
        };
        let stored = match (heads, shape.first()) {
            (None, _) => Stored::Plain,
            (Some(heads), Some(&rows)) if names::are_heads(rows, heads) => Stored::Rotary { heads },
            (Some(heads), _) => {
                return Err(wrong(format!("has the shape {shape:?}, {heads} heads of pairs of rows expected")));
            }
        };
        let (own, info) = match *elements {
            Elements::Dense(dtype) => (own, TensorInfo { dtype, shape: shape.clone() }),
            Elements::Blocks(kind) => {
                let (&[rows, columns], Some(layer)) = (shape.as_slice(), own.strip_suffix(".weight")) else {
                    return Err(wrong(format!("has the shape {shape:?} in blocks, a matrix expected")));
                };
                let row = kind.row_bytes(columns).unwrap_or_default();
                let shape = vec![rows, row];
                (format!("{layer}.{}", dialect::gguf::suffix(kind)), TensorInfo { dtype: Dtype::U8, shape })
            }
        };
        tensors.insert(own, Range { info, begin: *begin, len: *bytes, stored });
    }
    let texts = metadata.iter().filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())));
    let metadata = texts.collect();
    Ok(Header { path: path.into(), file, container: Container::Gguf, tensors, metadata, manifest: Manifest::default() })
}
