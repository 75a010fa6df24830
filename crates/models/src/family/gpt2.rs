//! GPT-2: learned positions, LayerNorm, biases everywhere, one hidden layer, a tied head, and matrices stored `[in, out]`.

use serde_json::json;

use super::{Names, Traits};
use crate::ModelError;
use crate::config::{AttentionBias, Feed, NormKind, Positions, Projections};
use crate::fields::Fields;
use crate::load::Order;

/// Our keys in the words of GPT-2.
const SPELLING: [(&str, &str); 8] = [
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("num_key_value_heads", "n_head"),
    ("intermediate_size", "n_inner"),
    ("max_position_embeddings", "n_positions"),
    ("rms_norm_eps", "layer_norm_epsilon"),
    ("hidden_act", "activation_function"),
];

pub(super) const NAMES: Names = Names {
    // The first checkpoints were saved without the head, and so without the prefix.
    prefixes: &["transformer.", ""],
    embedding: "wte",
    positions: "wpe",
    blocks: "h",
    before_attention: "ln_1",
    before_mlp: "ln_2",
    last_norm: "ln_f",
    attention: "attn",
    qkv: "c_attn",
    attention_output: "c_proj",
    mlp_input: "c_fc",
    mlp_output: "c_proj",
    order: Order::InOut,
};

/// The configuration under our keys.
pub(super) fn respelled(fields: Fields) -> Result<Fields, ModelError> {
    let mut fields = fields.with_spelling(&SPELLING).with_defaults(json!({
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
    }));
    if !fields.has("intermediate_size") {
        let hidden = fields.size("hidden_size")?;
        fields.set("n_inner", json!(4 * hidden));
    }
    Ok(fields)
}

pub(super) fn traits(fields: &Fields) -> Result<Traits, ModelError> {
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if fields.flag(key)? {
            return Err(fields.unsupported(key, "true", &["false"]));
        }
    }
    let scaled = fields.optional_flag("scale_attn_weights")?.unwrap_or(true);
    Ok(Traits {
        positions: Positions::Learned,
        norm: NormKind::Layer,
        feed: Feed::Plain,
        attention_bias: AttentionBias::All,
        mlp_bias: true,
        projections: Projections::Fused,
        query_scalar: (!scaled).then_some(1.0),
        tied: true,
        ..Traits::plain(fields)?
    })
}
