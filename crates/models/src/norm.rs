//! Root-mean-square norm, with either gain.

use burn::module::Param;
use burn::tensor::Tensor;

use crate::ModelError;
use crate::config::Gain;
use crate::load::{Loader, Stored};

/// `y = x / √(mean(x²) + ε) · gain`, over the last dimension; `gain` is `w` or `1 + w`.
///
/// Source: Zhang and Sennrich 2019, "Root mean square layer normalization".
#[derive(Clone)]
pub(crate) struct Norm {
    stored: Stored<1>,
    weight: Param<Tensor<1>>,
    gain: Gain,
    eps: f64,
}

impl Norm {
    pub(crate) fn new(loader: &Loader<'_>, name: &str, width: usize, gain: Gain, eps: f64) -> Result<Self, ModelError> {
        let stored = loader.vector(&format!("{name}.weight"), width)?;
        Ok(Self { weight: stored.lazy(), stored, gain, eps })
    }

    /// `x`: `[.., width]` → the same.
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let root = x.clone().square().mean_dim(D - 1).add_scalar(self.eps).sqrt(); // [.., 1]
        let gain = match self.gain {
            Gain::Plain => self.weight.val(),
            Gain::PlusOne => self.weight.val().add_scalar(1.0),
        };
        x / root * gain.unsqueeze()
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        self.stored.load(&mut self.weight)
    }
}
