//! Modules that know nothing of Quench, quantized beside the same networks written with its layers.

#[path = "foreign/modules.rs"]
mod modules;
#[path = "foreign/ours.rs"]
mod ours;
#[path = "foreign/zoo.rs"]
mod zoo;

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use modules::{Cnn, Encoder, Recurrent, numbers, tokens};
use ours::{Net, Ours};
use quench::foreign::{ForeignError, Quantized, Recording, Sample, Tensors};
use quench::format::Packed;
use quench::kernels::Activations;
use quench::nn::{Model, Role, Section};
use quench::quantize::{Finished, Journal, Recipe, run};
use quench::{finish_qat, prepare_qat, quantize_module};
use zoo::Zoo;

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

#[test]
fn every_kind_of_layer() {
    type Input = (Tensor<2, Int>, Tensor<4>);
    type Output = (Tensor<3>, Tensor<4>);
    fn both((logits, image): Output) -> Vec<f32> {
        [values(logits), values(image)].concat()
    }
    for device in devices() {
        device.seed(4);
        let net = Zoo::new(&device);
        let input = |seed| {
            let ids = tokens(1, seed, &device).reshape([2, 5]).remainder_scalar(20);
            (ids, numbers([2, 4, 6, 6], seed, &device))
        };
        let samples: Vec<Input> = (0..8).map(input).collect();
        let dense = both(net.forward(input(9)));

        let recording = Recording::new(&net, &samples, Zoo::forward).expect("a recording");
        let replayed: Output = recording.compute(Sample::new(input(9)));
        assert!(error(&both(replayed), &dense) < 1e-6, "replayed");
        let layers = recording.layers();
        let found: Vec<_> =
            layers.iter().map(|layer| (layer.name.as_str(), layer.shape, layer.site.as_str())).collect();
        let expected = [
            ("table", [20, 8], ""),
            ("right", [8, 8], "right.input"),
            ("line", [8, 24], "line.input"),
            ("wider", [16, 8], "wider.input"),
            ("left", [12, 8], "left.input"),
            ("lopsided", [4, 24], "lopsided.input"),
            ("grouped", [8, 18], ""),
            ("taller", [16, 8], "taller.input"),
        ];
        assert_eq!(found, expected);
        assert!(layers.iter().all(|layer| (layer.role == Role::Embedding) == (layer.name == "table")));
        let left: Vec<_> = recording.left().iter().map(ToString::to_string).collect();
        let expected = [
            "both is read as a matrix and as its transpose",
            "stack is a stack of matrices, [2, 8, 8]",
            "idle.weight has no part in the output",
        ];
        assert_eq!(left, expected);

        for (rule, limit) in [("code = \"int8\"\nmethod = \"rtn\"", 0.02), ("code = \"int4\"", 0.3)] {
            let quantized = quantize_module(&net, samples.clone(), Zoo::forward, &recipe(rule)).expect("a module");
            assert_eq!(quantized.layers.len(), 8);
            let decoded = both(quantized.module.forward(input(9)));
            let lost = error(&decoded, &dense);
            assert!(lost > 1e-4 && lost < limit, "{rule}: {lost}");
            let mut compiled = quantized.compile(Zoo::forward).with_activations(Activations::F32);
            let fused: Output = compiled.run(input(9)).expect("a recording");
            assert!(error(&both(fused), &decoded) < 1e-5, "{rule}");
            assert_eq!(both(quantized.decoded().forward(input(9))), decoded, "{rule}");
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let device = devices().remove(0);
    let net = LinearConfig::new(4, 4).init(&device);
    let forward = |net: &Linear, x: Tensor<2>| net.forward(x);
    let recipe = recipe("code = \"int4\"");
    let refused = |samples: Vec<Tensor<2>>| quantize_module(&net, samples, forward, &recipe).expect_err("refused");
    assert!(matches!(refused(Vec::new()), ForeignError::NoSamples));
    let x = numbers([3, 4], 1, &device);
    assert!(matches!(refused(vec![Tensor::from_inner(x.clone())]), ForeignError::Autodiff { index: 0 }));

    let none =
        Recording::new(&net, std::slice::from_ref(&x), |_: &Linear, x: Tensor<2>| x).expect_err("no weight is read");
    assert_eq!(none.to_string(), "the module has no weight that can be quantized; weight has no part in the output");
    let pair = vec![net.clone(), net.clone()];
    let deeper = |net: &Vec<Linear>, x: Tensor<2>| match x.dims()[0] {
        3 => net[0].forward(x),
        _ => net[1].forward(net[0].forward(x)),
    };
    let ways = Recording::new(&pair, &[x, numbers([2, 4], 1, &device)], deeper).expect_err("two ways");
    assert!(ways.to_string().contains("[0] with the one and [0, 1] with the other"), "{ways}");
}

/// Trains the module to say what the dense one says; the first loss and the last.
fn train(mut net: Cnn, dense: &Cnn, steps: u64) -> (Cnn, [f32; 2]) {
    let device = net.devices()[0].clone();
    let mut optimizer = AdamConfig::new().init();
    let mut losses = Vec::new();
    for step in 0..steps {
        let x = numbers([16, 3, 12, 12], 100 + step, &device.clone().inner());
        let target = Tensor::from_inner(dense.forward(x.clone()));
        let loss = (net.forward(Tensor::from_inner(x)) - target).square().mean();
        losses.push(loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(2e-3, net, gradients);
    }
    let last = losses.split_off(losses.len() - 5).iter().sum::<f32>() / 5.0;
    (net, [losses[..5].iter().sum::<f32>() / 5.0, last])
}

/// Rounded weights learn in the user's own loop; what comes out is what was trained, and stays so on disk.
#[test]
fn trained_with_rounded_weights_and_saved() {
    let device = devices().remove(0);
    device.seed(5);
    let dense = Cnn::new(&device);
    let trained = dense.clone().train();
    let recipe = recipe("code = \"int2\"\ngroup = 16");
    let (net, qat) = prepare_qat(trained.clone(), &recipe).expect("a module in training");
    let (net, [first, last]) = train(net, &dense, 60);
    assert!(last < first / 2.0, "{first} → {last}");
    let x = numbers([5, 3, 12, 12], 9, &device);
    let rounded = values(net.valid().forward(x.clone()));
    let quantized = finish_qat(net.valid(), qat).expect("codes");
    assert!(quantized.layers.iter().all(|layer| layer.packed.scheme().to_string() == "int2/16/f16"));
    let found = values(quantized.module.forward(x.clone()));
    assert!(error(&found, &rounded) < 1e-5, "what was trained is what is stored");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cnn.safetensors");
    quantized.save(&file).expect("a file");
    // Running statistics, which training has changed, are read too.
    let loaded = Quantized::load(Cnn::new(&device), &file).expect("the module");
    assert_eq!(values(loaded.module.forward(x.clone())), found);
    let by_path = |quantized: &Quantized<Cnn>| -> BTreeMap<String, Packed> {
        quantized.layers.iter().map(|layer| (layer.path.clone(), layer.packed.clone())).collect()
    };
    assert_eq!(by_path(&loaded), by_path(&quantized));
    let other = Quantized::load(Recurrent::new(&device), &file).expect_err("another module");
    assert!(other.to_string().contains("parameter lstm."), "{other}");

    // Burn's own file, of the decoded values.
    let pack = folder.path().join("cnn.bpk");
    quantized.decoded().save_file(&pack).expect("a file");
    assert_eq!(values(Cnn::new(&device).load_file(&pack).forward(x)), found);
}

/// From GPTQ's codes: training begins where quantization ended.
#[test]
fn training_goes_on_from_codes() {
    let device = devices().remove(0);
    device.seed(6);
    let dense = Cnn::new(&device);
    let samples: Vec<_> = (0..3).map(|seed| numbers([8, 3, 12, 12], seed, &device)).collect();
    let recipe = recipe("code = \"int2\"\ngroup = 16");
    let quantized = quantize_module(&dense, samples, |net: &Cnn, x| net.forward(x), &recipe).expect("codes");
    let (net, qat) = quantized.prepare_qat(dense.clone().train()).expect("a module in training");
    let x = numbers([5, 3, 12, 12], 9, &device);
    let found = values(quantized.module.forward(x.clone()));
    assert!(error(&values(net.valid().forward(x.clone())), &found) < 1e-5);
    let (net, [first, last]) = train(net, &dense, 60);
    assert!(last < first / 1.5, "{first} → {last}");
    // A packed module is an ordinary one to autodiff, its packed weights constants.
    let finished = finish_qat(net, qat).expect("codes");
    let loss = finished.module.forward(Tensor::from_inner(x)).square().mean();
    let gradients = loss.backward();
    let bias = finished.module.head.bias.as_ref().expect("a bias").val().grad(&gradients);
    assert!(bias.is_some_and(|bias| bias.abs().max().into_scalar::<f32>() > 0.0));
    assert!(finished.module.head.weight.base().grad(&gradients).is_none());
}
