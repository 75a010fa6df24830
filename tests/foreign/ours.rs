//! The same networks written with our layers, as a model's author would: what a foreign module is measured against.

use std::collections::BTreeMap;

use burn::nn::Linear;
use burn::tensor::activation::{gelu, sigmoid, softmax, tanh};
use burn::tensor::{Int, Tensor};
use quench::nn::{Conv2d, Embedding, LayerInfo, LoadError, Model, Part, Section, Tap, Weight, Window, unfold};

use crate::modules::{Cnn, Encoder, Recurrent};

pub type Weights = BTreeMap<String, Weight>;

/// A network cut where its layers read.
pub trait Net {
    type Input: Clone;
    type Carry: Clone;
    /// The dense matrices by layer.
    fn weights(&self) -> Weights;
    fn start(&self, input: Self::Input) -> Self::Carry;
    fn block<T: Tap>(&self, index: usize, weights: &Weights, carry: Self::Carry, tap: &mut T) -> Self::Carry;
    fn finish(&self, carry: Self::Carry) -> Tensor<3>;
}

/// A network with weights that may be packed.
pub struct Ours<N> {
    net: N,
    layers: Vec<LayerInfo>,
    weights: Weights,
}

impl<N: Net> Ours<N> {
    /// - `layers`: names, sites and blocks
    pub fn new(net: N, layers: Vec<LayerInfo>) -> Self {
        Self { weights: net.weights(), layers, net }
    }
}

impl<N: Net> Model for Ours<N> {
    type Input = N::Input;
    type Carry = N::Carry;

    fn layers(&self) -> Vec<LayerInfo> {
        self.layers.clone()
    }

    fn blocks(&self) -> usize {
        self.layers.iter().filter_map(|layer| layer.block).max().map_or(0, |last| last + 1)
    }

    fn load(&mut self, _: Section) -> Result<(), LoadError> {
        Ok(())
    }

    fn release(&mut self, _: Section) {}

    fn start<T: Tap>(&self, input: N::Input, _: &mut T) -> N::Carry {
        self.net.start(input)
    }

    fn block<T: Tap>(&self, index: usize, carry: N::Carry, tap: &mut T) -> N::Carry {
        self.net.block(index, &self.weights, carry, tap)
    }

    fn finish<T: Tap>(&self, carry: N::Carry, _: &mut T) -> Tensor<3> {
        self.net.finish(carry)
    }

    fn open(&mut self, section: Section) -> Vec<Part<'_>> {
        let layer = |name: &str| self.layers.iter().find(|layer| layer.name == name && layer.section() == section);
        let here = self.weights.iter_mut().filter_map(|(name, weight)| Some((layer(name)?, weight)));
        here.map(|(layer, weight)| Part { name: layer.name.clone(), site: layer.site.clone(), weight }).collect()
    }
}

fn dense<const D: usize>(w: Tensor<D>) -> Weight {
    let dims = w.dims();
    Weight::dense(w.reshape([dims[0], dims[1..].iter().product()]))
}

/// Burn has `[in, out]`.
fn transposed(layer: &Linear) -> Weight {
    Weight::dense(layer.weight.val().transpose())
}

/// `y = x · Wᵀ + b`.
fn linear<const D: usize>(layer: &Linear, weight: &Weight, x: Tensor<D>) -> Tensor<D> {
    let y = weight.matmul(x);
    match &layer.bias {
        Some(bias) => y + bias.val().unsqueeze(),
        None => y,
    }
}

fn convolve<T: Tap>(convolution: &Conv2d, site: &str, x: Tensor<4>, tap: &mut T) -> Tensor<4> {
    if !tap.sees(site) {
        return convolution.forward(x);
    }
    let [batch, _, height, width] = x.dims();
    let rows = tap.tap(site, unfold(x, &convolution.window));
    convolution.multiply(rows, batch, convolution.window.output([height, width]))
}

impl Net for Cnn {
    type Input = Tensor<4>;
    type Carry = Tensor<4>;

    fn weights(&self) -> Weights {
        let convolutions = [("first", &self.first), ("second", &self.second)];
        let convolutions = convolutions.map(|(name, layer)| (name.to_owned(), dense(layer.weight.val())));
        convolutions.into_iter().chain([("head".to_owned(), transposed(&self.head))]).collect()
    }

