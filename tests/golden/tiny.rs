//! Small model folders with arbitrary weights, of any family.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use quench::checkpoint::{Dtype, Writer};
use quench::format::Packed;
use quench::models::{AttentionBias, DecoderConfig, Norms, Projections};
use serde_json::{Value, json};

/// Shape and values by name.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub const VOCAB: usize = 24;

/// A configuration of two blocks; null takes a key away.
pub fn config(model_type: &str, changes: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": VOCAB,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
        "rope_theta": 10000.0,
    });
    let keys = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => keys.remove(key),
            value => keys.insert(key.clone(), value.clone()),
        };
    }
    config
}

/// Reads a configuration as a folder's.
pub fn parsed(config: &Value) -> DecoderConfig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    DecoderConfig::read(&path).unwrap()
}

/// The tensors that the reference library would store, with arbitrary values.
pub fn tensors(config: &Value) -> Tensors {
    let config = parsed(config);
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[usize], offset: f32| {
        let salt = tensors.len();
        // Every value its own, and none near a period.
        let wave = |index: usize| ((index * 7 + salt * 13) as f32 * 0.61).sin() * 0.3 + offset;
        let count = shape.iter().product();
        tensors.insert(name, (shape.to_vec(), (0..count).map(wave).collect()));
    };
    let (hidden, width, head) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.heads * head, config.kv_heads * head);
    for block in 0..config.layers.len() {
        let at = |name: &str| format!("model.layers.{block}.{name}");
        let mut norms = vec![("input_layernorm", hidden), ("post_attention_layernorm", hidden)];
        if config.norms == Norms::Around {
            norms.extend([("pre_feedforward_layernorm", hidden), ("post_feedforward_layernorm", hidden)]);
        }
        if config.qk_norm {
            norms.extend([("self_attn.q_norm", head), ("self_attn.k_norm", head)]);
        }
        for (name, size) in norms {
            add(at(&format!("{name}.weight")), &[size], 1.0);
        }
        let (input, output) =
            (config.attention_bias != AttentionBias::None, config.attention_bias == AttentionBias::All);
        let mlp = config.mlp_bias;
        let linears = match config.projections {
            Projections::Separate => vec![
                ("self_attn.q_proj", q, hidden, input),
                ("self_attn.k_proj", kv, hidden, input),
                ("self_attn.v_proj", kv, hidden, input),
                ("mlp.gate_proj", width, hidden, mlp),
                ("mlp.up_proj", width, hidden, mlp),
            ],
            Projections::Fused => {
                vec![("self_attn.qkv_proj", q + 2 * kv, hidden, input), ("mlp.gate_up_proj", 2 * width, hidden, mlp)]
            }
        };
        let outputs = [("self_attn.o_proj", hidden, q, output), ("mlp.down_proj", hidden, width, mlp)];
        for (name, out, columns, bias) in linears.into_iter().chain(outputs) {
            add(at(&format!("{name}.weight")), &[out, columns], 0.0);
            if bias {
                add(at(&format!("{name}.bias")), &[out], 0.0);
            }
        }
    }
    add("model.norm.weight".to_owned(), &[hidden], 1.0);
    add("model.embed_tokens.weight".to_owned(), &[config.vocab_size, hidden], 0.0);
    if !config.tied {
        add("lm_head.weight".to_owned(), &[config.vocab_size, hidden], 0.0);
    }
    tensors
}

/// Writes a folder; layers of `packed` in place of their tensors.
pub fn write(folder: &Path, config: &Value, tensors: &Tensors, packed: &[(&str, Packed)]) {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut writer = Writer::create(folder, u64::MAX).unwrap();
    for (name, (shape, values)) in tensors {
        if !packed.iter().any(|(layer, _)| *name == format!("{layer}.weight")) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.add(name, Dtype::F32, shape.clone(), bytes).unwrap();
        }
    }
    for (layer, packed) in packed {
        writer.packed(*layer, packed.clone()).unwrap();
    }
    writer.finish().unwrap();
}
