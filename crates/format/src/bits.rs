//! Tight packing of codes of 1 to 16 bits into `u32` words, one row at a time.
//!
//! Code `j` of a row fills bits `j*b .. (j+1)*b` of the row, counted from the least significant bit of its first word;
//! a code may straddle two words. Every row starts on a new word, and the bits left over in its last word are zero.
//!
//! ```text
//! b = 5      word 0                                   word 1
//!   bit  31 30 | 29 ... 25 | ... | 9 ... 5 | 4 ... 0    ... | 2 1 0
//!        low 2 |  code 5   | ... | code 1  | code 0         | high 3
//!        of code 6                                          of code 6
//! ```
//!
//! This is the order CubeK's quantized product reads for 2, 4 and 8 bits, so the common case needs no repack.
//! (The `.lsq` dialect packs most significant bit first; it converts when it reads.)

const WORD: u32 = u32::BITS;

/// Words that one row of `columns` codes takes: `ceil(columns * bits / 32)`.
///
/// Panics where `bits` is not in `1..=16`.
pub fn words_per_row(columns: usize, bits: u32) -> usize {
    assert_width(bits);
    let (word, bits) = (WORD as usize, bits as usize);
    // Split so that no product exceeds `columns`, which a wasm usize might not hold.
    columns / word * bits + (columns % word * bits).div_ceil(word)
}

/// Packs one row.
///
/// - `codes`: `[columns]`, each below `2^bits`
/// - `words`: `[words_per_row(columns, bits)]`, overwritten
///
/// Panics where a length, the width or a code is wrong.
pub fn pack_row(codes: &[u16], bits: u32, words: &mut [u32]) {
    assert_row(words.len(), codes.len(), bits);
    let (mut pending, mut filled, mut at, mut seen) = (0_u64, 0, 0, 0_u16);
    for &code in codes {
        seen |= code;
        pending |= u64::from(code) << filled;
        filled += bits;
        if filled >= WORD {
            words[at] = pending as u32;
            at += 1;
            pending >>= WORD;
            filled -= WORD;
        }
    }
    if filled > 0 {
        words[at] = pending as u32;
    }
    // One test for the row instead of one for each code: an excess bit in any of them shows in `seen`.
    assert!(u32::from(seen) >> bits == 0, "a code does not fit in {bits} bits");
}

/// Unpacks one row, the reverse of [`pack_row`].
///
/// - `words`: `[words_per_row(columns, bits)]`
/// - `codes`: `[columns]`, overwritten
///
/// Panics where a length or the width is wrong.
pub fn unpack_row(words: &[u32], bits: u32, codes: &mut [u16]) {
    assert_row(words.len(), codes.len(), bits);
    match bits {
        1 => unpack_aligned::<1>(words, codes),
        2 => unpack_aligned::<2>(words, codes),
        4 => unpack_aligned::<4>(words, codes),
        8 => unpack_aligned::<8>(words, codes),
        16 => unpack_aligned::<16>(words, codes),
        _ => unpack_straddling(words, bits, codes),
    }
}

/// Packs `[rows, columns]` codes into `[rows, words_per_row]` words.
///
/// Panics where the codes are not whole rows, or a code or the width is wrong.
pub fn pack(codes: &[u16], columns: usize, bits: u32) -> Vec<u32> {
    let per_row = words_per_row(columns, bits);
    let rows = rows(codes.len(), columns);
    let mut words = vec![0; rows * per_row];
    if columns > 0 {
        for (codes, words) in codes.chunks_exact(columns).zip(words.chunks_exact_mut(per_row)) {
            pack_row(codes, bits, words);
        }
    }
    words
}

/// Unpacks `[rows, words_per_row]` words into `[rows, columns]` codes, the reverse of [`pack`].
///
/// Panics where the words are not whole rows, or the width is wrong.
pub fn unpack(words: &[u32], columns: usize, bits: u32) -> Vec<u16> {
    let per_row = words_per_row(columns, bits);
    let rows = rows(words.len(), per_row);
    let mut codes = vec![0; rows * columns];
    if columns > 0 {
        for (words, codes) in words.chunks_exact(per_row).zip(codes.chunks_exact_mut(columns)) {
            unpack_row(words, bits, codes);
        }
    }
    codes
}

/// The code at `index` of one packed row.
///
/// Panics where the row is too short or the width is wrong.
pub fn get(words: &[u32], bits: u32, index: usize) -> u16 {
    assert_width(bits);
    let bit = index * bits as usize;
    let (at, shift) = (bit / WORD as usize, (bit % WORD as usize) as u32);
    let mut value = u64::from(words[at]);
    if shift + bits > WORD {
        value |= u64::from(words[at + 1]) << WORD;
    }
    (value >> shift) as u16 & mask(bits)
}

/// True where the bits of a row's last word that belong to no code are zero.
pub(crate) fn padding_is_zero(words: &[u32], columns: usize, bits: u32) -> bool {
    let used = (columns % WORD as usize) as u32 * bits % WORD;
    used == 0 || words.last().is_none_or(|last| last >> used == 0)
}

