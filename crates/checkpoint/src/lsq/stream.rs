//! Codes of 1 to 16 bits as one string of bits, most significant bit first.
//!
//! ```text
//! 5 bits:   byte 0                      byte 1                      byte 2
//!           bit 7                bit 0  bit 7                bit 0
//!           | c0 (5 bits) | c1 high 3 | c1 low 2 | c2 (5) | c3 high 1 | ...
//! ```
//!
//! Rows follow each other without padding, so that `n` codes take `ceil(n * bits / 8)` bytes in all. The bits after the
//! last code are zero. Of a trellis code the codes are the own bits of its weights, and a row is one of its strings.

use std::iter::repeat_n;

use quench_format::bits::{pack_row, unpack_row, words_per_row};
use quench_format::trellis::Strings;

use crate::source::words;

/// Codes in rows of which each begins with a word in the native dialect: some of one length, then some of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    /// How many rows, and of how many codes.
    runs: [[usize; 2]; 2],
    bits: u32,
}

impl Rows {
    /// The rows of a matrix.
    pub fn new([rows, columns]: [usize; 2], bits: u32) -> Self {
        Self { runs: [[rows, columns], [0, 0]], bits }
    }

    /// The strings of a trellis code: those of whole bands, and those of the last one.
    pub fn strings(strings: &Strings, columns: usize) -> Self {
        let last = strings.bands() - 1;
        let whole = [last.saturating_mul(columns), strings.rows(0).len()];
        Self { runs: [whole, [columns, strings.rows(last).len()]], bits: strings.trellis().bits() }
    }

    /// The codes of each row.
    fn lengths(self) -> impl Iterator<Item = usize> {
        self.runs.into_iter().flat_map(|[rows, columns]| repeat_n(columns, rows))
    }

    /// Room for the codes of any row.
    fn longest(self) -> Vec<u16> {
        let [[_, one], [_, other]] = self.runs;
        vec![0; one.max(other)]
    }

    /// Bytes of all codes as one string; `None` where they are more than a `u64` counts.
    pub fn byte_len(self) -> Option<u64> {
        let codes = |[rows, columns]: [usize; 2]| (rows as u64).checked_mul(columns as u64);
        let [one, other] = self.runs;
        let codes = codes(one)?.checked_add(codes(other)?)?;
        Some(codes.checked_mul(u64::from(self.bits))?.div_ceil(8))
    }
}

/// The string of the codes in `native`, which are words of [`quench_format::bits`], as little-endian bytes.
pub fn from_words(native: &[u8], rows: Rows) -> Vec<u8> {
    let bits = rows.bits;
    let all: Vec<u32> = words(native, u32::from_le_bytes).collect();
    let mut rest = &all[..];
    let mut stream = Vec::with_capacity(native.len());
    let mut codes = rows.longest();
    let (mut pending, mut filled) = (0_u32, 0);
    for length in rows.lengths() {
        let (row, after) = rest.split_at(words_per_row(length, bits));
        rest = after;
        unpack_row(row, bits, &mut codes[..length]);
        for &code in &codes[..length] {
            // At most 7 bits are left over, so 23 are pending here at the most.
            pending = pending << bits | u32::from(code);
            filled += bits;
            while filled >= 8 {
                filled -= 8;
                stream.push((pending >> filled) as u8);
            }
            pending &= (1 << filled) - 1;
        }
    }
    if filled > 0 {
        stream.push((pending << (8 - filled)) as u8);
    }
    stream
}

