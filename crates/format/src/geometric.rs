//! The geometric code: zero, and magnitudes in constant ratio, a logarithmic number system.
//!
//! With `K = 2^(b-1) - 1` magnitudes above zero and a range of `r` octaves,
//!
//! ```text
//! level(k) = 2^(-r * (K - k) / (K - 1))        k = 1 ..= K,  level(0) = 0,  level(K) = 1
//! ```
//!
//! so the smallest magnitude is `2^-r`, and the relative error of what lies above it is the same everywhere. Between the
//! smallest magnitude and zero there is nothing: a wide range costs precision at the top, a narrow one makes small weights
//! zero. The mu-law code ([`crate::Code::LogSigned`]) is geometric at the top and even at zero, which serves weights better.
//!
//! Source: Swartzlander and Alexopoulos 1975, "The Sign/Logarithm Number System".

use serde::{Deserialize, Serialize};

/// The range of a geometric code, largest magnitude over smallest in powers of two: 0.25, 0.5, ... 32.
///
/// Quarters, because then it is `Eq` and `Hash` and prints exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Octaves(u8);

impl Octaves {
    /// The range, where it is a multiple of one quarter from 0.25 to 32.
    pub fn new(octaves: f32) -> Option<Self> {
        let quarters = octaves * 4.0;
        // 32 octaves at most: then the sum of two neighbouring levels is exact in f64 at every width.
        let valid = quarters.fract() == 0.0 && (1.0..=128.0).contains(&quarters);
        valid.then_some(Self(quarters as u8))
    }

    /// The range as a number.
    pub fn get(self) -> f32 {
        f32::from(self.0) / 4.0
    }
}

impl TryFrom<f32> for Octaves {
    type Error = String;

    fn try_from(octaves: f32) -> Result<Self, String> {
        Self::new(octaves)
            .ok_or_else(|| format!("a range must be a multiple of 0.25 from 0.25 to 32 octaves, not {octaves}"))
    }
}

impl From<Octaves> for f32 {
    fn from(octaves: Octaves) -> Self {
        octaves.get()
    }
}

/// `2^(-range * (top - k) / (top - 1))`, computed in `f64` and rounded once; 0 where `k` is 0.
pub(crate) fn magnitude(k: u16, top: u16, range: Octaves) -> f32 {
    if k == 0 {
        return 0.0;
    }
    let steps = f64::from(top.max(2) - 1);
    (-f64::from(range.get()) * f64::from(top - k) / steps).exp2() as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Bits, Code};

    #[test]
    fn quarters_only() {
        for octaves in [0.25, 1.0, 3.5, 32.0] {
            assert_eq!(Octaves::new(octaves).map(Octaves::get), Some(octaves));
        }
        for octaves in [0.0, -1.0, 0.1, 32.25, f32::NAN, f32::INFINITY] {
            assert_eq!(Octaves::new(octaves), None, "{octaves}");
        }
    }

    proptest! {
        #[test]
        fn the_ratio_of_neighbours_is_constant(quarters in 1_u8..=128, bits in 3_u32..=16) {
            let (range, top) = (Octaves(quarters), (1_u16 << (bits - 1)) - 1);
            let ratio = (f64::from(range.get()) / f64::from(top - 1)).exp2();
            prop_assert_eq!(magnitude(top, top, range), 1.0);
            prop_assert_eq!(magnitude(1, top, range), (-range.get()).exp2());
            for k in 2..=top {
                let found = f64::from(magnitude(k, top, range)) / f64::from(magnitude(k - 1, top, range));
                // Each level carries half an ulp, at most 2^-24 of it.
                prop_assert!((found / ratio - 1.0).abs() <= 2.5 * 2.0_f64.powi(-24), "{k}: {found} against {ratio}");
            }
        }

        /// Above the smallest magnitude, the error is at most half a step: `(ratio - 1) / (ratio + 1)` of the weight.
        #[test]
        fn the_relative_error_is_bounded(quarters in 1_u8..=128, bits in 3_u8..=10, x in 0.0_f64..=1.0, negative: bool) {
            let (range, top) = (Octaves(quarters), (1_u16 << (bits - 1)) - 1);
            let code = Code::geometric(Bits::new(bits).unwrap(), range).unwrap();
            let x = (-x * f64::from(range.get())).exp2() as f32 * if negative { -1.0 } else { 1.0 };
            let ratio = (f64::from(range.get()) / f64::from(top - 1)).exp2();
            let error = (f64::from(code.level(code.nearest(x))) / f64::from(x) - 1.0).abs();
            prop_assert!(error <= (ratio - 1.0) / (ratio + 1.0) + 1e-6, "{code} at {x}: {error}");
        }
    }
}
