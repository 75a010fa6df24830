//! The block types of llama.cpp, each a pair of pure functions: a block's bytes to its fields, and back.
//!
//! A row is a run of blocks of 32 or 256 weights. A block is little-endian, without padding; `d` and `m` are f16:
//!
//! | type | bytes | layout | scheme |
//! | --- | --- | --- | --- |
//! | Q4_0 | 18 | `d`, 16 nibble pairs | `int4/32/f16` |
//! | Q4_1 | 20 | `d`, `m`, 16 nibble pairs | `uint4/32/f16/min:f16` |
//! | Q5_0 | 22 | `d`, 32 fifth bits, 16 nibble pairs | `int5/32/f16` |
//! | Q5_1 | 24 | `d`, `m`, 32 fifth bits, 16 nibble pairs | `uint5/32/f16/min:f16` |
//! | Q8_0 | 34 | `d`, 32 signed bytes | `int8/32/f16` |
//! | Q2_K | 84 | 16 pairs of scale and minimum, 64 bytes of pairs of bits, `d`, `m` | `uint2/16/uint4/16:f16/min:uint4/16:f16` |
//! | Q3_K | 110 | 32 bytes of third bits, 64 bytes of pairs of bits, 12 bytes of scales, `d` | `int3/16/int6/16:f16` |
//! | Q4_K | 144 | `d`, `m`, 12 bytes of scales and minimums, 128 nibble pairs | `uint4/32/uint6/8:f16/min:uint6/8:f16` |
//! | Q5_K | 176 | as Q4_K, 32 bytes of fifth bits before the nibble pairs | `uint5/32/uint6/8:f16/min:uint6/8:f16` |
//! | Q6_K | 210 | 128 nibble pairs, 64 bytes of upper pairs of bits, 16 signed bytes of scales, `d` | `int6/16/int8/16:f16` |
//! | IQ4_NL | 18 | as Q4_0 | `iq4nl/32/f16` |
//! | IQ4_XS | 136 | `d`, 8 upper pairs of bits and 8 nibbles of scales, 128 nibble pairs | `iq4nl/32/int6/8:f16` |
//! | MXFP4 | 17 | an E8M0 byte, 16 nibble pairs | `e2m1/32/e8m0` |
//!
//! The minimum of Q4_1 and Q5_1 is added, that of the K-types taken off: their `m` has the other sign in a [`Packed`], which
//! is exact. The integers of a block are stored as ours are, plus half their range, but for signed bytes.
//!
//! Source: ggml-org/ggml, `ggml-common.h` (the structs) and `ggml-quants.c` (`dequantize_row_*`). [`Packed::decode`] gives the
//! numbers of those functions to the last bit: `d * scale * code` has at most 23 bits and `m * minimum` 17, so that a sum of the
//! two is the one rounding, in whichever order it is computed.

use std::fmt;

use half::f16;
use quench_format::{FormatError, Offsets, Packed, Scale, Scales, Scheme};

use crate::native::{exponent, power};

/// The most weights that a block has.
const MOST: usize = 256;

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(non_camel_case_types, reason = "the names that llama.cpp has for them")]
#[expect(missing_docs, reason = "the table above says what each is")]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

/// What one block says; of each array the first so many are used as the type has weights and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The codes of its weights, in order.
    pub codes: [u16; MOST],
    /// The codes of its scales, of types that have codes for them.
    pub scales: [u16; 16],
    /// The codes of its minimums, of types that have codes for them.
    pub minimums: [u16; 16],
    /// The f16 `d`, or the E8M0 byte.
    pub scale: u16,
    /// The f16 `m`, with the sign that it has in the file; 0 where the type has none.
    pub minimum: u16,
}

impl Default for Fields {
    fn default() -> Self {
        Self { codes: [0; MOST], scales: [0; 16], minimums: [0; 16], scale: 0, minimum: 0 }
    }
}