/// Widths that divide a word: no code straddles, and the compiler unrolls the inner loop.
fn unpack_aligned<const BITS: u32>(words: &[u32], codes: &mut [u16]) {
    let per_word = (WORD / BITS) as usize;
    for (&word, codes) in words.iter().zip(codes.chunks_mut(per_word)) {
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (i as u32 * BITS)) as u16 & mask(BITS);
        }
    }
}

fn unpack_straddling(words: &[u32], bits: u32, codes: &mut [u16]) {
    let (mut pending, mut filled, mut at) = (0_u64, 0, 0);
    for code in codes {
        if filled < bits {
            pending |= u64::from(words[at]) << filled;
            at += 1;
            filled += WORD;
        }
        *code = pending as u16 & mask(bits);
        pending >>= bits;
        filled -= bits;
    }
}

const fn mask(bits: u32) -> u16 {
    ((1_u32 << bits) - 1) as u16
}

fn rows(elements: usize, per_row: usize) -> usize {
    if per_row == 0 {
        assert!(elements == 0, "{elements} elements in rows of none");
        return 0;
    }
    assert!(elements.is_multiple_of(per_row), "{elements} elements are not whole rows of {per_row}");
    elements / per_row
}

fn assert_width(bits: u32) {
    assert!((1..=16).contains(&bits), "codes have 1 to 16 bits, not {bits}");
}

fn assert_row(words: usize, codes: usize, bits: u32) {
    let expected = words_per_row(codes, bits);
    assert!(words == expected, "{codes} codes of {bits} bits take {expected} words, not {words}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codes(max: usize) -> impl Strategy<Value = (u32, Vec<u16>)> {
        (1_u32..=16).prop_flat_map(move |bits| (Just(bits), prop::collection::vec(0..=mask(bits), 0..=max)))
    }

    #[test]
    fn low_bits_come_first_and_codes_straddle_words() {
        // Seven 5-bit codes: code 6 has its low 2 bits at the top of word 0, its high 3 at the foot of word 1.
        let codes = [1, 2, 3, 4, 5, 6, 0b11101];
        let mut words = [u32::MAX; 2];
        pack_row(&codes, 5, &mut words);
        let low: u32 = 1 | 2 << 5 | 3 << 10 | 4 << 15 | 5 << 20 | 6 << 25;
        assert_eq!(words, [low | 0b01 << 30, 0b111]);
        assert_eq!(get(&words, 5, 6), 0b11101);
    }

    #[test]
    fn nibbles_read_like_hexadecimal_from_the_right() {
        assert_eq!(pack(&[0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0xf], 9, 4), [0x8765_4321, 0xf]);
    }

    #[test]
    fn sixteen_codes_of_every_width_take_half_as_many_words_as_bits() {
        for bits in 1..=16 {
            assert_eq!(words_per_row(16, bits), bits.div_ceil(2) as usize, "{bits} bits");
            assert_eq!(words_per_row(0, bits), 0);
        }
        // Theory note, section 3: 5 bits x 1000 codes are 625 bytes, which fill 157 words.
        assert_eq!(words_per_row(1000, 5), 625_usize.div_ceil(4));
    }

    #[test]
    #[should_panic(expected = "does not fit in 3 bits")]
    fn a_code_too_wide_is_a_panic() {
        pack_row(&[8], 3, &mut [0]);
    }

    proptest! {
        #[test]
        fn unpack_undoes_pack((bits, codes) in codes(200)) {
            let words = pack(&codes, codes.len(), bits);
            prop_assert_eq!(words.len(), words_per_row(codes.len(), bits));
            prop_assert!(padding_is_zero(&words, codes.len(), bits));
            prop_assert_eq!(unpack(&words, codes.len(), bits), codes.clone());
            for (i, &code) in codes.iter().enumerate() {
                prop_assert_eq!(get(&words, bits, i), code);
            }
        }

        #[test]
        fn words_are_the_bits_in_order((bits, codes) in codes(70)) {
            // The definition, bit by bit.
            let mut naive = vec![0_u32; words_per_row(codes.len(), bits)];
            for (j, &code) in codes.iter().enumerate() {
                for b in 0..bits as usize {
                    let at = j * bits as usize + b;
                    naive[at / 32] |= u32::from(code >> b & 1) << (at % 32);
                }
            }
            prop_assert_eq!(pack(&codes, codes.len(), bits), naive);
        }

        #[test]
        fn rows_are_packed_apart(bits in 1_u32..=16, columns in 1_usize..40, rows in 1_usize..5) {
            let codes: Vec<u16> = (0..rows * columns).map(|i| (i * 40503) as u16 & mask(bits)).collect();
            let words = pack(&codes, columns, bits);
            let apart: Vec<u32> = codes.chunks(columns).flat_map(|row| pack(row, columns, bits)).collect();
            prop_assert_eq!(&words, &apart);
            prop_assert_eq!(unpack(&words, columns, bits), codes);
        }

        #[test]
        fn any_bit_of_padding_is_seen(bits in 1_u32..=16, columns in 1_usize..40, bit in 0_u32..32) {
            let mut words = vec![0; words_per_row(columns, bits)];
            let used = columns * bits as usize - (words.len() - 1) * 32;
            let last = words.len() - 1;
            words[last] = 1 << bit;
            prop_assert_eq!(padding_is_zero(&words, columns, bits), (bit as usize) < used);
        }
    }
}
