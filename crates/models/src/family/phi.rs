//! Phi 3: q, k, v in one matrix, gate and up in another; part of a head may be turned.

use super::Traits;
use crate::ModelError;
use crate::config::Projections;
use crate::fields::Fields;

pub(super) fn traits(fields: &Fields) -> Result<Traits, ModelError> {
    Ok(Traits {
        projections: Projections::Fused,
        window: fields.optional_size("sliding_window")?,
        ..Traits::plain(fields)?
    })
}
