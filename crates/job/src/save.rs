//! From a finished journal to a checkpoint folder.

use std::path::Path;

use quench_checkpoint::{
    CODED_VERSION, Coding, FORMAT_VERSION, Folder, Source, TensorInfo, Writer, Written, dialect, native,
    write_atomically,
};
use quench_models::companion;
use quench_quantize::{Ledger, Plan, Recipe};
use serde_json::{Value, json};

use crate::JobError;
use crate::card::{BASE_CARD, CARD};

/// Metadata key of the recipe, as TOML.
pub(crate) const RECIPE: &str = "quench.recipe";
/// Metadata key of the ledger, as JSON.
pub(crate) const LEDGER: &str = "quench.ledger";
/// Metadata key of what the gates said: `none`, `passed`, or `failed: …`.
pub(crate) const GATES: &str = "quench.gates";

/// Files that travel with the weights.
pub(crate) const COMPANIONS: [&str; 12] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
];

/// What is written, and from where.
pub(crate) struct Save<'a> {
    /// The folder of the dense checkpoint, for what lies beside the weights.
    pub(crate) folder: &'a Path,
    /// Its tensors, transformed.
    pub(crate) dense: &'a dyn Source,
    /// Keys of the configuration that say what was transformed.
    pub(crate) marks: Vec<(&'static str, Value)>,
    /// The finished sections of the last stage, each with its packed layers.
    pub(crate) sections: &'a [Folder],
    pub(crate) recipe: &'a Recipe,
    pub(crate) plan: &'a Plan,
    pub(crate) ledger: &'a Ledger,
    /// What the gates said.
    pub(crate) gates: &'a str,
    /// The card of the result.
    pub(crate) card: &'a str,
    /// That of the dense model.
    pub(crate) base_card: Option<&'a [u8]>,
    /// How codes are kept.
    pub(crate) coding: Coding,
    /// Largest shard in bytes.
    pub(crate) max_shard_bytes: u64,
}

impl Save<'_> {
    /// Writes weights, configuration, recipe, plan, tokenizer and card into `folder`.
    ///
    /// Packed layers are copied from the journal and dense tensors from the source, one tensor at a time.
    pub(crate) fn write(&self, folder: &Path) -> Result<Written, JobError> {
        let mut writer = Writer::create(folder, self.max_shard_bytes)?.with_coding(self.coding);
        writer.metadata(RECIPE, self.recipe.name.clone());
        writer.metadata(LEDGER, serde_json::to_string(self.ledger).unwrap_or_default());
        writer.metadata(GATES, self.gates);
        for name in self.dense.names() {
            let layer = name.strip_suffix(".weight").unwrap_or(name);
            match self.sections.iter().find(|section| native::is_packed(*section, layer)) {
                Some(section) if name.ends_with(".weight") => writer.copy_packed(section, layer)?,
                _ => writer.copy(self.dense, name)?,
            }
        }
        let written = writer.finish()?;
        self.companions(folder)?;
        Ok(written)
    }

    fn companions(&self, folder: &Path) -> Result<(), JobError> {
        for name in COMPANIONS {
            match companion(self.folder, name) {
                Ok(bytes) => write_atomically(folder.join(name), &bytes)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(JobError::Read { path: self.folder.join(name), source }),
            }
        }
        write_atomically(folder.join(CARD), self.card.as_bytes())?;
        // What its authors say of the dense model stays theirs.
        if let Some(card) = self.base_card {
            write_atomically(folder.join(BASE_CARD), card)?;
        }
        write_atomically(folder.join("plan.toml"), self.plan.to_toml().as_bytes())?;
        write_atomically(folder.join("recipe.toml"), self.recipe.to_toml().as_bytes())?;
        self.config(folder)
    }

    /// The model's configuration, with a mark by which other loaders see that the weights are packed.
    fn config(&self, folder: &Path) -> Result<(), JobError> {
        let path = self.folder.join("config.json");
        let text =
            companion(self.folder, "config.json").map_err(|source| JobError::Read { path: path.clone(), source })?;
        let mut config: Value = serde_json::from_slice(&text)
            .map_err(|error| JobError::Read { path, source: std::io::Error::other(error) })?;
        for (key, value) in &self.marks {
            config[*key] = value.clone();
        }
        config["quantization_config"] = json!({
            "quant_method": "quench",
            "format_version": version(self.coding),
            "recipe": self.recipe.name,
        });
        let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
        Ok(write_atomically(folder.join("config.json"), text.as_bytes())?)
    }
}

/// The newest version of files of this coding.
pub(crate) fn version(coding: Coding) -> u64 {
    match coding {
        Coding::Words => FORMAT_VERSION,
        Coding::Entropy => CODED_VERSION,
    }
}

/// The first packed layer of a checkpoint in any dialect, if it has one.
pub(crate) fn first_packed(source: &Folder) -> Option<String> {
    dialect::layers(source).into_iter().next()
}

/// Elements of the tensors of a checkpoint, of packed ones those of their words; and the bytes that they take in its files.
pub(crate) fn extent(source: &dyn Source) -> (u64, u64) {
    let tensors = source.names().into_iter().filter_map(|name| source.info(name).zip(source.stored_bytes(name)));
    tensors.fold((0, 0), |(count, total), (info, stored)| (count + elements(&info.shape), total + stored))
}

/// Bytes of the tensors of a checkpoint once they are decoded.
pub(crate) fn decoded_bytes(source: &dyn Source) -> u64 {
    source.names().into_iter().filter_map(|name| source.info(name)).map(|info| bytes(&info)).sum()
}

/// Elements of a tensor.
pub(crate) fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|extent| *extent as u64).product()
}

/// Bytes of a tensor.
pub(crate) fn bytes(info: &TensorInfo) -> u64 {
    (elements(&info.shape) * info.dtype.bitsize() as u64).div_ceil(8)
}
