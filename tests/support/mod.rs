//! Small random Llama folders in the layout of Hugging Face, with a byte tokenizer and texts, for tests of the binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// The sizes of a model to write.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Number of blocks.
    pub blocks: usize,
}

/// 256 bytes and the two ends of a text.
pub const VOCABULARY: usize = 258;

const HEADS: usize = 4;
const KEY_VALUE_HEADS: usize = 2;

/// A weight of the checkpoint: f32, with its shape.
#[derive(Clone, Debug)]
pub struct Weight {
    /// `[out, in]`, or the length of a norm.
    pub shape: Vec<usize>,
    /// Row by row.
    pub values: Vec<f32>,
}

/// The weights of a random model; the same sizes and seed give the same ones.
pub fn weights(sizes: Sizes, seed: u64) -> BTreeMap<String, Weight> {
    let Sizes { hidden, intermediate, blocks } = sizes;
    let head = hidden / HEADS;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>, scale: f32| {
        let count = shape.iter().product();
        // A norm is all ones; a matrix keeps the variance of its input.
        let values = match shape[..] {
            [_, _] => (0..count).map(|_| rng.random_range(-1.0..1.0) * scale).collect(),
            _ => vec![1.0; count],
        };
        weights.insert(name, Weight { shape, values });
    };
    let spread = |inputs: usize| (3.0 / inputs as f32).sqrt();
    add("model.embed_tokens.weight".into(), vec![VOCABULARY, hidden], 1.0);
    for block in 0..blocks {
        let mut part =
            |name: &str, shape: Vec<usize>, scale| add(format!("model.layers.{block}.{name}.weight"), shape, scale);
        part("input_layernorm", vec![hidden], 1.0);
        part("post_attention_layernorm", vec![hidden], 1.0);
        part("self_attn.q_proj", vec![hidden, hidden], spread(hidden));
        part("self_attn.k_proj", vec![KEY_VALUE_HEADS * head, hidden], spread(hidden));
        part("self_attn.v_proj", vec![KEY_VALUE_HEADS * head, hidden], spread(hidden));
        part("self_attn.o_proj", vec![hidden, hidden], spread(hidden));
        part("mlp.gate_proj", vec![intermediate, hidden], spread(hidden));
        part("mlp.up_proj", vec![intermediate, hidden], spread(hidden));
        part("mlp.down_proj", vec![hidden, intermediate], spread(intermediate));
    }
    add("model.norm.weight".into(), vec![hidden], 1.0);
    add("lm_head.weight".into(), vec![VOCABULARY, hidden], spread(hidden));
    weights
}

/// The `config.json` of such a model.
pub fn config(sizes: Sizes) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.blocks,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "vocab_size": VOCABULARY,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "torch_dtype": "float32",
    })
}

/// A `tokenizer.json` in which every byte is a token, and `extra` more words are.
pub fn tokenizer(extra: usize) -> Value {
    let mut vocabulary: BTreeMap<String, usize> =
        (0..=255).map(|byte: u8| (byte_letter(byte).to_string(), usize::from(byte))).collect();
    vocabulary.insert("<s>".into(), 256);
    vocabulary.insert("</s>".into(), 257);
    vocabulary.extend((0..extra).map(|word| (format!("<extra{word}>"), VOCABULARY + word)));
    let special = |id: usize, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// GPT-2's letter for a byte: itself where it can be printed, else one from 256 on.
fn byte_letter(byte: u8) -> char {
    let printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printed(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !printed(*other)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

/// Writes tensors as one safetensors file.
pub fn write_safetensors(path: &Path, weights: &BTreeMap<String, Weight>) {
    let bytes: Vec<Vec<u8>> =
        weights.values().map(|weight| weight.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = weights.iter().zip(&bytes).map(|((name, weight), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, weight.shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Writes a whole folder: config, tokenizer, and the weights in one file.
pub fn write_model(folder: &Path, sizes: Sizes, seed: u64) -> PathBuf {
    write_parts(folder, sizes);
    write_safetensors(&folder.join("model.safetensors"), &weights(sizes, seed));
    folder.to_owned()
}

/// Writes a whole folder with the weights in two shards and an index; the names of the shards.
pub fn write_sharded_model(folder: &Path, sizes: Sizes, seed: u64) -> [&'static str; 2] {
    write_parts(folder, sizes);
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut first = weights(sizes, seed);
    let middle = first.keys().nth(first.len() / 2).unwrap().clone();
    let second = first.split_off(&middle);
    let index: BTreeMap<&String, &str> =
        first.keys().map(|name| (name, shards[0])).chain(second.keys().map(|name| (name, shards[1]))).collect();
    let index = json!({"metadata": {"total_size": 0}, "weight_map": index});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    write_safetensors(&folder.join(shards[0]), &first);
    write_safetensors(&folder.join(shards[1]), &second);
    shards
}

fn write_parts(folder: &Path, sizes: Sizes) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config(sizes).to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer(0).to_string()).unwrap();
}

/// A text of about `bytes` bytes that is not all the same.
pub fn text(bytes: usize, seed: u64) -> String {
    let words = ["the", "small", "river", "runs", "past", "old", "mills", "and", "nobody", "counts", "its", "stones"];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    while text.len() < bytes {
        let length = rng.random_range(4..9);
        let sentence: Vec<&str> = (0..length).map(|_| words[rng.random_range(0..words.len())]).collect();
        text.push_str(&sentence.join(" "));
        text.push_str(".\n");
    }
    text
}
