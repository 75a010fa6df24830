//! The law of what a model says, given what it computes.

use std::fmt;

use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::stats::host;

/// The law of what a model with inputs `I` says, given what it computes.
#[derive(Clone, Copy)]
pub enum Likelihood<I> {
    /// A class, by the softmax of the output, which is `[batch, labels, classes]`: a language model, a classifier.
    Classes,
    /// A vector, by a normal law of unit variance around the one that is made of the output: an encoder. Its divergence is half of a
    /// squared distance, and of vectors of length 1 `1 − cos`.
    ///
    /// Of the input and the output of the model: `[batch, width]`.
    Vectors(fn(&I, Tensor<3>) -> Tensor<2>),
}

impl<I> fmt::Debug for Likelihood<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classes => "Classes",
            Self::Vectors(_) => "Vectors",
        })
    }
}

impl<I> Likelihood<I> {
    /// Logits or vectors, `[batch, labels, width]`.
    pub(super) fn parameters(&self, input: &I, output: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Classes => output,
            Self::Vectors(of) => of(input, output).unsqueeze_dim(1),
        }
    }

    /// The gradient of `−log p(y)` by the parameters, for `y` drawn from the law. `[labels, width]` → the same.
    pub(super) fn surprise(&self, parameters: Tensor<2>, random: &mut ChaCha8Rng) -> Tensor<2> {
        match self {
            Self::Classes => classes(parameters, random),
            Self::Vectors(_) => {
                // Signs have the covariance of the normal law, which is all that is asked of them.
                let shape = parameters.dims();
                let signs = (0..shape.iter().product()).map(|_| if random.random() { 1.0 } else { -1.0 }).collect();
                Tensor::from_data(TensorData::new::<f32, _>(signs, shape), &parameters.device())
            }
        }
    }
}

/// `p − 1[y]` for labels `y` drawn from `p = softmax(logits)`, row by row: the gradient of `−log p(y)`. `[labels, classes]` → the same.
fn classes(logits: Tensor<2>, random: &mut ChaCha8Rng) -> Tensor<2> {
    let (device, [labels, classes]) = (logits.device(), logits.dims());
    let mut values = host(softmax(logits, 1));
    for row in values.chunks_mut(classes) {
        let total: f32 = row.iter().sum();
        let mut left = random.random::<f32>() * total;
        let drawn = row.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        // Rounding may leave a little behind the last class: then the most likely one is as good as any.
        row[drawn.unwrap_or_else(|| most(row))] -= 1.0;
    }
    Tensor::from_data(TensorData::new(values, [labels, classes]), &device)
}

fn most(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0)
}
