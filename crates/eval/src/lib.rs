//! The dense model beside the quantized one: perplexity, divergence, agreement, per language and per layer.
//!
//! [`compare`] walks a dense model and its candidates over the same [`Text`]s, block by block, so that no model is
//! whole in memory; [`perplexity`] scores one model alone. Models that are not decoders are run by the caller:
//! [`Classification`] takes their logits on [`Labelled`] images, [`SentenceComparison`] their vectors of the texts of
//! [`Task`]s. All three are a [`Measured`], which [`check`] holds against the gates of a recipe. The numbers are defined
//! in `docs/evaluation.md`.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use burn::tensor::{Device, Int, Tensor};
//! use quench_eval::{Candidate, EvalError, Options, Text, compare};
//! use quench_nn::Model;
//!
//! /// What did quantization cost on these token ids?
//! fn cost<M: Model<Input = Tensor<2, Int>>>(
//!     dense: &mut M,
//!     quantized: &mut M,
//!     ids: Vec<u32>,
//!     device: &Device,
//! ) -> Result<String, EvalError> {
//!     let texts = [Text { language: None, sequences: vec![ids] }];
//!     let mut candidates = [Candidate { name: "int4".into(), model: quantized }];
//!     let mut progress = |_done, _total| ControlFlow::Continue(());
//!     let comparison = compare(dense, &mut candidates, &texts, &Options::default(), device, &mut progress)?;
//!     Ok(comparison.table())
//! }
//! ```

mod batch;
mod compare;
mod error;
mod gates;
mod images;
mod judgements;
mod layers;
mod measured;
mod probe;
mod protocol;
mod report;
mod score;
mod sentences;
mod walk;

pub use compare::{Candidate, Options, compare, perplexity};
pub use error::EvalError;
pub use gates::{Gate, GateResult, check};
pub use images::{Classification, ImageAccuracy, ImageComparison, ImageScore, Labelled};
pub use judgements::Judgements;
pub use layers::LayerError;
pub use measured::{Estimate, Measured};
pub use probe::Statements;
pub use protocol::{Protocol, Text, Window};
pub use quench_metrics::{Bootstrap, Interval, Summary};
pub use report::gate_table;
pub use score::{CandidateScore, Comparison, ModelScore, Perplexity, Score};
pub use sentences::{
    Measure, NeighbourScore, SentenceComparison, SentenceScore, Task, TaskChange, TaskScore, VectorScore,
};
