//! Burn's own `TransformerEncoder`, trained to read sequences backwards, at 4 bits: nothing of it is rewritten.
//!
//!     cargo run --example burn_app_transformer

use std::error::Error;

use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use quench::quantize::Recipe;
use quench::quantize_module;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TOKENS: usize = 16;
const LENGTH: usize = 8;
const WIDTH: usize = 32;

/// `[batch, 8]` → `[batch, 8, 16]`.
#[derive(Module, Debug)]
struct Net {
    tokens: Embedding,
    positions: Param<Tensor<2>>,
    encoder: TransformerEncoder,
    head: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let positions = Tensor::random([LENGTH, WIDTH], Distribution::Normal(0.0, 1.0), device);
        Self {
            tokens: EmbeddingConfig::new(TOKENS, WIDTH).init(device),
            positions: Param::from_tensor(positions),
            encoder: TransformerEncoderConfig::new(WIDTH, 64, 2, 2)
                .with_dropout(0.0)
                .with_norm_first(true)
                .init(device),
            head: LinearConfig::new(WIDTH, TOKENS).init(device),
        }
    }

    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.tokens.forward(ids) + self.positions.val().unsqueeze();
        self.head.forward(self.encoder.forward(TransformerEncoderInput::new(x)))
    }
}

/// Sequences, and the same backwards.
fn sequences(count: usize, seed: u64, device: &Device) -> [Tensor<2, Int>; 2] {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let ids: Vec<i32> = (0..count * LENGTH).map(|_| random.random_range(0..TOKENS as i32)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, LENGTH]), device);
    [ids.clone(), ids.flip([1])]
}

/// The share of tokens that are in their place.
fn accuracy(logits: Tensor<3>, target: Tensor<2, Int>) -> f64 {
    let right = logits.argmax(2).squeeze_dim::<2>(2).equal(target);
    let count = right.shape().num_elements();
    f64::from(right.int().sum().into_scalar::<i32>()) / count as f64
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::default();
    device.seed(3);
    let training = device.clone().autodiff();
    let mut net = Net::new(&training);
    let mut optimizer = AdamConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(&training);
    for step in 0..250 {
        let [ids, target] = sequences(64, 100 + step, &training);
        let logits = net.forward(ids).reshape([64 * LENGTH, TOKENS]);
        let gradients = loss.forward(logits, target.reshape([64 * LENGTH])).backward();
        let gradients = GradientsParams::from_grads(gradients, &net);
        net = optimizer.step(3e-3, net, gradients);
    }
    let net = net.valid();

    let recipe = Recipe::from_toml("name = \"backwards\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 32\n")?;
    let samples = (0..4).map(|seed| sequences(64, seed, &device)[0].clone());
    let quantized = quantize_module(&net, samples, |net: &Net, ids| net.forward(ids), &recipe)?;
    for entry in &quantized.ledger.entries {
        let snr = entry.output_snr_db().unwrap_or(f64::INFINITY);
        println!("{:<34} {:?} {} {} {snr:.1} dB", entry.layer, entry.shape, entry.scheme, entry.method);
    }
    for left in &quantized.left {
        println!("{left}");
    }
    let [ids, target] = sequences(100, 50, &device);
    let dense = accuracy(net.forward(ids.clone()), target.clone());
    let decoded = accuracy(quantized.module.forward(ids.clone()), target.clone());
    let mut compiled = quantized.compile(|net: &Net, ids: Tensor<2, Int>| net.forward(ids));
    let fused = accuracy(compiled.run(ids)?, target);
    println!("in their place: {dense:.3} dense, {decoded:.3} decoded, {fused:.3} from the codes");
    Ok(())
}

#[test]
fn runs() {
    main().expect("the example");
}
