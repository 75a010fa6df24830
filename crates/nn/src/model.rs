//! [`Model`]: a network as quantization sees it, a row of blocks with weights in them.

use std::error::Error;
use std::fmt;

use burn::module::Param;
use burn::tensor::Tensor;
use quench_kernels::Activations;

use crate::{Tap, Weight};

/// A language model that can be walked block by block, opened for change, and read piece by piece.
///
/// Data flows `start → block 0 → … → finish`. Weights are read lazily: a [`Section`] is loaded before it is used and
/// may be released afterwards, so that the dense model is never whole in memory.
pub trait Model {
    /// What the model reads, token ids for example.
    type Input: Clone;
    /// What one block hands the next: the hidden state, with positions and masks where the family has them.
    type Carry: Clone;

    /// Every weight that can be quantized, in the order of the walk; reads no weight.
    fn layers(&self) -> Vec<LayerInfo>;

    /// Where activations may be scaled channel by channel without changing what is computed; none if nobody has looked.
    fn seams(&self) -> Vec<Seam> {
        Vec::new()
    }

    /// The number of blocks.
    fn blocks(&self) -> usize;

    /// Makes sure that the weights of `section` are in memory, and finite; does nothing if they are.
    ///
    /// # Errors
    ///
    /// If a weight is missing, damaged, of the wrong shape, or not finite.
    fn load(&mut self, section: Section) -> Result<(), LoadError>;

    /// Forgets the weights of `section` that can be read again: dense ones that nobody changed. Packed ones stay.
    fn release(&mut self, section: Section);

    /// The embedding, and what all blocks share (rotary tables, masks): input → carry.
    ///
    /// # Panics
    ///
    /// If [`Section::Embedding`] is not loaded.
    fn start<T: Tap>(&self, input: Self::Input, tap: &mut T) -> Self::Carry;

    /// Block `index`: carry → carry.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`blocks`](Self::blocks) or the block is not loaded.
    fn block<T: Tap>(&self, index: usize, carry: Self::Carry, tap: &mut T) -> Self::Carry;

    /// The last norm and the head: carry → logits `[batch, seq, vocab]`.
    ///
    /// # Panics
    ///
    /// If [`Section::Head`] is not loaded.
    fn finish<T: Tap>(&self, carry: Self::Carry, tap: &mut T) -> Tensor<3>;

    /// The weights of `section`, to be replaced in place; in the order of [`layers`](Self::layers).
    ///
    /// # Panics
    ///
    /// If `section` is not loaded.
    fn open(&mut self, section: Section) -> Vec<Part<'_>>;

    /// The vectors of `section` that training may change beside its weights, the gains of norms; none if nobody has looked.
    ///
    /// # Panics
    ///
    /// If `section` is not loaded.
    fn gains(&mut self, section: Section) -> Vec<Gain<'_>> {
        let _ = section;
        Vec::new()
    }

    /// The whole pass, `start → blocks → finish`: input → logits `[batch, seq, vocab]`.
    ///
    /// # Panics
    ///
    /// If a section is not loaded.
    fn forward<T: Tap>(&self, input: Self::Input, tap: &mut T) -> Tensor<3> {
        let first = self.start(input, tap);
        let last = (0..self.blocks()).fold(first, |carry, index| self.block(index, carry, tap));
        self.finish(last, tap)
    }

    /// Every section, in the order of the walk.
    fn sections(&self) -> Vec<Section> {
        let blocks = (0..self.blocks()).map(Section::Block);
        [Section::Embedding].into_iter().chain(blocks).chain([Section::Head]).collect()
    }

    /// Reads every dense weight: for a model that is to be run many times, whole.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn load_all(&mut self) -> Result<(), LoadError> {
        self.sections().into_iter().try_for_each(|section| self.load(section))
    }

    /// Sets in which precision the products of packed weights read their input, where the device gives the choice.
    ///
    /// A model is opened with [`Activations::Int8`], to be fast; what the weights alone have lost is measured with
    /// [`Activations::F32`].
    fn set_activations(&mut self, activations: Activations) {
        for section in self.sections() {
            self.open(section).into_iter().for_each(|part| part.weight.set_activations(activations));
        }
    }
}

/// A piece of a model that is loaded, released and opened as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// What [`Model::start`] needs.
    Embedding,
    /// One block, counted from 0.
    Block(usize),
    /// What [`Model::finish`] needs; without a layer of its own where the head is tied to the embedding.
    Head,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Block(index) => write!(f, "block {index}"),
            Self::Head => f.write_str("head"),
        }
    }
}

/// A vector of a model, opened for change: the gain of a norm, or what it adds.
#[derive(Debug)]
pub struct Gain<'a> {
    /// The Hugging Face name of the tensor, `"model.norm.weight"`.
    pub name: String,
    /// `[features]`, as the file has it.
    pub value: &'a mut Param<Tensor<1>>,
}

/// What is known of a weight before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// The Hugging Face name without `.weight`, `"model.layers.0.mlp.down_proj"`.
    pub name: String,
    /// The [site](Tap) of its input; empty for an embedding, which reads ids.
    pub site: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// What the weight is for.
    pub role: Role,
    /// The block it is in, where it is in one.
    pub block: Option<usize>,
    /// The site of the sum that its output becomes part of as it is, where it does: the residual stream.
    pub residual: Option<String>,
}

