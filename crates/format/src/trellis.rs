//! Trellis codes: a weight reads a window of a cyclic bit string, so that neighbours share bits and no table is kept.
//!
//! `T` weights of `K` bits each are a cyclic string of `K*T` bits. Weight `t` stands for the `L` bits that start at its own:
//!
//! ```text
//! window[t] = bits K*t .. K*t + L of the string, the first bit least significant; after bit K*T - 1 comes bit 0
//! w[t]      = scale * level(window[t])
//!
//! K = 2, L = 6, T = 5      bit   0 1   2 3   4 5   6 7   8 9
//!                   window[0]    ***   ***   ***
//!                   window[1]          ***   ***   ***
//!                   window[2]                ***   ***   ***
//!                   window[3]    ***               ***   ***
//!                   window[4]    ***   ***               ***
//! ```
//!
//! A weight so spends `K` bits and chooses among `2^L` levels. Neighbours overlap in `L - K` bits, and the best string is a
//! shortest path ([`Encoder`]). Because the string is cyclic (*tail-biting*), no bits are spent on a start.
//!
//! [`level`] is a hash whose values are close to those of a standard normal, so weights should be, too: rotated before they
//! are coded, and divided by their standard deviation.
//!
//! ```
//! use quench_format::trellis::{Sequence, Trellis};
//!
//! let trellis: Trellis = "trellis2:12".parse()?;
//! let x: Vec<f32> = (0..256).map(|t| (t as f32).sin()).collect(); // standard deviation 0.707
//! let scale = 0.707 * trellis.gain();
//!
//! let mut words = vec![0; trellis.words(x.len())];
//! let error = trellis.encoder(x.len()).encode(Sequence { x: &x, h: None, scales: &[scale; 256] }, &mut words);
//! assert_eq!(words.len(), 16); // 512 bits
//! assert!(error / 256.0 < 0.08 * 0.5);
//!
//! let mut levels = vec![0.0; x.len()];
//! trellis.decode(&words, &mut levels);
//! let squares: f32 = x.iter().zip(&levels).map(|(x, level)| (x - scale * level).powi(2)).sum();
//! assert!((f64::from(squares) - error).abs() < 1e-3);
//! # Ok::<(), quench_format::FormatError>(())
//! ```
//!
//! Source: Marcellin and Fischer 1990, "Trellis Coded Quantization"; Tseng et al. 2024, "QTIP" (`docs/references.md#qtip`), whose
//! string this is, read from the other end.

mod encoder;
mod isa;
mod strings;
mod viterbi;

use crate::bits;

pub use encoder::{Encoder, Sequence};
pub use strings::Strings;

/// Weights of a sequence where the matrix has as many rows; one takes 256 to 511 where they do not divide its rows.
pub const TILE: usize = 256;

const WORD: usize = u32::BITS as usize;

/// What multiplies a window in [`level`]: of 3300 odd numbers, and then the 36 of them that were best at `L` = 9 and 12, the one
/// with the least error in the mean over `K` = 1, 2, 3 and `L` = 8, 10, .. 16. In the first round the median lost 0.2 dB, the worst 5.7.
const MULTIPLIER: u32 = 0x8290_8d99;

/// A trellis code: `K` bits for each weight, windows of `L` bits. Spelled `trellis2:12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trellis {
    bits: u8,
    state: u8,
}

impl Trellis {
    /// The code of `bits` a weight and `state` a window, where they are 1 to 4 and 8 to 16.
    pub const fn new(bits: u32, state: u32) -> Option<Self> {
        if matches!(bits, 1..=4) && matches!(state, 8..=16) {
            Some(Self { bits: bits as u8, state: state as u8 })
        } else {
            None
        }
    }

    /// Bits of one weight, `K`, 1 to 4.
    pub const fn bits(self) -> u32 {
        self.bits as u32
    }

    /// Bits of one window, `L`, 8 to 16.
    pub const fn state(self) -> u32 {
        self.state as u32
    }

    /// The scale for weights of standard deviation 1: 0.89, 1.02, 1.08, 1.10 for 1 to 4 bits.
    ///
    /// From `L` = 12 the error is within 1 % of that of the best scale, from 8 within 5 % (the test `the_gains`).
    pub const fn gain(self) -> f32 {
        match self.bits {
            1 => 0.89,
            2 => 1.02,
            3 => 1.08,
            _ => 1.10,
        }
    }

    /// Words that a sequence of `length` weights takes: `ceil(K * length / 32)`; bits left over in the last are zero.
    ///
    /// Bit `i` of the string is bit `i % 32` of word `i / 32`: a row of `K`-bit codes, packed as in [`bits`].
    pub fn words(self, length: usize) -> usize {
        bits::words_per_row(length, self.bits())
    }

