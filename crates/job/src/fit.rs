//! Whether a language model, as it is or as a recipe would make it, runs on a machine.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use quench_checkpoint::{Folder, Source};
use quench_models::{DecoderConfig, Kind, open};
use quench_nn::Model as _;
use quench_quantize::fit::{Fit, Load, Machine, Sizes, Weights};
use quench_quantize::{Plan, Recipe};
use serde::{Deserialize, Serialize};

use crate::JobError;
use crate::save::{bytes, decoded_bytes};

/// The machines that come with Quench, as `configs/devices.toml` has them.
///
/// Panics if the table that was compiled in is none; a test reads it.
pub fn machines() -> Vec<Machine> {
    #[derive(Deserialize)]
    struct Table {
        machine: Vec<Machine>,
    }
    let table: Table = toml::from_str(include_str!("../../../configs/devices.toml"))
        .unwrap_or_else(|error| unreachable!("configs/devices.toml: {error}"));
    table.machine
}

/// The machine of this name.
///
/// # Errors
/// [`JobError::UnknownMachine`] with the nearest name.
pub fn machine(name: &str) -> Result<Machine, JobError> {
    let mut machines = machines();
    if let Some(at) = machines.iter().position(|machine| machine.name == name) {
        return Ok(machines.swap_remove(at));
    }
    let nearest = machines.into_iter().map(|machine| machine.name);
    let nearest = nearest.min_by_key(|known| strsim::damerau_levenshtein(known, name)).unwrap_or_default();
    Err(JobError::UnknownMachine { name: name.to_owned(), nearest })
}

/// What `quench fit` asks.
#[derive(Clone, Debug)]
pub struct Fitting {
    /// The folder of the model, dense or quantized.
    pub model: PathBuf,
    /// A recipe, to know what it would make of a dense model; transforms that add parameters are not seen.
    pub recipe: Option<Recipe>,
    /// What is asked of the model.
    pub load: Load,
    /// On which machines.
    pub machines: Vec<Machine>,
}

/// What [`Fitting`] finds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fitted {
    /// What of the model decides about memory.
    pub sizes: Sizes,
    /// Its weights.
    pub weights: Weights,
    /// What was asked.
    pub load: Load,
    /// The longest context that the model was made for.
    pub max_context: u64,
    /// Each machine, and how the model fits there.
    pub machines: Vec<(Machine, Fit)>,
}

impl Fitting {
    /// Reads headers, no weights.
    ///
    /// # Errors
    /// If the model is no language model or damaged; with a recipe, if it does not fit the model, or the model is quantized already.
    pub fn run(&self) -> Result<Fitted, JobError> {
        let kind = Kind::of(&self.model)?;
        if kind != Kind::Decoder {
            return Err(JobError::NoCache { path: self.model.clone(), kind });
        }
        let config = DecoderConfig::read(&self.model.join("config.json"))?;
        let source = Folder::open(&self.model)?;
        let weights = match &self.recipe {
            None => stored(&source, config.tied),
            Some(recipe) => planned(&self.model, &source, recipe, config.tied)?,
        };
        let windows = config.layers.iter().map(|layer| layer.window.map(|window| window as u64)).collect();
        let sizes = Sizes {
            hidden: config.hidden_size as u64,
            intermediate: config.intermediate_size as u64,
            vocabulary: config.vocab_size as u64,
            heads: config.heads as u64,
            kv_heads: config.kv_heads as u64,
            head: config.head_dim as u64,
            windows,
        };
        let max_context = config.max_positions as u64;
        let fit = |machine: &Machine| (machine.clone(), sizes.fit(weights, self.load, machine, max_context));
        let machines = self.machines.iter().map(fit).collect();
        Ok(Fitted { sizes, weights, load: self.load, max_context, machines })
    }
}

/// Whether a tensor is of the token vectors, which are looked up and not multiplied unless they are the head too.
fn is_table(name: &str) -> bool {
    name.contains("embed_tokens.") || name.contains("wte.")
}

/// The weights of a checkpoint, codes decoded to words.
fn stored(source: &Folder, tied: bool) -> Weights {
    let table = source.names().into_iter().filter(|name| is_table(name)).filter_map(|name| source.info(name));
    let looked_up: u64 = if tied { 0 } else { table.map(|info| bytes(&info)).sum() };
    let bytes = decoded_bytes(source);
    Weights { bytes, streamed: bytes - looked_up }
}

/// The weights that a recipe would make of a dense model.
fn planned(model: &Path, source: &Folder, recipe: &Recipe, tied: bool) -> Result<Weights, JobError> {
    if let Some(layer) = crate::save::first_packed(source) {
        return Err(JobError::AlreadyQuantized { path: model.to_owned(), layer });
    }
    let plan: Plan = recipe.plan(&open(model, &Device::default())?.layers())?;
    let mut weights = stored(source, tied);
    for layer in &plan.layers {
        let Some(target) = layer.treatment.as_ref().and_then(|treatment| treatment.stages.last()) else { continue };
        let order = layer.treatment.as_ref().is_some_and(|treatment| treatment.method.stores_order());
        let bits = target.with_code(target.code.example()).storage_bits(layer.shape);
        let packed = bits.div_ceil(8) + if order { 4 * layer.shape[1] as u64 } else { 0 };
        let name = format!("{}.weight", layer.name);
        let dense = source.info(&name).map_or(0, |info| bytes(&info));
        weights.bytes = weights.bytes - dense + packed;
        if tied || !is_table(&name) {
            weights.streamed = weights.streamed - dense + packed;
        }
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_is_possible_and_named_once() {
        let machines = machines();
        assert!(machines.len() > 12);
        for (at, machine) in machines.iter().enumerate() {
            assert!(machine.reserve < machine.memory && machine.bandwidth > 1.0, "{machine:?}");
            assert!(machines[..at].iter().all(|other| other.name != machine.name), "{}", machine.name);
            assert_eq!(super::machine(&machine.name).unwrap(), *machine);
        }
    }

    #[test]
    fn an_unknown_machine_is_told_the_nearest() {
        let error = machine("jetson-nono").unwrap_err().to_string();
        assert!(error.contains("jetson-nano"), "{error}");
    }
}
