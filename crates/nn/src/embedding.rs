//! [`Embedding`]: rows of a weight by token id, and the same weight as a head.

use burn::module::Module;
use burn::tensor::{DType, Int, Tensor};

use crate::Weight;
use crate::weight::in_f32;

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

    /// The vectors of `ids` `[batch, seq]`, `[batch, seq, dim]`, f32; of a packed table, or one of halves, only the rows asked
    /// for are converted; one with an adapter is decoded as a whole.
    ///
    /// # Panics
    ///
    /// If an id is not below `vocab`, on backends that check indices (Flex and NdArray do, Cube does not).
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match &self.weight {
            Weight::Dense(w) => in_f32(burn::tensor::module::embedding(w.val(), ids)),
            Weight::Quantized(w) => {
                let ([batch, seq], [_, dim]) = (ids.dims(), w.shape());
                if batch * seq == 0 {
                    // `reshape` reads a 0 as "keep this dimension".
                    return Tensor::zeros([batch, seq, dim], (&ids.device(), DType::F32));
                }
                w.select(ids.reshape([batch * seq])).reshape([batch, seq, dim])
            }
            Weight::Adapted(w) => burn::tensor::module::embedding(w.dequantize(), ids),
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use quench_kernels::{Activations, QTensor};

    use super::*;
    use crate::testing::{packed, values};

    #[test]
    fn dense_and_packed_tables_give_the_same_vectors() {
        let device = Device::flex();
        let exact = QTensor::from_packed(&packed([6, 3]), &device).with_activations(Activations::F32);
        let quantized = Embedding::new(exact.into());
        let dense = Embedding::new(Weight::dense(quantized.weight.val()));
        let ids = Tensor::<2, Int>::from_ints([[5, 0], [1, 5]], &device);
        let x = quantized.forward(ids.clone());
        assert_eq!(x.dims(), [2, 2, 3]);
        assert_eq!(values(x.clone()), values(dense.forward(ids)));
        assert_eq!(values(x.clone())[..3], packed([6, 3]).decode()[15..]);

        let [logits, expected] = [quantized.as_head(x.clone()), dense.as_head(x)];
        assert_eq!(logits.dims(), [2, 2, 6]);
        assert_eq!(values(logits), values(expected));
    }

    #[test]
    fn a_table_of_halves_gives_vectors_and_logits_in_f32() {
        let device = Device::flex();
        let halves =
            Embedding::new(Weight::dense(Tensor::from_floats([[1.5, -2.0], [0.25, 3.0]], &device).cast(DType::BF16)));
        let x = halves.forward(Tensor::<2, Int>::from_ints([[1, 0]], &device));
        assert_eq!(values(x.clone()), [0.25, 3.0, 1.5, -2.0]);
        assert_eq!(values(halves.as_head(x)), [-5.625, 9.0625, 6.25, -5.625]);
        assert_eq!(halves.weight.val().dtype(), DType::F32);
    }

    #[test]
    fn no_ids_give_no_vectors() {
        let device = Device::flex();
        let table = Embedding::new(QTensor::from_packed(&packed([6, 3]), &device).into());
        assert_eq!(table.forward(Tensor::<2, Int>::zeros([2, 0], &device)).dims(), [2, 0, 3]);
    }
}
