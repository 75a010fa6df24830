//! [`Contrast`]: what two models, or two sets of vectors, have in common, by many metrics.

mod activations;
mod floors;
mod site;
mod vectors;

use std::path::PathBuf;

use burn::tensor::Device;
use quench_metrics::hypercubicity::Hypercubicity;
use quench_metrics::{Bootstrap, Metric, Value};
use quench_models::text::TextSource;
use quench_quantize::recipe::Calibration;
use quench_report::{Map, Shape};
use serde::{Deserialize, Serialize};

use crate::JobError;
use crate::job::{Observe, Step};
use crate::predict::interrupt;

pub use floors::{Floor, Floored, Held};

/// What `quench measure` does: the same data through both models, and what is the same about what they make of it.
#[derive(Clone, Debug)]
pub struct Contrast {
    /// The reference: the folder of a dense model, or a file of vectors.
    pub reference: PathBuf,
    /// What approximates it: another folder of the same kind of model, or another file of as many vectors.
    pub approximation: PathBuf,
    /// What both read: texts, or images. Not looked at for vectors.
    pub data: Vec<TextSource>,
    /// How.
    pub settings: ContrastSettings,
    /// Where to compute.
    pub device: Device,
}

/// How two models are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastSettings {
    /// How much data.
    pub data: Calibration,
    /// The metrics; empty for all that apply.
    pub metrics: Vec<Metric>,
    /// What must be kept.
    pub floors: Vec<Floor>,
    /// Neighbours of a vector.
    pub k: usize,
    /// Vectors of a site that are compared, at most.
    pub points: usize,
    /// Of those, landmarks whose shape is looked at.
    pub landmarks: usize,
    /// Of all intervals.
    pub bootstrap: Bootstrap,
}

impl Default for ContrastSettings {
    fn default() -> Self {
        Self {
            data: Calibration { samples: 32, length: 128, batch: 4, ..Calibration::default() },
            metrics: Vec::new(),
            floors: Vec::new(),
            k: 10,
            points: 1000,
            landmarks: 200,
            bootstrap: Bootstrap::default(),
        }
    }
}

/// What `quench measure --json` writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contrasted {
    /// Version of Quench.
    pub version: String,
    /// The reference.
    pub reference: PathBuf,
    /// The approximation.
    pub approximation: PathBuf,
    /// How they were compared.
    pub settings: ContrastSettings,
    /// What they predict; none for vectors.
    pub predictions: Vec<Scoring>,
    /// Numbers of the predictions that are no scores: divergences, and answers that changed.
    pub divergences: Vec<Named>,
    /// What they look like inside, site by site.
    pub sites: Vec<Site>,
    /// The least score of all metrics and sites; `None` where every metric is inconclusive.
    pub coherence: Option<Lowest>,
    /// What became of the floors.
    pub floors: Vec<Floored>,
}

/// A metric, and what it found or why it did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scoring {
    /// The metric.
    pub metric: Metric,
    /// What was found, if anything was.
    pub value: Option<Value>,
    /// Why nothing was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inconclusive: Option<String>,
    /// How many samples are needed, where there are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<usize>,
}

/// A number with its name and its unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// What it is.
    pub name: String,
    /// Its unit; empty for a plain number.
    pub unit: String,
    /// The number.
    pub value: Value,
}

/// One place in both models, or two tensors of one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub site: String,
    /// How many vectors, on both sides.
    pub vectors: usize,
    /// Their widths: of the reference, of the approximation.
    pub widths: [usize; 2],
    /// Vectors that equal another one, on each side.
    pub duplicates: [usize; 2],
    /// What is the same.
    pub metrics: Vec<Scoring>,
    /// Whether they sit in corners, on each side; `None` for fewer than two vectors.
    pub corners: Option<[Hypercubicity; 2]>,
    /// The latent space of the reference, and what of the approximation is in it.
    pub latent: Vec<Named>,
    /// What was not measured, and why.
    pub notes: Vec<String>,
    /// Persistence diagrams, with what is certified of them.
    pub shape: Option<Shape>,
    /// Both in the plane of the reference.
    pub map: Option<Map>,
}

/// The lowest score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lowest {
    /// Its metric.
    pub metric: Metric,
    /// Where; empty for predictions.
    pub site: String,
    /// Beyond chance, 1 where nothing is lost.
    pub score: f64,
}

/// A site of two models before it is compared.
struct Clouds {
    site: String,
    /// The vectors of the reference and of the approximation, `[n, width]`.
    sides: [burn::tensor::Tensor<2>; 2],
    /// How many vectors each sequence has, one after the other; empty where each is on its own.
    sequences: Vec<usize>,
}

