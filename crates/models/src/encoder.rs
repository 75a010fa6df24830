//! [`Encoder`]: BERT, which reads a text in both directions, and the vectors of sentences that it gives.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quench_checkpoint::{Folder, Source};
use quench_nn::{LayerInfo, LoadError, Model, Part, Section, Tap};

use crate::config::Activation;
use crate::context::HIDDEN;
use crate::fields::Fields;
use crate::load::{Loader, Order, Table};
use crate::norm::LayerNorm;
use crate::positions::PositionTable;
use crate::{ModelError, Tokenizer, family};

mod block;

use block::Block;

/// The `model_type` of the configuration.
pub(crate) const MODEL_TYPE: &str = "bert";
/// A checkpoint with a head of its own keeps the encoder one name down.
const PREFIXES: [&str; 2] = ["", "bert."];

/// What an encoder is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Width of the hidden layer of a block.
    pub intermediate_size: usize,
    /// Heads; divides `hidden_size`.
    pub heads: usize,
    /// Blocks.
    pub blocks: usize,
    /// Rows of the table of positions: the longest text, in tokens.
    pub max_positions: usize,
    /// Rows of the table of text kinds; all tokens are of the first kind here.
    pub kinds: usize,
    /// The ε of the norms, added to the variance.
    pub norm_eps: f64,
    /// The function of the hidden layer.
    pub activation: Activation,
}

impl EncoderConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not JSON; if it asks for another architecture, relative positions or a causal mask;
    /// if a key is absent or makes no model, naming file and key.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let fields = Fields::read(path)?;
        match fields.text("model_type")? {
            MODEL_TYPE => {}
            other => return Err(fields.unsupported("model_type", other, &[MODEL_TYPE])),
        }
        if let Some(other @ ("relative_key" | "relative_key_query")) =
            fields.optional_text("position_embedding_type")?
        {
            return Err(fields.unsupported("position_embedding_type", other, &["absolute"]));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if fields.flag(key)? {
                return Err(fields.unsupported(key, "true", &["false"]));
            }
        }
        let (hidden_size, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        if !hidden_size.is_multiple_of(heads) {
            return Err(fields.wrong("num_attention_heads", format!("a divisor of hidden_size {hidden_size}")));
        }
        let blocks = fields.size("num_hidden_layers")?;
        if blocks > crate::config::MOST_LAYERS {
            return Err(fields.wrong("num_hidden_layers", format!("at most {}", crate::config::MOST_LAYERS)));
        }
        Ok(Self {
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            heads,
            blocks,
            max_positions: fields.size("max_position_embeddings")?,
            kinds: fields.size("type_vocab_size")?,
            norm_eps: fields.positive("layer_norm_eps")?,
            activation: family::activation(&fields, "hidden_act")?,
        })
    }
}

/// A batch of tokenized sentences, padded to the longest.
#[derive(Clone, Debug)]
pub struct Sentences {
    /// `[batch, seq]`.
    ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 at a token and 0 at padding; absent where nothing is padded.
    mask: Option<Tensor<2>>,
}

