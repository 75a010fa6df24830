//! Spark, the model that comes with Quench.
//!
//! A Llama of 1.6 million parameters, trained by `examples/train_spark` on English and German text of our own making, so
//! that everything can be tried without a download. It is a stage for demonstrations; it knows nothing.

use std::path::PathBuf;

use quench_checkpoint::write_atomically;

use crate::ModelError;

const FILES: [(&str, &[u8]); 8] = [
    ("config.json", include_bytes!("../spark/config.json")),
    ("tokenizer.json", include_bytes!("../spark/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../spark/tokenizer_config.json")),
    ("text/calibration/en.txt", include_bytes!("../spark/text/calibration/en.txt")),
    ("text/calibration/de.txt", include_bytes!("../spark/text/calibration/de.txt")),
    ("text/evaluation/en.txt", include_bytes!("../spark/text/evaluation/en.txt")),
    ("text/evaluation/de.txt", include_bytes!("../spark/text/evaluation/de.txt")),
    ("model.safetensors", include_bytes!("../spark/model.safetensors")),
];

/// Writes the embedded files (model, tokenizer, `text/{calibration,evaluation}/{en,de}.txt`) into a folder of the system's temporary folder and returns it; files that are there
/// already, and right, are left alone.
///
/// # Errors
/// If a file cannot be written, naming it.
pub fn unpack() -> Result<PathBuf, ModelError> {
    let folder = std::env::temp_dir().join(format!("quench-spark-{}", env!("CARGO_PKG_VERSION")));
    for (name, bytes) in FILES {
        let path = folder.join(name);
        // Somebody else may have written there: only the right bytes are taken for ours.
        if std::fs::read(&path).is_ok_and(|found| found == bytes) {
            continue;
        }
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).map_err(|source| ModelError::Write { path: parent.to_owned(), source })?;
        write_atomically(&path, bytes)?;
    }
    Ok(folder)
}
