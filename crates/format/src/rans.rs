//! Codes at the length of their entropy: static rANS, one table for a matrix, blocks that are decoded on their own.
//!
//! For storage and transfer; whoever computes with a matrix decodes it to the words of [`crate::bits`] first. Codes have at most 8
//! bits; those of 9 to 16 bits and the windows of a trellis are refused ([`holds`]): the tables of the first would be larger than what
//! they save, and the bits of the second are nearly random. For `n` codes of `b` bits the stream is
//!
//! ```text
//! bytes      what
//! 2          the lowest and the highest code that occurs, each a byte
//! 2 m        their frequencies and those of the codes between, u16; the sum is 2^14
//! 4 k        for each block of 65 536 codes, the last shorter: its bytes, u32;  k = ceil(n / 65 536)
//! ...        the blocks: four states, u32, then words, u16
//! ```
//!
//! all little-endian. `n` and `b` are known from the matrix. Code `i` of a block belongs to state `i mod 4`. A decoder takes, for each
//! code in turn,
//!
//! ```text
//! slot = x mod 2^14        code: the one with  start ≤ slot < start + f        start: the sum of f over the codes below
//! x ← f · (x div 2^14) + slot − start,  and where that is below 2^16:  x ← 2^16 x + the next word
//! ```
//!
//! At the end of a block all words are used and all states are `2^16`, as the encoder began, so that most damage is seen.
//! A block takes 20 bytes at least, so what is decoded is at most some 6600 times as large as the stream.
//!
//! Source: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders" (`docs/references.md#rans`).

mod table;

use std::ops::Range;

use thiserror::Error;

use crate::{Code, Packed, bits};

pub use table::Table;
use table::{CODES, Share, TOTAL};

/// Codes in a block.
pub const BLOCK: usize = 1 << 16;

/// Independent coders that take turns, so that a processor need not wait for one to be done.
const LANES: usize = 4;
/// States are from here to `2^32`.
const LOWEST: u32 = 1 << 16;
/// Bytes of the states of a block.
const STATES: usize = 4 * LANES;
/// Bytes of a block's length.
const LENGTH: usize = 4;

/// Why a stream was refused, or codes have none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RansError {
    /// Codes that no table is made for.
    #[error("codes of {bits} bits have no entropy-coded stream: 1 to 8 bits have one, trellis codes none")]
    Width {
        /// Bits of a code.
        bits: u32,
    },
    /// The stream ends too early.
    #[error("the entropy-coded stream has {found} bytes, at least {expected} expected")]
    Truncated {
        /// Bytes that what was read so far asks for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The range of codes is none, or does not begin and end with a code that occurs.
    #[error(
        "the table of the entropy-coded stream has the codes {first} to {last}, which are no range of codes of {bits} bits that occur"
    )]
    Codes {
        /// The lowest code.
        first: u8,
        /// The highest code.
        last: u8,
        /// Bits of a code.
        bits: u32,
    },
    /// The frequencies have another sum.
    #[error("the frequencies of the entropy-coded stream add up to {sum}, 16384 expected")]
    Frequencies {
        /// The sum found.
        sum: u32,
    },
    /// The blocks do not fill the stream.
    #[error("the blocks of the entropy-coded stream end at byte {expected}, it has {found}")]
    Length {
        /// The end of the last block.
        expected: u64,
        /// Bytes given.
        found: usize,
    },
    /// A block is too short, or does not end as it began.
    #[error("block {block} of the entropy-coded stream is damaged")]
    Block {
        /// Counted from 0.
        block: usize,
    },
}

/// Whether matrices of this code have a stream: codes of single weights, of at most 8 bits.
pub fn holds(code: Code) -> bool {
    code.is_scalar() && code.bits() <= 8
}

/// How often each code occurs, `[2^bits]`.
///
/// # Errors
/// [`RansError::Width`] for more than 8 bits.
///
/// # Panics
/// If a code does not fit in `bits`.
pub fn counts(codes: &[u16], bits: u32) -> Result<Vec<u64>, RansError> {
    if !(1..=8).contains(&bits) {
        return Err(RansError::Width { bits });
    }
    let mut counts = vec![0; 1 << bits];
    codes.iter().for_each(|&code| counts[usize::from(code)] += 1);
    Ok(counts)
}

