//! A convolution with its name, its file, and the batch norm after it.

use burn::tensor::Tensor;
use quench_nn::{Conv2d, LayerInfo, Part, Tap, Window, unfold};

use crate::ModelError;
use crate::load::{Loader, Origin, Stored};
use crate::norm::Vector;

/// Torch's, and that of both layouts.
pub(super) const EPS: f64 = 1e-5;

/// `y = γ · (x − m) / √(v + ε) + β`, channel by channel, with the mean and variance of the training.
///
/// Source: Ioffe and Szegedy 2015, "Batch normalization".
#[derive(Clone)]
struct BatchNorm {
    name: String,
    weight: Vector,
    bias: Vector,
    mean: Vector,
    variance: Vector,
}

impl BatchNorm {
    fn new(loader: &Loader<'_>, name: &str, channels: usize) -> Result<Self, ModelError> {
        let vector = |part: &str| Vector::new(loader, &format!("{name}.{part}"), channels);
        Ok(Self {
            name: loader.site(name),
            weight: vector("weight")?,
            bias: vector("bias")?,
            mean: vector("running_mean")?,
            variance: vector("running_var")?,
        })
    }

    /// The norm as `y = s · x + t`, both `[channels]`.
    fn affine(&self) -> [Tensor<1>; 2] {
        let scale = self.weight.val() / self.variance.val().add_scalar(EPS).sqrt();
        let shift = self.bias.val() - self.mean.val() * scale.clone();
        [scale, shift]
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let channels = x.dims()[1];
        let [scale, shift] = self.affine().map(|vector| vector.reshape([1, channels, 1, 1]));
        x * scale + shift
    }

    fn load(&mut self) -> Result<(), ModelError> {
        [&mut self.weight, &mut self.bias, &mut self.mean, &mut self.variance].into_iter().try_for_each(Vector::load)
    }
}

/// A convolution without bias, then a batch norm; or, folded, a convolution with bias.
#[derive(Clone)]
pub(super) struct Convolution {
    pub(super) info: LayerInfo,
    origin: Origin,
    convolution: Conv2d,
    after: After,
    /// The site of what the matrix gives, before the norm.
    result: String,
}

/// What a convolution ends with.
#[derive(Clone)]
enum After {
    Norm(Box<BatchNorm>),
    /// Where the convolution's own bias is read.
    Bias(Stored<1>),
}

impl Convolution {
    /// - `folded`: the file has a bias instead of the norm
    /// - `shape`: `[out, in]` channels
    pub(super) fn new(
        loader: &Loader<'_>,
        folded: bool,
        [name, norm]: [&str; 2],
        shape: [usize; 2],
        window: Window,
    ) -> Result<Self, ModelError> {
        let site = loader.site(&format!("{name}.input"));
        let (info, origin, weight) = loader.convolution(name, shape, window.kernel, &site)?;
        let (bias, after) = if folded {
            let stored = loader.vector(&format!("{name}.bias"), shape[0])?;
            (Some(stored.lazy()), After::Bias(stored))
        } else {
            (None, After::Norm(Box::new(BatchNorm::new(loader, norm, shape[0])?)))
        };
        // Not by `Conv2d::new`, which would read the weight to see its shape.
        let convolution = Conv2d { weight, bias, window, groups: 1 };
        Ok(Self { result: info.output(), info, origin, convolution, after })
    }

    /// `x`: `[batch, in, height, width]` → `[batch, out, output height, output width]`.
    ///
    /// A tap sees the rows that the matrix is multiplied with, `[batch · positions, in · kernel]`, and the rows that come of it,
    /// `[batch · positions, out]`.
    pub(super) fn forward<T: Tap>(&self, x: Tensor<4>, tap: &mut T) -> Tensor<4> {
        let y = if tap.sees(&self.info.site) {
            let [batch, _, height, width] = x.dims();
            let window = &self.convolution.window;
            let output = window.output([height, width]);
            let rows = tap.tap(&self.info.site, unfold(x, window));
            self.convolution.multiply(rows, batch, output)
        } else {
            self.convolution.forward(x)
        };
        let y = if tap.sees(&self.result) { tapped(y, &self.result, tap) } else { y };
        match &self.after {
            After::Norm(norm) => norm.forward(y),
            After::Bias(_) => y,
        }
    }

    /// The name of the norm, unless it is folded.
    pub(super) fn norm(&self) -> Option<&str> {
        match &self.after {
            After::Norm(norm) => Some(&norm.name),
            After::Bias(_) => None,
        }
    }

    pub(super) fn load(&mut self) -> Result<(), ModelError> {
        self.origin.load(&mut self.convolution.weight)?;
        match (&mut self.after, &mut self.convolution.bias) {
            (After::Norm(norm), _) => norm.load(),
            (After::Bias(stored), Some(bias)) => stored.load(bias),
            (After::Bias(_), None) => Ok(()),
        }
    }

    pub(super) fn release(&mut self) {
        self.origin.release(&mut self.convolution.weight);
    }

    pub(super) fn open(&mut self) -> Part<'_> {
        self.origin.open(&self.info, &mut self.convolution.weight)
    }
}

/// `y`: `[batch, out, height, width]`, shown as its positions' rows, `[batch · positions, out]`.
fn tapped<T: Tap>(y: Tensor<4>, site: &str, tap: &mut T) -> Tensor<4> {
    let [batch, out, height, width] = y.dims();
    let rows = y.permute([0, 2, 3, 1]).reshape([batch * height * width, out]);
    tap.tap(site, rows).reshape([batch, height, width, out]).permute([0, 3, 1, 2])
}
