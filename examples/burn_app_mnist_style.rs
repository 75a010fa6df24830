//! A Burn application as anyone writes it, small drawings told apart by a convolutional network, whose weights are then brought to 2
//! bits, trained on with rounded weights, saved, and loaded. Only `main` knows of Quench.
//!
//!     cargo run --example burn_app_mnist_style

use std::error::Error;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use quench::foreign::Quantized;
use quench::quantize::Recipe;
use quench::{finish_qat, quantize_module};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SIDE: usize = 12;
const CLASSES: usize = 6;

/// `[batch, 1, 12, 12]` → `[batch, 6]`.
#[derive(Module, Debug)]
struct Net {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    hidden: Linear,
    head: Linear,
    relu: Relu,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            first: Conv2dConfig::new([1, 8], [3, 3]).with_padding(PaddingConfig2d::Same).init(device),
            second: Conv2dConfig::new([8, 16], [3, 3]).with_padding(PaddingConfig2d::Same).init(device),
            pool: MaxPool2dConfig::new([2, 2]).init(),
            hidden: LinearConfig::new(16 * 9, 32).init(device),
            head: LinearConfig::new(32, CLASSES).init(device),
            relu: Relu::new(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.pool.forward(self.relu.forward(self.first.forward(x)));
        let x = self.pool.forward(self.relu.forward(self.second.forward(x)));
        let x = self.relu.forward(self.hidden.forward(x.flatten::<2>(1, 3)));
        self.head.forward(x)
    }
}

/// Bars, crosses, rings and blots, somewhere in the picture, under noise; and which they are.
fn drawings(count: usize, seed: u64, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let class = random.random_range(0..CLASSES);
        let [row, column] = [0, 1].map(|_| random.random_range(4..SIDE as i32 - 4));
        for at in 0..SIDE * SIDE {
            let (y, x) = ((at / SIDE) as i32 - row, (at % SIDE) as i32 - column);
            let near = x.abs().max(y.abs());
            let ink = match class {
                0 => y == 0 && near <= 3,
                1 => x == 0 && near <= 3,
                2 => (x == 0 || y == 0) && near <= 3,
                3 => x.abs() == y.abs() && near <= 3,
                4 => near == 2,
                _ => near <= 1,
            };
            pixels.push(f32::from(u8::from(ink)) + random.random_range(-0.6..0.6f32));
        }
        labels.push(class as i32);
    }
    let labels = Tensor::from_data(TensorData::new(labels, [count]), device);
    (Tensor::from_data(TensorData::new(pixels, [count, 1, SIDE, SIDE]), device), labels)
}

/// The user's own loop: cross-entropy and Adam.
fn train(mut net: Net, steps: u64, rate: f64, device: &Device) -> Net {
    let device = device.clone().autodiff();
    let mut optimizer = AdamConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(&device);
    for step in 0..steps {
        let (x, labels) = drawings(64, 1000 + step, &device);
        let gradients = loss.forward(net.forward(x), labels).backward();
        let gradients = GradientsParams::from_grads(gradients, &net);
        net = optimizer.step(rate, net, gradients);
    }
    net
}

/// The share of drawings that are told.
fn accuracy(net: &Net, device: &Device) -> f64 {
    let (x, labels) = drawings(1000, 1, device);
    let right = net.forward(x).argmax(1).squeeze_dim::<1>(1).equal(labels).int().sum().into_scalar::<i32>();
    f64::from(right) / 1000.0
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::default();
    device.seed(7);
    let net = train(Net::new(&device.clone().autodiff()), 150, 3e-3, &device);
    let dense = net.valid();
    println!("dense: {:.3}", accuracy(&dense, &device));

    let recipe = |bits| {
        Recipe::from_toml(&format!(
            "name = \"drawings\"\n[[rules]]\nlayers = \"*\"\ncode = \"int{bits}\"\ngroup = 32\n"
        ))
    };
    let samples: Vec<Tensor<4>> = (0..4).map(|seed| drawings(64, 100 + seed, &device).0).collect();
    let four = quantize_module(&dense, samples.clone(), |net: &Net, x| net.forward(x), &recipe(4)?)?;
    println!("4 bits: {:.3}", accuracy(&four.module, &device));
    let two = quantize_module(&dense, samples, |net: &Net, x| net.forward(x), &recipe(2)?)?;
    println!("2 bits: {:.3}", accuracy(&two.module, &device));

    let (training, qat) = two.prepare_qat(net)?;
    let tuned = finish_qat(train(training, 60, 1e-3, &device), qat)?;
    let tuned_accuracy = accuracy(&tuned.module.valid(), &device);
    println!("2 bits, trained: {tuned_accuracy:.3}");

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("drawings.safetensors");
    tuned.save(&file)?;
    let loaded = Quantized::load(Net::new(&device), &file)?;
    assert_eq!(accuracy(&loaded.module, &device), tuned_accuracy);
    let bytes: usize = four.layers.iter().map(|layer| layer.packed.shape().iter().product::<usize>() * 4).sum();
    println!("{} bytes on disk, {bytes} of dense weights", std::fs::metadata(&file)?.len());
    Ok(())
}

#[test]
fn runs() {
    main().expect("the example");
}
