//! [`Forecast`]: how far quantized models are from a dense one, without running them.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use quench_metrics::Interval;
use quench_models::text::TextSource;
use quench_models::{Decoder, Kind, ResNet};
use quench_nn::{LayerInfo, Section};
use quench_quantize::recipe::{Calibration, Transform};
use quench_quantize::{Curvature, Matrix, QuantizeError};
use serde::{Deserialize, Serialize};

use crate::JobError;
use crate::job::{Observe, Step};
use crate::save;
use crate::subject::Subject;

/// Above this divergence, in nats per label, the second order says nothing any more.
pub const TRUSTED_KL: f64 = 0.5;

/// Above this relative error of one matrix, nor does it.
pub const TRUSTED_ERROR: f64 = 0.3;

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
    /// `KL(p ‖ p̂)` by K-FAC, in nats per label, and by the diagonal of the Fisher information.
    pub kl: f64,
    /// By the diagonal, right where errors do not depend on each other.
    pub kl_diagonal: f64,
    /// Where the error is, in the order of the model; layers without an error are left out.
    pub layers: Vec<LayerPrediction>,
    /// Layers with an error that no gradient reached, such as tables that are looked up: what they cost is not in the sum.
    pub unknown: Vec<String>,
}

/// What one layer costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerPrediction {
    /// Its name.
    pub layer: String,
    /// `‖E‖ / ‖W‖`.
    pub relative_error: f64,
    /// In nats per label, by K-FAC.
    pub kl: f64,
    /// By the diagonal.
    pub kl_diagonal: f64,
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
        (!self.unknown.is_empty()).then(|| format!("without {}", self.unknown.join(", ")))
    }
}

impl Forecast {
    /// Predicts the divergence of every candidate.
    ///
    /// # Errors
    /// Whatever is wrong with the models or the data; [`JobError::NoLogits`] for a model without classes;
    /// [`JobError::BrokenOff`] if `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Vec<Prediction>, JobError> {
        match Kind::of(&self.dense)? {
            Kind::Decoder => self.run_as::<Decoder>(observe),
            Kind::ResNet => self.run_as::<ResNet>(observe),
            kind @ Kind::Encoder => Err(JobError::NoLogits { path: self.dense.clone(), kind }),
        }
        .map_err(JobError::broken_off)
    }

    fn run_as<M: Subject>(&self, observe: Observe<'_>) -> Result<Vec<Prediction>, JobError> {
        let curvature = self.curvature::<M>(observe)?;
        let mut dense: M = opened(&self.dense, &self.device)?;
        let total = self.candidates.len();
        let mut predictions = Vec::with_capacity(total);
        interrupt(observe(Step::Phase { name: "predict", total }))?;
        for (done, folder) in self.candidates.iter().enumerate() {
            let what = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
            interrupt(observe(Step::Progress { done, of: total, what: &what }))?;
            predictions.push(self.predict::<M>(&curvature, &mut dense, folder)?);
        }
        Ok(predictions)
    }

    /// The curvature of the dense model on the calibration data.
    pub(crate) fn curvature<M: Subject>(&self, observe: Observe<'_>) -> Result<Curvature, JobError> {
        let device = self.device.clone().autodiff();
        let mut model: M = opened(&self.dense, &device)?;
        model.load_all().map_err(QuantizeError::from)?;
        let inputs = model.calibration(&self.dense, &self.calibration, &self.settings, &device)?;
        let total = inputs.batches.len();
        interrupt(observe(Step::Phase { name: "curvature", total }))?;
        let mut step = |done| observe(Step::Progress { done, of: total, what: "" });
        Ok(Curvature::gather(&model, &inputs.batches, self.settings.seed, &mut step)?)
    }

    fn predict<M: Subject>(&self, curvature: &Curvature, dense: &mut M, folder: &Path) -> Result<Prediction, JobError> {
        let mut model = M::from_folder(folder, &self.device)?;
        let layers: Vec<LayerInfo> = dense.layers();
        if layers.iter().map(key).ne(model.layers().iter().map(key)) {
            return Err(JobError::OtherLayers { path: folder.to_owned(), dense: self.dense.clone() });
        }
        let (parameters, _) = save::extent(dense.source().as_ref());
        let bits = 8.0 * save::extent(model.source().as_ref()).1 as f64 / parameters.max(1) as f64;
        let mut found = Prediction {
            model: folder.to_owned(),
            bits_per_parameter: bits,
            kl: 0.0,
            kl_diagonal: 0.0,
            layers: Vec::new(),
            unknown: Vec::new(),
        };
        for section in dense.sections() {
            for (layer, error, energy) in errors(dense, &mut model, section)? {
                match (curvature.damage(&layer, &error), curvature.diagonal_damage(&layer, &error)) {
                    (Some(kl), Some(kl_diagonal)) => {
                        found.kl += kl;
                        found.kl_diagonal += kl_diagonal;
                        let relative_error = (square(&error.values) / energy).sqrt();
                        found.layers.push(LayerPrediction { layer, relative_error, kl, kl_diagonal });
                    }
                    _ => found.unknown.push(layer),
                }
            }
        }
        Ok(found)
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
