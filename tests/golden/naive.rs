//! The decoder against loops in f64, for what the stored models of the reference library do not reach: global beside
//! local layers, partial rotary, scaled rotary, biases, mixed windows.

use burn::tensor::activation;
use quench::models::{Activation, DecoderConfig, Gain, Norms, Projections, ids, open};
use quench::nn::Model;
use serde_json::{Value, json};

use super::tiny::{Tensors, VOCAB, config, parsed, tensors, write};
use crate::{devices, error, values};

type Row = Vec<f64>;

/// A decoder as its papers write it: one position, one head, one number at a time.
struct Naive<'a> {
    config: &'a DecoderConfig,
    tensors: &'a Tensors,
}

impl Naive<'_> {
    fn vector(&self, name: &str) -> Option<Row> {
        self.tensors.get(name).map(|(_, values)| values.iter().map(|value| f64::from(*value)).collect())
    }

    /// `W x + b`.
    fn linear(&self, name: &str, x: &[f64]) -> Row {
        let w = self.vector(&format!("{name}.weight")).unwrap();
        let y: Row = w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        match self.vector(&format!("{name}.bias")) {
            Some(b) => y.iter().zip(b).map(|(y, b)| y + b).collect(),
            None => y,
        }
    }

    fn norm(&self, name: &str, x: &[f64]) -> Row {
        let gain = if self.config.gain == Gain::PlusOne { 1.0 } else { 0.0 };
        let root = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + self.config.norm_eps).sqrt();
        let w = self.vector(&format!("{name}.weight")).unwrap();
        x.iter().zip(w).map(|(x, w)| x / root * (w + gain)).collect()
    }

    /// Head `head` of `x`, normed if heads are, turned to `position`.
    fn head(&self, block: usize, norm: &str, x: &[f64], head: usize, position: usize) -> Row {
        let size = self.config.head_dim;
        let mut x = x[head * size..][..size].to_vec();
        if self.config.qk_norm {
            x = self.norm(&format!("model.layers.{block}.self_attn.{norm}"), &x);
        }
        let rope = &self.config.ropes[self.config.layers[block].rope.expect("a rotary family")];
        let (frequencies, factor) = rope.frequencies();
        let half = rope.rotary / 2;
        let plain = x.clone();
        for (pair, frequency) in frequencies.iter().enumerate() {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            x[pair] = factor * (plain[pair] * cos - plain[pair + half] * sin);
            x[pair + half] = factor * (plain[pair + half] * cos + plain[pair] * sin);
        }
        x
    }

    /// What reads one input, `parts` wide: stored apart, or as rows of one matrix.
    fn project<const N: usize>(&self, path: &str, fused: &str, parts: [(&str, usize); N], x: &[f64]) -> [Row; N] {
        match self.config.projections {
            Projections::Separate => parts.map(|(name, _)| self.linear(&format!("{path}.{name}"), x)),
            Projections::Fused => {
                let mut all = self.linear(&format!("{path}.{fused}"), x).into_iter();
                parts.map(|(_, width)| all.by_ref().take(width).collect())
            }
        }
    }

    fn attention(&self, block: usize, inputs: &[Row]) -> Vec<Row> {
        let config = self.config;
        let path = format!("model.layers.{block}.self_attn");
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let projected: Vec<[Row; 3]> = inputs.iter().map(|x| self.project(&path, "qkv_proj", parts, x)).collect();
        let window = config.layers[block].window.unwrap_or(usize::MAX);
        let mut outputs = Vec::new();
        for i in 0..inputs.len() {
            let seen: Vec<usize> = (0..=i).filter(|j| i - j < window).collect();
            let mut mixed = Row::new();
            for head in 0..config.heads {
                let shared = head * config.kv_heads / config.heads;
                let query = self.head(block, "q_norm", &projected[i][0], head, i);
                let score = |j: &usize| {
                    let key = self.head(block, "k_norm", &projected[*j][1], shared, *j);
                    let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    cap(product * config.attention_scale, config.attention_cap).exp()
                };
                let weights: Row = seen.iter().map(score).collect();
                let total: f64 = weights.iter().sum();
                let columns = shared * config.head_dim..(shared + 1) * config.head_dim;
                mixed.extend(columns.map(|d| {
                    let value: f64 = seen.iter().zip(&weights).map(|(j, w)| w * projected[*j][2][d]).sum();
                    value / total
                }));
            }
            outputs.push(self.linear(&format!("{path}.o_proj"), &mixed));
        }
        outputs
    }

    fn mlp(&self, block: usize, x: &[f64]) -> Row {
        let path = format!("model.layers.{block}.mlp");
        let width = self.config.intermediate_size;
        let [gate, up] = self.project(&path, "gate_up_proj", [("gate_proj", width), ("up_proj", width)], x);
        let gated: Row = gate.iter().zip(up).map(|(g, u)| activate(self.config.activation, *g) * u).collect();
        self.linear(&format!("{path}.down_proj"), &gated)
    }

    /// Logits of every position, one after another.
    fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let config = self.config;
        let table = self.vector("model.embed_tokens.weight").unwrap();
        let mut x: Vec<Row> = tokens
            .iter()
            .map(|&token| table.chunks(config.hidden_size).nth(token as usize).unwrap())
            .map(|row| row.iter().map(|value| value * config.embedding_scale).collect())
            .collect();
        let add = |x: &mut Row, y: Row| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        for block in 0..config.layers.len() {
            let at = |name: &str| format!("model.layers.{block}.{name}");
            let around = config.norms == Norms::Around;
            let inputs: Vec<Row> = x.iter().map(|x| self.norm(&at("input_layernorm"), x)).collect();
            for (x, y) in x.iter_mut().zip(self.attention(block, &inputs)) {
                add(x, if around { self.norm(&at("post_attention_layernorm"), &y) } else { y });
            }
            for x in &mut x {
                let before = if around { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
                let y = self.mlp(block, &self.norm(&at(before), x));
                add(x, if around { self.norm(&at("post_feedforward_layernorm"), &y) } else { y });
            }
        }
        let head = if config.tied { "model.embed_tokens" } else { "lm_head" };
        x.iter()
            .flat_map(|x| self.linear(head, &self.norm("model.norm", x)))
            .map(|logit| cap(logit, config.logit_cap) as f32)
            .collect()
    }
}