impl BlockType {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
    ];

    /// Weights of one block.
    pub const fn weights(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL | Self::MXFP4 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => MOST,
        }
    }

    /// Bytes of one block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::MXFP4 => 17,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::IQ4_XS => 136,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row; `None` where its columns do not fill whole blocks, or are more than any file has.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let blocks = columns.is_multiple_of(self.weights()).then_some(columns / self.weights())?;
        blocks.checked_mul(self.bytes())
    }

    /// The scheme of a matrix in this type, as it is spelled.
    pub const fn spelling(self) -> &'static str {
        match self {
            Self::Q4_0 => "int4/32/f16",
            Self::Q4_1 => "uint4/32/f16/min:f16",
            Self::Q5_0 => "int5/32/f16",
            Self::Q5_1 => "uint5/32/f16/min:f16",
            Self::Q8_0 => "int8/32/f16",
            Self::Q2_K => "uint2/16/uint4/16:f16/min:uint4/16:f16",
            Self::Q3_K => "int3/16/int6/16:f16",
            Self::Q4_K => "uint4/32/uint6/8:f16/min:uint6/8:f16",
            Self::Q5_K => "uint5/32/uint6/8:f16/min:uint6/8:f16",
            Self::Q6_K => "int6/16/int8/16:f16",
            Self::IQ4_NL => "iq4nl/32/f16",
            Self::IQ4_XS => "iq4nl/32/int6/8:f16",
            Self::MXFP4 => "e2m1/32/e8m0",
        }
    }

    /// The scheme of a matrix in this type; a test reads every spelling.
    fn scheme(self) -> Result<Scheme, FormatError> {
        self.spelling().parse()
    }

    /// The type of a scheme, where there is one.
    pub fn of(scheme: Scheme) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.scheme() == Ok(scheme))
    }

    /// Groups of a block that have codes for scales: 16, 8, or 0.
    fn nested(self) -> usize {
        match self {
            Self::Q2_K | Self::Q3_K | Self::Q6_K => 16,
            Self::Q4_K | Self::Q5_K | Self::IQ4_XS => 8,
            _ => 0,
        }
    }

    /// Reads one block.
    ///
    /// # Panics
    ///
    /// If there are not [`BlockType::bytes`] of them.
    pub fn read(self, block: &[u8], to: &mut Fields) {
        assert_eq!(block.len(), self.bytes(), "a block of {self}");
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        match self {
            Self::Q4_0 | Self::IQ4_NL => {
                to.scale = half(0);
                read_nibbles(&block[2..], 16, &mut to.codes);
            }
            Self::MXFP4 => {
                to.scale = u16::from(block[0]);
                read_nibbles(&block[1..], 16, &mut to.codes);
            }
            Self::Q4_1 => {
                (to.scale, to.minimum) = (half(0), half(2));
                read_nibbles(&block[4..], 16, &mut to.codes);
            }
            Self::Q5_0 => {
                to.scale = half(0);
                read_nibbles(&block[6..], 16, &mut to.codes);
                read_fifths(&block[2..6], &mut to.codes);
            }
            Self::Q5_1 => {
                (to.scale, to.minimum) = (half(0), half(2));
                read_nibbles(&block[8..], 16, &mut to.codes);
                read_fifths(&block[4..8], &mut to.codes);
            }
            Self::Q8_0 => {
                to.scale = half(0);
                to.codes.iter_mut().zip(&block[2..]).for_each(|(code, &byte)| *code = offset(byte));
            }
            Self::Q2_K => {
                (to.scale, to.minimum) = (half(80), half(82));
                for (i, &pair) in block[..16].iter().enumerate() {
                    (to.scales[i], to.minimums[i]) = (u16::from(pair & 15), u16::from(pair >> 4));
                }
                read_pairs(&block[16..80], &mut to.codes);
            }
            Self::Q3_K => {
                to.scale = half(108);
                let packed = &block[96..108];
                for (j, scale) in to.scales.iter_mut().enumerate() {
                    let (low, high) = (packed[j % 8] >> (4 * (j / 8)) & 15, packed[8 + j % 4] >> (2 * (j / 4)) & 3);
                    *scale = u16::from(low | high << 4);
                }
                read_pairs(&block[32..96], &mut to.codes);
                for (i, code) in to.codes.iter_mut().enumerate() {
                    *code |= u16::from(block[i % 32] >> (i / 32) & 1) << 2;
                }
            }
            Self::Q4_K => {
                (to.scale, to.minimum) = (half(0), half(2));
                read_sixes(&block[4..16], to);
                read_nibbles(&block[16..], 32, &mut to.codes);
            }
            Self::Q5_K => {
                (to.scale, to.minimum) = (half(0), half(2));
                read_sixes(&block[4..16], to);
                read_nibbles(&block[48..], 32, &mut to.codes);
                for (i, code) in to.codes.iter_mut().enumerate() {
                    *code |= u16::from(block[16 + i % 32] >> (i / 32) & 1) << 4;
                }
            }
            Self::Q6_K => {
                to.scale = half(208);
                to.scales.iter_mut().zip(&block[192..208]).for_each(|(scale, &byte)| *scale = offset(byte));
                for (i, code) in to.codes.iter_mut().enumerate() {
                    let (low, low_shift, high, high_shift) = sixth(i);
                    *code = u16::from(block[low] >> low_shift & 15 | (block[high] >> high_shift & 3) << 4);
                }
            }
            Self::IQ4_XS => {
                to.scale = half(0);
                for (j, scale) in to.scales[..8].iter_mut().enumerate() {
                    *scale = u16::from(block[4 + j / 2] >> (4 * (j % 2)) & 15) | (half(2) >> (2 * j) & 3) << 4;
                }
                read_nibbles(&block[8..], 16, &mut to.codes);
            }
        }
    }

    /// Writes one block: the reverse of [`BlockType::read`].
    ///
    /// # Panics
    ///
    /// If there is not room for [`BlockType::bytes`] exactly.
    pub fn write(self, from: &Fields, block: &mut [u8]) {
        assert_eq!(block.len(), self.bytes(), "a block of {self}");
        block.fill(0);
        let [scale, minimum] = [from.scale, from.minimum].map(u16::to_le_bytes);
        match self {
            Self::Q4_0 | Self::IQ4_NL => {
                block[..2].copy_from_slice(&scale);
                write_nibbles(&from.codes, 16, &mut block[2..]);
            }
            Self::MXFP4 => {
                block[0] = scale[0];
                write_nibbles(&from.codes, 16, &mut block[1..]);
            }
            Self::Q4_1 => {
                block[..4].copy_from_slice(&[scale, minimum].concat());
                write_nibbles(&from.codes, 16, &mut block[4..]);
            }
            Self::Q5_0 => {
                block[..2].copy_from_slice(&scale);
                write_fifths(&from.codes, &mut block[2..6]);
                write_nibbles(&from.codes, 16, &mut block[6..]);
            }
            Self::Q5_1 => {
                block[..4].copy_from_slice(&[scale, minimum].concat());
                write_fifths(&from.codes, &mut block[4..8]);
                write_nibbles(&from.codes, 16, &mut block[8..]);
            }
            Self::Q8_0 => {
                block[..2].copy_from_slice(&scale);
                block[2..].iter_mut().zip(&from.codes).for_each(|(byte, &code)| *byte = signed(code));
            }
            Self::Q2_K => {
                for (i, pair) in block[..16].iter_mut().enumerate() {
                    *pair = (from.scales[i] | from.minimums[i] << 4) as u8;
                }
                write_pairs(&from.codes, &mut block[16..80]);
                block[80..].copy_from_slice(&[scale, minimum].concat());
            }
            Self::Q3_K => {
                for (i, &code) in from.codes.iter().enumerate() {
                    block[i % 32] |= ((code >> 2) as u8) << (i / 32);
                }
                write_pairs(&from.codes, &mut block[32..96]);
                for (j, &scale) in from.scales.iter().enumerate() {
                    block[96 + j % 8] |= ((scale & 15) as u8) << (4 * (j / 8));
                    block[104 + j % 4] |= ((scale >> 4) as u8) << (2 * (j / 4));
                }
                block[108..].copy_from_slice(&scale);
            }
            Self::Q4_K => {
                block[..4].copy_from_slice(&[scale, minimum].concat());
                write_sixes(from, &mut block[4..16]);
                write_nibbles(&from.codes, 32, &mut block[16..]);
            }
            Self::Q5_K => {
                block[..4].copy_from_slice(&[scale, minimum].concat());
                write_sixes(from, &mut block[4..16]);
                for (i, &code) in from.codes.iter().enumerate() {
                    block[16 + i % 32] |= ((code >> 4) as u8) << (i / 32);
                }
                write_nibbles(&from.codes, 32, &mut block[48..]);
            }
            Self::Q6_K => {
                for (i, &code) in from.codes.iter().enumerate() {
                    let (low, low_shift, high, high_shift) = sixth(i);
                    block[low] |= ((code & 15) as u8) << low_shift;
                    block[high] |= ((code >> 4) as u8) << high_shift;
                }
                block[192..208].iter_mut().zip(&from.scales).for_each(|(byte, &scale)| *byte = signed(scale));
                block[208..].copy_from_slice(&scale);
            }
            Self::IQ4_XS => {
                let upper = (0..8).fold(0, |upper, j| upper | (from.scales[j] >> 4) << (2 * j));
                block[..4].copy_from_slice(&[scale, u16::to_le_bytes(upper)].concat());
                for (j, &scale) in from.scales[..8].iter().enumerate() {
                    block[4 + j / 2] |= ((scale & 15) as u8) << (4 * (j % 2));
                }
                write_nibbles(&from.codes, 16, &mut block[8..]);
            }
        }
    }

    /// Whether `m` is taken off and not added.
    fn takes_off(self) -> bool {
        matches!(self, Self::Q2_K | Self::Q4_K | Self::Q5_K)
    }

    /// The matrix `[out, in]` of rows of blocks.
    ///
    /// Errors: what [`Packed::new`] refuses, such as a `d` that is not finite.
    ///
    /// # Panics
    ///
    /// If the bytes are not those of `shape`.
    pub fn decode(self, shape: [usize; 2], bytes: &[u8]) -> Result<Packed, FormatError> {
        let scheme = self.scheme()?;
        let [rows, columns] = shape;
        assert_eq!(Some(bytes.len()), self.row_bytes(columns).map(|row| rows * row), "blocks of {self} in {shape:?}");
        let mut fields = Fields::default();
        let (mut codes, mut scales, mut minimums) = (Vec::with_capacity(rows * columns), Vec::new(), Vec::new());
        let (mut outer, mut outer_minimums) = (Vec::new(), Vec::new());
        for block in bytes.chunks_exact(self.bytes()) {
            self.read(block, &mut fields);
            codes.extend_from_slice(&fields.codes[..self.weights()]);
            scales.extend_from_slice(&fields.scales[..self.nested()]);
            minimums.extend_from_slice(&fields.minimums[..self.nested()]);
            outer.push(match scheme.scale {
                Scale::PowerOfTwo => power(fields.scale as u8),
                Scale::Float(_) | Scale::Nested { .. } => f16::from_bits(fields.scale).to_f32(),
            });
            let minimum = f16::from_bits(fields.minimum).to_f32();
            outer_minimums.push(if self.takes_off() { -minimum } else { minimum });
        }
        let kept = |kept, codes, outer| match kept {
            Scale::Nested { .. } => Scales::Nested { codes, outer },
            Scale::Float(_) | Scale::PowerOfTwo => Scales::Float(outer),
        };
        let offsets = match scheme.minimum {
            Some(minimum) => Offsets::Minimums(kept(minimum, minimums, outer_minimums)),
            None => Offsets::None,
        };
        Packed::from_codes(scheme, shape, &codes, kept(scheme.scale, scales, outer), offsets, None)
    }

    /// The blocks of a matrix: the reverse of [`BlockType::decode`].
    ///
    /// # Panics
    ///
    /// If [`fits`] does not give this type for the matrix.
    pub fn encode(self, packed: &Packed) -> Vec<u8> {
        let (codes, parts) = (packed.codes(), packed.parts());
        assert_eq!(fits(packed.scheme(), packed.shape(), parts.order.is_some()), Ok(self), "blocks of {self}");
        let mut blocks = vec![0; codes.len() / self.weights() * self.bytes()];
        let apart = |scales: &Scales| match scales {
            Scales::Float(outer) => (Vec::new(), outer.clone()),
            Scales::Nested { codes, outer } => (codes.clone(), outer.clone()),
        };
        let (scales, outer) = apart(&parts.scales);
        let (minimums, outer_minimums) = parts.offsets.minimums().map(apart).unwrap_or_default();
        let mut fields = Fields::default();
        for (at, (block, codes)) in
            blocks.chunks_exact_mut(self.bytes()).zip(codes.chunks_exact(self.weights())).enumerate()
        {
            fields.codes[..self.weights()].copy_from_slice(codes);
            let groups = at * self.nested()..(at + 1) * self.nested();
            if let Some(scales) = scales.get(groups.clone()) {
                fields.scales[..scales.len()].copy_from_slice(scales);
            }
            if let Some(minimums) = minimums.get(groups) {
                fields.minimums[..minimums.len()].copy_from_slice(minimums);
            }
            fields.scale = match packed.scheme().scale {
                Scale::PowerOfTwo => u16::from(exponent(outer[at])),
                Scale::Float(_) | Scale::Nested { .. } => f16::from_f32(outer[at]).to_bits(),
            };
            let minimum = outer_minimums.get(at).copied().unwrap_or_default();
            fields.minimum = f16::from_f32(if self.takes_off() { -minimum } else { minimum }).to_bits();
            self.write(&fields, block);
        }
        blocks
    }
}

