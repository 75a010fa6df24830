//! Round to nearest.

use super::fit::{Fit, Map, Request};
use super::{Matrix, Quantized};
use crate::{Gram, QuantizeError};

/// Rounds every weight to the nearest level of its group, or by the map of the published signed-log codec if it has that code.
///
/// ```text
/// code = argmin |w / s − level(code)|
/// code = n << B | clip(round(2^(B |w / s|)), 1, 2^B − 1)        published, n = 1 where w < 0
/// ```
///
/// - `w`: `[out, in]`
/// - `gram`: only to report the output loss
pub(super) fn quantize(
    layer: &str,
    w: &Matrix,
    request: Request<'_>,
    gram: Option<&Gram>,
) -> Result<Quantized, QuantizeError> {
    let fit = Fit::new(w, request, Map::Own);
    let codes = fit.round_all(w);
    let packed = fit.pack(layer, &codes, None)?;
    let output_loss = gram.map(|gram| {
        let errors: Vec<f32> = packed.decode().iter().zip(&w.values).map(|(q, w)| q - w).collect();
        let errors = Matrix { values: errors, ..*w };
        gram.energy(&errors).iter().sum::<f64>() / gram.energy(w).iter().sum::<f64>().max(f64::MIN_POSITIVE)
    });
    Ok(Quantized { packed, output_loss, damping: None, rounded_rows: 0 })
}
