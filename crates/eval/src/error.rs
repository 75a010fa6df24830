//! What can go wrong while models are compared.

use quench_nn::LoadError;

/// An error of this crate; each names the model or text, what was expected, and what was found.
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
    #[error("{model}: its logits on evaluation text {text} are not finite")]
    NonFinite {
        /// `dense`, or the candidate's name.
        model: String,
        /// The language of the text, or its position from 1.
        text: String,
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
