//! Round to nearest.

use super::descent::{Descent, Refine};
use super::fit::{Fit, Request};
use super::levels::Map;
use super::solution::Solution;
use super::{Matrix, Quantized};
use crate::{Gram, QuantizeError};

/// Relative to the mean of the Gram diagonal.
const DAMPING: f64 = 0.01;

/// Rounds every weight to the nearest level of its group, or by the map of the published signed-log codec if it has that code.
///
/// ```text
/// code = argmin |w / s − level(code)|
/// code = n << B | clip(round(2^(B |w / s|)), 1, 2^B − 1)        published, n = 1 where w < 0
/// ```
///
/// - `w`: `[out, in]`
/// - `gram`: to report the output loss, and for `refine`
pub(super) fn quantize(
    layer: &str,
    w: &Matrix,
    request: Request<'_>,
    refine: Refine,
    gram: Option<&Gram>,
) -> Result<Quantized, QuantizeError> {
    let mut fit = Fit::new(w, request, Map::Own);
    let mut solution = Solution::plain(w, &fit);
    let mut damping = None;
    if let Some(gram) = gram.filter(|_| !refine.is_none()) {
        Descent::new(w, gram, DAMPING, refine).run(&mut fit, &mut solution);
        damping = Some(DAMPING);
    }
    let output_loss = gram.map(|gram| gram.share(&solution.errors(w), w));
    let packed = fit.pack(layer, &solution.codes, None)?;
    Ok(Quantized { packed, output_loss, damping, rounded_rows: 0 })
}
