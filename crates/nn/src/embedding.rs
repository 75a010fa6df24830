//! [`Embedding`]: rows of a weight by token id, and the same weight as a head.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::Weight;

/// A table of vectors, `y_t = W[ids_t]`, over a dense or packed weight `[vocab, dim]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab, dim]`.
    pub weight: Weight,
}

impl Embedding {
    /// An embedding over a weight `[vocab, dim]`.
    pub fn new(weight: Weight) -> Self {
        Self { weight }
    }

    /// The vectors of `ids` `[batch, seq]`, `[batch, seq, dim]`; a packed table decodes only the rows asked for.
    ///
    /// # Panics
    ///
    /// If an id is not below `vocab`, on backends that check indices (Flex and NdArray do, Cube does not).
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match &self.weight {
            Weight::Dense(w) => burn::tensor::module::embedding(w.val(), ids),
            Weight::Quantized(w) => {
                let [batch, seq] = ids.dims();
                let dim = w.shape()[1];
                w.select(ids.reshape([batch * seq])).reshape([batch, seq, dim])
            }
        }
    }

    /// The table as the head of a tied model: `x · Wᵀ`, `x`: `[batch, seq, dim]` → logits `[batch, seq, vocab]`.
    ///
    /// # Panics
    ///
    /// If the last dimension of `x` is not `dim`.
    pub fn as_head(&self, x: Tensor<3>) -> Tensor<3> {
        self.weight.matmul(x)
    }
}
