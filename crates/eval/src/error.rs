//! What can go wrong while models are compared.

use std::path::PathBuf;

use quench_nn::LoadError;

/// An error of this crate; each names the model, file or text, what was expected, and what was found.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The protocol cannot be carried out.
    #[error("evaluation protocol: {0}")]
    Protocol(String),
    /// A text has no token that the protocol scores.
    #[error("evaluation text {text}: no token to score; give a text of at least {needed} tokens")]
    NothingToScore {
        /// The language of the text, or its position from 1.
        text: String,
        /// The shortest text that has a scored token.
        needed: usize,
    },
    /// A token is outside the vocabulary of the model.
    #[error(
        "evaluation text {text}: token {id} is outside the vocabulary of {vocab}; was it encoded with another tokenizer?"
    )]
    Vocabulary {
        /// The language of the text, or its position from 1.
        text: String,
        /// The token.
        id: u32,
        /// The number of tokens that the model knows.
        vocab: usize,
    },
    /// A candidate is not a version of the dense model.
    #[error("{candidate} cannot be compared with the dense model: {reason}")]
    Mismatch {
        /// The candidate's name.
        candidate: String,
        /// The first difference.
        reason: String,
    },
    /// A model predicts NaN or infinity.
    #[error("{model}: its logits on {input} are not finite")]
    NonFinite {
        /// `dense model`, or the candidate's name.
        model: String,
        /// What the model read: `evaluation text de`, `image 17`.
        input: String,
    },
    /// A model gives a text a vector without direction.
    #[error("{model}: its vector of {text:?} in {task} is zero or not finite")]
    Vector {
        /// `dense model`, or the candidate's name.
        model: String,
        /// The task's name.
        task: String,
        /// The text.
        text: String,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A line of a file is not what it must be.
    #[error("{}: line {line} must be {expected}, found {found}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1, where the record begins.
        line: usize,
        /// What is due.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A folder of texts has not the files of a probe.
    #[error("{}: {reason}; a folder of texts holds train*.tsv, and dev.tsv or test.tsv", path.display())]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A task leaves nothing to measure.
    #[error("{task}: {reason}")]
    Task {
        /// The task's name.
        task: String,
        /// Why.
        reason: String,
    },
    /// A folder is called as no class of the model.
    #[error("{}: the model has no class of this name{} It knows {}", path.display(), hint(nearest), list(classes))]
    UnknownClass {
        /// The folder.
        path: PathBuf,
        /// The class with the nearest name, if one is near.
        nearest: Option<String>,
        /// What the model knows.
        classes: Vec<String>,
    },
    /// A folder of images has not one folder for each class of a model without labels.
    #[error("{}: {found} folders of classes, but the model tells {expected} classes apart and does not name them; give one \
             folder for each, sorted as its outputs are", path.display())]
    ClassCount {
        /// The folder.
        path: PathBuf,
        /// How many folders it has.
        found: usize,
        /// How many outputs the model has.
        expected: usize,
    },
    /// A folder of images has no folder of a class.
    #[error("{}: no class: it must hold one folder of images for each class{}", path.display(), known(classes))]
    NoClass {
        /// The folder.
        path: PathBuf,
        /// What the model knows; empty if it names no class.
        classes: Vec<String>,
    },
    /// The folder of a class has no image.
    #[error("{}: no image; put .jpg, .jpeg or .png files there, or remove the folder", path.display())]
    NoImage {
        /// The folder.
        path: PathBuf,
    },
    /// A model could not read one of its sections.
    #[error("{model}: {source}")]
    Load {
        /// `dense`, or the candidate's name.
        model: String,
        /// The reader's error.
        source: LoadError,
    },
    /// Whoever watches the progress broke off.
    #[error("interrupted")]
    Interrupted,
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(|| ".".to_owned(), |name| format!("; did you mean `{name}`?"))
}

fn known(classes: &[String]) -> String {
    if classes.is_empty() { String::new() } else { format!("; the model knows {}", list(classes)) }
}

/// `10 classes: airplane, automobile, bird, ...`.
fn list(classes: &[String]) -> String {
    const SHOWN: usize = 20;
    let names = classes.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let rest = if classes.len() > SHOWN { ", ..." } else { "" };
    format!("{} classes: {names}{rest}", classes.len())
}
