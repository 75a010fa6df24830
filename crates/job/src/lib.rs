//! The main job, from folder to folder: quantize a model, measure what was lost, save the result.
//!
//! [`Job::run`] is what `quench quantize` does. It keeps a journal of finished blocks on disk, so that a run that was broken
//! off is resumed with identical result, and it publishes the new folder by renaming, whole or not at all.

mod card;
mod compress;
mod contrast;
mod convert;
pub mod document;
mod error;
mod evaluate;
mod fingerprint;
mod fit;
mod inspect;
mod job;
mod journal;
mod predict;
pub mod recipes;
mod report;
mod requantize;
mod save;
mod study;
mod subject;
mod threshold;
mod tune;

pub use card::layer_kind;
pub use compress::{Attempt, Budget, Compressed, Compression, Verdict};
pub use contrast::{
    Contrast, ContrastSettings, Contrasted, Floor, Floored, Held, Lowest, Named, Scoring, Site, metric,
};
pub use convert::{Container, Conversion, Converted};
pub use error::JobError;
pub use evaluate::Measurement;
pub use fit::{Fitted, Fitting, machine, machines};
pub use inspect::{Inspection, Row, inspect};
pub use job::{Job, Observe, Overwrite, Step};
pub use predict::{Forecast, LayerPrediction, Predicted, Prediction, Predictions, TRUSTED_ERROR, TRUSTED_KL};
pub use report::{CalibrationSize, CascadeVerdict, Report, Seconds, Size, Transformed};
pub use requantize::{Loss, Requantize};
pub use study::{Activation, Frame, LayerView, ModelLayers, Place, Study, StudySettings};
pub use threshold::{SweepSettings, Swept, Threshold, Thresholds};
pub use tune::{Tuning, TuningReport};
