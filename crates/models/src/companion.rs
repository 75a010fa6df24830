//! The files beside the weights, which a GGUF file has in itself.

use std::io;
use std::path::Path;

use quench_checkpoint::gguf::Gguf;

/// The bytes of the file `name` of a model. Where the model is a GGUF file, `config.json` and `tokenizer.json` are made of its
/// metadata, and it has no others.
///
/// # Errors
///
/// That of the file system, [`io::ErrorKind::NotFound`] for a file that is not there; for a GGUF file whose metadata does not make a
/// configuration or a tokenizer, [`io::ErrorKind::InvalidData`] with what is wrong with it.
pub fn companion(model: &Path, name: &str) -> io::Result<Vec<u8>> {
    if !model.is_file() {
        return std::fs::read(model.join(name));
    }
    let made = match name {
        "config.json" => Gguf::open(model).and_then(|model| model.config()),
        "tokenizer.json" => Gguf::open(model).and_then(|model| model.tokenizer_json()),
        _ => return Err(io::ErrorKind::NotFound.into()),
    };
    made.map(|made| made.to_string().into_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The same by its path, `MODEL/NAME`.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(model), Some(name)) => companion(model, name),
        _ => std::fs::read(path),
    }
}
