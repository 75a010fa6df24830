//! What can be wrong with a GGUF file.

use super::container::GGUF_VERSION;

/// Why a GGUF file is refused; the file is named by the [`CheckpointError`](crate::CheckpointError) around it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is none.
    #[error("its first bytes are {found:02x?}, those of a GGUF file are \"GGUF\"")]
    Magic {
        /// The bytes found.
        found: [u8; 4],
    },

    /// The file is of another version.
    #[error(
        "it is of version {found}{}, versions 2 and {GGUF_VERSION} are read: convert it with the tools of llama.cpp",
        if found.swap_bytes() <= GGUF_VERSION { " or big-endian" } else { "" }
    )]
    Version {
        /// The version found.
        found: u32,
    },

    /// The file ends too early, or a count in it is absurd.
    #[error("it is truncated or damaged: {what} takes {expected} bytes, {found} are there; download it again")]
    Truncated {
        /// What was to be read, the tensor or the key by name.
        what: String,
        /// Bytes that it takes, at least.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },

    /// A text is none.
    #[error("{what} is no UTF-8 from byte {at} on: the file is damaged")]
    Text {
        /// Whose text.
        what: String,
        /// The first wrong byte.
        at: usize,
    },

    /// A metadata entry is missing or not what it should be.
    #[error("metadata key `{key}` {reason}")]
    Key {
        /// The key.
        key: String,
        /// What is wrong, in words that follow it.
        reason: String,
    },

    /// A tensor is not what it should be.
    #[error("tensor `{tensor}` {reason}")]
    Tensor {
        /// Its name in the file, or that of Hugging Face where it is to be written.
        tensor: String,
        /// What is wrong, in words that follow it.
        reason: String,
    },

    /// A model cannot be written as GGUF, or a GGUF file cannot be read as a model.
    #[error("{reason}")]
    Model {
        /// What is wrong.
        reason: String,
    },
}
