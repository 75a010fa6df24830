//! Folders that make no model, folders with packed layers, and what loading, releasing and generating do.

use std::fs;
use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use quench::format::{Code, Group, Packed, Scale, Scales, Scheme};
use quench::kernels::Activations;
use quench::models::generate::{Sampling, generate};
use quench::models::{Cache, Decoder, ModelError, ids, open};
use quench::nn::{Model, Section, Weight};
use serde_json::{Value, json};

use super::tiny::{Tensors, VOCAB, config, tensors, write};
use crate::{devices, error, first_device, values};

/// A Llama of two blocks with arbitrary weights, and its configuration.
fn llama() -> (Value, Tensors) {
    let config = config("llama", json!({}));
    let tensors = tensors(&config);
    (config, tensors)
}

fn tokens() -> Vec<u32> {
    (0..12).map(|index| index * 5 % VOCAB as u32).collect()
}

#[test]
fn folders_that_make_no_model_are_refused_by_name() {
    let (_, device) = first_device();
    let q = "model.layers.1.self_attn.q_proj.weight";
    type Damage = fn(&mut Value, &mut Tensors);
    let cases: [(&str, Damage, &[&str]); 5] = [
        ("missing", |_, t| drop(t.remove("model.layers.1.self_attn.q_proj.weight")), &[q, "[16, 16]"]),
        ("missing norm", |_, t| drop(t.remove("model.norm.weight")), &["model.norm.weight"]),
        ("missing head", |_, t| drop(t.remove("lm_head.weight")), &["lm_head.weight"]),
        (
            "transposed",
            |_, t| t.get_mut("model.layers.0.mlp.down_proj.weight").unwrap().0.reverse(),
            &["model.layers.0.mlp.down_proj.weight", "[32, 16]", "[16, 32]"],
        ),
        (
            "other vocabulary",
            |c, _| c["vocab_size"] = json!(25),
            &["model.embed_tokens.weight", "[24, 16]", "[25, 16]"],
        ),
    ];
    for (name, damage, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (mut config, mut tensors) = llama();
        damage(&mut config, &mut tensors);
        write(folder.path(), &config, &tensors, &[]);
        let message = open(folder.path(), &device).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{name}: {message:?} does not name {word:?}");
        }
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path(), &device).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn a_truncated_file_is_refused() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = llama();
    write(folder.path(), &config, &tensors, &[]);
    let file = folder.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    let error = open(folder.path(), &device).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint(_)) && error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn a_weight_that_is_not_finite_is_an_error_at_load_and_a_panic_at_use() {
    let (_, device) = first_device();
    for bad in [f32::NAN, f32::INFINITY] {
        for (name, section) in [
            ("model.layers.1.mlp.up_proj.weight", Section::Block(1)),
            ("model.layers.0.input_layernorm.weight", Section::Block(0)),
            ("model.embed_tokens.weight", Section::Embedding),
            ("model.norm.weight", Section::Head),
            ("lm_head.weight", Section::Head),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (config, mut tensors) = llama();
            tensors.get_mut(name).unwrap().1[3] = bad;
            write(folder.path(), &config, &tensors, &[]);
            let mut decoder = open(folder.path(), &device).unwrap();
            for other in [Section::Embedding, Section::Block(0), Section::Block(1), Section::Head] {
                assert_eq!(decoder.load(other).is_err(), other == section, "{name} {other}");
            }
            let message = decoder.load(section).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
            assert!(decoder.load_all().is_err());
            let lazy = open(folder.path(), &device).unwrap();
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                lazy.forward(ids(&[&tokens()], &device), &mut ())
            }))
            .unwrap_err();
            assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains(name)), "{name}");
        }
    }
}

#[test]
fn what_is_released_is_read_again_and_what_was_changed_is_kept() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = llama();
    write(folder.path(), &config, &tensors, &[]);
    let run = |decoder: &Decoder| values(decoder.forward(ids(&[&tokens()], &device), &mut ()));
    let sections = [Section::Embedding, Section::Block(0), Section::Block(1), Section::Head];

    let mut decoder = open(folder.path(), &device).unwrap();
    let before = run(&decoder);
    for section in sections {
        decoder.load(section).unwrap();
        decoder.open(section);
        decoder.release(section);
    }
    assert_eq!(run(&decoder), before);

    // Changed: what the file has is no longer the weight.
    for part in decoder.open(Section::Block(0)) {
        if part.name == "model.layers.0.mlp.up_proj" {
            let changed = part.weight.val().mul_scalar(2.0);
            *part.weight = Weight::dense(changed);
        }
    }
    let changed = run(&decoder);
    assert_ne!(changed, before);
    for section in sections {
        decoder.release(section);
    }
    assert_eq!(run(&decoder), changed);
    // A change in place, under the same parameter id.
    if let Some(part) = decoder.open(Section::Head).into_iter().next()
        && let Weight::Dense(param) = part.weight
    {
        *param = param.clone().map(|w| w.mul_scalar(-1.0));
    }
    decoder.release(Section::Head);
    let negated: Vec<f32> = changed.iter().map(|logit| -logit).collect();
    assert_eq!(run(&decoder), negated);
}

