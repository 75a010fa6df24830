//! [`Forecast`]: how far quantized models are from a dense one, without running them.

mod pool;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use quench_metrics::Interval;
use quench_models::text::TextSource;
use quench_models::{Decoder, Encoder, Kind, ResNet};
use quench_nn::{LayerInfo, Section};
use quench_quantize::recipe::{Calibration, Transform};
use quench_quantize::{Curvature, Errors, Matrix, QuantizeError};
use serde::{Deserialize, Serialize};

use crate::JobError;
use crate::job::{Observe, Step};
use crate::save;
use crate::subject::Subject;

/// Above this divergence, in nats per label, the second order says nothing any more.
pub const TRUSTED_KL: f64 = 0.5;

/// Above this relative error of one matrix, nor does it.
pub const TRUSTED_ERROR: f64 = 0.3;

/// Bytes of errors that may wait for their gradients.
pub(crate) const ROOM: usize = 2 << 30;

/// What `quench predict` does: the curvature of a dense model, and what it says of others.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The folder of the dense model.
    pub dense: PathBuf,
    /// Quantized ones, of any tool that can be read.
    pub candidates: Vec<PathBuf>,
    /// What the gradients are averaged over: texts, or images.
    pub calibration: Vec<TextSource>,
    /// How much of it.
    pub settings: Calibration,
    /// Where to compute.
    pub device: Device,
}

/// What `quench predict --json` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Predictions {
    /// Version of Quench.
    pub version: String,
    /// The folder of the dense model.
    pub dense: PathBuf,
    /// What the gradients were averaged over.
    pub settings: Calibration,
    /// One for each quantized model.
    pub predictions: Vec<Predicted>,
}

/// A prediction, and what was measured beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Predicted {
    /// The prediction.
    #[serde(flatten)]
    pub prediction: Prediction,
    /// Why it should not be relied on.
    pub doubt: Option<String>,
    /// What the divergence is, in nats per label.
    pub measured_kl: Option<f64>,
    /// The interval of what was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_interval: Option<Interval>,
}

/// What is predicted of one quantized model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prediction {
    /// Its folder.
    pub model: PathBuf,
    /// Its size over the number of its parameters, in bits.
    pub bits_per_parameter: f64,
    /// `KL(p ‖ p̂)` by gradients along the errors of its layers, in nats per label, as if those did not depend on each other.
    pub kl: f64,
    /// Where it will probably be measured, by how far predictions of other models were off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// By gradients along all errors at once.
    pub kl_together: f64,
    /// The relative standard error of the latter, `√(2 / n)` of `n` draws.
    pub noise: f64,
    /// By K-FAC, for comparison.
    pub kl_kfac: f64,
    /// By the diagonal of the Fisher information, for comparison; right where errors of weights do not depend on each other.
    pub kl_diagonal: f64,
    /// Where the error is, in the order of the model; layers without an error are left out.
    pub layers: Vec<LayerPrediction>,
    /// Layers with an error that no gradient reached: what they cost is not in the sum.
    pub unknown: Vec<String>,
}

/// What one layer costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerPrediction {
    /// Its name.
    pub layer: String,
    /// `‖E‖ / ‖W‖`.
    pub relative_error: f64,
    /// In nats per label, by gradients along its error.
    pub kl: f64,
    /// By K-FAC; absent of tables that are looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_kfac: Option<f64>,
    /// By the diagonal; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_diagonal: Option<f64>,
}

impl Prediction {
    /// Why the prediction should not be relied on, if there is a reason.
    pub fn doubt(&self) -> Option<String> {
        if self.kl > TRUSTED_KL {
            return Some(format!("more than {TRUSTED_KL} nats are beyond the second order"));
        }
        let worst = self.layers.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error));
        if let Some(worst) = worst.filter(|worst| worst.relative_error > TRUSTED_ERROR) {
            let (layer, error) = (&worst.layer, 100.0 * worst.relative_error);
            return Some(format!("{layer} has lost {error:.0} % of itself, beyond the second order"));
        }
        let apart = self.kl_together / self.kl - 1.0;
        if apart.abs() > 3.0 * self.noise {
            let verb = if apart < 0.0 { "make up for" } else { "add to" };
            return Some(format!("its layers {verb} each other: {:.3e} together", self.kl_together));
        }
        (!self.unknown.is_empty()).then(|| format!("without {}", self.unknown.join(", ")))
    }
}

