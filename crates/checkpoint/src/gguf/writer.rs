//! A Llama to write to a GGUF file: tensors are announced first, under the names of Hugging Face, and made one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use quench_format::Packed;
use safetensors::Dtype;
use serde_json::Value as Json;

use super::blocks::{BlockType, fits};
use super::config;
use super::container::{ALIGNMENT, ALIGNMENT_KEY, Elements, Metadata, Planned, Value, alignment, header};
use super::error::GgufError;
use super::names::{self, Heads};
use super::tokenizer::Tokenizer;
use crate::dialect::{self, Dialect, Unwritable};
use crate::file::AtomicFile;
use crate::source::{TensorInfo, TensorView, check_size};
use crate::writer::Bytes;
use crate::{CheckpointError, Layer, Source};

/// Makes the bytes of a tensor as they lie in the file.
type Make<'a> = Box<dyn FnOnce() -> Result<Vec<u8>, CheckpointError> + 'a>;

/// Writes a model of the architecture `llama` as one GGUF file that llama.cpp loads.
///
/// Tensors keep the order in which they were announced. Vectors, which llama.cpp wants so, are written as F32, which holds
/// every F16 and BF16; matrices as they are; packed ones as blocks, exactly or not at all. Rows of `q_proj` and `k_proj` are
/// put in the order of the file.
pub struct Writer<'a> {
    target: PathBuf,
    metadata: Metadata,
    /// Heads of the queries and of the keys.
    heads: [usize; 2],
    blocks: u64,
    tied: bool,
    names: BTreeSet<String>,
    tensors: Vec<(Planned, Elements, Make<'a>)>,
}

impl<'a> Writer<'a> {
    /// A writer of the file `target`, whose model is what `config.json` says of it.
    ///
    /// Errors: [`GgufError::Model`] for a model that a GGUF Llama cannot be.
    pub fn new(target: impl Into<PathBuf>, config: &Json, tokenizer: &Tokenizer) -> Result<Self, CheckpointError> {
        let target = target.into();
        let refused = |source| CheckpointError::Gguf { file: target.clone(), source };
        let mut metadata = Metadata::default();
        for (key, value) in [("general.architecture", config::ARCHITECTURE), ("general.type", "model")] {
            metadata.set(key, value);
        }
        metadata.set(ALIGNMENT_KEY, Value::from(ALIGNMENT as u32));
        let factors = config::write(config, &mut metadata).map_err(refused)?;
        tokenizer.write(&mut metadata);
        let heads = config::heads(&metadata).map_err(refused)?;
        let blocks = config["num_hidden_layers"].as_u64().unwrap_or_default();
        let tied = config["tie_word_embeddings"] == true;
        let (names, tensors) = (BTreeSet::new(), Vec::new());
        let mut writer = Self { target, metadata, heads, blocks, tied, names, tensors };
        if let Some(factors) = factors {
            let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
            let (elements, shape) = (Elements::Dense(Dtype::F32), vec![factors.len()]);
            writer.plan(names::FACTORS, names::FACTORS.to_owned(), elements, shape, Box::new(move || Ok(bytes)))?;
        }
        Ok(writer)
    }

