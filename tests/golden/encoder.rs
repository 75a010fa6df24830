//! BERT against the hidden states of the reference library, and sentence vectors against human judgement.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use quench::eval::Judgements;
use quench::models::{Encoder, Sentences, Tokenizer};
use quench::nn::{Model, Tap};
use quench::quantize::{Recipe, run};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::{data, devices, error, first_device, values};

const TOLERANCE: f64 = 1e-4;

#[test]
fn hidden_states_agree_with_the_reference() {
    let Some(folder) = data("golden/bert") else { return };
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> { tensors.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec() };
    let floats = |name: &str| -> Vec<f32> { words(name).into_iter().map(f32::from_le_bytes).collect() };
    let length = tensors.tensor("input_ids").unwrap().shape()[1];
    let tokens: Vec<u32> = words("input_ids").into_iter().map(|word| i32::from_le_bytes(word) as u32).collect();
    let batch: Vec<&[u32]> = tokens.chunks(length).collect();
    let (output, hidden) = (floats("output"), floats("hidden_states"));
    for (name, device) in devices() {
        let encoder = Encoder::open(&folder, &device).unwrap();
        let mut carry = encoder.start(Sentences::new(&batch, &device), &mut ());
        let mut errors = Vec::new();
        for (block, expected) in hidden.chunks(output.len()).enumerate() {
            errors.push(error(&values(carry.state().clone()), expected));
            if block < encoder.blocks() {
                carry = encoder.block(block, carry, &mut ());
            }
        }
        errors.push(error(&values(encoder.finish(carry, &mut ())), &output));
        println!("{name} bert: {errors:?}");
        assert!(errors.len() == 5 && errors.iter().all(|error| *error <= TOLERANCE), "{name}: {errors:?}");
    }
}

#[test]
fn padding_changes_no_vector() {
    let Some(folder) = data("golden/bert") else { return };
    for (name, device) in devices() {
        let encoder = Encoder::open(&folder, &device).unwrap();
        let sentences: [&[u32]; 3] = [&[5, 9, 33], &[7, 8, 9, 10, 11, 12, 150], &[3]];
        let together = values(encoder.embed(Sentences::new(&sentences, &device)));
        for (vector, sentence) in together.chunks(encoder.config().hidden_size).zip(sentences) {
            let alone = values(encoder.embed(Sentences::new(&[sentence], &device)));
            assert!(error(vector, &alone) <= 1e-5, "{name}: {sentence:?}");
            let length: f32 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{name}: {length}");
        }
    }
}

/// Sites in the order of the pass; and whether what padding leaves there is 0.
struct Record(Vec<(String, usize)>);

impl Tap for Record {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let dims = x.dims();
        // The second sentence has one token less. What layers give for it has their bias, and is read by none.
        let last = x.clone().reshape([dims[0], dims[1], dims[D - 1]]).narrow(0, 1, 1).narrow(1, dims[1] - 1, 1);
        let blank = values(last).iter().all(|value| *value == 0.0);
        assert!(blank || site.ends_with(".output"), "{site} sees padding");
        self.0.push((site.to_owned(), dims[D - 1]));
        x
    }
}

#[test]
fn layers_and_sites_fit_together() {
    let Some(folder) = data("golden/bert") else { return };
    let (_, device) = first_device();
    let mut encoder = Encoder::open(&folder, &device).unwrap();
    let mut record = Record(Vec::new());
    encoder.forward(Sentences::new(&[&[4, 5, 6], &[7, 8]], &device), &mut record);
    let distinct: BTreeSet<&String> = record.0.iter().map(|(site, _)| site).collect();
    // Four inputs and six outputs in each of three blocks.
    assert_eq!((record.0.len(), distinct.len()), (12 + 18, 12 + 18));
    let layers = encoder.layers();
    assert_eq!(layers.len(), 1 + 6 * 3);
    for layer in &layers {
        let width_at = |name: &str| record.0.iter().find(|(site, _)| site == name).map(|(_, width)| *width);
        assert_eq!(width_at(&layer.site), layer.block.map(|_| layer.shape[1]), "{layer:?}");
        assert_eq!(width_at(&layer.output()), layer.block.map(|_| layer.shape[0]), "{layer:?}");
        let part = encoder.open(layer.section()).into_iter().find(|part| part.name == layer.name);
        assert_eq!(part.map(|part| part.weight.shape()), Some(layer.shape), "{layer:?}");
    }
}

#[test]
fn what_makes_no_encoder_is_named() {
    let base = json!({
        "model_type": "bert", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 99,
        "num_attention_heads": 6, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    });
    let cases = [
        ("model_type", json!("llama"), "bert"),
        ("position_embedding_type", json!("relative_key"), "absolute"),
        ("is_decoder", json!(true), "false"),
        ("num_attention_heads", json!(5), "divisor of hidden_size 48"),
        ("num_hidden_layers", json!(1_000_000), "4096"),
        ("layer_norm_eps", Value::Null, "above 0"),
        ("hidden_act", json!("relu6"), "gelu"),
    ];
    for (key, value, word) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut config = base.clone();
        config[key] = value;
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let message = Encoder::open(folder.path(), &first_device().1).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(word) && message.contains("config.json"), "{message}");
    }
}

/// Every tenth pair of the test set: the dense model, then quantized by rounding and by GPTQ with real sentences.
#[test]
fn minilm_agrees_with_people_dense_and_quantized() {
    let (Some(folder), Some(file)) = (data("models/minilm"), data("semantic/stsb/stsb-en-test.csv")) else { return };
    let (_, device) = first_device();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let tenth = Judgements::read(&file).unwrap().every(10);
    let spearman =
        |encoder: &Encoder| tenth.spearman(&encoder.embed_texts(&tokenizer, &tenth.texts(), 32).unwrap()).unwrap();
    let dense = Encoder::open(&folder, &device).unwrap();
    let reference = spearman(&dense);
    println!("minilm dense: {reference:.4} over {} pairs", tenth.len());

    let texts = [
        "A man plays the guitar.",
        "The stock market fell sharply on Monday.",
        "Two dogs run through snow.",
        "A woman slices an onion in the kitchen while the water boils.",
        "Scientists found a new species of frog.",
    ];
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| dense.tokens(&tokenizer, text).unwrap()).collect();
    let batch: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    for method in ["rtn", "gptq"] {
        let recipe =
            format!("name = \"t\"\n[[rules]]\nlayers = \"*\"\ncode = \"int8\"\ngroup = 64\nmethod = \"{method}\"\n");
        let recipe = Recipe::from_toml(&recipe).unwrap();
        let mut encoder = dense.clone();
        let plan = recipe.plan(&encoder.layers()).unwrap();
        let batches = [Sentences::new(&batch, &device)];
        let ledger = run(&mut encoder, &plan, &batches, &mut (), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(ledger.entries.len(), 36);
        encoder.load_all().unwrap();
        let quantized = spearman(&encoder);
        println!("minilm int8 g64 {method}: {quantized:.4}");
        assert!((quantized - reference).abs() < 0.01, "{method}: {quantized} against {reference}");
    }
}
