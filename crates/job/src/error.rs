//! What can go wrong with a job.

use std::io;
use std::path::PathBuf;

use quench_checkpoint::CheckpointError;
use quench_checkpoint::dialect::Unwritable;
use quench_eval::EvalError;
use quench_models::{Kind, ModelError};
use quench_quantize::QuantizeError;
use quench_quantize::recipe::Transform;
use quench_tune::TuneError;

use crate::{Container, Loss};

/// An error of a job; each names the culprit and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// No machine of that name.
    #[error("no machine {name:?}; did you mean {nearest:?}? `quench fit MODEL --device all` lists them")]
    UnknownMachine {
        /// What was asked for.
        name: String,
        /// The machine with the nearest name.
        nearest: String,
    },
    /// A model without a cache of keys and values.
    #[error("{} is a {kind}; only a language model is fitted to machines", .path.display())]
    NoCache {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        kind: Kind,
    },
    /// A container in which codes cannot be entropy-coded.
    #[error("{container} has no entropy-coded layers: choose quench or lsq, or leave --entropy-code out")]
    NoEntropyCoding {
        /// What was to be written.
        container: Container,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such recipe.
    #[error(
        "no recipe {name:?}; did you mean {nearest:?}? `quench recipes` lists them, and a path to a .toml file works too"
    )]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// The embedded recipe with the nearest name.
        nearest: &'static str,
    },
    /// A recipe file is not valid.
    #[error("{file}: {source}")]
    Recipe {
        /// Its name or path.
        file: String,
        /// What is wrong.
        source: QuantizeError,
    },
    /// The model is already quantized.
    #[error("{}: layer {layer} is already quantized; give the folder of the dense model", .path.display())]
    AlreadyQuantized {
        /// The folder.
        path: PathBuf,
        /// Its first packed layer.
        layer: String,
    },
    /// The result would replace the model that it is made from.
    #[error("{} is the dense model itself; give another --output", .path.display())]
    OutputIsModel {
        /// The folder.
        path: PathBuf,
    },
    /// A network with activations that are turned as it runs would go where nobody turns them.
    #[error(
        "{} has `{key}` in its config.json: some of its matrices are stored turned, and readers of {container} would not turn what \
         they read; use --to quench or --to lsq, or quantize again without rotate-mlp",
        .path.display()
    )]
    Turned {
        /// The checkpoint.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What was asked for.
        container: Container,
    },
    /// The result would replace the checkpoint that it is made from.
    #[error("{} is the input itself; name another output", .path.display())]
    OutputIsInput {
        /// The folder or file.
        path: PathBuf,
    },
    /// A file of that name exists.
    #[error("output file {} exists; --force replaces it", .path.display())]
    OutputExists {
        /// The file.
        path: PathBuf,
    },
    /// The name of a file says another container than was asked for.
    #[error(
        "{} is not the name of a file in {container}; name {}a file that ends in .{expected}",
        .path.display(),
        if *.container == Container::Gguf { "" } else { "a folder, or " }
    )]
    Extension {
        /// The file.
        path: PathBuf,
        /// What it would hold.
        container: Container,
        /// How its name should end.
        expected: &'static str,
    },
    /// Packed layers that a container cannot hold as they are.
    #[error(
        "{container} cannot hold packed layers of {} as they are ({})\n  {}\n  --requantize rounds them so, \
         --requantize CODE/GROUP/SCALE onto another grid; --to safetensors decodes them",
        .path.display(),
        .losses.first().map(|loss| loss.reason.as_str()).unwrap_or_default(),
        .losses.iter().map(Loss::to_string).collect::<Vec<_>>().join("\n  ")
    )]
    Unfit {
        /// The checkpoint.
        path: PathBuf,
        /// What was asked for.
        container: Container,
        /// What each kind of layers would lose on the nearest grid.
        losses: Vec<Loss>,
    },
    /// A packed layer for which a container has no grid at all.
    #[error("layer {layer} ({scheme}) does not fit into {container}: {reason}; --to safetensors decodes it")]
    NoGrid {
        /// The layer.
        layer: String,
        /// How it is coded.
        scheme: String,
        /// What was asked for.
        container: Container,
        /// What the container lacks.
        reason: String,
    },
    /// Layers that fit one by one, but that no configuration of that dialect describes together.
    #[error("{0}; use --to quench or --to lsq, or quantize the model with one scheme for that dialect")]
    Mixed(Unwritable),
    /// There is no such container.
    #[error("no container {name:?}: expected lsq, quench, safetensors, gptq, awq, compressed-tensors or gguf")]
    UnknownContainer {
        /// What was asked for.
        name: String,
    },
    /// An earlier run was broken off, and cannot be gone on from.
    #[error("{} is left of an interrupted run; --force removes it and starts again", .path.display())]
    Leftover {
        /// Its folder.
        path: PathBuf,
    },
    /// The method needs calibration data and none was given.
    #[error(
        "the plan uses {method}, which needs calibration {data}; give --calibration PATH, or use an rtn recipe with search = \"mse\""
    )]
    NoCalibration {
        /// The method.
        method: &'static str,
        /// What calibrates such a model: `"text"` or `"images"`.
        data: &'static str,
    },
    /// The two models are not of one kind.
    #[error("{} is a {kind} and {} a {other}; give the dense original of the model", .path.display(), .against.display())]
    Kinds {
        /// The model.
        path: PathBuf,
        /// What it is.
        kind: Kind,
        /// The model to compare with.
        against: PathBuf,
        /// What that is.
        other: Kind,
    },
    /// What a plan is chosen by cannot be measured here.
    #[error("the divergence is not evaluated: {0}")]
    Unmeasured(String),
    /// Plans are chosen by what is measured, and there is nothing to measure on.
    #[error("there is nothing to measure plans on; give evaluation data")]
    NoEvaluation,
    /// No bytes can be divided over these layers.
    #[error("{0}")]
    Allocate(#[from] quench_quantize::AllocateError),
    /// A model that gives no distribution.
    #[error("{} is a {kind}, which gives vectors and no distribution; its divergence cannot be predicted, measure with `quench eval`", .path.display())]
    NoLogits {
        /// The model.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// Steps that tell nothing.
    #[error("{0}")]
    Steps(String),
    /// No layer of that name.
    #[error("{} has no layer that {pattern:?} matches and whose input is multiplied; `quench inspect --verbose` lists them", .path.display())]
    NoLayers {
        /// The model.
        path: PathBuf,
        /// What was asked for.
        pattern: String,
    },
    /// Two models of one size, which say nothing of how something depends on the size.
    #[error("{} and {} both have {weights} weights to round; a transition shows in models of different sizes", .path.display(), .other.display())]
    SameSize {
        /// The model.
        path: PathBuf,
        /// The other one.
        other: PathBuf,
        /// Their size.
        weights: usize,
    },
    /// A verdict needs more samples.
    #[error("inconclusive: {found} {what}, and at least {needed} are needed; give more data")]
    TooFewSamples {
        /// Of what: `"sequences"`.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        needed: usize,
    },
    /// What a model says is not a number.
    #[error("{} gives numbers that are not finite, or no gradient, on this data", .path.display())]
    NotFinite {
        /// The model.
        path: PathBuf,
    },
    /// Two sides that have not a vector for each of the other's.
    #[error(
        "{site}: {reference} vectors in the reference and {approximation} in the approximation; they are compared row by row"
    )]
    Unpaired {
        /// Where.
        site: String,
        /// Vectors of the reference.
        reference: usize,
        /// Vectors of the approximation.
        approximation: usize,
    },
    /// There is no such metric.
    #[error(
        "no metric {name:?}; did you mean {nearest}? There are {}",
        quench_metrics::Metric::ALL.map(|metric| metric.to_string()).join(", ")
    )]
    UnknownMetric {
        /// What was asked for.
        name: String,
        /// The metric with the nearest name.
        nearest: quench_metrics::Metric,
    },
    /// A metric compares what these models do not give.
    #[error("`{metric}` compares predictions, and {} gives vectors only; leave it out", .path.display())]
    NotHere {
        /// The metric.
        metric: quench_metrics::Metric,
        /// The reference.
        path: PathBuf,
    },
    /// A floor that cannot be read.
    #[error("{text:?} is no floor: METRIC=SCORE with a score from 0, chance, to 1, nothing lost")]
    Floor {
        /// What was typed.
        text: String,
    },
    /// A scheme is misspelled.
    #[error(transparent)]
    Scheme(#[from] quench_format::FormatError),
    /// A setting out of its range.
    #[error("{name} must be {range}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// A file without vectors.
    #[error("{}: {why}", .path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Two models whose matrices cannot be compared one by one.
    #[error("{} has not the layers of {}; give the dense original of the model, as it was before any transform", .path.display(), .dense.display())]
    OtherLayers {
        /// The model.
        path: PathBuf,
        /// What should be its original.
        dense: PathBuf,
    },
    /// The plan asks for a transform of something that the model has not.
    #[error("the plan asks for {transform}, and {} has nothing that it applies to; take it out of `transforms`", .path.display())]
    Transform {
        /// The model.
        path: PathBuf,
        /// The transform.
        transform: Transform,
    },
    /// Images are measured on one folder.
    #[error(
        "an image classifier is measured on one folder, with a folder of images for each class in it{}",
        .second.as_ref().map(|path| format!("; {} is a second one", path.display())).unwrap_or_default()
    )]
    ImageFolders {
        /// The second folder, where there is one.
        second: Option<PathBuf>,
    },
    /// Windows of text would be longer than what the model reads at once.
    #[error("windows of {length} tokens are longer than the context of the model; give --length {context} or less")]
    WindowTooLong {
        /// Tokens per window.
        length: usize,
        /// Tokens that the model reads at once.
        context: usize,
    },
    /// The text is too short to evaluate on.
    #[error("the evaluation text{} has {tokens} tokens; at least 2 are needed to score one", .language.as_ref().map(|l| format!(" for {l}")).unwrap_or_default())]
    NothingToEvaluate {
        /// The language, where one was named.
        language: Option<String>,
        /// Tokens found.
        tokens: usize,
    },
    /// An earlier run of this job was broken off.
    #[error("{} holds an unfinished run; --resume goes on from it, --force starts again", .path.display())]
    Unfinished {
        /// Its folder.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("there is no unfinished run at {}; start without --resume", .path.display())]
    NothingToResume {
        /// The folder looked for.
        path: PathBuf,
    },
    /// The unfinished run is another job.
    #[error("{} holds an unfinished run of another job ({what} differs); --force starts again", .path.display())]
    OtherJob {
        /// Its folder.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// An unfinished run's journal is damaged.
    #[error("{}: {reason}; --force starts again", .path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing tensors failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model, its tokenizer or a text is no good.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Quantization failed.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// Fine-tuning failed.
    #[error(transparent)]
    Tune(#[from] TuneError),
    /// There is nothing to fine-tune in a model that is not quantized.
    #[error("{} has no packed layer; quantize it first, and give the dense model as --teacher", .path.display())]
    NotQuantized {
        /// The folder.
        path: PathBuf,
    },
    /// Evaluation failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The user asked to stop.
    #[error("interrupted; finished blocks are in {}, and --resume goes on from them", .path.display())]
    Interrupted {
        /// The folder of the unfinished run.
        path: PathBuf,
    },
    /// The user asked to stop what cannot be gone on from.
    #[error("interrupted; nothing was kept")]
    BrokenOff,
}

impl JobError {
    /// An interruption, of whatever part, of work of which nothing is kept; every other error as it is.
    pub(crate) fn broken_off(self) -> Self {
        match self {
            Self::Interrupted { .. }
            | Self::Quantize(QuantizeError::Interrupted)
            | Self::Eval(EvalError::Interrupted)
            | Self::Checkpoint(CheckpointError::Stopped { .. }) => Self::BrokenOff,
            other => other,
        }
    }

    /// The process exit code: 130 for an interruption, 2 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted { .. }
            | Self::BrokenOff
            | Self::Tune(TuneError::Interrupted { .. })
            | Self::Checkpoint(CheckpointError::Stopped { .. }) => 130,
            _ => 2,
        }
    }

    /// Whether the same job may succeed if it is resumed: after an interruption, or when a disk is no longer full.
    pub(crate) fn is_worth_resuming(&self) -> bool {
        matches!(
            self,
            Self::Interrupted { .. }
                | Self::Tune(TuneError::Interrupted { .. } | TuneError::Diverged { .. } | TuneError::File { .. })
                | Self::Write { .. }
                | Self::Checkpoint(CheckpointError::Write { .. })
                | Self::Quantize(QuantizeError::Journal(_))
        )
    }
}
