//! Compresses a residual network to 5 bits a weight, and classifies images with what is left.
//!
//!     cargo run --release --example compress_resnet -- MODEL_FOLDER IMAGE_FOLDER [OUTPUT_FOLDER]
//!
//! - `MODEL_FOLDER`: `config.json` and the weights as training left them, a `.pth`, `.th` or safetensors file
//! - `IMAGE_FOLDER`: JPEG or PNG files in one folder for each class, named as the labels of `config.json`
//! - `OUTPUT_FOLDER`: gets `config.json` and `model.lsq`; `MODEL_FOLDER-slog5` if not given

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use quench::checkpoint::lsq::LSQ_WEIGHTS;
use quench::checkpoint::{Folder, Writer};
use quench::models::{FOLDED, ResNet};
use quench::nn::{Model, Section};
use quench::quantize::{Finished, Journal, Recipe, run};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Every block in 5-bit log-like codes with a scale for 64 weights; the first convolution and the head stay as they are.
const RECIPE: &str = r#"
name = "slog5"
[[rules]]
layers = "*"
code = "slog5"
group = 64
method = "rtn"
search = "mse"
"#;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, images, output @ ..] = &arguments[..] else {
        return Err("usage: compress_resnet MODEL_FOLDER IMAGE_FOLDER [OUTPUT_FOLDER]".into());
    };
    let output = output.first().cloned().unwrap_or_else(|| {
        let mut name = model.file_name().unwrap_or_default().to_os_string();
        name.push("-slog5");
        PathBuf::from(name)
    });
    let device = Device::default();

    let mut dense = ResNet::open(model, &device)?;
    dense.fold()?;
    compress(&dense, model, &output)?;
    // From here on as anybody would who is given the output.
    let small = ResNet::open(&output, &device)?;

    let images = labelled(images, &dense.config().labels)?;
    let truth: Vec<usize> = images.iter().map(|(class, _)| *class).collect();
    let [before, after] = [classify(dense, &images, &device)?, classify(small, &images, &device)?];
    println!("{:<22} {:>12} {:>8}", format!("{} images", images.len()), "bytes", "top-1");
    println!("{:<22} {:>12} {:>6.1} %", "as it was", bytes(&Folder::open(model)?)?, percent(&before, &truth));
    println!("{:<22} {:>12} {:>6.1} %", "5 bits", bytes(&Folder::open(&output)?)?, percent(&after, &truth));
    println!("{:.1} % of the images keep their class; see {}", percent(&before, &after), output.display());
    Ok(())
}

/// The layers that a run has finished.
#[derive(Default)]
struct Layers(Vec<Finished>);

impl Journal for Layers {
    fn record(&mut self, _: usize, _: Section, layers: &[Finished]) -> Result<()> {
        self.0.extend_from_slice(layers);
        Ok(())
    }
}

/// Quantizes a folded network into `output`: `model.lsq`, and the configuration with the word that norms are folded.
fn compress(dense: &ResNet, model: &Path, output: &Path) -> Result<()> {
    let mut layers = Layers::default();
    let plan = Recipe::from_toml(RECIPE)?.plan(&dense.layers())?;
    run(&mut dense.clone(), &plan, &[], &mut layers, &mut |_| ControlFlow::Continue(()))?;

    fs::create_dir_all(output)?;
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(model.join("config.json"))?)?;
    config[FOLDED] = true.into();
    fs::write(output.join("config.json"), format!("{config:#}\n"))?;

    let (source, mut writer) = (dense.source(), Writer::lsq(output.join(LSQ_WEIGHTS)));
    for name in source.names() {
        let layer = name.strip_suffix(".weight");
        match layers.0.iter().find(|finished| layer == Some(&finished.entry.layer)) {
            Some(finished) => writer.packed(&finished.entry.layer, finished.packed.clone())?,
            None => writer.copy(source.as_ref(), name)?,
        }
    }
    writer.finish()?;
    Ok(())
}

/// The images of a folder, each with the index of its class.
fn labelled(folder: &Path, labels: &[String]) -> Result<Vec<(usize, PathBuf)>> {
    let mut images = Vec::new();
    for (class, label) in labels.iter().enumerate() {
        let folder = folder.join(label);
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            images.push((class, entry?.path()));
        }
    }
    if images.is_empty() {
        return Err("no images: `labels` in config.json names the folder of each class".into());
    }
    images.sort();
    Ok(images)
}

/// The most likely class of each image.
fn classify(mut network: ResNet, images: &[(usize, PathBuf)], device: &Device) -> Result<Vec<usize>> {
    network.load_all()?;
    let mut classes = Vec::new();
    for images in images.chunks(50) {
        let paths: Vec<&PathBuf> = images.iter().map(|(_, path)| path).collect();
        let x = network.config().input.read_images(&paths, device)?; // [images, 3, height, width]
        let logits = network.classify(x); // [images, classes]
        let best =
            logits.argmax(1).into_data_as::<i32>().try_into_vec::<i32>().map_err(|error| format!("{error:?}"))?;
        classes.extend(best.into_iter().map(|class| class as usize));
    }
    Ok(classes)
}

fn percent(a: &[usize], b: &[usize]) -> f64 {
    100.0 * a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

fn bytes(folder: &Folder) -> Result<u64> {
    let sizes = folder.files().map(|file| Ok(fs::metadata(file)?.len()));
    sizes.sum()
}