impl Forecast {
    /// Predicts the divergence of every candidate.
    ///
    /// # Errors
    /// Whatever is wrong with the models or the data; [`JobError::BrokenOff`] if `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Vec<Prediction>, JobError> {
        match Kind::of(&self.dense)? {
            Kind::Decoder => self.run_as::<Decoder>(observe),
            Kind::ResNet => self.run_as::<ResNet>(observe),
            Kind::Encoder => self.run_as::<Encoder>(observe),
        }
        .map_err(JobError::broken_off)
    }

    fn run_as<M: Subject>(&self, observe: Observe<'_>) -> Result<Vec<Prediction>, JobError> {
        let mut dense: M = opened(&self.dense, &self.device)?;
        let total = self.candidates.len();
        interrupt(observe(Step::Phase { name: "errors", total }))?;
        let mut candidates = Vec::with_capacity(total);
        for (done, folder) in self.candidates.iter().enumerate() {
            let what = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
            interrupt(observe(Step::Progress { done, of: total, what: &what }))?;
            candidates.push(Candidate::read::<M>(folder, &mut dense, self)?);
        }
        let (mut predictions, pairs) = (Vec::with_capacity(total), pool::pairs());
        // Errors wait in memory for the gradients: as many candidates go together as there is room for.
        while !candidates.is_empty() {
            let mut bytes = 0;
            let fits = |candidate: &&Candidate| {
                bytes += candidate.bytes();
                bytes <= ROOM
            };
            let together = candidates.iter().take_while(fits).count().max(1);
            let group: Vec<Candidate> = candidates.drain(..together).collect();
            let mut errors = Errors::default();
            for (key, candidate) in group.iter().enumerate() {
                for (layer, error, _) in &candidate.errors {
                    errors.add(layer, key, error, &self.device);
                }
            }
            let curvature = self.curvature::<M>(&errors, observe)?;
            for (key, candidate) in group.into_iter().enumerate() {
                let found = candidate.predict(key, &curvature);
                let interval = pool::interval(found.kl, dense.architecture(), &pairs);
                predictions.push(Prediction { interval, ..found });
            }
        }
        Ok(predictions)
    }

    /// The curvature of the dense model on the calibration data, and its slopes along errors.
    pub(crate) fn curvature<M: Subject>(&self, errors: &Errors, observe: Observe<'_>) -> Result<Curvature, JobError> {
        let device = self.device.clone().autodiff();
        let mut model: M = opened(&self.dense, &device)?;
        model.load_all().map_err(QuantizeError::from)?;
        let inputs = model.calibration(&self.dense, &self.calibration, &self.settings, &device)?;
        let total = inputs.batches.len();
        interrupt(observe(Step::Phase { name: "curvature", total }))?;
        let mut step = |done| observe(Step::Progress { done, of: total, what: "" });
        Ok(Curvature::gather(&mut model, &inputs.batches, M::LIKELIHOOD, errors, self.settings.seed, &mut step)?)
    }
}

/// A quantized model, and where it differs.
struct Candidate {
    folder: PathBuf,
    bits_per_parameter: f64,
    /// `Ŵ − W` of every layer that has one, and `‖W‖²`.
    errors: Vec<(String, Matrix, f64)>,
}

