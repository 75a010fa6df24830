//! Named tensors on disk, and the dialects that spell a packed matrix.
//!
//! | question | answer |
//! | --- | --- |
//! | what is in this folder? | [`Folder`], a [`Source`]: one file or shards, headers only until a tensor is asked for |
//! | and in a PyTorch file? | [`Folder`] again, and no pickle is run (feature `pytorch`) |
//! | what is in this tensor? | [`TensorView`]: its own bytes of the file, mapped, and unmapped when dropped |
//! | how do I write one? | [`Writer`]: announce tensors, then write them one at a time, sharded, with checksums |
//! | how is a packed layer spelled? | [`native`]: our dialect; `docs/checkpoint.md` is its specification |
//! | can its codes take less room in a file? | [`Coding::Entropy`]: at the length of their entropy, decoded when they are read |
//! | how do other tools spell one? | [`dialect`]: GPTQ, AWQ, compressed-tensors and blocks of GGUF, read and written; bitsandbytes and EXL3, read |
//! | how does llama.cpp keep a model? | [`gguf`], read by [`Folder`], written by [`gguf::Writer`] |
//! | how does a model fit in one file, packed to the last bit? | [`lsq`], read by [`Folder`], written by [`Writer::lsq`] |
//! | how does a folder appear whole or not at all? | [`Staging`], and [`AtomicFile`] for one file |
//!
//! No Burn, no device: bytes, names and their meaning. Whatever is wrong with a file is a [`CheckpointError`] that names
//! the file, the tensor where there is one, and what to do; nothing here panics on what a file holds.
//!
//! # Example
//!
//! A packed layer and a dense tensor, written, read back, and refused once damaged:
//!
//! ```
//! use quench_checkpoint::{Dtype, Folder, Source, Writer, native};
//! use quench_format::{Packed, Scales, Scheme};
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let scheme: Scheme = "int4/2/f16".parse()?;
//! let scales = Scales::Float(vec![0.5, 0.25]);
//! let packed = Packed::from_codes(scheme, [1, 4], &[8, 15, 1, 9], scales, None, None)?;
//!
//! let mut writer = Writer::create(folder, 5_000_000_000)?;
//! writer.packed("model.layers.0.mlp.up_proj", packed.clone())?;
//! writer.add("model.norm.weight", Dtype::F32, [2], vec![0; 8])?;
//! writer.metadata("quench.gates", "passed");
//! writer.finish()?;
//!
//! let source = Folder::open(folder)?;
//! assert_eq!(native::read(&source, "model.layers.0.mlp.up_proj")?, Some(packed));
//! assert_eq!(source.tensor("model.norm.weight")?.to_finite_f32()?, [0.0, 0.0]);
//! assert_eq!(source.metadata()["quench.gates"], "passed");
//!
//! // One bit of the last tensor in the file.
//! let file = folder.join("model.safetensors");
//! let mut bytes = std::fs::read(&file)?;
//! *bytes.last_mut().ok_or("empty")? ^= 1;
//! std::fs::write(&file, bytes)?;
//! let error = native::read(&Folder::open(folder)?, "model.layers.0.mlp.up_proj").unwrap_err();
//! assert!(error.to_string().contains("`model.layers.0.mlp.up_proj.scales`"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

pub mod dialect;
mod edited;
mod entropy;
mod error;
mod file;
mod folder;
pub mod gguf;
mod header;
mod index;
pub mod lsq;
mod manifest;
pub mod native;
#[cfg(feature = "pytorch")]
mod pytorch;
mod shard;
mod source;
mod staging;
mod writer;

pub use edited::{Edit, Edited};
pub use entropy::Coding;
pub use error::CheckpointError;
pub use file::{AtomicFile, write_atomically};
pub use folder::Folder;
pub use index::{INDEX, WEIGHTS};
pub use manifest::{CODED_VERSION, FORMAT_VERSION, Layer, MANIFEST_KEY, Manifest, Sha256Sum};
pub use safetensors::Dtype;
pub use source::{Source, TensorInfo, TensorView};
pub use staging::Staging;
pub use writer::{Bytes, Observe, Writer, Written};

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod testing;