/// A matrix as 8-bit integers with one scale a row.
fn pack(shape: [usize; 2], w: &[f32]) -> Packed {
    let code: Code = "int8".parse().unwrap();
    let scale: Scale = "f32".parse().unwrap();
    let scheme = Scheme::new(code, Group::Row, scale);
    let mut scales = Vec::new();
    let mut codes = Vec::new();
    for row in w.chunks(shape[1]) {
        let scale = row.iter().fold(0f32, |largest, w| largest.max(w.abs())) / code.max_level();
        scales.push(scale);
        codes.extend(row.iter().map(|w| code.nearest(w / scale)));
    }
    Packed::from_codes(scheme, shape, &codes, Scales::Float(scales), None, None).unwrap()
}

#[test]
fn packed_layers_come_packed_and_compute_what_they_decode_to() {
    for (name, device) in devices() {
        let (mut config, mut tensors) = llama();
        for tied in [false, true] {
            config["tie_word_embeddings"] = json!(tied);
            let layers = ["model.embed_tokens", "model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"];
            let packed = layers.map(|layer| {
                let (shape, w) = &tensors[&format!("{layer}.weight")];
                (layer, pack([shape[0], shape[1]], w))
            });
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &config, &tensors, &packed);
            for (layer, packed) in &packed {
                tensors.get_mut(&format!("{layer}.weight")).unwrap().1 = packed.decode();
            }
            let decoded = tempfile::tempdir().unwrap();
            write(decoded.path(), &config, &tensors, &[]);

            let mut decoder = open(folder.path(), &device).unwrap();
            decoder.load_all().unwrap();
            decoder.set_activations(Activations::F32);
            decoder.release(Section::Embedding);
            let quantized: Vec<String> = [Section::Embedding, Section::Block(0), Section::Block(1), Section::Head]
                .into_iter()
                .flat_map(|section| {
                    let parts = decoder.open(section);
                    parts
                        .into_iter()
                        .filter(|part| part.weight.is_quantized())
                        .map(|part| part.name)
                        .collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(quantized, layers, "{name}");
            let dense = open(decoded.path(), &device).unwrap();
            let input = || ids(&[&tokens(), &tokens()], &device);
            let error = error(&values(decoder.forward(input(), &mut ())), &values(dense.forward(input(), &mut ())));
            assert!(error < 1e-5, "{name}, tied {tied}: {error:.1e}");
        }
        // Of another shape than the configuration's.
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &config, &tensors, &[("model.layers.0.self_attn.k_proj", pack([4, 8], &[0.5; 32]))]);
        let message = open(folder.path(), &device).unwrap_err().to_string();
        assert!(message.contains("model.layers.0.self_attn.k_proj") && message.contains("[4, 8]"), "{message}");
    }
}

#[test]
fn prompts_that_cannot_be_continued_are_errors() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = llama();
    write(folder.path(), &config, &tensors, &[]);
    let decoder = open(folder.path(), &device).unwrap();
    let go = |prompt: &[u32]| generate(&decoder, prompt, &Sampling::default(), &[], |_| ControlFlow::Continue(()));
    for (prompt, word) in [(vec![], "empty"), (vec![0, 24], "24"), (vec![0; 65], "64")] {
        let message = go(&prompt).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    // To the end of the context and no further.
    assert_eq!(go(&[0; 60]).unwrap().len(), 4);
    assert_eq!(go(&[0; 64]).unwrap().len(), 0);
}

/// Long sequences are attended some queries at a time: the same values.
#[test]
fn a_long_sequence_equals_its_steps() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (mut config, tensors) = llama();
    config["model_type"] = json!("mistral");
    config["sliding_window"] = json!(300);
    write(folder.path(), &config, &tensors, &[]);
    let decoder = open(folder.path(), &device).unwrap();
    // 4 heads · 2500² scores are more than are held at a time.
    let all: Vec<u32> = (0..2500).map(|index| index * 11 % VOCAB as u32).collect();
    let whole = values(decoder.forward(ids(&[&all], &device), &mut ()));
    let mut cache = Cache::new(decoder.config());
    let steps: Vec<Tensor<3>> = all.chunks(500).map(|part| decoder.step(ids(&[part], &device), &mut cache)).collect();
    assert!(error(&values(Tensor::cat(steps, 1)), &whole) < 1e-4);
}

#[test]
fn token_ids_become_a_tensor() {
    let (_, device) = first_device();
    let tensor = ids(&[&[1, 2, 3], &[4, 5, 6]], &device);
    assert_eq!(tensor.dims(), [2, 3]);
    let expected = TensorData::from([[1, 2, 3], [4, 5, 6]]);
    tensor.into_data().assert_eq(&expected, false);
}
