//! What can go wrong between a quantized model and a better one.

use std::io;
use std::path::PathBuf;

use quench_format::{FormatError, Scheme};
use quench_nn::LoadError;
use quench_quantize::QuantizeError;

/// An error of this crate; each names the layer, tensor or file, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// A setting that makes no sense.
    #[error("`{key}` is {found}; expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// There is nothing to train on, or to judge by.
    #[error("there are no {0} batches; give more text, or shorter sequences")]
    NoBatches(&'static str),
    /// No packed layer that the settings name.
    #[error("no packed layer to train matches {targets:?}; the model has {}", examples(.layers))]
    NothingToTrain {
        /// The patterns.
        targets: Vec<String>,
        /// Some packed layers of the model.
        layers: Vec<String>,
    },
    /// A layer whose code or form cannot be trained in this way.
    #[error("layer {layer}: {scheme} cannot be trained by {method}; {instead}")]
    Unsupported {
        /// The layer.
        layer: String,
        /// Its scheme.
        scheme: Scheme,
        /// What was asked for.
        method: &'static str,
        /// What could be done.
        instead: &'static str,
    },
    /// Numbers that are not finite came up.
    #[error(
        "diverged at step {step}: {tensor} is not finite; {}: lower the learning rates, or warm up longer",
        .kept.map_or("nothing was saved before".to_owned(), |kept| format!("the state after step {kept} is kept"))
    )]
    Diverged {
        /// The step, from 0.
        step: usize,
        /// The trained tensor whose value or gradient it is, or else the first activation.
        tensor: String,
        /// Steps done in the state that is kept on disk.
        kept: Option<usize>,
    },
    /// What was trained does not form a valid matrix.
    #[error("layer {layer}: {source}")]
    Format {
        /// The layer.
        layer: String,
        /// The reason.
        source: FormatError,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{}: {reason}; remove the folder to start again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A state or a cache of something else.
    #[error("{} is of another run: its {what} differ; remove the folder, or give another", .path.display())]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What.
        what: &'static str,
    },
    /// The model could not read one of its sections.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A quantizer failed while adapters were merged.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// The user asked to stop; what is done is on disk.
    #[error("interrupted after step {step}; the same call goes on from there")]
    Interrupted {
        /// Steps done.
        step: usize,
    },
}

fn examples(layers: &[String]) -> String {
    if layers.is_empty() { "none that are packed".to_owned() } else { layers.join(", ") }
}