/// As llama.cpp prints it: `Q4_K`.
impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The type that holds matrices of a scheme and a shape exactly.
///
/// - `ordered`: whether its columns are reordered
///
/// Errors: what it is that no type holds, and for another scheme those that would do, in words that follow the dialect's name.
pub fn fits(scheme: Scheme, [_, columns]: [usize; 2], ordered: bool) -> Result<BlockType, String> {
    let Some(kind) = BlockType::of(scheme) else {
        let same = |kind: &BlockType| {
            kind.scheme().is_ok_and(|other| other.code == scheme.code || other.code.bits() == scheme.code.bits())
        };
        let near: Vec<_> = BlockType::ALL.into_iter().filter(same).collect();
        let list = if near.is_empty() { BlockType::ALL.to_vec() } else { near };
        let list: Vec<_> = list.iter().map(|kind| format!("{} ({kind})", kind.spelling())).collect();
        return Err(format!("has no type for {scheme}; what would do: {}", list.join(", ")));
    };
    if ordered {
        return Err("has no order of columns".to_owned());
    }
    if kind.row_bytes(columns).is_none() {
        return Err(format!("keeps {kind} in blocks of {} columns, and {columns} do not fill them", kind.weights()));
    }
    Ok(kind)
}

/// A signed byte as one of our codes.
fn offset(byte: u8) -> u16 {
    u16::from(byte ^ 0x80)
}

