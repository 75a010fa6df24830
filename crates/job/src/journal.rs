//! The journal on disk: one small checkpoint for every finished section.

use std::error::Error;
use std::path::{Path, PathBuf};

use quench_checkpoint::{Coding, Folder, Source, WEIGHTS, Writer, native};
use quench_nn::Section;
use quench_quantize::{Finished, Journal, Ledger};

const ENTRIES: &str = "quench.entries";

/// Finished sections as folders `stage-0/block-00003/`, each a checkpoint in our own dialect with its ledger entries.
///
/// A section is there whole or not at all, since a checkpoint appears by renaming.
#[derive(Debug)]
pub(crate) struct DiskJournal {
    folder: PathBuf,
    /// As in the result, so that its size is known before it is written.
    coding: Coding,
    /// Sections that an earlier run had finished.
    pub(crate) resumed: usize,
}

impl DiskJournal {
    /// Keeps its sections in `folder`.
    pub(crate) fn new(folder: PathBuf, coding: Coding) -> Self {
        Self { folder, coding, resumed: 0 }
    }

    /// The folder of one section.
    pub(crate) fn section(&self, stage: usize, section: Section) -> PathBuf {
        let name = match section {
            Section::Embedding => "embedding".to_owned(),
            Section::Block(index) => format!("block-{index:05}"),
            Section::Head => "head".to_owned(),
        };
        self.folder.join(format!("stage-{stage}")).join(name)
    }
}

impl Journal for DiskJournal {
    fn finished(
        &mut self,
        stage: usize,
        section: Section,
    ) -> Result<Option<Vec<Finished>>, Box<dyn Error + Send + Sync>> {
        let folder = self.section(stage, section);
        if !folder.join(WEIGHTS).exists() {
            return Ok(None);
        }
        let finished = read(&folder)?;
        self.resumed += 1;
        Ok(Some(finished))
    }

    fn record(
        &mut self,
        stage: usize,
        section: Section,
        layers: &[Finished],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let folder = self.section(stage, section);
        std::fs::create_dir_all(&folder)?;
        let mut writer = Writer::create(&folder, u64::MAX)?.with_coding(self.coding);
        let entries = layers.iter().map(|layer| layer.entry.clone()).collect();
        // TOML and not JSON, because `serde_json` may read back another last bit of a float.
        writer.metadata(ENTRIES, toml::to_string(&Ledger { entries })?);
        for layer in layers {
            writer.packed(&layer.entry.layer, layer.packed.clone())?;
        }
        writer.finish()?;
        Ok(())
    }
}

fn read(folder: &Path) -> Result<Vec<Finished>, Box<dyn Error + Send + Sync>> {
    let source = Folder::open(folder)?;
    let damaged = |what: &str| format!("{}: {what}; --force starts the job again", folder.display());
    let entries = source.metadata().get(ENTRIES).ok_or_else(|| damaged("the ledger entries are missing"))?;
    let ledger: Ledger = toml::from_str(entries).map_err(|error| damaged(&error.to_string()))?;
    let mut finished = Vec::with_capacity(ledger.entries.len());
    for entry in ledger.entries {
        let packed =
            native::read(&source, &entry.layer)?.ok_or_else(|| damaged(&format!("{} is missing", entry.layer)))?;
        finished.push(Finished { entry, packed });
    }
    Ok(finished)
}