impl Sentences {
    /// A batch from the ids of each sentence.
    ///
    /// # Panics
    ///
    /// If there is no sentence, or one without ids.
    pub fn new(sentences: &[&[u32]], device: &Device) -> Self {
        let lengths = sentences.iter().map(|ids| ids.len());
        let (Some(longest), Some(shortest)) = (lengths.clone().max(), lengths.min()) else { panic!("no sentence") };
        assert!(shortest > 0, "a sentence without tokens");
        let shape = [sentences.len(), longest];
        let padded = |ids: &[u32]| (0..longest).map(|at| ids.get(at).map_or(0, |id| *id as i32)).collect::<Vec<_>>();
        let ids = sentences.iter().flat_map(|ids| padded(ids)).collect();
        let mask = (shortest < longest).then(|| {
            let row = |ids: &[u32]| (0..longest).map(|at| if at < ids.len() { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
            let values: Vec<f32> = sentences.iter().flat_map(|ids| row(ids)).collect();
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        });
        Self { ids: Tensor::from_data(TensorData::new::<i32, _>(ids, shape), device), mask }
    }

    /// The vectors of these sentences, `[batch, hidden]`, from what an encoder makes of them, `[batch, seq, hidden]`: the mean over the
    /// tokens, divided by its norm.
    pub fn pool(&self, state: Tensor<3>) -> Tensor<2> {
        let [batch, seq, hidden] = state.dims();
        let mean = match self.mask.clone() {
            None => state.mean_dim(1),
            Some(mask) => {
                let mask = mask.reshape([batch, seq, 1]);
                (state * mask.clone()).sum_dim(1) / mask.sum_dim(1)
            }
        };
        let mean = mean.reshape([batch, hidden]);
        let norm = mean.clone().square().sum_dim(1).sqrt().clamp_min(1e-12); // [batch, 1]
        mean / norm
    }
}

/// What one block hands the next: the hidden state, and where there is padding.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// `[batch, seq, hidden]`.
    state: Tensor<3>,
    padding: Option<Padding>,
}

impl Hidden {
    /// The hidden state, `[batch, seq, hidden]`.
    pub fn state(&self) -> &Tensor<3> {
        &self.state
    }
}

/// The mask of a batch, in the shapes that are needed.
#[derive(Clone, Debug)]
struct Padding {
    /// `[batch, seq, 1]`, 1 at a token and 0 at padding.
    rows: Tensor<3>,
    /// `[batch, 1, 1, seq]`, added to the scores.
    keys: Tensor<4>,
}

/// A BERT encoder.
///
/// Padding is not attended to, and what linear layers read there is 0: calibration statistics are those of the tokens.
///
/// Source: Devlin et al. 2019, "BERT"; its use for sentences: Reimers and Gurevych 2019, "Sentence-BERT".
#[derive(Clone)]
pub struct Encoder {
    config: Arc<EncoderConfig>,
    source: Arc<dyn Source>,
    device: Device,
    words: Table,
    positions: PositionTable,
    kinds: PositionTable,
    norm: LayerNorm,
    blocks: Vec<Block>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("path", &self.source.path()).field("config", &self.config).finish()
    }
}

impl Encoder {
    /// Opens a Hugging Face folder, as [`open`](crate::open) does for decoders.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, the architecture another, a tensor missing or of another shape than the
    /// configuration calls for; naming the file and the key or tensor.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = EncoderConfig::read(&folder.join("config.json"))?;
        Self::new(config, Arc::new(Folder::open(folder)?), device)
    }

    /// An encoder over any source of tensors with Hugging Face names.
    ///
    /// # Errors
    ///
    /// As [`Encoder::open`].
    pub fn new(config: EncoderConfig, source: Arc<dyn Source>, device: &Device) -> Result<Self, ModelError> {
        let there = |prefix: &&str| source.info(&format!("{prefix}embeddings.LayerNorm.weight")).is_some();
        let prefix = PREFIXES.into_iter().find(there).unwrap_or(PREFIXES[0]);
        let root = Loader { source: &source, device, path: prefix.to_owned(), block: None, order: Order::OutIn };
        let embeddings = root.at("embeddings");
        let hidden = config.hidden_size;
        let table = |name: &str, rows| PositionTable::new(&embeddings, name, [rows, hidden]);
        let blocks = (0..config.blocks).map(|index| {
            let loader = Loader { block: Some(index), ..root.at("encoder.layer").at(&index.to_string()) };
            Block::new(&loader, &config)
        });
        Ok(Self {
            words: embeddings.table("word_embeddings", [config.vocab_size, hidden])?,
            positions: table("position_embeddings", config.max_positions)?,
            kinds: table("token_type_embeddings", config.kinds)?,
            norm: LayerNorm::new(&embeddings, "LayerNorm", hidden, config.norm_eps)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            config: Arc::new(config),
            device: device.clone(),
            source,
        })
    }

    /// What the encoder is made of.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Where the weights come from.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Where the tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// One vector of length 1 per sentence, `[batch, hidden]`: the mean over its tokens, divided by its norm.
    ///
    /// ```text
    /// e = m / |m|,  m = mean of h_t over the tokens t
    /// ```
    ///
    /// # Panics
    ///
    /// If a sentence is longer than the model's positions.
    pub fn embed(&self, sentences: Sentences) -> Tensor<2> {
        let state = self.forward(sentences.clone(), &mut ());
        sentences.pool(state)
    }

    /// The vectors of texts, `[texts, hidden]`, in their order; long texts are cut to the model's positions.
    ///
    /// Texts of like length go together, `batch` at a time, so that little is computed for padding.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails on a text.
    ///
    /// # Panics
    ///
    /// If `texts` is empty or `batch` is 0.
    pub fn embed_texts(
        &self,
        tokenizer: &Tokenizer,
        texts: &[impl AsRef<str>],
        batch: usize,
    ) -> Result<Tensor<2>, ModelError> {
        assert!(!texts.is_empty(), "no texts");
        let sentences = texts.iter().map(|text| self.tokens(tokenizer, text.as_ref()));
        let sentences = sentences.collect::<Result<Vec<Vec<u32>>, ModelError>>()?;
        let mut order: Vec<usize> = (0..sentences.len()).collect();
        order.sort_by_key(|&index| sentences[index].len());
        let parts = order.chunks(batch).map(|batch| {
            let batch: Vec<&[u32]> = batch.iter().map(|&index| sentences[index].as_slice()).collect();
            self.embed(Sentences::new(&batch, &self.device))
        });
        let sorted = Tensor::cat(parts.collect(), 0);
        let mut places = vec![0i32; order.len()];
        for (place, index) in order.into_iter().enumerate() {
            places[index] = place as i32;
        }
        let places = Tensor::<1, Int>::from_data(places.as_slice(), &self.device);
        Ok(sorted.select(0, places))
    }

    /// The ids of one text with what the tokenizer puts around it; cut before the last token if it is too long.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails on the text, or gives it no token.
    pub fn tokens(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut ids = tokenizer.encode(text, true)?;
        match ids.last() {
            None => return Err(ModelError::Prompt("has no tokens".to_owned())),
            Some(&last) if ids.len() > self.config.max_positions => {
                ids.truncate(self.config.max_positions - 1);
                ids.push(last);
            }
            Some(_) => {}
        }
        Ok(ids)
    }
}

