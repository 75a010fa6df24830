//! Qwen 2 (biases on q, k, v) and Qwen 3 (norms on queries and keys).

use serde_json::{Value, json};

use super::{Sliding, Traits, attention_bias};
use crate::ModelError;
use crate::config::AttentionBias;
use crate::fields::Fields;

/// Qwen 3 heads are 128 wide whatever the hidden size.
pub(super) fn defaults_3() -> Value {
    json!({ "head_dim": 128 })
}

pub(super) fn traits_2(fields: &Fields) -> Result<Traits, ModelError> {
    Ok(Traits { attention_bias: AttentionBias::Input, ..sliding(fields)? })
}

pub(super) fn traits_3(fields: &Fields) -> Result<Traits, ModelError> {
    Ok(Traits { attention_bias: attention_bias(fields)?, qk_norm: true, ..sliding(fields)? })
}

/// `sliding_window` counts only with `use_sliding_window`, and then from layer `max_window_layers` on.
fn sliding(fields: &Fields) -> Result<Traits, ModelError> {
    let plain = Traits::plain(fields)?;
    if !fields.flag("use_sliding_window")? {
        return Ok(plain);
    }
    Ok(Traits {
        window: fields.optional_size("sliding_window")?,
        sliding: Sliding::From(fields.raw("max_window_layers").and_then(Value::as_u64).unwrap_or(28) as usize),
        ..plain
    })
}
