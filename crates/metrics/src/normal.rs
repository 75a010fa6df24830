//! The standard normal law: its density, its distribution function, and the inverse of that.

use std::f64::consts::TAU;

/// `φ(x) = exp(−x² / 2) / √(2π)`.
pub(crate) fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / TAU.sqrt()
}

/// `Φ(x)`, the probability below `x`; its relative error is below 1e-13 in the lower tail as well.
///
/// A series around 0, and Laplace's continued fraction in the tails.
pub(crate) fn cdf(x: f64) -> f64 {
    if x > 0.0 {
        return 1.0 - cdf(-x);
    }
    if x > -2.5 {
        // Φ(x) = 1/2 + φ(x) (x + x³/3 + x⁵/15 + ..)
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term.abs() > f64::EPSILON * sum.abs() / 8.0 {
            odd += 2.0;
            term *= x * x / odd;
            sum += term;
        }
        return 0.5 + density(x) * sum;
    }
    // Φ(x) = φ(x) / (|x| + 1 / (|x| + 2 / (|x| + ..))), from the far end.
    let fraction = (1..=120).rev().fold(-x, |fraction, k| -x + f64::from(k) / fraction);
    density(x) / fraction
}

/// `Φ⁻¹(p)`; −∞ at 0, ∞ at 1, NaN outside of them.
pub(crate) fn quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -quantile(1.0 - p);
    }
    if p <= 0.0 {
        return if p == 0.0 { f64::NEG_INFINITY } else { f64::NAN };
    }
    // Hastings' approximation, off by 4.5e-4 at most (Abramowitz and Stegun 26.2.23); each step of Halley's method triples the digits.
    let t = (-2.0 * p.ln()).sqrt();
    let start = (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))) - t;
    (0..3).fold(start, |x, _| {
        let error = (cdf(x) - p) * (TAU.sqrt() * (x * x / 2.0).exp());
        x - error / (1.0 + x * error / 2.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Abramowitz and Stegun, tables 26.1 and 26.2, and for the far tail mpmath.
    #[test]
    fn known_values() {
        for (x, expected) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-2.0, 0.022_750_131_948_179_2),
            (-3.0, 1.349_898_031_630_094_5e-3),
            (-10.0, 7.619_853_024_160_527e-24),
        ] {
            assert!((cdf(x) / expected - 1.0).abs() < 1e-13, "{x}: {:e}", cdf(x));
        }
        assert!((quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-13);
        assert!((quantile(0.75) - 0.674_489_750_196_081_7).abs() < 1e-13);
        assert_eq!((quantile(0.0), quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(quantile(-0.1).is_nan() && quantile(1.1).is_nan());
    }

    #[test]
    fn the_inverse_is_the_inverse() {
        for step in -160..=160 {
            let x = f64::from(step) / 20.0;
            // Near 1 a probability has only 1e-16 to tell points apart.
            let within = 1e-12 + 2e-16 / density(x);
            assert!((quantile(cdf(x)) - x).abs() < within, "{x}: {}", quantile(cdf(x)));
        }
    }

    /// Both ways of computing it, where they meet.
    #[test]
    fn has_no_seam() {
        assert!((cdf(-2.5 + 1e-9) - cdf(-2.5 - 1e-9) - 2e-9 * density(2.5)).abs() < 5e-16);
    }
}
