//! Small random folders of models that are not decoders, with images and pairs of words to measure them on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::support::{VOCABULARY, Weight, tokenizer, write_safetensors};

/// The classes of the network that [`write_resnet`] writes.
pub const CLASSES: [&str; 3] = ["blue", "green", "red"];

/// Random tensors by name, each uniform around an offset.
struct Tensors {
    weights: BTreeMap<String, Weight>,
    rng: ChaCha8Rng,
}

impl Tensors {
    fn new(seed: u64) -> Self {
        Self { weights: BTreeMap::new(), rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn add(&mut self, name: &str, shape: &[usize], scale: f32, offset: f32) {
        let count = shape.iter().product();
        let values = (0..count).map(|_| offset + scale * self.rng.random_range(-1.0f32..1.0)).collect();
        self.weights.insert(name.to_owned(), Weight { shape: shape.to_vec(), values });
    }

    /// A matrix or a kernel that keeps the variance of its input, times `gain`.
    fn linear(&mut self, name: &str, shape: &[usize], gain: f32) {
        let inputs: usize = shape[1..].iter().product();
        self.add(&format!("{name}.weight"), shape, (3.0 * gain / inputs as f32).sqrt(), 0.0);
    }
}

/// The smallest network for CIFAR, 20 layers, for images of 8 by 8 pixels.
pub fn write_resnet(folder: &Path, seed: u64) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "model_type": "resnet_cifar", "depth": 20, "num_classes": CLASSES.len(), "labels": CLASSES,
        "input": { "size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25] },
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors = Tensors::new(seed);
    let unit = |tensors: &mut Tensors, convolution: &str, norm: &str, shape: [usize; 4]| {
        tensors.linear(convolution, &shape, 2.0);
        for (part, offset) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            tensors.add(&format!("{norm}.{part}"), &shape[..1], 0.3, offset);
        }
    };
    unit(&mut tensors, "conv1", "bn1", [16, 3, 3, 3]);
    let mut channels = 16;
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..3 {
            for part in 1..=2 {
                let at = format!("layer{}.{block}", stage + 1);
                unit(&mut tensors, &format!("{at}.conv{part}"), &format!("{at}.bn{part}"), [width, channels, 3, 3]);
                channels = width;
            }
        }
    }
    tensors.linear("linear", &[CLASSES.len(), channels], 1.0);
    tensors.add("linear.bias", &[CLASSES.len()], 0.1, 0.0);
    write_safetensors(&folder.join("model.safetensors"), &tensors.weights);
}

/// `count` images of noise for each class, in a folder of its name.
pub fn write_images(folder: &Path, count: usize, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for class in CLASSES {
        fs::create_dir_all(folder.join(class)).unwrap();
        for index in 0..count {
            let image = RgbImage::from_fn(8, 8, |_, _| Rgb(rng.random::<[u8; 3]>()));
            image.save(folder.join(class).join(format!("{index}.png"))).unwrap();
        }
    }
}

/// A BERT of two blocks whose tokens are bytes.
pub fn write_encoder(folder: &Path, seed: u64) {
    const HIDDEN: usize = 32;
    const INNER: usize = 48;
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "model_type": "bert", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 64, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer(0).to_string()).unwrap();
    let mut tensors = Tensors::new(seed);
    let norm = |tensors: &mut Tensors, name: &str| {
        tensors.add(&format!("{name}.weight"), &[HIDDEN], 0.1, 1.0);
        tensors.add(&format!("{name}.bias"), &[HIDDEN], 0.1, 0.0);
    };
    let dense = |tensors: &mut Tensors, name: &str, shape: [usize; 2]| {
        tensors.linear(name, &shape, 1.0);
        tensors.add(&format!("{name}.bias"), &shape[..1], 0.1, 0.0);
    };
    for (name, rows) in [("word", VOCABULARY), ("position", 64), ("token_type", 2)] {
        tensors.add(&format!("embeddings.{name}_embeddings.weight"), &[rows, HIDDEN], 1.0, 0.0);
    }
    norm(&mut tensors, "embeddings.LayerNorm");
    for block in 0..2 {
        let at = format!("encoder.layer.{block}");
        for part in ["query", "key", "value"] {
            dense(&mut tensors, &format!("{at}.attention.self.{part}"), [HIDDEN, HIDDEN]);
        }
        dense(&mut tensors, &format!("{at}.attention.output.dense"), [HIDDEN, HIDDEN]);
        norm(&mut tensors, &format!("{at}.attention.output.LayerNorm"));
        dense(&mut tensors, &format!("{at}.intermediate.dense"), [INNER, HIDDEN]);
        dense(&mut tensors, &format!("{at}.output.dense"), [HIDDEN, INNER]);
        norm(&mut tensors, &format!("{at}.output.LayerNorm"));
    }
    write_safetensors(&folder.join("model.safetensors"), &tensors.weights);
}

/// Pairs of invented words with scores, tab separated.
pub fn pairs(count: usize, seed: u64) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut word = || (0..6).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect::<String>();
    (0..count).map(|index| format!("{}\t{}\t{}\n", word(), word(), index as f64 / 2.0)).collect()
}
