//! [`Decoder`]: the one decoder that serves every family.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Int, Tensor};
use quench_checkpoint::dialect::Dialect;
use quench_checkpoint::{Folder, Source};
use quench_nn::{Gain, LayerInfo, LoadError, Model, Part, Seam, Section, Tap};

use crate::ModelError;
use crate::attention::{Attention, capped};
use crate::cache::{Cache, LayerCache};
use crate::config::{DecoderConfig, LayerConfig, Norms, Positions};
use crate::context::Context;
use crate::family;
use crate::load::{Layer, Loader, Table};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::positions::PositionTable;

mod symmetry;

/// The input of the head.
const HEAD_SITE: &str = "lm_head.input";

/// Opens a Hugging Face folder: reads the configuration, the headers, and packed layers; dense weights are read when
/// they are first used, or by [`Model::load`].
///
/// - `device`: where the tensors are made, in f32; only an embedding that is no head stays in the halves of its file
///
/// # Errors
///
/// If a file is missing or damaged, the architecture unknown, a tensor missing or of another shape than the
/// configuration calls for; naming the file and the key or tensor.
pub fn open(folder: &Path, device: &Device) -> Result<Decoder, ModelError> {
    let config = DecoderConfig::read(&folder.join("config.json"))?;
    Decoder::new(config, Arc::new(Folder::open(folder)?), device)
}

/// A causal language model.
///
/// A clone shares what is loaded, and goes its own way from there.
#[derive(Clone)]
pub struct Decoder {
    config: Arc<DecoderConfig>,
    source: Arc<dyn Source>,
    device: Device,
    embedding: Table,
    /// Absent where positions are rotary.
    positions: Option<PositionTable>,
    blocks: Vec<Block>,
    norm: Norm,
    /// Absent in a tied model.
    head: Option<Layer>,
    /// The context of the last [`Model::start`]: runs of equal length share it.
    context: Arc<Mutex<Option<Arc<Context>>>>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, device) = (self.source.path(), &self.device);
        f.debug_struct("Decoder").field("path", &path).field("device", device).field("config", &self.config).finish()
    }
}

/// What one block hands the next: the hidden state, and what all blocks share.
#[derive(Clone, Debug)]
pub struct Carry {
    hidden: Tensor<3>,
    context: Arc<Context>,
}

impl Carry {
    /// The hidden state, `[batch, seq, hidden]`.
    pub fn hidden(&self) -> &Tensor<3> {
        &self.hidden
    }
}

/// One block.
#[derive(Clone)]
struct Block {
    before_attention: Norm,
    attention: Attention,
    after_attention: Option<Norm>,
    before_mlp: Norm,
    mlp: Mlp,
    after_mlp: Option<Norm>,
    /// The sites of the residual stream behind the attention and behind the block.
    residual: [String; 2],
}

impl Block {
    fn new(loader: &Loader<'_>, config: &DecoderConfig, layer: LayerConfig) -> Result<Self, ModelError> {
        let names = family::names(config.family);
        let norm = |name: &str| Norm::new(loader, name, config.hidden_size, config);
        // "post_attention" is the norm before the gated layer in most families, and after the attention in Gemma 2.
        let (after_attention, before_mlp, after_mlp) = match config.norms {
            Norms::Before => (None, names.before_mlp, None),
            Norms::Around => {
                let after_mlp = norm("post_feedforward_layernorm")?;
                (Some(norm("post_attention_layernorm")?), "pre_feedforward_layernorm", Some(after_mlp))
            }
        };
        let residual = ["residual.attention", "residual.mlp"].map(|site| loader.site(site));
        let mut attention = Attention::new(&loader.at(names.attention), config, layer)?;
        let mut mlp = Mlp::new(&loader.at("mlp"), config)?;
        if config.norms == Norms::Before {
            attention.output_mut().info.residual = Some(residual[0].clone());
            mlp.output_mut().info.residual = Some(residual[1].clone());
        }
        Ok(Self {
            before_attention: norm(names.before_attention)?,
            attention,
            after_attention,
            before_mlp: norm(before_mlp)?,
            mlp,
            after_mlp,
            residual,
        })
    }

