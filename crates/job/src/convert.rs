//! From one container to another: packed layers bit for bit, decoded, or rounded again where that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use quench_checkpoint::dialect::{self, Dialect};
use quench_checkpoint::gguf::{self, Gguf};
use quench_checkpoint::lsq::LSQ_WEIGHTS;
use quench_checkpoint::native::{self, NamedTensor};
use quench_checkpoint::{
    CheckpointError, Coding, Dtype, Folder, Layer, Source, Staging, Writer, Written, write_atomically,
};
use quench_models::{TURNED_MLP, companion};
use serde::Serialize;
use serde_json::Value;

use crate::job::MAX_SHARD_BYTES;
use crate::requantize::{Fitted, Loss, Requantize, read};
use crate::save::version;
use crate::{JobError, Observe, Overwrite, Step};

/// How a checkpoint is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// One `.lsq` file, codes packed to the last bit.
    Lsq,
    /// safetensors, packed layers in Quench's dialect.
    Quench,
    /// safetensors with dense floats only: packed layers are decoded to f32.
    Safetensors,
    /// safetensors, packed layers in the dialect of GPTQ.
    Gptq,
    /// safetensors, packed layers in the dialect of AWQ.
    Awq,
    /// safetensors, packed layers in that of compressed-tensors.
    #[serde(rename = "compressed-tensors")]
    Compressed,
    /// One GGUF file, for llama.cpp.
    Gguf,
}

/// Every container, in the order in which they are listed.
const ALL: [Container; 7] = [
    Container::Lsq,
    Container::Quench,
    Container::Safetensors,
    Container::Gptq,
    Container::Awq,
    Container::Compressed,
    Container::Gguf,
];

impl Container {
    fn extension(self) -> &'static str {
        match self {
            Self::Lsq => "lsq",
            Self::Gguf => "gguf",
            _ => "safetensors",
        }
    }

    /// The dialect of another tool that it is.
    pub(crate) fn foreign(self) -> Option<Dialect> {
        match self {
            Self::Lsq | Self::Quench | Self::Safetensors | Self::Gguf => None,
            Self::Gptq => Some(Dialect::Gptq),
            Self::Awq => Some(Dialect::Awq),
            Self::Compressed => Some(Dialect::Compressed),
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lsq => "lsq",
            Self::Quench => "quench",
            Self::Safetensors => "safetensors",
            Self::Gptq => "gptq",
            Self::Awq => "awq",
            Self::Compressed => "compressed-tensors",
            Self::Gguf => "gguf",
        })
    }
}

impl FromStr for Container {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let found = ALL.into_iter().find(|container| container.to_string() == text);
        found.ok_or_else(|| JobError::UnknownContainer { name: text.to_owned() })
    }
}

/// A checkpoint to be written again in another container.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// A folder, a `.safetensors`, `.lsq` or `.gguf` file, or a PyTorch file of tensors.
    pub from: PathBuf,
    /// A file if its name ends in `.lsq`, `.safetensors` or `.gguf`, else a folder, to which the files beside the weights go too.
    pub to: PathBuf,
    /// What to write.
    pub container: Container,
    /// What to do if the output exists.
    pub overwrite: Overwrite,
    /// How codes are kept, in the containers that are ours.
    pub coding: Coding,
    /// What becomes of packed layers that the container cannot hold as they are.
    pub requantize: Requantize,
}

/// What a conversion did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Converted {
    /// The folder or file written.
    pub output: PathBuf,
    /// Bytes of tensor data read.
    pub bytes_before: u64,
    /// Bytes of tensor data written.
    pub bytes: u64,
    /// Layers that stayed packed, bit for bit.
    pub packed: usize,
    /// Packed layers that were decoded to f32.
    pub decoded: usize,
    /// Packed layers that are on another grid than before.
    pub requantized: usize,
    /// What those lost, by kind.
    pub losses: Vec<Loss>,
    /// Other tensors, each with its own bytes.
    pub dense: usize,
}

