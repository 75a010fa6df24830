//! What a user has: a type of their own, `burn::nn`, and `quench` without its command line.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::tensor::{Device, Tensor};

/// `[batch, 32]` → `[batch, 8]`.
#[derive(Module, Debug)]
pub struct Net {
    hidden: Linear,
    relu: Relu,
    head: Linear,
}

impl Net {
    /// Random weights.
    pub fn new(device: &Device) -> Self {
        let linear = |input, output| LinearConfig::new(input, output).init(device);
        Self { hidden: linear(32, 64), relu: Relu::new(), head: linear(64, 8) }
    }

    /// One pass.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.relu.forward(self.hidden.forward(x)))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use quench::foreign::Quantized;
    use quench::quantize::Recipe;
    use quench::quantize_module;

    use super::*;

    #[test]
    fn quantized_saved_and_loaded() {
        let device = Device::default();
        let net = Net::new(&device);
        let recipe = Recipe::from_toml("name = \"mine\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 32\n");
        let recipe = recipe.expect("a recipe");
        let x = Tensor::<2>::random([64, 32], Distribution::Normal(0.0, 1.0), &device);
        let quantized = quantize_module(&net, [x.clone()], |net: &Net, x| net.forward(x), &recipe).expect("a module");
        let lost = (quantized.module.forward(x.clone()) - net.forward(x.clone())).square().sum()
            / net.forward(x.clone()).square().sum();
        let lost = lost.into_scalar::<f32>();
        assert!(lost > 0.0 && lost < 0.02, "{lost}");

        let file = std::env::temp_dir().join(format!("quench-outside-{}.safetensors", std::process::id()));
        quantized.save(&file).expect("a file");
        let loaded = Quantized::load(Net::new(&device), &file).expect("the module");
        std::fs::remove_file(&file).expect("it is there");
        let apart = (loaded.module.forward(x.clone()) - quantized.module.forward(x)).abs().max().into_scalar::<f32>();
        assert_eq!(apart, 0.0);
    }
}
