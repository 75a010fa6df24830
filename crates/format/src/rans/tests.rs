use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::Scales;

/// SplitMix64 (Steele, Lea and Flood 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `n` codes of `bits` bits, each the least of `draws` draws: the more, the lower the entropy.
fn skewed(n: usize, bits: u32, draws: usize, mut seed: u64) -> Vec<u16> {
    let mut code = || (random(&mut seed) >> (64 - bits)) as u16;
    (0..n).map(|_| (0..draws).map(|_| code()).min().unwrap()).collect()
}

#[test]
fn every_width_and_length_comes_back() {
    for bits in 1..=8 {
        for n in [1, 2, 3, 4, 5, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7] {
            for draws in [1, 3] {
                let codes = skewed(n, bits, draws, n as u64);
                let stream = encode(&codes, bits).unwrap();
                assert_eq!(stream.len(), encoded_len(&codes, bits).unwrap());
                assert_eq!(decode(&stream, bits, n).unwrap(), codes, "{n} codes of {bits} bits");
            }
        }
    }
}

#[test]
fn the_rate_is_the_entropy() {
    for (bits, draws) in [(2, 1), (4, 1), (4, 4), (8, 2), (8, 40)] {
        let codes = skewed(1 << 19, bits, draws, 3);
        let counts = counts(&codes, bits).unwrap();
        let (h, table) = (entropy(&counts), Table::fit(&counts).rate(&counts));
        let rate = 8.0 * encoded_len(&codes, bits).unwrap() as f64 / codes.len() as f64;
        assert!(h <= table && table <= h + 2e-3, "{bits}, {draws}: table {table}, entropy {h}");
        // Twenty bytes a block are 0.0024 bits a code, and the table of 8 bits 0.008 for so few.
        assert!(table < rate && rate <= h + 0.01 + 1e-3, "{bits}, {draws}: {rate}, entropy {h}");
    }
}

#[test]
fn one_code_alone_takes_no_words() {
    let codes = vec![5; 3 * BLOCK];
    let stream = encode(&codes, 4).unwrap();
    assert_eq!(stream.len(), 4 + 3 * 20);
    assert_eq!(decode(&stream, 4, codes.len()).unwrap(), codes);
}

#[test]
fn the_layout_is_the_one_in_the_documentation() {
    // Codes 1 and 2 with frequencies of half of 2^14 each: a bit a code, and states that begin at 2^16.
    let stream = encode(&[1, 2, 2, 1], 2).unwrap();
    let state = |second: u32| (1_u32 << 16 << 1) + second * 8192;
    let states = [0, 1, 1, 0].map(|second| state(second).to_le_bytes()).concat();
    assert_eq!(stream, [&[1, 2, 0, 0x20, 0, 0x20, 16, 0, 0, 0][..], &states].concat());
}

#[test]
fn blocks_are_decoded_on_their_own() {
    let codes = skewed(3 * BLOCK + 100, 6, 2, 9);
    let mut bytes = encode(&codes, 6).unwrap();
    let stream = Stream::open(&bytes, 6, codes.len()).unwrap();
    assert_eq!(stream.blocks(), 4);
    assert_eq!(stream.block(2).unwrap(), codes[2 * BLOCK..3 * BLOCK]);
    let begin = stream.blocks[1].start;
    bytes[begin + 40] ^= 1;
    let stream = Stream::open(&bytes, 6, codes.len()).unwrap();
    assert_eq!(stream.block(1), Err(RansError::Block { block: 1 }));
    assert_eq!(stream.block(3).unwrap(), codes[3 * BLOCK..]);
}

#[test]
fn what_has_no_stream_is_refused() {
    assert_eq!(encode(&[1, 2], 9), Err(RansError::Width { bits: 9 }));
    assert_eq!(decode(&[0; 40], 16, 1), Err(RansError::Width { bits: 16 }));
    for (code, expected) in [("int8", true), ("e4m3", true), ("nf4", true), ("uint9", false), ("trellis2:8", false)] {
        assert_eq!(holds(code.parse().unwrap()), expected, "{code}");
    }
}

#[test]
fn malformed_streams_are_named() {
    let codes = skewed(1000, 3, 2, 1);
    let good = encode(&codes, 3).unwrap();
    let table = 2 + 2 * 8;
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        decode(&bytes, 3, 1000).unwrap_err()
    };
    assert_eq!(with(&|bytes| bytes.clear()), RansError::Truncated { expected: 2, found: 0 });
    assert_eq!(with(&|bytes| bytes.truncate(9)), RansError::Truncated { expected: 18, found: 9 });
    assert_eq!(with(&|bytes| bytes.truncate(table + 19)), RansError::Truncated { expected: 38, found: 37 });
    assert_eq!(with(&|bytes| bytes[1] = 8), RansError::Codes { first: 0, last: 8, bits: 3 });
    assert_eq!(with(&|bytes| bytes[0] = 9), RansError::Codes { first: 9, last: 7, bits: 3 });
    assert!(matches!(with(&|bytes| bytes[2] ^= 1), RansError::Frequencies { .. }));
    assert!(matches!(with(&|bytes| bytes[table] ^= 2), RansError::Length { .. }));
    assert!(matches!(with(&|bytes| bytes[table + 3] = 0xff), RansError::Length { .. }));
    assert!(matches!(with(&|bytes| bytes.push(0)), RansError::Length { .. }));
    assert_eq!(with(&|bytes| bytes[table + 4..table + 8].fill(0)), RansError::Block { block: 0 });
    // A count that the stream has no room for allocates nothing.
    for count in [1 << 30, 1 << 40, usize::MAX] {
        assert!(matches!(decode(&good, 3, count), Err(RansError::Truncated { .. })), "{count}");
    }
    assert!(decode(&good, 3, BLOCK + 1).is_err());
    assert_eq!(decode(&good, 3, 999), Err(RansError::Block { block: 0 }));
    assert_eq!(decode(&good, 3, 1001), Err(RansError::Block { block: 0 }));
}

#[test]
fn a_matrix_comes_back() {
    let codes = skewed(7 * 33, 5, 2, 4);
    let scheme = "int5/tensor/f32".parse().unwrap();
    let packed = Packed::from_codes(scheme, [7, 33], &codes, Scales::Float(vec![1.0]), None, None).unwrap();
    let stream = encode_packed(&packed).unwrap();
    assert_eq!(decode_words(&stream, scheme.code, [7, 33]).unwrap(), packed.parts().codes);
}

proptest! {
    #[test]
    fn any_codes_come_back(bits in 1_u32..=8, codes in prop::collection::vec(any::<u16>(), 1..3000)) {
        let codes: Vec<u16> = codes.into_iter().map(|code| code & ((1 << bits) - 1)).collect();
        let stream = encode(&codes, bits).unwrap();
        prop_assert_eq!(stream.len(), encoded_len(&codes, bits).unwrap());
        prop_assert_eq!(decode(&stream, bits, codes.len()), Ok(codes));
    }

    /// The final states and the number of words are known, so that damage is seen, but not always: the checksum of a file does that.
    #[test]
    fn a_changed_stream_is_refused_or_decoded(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4), cut in any::<Index>()) {
        let codes = skewed(5000, 4, 2, 8);
        let mut bytes = encode(&codes, 4).unwrap();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Ok(found) = decode(&bytes, 4, codes.len()) {
            prop_assert!(found.len() == codes.len() && found.iter().all(|code| *code < 16));
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(decode(&bytes, 4, codes.len()).is_err());
    }
}
