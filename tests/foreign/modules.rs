//! Modules as a user writes them: plain `burn::nn`, and nothing of Quench.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{
    BatchNorm, BatchNormConfig, Embedding, EmbeddingConfig, Linear, LinearConfig, Lstm, LstmConfig, PaddingConfig2d,
    Relu,
};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Images `[batch, 3, 12, 12]` → `[batch, 10]`.
#[derive(Module, Debug)]
pub struct Cnn {
    pub first: Conv2d,
    pub norm: BatchNorm,
    pub pool: MaxPool2d,
    pub second: Conv2d,
    pub activation: Relu,
    pub head: Linear,
}

impl Cnn {
    pub fn new(device: &Device) -> Self {
        Self {
            first: Conv2dConfig::new([3, 8], [3, 3]).with_padding(PaddingConfig2d::Same).init(device),
            norm: BatchNormConfig::new(8).init(device),
            pool: MaxPool2dConfig::new([2, 2]).init(),
            second: Conv2dConfig::new([8, 12], [3, 3]).with_stride([2, 2]).with_bias(false).init(device),
            activation: Relu::new(),
            head: LinearConfig::new(12, 10).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.activation.forward(self.norm.forward(self.first.forward(x)));
        let x = self.activation.forward(self.second.forward(self.pool.forward(x)));
        let [batch, channels, height, width] = x.dims();
        self.head.forward(x.reshape([batch, channels, height * width]).mean_dim(2).squeeze_dim::<2>(2))
    }
}

/// Tokens `[batch, 10]` → `[batch, 10, 20]`, through Burn's own encoder.
#[derive(Module, Debug)]
pub struct Encoder {
    pub embedding: Embedding,
    pub positions: Param<Tensor<2>>,
    pub encoder: TransformerEncoder,
    pub head: Linear,
}

impl Encoder {
    pub const LAYERS: usize = 2;
    pub const HEADS: usize = 4;
    pub const WIDTH: usize = 32;

    pub fn new(device: &Device) -> Self {
        let positions = Tensor::random([10, Self::WIDTH], Distribution::Normal(0.0, 0.1), device);
        let encoder = TransformerEncoderConfig::new(Self::WIDTH, 64, Self::HEADS, Self::LAYERS);
        Self {
            embedding: EmbeddingConfig::new(50, Self::WIDTH).init(device),
            positions: Param::from_tensor(positions),
            encoder: encoder.init(device),
            head: LinearConfig::new(Self::WIDTH, 20).init(device),
        }
    }

    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.embedding.forward(ids) + self.positions.val().unsqueeze();
        self.head.forward(self.encoder.forward(TransformerEncoderInput::new(x)))
    }
}

/// Sequences `[batch, time, 6]` → `[batch, 5]`, by the last state.
#[derive(Module, Debug)]
pub struct Recurrent {
    pub lstm: Lstm,
    pub head: Linear,
}

impl Recurrent {
    pub const STATE: usize = 24;

    pub fn new(device: &Device) -> Self {
        Self {
            lstm: LstmConfig::new(6, Self::STATE, true).init(device),
            head: LinearConfig::new(Self::STATE, 5).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let (_, state) = self.lstm.forward(x, None);
        self.head.forward(state.hidden)
    }
}

/// Numbers between −1 and 1, the same on every machine.
pub fn numbers<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 2.0 * random.random::<f32>() - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Token ids below 50.
pub fn tokens(batch: usize, seed: u64, device: &Device) -> Tensor<2, Int> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<i32> = (0..batch * 10).map(|_| random.random_range(0..50)).collect();
    Tensor::from_data(TensorData::new(values, [batch, 10]), device)
}
