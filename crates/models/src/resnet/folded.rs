//! [`Folded`]: the checkpoint of a residual network as if its batch norms had been folded before it was saved.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use quench_checkpoint::{CheckpointError, Dtype, Source, TensorInfo, TensorView};

use super::ResNet;
use super::convolution::EPS;
use crate::ModelError;

/// A checkpoint over another: the same tensors, but each batch norm folded into the convolution before it.
///
/// ```text
/// s = γ / √(v + ε)        W ← s ⊙ W        b ← β − s · m
/// ```
///
/// A convolution `conv1` with the norm `bn1` has `conv1.weight` and `conv1.bias` in f32 here, and no tensor of `bn1`. They are
/// computed in f64 and rounded once, each time that they are read. A configuration that goes with these tensors says
/// `"folded": true`.
///
/// Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
/// inference", section 3.2.
pub struct Folded {
    source: Arc<dyn Source>,
    tensors: BTreeMap<String, Tensor>,
}

/// Where a tensor comes from.
enum Tensor {
    /// The source has it.
    Kept,
    /// The weight of a convolution, to be multiplied with the scale of this norm.
    Weight { norm: String },
    /// The shift of this norm.
    Bias { norm: String },
}

impl Folded {
    /// The tensors of a network's source, folded; a source that is folded already is passed on as it is.
    ///
    /// # Errors
    ///
    /// [`ModelError::Packed`] if the source has a packed layer: norms are folded before quantization.
    pub fn new(network: &ResNet) -> Result<Self, ModelError> {
        let source = network.source().clone();
        if let Some(layer) = source.manifest().layers.keys().next() {
            return Err(ModelError::Packed { path: source.path().to_owned(), layer: layer.clone() });
        }
        let mut tensors: BTreeMap<String, Tensor> =
            source.names().into_iter().map(|name| (name.to_owned(), Tensor::Kept)).collect();
        for (convolution, norm) in network.norms() {
            // All of it, also the `num_batches_tracked` of newer files.
            let part = format!("{norm}.");
            tensors.retain(|name, _| !name.starts_with(&part));
            tensors.insert(format!("{convolution}.weight"), Tensor::Weight { norm: norm.to_owned() });
            tensors.insert(format!("{convolution}.bias"), Tensor::Bias { norm: norm.to_owned() });
        }
        Ok(Self { source, tensors })
    }

    fn vector(&self, norm: &str, part: &str) -> Result<Vec<f32>, CheckpointError> {
        self.source.tensor(&format!("{norm}.{part}"))?.to_finite_f32()
    }

    /// `s`, `[channels]`.
    fn scale(&self, norm: &str) -> Result<Vec<f64>, CheckpointError> {
        let (gain, variance) = (self.vector(norm, "weight")?, self.vector(norm, "running_var")?);
        Ok(gain
            .iter()
            .zip(&variance)
            .map(|(&gain, &variance)| f64::from(gain) / (f64::from(variance) + EPS).sqrt())
            .collect())
    }
}

impl Source for Folded {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        match self.tensors.get(name)? {
            Tensor::Kept => self.source.info(name),
            Tensor::Weight { .. } => Some(TensorInfo { dtype: Dtype::F32, ..self.source.info(name)? }),
            Tensor::Bias { norm } => {
                Some(TensorInfo { dtype: Dtype::F32, ..self.source.info(&format!("{norm}.bias"))? })
            }
        }
    }

    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        let path = self.source.path();
        let (values, shape): (Vec<f32>, _) = match self.tensors.get(name) {
            None => return Err(CheckpointError::MissingTensor { path: path.to_owned(), tensor: name.to_owned() }),
            Some(Tensor::Kept) => return self.source.tensor(name),
            Some(Tensor::Weight { norm }) => {
                let (weight, scale) = (self.source.tensor(name)?, self.scale(norm)?);
                let values = weight.to_finite_f32()?;
                let row = values.len() / scale.len().max(1);
                let scaled = values.chunks(row.max(1)).zip(scale);
                let scaled = scaled.flat_map(|(row, s)| row.iter().map(move |&w| (s * f64::from(w)) as f32));
                (scaled.collect(), weight.shape().to_vec())
            }
            Some(Tensor::Bias { norm }) => {
                let (shift, mean) = (self.vector(norm, "bias")?, self.vector(norm, "running_mean")?);
                let terms = shift.iter().zip(&mean).zip(self.scale(norm)?);
                let bias = terms.map(|((&shift, &mean), s)| (f64::from(shift) - s * f64::from(mean)) as f32);
                (bias.collect(), vec![shift.len()])
            }
        };
        let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        TensorView::owned(path, name, Dtype::F32, shape, bytes)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.source.metadata()
    }

    fn path(&self) -> &Path {
        self.source.path()
    }
}
