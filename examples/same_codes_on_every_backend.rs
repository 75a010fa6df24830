//! The same module quantized on every backend of this build: plain rounding gives the same codes to the last bit, and so, where sums
//! of inputs do not decide by a rounding error, does GPTQ.
//!
//!     cargo run --example same_codes_on_every_backend --features ndarray,wgpu

// Burn marks the whole crate burn-ndarray as deprecated; it is this project's reference CPU backend.
#![cfg_attr(feature = "ndarray", expect(deprecated, reason = "burn-ndarray is deprecated upstream as a whole"))]

use std::error::Error;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::tensor::{Device, Tensor, TensorData};
use quench::quantize::Recipe;
use quench::quantize_module;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[derive(Module, Debug)]
struct Net {
    hidden: Linear,
    relu: Relu,
    head: Linear,
}

impl Net {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.relu.forward(self.hidden.forward(x)))
    }
}

fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", Device::ndarray()),
        // Mesa's CPU driver, which every Linux machine can have.
        #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
        ("wgpu", Device::wgpu(burn::tensor::DeviceKind::Cpu)),
        #[cfg(feature = "cuda")]
        ("cuda", Device::cuda(0)),
    ]
}

/// The codes of all layers.
fn codes(net: &Net, samples: &TensorData, recipe: &Recipe, device: &Device) -> Result<Vec<u16>, Box<dyn Error>> {
    let net = net.clone().to_device(device);
    let x = Tensor::<2>::from_data(samples.clone(), device);
    let quantized = quantize_module(&net, [x], |net: &Net, x| net.forward(x), recipe)?;
    Ok(quantized.layers.iter().flat_map(|layer| layer.packed.codes()).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let devices = devices();
    let Some((first, home)) = devices.first() else { return Err("this build has no backend".into()) };
    home.seed(1);
    let net = Net {
        hidden: LinearConfig::new(64, 48).init(home),
        relu: Relu::new(),
        head: LinearConfig::new(48, 10).init(home),
    };
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let samples: Vec<f32> = (0..256 * 64).map(|_| random.random_range(-1.0..1.0)).collect();
    let samples = TensorData::new(samples, [256, 64]);
    for method in ["rtn", "gptq"] {
        let rule = format!("[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 16\nmethod = \"{method}\"\n");
        let recipe = Recipe::from_toml(&format!("name = \"same\"\n{rule}"))?;
        let expected = codes(&net, &samples, &recipe, home)?;
        for (name, device) in &devices {
            let found = codes(&net, &samples, &recipe, device)?;
            let same = found.iter().zip(&expected).filter(|(found, expected)| found == expected).count();
            println!("{method} on {name}: {same} of {} codes as on {first}", expected.len());
            let least = if method == "rtn" { expected.len() } else { expected.len() * 99 / 100 };
            if found.len() != expected.len() || same < least {
                return Err(format!("{name} has other codes").into());
            }
        }
    }
    Ok(())
}

#[test]
fn runs() {
    main().expect("the example");
}
