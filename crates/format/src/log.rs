//! The log-signed code: mu-law companding, a sign and a magnitude that is even in the logarithm.
//!
//! With `K = 2^(b-1) - 1` magnitudes above zero,
//!
//! ```text
//! level(k) = ((1 + mu)^(k/K) - 1) / mu        k = 0 ..= K,  level(0) = 0,  level(K) = 1
//! level(k) = k / K                              for mu = 0, the limit
//! ```
//!
//! the inverse of `u = ln(1 + mu*|x|) / ln(1 + mu)` with `u = k/K`. Steps grow with the magnitude by a constant factor,
//! `step(k+1) / step(k) = (1 + mu)^(1/K)`, so levels are finest at zero; `mu = 0` is the uniform grid.
//!
//! Source: ITU-T G.711 (1972). The nearest level is meant in the level itself, not in its logarithm as telephony rounds,
//! because the error that counts is that of the weight.

use serde::{Deserialize, Serialize};

/// The curvature of a log-signed code, `mu`, in halves: 0, 0.5, 1, ... 32767.5; 0 is the uniform grid.
///
/// Halves, because then it is `Eq` and `Hash` and prints exactly; the optimum is flat enough not to ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Mu(u16);

impl Mu {
    /// `mu = 0`: equal steps.
    pub const UNIFORM: Self = Self(0);

    /// `mu = 3`, what `slog5` means where no `mu` is spelled.
    ///
    /// With absmax scales over groups of 128, the best `mu` is about 2 for Gaussian weights and 4 to 6 for Laplacian ones
    /// at 3 to 6 bits; 3 is within 0.2 dB of both (the test `the_default_is_near_the_best`).
    pub const DEFAULT: Self = Self(6);

    /// `mu`, where it is a multiple of one half from 0 to 32767.5.
    pub fn new(mu: f32) -> Option<Self> {
        let halves = mu * 2.0;
        let valid = halves.fract() == 0.0 && (0.0..=f32::from(u16::MAX)).contains(&halves);
        valid.then_some(Self(halves as u16))
    }

    /// `mu` as a number.
    pub fn get(self) -> f32 {
        f32::from(self.0) / 2.0
    }
}

impl TryFrom<f32> for Mu {
    type Error = String;

    fn try_from(mu: f32) -> Result<Self, String> {
        Self::new(mu).ok_or_else(|| format!("mu must be a multiple of 0.5 from 0 to 32767.5, not {mu}"))
    }
}

impl From<Mu> for f32 {
    fn from(mu: Mu) -> Self {
        mu.get()
    }
}

