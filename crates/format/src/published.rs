//! The published signed-log codec, for compatibility: read it, write it, score it; nothing here is a default.
//!
//! With `B = b - 1` bits for the magnitude and weights in [-1, 1],
//!
//! ```text
//! encode   k = clip(round(2^(B * |w|)), 1, 2^B - 1)        code = n << B | k,   n = 1 where w < 0
//! decode   (-1)^n * log2(k) / B
//! ```
//!
//! The encoder is an exponential and the decoder a logarithm, so levels lie closest at one and farthest at zero, the
//! reverse of what companding is for: every `|w| < log2(1.5) / B` becomes zero. [`Code::LogSigned`](crate::Code::LogSigned)
//! with `mu = 2^B - 1` is the same pair of functions, each in the other's place.
//!
//! The map is not the nearest level, which [`Code::nearest`](crate::Code::nearest) gives for this code as for any other
//! (0.3 dB better on Gaussian weights).

use crate::{Bits, FormatError};

/// The code of one number by the published map, `n << B | k`; magnitudes beyond 1 are clipped, not-a-number is 0.
///
/// No `f32` is a tie of the rounding: `2^(B * |w|)` is whole or irrational.
///
/// # Panics
/// If `bits` is 1, which leaves none for the magnitude.
pub fn encode_one(bits: Bits, w: f32) -> u16 {
    assert!(bits.get() >= 2, "a sign and a magnitude need at least 2 bits");
    let width = bits.get() - 1;
    let top = f64::from((1_u32 << width) - 1);
    // A NaN passes through the clip and is cast to 0.
    let k = (f64::from(width) * f64::from(w.abs())).exp2().round().clamp(1.0, top) as u16;
    u16::from(w < 0.0) << width | k.max(1)
}

/// The codes of weights that need no scale, by the published map; `w` of any length.
///
/// # Errors
/// [`FormatError::OutsideUnit`] at the first weight beyond [-1, 1] or not a number: with a scale, divide by it first.
///
/// # Panics
/// If `bits` is 1.
pub fn encode(bits: Bits, w: &[f32]) -> Result<Vec<u16>, FormatError> {
    match w.iter().position(|w| !(-1.0..=1.0).contains(w)) {
        Some(index) => Err(FormatError::OutsideUnit { index, value: w[index] }),
        None => Ok(w.iter().map(|w| encode_one(bits, *w)).collect()),
    }
}

/// `log2(k) / width`, computed in `f64` and rounded once; 0 where `k` is 0.
pub(crate) fn magnitude(k: u16, width: u32) -> f32 {
    if k < 2 { 0.0 } else { (f64::from(k).log2() / f64::from(width)) as f32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Code;

    fn bits(bits: u8) -> Bits {
        Bits::new(bits).unwrap()
    }

    fn decode(width: u8, code: u16) -> f32 {
        Code::published_log(bits(width)).unwrap().level(code)
    }

    #[test]
    fn codes_by_hand() {
        // B = 7: 2^(7 * 0.5) = 11.31, 2^(7 * 0.9) = 78.79, and 1 is clipped from 128 to 127.
        for (w, code) in [(0.0, 1), (-0.0, 1), (0.5, 11), (-0.5, 128 | 11), (0.9, 79), (1.0, 127), (-1.0, 128 | 127)] {
            assert_eq!(encode_one(bits(8), w), code, "{w}");
        }
        assert_eq!([0.3, -0.3, f32::NAN].map(|w| encode_one(bits(2), w)), [1, 3, 1]);
        assert_eq!(encode_one(bits(16), 1e30), 32767);
        // What the decoder calls zero may still carry a sign.
        assert_eq!((encode_one(bits(8), -0.05), decode(8, 129)), (129, 0.0));
    }

    #[test]
    fn weights_beyond_one_are_refused_without_a_scale() {
        assert_eq!(encode(bits(4), &[1.0, -1.0, 0.0]), Ok(vec![7, 15, 1]));
        let error = encode(bits(4), &[0.5, -1.5]).unwrap_err();
        assert_eq!(error, FormatError::OutsideUnit { index: 1, value: -1.5 });
        assert!(error.to_string().starts_with("weights[1]: -1.5 is outside [-1, 1]"), "{error}");
        assert!(encode(bits(4), &[f32::NAN]).is_err());
    }

    /// Theory note, section 3, test 2: zero below `log2(1.5) / B`.
    #[test]
    fn the_zero_threshold() {
        let threshold = 1.5_f64.log2() / 7.0;
        assert!((threshold - 0.08357).abs() < 5e-6);
        let (below, above) = ((threshold - 1e-6) as f32, (threshold + 1e-6) as f32);
        assert_eq!((decode(8, encode_one(bits(8), below)), decode(8, encode_one(bits(8), -below))), (0.0, 0.0));
        assert!(decode(8, encode_one(bits(8), above)) > 0.0 && decode(8, encode_one(bits(8), -above)) < 0.0);
    }

    /// Theory note, section 3: on a uniform source the published codec measures 18.69 to 31.44 dB from 4 to 9 bits, where
    /// `1 / (24 (B ln 2)^3)` predicts 18.6 to 31.3.
    #[test]
    fn signal_to_noise_on_a_uniform_source() {
        for (width, measured) in (4..=9).zip([18.69, 22.4, 25.3, 27.7, 29.7, 31.44]) {
            let n = 1 << 16;
            let (mut signal, mut noise) = (0.0, 0.0);
            for i in 0..n {
                let w = ((2 * i + 1) as f64 / f64::from(n) - 1.0) as f32;
                signal += f64::from(w).powi(2);
                noise += f64::from(w - decode(width, encode_one(bits(width), w))).powi(2);
            }
            let snr = 10.0 * (signal / noise).log10();
            assert!((snr - measured).abs() < 0.1, "{width} bits: {snr:.3} dB");
            let predicted = (f64::from(width - 1) * std::f64::consts::LN_2).powi(3) * 24.0 / 3.0;
            assert!((snr - 10.0 * predicted.log10()).abs() < 0.2, "{width} bits: {snr:.3} dB");
        }
    }

    proptest! {
        #[test]
        fn every_level_comes_back_and_signs_are_one_bit(width in 2_u8..=16, code: u16) {
            let magnitude = code & ((1 << (width - 1)) - 1);
            prop_assume!(magnitude > 0);
            let level = decode(width, magnitude);
            prop_assert_eq!(encode_one(bits(width), level), magnitude);
            if magnitude > 1 {
                prop_assert_eq!(encode_one(bits(width), -level), 1 << (width - 1) | magnitude);
            }
        }

        #[test]
        fn odd_and_rising(width in 2_u8..=16, a in 0.0_f32..=1.0, b in 0.0_f32..=1.0) {
            let value = |w| decode(width, encode_one(bits(width), w));
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(value(low) <= value(high));
            prop_assert_eq!(value(-a), if value(a) == 0.0 { 0.0 } else { -value(a) });
        }
    }
}