/// The entropy of codes that occur so often, in bits a code: `Σ p log2(1 / p)`, `p = counts / Σ counts`; 0 where none occurs.
pub fn entropy(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let bits = |&count: &u64| count as f64 * (total / count as f64).log2();
    counts.iter().filter(|count| **count > 0).map(bits).sum::<f64>() / total.max(1.0)
}

/// The stream of `codes`, each of `bits` bits.
///
/// # Errors
/// [`RansError::Width`] for more than 8 bits.
///
/// # Panics
/// If there are none, or one does not fit.
pub fn encode(codes: &[u16], bits: u32) -> Result<Vec<u8>, RansError> {
    let table = Table::fit(&counts(codes, bits)?);
    let shares = table.shares();
    let (mut stream, mut blocks) = (Vec::new(), Vec::new());
    table.write(&mut stream);
    let mut words = Vec::new();
    for block in codes.chunks(BLOCK) {
        words.clear();
        let states = encode_block(block, &shares, |word| words.push(word));
        let begin = blocks.len();
        blocks.extend(states.into_iter().flat_map(u32::to_le_bytes));
        // The decoder goes the other way.
        blocks.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
        stream.extend(((blocks.len() - begin) as u32).to_le_bytes());
    }
    stream.extend(blocks);
    Ok(stream)
}

/// Bytes of [`encode`], exactly, without the stream: with its table, index and states.
///
/// # Errors and panics
/// As [`encode`].
pub fn encoded_len(codes: &[u16], bits: u32) -> Result<usize, RansError> {
    let table = Table::fit(&counts(codes, bits)?);
    let shares = table.shares();
    let mut words = 0;
    for block in codes.chunks(BLOCK) {
        encode_block(block, &shares, |_| words += 1);
    }
    Ok(table.byte_len() + codes.len().div_ceil(BLOCK) * (LENGTH + STATES) + 2 * words)
}

/// Gives the words from the last that a decoder reads to the first, and the states that it begins with.
fn encode_block(codes: &[u16], shares: &[Share; CODES], mut word: impl FnMut(u16)) -> [u32; LANES] {
    let mut states = [LOWEST; LANES];
    for (i, &code) in codes.iter().enumerate().rev() {
        let Share { start, frequency } = shares[usize::from(code)];
        let state = &mut states[i % LANES];
        // At most one word: below, the state is at most 2^18 times the frequency, which is what keeps it in 32 bits.
        if u64::from(*state) >= u64::from(frequency) << 18 {
            word(*state as u16);
            *state >>= 16;
        }
        *state = (*state / frequency) * TOTAL + *state % frequency + start;
    }
    states
}

/// A stream whose table and index were read and found right.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    bytes: &'a [u8],
    count: usize,
    shares: [Share; CODES],
    /// The code of each slot, `[2^14]`.
    slots: Vec<u8>,
    blocks: Vec<Range<usize>>,
}

