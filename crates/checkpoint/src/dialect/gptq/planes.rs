//! The words of `gptq_p`: codes in planes of bits, so that none lies in two words.
//!
//! Every 32 codes of `b` bits take `b` words, plane after plane from the lowest bits. In a plane of `w` bits, word `i` holds the
//! bits of codes `32 i / w ..`, the first of them lowest.
//!
//! ```text
//! b       2    3      4    5      6      7          8
//! planes  2    2, 1   4    4, 1   4, 2   4, 2, 1    8
//! ```
//!
//! At 2, 4 and 8 bits the words are those of `gptq`. Source: the page "GPTQ planar" in the documentation of ModelCloud/GPTQModel.

/// Widths of the planes, from the lowest.
fn planes(width: u32) -> &'static [u32] {
    match width {
        3 => &[2, 1],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        2 => &[2],
        4 => &[4],
        8 => &[8],
        _ => unreachable!("{width} is no width of this dialect"),
    }
}

/// The codes in words of 2 to 8 bits, 32 for every `width` words; words after the last full block have none.
pub fn unpack(words: &[u32], width: u32) -> Vec<u16> {
    let mut codes = vec![0; words.len() / width as usize * 32];
    for (words, codes) in words.chunks_exact(width as usize).zip(codes.chunks_exact_mut(32)) {
        let (mut words, mut below) = (words.iter(), 0);
        for &plane in planes(width) {
            let fields = (32 / plane) as usize;
            for (codes, word) in codes.chunks_exact_mut(fields).zip(words.by_ref()) {
                for (field, code) in codes.iter_mut().enumerate() {
                    let bits = word >> (field as u32 * plane) & ((1 << plane) - 1);
                    *code |= (bits << below) as u16;
                }
            }
            below += plane;
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use quench_format::bits;

    use super::*;

    /// By hand: code 1 of 3 bits is 0b110, in bits 2 and 3 of word 0 and bit 1 of word 2; code 16 is 0b101, in word 1.
    #[test]
    fn bits_of_a_code_lie_in_their_planes() {
        let codes = unpack(&[0b10 << 2, 0b01, 1 << 1 | 1 << 16], 3);
        let mut expected = [0; 32];
        (expected[1], expected[16]) = (0b110, 0b101);
        assert_eq!(codes, expected);
    }

    #[test]
    fn single_planes_are_plain_words() {
        let words: Vec<u32> = (0..16_u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        for width in [2, 4, 8] {
            let columns = words.len() * 32 / width as usize;
            assert_eq!(unpack(&words, width), bits::unpack(&words, columns, width), "{width} bits");
        }
    }
}
