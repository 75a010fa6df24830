//! Round to nearest.

use quench_format::Scheme;

use super::fit::{Fit, ScaleSearch};
use super::{Matrix, Quantized};
use crate::{Gram, QuantizeError};

/// Rounds every weight to the nearest level of its group.
///
/// ```text
/// code = argmin |w / s − level(code)|
/// ```
///
/// - `w`: `[out, in]`
/// - `gram`: only to report the output loss
pub(super) fn quantize(
    layer: &str,
    w: &Matrix,
    scheme: Scheme,
    search: ScaleSearch,
    gram: Option<&Gram>,
) -> Result<Quantized, QuantizeError> {
    let fit = Fit::new(w, scheme, search);
    let codes = fit.round_all(w);
    let packed = fit.pack(layer, &codes, None)?;
    let output_loss = gram.map(|gram| {
        let errors: Vec<f32> = packed.decode().iter().zip(&w.values).map(|(q, w)| q - w).collect();
        let errors = Matrix { values: errors, ..*w };
        gram.energy(&errors).iter().sum::<f64>() / gram.energy(w).iter().sum::<f64>().max(f64::MIN_POSITIVE)
    });
    Ok(Quantized { packed, output_loss, damping: None, rounded_rows: 0 })
}
