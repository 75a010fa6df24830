//! How often a corner is found among random ones: by formula, and by trial.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Rounding, VertexCode};
use crate::Source;

impl VertexCode {
    /// The probability that the nearest of `2^(rate d)` independent random corners is the right one, a fair draw among several; exact.
    ///
    /// Of `d` coordinates `k ~ Bin(d, 1 − p_e)` are there and `m ~ Bin(k, p_f / (1 − p_e))` of them wrong, and each other corner differs in
    /// `Bin(k, 1/2)`. With `F` for its probability of fewer than `m` and `p` of just `m`, and `M` corners in all,
    ///
    /// ```text
    /// P(found | k, m) = ((1 − F)^M − (1 − F − p)^M) / (M p)
    /// ```
    ///
    /// # Panics
    ///
    /// If `d` is 0 or above 64, or there would be less than one corner.
    pub fn found(self, rate: f64, d: usize, step: f64) -> f64 {
        let corners = corners(rate, d) as f64;
        let present = 1.0 - self.erasure(step);
        let wrong = if present > 0.0 { (self.flip(step) / present).min(1.0) } else { 0.0 };
        let given = |k: usize| -> f64 {
            let others = binomial(k, 0.5);
            let mut fewer = 0.0;
            let mut found = 0.0;
            for (mine, same) in binomial(k, wrong).into_iter().zip(others) {
                let left: f64 = 1.0 - fewer;
                // (1 − F)^M − (1 − F − p)^M = (1 − F)^M (1 − (1 − p / (1 − F))^M), which keeps its digits for small p.
                let none_better = left.powf(corners);
                found +=
                    mine * none_better * -(corners * (-(same / left).min(1.0)).ln_1p()).exp_m1() / (corners * same);
                fewer = (fewer + same).min(1.0);
                if fewer == 1.0 {
                    break;
                }
            }
            found
        };
        binomial(d, present).into_iter().enumerate().map(|(k, probability)| probability * given(k)).sum()
    }

    /// As [`VertexCode::found`], by trial: one random set of corners, `trials` noisy and rounded copies of them, each compared with all.
    ///
    /// Corners are the bits of a word, so that a comparison is one instruction; 2^14 corners of 56 coordinates take some 50 µs a
    /// trial. A trial with several nearest corners counts for its share.
    ///
    /// # Panics
    ///
    /// If `d` is 0 or above 64, or there would be less than one corner.
    pub fn found_in_trials(self, rate: f64, d: usize, step: f64, rounding: Rounding, trials: usize, seed: u64) -> f64 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let corners: Vec<u64> = (0..corners(rate, d)).map(|_| random.random::<u64>()).collect();
        let noise = Source::Gaussian.samples(trials * d, seed.wrapping_add(1));
        let mut found = 0.0;
        for noise in noise.chunks(d) {
            let sent = corners[random.random_range(0..corners.len() as u64) as usize];
            let (mut signs, mut present) = (0u64, 0u64);
            for (bit, noise) in noise.iter().enumerate() {
                let side = if sent >> bit & 1 == 1 { self.side } else { -self.side };
                let received = rounding.apply(side + self.noise * f64::from(*noise), step, &mut random);
                signs |= u64::from(received > 0.0) << bit;
                present |= u64::from(received != 0.0) << bit;
            }
            let differing = |corner: &u64| ((corner ^ signs) & present).count_ones();
            let (mine, mut fewer, mut same) = (differing(&sent), 0u32, 0u32);
            for corner in &corners {
                let other = differing(corner);
                fewer += u32::from(other < mine);
                same += u32::from(other == mine);
            }
            if fewer == 0 {
                found += 1.0 / f64::from(same);
            }
        }
        found / trials as f64
    }

    /// The step at which a share of the corners is found, by [`VertexCode::found`]; `share` between `2^(−rate d)` and what a step near 0
    /// gives.
    pub fn step_where_found(self, rate: f64, d: usize, share: f64) -> f64 {
        let (mut low, mut high) = (0.0, 2.0 * self.side + 20.0 * self.noise);
        for _ in 0..50 {
            let middle = (low + high) / 2.0;
            if self.found(rate, d, middle) > share { low = middle } else { high = middle }
        }
        (low + high) / 2.0
    }
}

/// `2^(rate d)`, rounded.
fn corners(rate: f64, d: usize) -> usize {
    assert!(0 < d && d <= 64, "corners of {d} coordinates do not fit into a word");
    assert!((0.0..=0.4).contains(&(rate * d as f64 / 64.0)), "2^({rate} · {d}) corners");
    (rate * d as f64).exp2().round() as usize
}

/// The probabilities of 0 to `n` successes in `n` trials.
fn binomial(n: usize, p: f64) -> Vec<f64> {
    let mut row = vec![0.0; n + 1];
    row[0] = 1.0;
    for trial in 0..n {
        for successes in (0..=trial).rev() {
            row[successes + 1] += row[successes] * p;
            row[successes] *= 1.0 - p;
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_coins() {
        assert_eq!(binomial(3, 0.5), [0.125, 0.375, 0.375, 0.125]);
        assert_eq!((binomial(2, 0.0), binomial(2, 1.0)), (vec![1.0, 0.0, 0.0], vec![0.0, 0.0, 1.0]));
    }

    #[test]
    fn extremes() {
        let code = VertexCode { side: 1.0, noise: 0.1 };
        // Nothing is left: one of 16, by chance. All is left: the corner, unless another of 2^16 is the same.
        assert!((code.found(0.25, 16, 100.0) - 1.0 / 16.0).abs() < 1e-12);
        assert!((code.found(0.25, 16, 0.5) - 1.0).abs() < 2e-4);
    }

    /// With noise that turns signs, and ties that a few corners of few coordinates have often.
    #[test]
    fn the_formula_is_what_trials_give() {
        let code = VertexCode { side: 1.0, noise: 0.6 };
        for (d, step) in [(6, 1.8), (10, 2.4), (16, 2.0)] {
            // A set of few corners is not the mean over sets: many of them.
            let sets = 300;
            let trials =
                (0..sets).map(|seed| code.found_in_trials(0.4, d, step, Rounding::Nearest, 100, seed)).sum::<f64>();
            let (found, expected) = (trials / sets as f64, code.found(0.4, d, step));
            assert!((found - expected).abs() < 0.015, "{d} {step}: {found} for {expected}");
        }
    }
}
