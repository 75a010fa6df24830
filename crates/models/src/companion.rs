//! The files beside the weights, which a GGUF file has in itself.

use std::io;
use std::path::Path;

use quench_checkpoint::gguf::Gguf;

/// The bytes of a file of a model: `MODEL/config.json` or `MODEL/tokenizer.json`. Where `MODEL` is a GGUF file they are made of its
/// metadata, and it has no others.
///
/// # Errors
///
/// That of the file system; of a GGUF file [`io::ErrorKind::InvalidData`] with what is wrong with it.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let Some(model) = path.parent().filter(|model| model.is_file()) else { return std::fs::read(path) };
    let made = match path.file_name().and_then(|name| name.to_str()) {
        Some("config.json") => Gguf::open(model).and_then(|model| model.config()),
        Some("tokenizer.json") => Gguf::open(model).and_then(|model| model.tokenizer_json()),
        _ => return Err(io::ErrorKind::NotFound.into()),
    };
    made.map(|made| made.to_string().into_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
