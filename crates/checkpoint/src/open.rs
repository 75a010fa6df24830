//! A checkpoint of whatever kind its path is.

use std::path::Path;

use crate::{CheckpointError, Folder, Source};

/// The endings of pickled checkpoints.
const PICKLED: [&str; 4] = ["pth", "th", "pt", "bin"];

/// Opens whatever `path` is: a PyTorch file by its ending (`.pth`, `.th`, `.pt`, `.bin`), else as [`Folder::open`].
///
/// Errors: as [`Folder::open`], and for a PyTorch file as `Pytorch::open`; [`CheckpointError::Pickled`] in a build without the
/// feature `pytorch`.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn Source>, CheckpointError> {
    let path = path.as_ref();
    let ending = path.extension().and_then(|ending| ending.to_str());
    match ending.is_some_and(|ending| PICKLED.contains(&ending)) && path.is_file() {
        true => pickled(path),
        false => Ok(Box::new(Folder::open(path)?)),
    }
}

#[cfg(feature = "pytorch")]
fn pickled(path: &Path) -> Result<Box<dyn Source>, CheckpointError> {
    Ok(Box::new(crate::Pytorch::open(path)?))
}

#[cfg(not(feature = "pytorch"))]
fn pickled(path: &Path) -> Result<Box<dyn Source>, CheckpointError> {
    Err(CheckpointError::Pickled { file: path.to_path_buf() })
}
