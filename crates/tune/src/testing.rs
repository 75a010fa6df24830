//! What the unit tests share: matrices, and a small network.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Tensor, TensorData};
use quench_format::{Packed, Scheme};
use quench_nn::{Gain, LayerInfo, LoadError, Model, Part, Role, Section, Tap, Weight};
use quench_quantize::{Matrix, Method, ScaleSearch};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) fn matrix(rows: usize, columns: usize, seed: u64, scale: f32) -> Matrix {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    Matrix {
        rows,
        columns,
        values: (0..rows * columns).map(|_| scale * (2.0 * random.random::<f32>() - 1.0)).collect(),
    }
}

pub(crate) fn on(w: &Matrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(w.values.clone(), [w.rows, w.columns]), device)
}

pub(crate) fn rounded(w: &Matrix, scheme: &str) -> Packed {
    let scheme: Scheme = scheme.parse().unwrap();
    Method::rtn(ScaleSearch::Mse).quantize("w", w, scheme, None).unwrap().packed
}

const WIDTH: usize = 16;
const CLASSES: usize = 10;

/// `softmax(W₂ tanh(g ⊙ W₁ x))`, `[batch, 16]` → `[batch, 1, 10]`.
#[derive(Clone)]
pub(crate) struct Net {
    first: Weight,
    second: Weight,
    gain: Param<Tensor<1>>,
}

pub(crate) const NAMES: [&str; 2] = ["blocks.0.hidden", "head"];

impl Net {
    pub(crate) fn weights() -> [Matrix; 2] {
        [matrix(WIDTH, WIDTH, 1, 0.8), matrix(CLASSES, WIDTH, 2, 1.5)]
    }

    pub(crate) fn dense(device: &Device) -> Self {
        let [first, second] = Self::weights().map(|w| Weight::dense(on(&w, device)));
        Self { first, second, gain: Param::from_tensor(Tensor::ones([WIDTH], device)) }
    }

    /// The same, rounded.
    pub(crate) fn rounded(scheme: &str, device: &Device) -> (Self, BTreeMap<String, Packed>) {
        let packed = Self::weights().map(|w| rounded(&w, scheme));
        let [first, second] = [0, 1].map(|at| Weight::packed(&packed[at], device));
        let net = Self { first, second, gain: Param::from_tensor(Tensor::ones([WIDTH], device)) };
        (net, NAMES.into_iter().map(str::to_owned).zip(packed).collect())
    }

    pub(crate) fn batches(count: usize, seed: u64, device: &Device) -> Vec<Tensor<2>> {
        (0..count as u64).map(|batch| on(&matrix(32, WIDTH, seed + batch, 1.7), device)).collect()
    }
}

impl Model for Net {
    type Input = Tensor<2>;
    type Carry = Tensor<2>;

    fn layers(&self) -> Vec<LayerInfo> {
        let layer = |at: usize, shape, role, block| LayerInfo {
            name: NAMES[at].to_owned(),
            site: format!("{}.input", NAMES[at]),
            shape,
            role,
            block,
            residual: None,
        };
        vec![layer(0, [WIDTH, WIDTH], Role::Block, Some(0)), layer(1, [CLASSES, WIDTH], Role::Head, None)]
    }

    fn blocks(&self) -> usize {
        1
    }

    fn load(&mut self, _: Section) -> Result<(), LoadError> {
        Ok(())
    }

    fn release(&mut self, _: Section) {}

    fn start<T: Tap>(&self, input: Tensor<2>, _: &mut T) -> Tensor<2> {
        input
    }

    fn block<T: Tap>(&self, _: usize, carry: Tensor<2>, tap: &mut T) -> Tensor<2> {
        let x = tap.tap("blocks.0.hidden.input", carry);
        tanh(self.first.matmul(x) * self.gain.val().unsqueeze())
    }

    fn finish<T: Tap>(&self, carry: Tensor<2>, tap: &mut T) -> Tensor<3> {
        let x = tap.tap("head.input", carry);
        self.second.matmul(x).unsqueeze_dim(1)
    }

    fn open(&mut self, section: Section) -> Vec<Part<'_>> {
        let (at, weight) = match section {
            Section::Embedding => return Vec::new(),
            Section::Block(_) => (0, &mut self.first),
            Section::Head => (1, &mut self.second),
        };
        vec![Part { name: NAMES[at].to_owned(), site: format!("{}.input", NAMES[at]), weight }]
    }

    fn gains(&mut self, section: Section) -> Vec<Gain<'_>> {
        match section {
            Section::Block(_) => vec![Gain { name: "blocks.0.norm.weight".to_owned(), value: &mut self.gain }],
            Section::Embedding | Section::Head => Vec::new(),
        }
    }
}
