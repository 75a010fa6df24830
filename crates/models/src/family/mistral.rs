//! Mistral: Llama with a sliding window, in every layer, where `sliding_window` is not null.

use super::Traits;
use crate::ModelError;
use crate::fields::Fields;

pub(super) fn traits(fields: &Fields) -> Result<Traits, ModelError> {
    Ok(Traits { window: fields.optional_size("sliding_window")?, ..Traits::plain(fields)? })
}