    fn start(&self, x: Tensor<4>) -> Tensor<4> {
        x
    }

    fn block<T: Tap>(&self, index: usize, weights: &Weights, x: Tensor<4>, tap: &mut T) -> Tensor<4> {
        match index {
            0 => {
                let window = Window { padding: [1; 2], ..Window::square(3) };
                let bias = self.first.bias.as_ref().map(|bias| bias.val());
                convolve(&Conv2d::new(weights["first"].clone(), bias, window, 1), "first.input", x, tap)
            }
            1 => {
                let x = self.pool.forward(self.activation.forward(self.norm.forward(x)));
                let window = Window { stride: [2; 2], ..Window::square(3) };
                convolve(&Conv2d::new(weights["second"].clone(), None, window, 1), "second.input", x, tap)
            }
            _ => {
                let x = self.activation.forward(x);
                let [batch, channels, height, width] = x.dims();
                let x = x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels]);
                linear(&self.head, &weights["head"], tap.tap("head.input", x)).unsqueeze()
            }
        }
    }

    fn finish(&self, x: Tensor<4>) -> Tensor<3> {
        x.squeeze_dim(0)
    }
}

/// Tokens, or what has become of them.
#[derive(Clone)]
pub enum State {
    Ids(Box<Tensor<2, Int>>),
    Rows(Vec<Tensor<3>>),
}

impl Encoder {
    fn linears(&self) -> Vec<(String, &Linear)> {
        let mut linears = Vec::new();
        for (index, layer) in self.encoder.layers.iter().enumerate() {
            let at = format!("encoder.layers.{index}");
            let (mha, pwff) = (&layer.mha, &layer.pwff);
            linears.extend([
                (format!("{at}.mha.query"), &mha.query),
                (format!("{at}.mha.key"), &mha.key),
                (format!("{at}.mha.value"), &mha.value),
                (format!("{at}.mha.output"), &mha.output),
                (format!("{at}.pwff.linear_inner"), &pwff.linear_inner),
                (format!("{at}.pwff.linear_outer"), &pwff.linear_outer),
            ]);
        }
        linears.push(("head".to_owned(), &self.head));
        linears
    }
}

impl Net for Encoder {
    type Input = Tensor<2, Int>;
    type Carry = State;

    fn weights(&self) -> Weights {
        let linears = self.linears().into_iter().map(|(name, layer)| (name, transposed(layer)));
        linears.chain([("embedding".to_owned(), dense(self.embedding.weight.val()))]).collect()
    }

    fn start(&self, ids: Tensor<2, Int>) -> State {
        State::Ids(Box::new(ids))
    }

    /// The table; then four for each layer: query, key and value, output, inner, outer; then the head.
    fn block<T: Tap>(&self, index: usize, weights: &Weights, carry: State, tap: &mut T) -> State {
        let rows = match carry {
            State::Ids(ids) => return State::Rows(vec![Embedding::new(weights["embedding"].clone()).forward(*ids)]),
            State::Rows(rows) => rows,
        };
        let (number, place) = ((index - 1) / 4, (index - 1) % 4);
        let at = format!("encoder.layers.{number}");
        let linears: BTreeMap<String, &Linear> = self.linears().into_iter().collect();
        let apply = |name: &str, x: Tensor<3>| linear(linears[name], &weights[name], x);
        if place == 0 {
            let x = match number {
                0 => rows[0].clone() + self.positions.val().unsqueeze(),
                _ => self.encoder.layers[number - 1].norm_2.forward(rows[0].clone() + rows[1].clone()),
            };
            if number == Self::LAYERS {
                return State::Rows(vec![apply("head", tap.tap("head.input", x))]);
            }
            let seen = tap.tap(&format!("{at}.mha.query.input"), x.clone());
            let each = ["query", "key", "value"].map(|name| apply(&format!("{at}.mha.{name}"), seen.clone()));
            return State::Rows([x].into_iter().chain(each).collect());
        }
        let layer = &self.encoder.layers[number];
        match place {
            1 => {
                let [batch, time, width] = rows[0].dims();
                let heads =
                    |x: &Tensor<3>| x.clone().reshape([batch, time, Self::HEADS, width / Self::HEADS]).swap_dims(1, 2);
                let [query, key, value] = [1, 2, 3].map(|at| heads(&rows[at]));
                let scores = query.matmul(key.transpose()).div_scalar(((width / Self::HEADS) as f32).sqrt());
                let context = softmax(scores, 3).matmul(value).swap_dims(1, 2).reshape([batch, time, width]);
                let name = format!("{at}.mha.output");
                let y = apply(&name, tap.tap(&format!("{name}.input"), context));
                State::Rows(vec![rows[0].clone(), y])
            }
            2 => {
                let x = layer.norm_1.forward(rows[0].clone() + rows[1].clone());
                let name = format!("{at}.pwff.linear_inner");
                State::Rows(vec![x.clone(), apply(&name, tap.tap(&format!("{name}.input"), x))])
            }
            _ => {
                let name = format!("{at}.pwff.linear_outer");
                let x = tap.tap(&format!("{name}.input"), gelu(rows[1].clone()));
                State::Rows(vec![rows[0].clone(), apply(&name, x)])
            }
        }
    }