impl Model for Encoder {
    type Input = Sentences;
    type Carry = Hidden;

    fn layers(&self) -> Vec<LayerInfo> {
        [&self.words.info].into_iter().chain(self.blocks.iter().flat_map(Block::layers)).cloned().collect()
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn load(&mut self, section: Section) -> Result<(), LoadError> {
        match section {
            Section::Embedding => {
                self.words.load()?;
                self.positions.load()?;
                self.kinds.load()?;
                self.norm.load()?;
            }
            Section::Block(index) => self.blocks[index].load()?,
            Section::Head => {}
        }
        Ok(())
    }

    fn release(&mut self, section: Section) {
        match section {
            Section::Embedding => self.words.release(),
            Section::Block(index) => self.blocks[index].release(),
            Section::Head => {}
        }
    }

    fn start<T: Tap>(&self, input: Sentences, _tap: &mut T) -> Hidden {
        let [batch, seq] = input.ids.dims();
        let x = self.positions.add(self.words.embedding.forward(input.ids), 0);
        let state = self.norm.forward(self.kinds.add_row(x, 0));
        let padding = input.mask.map(|mask| Padding {
            rows: mask.clone().reshape([batch, seq, 1]),
            keys: ((mask - 1.0) * -HIDDEN).reshape([batch, 1, 1, seq]),
        });
        Hidden { state, padding }
    }

    fn block<T: Tap>(&self, index: usize, carry: Hidden, tap: &mut T) -> Hidden {
        let Hidden { state, padding } = carry;
        Hidden { state: self.blocks[index].forward(state, padding.as_ref(), tap), padding }
    }

    /// The last hidden state, `[batch, seq, hidden]`; an encoder has no logits.
    fn finish<T: Tap>(&self, carry: Hidden, _tap: &mut T) -> Tensor<3> {
        carry.state
    }

    fn open(&mut self, section: Section) -> Vec<Part<'_>> {
        match section {
            Section::Embedding => vec![self.words.open()],
            Section::Block(index) => self.blocks[index].open().collect(),
            Section::Head => Vec::new(),
        }
    }
}
