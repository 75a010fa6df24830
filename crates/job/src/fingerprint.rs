//! What makes two jobs the same job.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use quench_checkpoint::{Coding, Folder, write_atomically};
use quench_quantize::Plan;
use sha2::{Digest, Sha256};

use crate::JobError;

/// Everything that decides the codes, each part by its checksum; an unfinished run is resumed only if all agree.
pub(crate) struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// - `inputs`: the checksum of the calibration inputs
    pub(crate) fn new(
        source: &Folder,
        plan: &Plan,
        coding: Coding,
        inputs: Sha256,
        device: &str,
    ) -> Result<Self, JobError> {
        Ok(Self(BTreeMap::from([
            ("version".into(), env!("CARGO_PKG_VERSION").into()),
            ("device".into(), device.into()),
            ("model".into(), weights(source)?),
            ("plan".into(), hex(Sha256::new_with_prefix(plan.to_toml()))),
            ("coding".into(), format!("{coding:?}")),
            ("calibration".into(), hex(inputs)),
        ])))
    }

    /// Writes it to `path`.
    pub(crate) fn write(&self, path: &Path) -> Result<(), JobError> {
        let text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        Ok(write_atomically(path, text.as_bytes())?)
    }

    /// Compares with the one at `path`; `unfinished` is the folder to name in the error.
    pub(crate) fn check(&self, path: &Path, unfinished: &Path) -> Result<(), JobError> {
        let text = std::fs::read_to_string(path).map_err(|source| JobError::Read { path: path.to_owned(), source })?;
        let found: BTreeMap<String, String> = serde_json::from_str(&text)
            .map_err(|error| JobError::Journal { path: path.to_owned(), reason: error.to_string() })?;
        match self.0.iter().find(|(key, value)| found.get(*key) != Some(value)) {
            Some((key, _)) => Err(JobError::OtherJob { path: unfinished.to_owned(), what: key.clone() }),
            None => Ok(()),
        }
    }
}

/// The checksum of a checkpoint: of its file names and lengths, and of how each file begins.
pub(crate) fn weights(source: &Folder) -> Result<String, JobError> {
    let mut model = Sha256::new();
    for path in source.files() {
        let failed = |error| JobError::Read { path: path.to_owned(), source: error };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        model.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        model.update(length.to_le_bytes());
        // The headers and the first weights; reading all of a large model would cost minutes.
        let mut start = Vec::new();
        file.by_ref().take(1 << 20).read_to_end(&mut start).map_err(failed)?;
        model.update(&start);
    }
    Ok(hex(model))
}

pub(crate) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
