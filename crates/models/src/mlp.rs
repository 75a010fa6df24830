//! The gated layer.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, silu};
use quench_nn::{LayerInfo, Part, Tap};

use crate::ModelError;
use crate::config::{Activation, DecoderConfig};
use crate::load::{Layer, Loader};
use crate::projection::Projection;

/// `y = W_down · (act(W_gate x) ⊙ W_up x)`.
///
/// Source: Shazeer 2020, "GLU variants improve transformer".
#[derive(Clone)]
pub(crate) struct Mlp {
    input: Projection<2>,
    output_site: String,
    output: Layer,
    activation: Activation,
}

impl Mlp {
    /// The gated layer of one block; `loader` is at `mlp`.
    pub(crate) fn new(loader: &Loader<'_>, config: &DecoderConfig) -> Result<Self, ModelError> {
        let output_site = loader.site("down_proj.input");
        let (hidden, width, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let parts = [("gate_proj", width), ("up_proj", width)];
        let input = Projection::new(loader, config, "gate_up_proj", parts, bias)?;
        let output = loader.linear("down_proj", [hidden, width], bias, &output_site)?;
        Ok(Self { input, output_site, output, activation: config.activation })
    }

    /// `x`: `[batch, seq, hidden]` → the same.
    pub(crate) fn forward<T: Tap>(&self, x: Tensor<3>, tap: &mut T) -> Tensor<3> {
        let [gate, up] = self.input.forward(x, tap);
        let gate = match self.activation {
            Activation::Silu => silu(gate),
            Activation::Gelu => gelu(gate),
            Activation::GeluTanh => gelu_tanh(gate),
        };
        let y = tap.tap(&self.output_site, gate * up); // [batch, seq, width]
        self.output.forward(y)
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        self.input.layers_mut().iter_mut().chain([&mut self.output])
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &LayerInfo> {
        self.input.layers().iter().chain([&self.output]).map(|layer| &layer.info)
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        self.layers_mut().try_for_each(Layer::load)
    }

    pub(crate) fn release(&mut self) {
        self.layers_mut().for_each(Layer::release);
    }

    pub(crate) fn open(&mut self) -> impl Iterator<Item = Part<'_>> {
        self.layers_mut().map(Layer::open)
    }
}

/// Burn's own cubes with a power function, which shading languages leave undefined for negative numbers.
fn gelu_tanh(x: Tensor<3>) -> Tensor<3> {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (x.clone() + cube.mul_scalar(0.044715)).mul_scalar(root);
    x * inner.tanh().add_scalar(1.0).mul_scalar(0.5)
}