    /// Sets an entry of the metadata, such as `general.name`, in place of the writer's own where it has one.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.metadata.set(key, value);
    }

    /// Announces a dense tensor by its name at Hugging Face.
    ///
    /// Errors: a name that a Llama has not, or twice; a type other than F32, F16 and BF16; bytes that do not fill the shape.
    pub fn dense(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
        bytes: impl Into<Bytes<'a>>,
    ) -> Result<(), CheckpointError> {
        let (shape, bytes) = (shape.into(), bytes.into());
        let file = self.file_name(name)?;
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(self.refused(name, format!("has elements of type {dtype}, expected F32, F16 or BF16")));
        }
        let heads = self.heads_of(name, &shape)?;
        let vector = shape.len() == 1;
        let elements = Elements::Dense(if vector { Dtype::F32 } else { dtype });
        let (target, name, info) = (self.target.clone(), name.to_owned(), TensorInfo { dtype, shape: shape.clone() });
        let make = Box::new({
            let name = name.clone();
            move || {
                let view = view(&target, &name, info, bytes)?;
                let bytes = match vector {
                    true => view.to_f32()?.into_iter().flat_map(f32::to_le_bytes).collect(),
                    false => view.bytes().to_vec(),
                };
                Ok(match heads {
                    Some(heads) => names::rows_of_file(&bytes, view.shape()[0], heads),
                    None => bytes,
                })
            }
        });
        self.plan(&name, file, elements, shape, make)
    }

    /// Announces a packed layer, whose blocks are made at once.
    ///
    /// Errors: [`CheckpointError::Unwritable`] for a matrix that no type holds exactly, with the schemes that would do; a
    /// name that a Llama has not, or twice.
    pub fn packed(&mut self, layer: &str, packed: &Packed) -> Result<(), CheckpointError> {
        let (coded, ordered) =
            (Layer { scheme: packed.scheme(), shape: packed.shape() }, packed.parts().order.is_some());
        let (kind, heads) = self.fitted(layer, &coded, ordered)?;
        let blocks = in_file_order(kind.encode(packed), coded.shape[0], heads);
        self.plan_blocks(layer, kind, coded.shape, Box::new(move || Ok(blocks)))
    }

    /// Announces a packed layer to be made when it is written; errors as [`Writer::packed`], and from
    /// [`Writer::finish`] where what is made is not what was announced.
    pub fn packed_later(
        &mut self,
        layer: &str,
        coded: Layer,
        make: impl FnOnce() -> Result<Packed, CheckpointError> + 'a,
    ) -> Result<(), CheckpointError> {
        let (kind, heads) = self.fitted(layer, &coded, false)?;
        let (name, shape) = (layer.to_owned(), coded.shape);
        let make = move || {
            let packed = make()?;
            let ordered = packed.parts().order.is_some();
            match fits(packed.scheme(), packed.shape(), ordered) {
                Ok(found) if found == kind && packed.shape() == shape => {
                    Ok(in_file_order(kind.encode(&packed), shape[0], heads))
                }
                _ => Err(unwritable(&name, format!("was told of {} {shape:?}, and given another", kind.spelling()))),
            }
        };
        self.plan_blocks(layer, kind, shape, Box::new(make))
    }

    /// Announces everything that a checkpoint holds, packed layers of any dialect and dense tensors, to be read when it is
    /// written; tables of RoPE's frequencies, which older checkpoints have, are left out.
    ///
    /// Errors: as [`Writer::dense`] and [`Writer::packed`].
    pub fn copy_all(&mut self, source: &'a dyn Source) -> Result<(), CheckpointError> {
        self.copy_with(source, move |layer| {
            let missing =
                || CheckpointError::MissingTensor { path: source.path().to_owned(), tensor: layer.to_owned() };
            dialect::read(source, layer)?.ok_or_else(missing)
        })
    }

    /// As [`copy_all`](Self::copy_all), with packed layers as `read` gives them; it is asked for each twice.
    ///
    /// Errors: as [`copy_all`](Self::copy_all), and those of `read`.
    pub fn copy_with(
        &mut self,
        source: &'a dyn Source,
        read: impl Fn(&str) -> Result<Packed, CheckpointError> + Clone + 'a,
    ) -> Result<(), CheckpointError> {
        let mut spelled = BTreeSet::new();
        for layer in dialect::layers(source) {
            let Some(dialect) = Dialect::of(source, &layer) else { continue };
            spelled.extend(dialect.tensors(source, &layer)?);
            let packed = read(&layer)?;
            let (coded, ordered) =
                (Layer { scheme: packed.scheme(), shape: packed.shape() }, packed.parts().order.is_some());
            self.fitted(&layer, &coded, ordered)?;
            let (name, read) = (layer.clone(), read.clone());
            self.packed_later(&layer, coded, move || read(&name))?;
        }
        for name in source.names() {
            if !spelled.contains(name) && !name.ends_with(FREQUENCIES) {
                let view = source.tensor(name)?;
                self.dense(name, view.dtype(), view.shape().to_vec(), view)?;
            }
        }
        Ok(())
    }

    /// Writes the file under a temporary name and renames it; gives its length in bytes.
    ///
    /// Errors: a tensor of the model that was not announced; what a tensor's maker says; [`CheckpointError::Write`].
    pub fn finish(mut self) -> Result<u64, CheckpointError> {
        let head = (!self.tied).then(|| "lm_head.weight".to_owned());
        for name in names::required(self.blocks).chain(head) {
            if names::to_file(&name).is_none_or(|file| !self.names.contains(&file)) {
                return Err(self.refused(&name, "is missing: config.json says that the model has it".to_owned()));
            }
        }
        self.metadata.set("general.quantization_version", Value::from(2));
        if self.metadata.get(FILE_TYPE).is_none() {
            self.metadata.set(FILE_TYPE, Value::from(self.file_type()));
        }
        let Self { target, metadata, tensors, .. } = self;
        let planned: Vec<_> = tensors.iter().map(|(planned, ..)| planned.clone()).collect();
        let refused = |source| CheckpointError::Gguf { file: target.clone(), source };
        let (head, _) = header(&metadata, &planned).map_err(refused)?;
        let alignment = alignment(&metadata).map_err(refused)?;
        let mut file = AtomicFile::create(&target)?;
        let mut written = head.len() as u64;
        file.write_all(&head).map_err(|source| file.failed(source))?;
        for (planned, _, make) in tensors {
            let mut bytes = make()?;
            if bytes.len() as u64 != planned.bytes {
                let (expected, found) = (planned.bytes, bytes.len() as u64);
                return Err(CheckpointError::Size { tensor: planned.name, expected, found });
            }
            bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
            written += bytes.len() as u64;
            file.write_all(&bytes).map_err(|source| file.failed(source))?;
        }
        file.commit()?;
        Ok(written)
    }

    /// The number that llama.cpp has for files of which most weights are as most of these are.
    fn file_type(&self) -> u32 {
        let mut weights = BTreeMap::<u32, usize>::new();
        for (Planned { shape, .. }, elements, _) in self.tensors.iter().filter(|(planned, ..)| planned.shape.len() > 1)
        {
            *weights.entry(file_type(*elements)).or_default() += shape.iter().product::<usize>();
        }
        weights.into_iter().max_by_key(|(_, weights)| *weights).map_or(0, |(number, _)| number)
    }

    fn file_name(&self, name: &str) -> Result<String, CheckpointError> {
        names::to_file(name).ok_or_else(|| self.refused(name, "is none of a Llama that GGUF knows".to_owned()))
    }

    /// The heads whose rows have to be put in another order.
    fn heads_of(&self, name: &str, shape: &[usize]) -> Result<Option<usize>, CheckpointError> {
        let heads = match names::heads(name) {
            Heads::None => return Ok(None),
            Heads::Query => self.heads[0],
            Heads::Key => self.heads[1],
        };
        match shape.first() {
            Some(&rows) if names::are_heads(rows, heads) => Ok(Some(heads)),
            _ => Err(self.refused(name, format!("has the shape {shape:?}, {heads} heads of pairs of rows expected"))),
        }
    }

    /// The type that holds a layer, and the heads whose rows have to be put in another order.
    fn fitted(&self, layer: &str, coded: &Layer, ordered: bool) -> Result<(BlockType, Option<usize>), CheckpointError> {
        let kind = fits(coded.scheme, coded.shape, ordered).map_err(|reason| unwritable(layer, reason))?;
        Ok((kind, self.heads_of(&format!("{layer}.weight"), &coded.shape)?))
    }

    fn plan_blocks(
        &mut self,
        layer: &str,
        kind: BlockType,
        shape: [usize; 2],
        make: Make<'a>,
    ) -> Result<(), CheckpointError> {
        let name = format!("{layer}.weight");
        let file = self.file_name(&name)?;
        self.plan(&name, file, Elements::Blocks(kind), shape.to_vec(), make)
    }

    /// - `name`: at Hugging Face, for messages; `file`: in the file
    fn plan(
        &mut self,
        name: &str,
        file: String,
        elements: Elements,
        shape: Vec<usize>,
        make: Make<'a>,
    ) -> Result<(), CheckpointError> {
        let (Some(number), Some(bytes)) = (elements.number(), elements.bytes(&shape)) else {
            return Err(self.refused(name, format!("cannot be {elements} of the shape {shape:?}")));
        };
        if !(1..=4).contains(&shape.len()) || shape.contains(&0) {
            return Err(
                self.refused(name, format!("has the shape {shape:?}, 1 to 4 axes expected, none of them empty"))
            );
        }
        if !self.names.insert(file.clone()) {
            return Err(self.refused(name, "was announced twice".to_owned()));
        }
        self.tensors.push((Planned { name: file, number, shape, bytes }, elements, make));
        Ok(())
    }

    fn refused(&self, tensor: &str, reason: String) -> CheckpointError {
        let source = GgufError::Tensor { tensor: tensor.to_owned(), reason };
        CheckpointError::Gguf { file: self.target.clone(), source }
    }
}

