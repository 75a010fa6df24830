//! What stands between the attentions: the gated layer, or one hidden layer.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, silu};
use quench_nn::{LayerInfo, Part, Tap};

use crate::ModelError;
use crate::config::{Activation, DecoderConfig, Feed};
use crate::family;
use crate::load::{Layer, Loader};
use crate::projection::Projection;

/// What reads the hidden state.
#[derive(Clone)]
enum Input {
    /// `W_gate` and `W_up`.
    Gated(Projection<2>),
    /// `W_in`, and its site.
    Plain(String, Box<Layer>),
}

/// `y = W_down · (act(W_gate x) ⊙ W_up x)`, or `y = W_out · act(W_in x)`.
///
/// Source of the gated form: Shazeer 2020, "GLU variants improve transformer".
#[derive(Clone)]
pub(crate) struct Mlp {
    input: Input,
    output_site: String,
    output: Layer,
    activation: Activation,
}

impl Mlp {
    /// That of one block; `loader` is at `mlp`.
    pub(crate) fn new(loader: &Loader<'_>, config: &DecoderConfig) -> Result<Self, ModelError> {
        let names = family::names(config.family);
        let output_site = loader.site(&format!("{}.input", names.mlp_output));
        let (hidden, width, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let input = match config.feed {
            Feed::Gated => {
                let parts = [("gate_proj", width), ("up_proj", width)];
                Input::Gated(Projection::new(loader, config, names.mlp_input, parts, bias)?)
            }
            Feed::Plain => {
                let site = loader.site("input");
                let layer = loader.linear(names.mlp_input, [width, hidden], bias, &site)?;
                Input::Plain(site, Box::new(layer))
            }
        };
        let output = loader.linear(names.mlp_output, [hidden, width], bias, &output_site)?;
        Ok(Self { input, output_site, output, activation: config.activation })
    }

    /// `x`: `[batch, seq, hidden]` → the same.
    pub(crate) fn forward<T: Tap>(&self, x: Tensor<3>, tap: &mut T) -> Tensor<3> {
        let y = match &self.input {
            Input::Gated(input) => {
                let [gate, up] = input.forward(x, tap);
                activate(self.activation, gate) * up
            }
            Input::Plain(site, layer) => activate(self.activation, layer.forward(tap.tap(site, x))),
        };
        let y = tap.tap(&self.output_site, y); // [batch, seq, width]
        self.output.forward(y)
    }

    /// What writes to the residual stream.
    pub(crate) fn output_mut(&mut self) -> &mut Layer {
        &mut self.output
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        let input = match &mut self.input {
            Input::Gated(input) => input.layers_mut(),
            Input::Plain(_, layer) => std::slice::from_mut(&mut **layer),
        };
        input.iter_mut().chain([&mut self.output])
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &LayerInfo> {
        let input = match &self.input {
            Input::Gated(input) => input.layers(),
            Input::Plain(_, layer) => std::slice::from_ref(&**layer),
        };
        input.iter().chain([&self.output]).map(|layer| &layer.info)
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

/// The function of the configuration, element by element.
pub(crate) fn activate(function: Activation, x: Tensor<3>) -> Tensor<3> {
    match function {
        Activation::Silu => silu(x),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
    }
}

/// Burn's own cubes with a power function, which shading languages leave undefined for negative numbers.
fn gelu_tanh(x: Tensor<3>) -> Tensor<3> {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (x.clone() + cube.mul_scalar(0.044715)).mul_scalar(root);
    x * inner.tanh().add_scalar(1.0).mul_scalar(0.5)
}
