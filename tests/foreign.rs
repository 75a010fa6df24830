//! Modules that know nothing of Quench, quantized beside the same networks written with its layers.

#[path = "foreign/modules.rs"]
mod modules;
#[path = "foreign/ours.rs"]
mod ours;

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use modules::{Cnn, Encoder, Recurrent, numbers, tokens};
use ours::{Net, Ours};
use quench::foreign::{Quantized, Recording, Tensors};
use quench::format::Packed;
use quench::kernels::Activations;
use quench::nn::{Model, Section};
use quench::quantize::{Finished, Journal, Recipe, run};
use quench::quantize_module;

/// The devices that this build has.
#[cfg_attr(feature = "ndarray", expect(deprecated, reason = "burn-ndarray is deprecated upstream as a whole"))]
fn devices() -> Vec<Device> {
    vec![
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
        // Mesa's CPU driver: WGSL runs on it, Burn's SPIR-V crashes it.
        #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
        Device::wgpu(burn::tensor::DeviceKind::Cpu),
    ]
}

fn recipe(rule: &str) -> Recipe {
    let text = format!("name = \"foreign\"\n[keep]\nembeddings = false\n[[rules]]\nlayers = \"*\"\n{rule}\n");
    Recipe::from_toml(&text).expect("a recipe")
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().convert::<f32>().try_into_vec().expect("floats")
}

/// `‖ŷ − y‖ / ‖y‖`.
fn error(found: &[f32], dense: &[f32]) -> f64 {
    assert_eq!(found.len(), dense.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let noise: f64 = found.iter().zip(dense).map(|(y, dense)| square(y - dense)).sum();
    (noise / dense.iter().map(|y| square(*y)).sum::<f64>()).sqrt()
}

/// What a run gave, by layer.
#[derive(Default)]
struct Kept(BTreeMap<String, Packed>);

impl Journal for Kept {
    fn record(&mut self, _: usize, _: Section, layers: &[Finished]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.extend(layers.iter().map(|layer| (layer.entry.layer.clone(), layer.packed.clone())));
        Ok(())
    }
}

/// Quantizes a module both ways by GPTQ at 4 bits, and compares: the same codes, the same error, and all forms of the result alike.
fn same_as_ours<M, I, const D: usize>(
    module: &M,
    samples: &[I],
    test: I,
    forward: impl Fn(&M, I) -> Tensor<D> + Copy,
) -> Quantized<M>
where
    M: Module + Net<Input = I>,
    I: Tensors,
{
    let recipe = recipe("code = \"int4\"\ngroup = 32");
    let dense = values(forward(module, test.clone()));
    let quantized = quantize_module(module, samples.to_vec(), forward, &recipe).expect("a quantized module");
    let found = values(forward(&quantized.module, test.clone()));

    let layers = Recording::new(module, samples, forward).expect("a recording").layers();
    let plan = recipe.plan(&layers).expect("a plan");
    let mut ours = Ours::new(module.clone(), layers);
    let mut kept = Kept::default();
    run(&mut ours, &plan, samples, &mut kept, &mut |_| ControlFlow::Continue(())).expect("quantized layers");
    let expected = values(ours.forward(test.clone(), &mut ()));

    let (error_found, error_ours) = (error(&found, &dense), error(&expected, &dense));
    println!("error {error_found:.6}, ours {error_ours:.6}, apart {:.2e}", error(&found, &expected));
    assert!(error_found > 1e-3, "nothing was lost: {error_found}");
    assert!(error_found <= error_ours + 1e-5, "{error_found}, ours {error_ours}");
    let mut codes = quantized.layers.iter().map(|layer| (layer.name().to_owned(), layer.packed.clone()));
    assert!(codes.all(|(name, packed)| kept.0.remove(&name) == Some(packed)), "codes differ");
    assert!(kept.0.is_empty(), "{:?} were not quantized", kept.0.keys());

    let mut compiled = quantized.compile(forward).with_activations(Activations::F32);
    let fused: Tensor<D> = compiled.run(test.clone()).expect("a recording");
    assert!(error(&values(fused), &found) < 1e-5, "compiled");
    let decoded = values(forward(&quantized.decoded(), test));
    assert!(error(&decoded, &found) < 1e-6, "decoded");
    quantized
}

#[test]
fn a_convolutional_network() {
    for device in devices() {
        device.seed(1);
        let samples: Vec<_> = (0..3).map(|seed| numbers([8, 3, 12, 12], seed, &device)).collect();
        let quantized =
            same_as_ours(&Cnn::new(&device), &samples, numbers([5, 3, 12, 12], 9, &device), |net, x| net.forward(x));
        let names: Vec<_> = quantized.layers.iter().map(|layer| layer.path.as_str()).collect();
        assert_eq!(names, ["first.weight", "second.weight", "head.weight"]);
        assert!(quantized.left.is_empty(), "{:?}", quantized.left);
    }
}

#[test]
fn an_encoder() {
    for device in devices() {
        device.seed(2);
        let samples: Vec<_> = (0..3).map(|seed| tokens(8, seed, &device)).collect();
        let quantized = same_as_ours(&Encoder::new(&device), &samples, tokens(4, 9, &device), |net, x| net.forward(x));
        assert_eq!(quantized.layers.len(), 14);
        assert_eq!(quantized.left.len(), 1);
        assert_eq!(quantized.left[0].to_string(), "positions is read by Add, which is no product");
    }
}

#[test]
fn a_recurrent_network() {
    for device in devices() {
        device.seed(3);
        let samples: Vec<_> = (0..3).map(|seed| numbers([8, 7, 6], seed, &device)).collect();
        let quantized =
            same_as_ours(&Recurrent::new(&device), &samples, numbers([5, 7, 6], 9, &device), |net, x| net.forward(x));
        assert_eq!(quantized.layers.len(), 9);
        assert!(quantized.left.is_empty(), "{:?}", quantized.left);
        // A weight that is read at seven times is shown what it reads at all of them.
        let mut sequences = quantized.compile(|net: &Recurrent, x: Tensor<3>| net.forward(x));
        for time in [3, 7, 3] {
            let _: Tensor<2> = sequences.run(numbers([2, time, 6], 1, &device)).expect("a recording");
        }
        assert_eq!(sequences.recordings(), 2);
    }
}
