//! Procrustes analysis: what is left when one set of vectors is turned, scaled and moved onto another.

use burn::tensor::Tensor;

use super::{centred, cross, paired, squares};

/// The disparity `min |X − s Y R|² / |X|²` over factors `s` and orthogonal `R`, means taken away: 0 for the same shape, about 1 for
/// unrelated ones if there are many more rows than columns.
///
/// ```text
/// disparity = 1 − |XᵀY|_*² / (|X|² |Y|²)
/// ```
///
/// `|·|_*` is the sum of the singular values; there are reflections among the `R`. The narrower side counts as padded with zeros.
/// `None` if one side does not vary, or the decomposition fails, as it does for values that are not finite. Rows that are drawn
/// twice move the disparity of few rows downwards: there is no bootstrap.
///
/// Source: Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem" (`docs/references.md#procrustes`).
///
/// # Panics
///
/// If the sides have not equally many rows.
pub fn procrustes(x: Tensor<2>, y: Tensor<2>) -> Option<f64> {
    paired(&x, &y);
    let (x, y) = (centred(x), centred(y));
    let size = squares(&x).iter().sum::<f64>() * squares(&y).iter().sum::<f64>();
    if !(size > 0.0 && size.is_finite()) {
        return None;
    }
    let nuclear: f64 = cross(&x, &y).singular_values().ok()?.iter().sum();
    Some(1.0 - nuclear * nuclear / size)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::host;

    #[test]
    fn a_square_and_a_rectangle_by_hand() {
        let device = Device::flex();
        let square = host::matrix(vec![1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0], 2, &device);
        let flat = host::matrix(vec![3.0, 1.0, 3.0, -1.0, -3.0, -1.0, -3.0, 1.0], 2, &device);
        // XᵀY = diag(12, 4): 1 − 16² / (8 · 40).
        assert!((procrustes(square.clone(), flat).unwrap() - 0.2).abs() < 1e-6);
        assert_eq!(procrustes(square.clone(), square.clone() * 0.0 + 5.0), None);
        assert_eq!(procrustes(square.clone() * f32::NAN, square), None);
    }
}