impl<'a> Stream<'a> {
    /// Opens the stream of `count` codes of `bits` bits. Nothing is allocated for blocks that the stream has no room for.
    ///
    /// # Errors
    /// A table that is none, or lengths that do not fill the stream.
    pub fn open(bytes: &'a [u8], bits: u32, count: usize) -> Result<Self, RansError> {
        if !(1..=8).contains(&bits) {
            return Err(RansError::Width { bits });
        }
        let table = Table::read(bytes, bits)?;
        let (found, index) = (bytes.len(), table.byte_len());
        let count_blocks = count.div_ceil(BLOCK);
        // A block takes its length and its states at least; what overflows is more than any stream has.
        let least = count_blocks.checked_mul(LENGTH + STATES).and_then(|least| least.checked_add(index));
        if least.is_none_or(|least| least > found) {
            return Err(RansError::Truncated { expected: least.unwrap_or(usize::MAX), found });
        }
        let mut begin = index + LENGTH * count_blocks;
        let mut blocks = Vec::with_capacity(count_blocks);
        for (block, length) in bytes[index..begin].chunks_exact(LENGTH).enumerate() {
            let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
            let end = begin.checked_add(length).filter(|end| *end <= found);
            let Some(end) = end else {
                return Err(RansError::Length { expected: begin as u64 + length as u64, found });
            };
            if length < STATES || !length.is_multiple_of(2) {
                return Err(RansError::Block { block });
            }
            blocks.push(begin..end);
            begin = end;
        }
        if begin != found {
            return Err(RansError::Length { expected: begin as u64, found });
        }
        let shares = table.shares();
        let mut slots = Vec::with_capacity(TOTAL as usize);
        for (code, share) in (0..=u8::MAX).zip(&shares) {
            slots.resize(slots.len() + share.frequency as usize, code);
        }
        Ok(Self { bytes, count, shares, slots, blocks })
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The codes of one block: those from `block · 65 536`.
    ///
    /// # Errors
    /// [`RansError::Block`] for a block that ends too early, or not as it began.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&self, block: usize) -> Result<Vec<u16>, RansError> {
        let mut codes = Vec::new();
        self.decode_into(block, &mut codes).map(|()| codes)
    }

    /// Adds the codes of a block to `codes`.
    fn decode_into(&self, block: usize, codes: &mut Vec<u16>) -> Result<(), RansError> {
        let damaged = || RansError::Block { block };
        let (states, words) = self.bytes[self.blocks[block].clone()].split_at(STATES);
        let mut x = [0_u32; LANES];
        for (x, bytes) in x.iter_mut().zip(states.chunks_exact(4)) {
            *x = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        if x.iter().any(|x| *x < LOWEST) {
            return Err(damaged());
        }
        let mut words = words.chunks_exact(2);
        let count = (self.count - block * BLOCK).min(BLOCK);
        codes.reserve(count);
        for i in 0..count {
            let x = &mut x[i % LANES];
            let slot = *x % TOTAL;
            let code = self.slots[slot as usize];
            let Share { start, frequency } = self.shares[usize::from(code)];
            *x = frequency * (*x / TOTAL) + slot - start;
            if *x < LOWEST {
                let word = words.next().ok_or_else(damaged)?;
                *x = *x << 16 | u32::from(u16::from_le_bytes([word[0], word[1]]));
            }
            codes.push(u16::from(code));
        }
        match words.next().is_none() && x == [LOWEST; LANES] {
            true => Ok(()),
            false => Err(damaged()),
        }
    }
}

/// All codes of a stream: `count` of `bits` bits.
///
/// # Errors
/// Whatever is wrong with the stream.
pub fn decode(stream: &[u8], bits: u32, count: usize) -> Result<Vec<u16>, RansError> {
    let stream = Stream::open(stream, bits, count)?;
    let mut codes = Vec::new();
    (0..stream.blocks()).try_for_each(|block| stream.decode_into(block, &mut codes))?;
    Ok(codes)
}

/// The stream of the codes of a matrix, in their stored order, row after row; `None` where its code has none ([`holds`]).
pub fn encode_packed(packed: &Packed) -> Option<Vec<u8>> {
    let code = packed.scheme().code;
    holds(code).then(|| encode(&packed.codes(), code.bits()).ok()).flatten()
}

/// The words of a matrix `[out, in]` from its stream, as [`crate::Parts::codes`] has them.
///
/// # Errors
/// [`RansError::Width`] for a code without streams, and whatever is wrong with this one.
///
/// # Panics
/// If a side is 0, or the number of weights overflows.
pub fn decode_words(stream: &[u8], code: Code, [rows, columns]: [usize; 2]) -> Result<Vec<u32>, RansError> {
    if !holds(code) {
        return Err(RansError::Width { bits: code.bits() });
    }
    Ok(bits::pack(&decode(stream, code.bits(), rows * columns)?, columns, code.bits()))
}

#[cfg(test)]
mod tests;
