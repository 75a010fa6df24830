//! Codes of the corners of a cube: a system with a transition that can be solved.

use serde::{Deserialize, Serialize};

use super::Rounding;
use crate::normal;

/// Corners `±side` of a cube, one coordinate beside the other, each with normal noise, and rounded to the nearest multiple of a step.
///
/// With a step above `side` a coordinate keeps its sign or becomes 0. It is a channel that erases with the probability
///
/// ```text
/// p_e = Φ((δ/2 − side) / noise) − Φ((−δ/2 − side) / noise)
/// ```
///
/// and `2^(R d)` random corners of `d` coordinates are told apart, for large `d`, as long as `R` is below its information `I(δ)`, and not
/// beyond: that is a transition, and the step where it happens is known.
///
/// Source: Shannon 1948; Wolfowitz 1957 for the converse (`docs/references.md#channels`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VertexCode {
    /// How far the corners are from 0 along each axis.
    pub side: f64,
    /// The standard deviation of the noise, above 0.
    pub noise: f64,
}

impl VertexCode {
    /// The probability that a coordinate becomes 0.
    pub fn erasure(self, step: f64) -> f64 {
        self.below(step / 2.0) - self.flip(step)
    }

    /// The probability that a coordinate gets the other sign.
    pub fn flip(self, step: f64) -> f64 {
        self.below(-step / 2.0)
    }

    /// The information in bits that a coordinate carries of its sign, when only the sign of what it becomes is looked at.
    ///
    /// ```text
    /// I = (1 − p_e) (1 − h(p_f / (1 − p_e)))
    /// ```
    ///
    /// `p_f` is the probability of the other sign, `h` the entropy of a biased coin.
    pub fn information(self, step: f64) -> f64 {
        let kept = 1.0 - self.erasure(step);
        let wrong = self.flip(step) / kept;
        let bits = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
        kept * (1.0 - bits(wrong) - bits(1.0 - wrong))
    }

    /// The same without wrong signs, `1 − Φ((δ/2 − side) / noise)`: what is not erased is right.
    pub fn erasure_information(self, step: f64) -> f64 {
        1.0 - self.below(step / 2.0)
    }

    /// The critical step of a code of `rate` bits per coordinate, 0 to 1, where [`VertexCode::erasure_information`] is the rate.
    ///
    /// ```text
    /// δ_c = 2 (side + noise · Φ⁻¹(1 − R))
    /// ```
    pub fn critical_step(self, rate: f64) -> f64 {
        2.0 * (self.side + self.noise * normal::quantile(1.0 - rate))
    }

    /// Between which steps the share of corners found falls from 90 to 10 percent, by the normal approximation for `d` coordinates.
    ///
    /// ```text
    /// δ_10 − δ_90 = 2 Φ⁻¹(0.9) √(V / d) / |I'(δ_c)|        V = R (1 − R),   I' = −φ((δ_c/2 − side) / noise) / (2 noise)
    /// ```
    ///
    /// Falls as `d^(−1/2)`, so `ν = 2`. Source: Polyanskiy, Poor, Verdú 2010 (`docs/references.md#channels`).
    pub fn width(self, rate: f64, d: usize) -> f64 {
        let slope = normal::density((self.critical_step(rate) / 2.0 - self.side) / self.noise) / (2.0 * self.noise);
        2.0 * normal::quantile(0.9) * (rate * (1.0 - rate) / d as f64).sqrt() / slope
    }

    /// The probability that a coordinate has the right sign after rounding, where half of those that become 0 count.
    ///
    /// ```text
    /// nearest 1 − p_e/2 − p_f    mid-rise Φ(side / noise)    dither E clip(x/δ + 1/2, 0, 1)    stochastic E clip(x/2δ + 1/2, 0, 1)
    /// ```
    pub fn sign_kept(self, step: f64, rounding: Rounding) -> f64 {
        // E clip(x / width + 1/2, 0, 1) of a normal x: the integral of Φ over the width.
        let ramp = |width: f64| {
            let integral = |x: f64| self.noise * (x * normal::cdf(x) + normal::density(x));
            let end = |sign: f64| integral((self.side + sign * width / 2.0) / self.noise);
            (end(1.0) - end(-1.0)) / width
        };
        match rounding {
            Rounding::Nearest => 1.0 - self.erasure(step) / 2.0 - self.flip(step),
            Rounding::MidRise => normal::cdf(self.side / self.noise),
            Rounding::Dither => ramp(step),
            Rounding::Stochastic => ramp(2.0 * step),
        }
    }

    /// The probability that a coordinate of a positive corner lies below `x`.
    fn below(self, x: f64) -> f64 {
        normal::cdf((x - self.side) / self.noise)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::Source;

    const CODE: VertexCode = VertexCode { side: 1.0, noise: 0.4 };

    /// Every probability beside a count of rounded samples.
    #[test]
    fn probabilities_are_those_of_samples() {
        let n = 200_000;
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let samples: Vec<f64> = Source::Gaussian.samples(n, 1).into_iter().map(|z| 1.0 + 0.4 * f64::from(z)).collect();
        for step in [1.2, 2.0, 2.6, 5.0] {
            let mut share = |rounding: Rounding, credit: fn(f64) -> f64| {
                samples.iter().map(|x| credit(rounding.apply(*x, step, &mut random))).sum::<f64>() / n as f64
            };
            let zero = |x: f64| f64::from(u8::from(x == 0.0));
            let negative = |x: f64| f64::from(u8::from(x < 0.0));
            let credit = |x: f64| if x == 0.0 { 0.5 } else { f64::from(u8::from(x > 0.0)) };
            assert!((share(Rounding::Nearest, zero) - CODE.erasure(step)).abs() < 5e-3, "{step}");
            assert!((share(Rounding::Nearest, negative) - CODE.flip(step)).abs() < 5e-3, "{step}");
            for rounding in [Rounding::Nearest, Rounding::MidRise, Rounding::Dither, Rounding::Stochastic] {
                let (found, expected) = (share(rounding, credit), CODE.sign_kept(step, rounding));
                assert!((found - expected).abs() < 5e-3, "{rounding:?} {step}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn wrong_signs_cost_information() {
        // Nothing becomes 0 at a step near 0, and a sign is right with Φ(side / noise).
        let wrong = normal::cdf(-2.5);
        let expected = 1.0 + wrong * wrong.log2() + (1.0 - wrong) * (1.0 - wrong).log2();
        assert!((CODE.information(1e-12) - expected).abs() < 1e-9);
        assert!(CODE.information(2.0) < CODE.erasure_information(2.0));
        assert!((CODE.erasure_information(CODE.critical_step(0.3)) - 0.3).abs() < 1e-12);
    }
}
