//! Trellis codes: a weight reads a window of a cyclic bit string, so that neighbours share bits and no table is kept.
//!
//! `T` weights of `K` bits each are a cyclic string of `K*T` bits. Weight `t` stands for the `L` bits that start at its own:
//!
//! ```text
//! window[t] = bits K*t .. K*t + L of the string, the first bit least significant, bit K*T being bit 0 again
//! level[t]  = level(window[t])                                w[t] = scale * level[t]
//!
//! K = 2, L = 6, T = 5      bit   0 1 | 2 3 | 4 5 | 6 7 | 8 9
//!                       window[0] ===============
//!                             window[1] ===============
//!                                   window[2] ===============
//!              === bits 0 1 ==            window[3] =========
//! ```
//!
//! The code of a weight so spends `K` bits and chooses among `2^L` levels; neighbours overlap in `L - K` bits, and the best string is
//! a shortest path ([`Encoder`]). Because the string is cyclic (*tail-biting*), no bits are spent on a start.
//!
//! [`level`] is a hash whose values are close to those of a standard normal, so weights should be, too: rotated before they
//! are coded, and divided by their standard deviation.
//!
//! Source: Marcellin and Fischer 1990, "Trellis Coded Quantization"; Tseng et al. 2024, "QTIP" (`docs/references.md#qtip`), whose
//! string this is, read from the other end.

mod encoder;

use crate::bits;

pub use encoder::{Encoder, Sequence};

const WORD: usize = u32::BITS as usize;

/// What multiplies a window in [`level`]: of the multipliers tried the one with the least error from `L` = 8 to 16.
const MULTIPLIER: u32 = 0x83DC_D12D;

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
        let length = levels.len();
        self.assert_string(words, length);
        let (bits, state) = (usize::from(self.bits), usize::from(self.state));
        let mask = (1 << state) - 1;
        // Windows that end before the string does, a multiple of 32 of them; then the K words of 32 weights begin a word.
        let whole = length.saturating_sub(state.div_ceil(bits)) / WORD * WORD;
        let (within, around) = levels.split_at_mut(whole);
        for (block, levels) in within.as_chunks_mut::<WORD>().0.iter_mut().enumerate() {
            let words = &words[block * bits..][..bits + 1];
            for (t, x) in levels.iter_mut().enumerate() {
                let (at, shift) = (bits * t / WORD, bits * t % WORD);
                let pair = u64::from(words[at]) | u64::from(words[at + 1]) << WORD;
                *x = level((pair >> shift) as u32 & mask);
            }
        }
        for (t, x) in around.iter_mut().enumerate() {
            *x = level(self.window(words, length, whole + t));
        }
    }

    /// An encoder for sequences of `length` weights.
    ///
    /// # Panics
    /// If the string is shorter than a window.
    pub fn encoder(self, length: usize) -> Encoder {
        Encoder::new(self, length)
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
/// h        = window * 0x83dcd12d mod 2^32
/// level    = (h0 + h1 + h2 + h3 - 510) * 887 / 2^17        h0 .. h3 the bytes of h
/// ```
///
/// An integer from -510 to 510 times a constant of 10 bits: exact in `f32`, and the same on every machine. Four uniform bytes have
/// mean 510 and standard deviation 147.80 = 2^17 / 886.8.
///
/// Source: Tseng et al. 2024, "QTIP", algorithm 1 ("1MAD"); multiplier and divisor are those of EXL3's `mul1`.
#[inline]
pub const fn level(window: u32) -> f32 {
    let hash = window.wrapping_mul(MULTIPLIER);
    // Two sums of two bytes, then one of both.
    let pairs = (hash & 0x00ff_00ff) + (hash >> 8 & 0x00ff_00ff);
    let sum = (pairs & 0xffff) + (pairs >> 16);
    (sum as i32 - 510) as f32 * (887.0 / 131_072.0)
}