/// The reverse of [`from_words`]; `None` where the bits after the last code are not all zero.
///
/// `stream` has the length that [`Rows::byte_len`] gives.
pub fn to_words(stream: &[u8], rows: Rows) -> Option<Vec<u8>> {
    let bits = rows.bits;
    let mut native = Vec::with_capacity(stream.len());
    let mut codes = rows.longest();
    let mut row = vec![0; words_per_row(codes.len(), bits)];
    let mut bytes = stream.iter();
    let (mut pending, mut filled) = (0_u32, 0);
    for length in rows.lengths() {
        let (codes, row) = (&mut codes[..length], &mut row[..words_per_row(length, bits)]);
        for code in &mut *codes {
            while filled < bits {
                pending = pending << 8 | u32::from(*bytes.next()?);
                filled += 8;
            }
            filled -= bits;
            *code = (pending >> filled) as u16;
            pending &= (1 << filled) - 1;
        }
        pack_row(codes, bits, row);
        native.extend(row.iter().flat_map(|word| word.to_le_bytes()));
    }
    (pending == 0 && bytes.next().is_none()).then_some(native)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quench_format::bits;

    use super::*;

    fn from_words(native: &[u8], columns: usize, bits: u32) -> Vec<u8> {
        let rows = native.len() / (4 * bits::words_per_row(columns, bits));
        super::from_words(native, Rows::new([rows, columns], bits))
    }

    fn to_words(stream: &[u8], rows: usize, columns: usize, bits: u32) -> Option<Vec<u8>> {
        super::to_words(stream, Rows::new([rows, columns], bits))
    }

    fn native(codes: &[u16], columns: usize, width: u32) -> Vec<u8> {
        bits::pack(codes, columns, width).into_iter().flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn the_first_code_is_at_the_top_of_the_first_byte() {
        let stream = from_words(&native(&[0b10000, 0b00111, 0b01010], 3, 5), 3, 5);
        assert_eq!(stream, [0b1000_0001, 0b1101_0100]);
        // Rows are not padded: two rows of one code are the same as one row of two.
        assert_eq!(from_words(&native(&[0xabc, 0xdef], 1, 12), 1, 12), [0xab, 0xcd, 0xef]);
    }

    #[test]
    fn a_thousand_codes_of_five_bits_take_625_bytes() {
        let codes: Vec<u16> = (0..1000).map(|i| i * 7 % 32).collect();
        assert_eq!(from_words(&native(&codes, 1000, 5), 1000, 5).len(), 625);
        assert_eq!(Rows::new([10, 100], 5).byte_len(), Some(625));
        assert_eq!(Rows::new([usize::MAX, 2], 1).byte_len(), None);
    }

    #[test]
    fn every_width_at_every_length_comes_back() {
        for width in 1..=16_u32 {
            for length in 1..=40_usize {
                let codes: Vec<u16> =
                    (0..length).map(|i| ((i * 40503 + 12345) as u32 & ((1 << width) - 1)) as u16).collect();
                let words = native(&codes, length, width);
                let stream = from_words(&words, length, width);
                assert_eq!(stream.len(), (length * width as usize).div_ceil(8), "{length} codes of {width} bits");
                assert_eq!(to_words(&stream, 1, length, width), Some(words), "{length} codes of {width} bits");
            }
        }
    }

    #[test]
    fn bits_after_the_last_code_must_be_zero() {
        let stream = from_words(&native(&[1, 2, 3], 3, 5), 3, 5);
        let mut wrong = stream.clone();
        *wrong.last_mut().unwrap() |= 1;
        assert!(to_words(&stream, 1, 3, 5).is_some() && to_words(&wrong, 1, 3, 5).is_none());
        assert_eq!(to_words(&stream[..1], 1, 3, 5), None);
    }

    #[test]
    fn strings_of_two_lengths_are_one_string() {
        // Two columns of 600 rows: strings of 256 and of 344 weights, 3 bits each.
        let strings = Strings::new("trellis3:8".parse().unwrap(), [600, 2]);
        let rows = Rows::strings(&strings, 2);
        assert_eq!(rows.runs, [[2, 256], [2, 344]]);
        assert_eq!(rows.byte_len(), Some(3 * 1200 / 8));
        let codes: Vec<u16> = (0..1200).map(|i| i * 5 % 8).collect();
        let native = [native(&codes[..512], 256, 3), native(&codes[512..], 344, 3)].concat();
        let stream = super::from_words(&native, rows);
        // As if they were one row.
        assert_eq!(stream, from_words(&self::native(&codes, 1200, 3), 1200, 3));
        assert_eq!(super::to_words(&stream, rows), Some(native));
    }

    proptest! {
        #[test]
        fn the_string_is_the_bits_in_order(width in 1_u32..=16, rows in 1_usize..6, columns in 1_usize..30, seed: u32) {
            let codes: Vec<u16> = (0..(rows * columns) as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7 & ((1 << width) - 1)) as u16)
                .collect();
            // The definition, bit by bit.
            let mut naive = vec![0_u8; (codes.len() * width as usize).div_ceil(8)];
            for (i, &code) in codes.iter().enumerate() {
                for b in 0..width as usize {
                    let at = i * width as usize + b;
                    naive[at / 8] |= ((code >> (width as usize - 1 - b) & 1) as u8) << (7 - at % 8);
                }
            }
            let words = native(&codes, columns, width);
            prop_assert_eq!(from_words(&words, columns, width), naive.clone());
            prop_assert_eq!(to_words(&naive, rows, columns, width), Some(words));
        }
    }
}