impl Candidate {
    fn read<M: Subject>(folder: &Path, dense: &mut M, forecast: &Forecast) -> Result<Self, JobError> {
        let mut model = M::from_folder(folder, &forecast.device)?;
        let layers: Vec<LayerInfo> = dense.layers();
        if layers.iter().map(key).ne(model.layers().iter().map(key)) {
            return Err(JobError::OtherLayers { path: folder.to_owned(), dense: forecast.dense.clone() });
        }
        let (parameters, _) = save::extent(dense.source().as_ref());
        let bits_per_parameter = 8.0 * save::extent(model.source().as_ref()).1 as f64 / parameters.max(1) as f64;
        let mut found = Self { folder: folder.to_owned(), bits_per_parameter, errors: Vec::new() };
        for section in dense.sections() {
            found.errors.extend(errors(dense, &mut model, section)?);
        }
        Ok(found)
    }

    /// Of its errors.
    fn bytes(&self) -> usize {
        self.errors.iter().map(|(_, error, _)| size_of_val(&error.values[..])).sum()
    }

    /// - `key`: of its errors among the slopes
    fn predict(self, key: usize, curvature: &Curvature) -> Prediction {
        let slopes = curvature.slopes().together(self.errors.iter().map(|(layer, ..)| (layer.as_str(), key)));
        let mut found = Prediction {
            model: self.folder,
            bits_per_parameter: self.bits_per_parameter,
            kl: 0.0,
            interval: None,
            kl_together: curvature.damage_along(&slopes),
            noise: (2.0 / slopes.len().max(1) as f64).sqrt(),
            kl_kfac: 0.0,
            kl_diagonal: 0.0,
            layers: Vec::new(),
            unknown: Vec::new(),
        };
        for (layer, error, energy) in self.errors {
            let Some(slopes) = curvature.slopes().along(&layer, key) else {
                found.unknown.push(layer);
                continue;
            };
            let kl = curvature.damage_along(&slopes);
            let (kl_kfac, kl_diagonal) = (curvature.damage(&layer, &error), curvature.diagonal_damage(&layer, &error));
            found.kl += kl;
            found.kl_kfac += kl_kfac.unwrap_or(kl);
            found.kl_diagonal += kl_diagonal.unwrap_or(kl);
            let relative_error = (square(&error.values) / energy).sqrt();
            found.layers.push(LayerPrediction { layer, relative_error, kl, kl_kfac, kl_diagonal });
        }
        found
    }
}

/// The transforms that quantization of such a model usually begins with, and that need no data: batch norms folded.
pub(crate) fn usual<M: Subject>() -> Vec<Transform> {
    Transform::usual().into_iter().filter(|transform| M::TRANSFORMS.contains(transform)).collect()
}

/// A dense model as quantization usually finds it, after its [`usual`] transforms.
pub(crate) fn opened<M: Subject>(folder: &Path, device: &Device) -> Result<M, JobError> {
    let mut model = M::from_folder(folder, device)?;
    for transform in usual::<M>() {
        model.transform(transform)?;
    }
    Ok(model)
}

fn key(layer: &LayerInfo) -> (&str, [usize; 2]) {
    (&layer.name, layer.shape)
}

/// The layers of a section that differ: `Ŵ − W`, and `‖W‖²`.
fn errors<M: Subject>(dense: &mut M, model: &mut M, section: Section) -> Result<Vec<(String, Matrix, f64)>, JobError> {
    dense.load(section).map_err(QuantizeError::from)?;
    model.load(section).map_err(QuantizeError::from)?;
    let mut found = Vec::new();
    for (before, after) in dense.open(section).into_iter().zip(model.open(section)) {
        let w = Matrix::of(before.weight);
        let mut error = Matrix::of(after.weight);
        error.values.iter_mut().zip(&w.values).for_each(|(after, w)| *after -= w);
        if error.values.iter().any(|error| *error != 0.0) {
            found.push((before.name, error, square(&w.values)));
        }
    }
    dense.release(section);
    model.release(section);
    Ok(found)
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum()
}

pub(crate) fn interrupt(flow: std::ops::ControlFlow<()>) -> Result<(), QuantizeError> {
    if flow.is_break() { Err(QuantizeError::Interrupted) } else { Ok(()) }
}