/// The reverse of [`offset`].
fn signed(code: u16) -> u8 {
    code as u8 ^ 0x80
}

/// Low nibbles of a run of bytes, then the high ones; then the next run.
fn read_nibbles(bytes: &[u8], run: usize, codes: &mut [u16]) {
    for (bytes, codes) in bytes.chunks_exact(run).zip(codes.chunks_exact_mut(2 * run)) {
        let (low, high) = codes.split_at_mut(run);
        for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
            (*low, *high) = (u16::from(byte & 15), u16::from(byte >> 4));
        }
    }
}

/// The reverse of [`read_nibbles`], for the lower four bits of codes.
fn write_nibbles(codes: &[u16], run: usize, bytes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact_mut(run).zip(codes.chunks_exact(2 * run)) {
        let (low, high) = codes.split_at(run);
        for ((byte, &low), &high) in bytes.iter_mut().zip(low).zip(high) {
            *byte = (low & 15 | (high & 15) << 4) as u8;
        }
    }
}

/// The fifth bits of 32 codes, code by code.
fn read_fifths(bytes: &[u8], codes: &mut [u16]) {
    for (i, code) in codes[..32].iter_mut().enumerate() {
        *code |= u16::from(bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

fn write_fifths(codes: &[u16], bytes: &mut [u8]) {
    for (i, &code) in codes[..32].iter().enumerate() {
        bytes[i / 8] |= ((code >> 4) as u8) << (i % 8);
    }
}

/// Two bits of 256 codes: each run of 32 bytes has those of 128, the lowest bits those of the first 32.
fn read_pairs(bytes: &[u8], codes: &mut [u16; MOST]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = u16::from(bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3);
    }
}

/// The reverse of [`read_pairs`], for the lower two bits of codes.
fn write_pairs(codes: &[u16; MOST], bytes: &mut [u8]) {
    for (i, &code) in codes.iter().enumerate() {
        bytes[i / 128 * 32 + i % 32] |= ((code & 3) as u8) << (i % 128 / 32 * 2);
    }
}

/// Where code `i` of a Q6_K block is: byte and shift of its nibble, byte and shift of its upper two bits.
fn sixth(i: usize) -> (usize, usize, usize, usize) {
    let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
    (half * 64 + quarter % 2 * 32 + l, quarter / 2 * 4, 128 + half * 32 + l, quarter * 2)
}

/// Eight scales and eight minimums of six bits in twelve bytes: whole ones of 0 to 3 in the lower six bits of bytes 0 to 3 and
/// 4 to 7; of 4 to 7 the nibbles in bytes 8 to 11, and what is above in the upper two bits of bytes 0 to 7.
fn read_sixes(bytes: &[u8], to: &mut Fields) {
    for j in 0..4 {
        let (low, high, both) = (bytes[j], bytes[4 + j], bytes[8 + j]);
        (to.scales[j], to.minimums[j]) = (u16::from(low & 63), u16::from(high & 63));
        to.scales[4 + j] = u16::from(both & 15 | low >> 6 << 4);
        to.minimums[4 + j] = u16::from(both >> 4 | high >> 6 << 4);
    }
}

fn write_sixes(from: &Fields, bytes: &mut [u8]) {
    for j in 0..4 {
        let [scale, minimum] = [from.scales[4 + j], from.minimums[4 + j]];
        bytes[j] = (from.scales[j] | scale >> 4 << 6) as u8;
        bytes[4 + j] = (from.minimums[j] | minimum >> 4 << 6) as u8;
        bytes[8 + j] = (scale & 15 | (minimum & 15) << 4) as u8;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Blocks of any bytes whose floats are finite and whose powers of two do not overflow.
    fn blocks(kind: BlockType, count: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), count * kind.bytes()).prop_map(move |mut bytes| {
            for block in bytes.chunks_exact_mut(kind.bytes()) {
                let mut fields = Fields::default();
                kind.read(block, &mut fields);
                let finite = |half: u16| if half & 0x7c00 == 0x7c00 { half ^ 0x4000 } else { half };
                fields.scale = if kind == BlockType::MXFP4 { fields.scale.min(250) } else { finite(fields.scale) };
                fields.minimum = finite(fields.minimum);
                kind.write(&fields, block);
            }
            bytes
        })
    }

    /// `dequantize_row_*` of ggml, written from its description apart from the code above: `d`, scales and codes taken
    /// from the bytes one weight at a time, products and differences in `f32` in the order of that file.
    fn weight(kind: BlockType, block: &[u8], i: usize) -> f32 {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let nibble = |byte: u8, high: bool| f32::from(if high { byte >> 4 } else { byte & 15 });
        let small = |from: usize| nibble(block[from + i % 16], i >= 16);
        let fifth = |from: usize| f32::from(block[from + i / 8] >> (i % 8) & 1) * 16.0;
        let k4 = |from: usize| nibble(block[from + i / 64 * 32 + i % 32], i % 64 >= 32);
        let pair = |from: usize| f32::from(block[from + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3);
        let table =
            [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113].map(|level| level as f32);
        let six = |j: usize| {
            let s = &block[4..16];
            let (scale, minimum) = match j {
                0..4 => (s[j] & 63, s[j + 4] & 63),
                _ => ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4),
            };
            (f32::from(scale), f32::from(minimum))
        };
        match kind {
            BlockType::Q4_0 => (small(2) - 8.0) * half(0),
            BlockType::Q4_1 => small(4) * half(0) + half(2),
            BlockType::Q5_0 => (small(6) + fifth(2) - 16.0) * half(0),
            BlockType::Q5_1 => (small(8) + fifth(4)) * half(0) + half(2),
            BlockType::Q8_0 => f32::from(block[2 + i] as i8) * half(0),
            BlockType::Q2_K => {
                let group = block[i / 16];
                let (scale, minimum) = (half(80) * f32::from(group & 15), half(82) * f32::from(group >> 4));
                scale * pair(16) - minimum
            }
            BlockType::Q3_K => {
                let (j, s) = (i / 16, &block[96..108]);
                let scale = s[j % 8] >> (4 * (j / 8)) & 15 | (s[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
                let high = if block[i % 32] >> (i / 32) & 1 == 1 { 0.0 } else { 4.0 };
                half(108) * (f32::from(scale) - 32.0) * (pair(32) - high)
            }
            BlockType::Q4_K => {
                let (scale, minimum) = six(i / 32);
                half(0) * scale * k4(16) - half(2) * minimum
            }
            BlockType::Q5_K => {
                let (scale, minimum) = six(i / 32);
                let high = f32::from(block[16 + i % 32] >> (i / 32) & 1) * 16.0;
                half(0) * scale * (k4(48) + high) - half(2) * minimum
            }
            BlockType::Q6_K => {
                let (n, l) = (i / 128, i % 32);
                let (low, high) = (&block[n * 64..], block[128 + n * 32 + l]);
                let code = match i % 128 / 32 {
                    0 => low[l] & 15 | (high & 3) << 4,
                    1 => low[l + 32] & 15 | (high >> 2 & 3) << 4,
                    2 => low[l] >> 4 | (high >> 4 & 3) << 4,
                    _ => low[l + 32] >> 4 | (high >> 6) << 4,
                };
                half(208) * f32::from(block[192 + i / 16] as i8) * (f32::from(code) - 32.0)
            }
            BlockType::IQ4_NL => half(0) * table[small(2) as usize],
            BlockType::IQ4_XS => {
                let j = i / 32;
                let upper = u16::from_le_bytes([block[2], block[3]]) >> (2 * j) & 3;
                let scale = u16::from(block[4 + j / 2] >> (4 * (j % 2)) & 15) | upper << 4;
                let code = nibble(block[8 + j * 16 + i % 16], i % 32 >= 16);
                half(0) * (f32::from(scale) - 32.0) * table[code as usize]
            }
            BlockType::MXFP4 => {
                // There the table is doubled and the power halved.
                let doubled = [0, 1, 2, 3, 4, 6, 8, 12].map(|level| level as f32);
                let code = small(1) as usize;
                let sign = if code >= 8 { -1.0 } else { 1.0 };
                sign * doubled[code % 8] * 2.0_f64.powi(i32::from(block[0]) - 128) as f32
            }
        }
    }

    #[test]
    fn bits_per_weight_are_those_of_the_file() {
        for kind in BlockType::ALL {
            let scheme = kind.scheme().unwrap();
            assert_eq!(scheme.to_string(), kind.spelling());
            assert_eq!(BlockType::of(scheme), Some(kind));
            let bits = (8 * kind.bytes()) as f64 / kind.weights() as f64;
            assert_eq!(scheme.bits_per_weight([3, 512]), bits, "{kind}");
            assert_eq!(kind.row_bytes(512), Some(512 / kind.weights() * kind.bytes()));
            assert_eq!(kind.row_bytes(kind.weights() / 2), None);
        }
    }

    #[test]
    fn what_no_type_holds_is_refused_with_what_would_do() {
        let fits = |scheme: &str, columns| fits(scheme.parse().unwrap(), [2, columns], false);
        let error = fits("int4/128/f16", 256).unwrap_err();
        assert!(error.starts_with("has no type for int4/128/f16; what would do: int4/32/f16 (Q4_0), "), "{error}");
        assert!(error.contains("iq4nl/32/f16 (IQ4_NL)") && !error.contains("Q6_K"), "{error}");
        let error = fits("int7/32/f16", 64).unwrap_err();
        assert!(error.contains("Q8_0") && error.contains("Q2_K"), "{error}");
        let error = fits("int6/16/int8/16:f16", 128).unwrap_err();
        assert_eq!(error, "keeps Q6_K in blocks of 256 columns, and 128 do not fill them");
        assert_eq!(super::fits("int4/32/f16".parse().unwrap(), [2, 64], true).unwrap_err(), "has no order of columns");
    }

    #[test]
    fn a_block_that_is_not_finite_is_refused() {
        for kind in BlockType::ALL {
            let bytes = vec![0xff; kind.bytes()];
            let error = kind.decode([1, kind.weights()], &bytes).unwrap_err();
            assert!(matches!(error, FormatError::ScaleValue { index: 0, .. }), "{kind}: {error}");
        }
    }

    #[test]
    fn every_matrix_in_the_scheme_of_a_type_survives_its_blocks() {
        for (seed, kind) in BlockType::ALL.into_iter().enumerate() {
            let packed = crate::testing::packed(kind.spelling(), [3, 512], false, seed as u64);
            assert_eq!(kind.decode([3, 512], &kind.encode(&packed)), Ok(packed), "{kind}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn blocks_survive_bit_for_bit_and_mean_what_they_do_in_ggml(
            each in BlockType::ALL.map(|kind| blocks(kind, 4)),
        ) {
            for (kind, bytes) in BlockType::ALL.into_iter().zip(each) {
                let packed = kind.decode([2, 2 * kind.weights()], &bytes).unwrap();
                prop_assert_eq!(kind.encode(&packed), &bytes[..], "{}", kind);
                let decoded = packed.decode();
                for (at, block) in bytes.chunks_exact(kind.bytes()).enumerate() {
                    for i in 0..kind.weights() {
                        // Zeros are equal whatever their sign: MXFP4 has a code for negative zero.
                        let (found, expected) = (decoded[at * kind.weights() + i], weight(kind, block, i));
                        prop_assert_eq!(found, expected, "{} block {} weight {}", kind, at, i);
                    }
                }
            }
        }
    }
}
