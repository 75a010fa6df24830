//! A model of the Hugging Face hub, and a bar while it comes.

use std::path::PathBuf;

use quench::hub::{Event, Hub, HubError, Reference, Settings};

use crate::interrupt;
use crate::progress::Progress;

/// The folder or GGUF file of the model, downloaded as far as it is not there yet.
pub fn fetch(reference: &Reference, quiet: bool) -> Result<PathBuf, HubError> {
    let hub = Hub::new(Settings::from_environment()?)?;
    let mut progress = Progress::new(quiet);
    let path = hub.fetch(reference, &mut |event| {
        match event {
            Event::Begin { bytes, .. } => progress.transfer("download", bytes),
            Event::Bytes { done, file } => progress.transferred(done, file),
            Event::Again { file, reason } => progress.detail(&format!("once more after: {reason} ({file})")),
            Event::Waiting { file } => progress.detail(&format!("another process downloads {file}")),
            Event::Kept { commit, reason } if !quiet => {
                eprintln!("note: {reason}; using the copy of {reference} from the cache, commit {commit}");
            }
            _ => {}
        }
        interrupt::flow()
    })?;
    progress.end();
    Ok(path)
}
