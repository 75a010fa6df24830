//! One block of the encoder: attention in both directions and one hidden layer, each normed after it is added.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use quench_nn::{LayerInfo, Part, Tap};

use super::{EncoderConfig, Padding};
use crate::ModelError;
use crate::config::Activation;
use crate::load::{Layer, Loader};
use crate::mlp::activate;
use crate::norm::LayerNorm;

/// A layer that alone reads its site.
#[derive(Clone)]
struct Step {
    site: String,
    layer: Layer,
}

impl Step {
    fn new(loader: &Loader<'_>, name: &str, shape: [usize; 2]) -> Result<Self, ModelError> {
        let site = loader.site(&format!("{name}.input"));
        Ok(Self { layer: loader.linear(name, shape, true, &site)?, site })
    }

    fn forward<T: Tap>(&self, x: Tensor<3>, padding: Option<&Padding>, tap: &mut T) -> Tensor<3> {
        let x = tap.tap(&self.site, blanked(x, padding));
        self.layer.forward(x, tap)
    }
}

/// ```text
/// h = norm(x + W_o · softmax(q kᵀ / √d + mask) v)
/// y = norm(h + W_down · act(W_up h))
/// ```
#[derive(Clone)]
pub(super) struct Block {
    site: String,
    /// q, k and v.
    input: [Layer; 3],
    output: Step,
    attention_norm: LayerNorm,
    up: Step,
    down: Step,
    norm: LayerNorm,
    heads: usize,
    activation: Activation,
}

impl Block {
    pub(super) fn new(loader: &Loader<'_>, config: &EncoderConfig) -> Result<Self, ModelError> {
        let (hidden, width) = (config.hidden_size, config.intermediate_size);
        let attention = loader.at("attention");
        let maps = attention.at("self");
        let site = maps.site("input");
        let input = |name: &str| maps.linear(name, [hidden, hidden], true, &site);
        let norm = |loader: &Loader<'_>| LayerNorm::new(&loader.at("output"), "LayerNorm", hidden, config.norm_eps);
        Ok(Self {
            input: [input("query")?, input("key")?, input("value")?],
            output: Step::new(&attention.at("output"), "dense", [hidden, hidden])?,
            attention_norm: norm(&attention)?,
            up: Step::new(&loader.at("intermediate"), "dense", [width, hidden])?,
            down: Step::new(&loader.at("output"), "dense", [hidden, width])?,
            norm: norm(loader)?,
            heads: config.heads,
            activation: config.activation,
            site,
        })
    }

    /// `x`: `[batch, seq, hidden]` → the same.
    pub(super) fn forward<T: Tap>(&self, x: Tensor<3>, padding: Option<&Padding>, tap: &mut T) -> Tensor<3> {
        let y = self.output.forward(self.attend(x.clone(), padding, tap), padding, tap);
        let x = self.attention_norm.forward(x + y);
        let y = activate(self.activation, self.up.forward(x.clone(), padding, tap)); // [batch, seq, width]
        let y = self.down.forward(y, padding, tap);
        self.norm.forward(x + y)
    }

    fn attend<T: Tap>(&self, x: Tensor<3>, padding: Option<&Padding>, tap: &mut T) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        let head_dim = hidden / self.heads;
        let x = tap.tap(&self.site, blanked(x, padding));
        // [batch, seq, hidden] → [batch, heads, seq, head_dim]
        let mut split =
            |layer: &Layer| layer.forward(x.clone(), tap).reshape([batch, seq, self.heads, head_dim]).swap_dims(1, 2);
        let [q, k, v] = self.input.each_ref().map(&mut split);
        let scores = q.mul_scalar((head_dim as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [batch, heads, seq, seq]
        let scores = match padding {
            Some(padding) => scores + padding.keys.clone(),
            None => scores,
        };
        softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([batch, seq, hidden])
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        self.input.iter_mut().chain([&mut self.output.layer, &mut self.up.layer, &mut self.down.layer])
    }

    pub(super) fn layers(&self) -> impl Iterator<Item = &LayerInfo> {
        let layers = self.input.iter().chain([&self.output.layer, &self.up.layer, &self.down.layer]);
        layers.map(|layer| &layer.info)
    }

    pub(super) fn load(&mut self) -> Result<(), ModelError> {
        self.attention_norm.load()?;
        self.norm.load()?;
        self.layers_mut().try_for_each(Layer::load)
    }

    pub(super) fn release(&mut self) {
        self.layers_mut().for_each(Layer::release);
    }

    pub(super) fn open(&mut self) -> impl Iterator<Item = Part<'_>> {
        self.layers_mut().map(Layer::open)
    }
}

/// `x` with zeros at padding.
fn blanked(x: Tensor<3>, padding: Option<&Padding>) -> Tensor<3> {
    match padding {
        Some(padding) => x * padding.rows.clone(),
        None => x,
    }
}
