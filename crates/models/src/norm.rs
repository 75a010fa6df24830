//! The norms: root mean square with either gain, and LayerNorm.

use burn::module::Param;
use burn::tensor::Tensor;
use quench_nn::Gain as Opened;

use crate::ModelError;
use crate::config::{DecoderConfig, Gain, NormKind};
use crate::joint::Cut;
use crate::load::{Loader, Stored};

/// A norm over the last dimension, of the kind that the configuration names.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a few hundred bytes beside matrices of megabytes")]
pub(crate) enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

impl Norm {
    pub(crate) fn new(
        loader: &Loader<'_>,
        name: &str,
        width: usize,
        config: &DecoderConfig,
    ) -> Result<Self, ModelError> {
        Ok(match config.norm {
            NormKind::Rms => Self::Rms(RmsNorm::new(loader, name, width, config.gain, config.norm_eps)?),
            NormKind::Layer => Self::Layer(LayerNorm::new(loader, name, width, config.norm_eps)?),
        })
    }

    /// `x`: `[.., width]` → the same.
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }

    /// What its output is multiplied with and what is added to it then, as they lie in the file.
    pub(crate) fn cuts(&self) -> Vec<Cut> {
        match self {
            Self::Rms(norm) => {
                let one = match norm.gain {
                    Gain::Plain => 0.0,
                    Gain::PlusOne => 1.0,
                };
                vec![norm.weight.cut(one)]
            }
            Self::Layer(norm) => vec![norm.weight.cut(0.0), norm.bias.cut(0.0)],
        }
    }

    /// What its output is multiplied with and what is added, to be changed in place.
    pub(crate) fn gains(&mut self) -> Vec<Opened<'_>> {
        match self {
            Self::Rms(norm) => vec![norm.weight.open()],
            Self::Layer(norm) => vec![norm.weight.open(), norm.bias.open()],
        }
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        match self {
            Self::Rms(norm) => norm.weight.load(),
            Self::Layer(norm) => norm.load(),
        }
    }
}

/// A vector of the file, read when it is first used.
#[derive(Clone)]
pub(crate) struct Vector {
    stored: Stored<1>,
    param: Param<Tensor<1>>,
}

impl Vector {
    pub(crate) fn new(loader: &Loader<'_>, name: &str, width: usize) -> Result<Self, ModelError> {
        let stored = loader.vector(name, width)?;
        Ok(Self { param: stored.lazy(), stored })
    }

    pub(crate) fn val(&self) -> Tensor<1> {
        self.param.val()
    }

    fn open(&mut self) -> Opened<'_> {
        Opened { name: self.stored.name().to_owned(), value: &mut self.param }
    }

    /// - `one`: what is added to the file's numbers when they are used
    fn cut(&self, one: f64) -> Cut {
        Cut { one, ..self.stored.cut(0) }
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        self.stored.load(&mut self.param)
    }
}

/// `y = x / √(mean(x²) + ε) · gain`, over the last dimension; `gain` is `w` or `1 + w`.
///
/// Source: Zhang and Sennrich 2019, "Root mean square layer normalization".
#[derive(Clone)]
pub(crate) struct RmsNorm {
    weight: Vector,
    gain: Gain,
    eps: f64,
}

impl RmsNorm {
    fn new(loader: &Loader<'_>, name: &str, width: usize, gain: Gain, eps: f64) -> Result<Self, ModelError> {
        Ok(Self { weight: Vector::new(loader, &format!("{name}.weight"), width)?, gain, eps })
    }

    fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let root = x.clone().square().mean_dim(D - 1).add_scalar(self.eps).sqrt(); // [.., 1]
        let gain = match self.gain {
            Gain::Plain => self.weight.val(),
            Gain::PlusOne => self.weight.val().add_scalar(1.0),
        };
        x / root * gain.unsqueeze()
    }
}

/// `y = (x − mean(x)) / √(var(x) + ε) · w + b`, over the last dimension; the variance is that of the population.
///
/// Source: Ba, Kiros and Hinton 2016, "Layer normalization".
#[derive(Clone)]
pub(crate) struct LayerNorm {
    weight: Vector,
    bias: Vector,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(loader: &Loader<'_>, name: &str, width: usize, eps: f64) -> Result<Self, ModelError> {
        let vector = |part: &str| Vector::new(loader, &format!("{name}.{part}"), width);
        Ok(Self { weight: vector("weight")?, bias: vector("bias")?, eps })
    }

    /// `x`: `[.., width]` → the same.
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let centred = x.clone() - x.mean_dim(D - 1);
        let root = centred.clone().square().mean_dim(D - 1).add_scalar(self.eps).sqrt(); // [.., 1]
        centred / root * self.weight.val().unsqueeze() + self.bias.val().unsqueeze()
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        self.weight.load()?;
        self.bias.load()
    }
}
