//! What can go wrong between a recipe and a quantized model.

use quench_format::FormatError;
use quench_nn::LoadError;

/// An error of this crate; each names the layer, rule or key, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The recipe is not valid TOML, or a key or value in it is not known.
    #[error("recipe: {message}{}", hint(.nearest))]
    Recipe {
        /// What the parser said, with line and column.
        message: String,
        /// The valid key nearest to the one that was written.
        nearest: Option<String>,
    },
    /// A rule of the recipe names no layer of this model.
    #[error("recipe: rule {rule} ({pattern:?}) matches no layer; this model has layers like {}", .examples.join(", "))]
    RuleMatchesNothing {
        /// Position of the rule, from 1.
        rule: usize,
        /// Its pattern.
        pattern: String,
        /// Some layer names of the model.
        examples: Vec<String>,
    },
    /// A rule asks for something that cannot be done.
    #[error("recipe: rule {rule} ({pattern:?}): {reason}")]
    Rule {
        /// Position of the rule, from 1.
        rule: usize,
        /// Its pattern.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// The plan names a layer that the model does not have, or with another shape.
    #[error("plan: layer {layer}: {reason}")]
    Plan {
        /// The layer.
        layer: String,
        /// What does not fit.
        reason: String,
    },
    /// A method needs calibration inputs and there are none.
    #[error(
        "layer {layer}: {method} needs calibration inputs, and none reached it; give calibration text or use rtn with search = \"mse\""
    )]
    NoCalibration {
        /// The layer.
        layer: String,
        /// The method that needs them.
        method: &'static str,
    },
    /// The inputs of a layer are NaN or infinite.
    #[error(
        "layer {layer}: its calibration inputs are not finite; the model breaks on this text before it is quantized"
    )]
    NonFiniteInputs {
        /// The layer.
        layer: String,
    },
    /// The weights of a layer are NaN or infinite.
    #[error("layer {layer}: weight at row {row}, column {column} is {value}; a checkpoint to quantize must be finite")]
    NonFiniteWeight {
        /// The layer.
        layer: String,
        /// Output row.
        row: usize,
        /// Input column.
        column: usize,
        /// The value found.
        value: f32,
    },
    /// A weight that a code without a scale cannot hold.
    #[error(
        "layer {layer}: its largest weight, at row {row}, column {column}, is {value}: outside [-1, 1], which is all that a code \
         without a scale holds; leave out --no-scale (search = \"none\")"
    )]
    OutsideUnit {
        /// The layer.
        layer: String,
        /// Output row.
        row: usize,
        /// Input column.
        column: usize,
        /// The weight of the largest magnitude.
        value: f32,
    },
    /// The Gram matrix could not be factorised even with the largest damping.
    #[error("layer {layer}: the Gram matrix stays indefinite at damping {damping}; calibrate on more text")]
    Factor {
        /// The layer.
        layer: String,
        /// The last damping tried, relative to the mean of the diagonal.
        damping: f64,
    },
    /// The codes do not form a valid matrix.
    #[error("layer {layer}: {source}")]
    Format {
        /// The layer.
        layer: String,
        /// The reason.
        source: FormatError,
    },
    /// The model could not read one of its sections.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The journal could not keep or give back a finished section.
    #[error(transparent)]
    Journal(Box<dyn std::error::Error + Send + Sync>),
    /// The user asked to stop; what is finished is in the journal.
    #[error("interrupted")]
    Interrupted,
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|key| format!("; did you mean `{key}`?")).unwrap_or_default()
}