impl Conversion {
    /// Reads, converts and writes one tensor or layer at a time. The output appears whole or not at all.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint; [`JobError::Unfit`] where the container cannot hold what is in it; entropy-coded codes in a container that has none;
    /// an output that exists, unless forced, or is the input, or has the name of another container; [`CheckpointError::Stopped`] if `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Converted, JobError> {
        let source = &Folder::open(&self.from)?;
        if let (Ok(from), Ok(to)) = (self.from.canonicalize(), self.to.canonicalize())
            && from == to
        {
            return Err(JobError::OutputIsInput { path: self.to.clone() });
        }
        let ours = matches!(self.container, Container::Quench | Container::Lsq);
        if !ours && self.coding == Coding::Entropy {
            return Err(JobError::NoEntropyCoding { container: self.container });
        }
        let turned = || self.companion("config.json").is_ok_and(|config| config[TURNED_MLP] == Value::Bool(true));
        if !ours && turned() {
            return Err(JobError::Turned { path: self.from.clone(), key: TURNED_MLP, container: self.container });
        }
        match self.is_file()? {
            true => self.write_file(source, observe),
            false => self.write_folder(source, observe),
        }
    }

    /// Whether the output is one file.
    fn is_file(&self) -> Result<bool, JobError> {
        let extension = self.to.extension().and_then(|extension| extension.to_str());
        let named = extension.filter(|extension| ["lsq", "safetensors", "gguf"].contains(extension));
        match (named, self.container.extension()) {
            (None, "gguf") => {
                Err(JobError::Extension { path: self.to.clone(), container: self.container, expected: "gguf" })
            }
            (None, _) => Ok(false),
            (Some(found), expected) if found == expected => Ok(true),
            (Some(_), expected) => {
                Err(JobError::Extension { path: self.to.clone(), container: self.container, expected })
            }
        }
    }

    fn write_file(&self, source: &dyn Source, observe: Observe<'_>) -> Result<Converted, JobError> {
        if self.to.exists() && self.overwrite == Overwrite::Refuse {
            return Err(JobError::OutputExists { path: self.to.clone() });
        }
        let fitted = &Fitted::new(source, self.container, self.requantize, observe)?;
        let writer = match self.container {
            Container::Gguf => return self.write_gguf(source, fitted, observe),
            Container::Lsq => Writer::lsq(&self.to),
            _ => Writer::safetensors(&self.to),
        };
        self.write(source, fitted, writer, observe)
    }

    /// Weights, configuration and tokenizer in one file.
    fn write_gguf(
        &self,
        source: &dyn Source,
        fitted: &Fitted<'_>,
        observe: Observe<'_>,
    ) -> Result<Converted, JobError> {
        let config = self.companion("config.json")?;
        let refused = |source| CheckpointError::Gguf { file: self.from.clone(), source };
        let tokenizer = match self.gguf()? {
            Some(model) => model.tokenizer()?,
            None => gguf::Tokenizer::from_json(&self.companion("tokenizer.json")?, &config).map_err(refused)?,
        };
        let mut writer = gguf::Writer::new(&self.to, &config, &tokenizer)?;
        writer.copy_with(source, |layer| fitted.read(layer))?;
        let packed = dialect::layers(source);
        let mut parts = BTreeSet::new();
        for layer in &packed {
            let spelling = Dialect::of(source, layer);
            parts.extend(spelling.map(|spelling| spelling.tensors(source, layer)).transpose()?.unwrap_or_default());
        }
        let dense = source.names().into_iter().filter(|name| !parts.contains(*name)).count();
        if observe(Step::Phase { name: "convert", total: packed.len() + dense }).is_break() {
            return Err(CheckpointError::Stopped { file: self.to.clone() }.into());
        }
        let bytes = writer.finish()?;
        let bytes_before = source.names().into_iter().filter_map(|name| source.stored_bytes(name)).sum();
        let packed = packed.len() - fitted.changed();
        Ok(Converted { bytes_before, bytes, packed, dense, ..self.begun(fitted) })
    }

    /// The input, if it is a GGUF file.
    fn gguf(&self) -> Result<Option<Gguf>, JobError> {
        let named = self.from.extension().is_some_and(|extension| extension == "gguf") && self.from.is_file();
        Ok(named.then(|| Gguf::open(&self.from)).transpose()?)
    }

    /// A file beside the weights, or made from what a GGUF file says.
    fn companion(&self, name: &str) -> Result<Value, JobError> {
        let path = self.from.join(name);
        let text = companion(&self.from, name).map_err(|source| JobError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| JobError::Read { path, source: source.into() })
    }

    /// What was done before anything is written.
    fn begun(&self, fitted: &Fitted<'_>) -> Converted {
        let (output, requantized, losses) = (self.to.clone(), fitted.changed(), fitted.losses().to_vec());
        Converted { output, bytes_before: 0, bytes: 0, packed: 0, decoded: 0, requantized, losses, dense: 0 }
    }

    fn write_folder(&self, source: &dyn Source, observe: Observe<'_>) -> Result<Converted, JobError> {
        let staging = Staging::create(&self.to, self.overwrite == Overwrite::Force);
        let staging = staging.map_err(|error| match error {
            CheckpointError::Interrupted { folder } => JobError::Leftover { path: folder },
            error => JobError::Checkpoint(error),
        })?;
        let fitted = &Fitted::new(source, self.container, self.requantize, observe)?;
        // Before anything is written, since it refuses layers that no configuration describes together.
        let mark = self.mark(source, fitted)?;
        let folder = staging.model();
        let writer = match self.container {
            Container::Lsq => Writer::lsq(folder.join(LSQ_WEIGHTS)),
            _ => Writer::create(&folder, MAX_SHARD_BYTES)?,
        };
        let mut converted = self.write(source, fitted, writer, observe)?;
        if self.from.is_dir() {
            self.companions(&folder, &mark)?;
        } else if self.gguf()?.is_some() {
            let config = mark.on(self.companion("config.json")?.to_string().into_bytes());
            write_atomically(folder.join("config.json"), &config)?;
            write_atomically(folder.join("tokenizer.json"), self.companion("tokenizer.json")?.to_string().as_bytes())?;
        }
        converted.output = staging.publish()?;
        Ok(converted)
    }

    fn write<'a>(
        &self,
        source: &'a dyn Source,
        fitted: &'a Fitted<'a>,
        mut writer: Writer<'a>,
        observe: Observe<'_>,
    ) -> Result<Converted, JobError> {
        let bytes_before = source.names().into_iter().filter_map(|name| source.stored_bytes(name)).sum();
        let mut converted = Converted { bytes_before, ..self.begun(fitted) };
        writer = writer.with_coding(self.coding);
        let mut parts = BTreeSet::new();
        let packed = dialect::layers(source);
        for layer in &packed {
            let spelling = Dialect::of(source, layer);
            parts.extend(spelling.map(|spelling| spelling.tensors(source, layer)).transpose()?.unwrap_or_default());
        }
        let dense =
            source.names().into_iter().filter(|name| !parts.contains(*name)).map(|name| (name.to_owned(), false));
        // By name, so that the parts of a block stay together whatever they are.
        let order: BTreeMap<String, bool> = dense.chain(packed.into_iter().map(|layer| (layer, true))).collect();
        let total = order.len();
        for (name, packed) in order {
            if !packed {
                writer.copy(source, &name)?;
                converted.dense += 1;
                continue;
            }
            let own = native::is_packed(source, &name);
            match (self.container, self.container.foreign()) {
                (Container::Safetensors, _) | (_, Some(_)) if self.decodes(&name) => {
                    let shape = read(source, &name)?.shape();
                    writer.add_later(format!("{name}.weight"), Dtype::F32, shape, move || decode(source, &name))?;
                    converted.decoded += 1;
                    continue;
                }
                (_, Some(spelling)) => {
                    let tensors = spelled(fitted, &name, spelling)?;
                    for (at, NamedTensor { name: tensor, dtype, shape, .. }) in tensors.into_iter().enumerate() {
                        let layer = name.clone();
                        // Written again from the source when its turn comes, so that one layer is in memory at a time.
                        writer.add_later(tensor, dtype, shape, move || {
                            Ok(spelled(fitted, &layer, spelling)?.swap_remove(at).bytes)
                        })?;
                    }
                }
                _ if own => writer.copy_packed(source, &name)?,
                _ => {
                    let packed = read(source, &name)?;
                    let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
                    let ordered = packed.parts().order.is_some();
                    writer.packed_later(name.clone(), coded, ordered, move || read(source, &name))?;
                }
            }
            converted.packed += 1;
        }
        converted.packed -= converted.requantized;
        for (key, value) in source.metadata() {
            writer.metadata(key, value);
        }
        // Whoever observes may stop before anything is written.
        let stopped = || CheckpointError::Stopped { file: self.to.clone() };
        if observe(Step::Phase { name: "convert", total }).is_break() {
            return Err(stopped().into());
        }
        let mut done = 0;
        let Written { tensor_bytes, .. } = writer.finish_with(&mut |what| {
            let flow = observe(Step::Progress { done, of: total, what });
            done += 1;
            flow
        })?;
        converted.bytes = tensor_bytes;
        Ok(converted)
    }

    /// Whether a packed layer becomes dense: all of them, or tables that rows are looked up in, which the readers of no dialect expect packed.
    fn decodes(&self, layer: &str) -> bool {
        self.container == Container::Safetensors || self.container.foreign().is_some() && is_table(layer)
    }

    /// What the configuration will say of the quantization.
    fn mark(&self, source: &dyn Source, fitted: &Fitted<'_>) -> Result<Mark, JobError> {
        let layers = fitted.grids();
        let Some((first, _)) = layers.first() else {
            if !dialect::layers(source).is_empty() {
                return Ok(Mark::None);
            }
            // What the source decodes is dense from now on.
            let said = source.quantization().and_then(|config| config.get("quant_method")).and_then(Value::as_str);
            return Ok(if matches!(said, Some("exl3" | "bitsandbytes")) { Mark::None } else { Mark::AsItIs });
        };
        let spelling = match (self.container, self.container.foreign()) {
            (Container::Safetensors, _) => return Ok(Mark::None),
            (_, Some(spelling)) => spelling,
            // Our own mark names the recipe too.
            _ if native::is_packed(source, first) => return Ok(Mark::Version(version(self.coding))),
            _ => Dialect::Native,
        };
        let matrices = source.names().into_iter().filter_map(|name| name.strip_suffix(".weight"));
        let is_matrix = |layer: &&str| {
            // Some dialects have the codes of a packed layer under this name.
            let packed = layers.iter().any(|(known, _)| known == layer);
            !packed && source.info(&format!("{layer}.weight")).is_some_and(|info| info.shape.len() == 2)
        };
        let dense: Vec<String> = matrices.filter(is_matrix).map(str::to_owned).collect();
        Ok(Mark::Set(spelling.config_of(&layers, &dense).map_err(JobError::Mixed)?))
    }

    /// What lies beside the weights: configuration, tokenizer, plan, licence.
    fn companions(&self, folder: &Path, mark: &Mark) -> Result<(), JobError> {
        let failed = |path: &Path, source| JobError::Read { path: path.to_path_buf(), source };
        for entry in fs::read_dir(&self.from).map_err(|error| failed(&self.from, error))? {
            let path = entry.map_err(|error| failed(&self.from, error))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file()) else {
                continue;
            };
            if !travels(name) {
                continue;
            }
            let mut bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
            if name == "config.json" {
                bytes = mark.on(bytes);
            }
            write_atomically(folder.join(name), &bytes)?;
        }
        // Sentence encoders keep how they pool one folder down.
        let pooling = self.from.join(POOLING);
        if pooling.is_file() {
            let (bytes, target) = (fs::read(&pooling).map_err(|error| failed(&pooling, error))?, folder.join(POOLING));
            let parent = target.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(|source| JobError::Write { path: parent.to_path_buf(), source })?;
            write_atomically(target, &bytes)?;
        }
        Ok(())
    }
}

