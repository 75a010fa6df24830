//! The normal distribution function.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// `Φ(x)`, the share of a standard normal variable below `x`, to about 1e-15.
///
/// ```text
/// |x| < 3:   1/2 + φ(x) (x + x³/3 + x⁵/(3·5) + …)
/// beyond:    φ(x) / (x + 1/(x + 2/(x + 3/(x + …))))   on the far side
/// ```
///
/// Source: Abramowitz and Stegun 1964, 26.2.11 and 26.2.14.
pub(crate) fn cumulative(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() * FRAC_1_SQRT_2 / PI.sqrt();
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for odd in (3..).step_by(2) {
            term *= x * x / f64::from(odd);
            if sum + term == sum {
                break;
            }
            sum += term;
        }
        return 0.5 + density * sum;
    }
    let fraction = (1..=80).rev().fold(x.abs(), |tail, k| x.abs() + f64::from(k) / tail);
    let far = density / fraction;
    if x > 0.0 { 1.0 - far } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shares() {
        for (x, expected) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-2.0, 0.022_750_131_948_179_21),
            (3.0, 0.998_650_101_968_369_9),
            (-6.0, 9.865_876_450_376_98e-10),
        ] {
            assert!((cumulative(x) - expected).abs() < 2e-15 * (1.0 + expected), "{x}: {:e}", cumulative(x) - expected);
        }
        assert!((cumulative(2.999_999_999) - cumulative(3.000_000_001)).abs() < 1e-11);
        assert_eq!((cumulative(f64::INFINITY), cumulative(40.0)), (1.0, 1.0));
    }
}