    /// The window of weight `t` of a sequence of `length`, by the definition, bit by bit.
    ///
    /// - `words`: `[words(length)]`
    ///
    /// # Panics
    /// If a length is wrong, the string is shorter than a window, or `t` is not below `length`.
    pub fn window(self, words: &[u32], length: usize, t: usize) -> u32 {
        self.assert_string(words, length);
        assert!(t < length, "weight {t} of a sequence of {length}");
        let (bits, string) = (self.bits as usize, self.bits as usize * length);
        (0..usize::from(self.state)).fold(0, |window, i| {
            let at = (bits * t + i) % string;
            window | (words[at / WORD] >> (at % WORD) & 1) << i
        })
    }

    /// The levels of a sequence: `levels[t] = level(window[t])`, `[length]`, overwritten.
    ///
    /// - `words`: `[words(length)]`
    ///
    /// # Panics
    /// If the number of words is wrong, or the string is shorter than a window.
    pub fn decode(self, words: &[u32], levels: &mut [f32]) {
        self.unpack(words, levels, level);
    }

    /// The windows of a sequence, `[length]`, overwritten.
    ///
    /// - `words`: `[words(length)]`
    ///
    /// # Panics
    /// If the number of words is wrong, or the string is shorter than a window.
    pub fn windows(self, words: &[u32], windows: &mut [u16]) {
        self.unpack(words, windows, |window| window as u16);
    }

    /// `values[t] = of(window[t])`.
    fn unpack<T>(self, words: &[u32], values: &mut [T], of: impl Fn(u32) -> T) {
        let length = values.len();
        self.assert_string(words, length);
        // Blocks of 32 weights begin with a word; those whose windows end within the next word, which is word 0 after the last.
        let beyond = (self.state() - self.bits()).div_ceil(self.bits()) as usize;
        let whole = if length.is_multiple_of(WORD) { length } else { (length - beyond) / WORD * WORD };
        let (blocks, rest) = values.split_at_mut(whole);
        match self.bits {
            1 => self.unpack_blocks::<1, T>(words, blocks, &of),
            2 => self.unpack_blocks::<2, T>(words, blocks, &of),
            3 => self.unpack_blocks::<3, T>(words, blocks, &of),
            _ => self.unpack_blocks::<4, T>(words, blocks, &of),
        }
        for (t, value) in rest.iter_mut().enumerate() {
            *value = of(self.window(words, length, whole + t));
        }
    }

    fn unpack_blocks<const K: usize, T>(self, words: &[u32], values: &mut [T], of: impl Fn(u32) -> T) {
        let mask = (1 << self.state) - 1;
        let next = words.iter().skip(K).step_by(K).chain(&words[..1]);
        for ((values, words), next) in
            values.as_chunks_mut::<WORD>().0.iter_mut().zip(words.as_chunks::<K>().0).zip(next)
        {
            let windows: [u32; WORD] = std::array::from_fn(|t| {
                let (at, shift) = (K * t / WORD, K * t % WORD);
                let high = if at + 1 < K { words[at + 1] } else { *next };
                ((u64::from(high) << WORD | u64::from(words[at])) >> shift) as u32 & mask
            });
            for (value, window) in values.iter_mut().zip(windows) {
                *value = of(window);
            }
        }
    }

    /// An encoder for sequences of up to `longest` weights.
    ///
    /// # Panics
    /// If the string of so many is shorter than a window.
    pub fn encoder(self, longest: usize) -> Encoder {
        Encoder::new(self, longest)
    }

    fn assert_string(self, words: &[u32], length: usize) {
        let bits = self.bits as usize * length;
        assert!(bits >= usize::from(self.state), "{length} weights of {self} are {bits} bits, fewer than a window");
        let expected = self.words(length);
        assert!(words.len() == expected, "{length} weights of {self} take {expected} words, not {}", words.len());
    }
}