    fn forward<T: Tap>(
        &self,
        x: Tensor<3>,
        context: &Context,
        cache: Option<&mut LayerCache>,
        tap: &mut T,
    ) -> Tensor<3> {
        let after = |norm: &Option<Norm>, y| match norm {
            Some(norm) => norm.forward(y),
            None => y,
        };
        let shape = x.dims();
        let x = tap.reach(&self.residual[0], shape, |tap| {
            let y = self.attention.forward(self.before_attention.forward(x.clone()), context, cache, tap);
            x + after(&self.after_attention, y)
        });
        tap.reach(&self.residual[1], shape, |tap| {
            let y = self.mlp.forward(self.before_mlp.forward(x.clone()), tap);
            x + after(&self.after_mlp, y)
        })
    }

    /// The gains of all norms.
    fn gains(&mut self) -> Vec<Gain<'_>> {
        let after = [&mut self.after_attention, &mut self.after_mlp].into_iter().flatten();
        let norms = [&mut self.before_attention, &mut self.before_mlp].into_iter().chain(after);
        norms.flat_map(Norm::gains).chain(self.attention.gains()).collect()
    }

    fn load(&mut self) -> Result<(), ModelError> {
        self.before_attention.load()?;
        self.before_mlp.load()?;
        for norm in [&mut self.after_attention, &mut self.after_mlp].into_iter().flatten() {
            norm.load()?;
        }
        self.attention.load()?;
        self.mlp.load()
    }
}

impl Decoder {
    /// A decoder over any source of tensors with Hugging Face names.
    ///
    /// # Errors
    ///
    /// As [`open`].
    pub fn new(config: DecoderConfig, source: Arc<dyn Source>, device: &Device) -> Result<Self, ModelError> {
        let has = |layer: String| {
            source.info(&format!("{layer}.weight")).is_some() || Dialect::of(&*source, &layer).is_some()
        };
        let names = family::names(config.family);
        let prefix = names.prefixes.iter().find(|prefix| has(format!("{prefix}{}", names.embedding)));
        let prefix = *prefix.unwrap_or(&names.prefixes[0]);
        let root = Loader { source: &source, device, path: String::new(), block: None, order: names.order };
        let loader = Loader { path: prefix.to_owned(), ..root.clone() };
        let shape = [config.vocab_size, config.hidden_size];
        let embedding = loader.table(names.embedding, shape)?;
        let positions = match config.positions {
            Positions::Rotary => None,
            Positions::Learned => {
                Some(PositionTable::new(&loader, names.positions, [config.max_positions, config.hidden_size])?)
            }
        };
        let blocks = config
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                let loader = Loader { block: Some(index), ..loader.at(&format!("{}.{index}", names.blocks)) };
                Block::new(&loader, &config, *layer)
            })
            .collect::<Result<_, _>>()?;
        let norm = Norm::new(&loader, names.last_norm, config.hidden_size, &config)?;
        let head = if config.tied { None } else { Some(root.linear("lm_head", shape, false, HEAD_SITE)?) };
        Ok(Self {
            embedding,
            config: Arc::new(config),
            device: device.clone(),
            positions,
            blocks,
            norm,
            head,
            context: Arc::default(),
            source,
        })
    }

    /// What the decoder is made of.
    pub fn config(&self) -> &DecoderConfig {
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

    /// Runs `ids` `[batch, seq]` after what is in `cache`, and puts them there: logits `[batch, seq, vocab]`, the same
    /// as those of the whole sequence in one pass.
    ///
    /// # Panics
    ///
    /// If `cache` was made for another configuration or another batch, or learned positions end before the last token.
    pub fn step(&self, ids: Tensor<2, Int>, cache: &mut Cache) -> Tensor<3> {
        let hidden = self.advance(ids, cache);
        self.logits(hidden, &mut ())
    }

    /// As [`step`](Self::step), with the logits of the last position alone, `[batch, vocab]`: what generation needs of
    /// a long prompt.
    ///
    /// # Panics
    ///
    /// As [`step`](Self::step).
    pub fn step_last(&self, ids: Tensor<2, Int>, cache: &mut Cache) -> Tensor<2> {
        let hidden = self.advance(ids, cache);
        let [batch, seq, width] = hidden.dims();
        let last = hidden.slice([0..batch, seq - 1..seq, 0..width]);
        self.logits(last, &mut ()).reshape([batch, self.config.vocab_size])
    }

    fn advance(&self, ids: Tensor<2, Int>, cache: &mut Cache) -> Tensor<3> {
        assert_eq!(cache.layers.len(), self.blocks.len(), "the cache was made for another model");
        let count = ids.dims()[1];
        let context = Context::new(&self.config, cache.seen(), count, &self.device);
        let mut hidden = self.embed(ids, cache.seen());
        for (block, cache) in self.blocks.iter().zip(&mut cache.layers) {
            hidden = block.forward(hidden, &context, Some(cache), &mut ());
        }
        cache.advance(count);
        hidden
    }

    /// `[batch, seq]`, from position `start` → `[batch, seq, hidden]`.
    fn embed(&self, ids: Tensor<2, Int>, start: usize) -> Tensor<3> {
        let x = self.embedding.embedding.forward(ids);
        let x = if self.config.embedding_scale == 1.0 { x } else { x.mul_scalar(self.config.embedding_scale) };
        match &self.positions {
            Some(positions) => positions.add(x, start),
            None => x,
        }
    }

    /// `[batch, seq, hidden]` → `[batch, seq, vocab]`.
    fn logits<T: Tap>(&self, hidden: Tensor<3>, tap: &mut T) -> Tensor<3> {
        let x = tap.tap(HEAD_SITE, self.norm.forward(hidden));
        let logits = match &self.head {
            Some(head) => head.forward(x, tap),
            None => self.embedding.embedding.as_head(x),
        };
        match self.config.logit_cap {
            Some(cap) => capped(logits, cap),
            None => logits,
        }
    }

    /// The context of `count` positions from 0.
    fn context(&self, count: usize) -> Arc<Context> {
        let mut last = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(context) if context.count == count => context.clone(),
            _ => {
                let context = Arc::new(Context::new(&self.config, 0, count, &self.device));
                *last = Some(context.clone());
                context
            }
        }
    }
}