fn cap(x: f64, cap: Option<f64>) -> f64 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

fn activate(function: Activation, x: f64) -> f64 {
    match function {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        // std has no error function; Burn's own is what the decoder calls.
        Activation::Gelu => {
            let (_, device) = crate::first_device();
            f64::from(
                activation::gelu(burn::tensor::Tensor::<1>::from_floats([x as f32], &device)).into_scalar::<f32>(),
            )
        }
    }
}

#[test]
fn every_variation_equals_loops_in_f64() {
    let gemma = |changes: Value| {
        let mut all = json!({
            "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 6, "sliding_window": 4,
            "tie_word_embeddings": null, "rope_theta": null,
        });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        all
    };
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16 });
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 16 });
    let sliding_then_full = json!(["sliding_attention", "full_attention"]);
    let cases = [
        ("llama", "llama", json!({})),
        ("llama with biases", "llama", json!({ "attention_bias": true, "mlp_bias": true })),
        ("llama, one key head", "llama", json!({ "num_key_value_heads": 1 })),
        ("llama, as many key heads", "llama", json!({ "num_key_value_heads": 4, "head_dim": 6 })),
        ("llama, tied", "llama", json!({ "tie_word_embeddings": true })),
        ("llama, exact gelu", "llama", json!({ "hidden_act": "gelu" })),
        ("llama3", "llama", json!({ "rope_scaling": llama3 })),
        ("linear", "llama", json!({ "rope_scaling": { "rope_type": "linear", "factor": 3.0 } })),
        ("yarn", "llama", json!({ "rope_scaling": yarn, "head_dim": 16 })),
        ("mistral", "mistral", json!({ "sliding_window": 3 })),
        ("mistral, each its own", "mistral", json!({ "sliding_window": 1 })),
        ("mistral, no window", "mistral", json!({ "sliding_window": null, "head_dim": null })),
        ("gemma", "gemma", json!({ "tie_word_embeddings": null, "hidden_act": "gelu" })),
        ("gemma2", "gemma2", gemma(json!({ "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.7 }))),
        (
            "gemma3",
            "gemma3_text",
            gemma(json!({
                "layer_types": sliding_then_full, "rope_local_base_freq": 100.0, "rope_theta": 5000.0,
                "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
            })),
        ),
        ("qwen2", "qwen2", json!({ "use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1 })),
        ("qwen3", "qwen3", json!({ "attention_bias": true, "head_dim": 8 })),
        ("phi3", "phi3", json!({ "sliding_window": 5 })),
        ("phi3, a quarter turned", "phi3", json!({ "head_dim": 8, "partial_rotary_factor": 0.25 })),
    ];
    let tokens: Vec<u32> = (0..14).map(|index| (index * 5 + 1) % VOCAB as u32).collect();
    let mut wrong = Vec::new();
    for (name, model_type, changes) in cases {
        let config = config(model_type, changes);
        let tensors = tensors(&config);
        let expected = Naive { config: &parsed(&config), tensors: &tensors }.logits(&tokens);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &config, &tensors, &[]);
        for (device_name, device) in devices() {
            let decoder = open(folder.path(), &device).unwrap();
            let found = values(decoder.forward(ids(&[&tokens], &device), &mut ()));
            let error = error(&found, &expected);
            if error > 1e-5 {
                wrong.push(format!("{device_name}, {name}: {error:.1e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