/// The number a window stands for, roughly a draw from the standard normal; `window` is below `2^16`.
///
/// ```text
/// h        = window * 0x82908d99 mod 2^32
/// level    = (h0 + h1 + h2 + h3 - 510) * 887 / 2^17        h0 .. h3 the bytes of h
/// ```
///
/// An integer from -510 to 510 times a constant of 10 bits: exact in `f32`, and the same on every machine. Four uniform bytes have
/// mean 510 and standard deviation 147.80 = 2^17 / 886.8.
///
/// Source: Tseng et al. 2024, "QTIP", algorithm 1 ("1MAD"), without its sum and with another multiplier.
#[inline]
pub const fn level(window: u32) -> f32 {
    let hash = window.wrapping_mul(MULTIPLIER);
    // Two sums of two bytes, then one of both.
    let pairs = (hash & 0x00ff_00ff) + (hash >> 8 & 0x00ff_00ff);
    let sum = (pairs & 0xffff) + (pairs >> 16);
    (sum as i32 - 510) as f32 * (887.0 / 131_072.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn widths_have_limits() {
        assert_eq!(Trellis::new(2, 12).map(|t| (t.bits(), t.state())), Some((2, 12)));
        for (bits, state) in [(0, 12), (5, 12), (258, 12), (2, 7), (2, 17), (2, 264)] {
            assert_eq!(Trellis::new(bits, state), None, "{bits} {state}");
        }
    }

    #[test]
    fn levels_by_hand() {
        let unit = 887.0 / 131_072.0;
        assert_eq!(level(0), -510.0 * unit);
        // 0x82 + 0x90 + 0x8d + 0x99 = 568, and three times the multiplier is 0x187b1a8cb.
        assert_eq!(level(1), 58.0 * unit);
        assert_eq!(level(3), f32::from(0x87_u16 + 0xb1 + 0xa8 + 0xcb - 510) * unit);
        // 2^15 times the multiplier keeps its lowest 17 bits, 0x08d99, at the top: 0x46cc8000.
        assert_eq!(level(1 << 15), (f32::from(0x46_u16 + 0xcc + 0x80) - 510.0) * unit);
    }

    #[test]
    fn levels_are_exact_and_nearly_normal() {
        for state in [12, 16] {
            let levels: Vec<f64> = (0..1_u32 << state).map(|w| f64::from(level(w))).collect();
            let steps = levels.iter().map(|x| x * 131_072.0 / 887.0);
            assert!(steps.clone().all(|step| step.fract() == 0.0 && step.abs() <= 510.0));
            let moment = |n: i32| levels.iter().map(|x| x.powi(n)).sum::<f64>() / levels.len() as f64;
            // Of a normal: 0, 1, 0, 3. Four uniform numbers have 2.7.
            assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
            assert!(moment(3).abs() < 0.1 && (moment(4) - 2.7).abs() < 0.1, "{} {}", moment(3), moment(4));
        }
    }

    #[test]
    fn windows_by_hand() {
        // 12 weights of 3 bits are 36 bits in two words; weight 11 has bits 33 to 35, then 0 to 4.
        let (trellis, words) = (Trellis::new(3, 8).unwrap(), [0x8000_00ad, 0b1010]);
        assert_eq!(trellis.words(12), 2);
        assert_eq!(trellis.window(&words, 12, 0), 0xad);
        assert_eq!(trellis.window(&words, 12, 1), 0xad >> 3);
        // From the low end: bits 30 and 31, four of word 1, bits 0 and 1.
        assert_eq!(trellis.window(&words, 12, 10), 0b0110_1010);
        assert_eq!(trellis.window(&words, 12, 11), 0b0110_1101);
    }

    /// The example of `docs/format.md`.
    #[test]
    fn the_string_of_the_page() {
        let (trellis, words, mut levels) = (Trellis::new(2, 8).unwrap(), [0x0000_0001, 0x8000_0000], [0.0; 32]);
        trellis.decode(&words, &mut levels);
        for (t, x) in levels.into_iter().enumerate() {
            let window = match t {
                0 => 0x01,
                28 => 0x80,
                29 => 0x60,
                30 => 0x18,
                31 => 0x06,
                _ => 0,
            };
            assert_eq!((x, trellis.window(&words, 32, t)), (level(window), window), "{t}");
        }
    }

    #[test]
    #[should_panic(expected = "256 weights of trellis2:12 take 16 words, not 15")]
    fn a_missing_word_is_a_panic() {
        Trellis::new(2, 12).unwrap().decode(&[0; 15], &mut [0.0; 256]);
    }

    #[test]
    #[should_panic(expected = "5 weights of trellis2:12 are 10 bits, fewer than a window")]
    fn a_string_shorter_than_a_window_is_a_panic() {
        Trellis::new(2, 12).unwrap().decode(&[0], &mut [0.0; 5]);
    }

    proptest! {
        #[test]
        fn decoding_is_the_definition(bits in 1_u32..=4, state in 8_u32..=16, length in 16_usize..300, seed: u32) {
            let trellis = Trellis::new(bits, state).unwrap();
            let codes: Vec<u16> = (0..length as u32)
                .map(|t| (t.wrapping_mul(0x9e37_79b1) ^ seed).wrapping_mul(0x85eb_ca77) as u16 >> (16 - bits))
                .collect();
            let words = bits::pack(&codes, length, bits);
            let mut levels = vec![0.0; length];
            trellis.decode(&words, &mut levels);
            for (t, found) in levels.into_iter().enumerate() {
                // The window in terms of the codes: its own first, then those of the weights after it, around the end.
                let codes = (0..state.div_ceil(bits)).map(|i| u32::from(codes[(t + i as usize) % length]) << (bits * i));
                let window = codes.sum::<u32>() & ((1 << state) - 1);
                prop_assert_eq!(trellis.window(&words, length, t), window);
                prop_assert_eq!(found, level(window));
            }
        }
    }
}
