//! [`Measurement`]: a model alone, or beside its dense original.

use std::path::PathBuf;

use burn::tensor::Device;
use quench_eval::{Candidate, Measured};
use quench_kernels::Activations;
use quench_models::text::TextSource;
use quench_models::{Decoder, Encoder, Kind, ResNet};
use quench_quantize::recipe::Evaluation;

use crate::JobError;
use crate::job::{Observe, evaluation_steps};
use crate::subject::Subject;

/// What `quench eval` measures.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The folder of the model, dense or quantized.
    pub model: PathBuf,
    /// How it is called in the result.
    pub name: String,
    /// The folder of the dense model to compare with.
    pub against: Option<PathBuf>,
    /// What to measure on: texts, for a sentence encoder [tasks](quench_eval::Task), for an image classifier a folder of
    /// labelled images.
    pub data: Vec<TextSource>,
    /// How.
    pub settings: Evaluation,
    /// In which precision products of packed layers read their input.
    pub activations: Activations,
    /// Where to compute.
    pub device: Device,
}

impl Measurement {
    /// Measures the model; without another to compare with, the result has no candidates.
    ///
    /// # Errors
    /// Whatever is wrong with the models or the data; [`quench_eval::EvalError::Interrupted`] if `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Measured, JobError> {
        let kind = Kind::of(&self.model)?;
        if let Some(against) = &self.against {
            let other = Kind::of(against)?;
            if other != kind {
                return Err(JobError::Kinds { path: self.model.clone(), kind, against: against.clone(), other });
            }
        }
        match kind {
            Kind::Decoder => self.run_as::<Decoder>(observe),
            Kind::Encoder => self.run_as::<Encoder>(observe),
            Kind::ResNet => self.run_as::<ResNet>(observe),
        }
    }

    fn run_as<M: Subject>(&self, observe: Observe<'_>) -> Result<Measured, JobError> {
        let mut model = M::from_folder(&self.model, &self.device)?;
        model.set_activations(self.activations);
        if let Some(context) = model.context().filter(|context| self.settings.length > *context) {
            return Err(JobError::WindowTooLong { length: self.settings.length, context });
        }
        // Beside the dense model, its words: files of other tools often have none of their own.
        let words = self.against.as_ref().unwrap_or(&self.model);
        let tasks = model.tasks(words, &self.data, &self.settings)?;
        let mut progress = evaluation_steps(observe);
        let Some(against) = &self.against else {
            return M::measure(&mut model, &mut [], &tasks, &self.settings, &self.device, &mut progress);
        };
        let mut dense = M::from_folder(against, &self.device)?;
        dense.set_activations(self.activations);
        let mut candidates = [Candidate { name: self.name.clone(), model: &mut model }];
        M::measure(&mut dense, &mut candidates, &tasks, &self.settings, &self.device, &mut progress)
    }
}
