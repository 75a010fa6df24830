//! What stands between the attentions: the gated layer, or one hidden layer.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, silu};
use quench_format::Rotation;
use quench_nn::{LayerInfo, Part, Tap, Turn};

use crate::ModelError;
use crate::config::{Activation, DecoderConfig, Feed};
use crate::family;
use crate::joint::Joint;
use crate::load::{Layer, Loader};
use crate::norm::Norm;
use crate::projection::Projection;

/// What reads the hidden state.
#[derive(Clone)]
enum Input {
    /// `W_gate` and `W_up`.
    Gated(Projection<2>),
    /// `W_in`, and its site.
    Plain(String, Box<Layer>),
}

/// `y = W_down · (act(W_gate x) ⊙ W_up x)`, or `y = W_out · act(W_in x)`; what the last matrix reads may be turned.
///
/// Source of the gated form: Shazeer 2020, "GLU variants improve transformer".
#[derive(Clone)]
pub(crate) struct Mlp {
    input: Input,
    output_site: String,
    output: Layer,
    activation: Activation,
    /// Where `W_down` is stored turned: what it reads is turned, too.
    turn: Option<Turn>,
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
        let turn = config.turned_mlp.then(|| Turn::new(&rotation(width), loader.device));
        Ok(Self { input, output_site, output, activation: config.activation, turn })
    }

    /// `x`: `[batch, seq, hidden]` → the same.
    pub(crate) fn forward<T: Tap>(&self, x: Tensor<3>, tap: &mut T) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let [_, width] = self.output.info.shape;
        let site = match &self.input {
            Input::Gated(input) => input.site(),
            Input::Plain(site, _) => site,
        };
        let x = tap.tap(site, x);
        let y = tap.reach(&self.output_site, [batch, seq, width], |tap| self.hidden(x, tap));
        self.output.forward(y, tap)
    }

    /// What the last matrix reads: `[batch, seq, hidden]` → `[batch, seq, width]`.
    fn hidden<T: Tap>(&self, x: Tensor<3>, tap: &mut T) -> Tensor<3> {
        let y = match &self.input {
            Input::Gated(input) => {
                let [gate, up] = input.forward(x, tap);
                activate(self.activation, gate) * up
            }
            Input::Plain(_, layer) => activate(self.activation, layer.forward(x, tap)),
        };
        match &self.turn {
            Some(turn) => turn.forward(y),
            None => y,
        }
    }

    /// Where channels may be scaled: what the norm before gives and, in the gated form, what the gate multiplies.
    pub(crate) fn joints(&self, before: &Norm) -> Vec<Joint> {
        match &self.input {
            Input::Plain(site, layer) => vec![Joint::new(site, before.cuts(), std::slice::from_ref(&**layer))],
            Input::Gated(input) => {
                let first = Joint::new(input.site(), before.cuts(), input.layers());
                let output = std::slice::from_ref(&self.output);
                // What a rotation has mixed has no channels any more.
                let second = Joint::new(&self.output_site, input.output_cuts(1), output);
                [first].into_iter().chain(self.turn.is_none().then_some(second)).collect()
            }
        }
    }

    /// What writes to the residual stream.
    pub(crate) fn output(&self) -> &Layer {
        &self.output
    }

    /// [`output`](Self::output), to be changed.
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

/// The rotation of what the last matrix reads where that is turned: `width` channels.
pub(crate) fn rotation(width: usize) -> Rotation {
    const SEED: u64 = 3;
    Rotation::new(width, SEED)
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