impl Model for Decoder {
    /// Token ids, `[batch, seq]`.
    type Input = Tensor<2, Int>;
    type Carry = Carry;

    fn layers(&self) -> Vec<LayerInfo> {
        let blocks = self.blocks.iter().flat_map(|block| block.attention.layers().chain(block.mlp.layers()));
        let head = self.head.iter().map(|head| &head.info);
        [&self.embedding.info].into_iter().chain(blocks).chain(head).cloned().collect()
    }

    fn seams(&self) -> Vec<Seam> {
        self.seams_of()
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn load(&mut self, section: Section) -> Result<(), LoadError> {
        match section {
            Section::Embedding => {
                if let Some(positions) = &mut self.positions {
                    positions.load()?;
                }
                self.embedding.load()?;
            }
            Section::Block(index) => self.blocks[index].load()?,
            Section::Head => {
                self.norm.load()?;
                match &mut self.head {
                    Some(head) => head.load()?,
                    None => self.embedding.load()?,
                }
            }
        }
        Ok(())
    }

    fn release(&mut self, section: Section) {
        match (section, &mut self.head) {
            (Section::Embedding, _) | (Section::Head, None) => self.embedding.release(),
            (Section::Head, Some(head)) => head.release(),
            (Section::Block(index), _) => {
                let block = &mut self.blocks[index];
                block.attention.release();
                block.mlp.release();
            }
        }
    }

    fn start<T: Tap>(&self, input: Self::Input, _tap: &mut T) -> Carry {
        let context = self.context(input.dims()[1]);
        Carry { hidden: self.embed(input, 0), context }
    }

    fn block<T: Tap>(&self, index: usize, carry: Carry, tap: &mut T) -> Carry {
        let Carry { hidden, context } = carry;
        Carry { hidden: self.blocks[index].forward(hidden, &context, None, tap), context }
    }

    fn finish<T: Tap>(&self, carry: Carry, tap: &mut T) -> Tensor<3> {
        self.logits(carry.hidden, tap)
    }

    fn open(&mut self, section: Section) -> Vec<Part<'_>> {
        match section {
            Section::Embedding => vec![self.embedding.open()],
            Section::Block(index) => {
                let block = &mut self.blocks[index];
                block.attention.open().chain(block.mlp.open()).collect()
            }
            Section::Head => self.head.iter_mut().map(Layer::open).collect(),
        }
    }

    fn gains(&mut self, section: Section) -> Vec<Gain<'_>> {
        match section {
            Section::Embedding => Vec::new(),
            Section::Block(index) => self.blocks[index].gains(),
            Section::Head => self.norm.gains(),
        }
    }
}