impl LayerInfo {
    /// The [site](Tap) of its output, bias included.
    pub fn output(&self) -> String {
        format!("{}.output", self.name)
    }

    /// The section that holds the weight.
    pub fn section(&self) -> Section {
        match (self.block, self.role) {
            (Some(index), _) => Section::Block(index),
            (None, Role::Embedding) => Section::Embedding,
            (None, Role::Head | Role::Block) => Section::Head,
        }
    }
}

/// A site whose activations come straight from the rows of a weight or the gain of a norm: if what writes a channel is
/// divided by a factor and what reads it is multiplied with it, the network computes the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seam {
    /// The [site](Tap).
    pub site: String,
    /// The section that it is in.
    pub section: Section,
    /// The [names](LayerInfo::name) of all weights that read it.
    pub readers: Vec<String>,
    /// For each channel that is read the channel that is written: value heads that several query heads share are written
    /// once. `[channels read]`.
    pub source: Vec<usize>,
}

impl Seam {
    /// The channels that are written.
    pub fn written(&self) -> usize {
        self.source.iter().max().map_or(0, |last| last + 1)
    }
}

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A projection inside a block.
    Block,
    /// The table of token vectors.
    Embedding,
    /// The projection to logits, where it is not the embedding again.
    Head,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Embedding => "embedding",
            Self::Head => "head",
        })
    }
}

/// One weight of an opened section.
#[derive(Debug)]
pub struct Part<'a> {
    /// The Hugging Face name without `.weight`.
    pub name: String,
    /// The [site](Tap) of its input; empty for an embedding.
    pub site: String,
    /// The weight, to be read or replaced.
    pub weight: &'a mut Weight,
}

/// Why a section could not be read: the error of whatever the model reads from.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LoadError(Box<dyn Error + Send + Sync>);

impl LoadError {
    /// Wraps the reader's own error; its message and source are shown as they are.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::testing::values;

    /// Blocks that multiply by a matrix, read when asked for.
    struct Chain(Vec<Option<Weight>>);

    impl Model for Chain {
        type Input = Tensor<3>;
        type Carry = Tensor<3>;

        fn layers(&self) -> Vec<LayerInfo> {
            let layer = |index| LayerInfo {
                name: format!("blocks.{index}"),
                site: format!("blocks.{index}.input"),
                shape: [2, 2],
                role: Role::Block,
                block: Some(index),
                residual: None,
            };
            (0..self.blocks()).map(layer).collect()
        }

        fn blocks(&self) -> usize {
            self.0.len()
        }

        fn load(&mut self, section: Section) -> Result<(), LoadError> {
            match section {
                Section::Block(index) if index >= self.blocks() => Err(LoadError::new(format!("no {section}"))),
                Section::Block(index) => {
                    let twice = Tensor::from_floats([[2.0, 0.0], [0.0, 2.0]], &Device::flex());
                    self.0[index].get_or_insert_with(|| Weight::dense(twice));
                    Ok(())
                }
                Section::Embedding | Section::Head => Ok(()),
            }
        }

        fn release(&mut self, section: Section) {
            if let Section::Block(index) = section {
                self.0[index] = None;
            }
        }

        fn start<T: Tap>(&self, input: Tensor<3>, _: &mut T) -> Tensor<3> {
            input
        }

        fn block<T: Tap>(&self, index: usize, x: Tensor<3>, tap: &mut T) -> Tensor<3> {
            let weight = self.0[index].as_ref().expect("a loaded block");
            weight.matmul(tap.tap(&format!("blocks.{index}.input"), x))
        }

        fn finish<T: Tap>(&self, x: Tensor<3>, _: &mut T) -> Tensor<3> {
            x
        }

        fn open(&mut self, section: Section) -> Vec<Part<'_>> {
            let Section::Block(index) = section else { return Vec::new() };
            let weight = self.0[index].as_mut().expect("a loaded block");
            vec![Part { name: format!("blocks.{index}"), site: format!("blocks.{index}.input"), weight }]
        }
    }

    #[test]
    fn a_pass_is_start_blocks_finish() {
        let mut chain = Chain(vec![None, None, None]);
        assert_eq!(
            chain.sections(),
            [Section::Embedding, Section::Block(0), Section::Block(1), Section::Block(2), Section::Head]
        );
        chain.load_all().expect("blocks");
        let x = Tensor::<3>::ones([1, 1, 2], &Device::flex());
        assert_eq!(values(chain.forward(x.clone(), &mut ())), [8.0, 8.0]);

        for part in chain.open(Section::Block(1)) {
            *part.weight = Weight::dense(part.weight.val() * 5.0);
        }
        assert_eq!(values(chain.forward(x, &mut ())), [40.0, 40.0]);
    }

    #[test]
    fn an_error_of_the_reader_is_shown_as_it_is() {
        let error = Chain(Vec::new()).load(Section::Block(3)).expect_err("there is none");
        assert_eq!(error.to_string(), "no block 3");
    }

    #[test]
    fn a_layer_knows_its_section() {
        let layer = |role, block| LayerInfo {
            name: String::new(),
            site: String::new(),
            shape: [1, 1],
            role,
            block,
            residual: None,
        };
        assert_eq!(layer(Role::Block, Some(2)).section(), Section::Block(2));
        assert_eq!(layer(Role::Embedding, None).section(), Section::Embedding);
        assert_eq!(layer(Role::Head, None).section(), Section::Head);
    }
}
