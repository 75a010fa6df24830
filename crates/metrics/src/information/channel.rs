//! Channels whose information is known.

use crate::normal;

/// How probably a coordinate at `corner` or `−corner` with normal noise of deviation `noise` is rounded to 0 in steps of `step`.
///
/// ```text
/// p = Φ((step / 2 − corner) / noise)
/// ```
///
/// The far side of the cell, below `−step / 2`, is neglected: the coordinate is then not erased but wrong, which for
/// `corner > 3 noise` is rarer than one in a hundred million.
///
/// # Panics
///
/// If `noise` is not positive.
pub fn erasure(step: f64, corner: f64, noise: f64) -> f64 {
    assert!(noise > 0.0, "noise needs a positive deviation, found {noise}");
    normal::cumulative((step / 2.0 - corner) / noise)
}

/// The bits about the sign of a coordinate that rounding leaves, `1 − erasure`: the exact curve of a code at the corners of a cube.
///
/// # Panics
///
/// If `noise` is not positive.
pub fn erasure_information(step: f64, corner: f64, noise: f64) -> f64 {
    1.0 - erasure(step, corner, noise)
}

/// The bits that normal variables with this correlation share, `−log2(1 − ρ²) / 2`, in each pair of coordinates.
pub fn gaussian_information(correlation: f64) -> f64 {
    -0.5 * (1.0 - correlation * correlation).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_two_corners_erases_half() {
        for noise in [0.01, 0.2, 5.0] {
            assert_eq!(erasure(2.0, 1.0, noise), 0.5);
        }
        assert!(erasure(0.1, 1.0, 0.2) < 1e-5 && erasure_information(9.0, 1.0, 0.2) < 1e-12);
        assert!((gaussian_information(-0.75f64.sqrt()) - 1.0).abs() < 1e-12 && gaussian_information(0.0) == 0.0);
    }
}
