//! Gemma 1, 2 and 3: gains stored as `w − 1`, a scaled embedding, a tied head.
//!
//! The defaults are those of the reference library: a saved `text_config` of Gemma 3 holds only what differs from them.

use serde_json::{Value, json};

use super::{Sliding, Traits, activation, attention_bias};
use crate::ModelError;
use crate::config::{Activation, Gain, Norms};
use crate::fields::Fields;

pub(super) fn defaults_1() -> Value {
    json!({ "head_dim": 256, "hidden_act": "gelu_pytorch_tanh" })
}

pub(super) fn defaults_2() -> Value {
    json!({
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    })
}

pub(super) fn defaults_3() -> Value {
    json!({
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "rope_local_base_freq": 10_000.0,
    })
}

pub(super) fn traits_1(fields: &Fields) -> Result<Traits, ModelError> {
    let activation = match fields.optional_text("hidden_activation")? {
        Some(_) => activation(fields, "hidden_activation")?,
        // The first files say "gelu" of models that were trained, and are run, with the tanh form.
        None => match activation(fields, "hidden_act")? {
            Activation::Gelu => Activation::GeluTanh,
            other => other,
        },
    };
    common(fields, activation)
}

pub(super) fn traits_2(fields: &Fields) -> Result<Traits, ModelError> {
    Ok(Traits { sliding: Sliding::AllButEvery(2), ..capped(fields)? })
}

pub(super) fn traits_3(fields: &Fields) -> Result<Traits, ModelError> {
    let period = match fields.optional_size("sliding_window_pattern")? {
        Some(period) => Some(period),
        None => fields.optional_size("_sliding_window_pattern")?,
    };
    Ok(Traits {
        qk_norm: true,
        rope_theta: 1_000_000.0,
        sliding: Sliding::AllButEvery(period.unwrap_or(6)),
        ..capped(fields)?
    })
}

/// What Gemma 2 and 3 share: norms around, soft caps, a window, and a query scale of its own.
fn capped(fields: &Fields) -> Result<Traits, ModelError> {
    Ok(Traits {
        norms: Norms::Around,
        query_scalar: Some(fields.positive("query_pre_attn_scalar")?),
        attention_cap: fields.optional_positive("attn_logit_softcapping")?,
        logit_cap: fields.optional_positive("final_logit_softcapping")?,
        window: fields.optional_size("sliding_window")?,
        ..common(fields, activation(fields, "hidden_activation")?)?
    })
}

/// What all three share.
fn common(fields: &Fields, activation: Activation) -> Result<Traits, ModelError> {
    Ok(Traits {
        attention_bias: attention_bias(fields)?,
        gain: Gain::PlusOne,
        scaled_embedding: true,
        tied: true,
        ..Traits::bare(activation)
    })
}
