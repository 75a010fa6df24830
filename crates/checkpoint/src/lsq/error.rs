//! What can be wrong with an `.lsq` file.

use crate::header::LONGEST_HEADER;
use crate::lsq::{LSQ_CODED_VERSION, LSQ_VERSION};

/// An `.lsq` file that is refused. [`CheckpointError::Lsq`](crate::CheckpointError::Lsq) adds the file's name; a file that
/// is cut short is [`CheckpointError::Truncated`](crate::CheckpointError::Truncated) and a part with a wrong checksum is
/// [`CheckpointError::Damaged`](crate::CheckpointError::Damaged), as in any other checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LsqError {
    /// The file does not begin as an `.lsq` file does.
    #[error("it is not an .lsq file: it begins with {found:02x?}, expected 89 4c 53 51 0d 0a 1a 0a")]
    Magic {
        /// Its first bytes.
        found: [u8; 8],
    },

    /// The file is of a version not known here.
    #[error(
        "it is in version {found} of the .lsq format, this Quench reads versions {LSQ_VERSION} and {LSQ_CODED_VERSION}: use the Quench that wrote it, or a newer one"
    )]
    Version {
        /// The version it names.
        found: u32,
    },

    /// The header is longer than a reader accepts.
    #[error("its header has {bytes} bytes, at most {LONGEST_HEADER} expected")]
    HeaderTooLong {
        /// The length that the file states.
        bytes: u64,
    },

    /// The header is not the one that was written.
    #[error("its header is damaged: its SHA-256 is not the one recorded; copy or convert it again")]
    HeaderDamaged,

    /// The header cannot be understood.
    #[error("its header is not valid: {reason}; copy or convert it again")]
    Header {
        /// What is wrong with it.
        reason: String,
    },

    /// What the header says of a tensor or a layer is not possible.
    #[error("tensor `{tensor}` is not valid: {reason}; copy or convert it again")]
    Tensor {
        /// The tensor, or the packed layer.
        tensor: String,
        /// What was expected and what was found.
        reason: String,
    },

    /// Two tensors lie at the same bytes.
    #[error(
        "tensor `{tensor}` begins at byte {begin} of the data, inside tensor `{other}`, which ends at {end}; copy or convert it again"
    )]
    Overlap {
        /// The tensor that comes second.
        tensor: String,
        /// Where it begins.
        begin: u64,
        /// The tensor before it.
        other: String,
        /// Where that one ends.
        end: u64,
    },
}
