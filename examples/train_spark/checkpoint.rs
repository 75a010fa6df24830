//! Spark as a Hugging Face folder: its dimensions, its first weights, and how it is written.

use std::fs;
use std::path::Path;

use half::bf16;
use quench::checkpoint::{Dtype, Writer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::Result;

/// Tokens.
pub const VOCABULARY: usize = 1536;
/// Positions.
pub const CONTEXT: usize = 256;
/// The widths are multiples of 128, the usual size of a group.
const HIDDEN: usize = 128;
const MLP: usize = 384;
const LAYERS: usize = 6;
const HEADS: usize = 8;
const KV_HEADS: usize = 4;
const HEAD_DIM: usize = HIDDEN / HEADS;
/// The standard deviation of the first weights.
const SPREAD: f64 = 0.04;

/// Names and shapes of the matrices.
fn matrices() -> Vec<(String, [usize; 2])> {
    let mut all = vec![("model.embed_tokens".to_string(), [VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        all.extend(
            [
                ("self_attn.q_proj", [HEADS * HEAD_DIM, HIDDEN]),
                ("self_attn.k_proj", [KV_HEADS * HEAD_DIM, HIDDEN]),
                ("self_attn.v_proj", [KV_HEADS * HEAD_DIM, HIDDEN]),
                ("self_attn.o_proj", [HIDDEN, HEADS * HEAD_DIM]),
                ("mlp.gate_proj", [MLP, HIDDEN]),
                ("mlp.up_proj", [MLP, HIDDEN]),
                ("mlp.down_proj", [HIDDEN, MLP]),
            ]
            .map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)),
        );
    }
    all.push(("lm_head".to_string(), [VOCABULARY, HIDDEN]));
    all
}

/// Names of the norms.
fn norms() -> impl Iterator<Item = String> {
    let of_blocks = (0..LAYERS)
        .flat_map(|layer| ["input", "post_attention"].map(|norm| format!("model.layers.{layer}.{norm}_layernorm")));
    of_blocks.chain(["model.norm".to_string()])
}

/// The number of weights in the matrices.
pub fn weights() -> usize {
    matrices().iter().map(|(_, [out, columns])| out * columns).sum()
}

/// Writes the configuration and random weights drawn from `seed`.
///
/// What is added to the residual stream starts smaller, by `√(2 · LAYERS)`, so that its variance does not grow with depth.
pub fn start(folder: &Path, seed: u64) -> Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": 0,
        "dtype": "bfloat16",
        "eos_token_id": 1,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": SPREAD,
        "intermediate_size": MLP,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    });
    fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let matrices = matrices().into_iter().map(|(name, shape)| {
        let into_residual = name.ends_with("o_proj") || name.ends_with("down_proj");
        let spread = if into_residual { SPREAD / (2.0 * LAYERS as f64).sqrt() } else { SPREAD };
        // Uniform, of this standard deviation.
        let bound = (3f64.sqrt() * spread) as f32;
        let values = (0..shape[0] * shape[1]).map(|_| random.random_range(-bound..bound)).collect();
        (name, shape, values)
    });
    write(folder, matrices)
}

/// Writes the matrices, rounded to bf16, and norms of gain 1.
///
/// Gains are not trained: each is followed by matrices that can take it in, so nothing is lost.
pub fn write(folder: &Path, matrices: impl IntoIterator<Item = (String, [usize; 2], Vec<f32>)>) -> Result<()> {
    let mut writer = Writer::create(folder, u64::MAX)?;
    // Other readers of these files want to know who laid the tensors out.
    writer.metadata("format", "pt");
    for (name, shape, values) in matrices {
        writer.add(format!("{name}.weight"), Dtype::BF16, shape, bytes(&values))?;
    }
    for name in norms() {
        writer.add(format!("{name}.weight"), Dtype::BF16, [HIDDEN], bytes(&[1.0; HIDDEN]))?;
    }
    writer.finish()?;
    Ok(())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
}
