//! Ways of rounding to a grid.

use rand::Rng;
use serde::{Deserialize, Serialize};

/// How a number becomes one of a grid of this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// The nearest multiple of the step; half-way to the even one. Small numbers become 0: mid-tread.
    Nearest,
    /// The nearest odd multiple of half a step: no number becomes 0, and every sign is kept.
    MidRise,
    /// The nearest multiple after a uniform number of `[−δ/2, δ/2)` was added, which is subtracted again: the error is
    /// uniform and independent of the number.
    Dither,
    /// One of the two neighbouring multiples, by chance, so that the mean is the number.
    Stochastic,
}

impl Rounding {
    /// `x` rounded to a step; only dither and stochastic rounding draw a number.
    ///
    /// ```text
    /// nearest δ ⌊x/δ⌉    mid-rise δ (⌊x/δ⌋ + 1/2)    dither δ (⌊x/δ + u⌉ − u)    stochastic δ ⌊x/δ + u + 1/2⌋,   u uniform on [−1/2, 1/2)
    /// ```
    ///
    /// Source: Schuchman 1964 and Lipshitz, Wannamaker, Vanderkooy 1992 for dither (`docs/references.md#dither`).
    pub fn apply(self, x: f64, step: f64, random: &mut impl Rng) -> f64 {
        let mut uniform = || random.random::<f64>() - 0.5;
        let x = x / step;
        step * match self {
            Self::Nearest => x.round_ties_even(),
            Self::MidRise => x.floor() + 0.5,
            Self::Dither => {
                let u = uniform();
                (x + u).round_ties_even() - u
            }
            Self::Stochastic => (x + uniform() + 0.5).floor(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn halves_go_to_the_even_multiple() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for (x, nearest, rise) in
            [(0.25, 0.0, 0.25), (0.75, 1.0, 0.75), (-0.25, 0.0, -0.25), (-0.1, 0.0, -0.25), (1.1, 1.0, 1.25)]
        {
            assert_eq!(Rounding::Nearest.apply(x, 0.5, &mut random), nearest, "{x}");
            assert_eq!(Rounding::MidRise.apply(x, 0.5, &mut random), rise, "{x}");
        }
    }

    /// Dither errs by `δ² / 12` whatever the number is; stochastic rounding has its mean, and errs by `x (δ − x)`.
    #[test]
    fn random_rounding_has_its_moments() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let (step, n) = (0.5, 200_000);
        for x in [0.0, 0.1, 0.25, -0.4] {
            for (rounding, variance) in
                [(Rounding::Dither, step * step / 12.0), (Rounding::Stochastic, f64::abs(x) * (step - f64::abs(x)))]
            {
                let errors: Vec<f64> = (0..n).map(|_| rounding.apply(x, step, &mut random) - x).collect();
                let mean = errors.iter().sum::<f64>() / f64::from(n);
                let square = errors.iter().map(|error| error * error).sum::<f64>() / f64::from(n);
                assert!(mean.abs() < 2e-3 && (square - variance).abs() < 1e-3, "{rounding:?} {x}: {mean} {square}");
            }
        }
    }
}
