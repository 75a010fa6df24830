//! Llama 1, 2 and 3, and the many models built like them.

use super::{Traits, attention_bias};
use crate::ModelError;
use crate::fields::Fields;

pub(super) fn traits(fields: &Fields) -> Result<Traits, ModelError> {
    Ok(Traits { attention_bias: attention_bias(fields)?, mlp_bias: fields.flag("mlp_bias")?, ..Traits::plain(fields)? })
}
