//! Residual networks on images: known accuracies, folding, taps, and quantization of convolutions.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Distribution, Tensor};
use quench::checkpoint::{Dtype, Folder, Source, Writer};
use quench::format::{Packed, Scales};
use quench::kernels::Activations;
use quench::models::{FOLDED, ResNet, ResNetConfig};
use quench::nn::{Model, Role, Section};
use quench::quantize::{Recipe, run};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{data, devices, error, first_device, values};

/// Every `n`-th image of each class, with the index of the class.
fn images(config: &ResNetConfig, n: usize) -> Option<Vec<(usize, PathBuf)>> {
    let root = data("images/cifar10_test")?;
    let of = |(class, label): (usize, &String)| {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(root.join(label)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().step_by(n).map(move |path| (class, path)).collect::<Vec<_>>()
    };
    Some(config.labels.iter().enumerate().flat_map(of).collect())
}

/// The most likely class of each image, 100 at a time.
fn classes(network: &ResNet, images: &[(usize, PathBuf)], device: &Device) -> Vec<usize> {
    let of = |images: &[(usize, PathBuf)]| {
        let paths: Vec<&PathBuf> = images.iter().map(|(_, path)| path).collect();
        let logits = network.classify(network.config().input.read_images(&paths, device).unwrap());
        values(logits).chunks(network.config().classes).map(best).collect::<Vec<_>>()
    };
    images.chunks(100).flat_map(of).collect()
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

fn percent_equal(a: &[usize], b: &[usize]) -> f64 {
    100.0 * a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

#[test]
fn cifar_networks_have_their_known_accuracy() {
    let (_, device) = first_device();
    for (name, known) in [("resnet20-cifar10", 80.0), ("resnet56-cifar10", 82.0)] {
        let Some(folder) = data(&format!("models/{name}")) else { continue };
        let mut network = ResNet::open(&folder, &device).unwrap();
        network.load_all().unwrap();
        let Some(images) = images(network.config(), 1) else { continue };
        assert_eq!(images.len(), 1000);
        let truth: Vec<usize> = images.iter().map(|(class, _)| *class).collect();
        let found = percent_equal(&classes(&network, &images, &device), &truth);
        println!("{name}: {found:.1} %");
        assert!((found - known).abs() <= 1.5, "{name}: {found} %");
    }
}

/// Folding changes nothing that is computed, is read again after a release, and is what a saved folder has.
#[test]
fn folded_batch_norms_change_nothing() {
    for (device_name, device) in devices() {
        for name in ["resnet20-cifar10", "resnet56-cifar10"] {
            let Some(folder) = data(&format!("models/{name}")) else { continue };
            let dense = ResNet::open(&folder, &device).unwrap();
            let mut folded = dense.clone();
            folded.fold().unwrap();
            folded.load_all().unwrap();
            for index in 0..folded.blocks() {
                folded.release(Section::Block(index));
            }
            let x = Tensor::random([4, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
            let expected = values(dense.classify(x.clone()));
            let found = error(&values(folded.classify(x.clone())), &expected);
            println!("{device_name} {name}: {found:.1e}");
            assert!(found <= 1e-5, "{device_name} {name}: {found:.1e}");

            let saved = save_folded(&folder, &folded);
            let again = ResNet::open(saved.path(), &device).unwrap();
            assert!(again.config().folded && !again.source().names().iter().any(|name| name.contains("bn")));
            assert_eq!(values(again.classify(x.clone())), values(folded.classify(x)), "{device_name} {name}");
        }
    }
}

/// A folder of the tensors of a folded network, with the configuration that says so.
fn save_folded(folder: &Path, network: &ResNet) -> tempfile::TempDir {
    let saved = tempfile::tempdir().unwrap();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    config[FOLDED] = json!(true);
    fs::write(saved.path().join("config.json"), config.to_string()).unwrap();
    let mut writer = Writer::create(saved.path(), u64::MAX).unwrap();
    for name in network.source().names() {
        writer.copy(network.source().as_ref(), name).unwrap();
    }
    writer.finish().unwrap();
    saved
}

/// Norms are folded before layers are packed.
#[test]
fn a_quantized_network_is_not_folded() {
    let folder = tempfile::tempdir().unwrap();
    let (config, dense) = (ResNetConfig::cifar(20).unwrap(), data("models/resnet20-cifar10"));
    let Some(dense) = dense.map(|path| Folder::open(path).unwrap()) else { return };
    let mut writer = Writer::create(folder.path(), u64::MAX).unwrap();
    for name in dense.names() {
        if name == "layer1.0.conv1.weight" {
            let (scheme, scales) = ("int8/row/f32".parse().unwrap(), Scales::Float(vec![0.01; 16]));
            let packed = Packed::from_codes(scheme, [16, 144], &[130; 16 * 144], scales, None, None).unwrap();
            writer.packed("layer1.0.conv1", packed).unwrap();
        } else {
            writer.copy(&dense, name).unwrap();
        }
    }
    writer.finish().unwrap();
    let source = Arc::new(Folder::open(folder.path()).unwrap());
    let mut network = ResNet::new(config, source, &first_device().1).unwrap();
    let message = network.fold().unwrap_err().to_string();
    assert!(message.contains("layer1.0.conv1") && message.contains("fold the dense model"), "{message}");
}

/// Rounding and GPTQ run on convolutions; at 8 bits nearly every image keeps its class.
#[test]
fn convolutions_are_quantized() {
    let (_, device) = first_device();
    let Some(folder) = data("models/resnet20-cifar10") else { return };
    let dense = ResNet::open(&folder, &device).unwrap();
    let Some(images) = images(dense.config(), 10) else { return };
    let expected = classes(&dense, &images, &device);
    let paths: Vec<&PathBuf> = images.iter().map(|(_, path)| path).step_by(5).collect();
    let calibration = dense.config().input.read_images(&paths, &device).unwrap();
    for (method, code, least) in [("rtn", "int8", 98.0), ("gptq", "int8", 98.0), ("gptq", "int4", 75.0)] {
        let recipe = format!(
            "name = \"t\"\n[[rules]]\nlayers = \"*\"\ncode = \"{code}\"\ngroup = \"row\"\nmethod = \"{method}\"\n"
        );
        let mut network = dense.clone();
        let plan = Recipe::from_toml(&recipe).unwrap().plan(&network.layers()).unwrap();
        let batches = [calibration.clone()];
        let ledger = run(&mut network, &plan, &batches, &mut (), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(ledger.entries.len(), 18);
        network.load_all().unwrap();
        let same = percent_equal(&classes(&network, &images, &device), &expected);
        println!("resnet20 {method} {code}: {same:.0} % of {} images keep their class", images.len());
        assert!(same >= least, "{method} {code}: {same} %");
    }
}

/// Products that read their input in 8 bits, the default, give an image another class than those in f32 at most once in a
/// hundred times.
#[test]
fn the_precision_of_the_input_hardly_changes_a_class() {
    let (_, device) = first_device();
    let Some(folder) = data("models/resnet20-cifar10") else { return };
    let mut network = ResNet::open(&folder, &device).unwrap();
    network.fold().unwrap();
    let Some(images) = images(network.config(), 1) else { return };
    for scheme in ["code = \"slog5\"\ngroup = 16", "code = \"int4\"\ngroup = 32"] {
        let recipe = format!("name = \"t\"\n[[rules]]\nlayers = \"*\"\n{scheme}\nmethod = \"rtn\"\n");
        let mut network = network.clone();
        let plan = Recipe::from_toml(&recipe).unwrap().plan(&network.layers()).unwrap();
        run(&mut network, &plan, &[], &mut (), &mut |_| ControlFlow::Continue(())).unwrap();
        network.load_all().unwrap();
        let [int8, f32s] = [Activations::Int8, Activations::F32].map(|activations| {
            network.set_activations(activations);
            classes(&network, &images, &device)
        });
        let same = percent_equal(&int8, &f32s);
        println!("resnet20 {scheme:?}: {same:.1} % of {} images have the same class", images.len());
        assert!(same >= 99.0, "{scheme}: {same} %");
    }
}

/// A folder with random weights for the layout of torchvision, of which there is no stored model.
fn torchvision(depth: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "model_type": "resnet_torchvision", "depth": depth, "num_classes": 7 });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let config = ResNetConfig::read(&folder.path().join("config.json")).unwrap();
    let mut writer = Writer::create(folder.path(), u64::MAX).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(depth as u64);
    let mut add = |name: String, shape: Vec<usize>, scale: f32, offset: f32| {
        let count = shape.iter().product::<usize>();
        let bytes: Vec<u8> =
            (0..count).flat_map(|_| (offset + scale * rng.random_range(-1.0f32..1.0)).to_le_bytes()).collect();
        writer.add(&name, Dtype::F32, shape, bytes).unwrap();
    };
    let mut unit = |convolution: String, norm: String, shape: [usize; 4]| {
        // He's variance, so that what goes through neither grows nor dies.
        let inputs: usize = shape[1..].iter().product();
        add(format!("{convolution}.weight"), shape.to_vec(), (6.0 / inputs as f32).sqrt(), 0.0);
        for (part, offset) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            add(format!("{norm}.{part}"), vec![shape[0]], 0.3, offset);
        }
    };
    unit("conv1".into(), "bn1".into(), [64, 3, 7, 7]);
    let mut channels = 64;
    for (stage, (&width, &count)) in config.widths.iter().zip(&config.blocks).enumerate() {
        for place in 0..count {
            let at = format!("layer{}.{place}", stage + 1);
            let output = width * config.unit.expansion();
            let shapes = match config.unit.expansion() {
                1 => vec![[width, channels, 3, 3], [width, width, 3, 3]],
                _ => vec![[width, channels, 1, 1], [width, width, 3, 3], [output, width, 1, 1]],
            };
            for (index, shape) in shapes.into_iter().enumerate() {
                unit(format!("{at}.conv{}", index + 1), format!("{at}.bn{}", index + 1), shape);
            }
            if place == 0 && (stage > 0 || channels != output) {
                unit(format!("{at}.downsample.0"), format!("{at}.downsample.1"), [output, channels, 1, 1]);
            }
            channels = output;
        }
    }
    add("fc.weight".into(), vec![7, channels], 0.1, 0.0);
    add("fc.bias".into(), vec![7], 0.1, 0.0);
    writer.finish().unwrap();
    folder
}

#[test]
fn the_layout_of_torchvision_opens_folds_and_classifies() {
    let (_, device) = first_device();
    for (depth, matrices) in [(18, 21), (50, 54)] {
        let folder = torchvision(depth);
        let mut network = ResNet::open(folder.path(), &device).unwrap();
        let layers = network.layers();
        assert_eq!(layers.len(), matrices, "{depth}");
        assert_eq!((layers[0].role, layers[0].shape), (Role::Embedding, [64, 147]));
        let x = Tensor::random([1, 3, 64, 64], Distribution::Normal(0.0, 1.0), &device);
        let expected = values(network.classify(x.clone()));
        network.fold().unwrap();
        let error = error(&values(network.classify(x)), &expected);
        assert!(expected.len() == 7 && error <= 1e-5, "{depth}: {error:.1e}");
    }
}

#[test]
fn what_makes_no_network_is_named() {
    let base = json!({ "model_type": "resnet_cifar", "depth": 20, "num_classes": 2,
        "input": { "size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2] } });
    let cases = [
        ("model_type", json!("vgg"), "resnet_torchvision"),
        ("depth", json!(21), "56 or 110"),
        ("labels", json!(["cat"]), "num_classes 2"),
        ("input", json!({ "size": [32, 32], "mean": [0.5, 0.5], "std": [0.2, 0.2, 0.2] }), "input.mean"),
        ("input", json!({ "size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.0, 0.2, 0.2] }), "input.std"),
    ];
    for (key, value, word) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut config = base.clone();
        config[key] = value;
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let message = ResNet::open(folder.path(), &first_device().1).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(word) && message.contains("config.json"), "{message}");
    }
}
