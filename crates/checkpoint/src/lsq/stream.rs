//! Codes of 1 to 16 bits as one string of bits, most significant bit first.
//!
//! ```text
//! 5 bits:   byte 0                      byte 1                      byte 2
//!           bit 7                bit 0  bit 7                bit 0
//!           | c0 (5 bits) | c1 high 3 | c1 low 2 | c2 (5) | c3 high 1 | ...
//! ```
//!
//! Rows follow each other without padding, so that `n` codes take `ceil(n * bits / 8)` bytes in all. The bits after the
//! last code are zero.

use quench_format::bits::{pack_row, unpack_row, words_per_row};

use crate::source::words;

/// Bytes of `rows * columns` codes; `None` where they are more than a `u64` counts.
pub fn byte_len(rows: usize, columns: usize, bits: u32) -> Option<u64> {
    let codes = (rows as u64).checked_mul(columns as u64)?;
    Some(codes.checked_mul(u64::from(bits))?.div_ceil(8))
}

/// The string of the codes in `native`, which are words of [`quench_format::bits`], as little-endian bytes.
pub fn from_words(native: &[u8], columns: usize, bits: u32) -> Vec<u8> {
    let per_row = words_per_row(columns, bits);
    let all: Vec<u32> = words(native, u32::from_le_bytes).collect();
    let mut stream = Vec::with_capacity(native.len());
    let mut codes = vec![0; columns];
    let (mut pending, mut filled) = (0_u32, 0);
    for row in all.chunks_exact(per_row) {
        unpack_row(row, bits, &mut codes);
        for &code in &codes {
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
/// `stream` has the length that [`byte_len`] gives.
pub fn to_words(stream: &[u8], rows: usize, columns: usize, bits: u32) -> Option<Vec<u8>> {
    let mut native = Vec::with_capacity(rows * words_per_row(columns, bits) * size_of::<u32>());
    let (mut codes, mut row) = (vec![0; columns], vec![0; words_per_row(columns, bits)]);
    let mut bytes = stream.iter();
    let (mut pending, mut filled) = (0_u32, 0);
    for _ in 0..rows {
        for code in &mut codes {
            while filled < bits {
                pending = pending << 8 | u32::from(*bytes.next()?);
                filled += 8;
            }
            filled -= bits;
            *code = (pending >> filled) as u16;
            pending &= (1 << filled) - 1;
        }
        pack_row(&codes, bits, &mut row);
        native.extend(row.iter().flat_map(|word| word.to_le_bytes()));
    }
    (pending == 0 && bytes.next().is_none()).then_some(native)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quench_format::bits;

    use super::*;

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
        assert_eq!(byte_len(10, 100, 5), Some(625));
        assert_eq!(byte_len(usize::MAX, 2, 1), None);
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
