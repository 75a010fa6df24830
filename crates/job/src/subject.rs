//! [`Subject`]: what a job needs to know of a kind of model, to calibrate and to measure it.

mod decoder;
mod encoder;
mod resnet;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use quench_checkpoint::Source;
use quench_eval::{Candidate, Measured};
use quench_models::Kind;
use quench_models::text::TextSource;
use quench_nn::Model;
use quench_quantize::Likelihood;
use quench_quantize::recipe::{Calibration, Evaluation, Transform};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{CalibrationSize, JobError};

/// A kind of model, with the data that it reads.
pub(crate) trait Subject: Model + Clone {
    /// What it is measured on, read and checked.
    type Tasks;

    /// The law of what it says; how far models are from each other is the divergence of their laws.
    const LIKELIHOOD: Likelihood<Self::Input> = Likelihood::Classes;

    /// Which kind it is.
    const KIND: Kind;

    /// What calibrates it, for errors: `"text"`.
    const DATA: &'static str;

    /// The transforms that apply to it.
    const TRANSFORMS: &'static [Transform] = &[];

    /// Opens a folder, as the model's own `open`.
    fn from_folder(folder: &Path, device: &Device) -> Result<Self, JobError>;

    /// What it is, in the words of its configuration: `llama`.
    fn architecture(&self) -> &'static str;

    /// Where the weights come from, as transformed.
    fn source(&self) -> &Arc<dyn Source>;

    /// Changes the network before anything is read of it, by one of [`TRANSFORMS`](Self::TRANSFORMS) that needs no data; whether
    /// anything was changed.
    fn transform(&mut self, transform: Transform) -> Result<bool, JobError> {
        unreachable!("{transform} is none of its transforms")
    }

    /// Scales channels, as found by one of [`TRANSFORMS`](Self::TRANSFORMS).
    fn rescale(&mut self, factors: &BTreeMap<String, Vec<f32>>) -> Result<(), JobError> {
        unreachable!("a network without seams has no factors, found {}", factors.len())
    }

    /// Keys that the configuration gets by what was transformed.
    fn marks(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// The longest window of running text that it is measured on, in tokens; `None` where there are no windows.
    fn context(&self) -> Option<usize>;

    /// Draws calibration inputs.
    ///
    /// # Errors
    /// If the data cannot be read, or there is too little of it; naming the file.
    fn calibration(
        &self,
        folder: &Path,
        from: &[TextSource],
        settings: &Calibration,
        device: &Device,
    ) -> Result<Inputs<Self::Input>, JobError>;

    /// Reads what the model is to be measured on.
    ///
    /// # Errors
    /// If the data cannot be read, or is not about such a model; naming the file.
    fn tasks(&self, folder: &Path, from: &[TextSource], settings: &Evaluation) -> Result<Self::Tasks, JobError>;

    /// Measures the dense model and every candidate on `tasks`.
    ///
    /// - `progress`: called with the steps done and the steps in all; breaking stops the evaluation
    ///
    /// # Errors
    /// Whatever evaluation reports; [`quench_eval::EvalError::Interrupted`] if `progress` broke off.
    fn measure(
        dense: &mut Self,
        candidates: &mut [Candidate<'_, Self>],
        tasks: &Self::Tasks,
        settings: &Evaluation,
        device: &Device,
        progress: Progress<'_>,
    ) -> Result<Measured, JobError>;
}

/// Called with the steps done and the steps in all; breaking stops the work.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// Calibration inputs.
pub(crate) struct Inputs<I> {
    /// In batches, in the order in which they were drawn.
    pub(crate) batches: Vec<I>,
    /// How much there is.
    pub(crate) size: CalibrationSize,
    /// Of what was drawn: the same inputs, the same checksum.
    pub(crate) checksum: Sha256,
}

impl<I> Inputs<I> {
    /// For methods that need none.
    pub(crate) fn none() -> Self {
        Self { batches: Vec::new(), size: CalibrationSize::default(), checksum: Sha256::new() }
    }
}