const POOLING: &str = "1_Pooling/config.json";

/// Whether a file belongs to a model and is no weights.
fn travels(name: &str) -> bool {
    let kinds = [".json", ".txt", ".toml", ".jinja", ".model", ".md"];
    let known = kinds.into_iter().any(|kind| name.ends_with(kind)) || ["LICENSE", "NOTICE"].contains(&name);
    known && !name.starts_with('.') && !name.ends_with(".index.json")
}

/// Whether a layer is an embedding, by the names that models have for it.
pub(crate) fn is_table(layer: &str) -> bool {
    let tables = ["embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "token_type_embeddings"];
    layer.rsplit('.').next().is_some_and(|name| tables.contains(&name))
}

/// What a configuration says of the quantization of the weights beside it.
enum Mark {
    /// What it said before.
    AsItIs,
    /// The same but for the version of our files.
    Version(u64),
    /// Nothing: they are dense.
    None,
    /// This.
    Set(Value),
}

impl Mark {
    /// A configuration with the mark; what is no configuration stays as it is.
    fn on(&self, bytes: Vec<u8>) -> Vec<u8> {
        const KEY: &str = "quantization_config";
        const VERSION: &str = "format_version";
        let Ok(Value::Object(mut config)) = serde_json::from_slice(&bytes) else { return bytes };
        match self {
            Self::AsItIs => return bytes,
            Self::Version(version) => match config.get_mut(KEY).and_then(|mark| mark.get_mut(VERSION)) {
                Some(said) if said.as_u64() != Some(*version) => *said = Value::from(*version),
                _ => return bytes,
            },
            Self::None => drop(config.shift_remove(KEY)),
            Self::Set(value) => drop(config.insert(KEY.to_owned(), value.clone())),
        }
        let mut text = serde_json::to_vec_pretty(&config).unwrap_or(bytes);
        text.push(b'\n');
        text
    }
}

/// A layer in the dialect of another tool.
fn spelled(fitted: &Fitted<'_>, layer: &str, dialect: Dialect) -> Result<Vec<NamedTensor>, CheckpointError> {
    let packed = fitted.read(layer)?;
    dialect.write(layer, &packed).map_err(|source| CheckpointError::Unwritable { layer: layer.to_owned(), source })
}

/// A packed layer as little-endian f32.
fn decode(source: &dyn Source, layer: &str) -> Result<Vec<u8>, CheckpointError> {
    Ok(read(source, layer)?.decode().into_iter().flat_map(f32::to_le_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_spelled_and_read_back() {
        for container in ALL {
            assert_eq!(container.to_string().parse::<Container>().ok(), Some(container));
        }
        let error = "onnx".parse::<Container>().unwrap_err().to_string();
        assert!(error.contains("onnx") && error.contains("lsq, quench, safetensors, gptq"), "{error}");
    }

    #[test]
    fn what_travels_is_no_weights() {
        for name in ["config.json", "tokenizer.json", "plan.toml", "vocab.txt", "LICENSE", "tokenizer.model"] {
            assert!(travels(name), "{name}");
        }
        for name in ["model.safetensors", "model.lsq", "model.safetensors.index.json", "pytorch_model.bin", ".x.json"] {
            assert!(!travels(name), "{name}");
        }
    }

    #[test]
    fn the_mark_of_a_configuration() {
        let ours = || br#"{"a":1,"quantization_config":{"quant_method":"quench"},"b":2}"#.to_vec();
        assert_eq!(Mark::None.on(ours()), b"{\n  \"a\": 1,\n  \"b\": 2\n}\n");
        assert_eq!(Mark::AsItIs.on(ours()), ours());
        assert_eq!(Mark::Version(2).on(ours()), ours());
        let versions = br#"{"quantization_config":{"format_version":1}}"#.to_vec();
        assert_eq!(Mark::Version(1).on(versions.clone()), versions);
        let newer = String::from_utf8(Mark::Version(2).on(versions)).unwrap();
        assert!(newer.contains("\"format_version\": 2"), "{newer}");
        let set = Mark::Set(serde_json::json!({ "quant_method": "gptq" })).on(ours());
        let set: Value = serde_json::from_slice(&set).unwrap();
        assert_eq!((&set["quantization_config"]["quant_method"], &set["b"]), (&"gptq".into(), &2.into()));
        for other in [&b"[]"[..], b"no JSON"] {
            assert_eq!(Mark::None.on(other.to_vec()), other);
        }
    }
}
