//! The `.lsq` container: a whole model in one file, with every code packed to its last bit.
//!
//! ```text
//! 8 bytes    89 4C 53 51 0D 0A 1A 0A
//! 4 bytes    version, little-endian: 1, or 2 where codes are entropy-coded
//! 4 bytes    zero
//! 8 bytes    n, little-endian
//! 32 bytes   SHA-256 of the next n bytes
//! n bytes    JSON: metadata, dense tensors, packed layers; where each part lies, and its SHA-256
//! the rest   the parts, one after another without gaps
//! ```
//!
//! A file is read by [`Folder`](crate::Folder) and written by [`Writer::lsq`](crate::Writer::lsq). Its packed layers look
//! like those of the native dialect: codes are turned into its words when they are asked for, so whatever reads a
//! checkpoint reads this one. `docs/checkpoint.md` specifies every byte. The name has nothing to do with Learned Step Size
//! Quantization.

mod error;
mod head;
mod shard;
mod stream;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;

pub use error::LsqError;
pub(crate) use head::read;
pub(crate) use shard::LsqShard;
pub(crate) use stream::{Rows, to_words};

use quench_format::{Code, Packed, Scale};

use crate::native::{self, Piece};
use crate::{Layer, TensorInfo};

/// The first bytes of every file. As in PNG, the first is no ASCII and the others break where a transfer takes the file
/// for text.
pub const MAGIC: [u8; 8] = *b"\x89LSQ\r\n\x1a\n";

/// The version that is written where no codes are entropy-coded.
pub const LSQ_VERSION: u32 = 1;

/// The version of a file with entropy-coded codes, which a reader of [`LSQ_VERSION`] refuses for its number.
pub const LSQ_CODED_VERSION: u32 = 2;

/// Bytes before the JSON.
pub const HEAD_BYTES: u64 = 56;

/// The file of a folder's weights in this container.
pub const LSQ_WEIGHTS: &str = "model.lsq";

/// How the bytes of a tensor lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// As the elements themselves.
    Plain,
    /// As one string of codes, most significant bit first.
    Stream(Rows),
    /// As a rANS stream ([`quench_format::rans`]) of the codes of a matrix.
    Rans { code: Code, shape: [usize; 2] },
    /// In a GGUF file: rows in the order in which RoPE turns pairs of them, so many heads.
    Rotary { heads: usize },
}

impl Stored {
    /// How a part of `layer` lies in an `.lsq` file.
    pub fn of(piece: Piece, layer: &Layer) -> Self {
        let (code, shape) = (layer.scheme.code, layer.shape);
        let grid = |bits| Self::Stream(Rows::new(layer.scheme.group.scale_shape(shape), bits));
        match (piece, layer.scheme.scale, layer.scheme.minimum) {
            (Piece::Codes, ..) => Self::Stream(match code.strings(shape) {
                Some(strings) => Rows::strings(&strings, shape[1]),
                None => Rows::new(shape, code.bits()),
            }),
            (Piece::Scales, Scale::Nested { code, .. }, _) | (Piece::Minimums, _, Some(Scale::Nested { code, .. })) => {
                grid(code.bits())
            }
            (Piece::Zeros, ..) => grid(code.bits()),
            _ => Self::Plain,
        }
    }

    /// Bytes in the file, of a stream those of its codes unpacked; `None` where they are more than a `u64` counts.
    pub fn len(self, info: &TensorInfo) -> Option<u64> {
        match self {
            Self::Plain | Self::Rans { .. } | Self::Rotary { .. } => crate::source::byte_len(info.dtype, &info.shape),
            Self::Stream(rows) => rows.byte_len(),
        }
    }
}

/// Bytes that a packed matrix takes in the data of an `.lsq` file:
///
/// ```text
/// ceil(out * in * b / 8)  +  scales  +  ceil(zeros * b / 8) or minimums  +  4 * in where there is an order
/// ```
///
/// with each float scale at its kind's bytes; nested: `ceil(scales * bs / 8)` and the outer scales at theirs; minimums as scales.
pub fn packed_bytes(packed: &Packed) -> u64 {
    let layer = Layer { scheme: packed.scheme(), shape: packed.shape() };
    let parts = native::layout(&layer, packed.parts().order.is_some());
    // A matrix that is in memory has fewer bytes than a u64 counts.
    parts.iter().filter_map(|(piece, info)| Stored::of(*piece, &layer).len(info)).sum()
}