const FILE_TYPE: &str = "general.file_type";

/// What every program computes from `config.json`.
const FREQUENCIES: &str = ".rotary_emb.inv_freq";

/// `enum llama_ftype` of llama.cpp; of those with sizes, the medium one.
fn file_type(elements: Elements) -> u32 {
    match elements {
        Elements::Dense(Dtype::F16) => 1,
        Elements::Dense(Dtype::BF16) => 32,
        Elements::Dense(_) => 0,
        Elements::Blocks(kind) => match kind {
            BlockType::Q4_0 => 2,
            BlockType::Q4_1 => 3,
            BlockType::Q8_0 => 7,
            BlockType::Q5_0 => 8,
            BlockType::Q5_1 => 9,
            BlockType::Q2_K => 10,
            BlockType::Q3_K => 12,
            BlockType::Q4_K => 15,
            BlockType::Q5_K => 17,
            BlockType::Q6_K => 18,
            BlockType::IQ4_NL => 25,
            BlockType::IQ4_XS => 30,
            BlockType::MXFP4 => 38,
        },
    }
}

fn in_file_order(blocks: Vec<u8>, rows: usize, heads: Option<usize>) -> Vec<u8> {
    match heads {
        Some(heads) => names::rows_of_file(&blocks, rows, heads),
        None => blocks,
    }
}

fn unwritable(layer: &str, reason: String) -> CheckpointError {
    let source = Unwritable { dialect: Dialect::Gguf, reason };
    CheckpointError::Unwritable { layer: layer.to_owned(), source }
}

/// The bytes of a dense tensor, in memory or in a file.
fn view(target: &Path, name: &str, info: TensorInfo, bytes: Bytes<'_>) -> Result<TensorView, CheckpointError> {
    let owned = |bytes: Vec<u8>| TensorView::owned(target, name, info.dtype, info.shape.clone(), bytes);
    match bytes {
        Bytes::View(view) => check_size(name, info.dtype, &info.shape, view.bytes().len() as u64).map(|()| view),
        Bytes::Now(bytes) => owned(bytes.into_owned()),
        Bytes::Later(make) => owned(make()?),
    }
}