/// `((1 + mu)^(k/top) - 1) / mu`, for `mu = 0` its limit `k / top`, computed in `f64` and rounded once.
///
/// `top` is the largest magnitude code; where it is 0 (a one-bit code) only the level 0 is left.
pub(crate) fn magnitude(k: u16, top: u16, mu: Mu) -> f32 {
    if k == 0 || top == 0 {
        return 0.0;
    }
    let (part, mu) = (f64::from(k) / f64::from(top), f64::from(mu.get()));
    // exp_m1 and ln_1p keep all digits where mu or k/top is small; pow(..) - 1 would cancel.
    if mu == 0.0 { part as f32 } else { ((part * mu.ln_1p()).exp_m1() / mu) as f32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Bits, Code};

    #[test]
    fn halves_only() {
        for mu in [0.0, 0.5, 1.0, 8.0, 255.0, 32767.5] {
            assert_eq!(Mu::new(mu).map(Mu::get), Some(mu));
        }
        for mu in [-0.5, -1.0, 0.25, 0.75, 32768.0, f32::NAN, f32::INFINITY] {
            assert_eq!(Mu::new(mu), None, "{mu}");
        }
        assert_eq!(Mu::new(3.0), Some(Mu::DEFAULT));
    }

    /// Signal-to-noise ratio in dB of `w`, rows of 128 scaled by their largest magnitude.
    fn snr(w: &[f32], bits: u8, mu: Mu) -> f64 {
        let grid = Code::log_signed(Bits::new(bits).unwrap(), mu).unwrap().grid();
        let (mut signal, mut noise) = (0.0, 0.0);
        for group in w.chunks(128) {
            let scale = group.iter().fold(0.0_f32, |max, w| max.max(w.abs()));
            for &w in group {
                signal += f64::from(w).powi(2);
                noise += f64::from(w - scale * grid.level(grid.nearest(w / scale))).powi(2);
            }
        }
        10.0 * (signal / noise).log10()
    }

    #[test]
    fn the_default_is_near_the_best() {
        // SplitMix64, so that the numbers are the same everywhere.
        let mut state = 0_u64;
        let mut uniform = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64 + 1e-17
        };
        let (mut gaussian, mut laplace) = (Vec::new(), Vec::new());
        for _ in 0..128 * 256 {
            let (u, v) = (uniform(), uniform());
            gaussian.push(((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32);
            laplace.push((u.ln() * if v < 0.5 { 1.0 } else { -1.0 }) as f32);
        }
        let others = [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0].map(|mu| Mu::new(mu).unwrap());
        for (name, w) in [("gaussian", &gaussian), ("laplace", &laplace)] {
            for bits in 3..=6 {
                let found = others.map(|mu| snr(w, bits, mu));
                // `docs/format.md` shows these rows.
                println!("| {name}, {bits} bits | {} |", found.map(|snr| format!("{snr:.2}")).join(" | "));
                let (best, default) = (found.into_iter().fold(0.0, f64::max), snr(w, bits, Mu::DEFAULT));
                assert!(default > best - 0.2, "{name}, {bits} bits: {default:.2} dB against {best:.2} dB");
            }
        }
        // The theory note has 18.6 dB for int4 with the same scales on Gaussian weights.
        let slog4 = snr(&gaussian, 4, Mu::DEFAULT);
        assert!((slog4 - 19.7).abs() < 0.15, "{slog4}");
    }

    #[test]
    fn mu_0_is_uniform() {
        let levels: Vec<f32> = (0..=7).map(|k| magnitude(k, 7, Mu::UNIFORM)).collect();
        assert_eq!(levels, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0].map(|k: f32| k / 7.0));
    }

    #[test]
    fn mu_3_with_three_magnitudes_is_exact() {
        // (1 + 3)^(k/3): 4^(1/3) = 1.587401, 4^(2/3) = 2.519842.
        let mu = Mu::new(3.0).unwrap();
        let levels: Vec<f32> = (0..=3).map(|k| magnitude(k, 3, mu)).collect();
        assert_eq!(levels, [0.0, 0.195_800_35, 0.506_614, 1.0]);
    }

    proptest! {
        #[test]
        fn levels_rise_from_0_to_1_and_steps_grow(halves in 0_u16..=u16::MAX, bits in 2_u32..=16) {
            let (mu, top) = (Mu(halves), (1 << (bits - 1)) - 1);
            let levels: Vec<f32> = (0..=top).map(|k| magnitude(k, top, mu)).collect();
            prop_assert_eq!(levels[0], 0.0);
            prop_assert_eq!(levels[top as usize], 1.0);
            prop_assert!(levels.is_sorted_by(|a, b| a < b));
            let step = |k: usize| f64::from(levels[k]) - f64::from(levels[k - 1]);
            let growth = (1.0 + f64::from(mu.get())).powf(1.0 / f64::from(top));
            for k in 2..=top as usize {
                // Each level carries half an ulp, at most 2^-25 below 1.
                let slack = 4.0 * 2.0_f64.powi(-25) / step(k - 1);
                prop_assert!((step(k) / step(k - 1) / growth - 1.0).abs() <= slack);
            }
        }

        /// Theory note, section 3, test 4: half of the widest step bounds the error.
        #[test]
        fn the_widest_step_has_the_stated_bound(halves in 1_u16..2000, bits in 2_u32..=16) {
            let (mu, top) = (Mu(halves), (1_u16 << (bits - 1)) - 1);
            let m = f64::from(mu.get());
            let half = f64::from(1.0 - magnitude(top - 1, top, mu)) / 2.0;
            let bound = (1.0 + m).ln() / m * (1.0 + m) / 2.0 / f64::from(top);
            // The level below 1 carries half an ulp, 2^-25.
            prop_assert!(half <= bound + 2.0_f64.powi(-25), "{half} > {bound}");
        }

        /// The same test for what goes through the code, at every width: exact zero, odd, monotone, the error bounded.
        #[test]
        fn a_round_trip_is_odd_monotone_and_bounded(
            halves in 0_u16..=u16::MAX, bits in 2_u8..=16, a in -1.0_f32..=1.0, b in -1.0_f32..=1.0,
        ) {
            let code = Code::log_signed(Bits::new(bits).unwrap(), Mu(halves)).unwrap();
            let through = |w: f32| code.level(code.nearest(w));
            prop_assert_eq!((through(0.0), code.nearest(0.0)), (0.0, 0));
            prop_assert_eq!(through(-a), if through(a) == 0.0 { 0.0 } else { -through(a) });
            prop_assert!(through(a.min(b)) <= through(a.max(b)));
            let (m, top) = (f64::from(halves) / 2.0, f64::from((1_u32 << (bits - 1)) - 1));
            let bound = if m == 0.0 { 1.0 } else { (1.0 + m).ln() / m * (1.0 + m) } / 2.0 / top;
            let error = (f64::from(through(a)) - f64::from(a)).abs();
            prop_assert!(error <= bound + 2.0_f64.powi(-24), "{code} at {a}: {error} > {bound}");
        }
    }
}
