//! [`ModelError`]: what can be wrong with a model folder, a tokenizer or a text.

use std::path::{Path, PathBuf};

use quench_checkpoint::CheckpointError;
use quench_nn::LoadError;

/// Why a model, its tokenizer or a calibration text cannot be used; every variant names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A section of a model cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file is not JSON, or not an object.
    #[error("{} is not a JSON object", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration key is absent, or its value makes no model.
    #[error("{}: `{key}` must be {expected}, found {found}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, dotted where it is nested.
        key: String,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A configuration asks for something that exists, but that this library does not compute.
    #[error("{}: `{key}` is {found}, which is not supported; known: {known}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key, dotted where it is nested.
        key: String,
        /// What is asked for.
        found: String,
        /// What is supported.
        known: String,
    },
    /// A tensor that the configuration calls for is not in the folder.
    #[error("{} has no tensor `{tensor}` (the configuration calls for it: {expected:?})", path.display())]
    MissingTensor {
        /// The folder or file.
        path: PathBuf,
        /// The name.
        tensor: String,
        /// The shape it would have.
        expected: Vec<usize>,
    },
    /// A tensor has not the shape that the configuration calls for.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the configuration calls for {expected:?}", path.display())]
    Shape {
        /// The folder or file.
        path: PathBuf,
        /// The name.
        tensor: String,
        /// From the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// Batch norms cannot be folded any more.
    #[error(
        "{}: layer `{layer}` is quantized, so its batch norm cannot be folded into it: fold the dense model, then quantize it",
        path.display()
    )]
    Packed {
        /// The folder or file.
        path: PathBuf,
        /// The first packed layer.
        layer: String,
    },
    /// The tokenizer cannot be read, or fails on a text.
    #[error("{}: {message}", path.display())]
    Tokenizer {
        /// `tokenizer.json`.
        path: PathBuf,
        /// What the `tokenizers` library says.
        message: String,
    },
    /// The tokenizer is another model's.
    #[error(
        "{}: {tokens} tokens, largest id {largest}, do not fit the model's vocabulary of {vocab_size} (config.json)",
        path.display()
    )]
    Vocabulary {
        /// `tokenizer.json`.
        path: PathBuf,
        /// Tokens in it.
        tokens: usize,
        /// The largest id in it.
        largest: u32,
        /// `vocab_size` of the model.
        vocab_size: usize,
    },
    /// An image file cannot be read as one.
    #[error("{} is no JPEG or PNG image: {message}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        message: String,
    },
    /// A text file has nothing in it, or is not text.
    #[error("{} is no text: {reason}", path.display())]
    Text {
        /// The file or folder.
        path: PathBuf,
        /// Empty, binary, not UTF-8 and where.
        reason: String,
    },
    /// The texts hold fewer tokens than asked for.
    #[error(
        "the {name} text gives {found} samples of {length} tokens, {wanted} are asked for: add text, or ask for less"
    )]
    TooLittleText {
        /// `"de"`, or `"calibration"` where no language was named.
        name: String,
        /// Samples it gives.
        found: usize,
        /// Samples asked for.
        wanted: usize,
        /// Tokens in a sample.
        length: usize,
    },
    /// A source of text is not written `FILE`, `FOLDER` or `language=FILE`.
    #[error("`{0}` is no text source: write FILE, FOLDER, or a language and a path such as de=FILE")]
    TextSource(String),
    /// A prompt cannot be continued.
    #[error("the prompt {0}")]
    Prompt(String),
    /// A sampling parameter is out of its range.
    #[error("`{name}` must be {expected}, found {found}")]
    Sampling {
        /// The parameter.
        name: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The model computed a NaN or an infinity where a logit was due.
    #[error("the model computed a logit that is not finite ({value}, token {token})")]
    Logit {
        /// Which token's.
        token: usize,
        /// What it is.
        value: f32,
    },
}

impl ModelError {
    /// An input or output error at `path`.
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    /// A JSON error at `path`.
    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Json { path, source }
    }
}

impl From<ModelError> for LoadError {
    fn from(error: ModelError) -> Self {
        LoadError::new(error)
    }
}
