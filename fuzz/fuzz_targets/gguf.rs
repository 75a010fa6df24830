//! Any bytes as a GGUF file: they are read or refused, and whatever is read decodes to finite weights.
//!
//! The first byte says whether the bytes after it get the first 24 of a file with few tensors and metadata entries.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use quench_checkpoint::gguf::container::GGUF_VERSION;
use quench_checkpoint::gguf::{Gguf, MAGIC};
use quench_checkpoint::{Folder, Source, dialect};

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let mut bytes = Vec::new();
    if first % 4 != 0 {
        bytes.extend(MAGIC);
        bytes.extend(GGUF_VERSION.to_le_bytes());
        bytes.extend(u64::from(first / 4 % 4).to_le_bytes());
        bytes.extend(u64::from(first / 16).to_le_bytes());
    }
    bytes.extend(rest);
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("model.gguf");
    if fs::write(&path, &bytes).is_err() {
        return;
    }
    if let Ok(gguf) = Gguf::open(&path) {
        let _ = (gguf.config(), gguf.tokenizer());
    }
    let Ok(source) = Folder::open(&path) else { return };
    for layer in dialect::layers(&source) {
        if let Ok(Some(packed)) = dialect::read(&source, &layer) {
            assert!(packed.decode().iter().all(|weight| weight.is_finite()), "{layer}");
        }
    }
    for name in source.names() {
        assert!(source.info(name).is_some());
        if let Ok(view) = source.tensor(name) {
            let _ = view.to_finite_f32();
        }
    }
});