    fn finish(&self, carry: State) -> Tensor<3> {
        match carry {
            State::Rows(mut rows) => {
                let [batch, time, classes] = rows[0].dims();
                rows.remove(0).reshape([1, batch * time, classes])
            }
            State::Ids(_) => unreachable!("the blocks were passed"),
        }
    }
}

impl Net for Recurrent {
    type Input = Tensor<3>;
    type Carry = Tensor<3>;

    fn weights(&self) -> Weights {
        let mut weights = Weights::new();
        for (gate, controller) in self.gates() {
            weights.insert(format!("lstm.{gate}.input_transform"), transposed(&controller.input_transform));
            weights.insert(format!("lstm.{gate}.hidden_transform"), transposed(&controller.hidden_transform));
        }
        weights.insert("head".to_owned(), transposed(&self.head));
        weights
    }

    fn start(&self, x: Tensor<3>) -> Tensor<3> {
        x
    }

    fn block<T: Tap>(&self, index: usize, weights: &Weights, x: Tensor<3>, tap: &mut T) -> Tensor<3> {
        if index == 1 {
            let x = tap.tap("head.input", x.squeeze_dim::<2>(0));
            return linear(&self.head, &weights["head"], x).unsqueeze();
        }
        let [batch, time, _] = x.dims();
        let mut hidden = Tensor::<2>::zeros([batch, Self::STATE], &x.device());
        let mut cell = hidden.clone();
        let (mut inputs, mut states) = (Vec::new(), Vec::new());
        for step in 0..time {
            let now = x.clone().narrow(1, step, 1).squeeze_dim::<2>(1);
            inputs.push(now.clone());
            states.push(hidden.clone());
            let gates: BTreeMap<&str, Tensor<2>> = self
                .gates()
                .into_iter()
                .map(|(gate, layers)| {
                    let of = |name: &str| &weights[&format!("lstm.{gate}.{name}")];
                    let from_input = linear(&layers.input_transform, of("input_transform"), now.clone());
                    (gate, from_input + linear(&layers.hidden_transform, of("hidden_transform"), hidden.clone()))
                })
                .collect();
            let open = |gate: &str| sigmoid(gates[gate].clone());
            cell = open("forget_gate") * cell + open("input_gate") * tanh(gates["cell_gate"].clone());
            hidden = open("output_gate") * tanh(cell.clone());
        }
        tap.tap("lstm.input_gate.input_transform.input", Tensor::cat(inputs, 0));
        tap.tap("lstm.input_gate.hidden_transform.input", Tensor::cat(states, 0));
        hidden.unsqueeze()
    }

    fn finish(&self, x: Tensor<3>) -> Tensor<3> {
        x
    }
}

impl Recurrent {
    fn gates(&self) -> [(&'static str, &burn::nn::GateController); 4] {
        let lstm = &self.lstm;
        let forget = lstm.forget_gate.as_ref().expect("it has one");
        [
            ("input_gate", &lstm.input_gate),
            ("forget_gate", forget),
            ("output_gate", &lstm.output_gate),
            ("cell_gate", &lstm.cell_gate),
        ]
    }
}