/// What two models predict of the same labels.
#[derive(Default)]
struct Predicted {
    kl: Vec<f32>,
    jsd: Vec<f32>,
    agreement: Vec<bool>,
    /// Whether each side is right, where it is known what is.
    right: Option<[Vec<bool>; 2]>,
    sequences: Vec<usize>,
}

impl Contrasted {
    /// Whether a floor is missed, or may be.
    pub fn below(&self) -> bool {
        self.floors.iter().any(|floor| floor.held != Held::Kept)
    }
}

impl Contrast {
    /// Compares.
    ///
    /// # Errors
    /// Whatever is wrong with the models, the files or the data; [`JobError::Unpaired`] for sides with different numbers of vectors;
    /// [`JobError::NotFinite`]; [`JobError::NotHere`] for a metric of predictions where there are none;
    /// [`JobError::BrokenOff`] if `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Contrasted, JobError> {
        self.run_whole(observe).map_err(JobError::broken_off)
    }

    fn run_whole(&self, observe: Observe<'_>) -> Result<Contrasted, JobError> {
        let (clouds, predicted) = if vectors::are_meant(&self.reference) {
            (vectors::read(&self.reference, &self.approximation, &self.device)?, None)
        } else {
            activations::collect(self, observe)?
        };
        let asked: Vec<Metric> = if self.settings.metrics.is_empty() {
            Metric::ALL.into_iter().filter(|metric| predicted.is_some() || !metric.of_predictions()).collect()
        } else {
            // A floor is on something that has to be measured.
            let floors = self.settings.floors.iter().filter_map(|floor| floor.metric);
            let mut asked = self.settings.metrics.clone();
            asked.extend(floors.filter(|metric| !self.settings.metrics.contains(metric)));
            asked
        };
        let floored = self.settings.floors.iter().filter_map(|floor| floor.metric);
        if let Some(metric) =
            asked.iter().copied().chain(floored).find(|metric| metric.of_predictions() && predicted.is_none())
        {
            return Err(JobError::NotHere { metric, path: self.reference.clone() });
        }
        let (outside, inside): (Vec<Metric>, Vec<Metric>) = asked.iter().partition(|metric| metric.of_predictions());
        let mut sites = Vec::with_capacity(clouds.len());
        interrupt(observe(Step::Phase { name: "compare", total: clouds.len() }))?;
        let total = clouds.len();
        for (done, clouds) in clouds.into_iter().enumerate() {
            interrupt(observe(Step::Progress { done, of: total, what: &clouds.site }))?;
            self.check(&clouds)?;
            sites.push(site::compare(clouds, &inside, &self.settings));
        }
        let predictions =
            predicted.as_ref().map_or(Vec::new(), |found| site::predictions(found, &outside, &self.settings));
        let divergences = predicted.as_ref().map_or(Vec::new(), |found| site::divergences(found, &self.settings));
        let coherence = floors::lowest(&predictions, &sites, |metric| {
            self.settings.metrics.is_empty() || self.settings.metrics.contains(&metric)
        });
        let floors = floors::floored(&self.settings, &predictions, &sites, coherence.as_ref());
        Ok(Contrasted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reference: self.reference.clone(),
            approximation: self.approximation.clone(),
            settings: self.settings.clone(),
            predictions,
            divergences,
            sites,
            coherence,
            floors,
        })
    }

    fn check(&self, clouds: &Clouds) -> Result<(), JobError> {
        let [x, y] = clouds.sides.each_ref().map(|side| side.dims()[0]);
        if x != y {
            return Err(JobError::Unpaired { site: clouds.site.clone(), reference: x, approximation: y });
        }
        for (side, path) in clouds.sides.iter().zip([&self.reference, &self.approximation]) {
            let sum: f32 = side.clone().abs().sum().into_scalar();
            if !sum.is_finite() {
                return Err(JobError::NotFinite { path: path.clone() });
            }
        }
        Ok(())
    }
}

/// A metric by its name; `kl` is short for `exp-kl`, `knn` for `knn-overlap`.
///
/// # Errors
/// [`JobError::UnknownMetric`], with the nearest name.
pub fn metric(name: &str) -> Result<Metric, JobError> {
    let full = match name {
        "kl" => "exp-kl",
        "knn" => "knn-overlap",
        other => other,
    };
    let nearest = || {
        let distance = |metric: &Metric| strsim::damerau_levenshtein(&metric.to_string(), name);
        Metric::ALL.into_iter().min_by_key(distance).unwrap_or(Metric::Cka)
    };
    let known = Metric::ALL.into_iter().find(|metric| metric.to_string() == full);
    known.ok_or_else(|| JobError::UnknownMetric { name: name.to_owned(), nearest: nearest() })
}
