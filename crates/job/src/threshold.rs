//! [`Threshold`]: at which step of a quantizer a model stops to work, and whether that is a cliff.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use quench_checkpoint::Folder;
use quench_metrics::threshold::{Logistic, Point, Sweep, Verdict, verdict};
use quench_metrics::{Bootstrap, Evidence, Interval, Total, Value, agreement, kl_per_token};
use quench_models::text::TextSource;
use quench_models::{Decoder, Kind, ResNet};
use quench_nn::Weight;
use quench_quantize::recipe::{Calibration, matches};
use quench_quantize::{Curvature, Errors, QuantizeError};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::JobError;
use crate::job::{Observe, Step};
use crate::predict::{interrupt, opened};
use crate::save;
use crate::subject::Subject;

/// The least number of sequences that says anything of other sequences.
const FEWEST: usize = 2;

/// The least number of batches whose spread says how far the trace may be off: of three, all draws are alike.
const UNITS: usize = 5;

/// Where a sweep begins and ends without being told, in units of the predicted step.
const SPAN: [f64; 2] = [1.0 / 8.0, 16.0];

/// What `quench threshold` does: dense models, with their weights rounded ever more coarsely.
///
/// A weight `w` of a matrix with root mean square `s` becomes, with an offset `u` of the grid that each matrix draws,
///
/// ```text
/// ŵ = s δ (⌊w / (s δ) + u⌉ − u),    u uniform on [−½, ½)
/// ```
#[derive(Clone, Debug)]
pub struct Threshold {
    /// The folders of dense models. Several of different sizes are needed to tell a transition.
    pub models: Vec<PathBuf>,
    /// What to measure on, and what gradients are averaged over: texts, or images.
    pub data: Vec<TextSource>,
    /// How.
    pub settings: SweepSettings,
    /// Where to compute.
    pub device: Device,
}

/// How steps are swept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepSettings {
    /// How much data.
    pub data: Calibration,
    /// Which layers are rounded, by their names, as in a recipe: `"*mlp*"`.
    pub layers: String,
    /// How many steps, with equal ratios; at least 5.
    pub steps: usize,
    /// The smallest and the largest; by default from an eighth of the predicted step to 16 times it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Grids that are drawn at each step; at least 2.
    pub offsets: usize,
    /// The divergence that is tolerated, nats per label.
    pub limit: f64,
    /// Of all intervals.
    pub bootstrap: Bootstrap,
}

/// What `quench threshold --json` writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Version of Quench.
    pub version: String,
    /// How it was swept.
    pub settings: SweepSettings,
    /// One for each model.
    pub models: Vec<Swept>,
    /// What the agreements of all models are evidence of.
    pub verdict: Verdict,
}

/// What was found of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swept {
    /// Its folder.
    pub model: PathBuf,
    /// The layers that were rounded.
    pub layers: Vec<String>,
    /// Their weights: the size of the system.
    pub weights: usize,
    /// Sequences or images that it was measured on.
    pub sequences: usize,
    /// Labels in them: tokens, or images.
    pub labels: usize,
    /// `tr F = Σ_l s_l² tr F_l`, with labels that the dense model drew; its interval is over batches of sequences, from 5 on.
    pub trace: Value,
    /// The step of the limit by linear response, `√(24 limit / tr F)`.
    pub predicted: Value,
    /// The step at which the divergence passes the limit; `None` if it does not within the sweep.
    pub tolerance: Option<Value>,
    /// From which step on the divergence is no longer within a factor of 1.5 of `δ² tr F / 24`.
    pub response_end: Option<Value>,
    /// The power of the step that the divergence grows with, below the limit: 2 in linear response.
    pub exponent: Option<Value>,
    /// How wide the fall of the agreement is, in `ln δ`.
    pub width: Value,
    /// `KL(p ‖ p̂)` over the step, nats per label.
    pub kl: Sweep,
    /// Top-1 agreement over the step.
    pub agreement: Sweep,
    /// What the agreement of this model alone is evidence of.
    pub verdict: Verdict,
}

impl Thresholds {
    /// The verdict in words; where there are too few samples, how many would probably do.
    pub fn sentence(&self) -> String {
        let sequences = self.models.iter().map(|swept| swept.sequences).max().unwrap_or(0);
        let at = |step: &Value| format!("δ = {:.3}", step.value);
        match &self.verdict {
            Verdict::Smooth => {
                "no transition: the agreement falls smoothly; there is no critical step, only one at which a tolerance ends".to_owned()
            }
            Verdict::Inconclusive { width, times } => format!(
                "inconclusive: the width {:.2} of the fall may be above or below 1; about {} sequences and {} offsets would tell",
                width.value,
                (times * sequences as f64).ceil(),
                (times * self.settings.offsets as f64).ceil()
            ),
            Verdict::Sharp { step } if self.models.len() < 3 => format!(
                "a sharp fall at {}; whether it is a transition needs models of three or more sizes",
                at(step)
            ),
            Verdict::Sharp { step } => format!("a sharp fall at {}, which does not sharpen with the size", at(step)),
            Verdict::Transition { step, nu } => {
                format!("a transition at {}: the fall sharpens as size^(−1/{:.2})", at(step), nu.value)
            }
        }
    }
}

impl Threshold {
    /// Sweeps every model.
    ///
    /// # Errors
    /// Whatever is wrong with the models or the data; [`JobError::NoLogits`] for a model without classes;
    /// [`JobError::Steps`] and [`JobError::SameSize`] for settings that tell nothing; [`JobError::BrokenOff`] if `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Thresholds, JobError> {
        self.check()?;
        let mut models: Vec<Swept> = Vec::with_capacity(self.models.len());
        for folder in &self.models {
            let swept = match Kind::of(folder)? {
                Kind::Decoder => self.sweep::<Decoder>(folder, observe),
                Kind::ResNet => self.sweep::<ResNet>(folder, observe),
                kind @ Kind::Encoder => Err(JobError::NoLogits { path: folder.clone(), kind }),
            }
            .map_err(JobError::broken_off)?;
            if let Some(same) = models.iter().find(|other| other.weights == swept.weights) {
                return Err(JobError::SameSize {
                    path: folder.clone(),
                    other: same.model.clone(),
                    weights: swept.weights,
                });
            }
            models.push(swept);
        }
        let sweeps: Vec<Sweep> = models.iter().map(|swept| swept.agreement.clone()).collect();
        let verdict = verdict(&sweeps, &self.settings.bootstrap);
        Ok(Thresholds {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.settings.clone(),
            models,
            verdict,
        })
    }

    fn check(&self) -> Result<(), JobError> {
        let SweepSettings { steps, offsets, limit, range, .. } = &self.settings;
        let wrong = |what: String| Err(JobError::Steps(what));
        match range {
            _ if *steps < 5 => wrong(format!("{steps} steps; a sweep needs at least 5")),
            _ if *offsets < 2 => wrong(format!("{offsets} offset of the grid; a standard error needs at least 2")),
            _ if !(*limit > 0.0 && limit.is_finite()) => wrong(format!("a limit of {limit} nats; it must be above 0")),
            Some([from, to]) if !(*from > 0.0 && from < to && to.is_finite()) => {
                wrong(format!("steps from {from} to {to}; the first must be above 0 and below the last"))
            }
            _ => Ok(()),
        }
    }

    fn sweep<M: Subject>(&self, folder: &Path, observe: Observe<'_>) -> Result<Swept, JobError> {
        if let Some(layer) = save::first_packed(&Folder::open(folder)?) {
            return Err(JobError::AlreadyQuantized { path: folder.to_owned(), layer });
        }
        let settings = &self.settings;
        let mut model: M = opened(folder, &self.device)?;
        model.load_all().map_err(QuantizeError::from)?;
        let weights = originals(&mut model, &settings.layers);
        if weights.is_empty() {
            return Err(JobError::NoLayers { path: folder.to_owned(), pattern: settings.layers.clone() });
        }
        let (traces, labels) = self.traces::<M>(folder, &weights, observe)?;
        let trace = trace(&traces, labels, &settings.bootstrap);
        let not_finite = || JobError::NotFinite { path: folder.to_owned() };
        let predicted = predicted(&trace, settings.limit).ok_or_else(not_finite)?;

        let inputs = model.calibration(folder, &self.data, &settings.data, &self.device)?;
        let steps = geometric(settings.range.unwrap_or(SPAN.map(|times| times * predicted.value)), settings.steps);
        let mut found: Vec<[Vec<Vec<f64>>; 2]> =
            vec![[vec![Vec::new(); settings.offsets], vec![Vec::new(); settings.offsets]]; steps.len()];
        let total = inputs.batches.len();
        interrupt(observe(Step::Phase { name: "sweep", total: total * steps.len() }))?;
        for (index, batch) in inputs.batches.iter().enumerate() {
            replace(&mut model, &weights, |w, _| w.clone());
            let dense = model.forward(batch.clone(), &mut ());
            for (at, step) in steps.iter().enumerate() {
                let done = index * steps.len() + at;
                let what = format!("step {step:.3}");
                interrupt(observe(Step::Progress { done, of: total * steps.len(), what: &what }))?;
                let [divergences, agreements] = &mut found[at];
                for (offset, (divergences, agreements)) in divergences.iter_mut().zip(agreements).enumerate() {
                    // Each step has grids of its own; each batch sees the same ones.
                    let drawn = settings.data.seed.wrapping_add((at * settings.offsets + offset) as u64);
                    let mut random = ChaCha8Rng::seed_from_u64(drawn);
                    replace(&mut model, &weights, |w, scale| {
                        rounded(w.clone(), step * scale, random.random::<f64>() - 0.5)
                    });
                    let [kl, same] = compared(dense.clone(), model.forward(batch.clone(), &mut ()));
                    divergences.extend(kl);
                    agreements.extend(same);
                }
            }
        }
        let sequences = found[0][0][0].len();
        if sequences < FEWEST {
            return Err(JobError::TooFewSamples { what: "sequences", found: sequences, needed: FEWEST });
        }
        let size = weights.values().map(|(w, _)| w.dims().iter().product::<usize>()).sum();
        let sweep = |metric: usize| -> Result<Sweep, JobError> {
            let points: Vec<Point> =
                steps.iter().zip(&found).map(|(step, found)| Point::crossed(*step, &found[metric])).collect();
            if points.iter().any(|point| !point.metric.is_finite() || !point.error.is_finite()) {
                return Err(not_finite());
            }
            Ok(Sweep::new(points).with_size(size as f64))
        };
        let (kl, agreement, bootstrap) = (sweep(0)?, sweep(1)?, &settings.bootstrap);
        Ok(Swept {
            model: folder.to_owned(),
            layers: weights.into_keys().collect(),
            weights: size,
            sequences,
            labels,
            tolerance: kl.crossing(settings.limit, bootstrap),
            response_end: kl.end_of_linear_response(trace.value, bootstrap),
            exponent: kl.exponent(settings.limit, bootstrap),
            width: Logistic::of(&agreement, bootstrap).width,
            verdict: verdict(std::slice::from_ref(&agreement), bootstrap),
            trace,
            predicted,
            kl,
            agreement,
        })
    }

    /// `Σ_l s_l² tr F_l` of each batch, with the labels that it is a mean of; and the labels in all.
    fn traces<M: Subject>(
        &self,
        folder: &Path,
        weights: &BTreeMap<String, (Tensor<2>, f64)>,
        observe: Observe<'_>,
    ) -> Result<(Vec<Total>, usize), JobError> {
        let device = self.device.clone().autodiff();
        let mut model: M = opened(folder, &device)?;
        model.load_all().map_err(QuantizeError::from)?;
        let inputs = model.calibration(folder, &self.data, &self.settings.data, &device)?;
        let total = inputs.batches.len();
        interrupt(observe(Step::Phase { name: "curvature", total }))?;
        let mut traces = Vec::with_capacity(total);
        for (index, batch) in inputs.batches.iter().enumerate() {
            let seed = self.settings.data.seed.wrapping_add(index as u64);
            let mut step = |done| observe(Step::Progress { done: index + done, of: total, what: "" });
            let (batch, none) = (std::slice::from_ref(batch), Errors::default());
            let curvature = Curvature::gather(&mut model, batch, M::LIKELIHOOD, &none, seed, &mut step)?;
            let sum: f64 =
                weights.iter().filter_map(|(name, (_, scale))| Some(scale * scale * curvature.trace(name)?)).sum();
            traces.push(Total { sum: sum * curvature.labels() as f64, n: curvature.labels() });
        }
        let labels = traces.iter().map(|total| total.n).sum();
        Ok((traces, labels))
    }
}

/// The matrices that activations are multiplied with and a pattern matches, each with its root mean square; a table that is
/// looked up has no gradient that says what it costs, and stays.
fn originals<M: Subject>(model: &mut M, pattern: &str) -> BTreeMap<String, (Tensor<2>, f64)> {
    let mut found = BTreeMap::new();
    for section in model.sections() {
        for part in model.open(section) {
            if part.site.is_empty() || !matches(pattern, &part.name) {
                continue;
            }
            let w = part.weight.val();
            let scale = f64::from(w.clone().square().mean().into_scalar::<f32>()).sqrt();
            // A matrix of zeros has no scale to round by.
            if scale > 0.0 {
                found.insert(part.name, (w, scale));
            }
        }
    }
    found
}

/// Puts into every one of these layers what a function makes of its matrix and its scale, in the order of the model.
fn replace<M: Subject>(
    model: &mut M,
    weights: &BTreeMap<String, (Tensor<2>, f64)>,
    mut with: impl FnMut(&Tensor<2>, f64) -> Tensor<2>,
) {
    for section in model.sections() {
        for part in model.open(section) {
            if let Some((w, scale)) = weights.get(&part.name) {
                *part.weight = Weight::dense(with(w, *scale));
            }
        }
    }
}

/// `step (⌊w / step + u⌉ − u)`.
fn rounded(w: Tensor<2>, step: f64, u: f64) -> Tensor<2> {
    ((w / step + u).round() - u) * step
}

/// Divergence and agreement of each sequence, means over its labels. `[batch, labels, classes]`, twice.
fn compared(dense: Tensor<3>, rounded: Tensor<3>) -> [Vec<f64>; 2] {
    let [batch, labels, classes] = dense.dims();
    let rows = |logits: Tensor<3>| logits.reshape([batch * labels, classes]);
    let (dense, rounded) = (rows(dense), rows(rounded));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let kl: Vec<f64> = kl_per_token(dense.clone(), rounded.clone()).into_iter().map(f64::from).collect();
    let same: Vec<f64> = agreement(dense, rounded).into_iter().map(|same| f64::from(u8::from(same))).collect();
    [kl, same].map(|values| values.chunks(labels).map(mean).collect())
}

fn trace(batches: &[Total], labels: usize, bootstrap: &Bootstrap) -> Value {
    let (sum, n) = batches.iter().fold((0.0, 0), |(sum, n), total| (sum + total.sum, n + total.n));
    let value = Value::measured(sum / n as f64, "gradients of labels that the model drew", labels);
    let interval = bootstrap.mean(batches).filter(|_| batches.len() >= UNITS);
    value.with_interval(interval, bootstrap.seed)
}

/// `√(24 limit / tr F)`; the larger the trace, the smaller the step.
fn predicted(trace: &Value, limit: f64) -> Option<Value> {
    let step = |trace: f64| (24.0 * limit / trace).sqrt();
    let interval =
        trace.interval.map(|Interval { low, high, level }| Interval { low: step(high), high: step(low), level });
    let value = step(trace.value);
    (trace.value > 0.0 && value.is_finite()).then(|| Value {
        value,
        estimator: "√(24 limit / tr F)".into(),
        interval,
        evidence: Evidence::Predicted,
        ..trace.clone()
    })
}

/// Steps with equal ratios, both ends among them.
fn geometric([from, to]: [f64; 2], steps: usize) -> Vec<f64> {
    (0..steps).map(|k| from * (to / from).powf(k as f64 / (steps - 1) as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_equal_ratios() {
        let steps = geometric([0.5, 8.0], 5);
        assert!(steps.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0]).all(|(step, wanted)| (step - wanted).abs() < 1e-12));
    }

    /// The grid moves with the offset, and the error is at most half a step.
    #[test]
    fn weights_lie_on_the_grid() {
        let device = Device::flex();
        let w = Tensor::<2>::from_floats([[0.0, 0.3, -0.9, 2.2]], &device);
        for (u, expected) in [(0.0, [0.0, 0.5, -1.0, 2.0]), (0.25, [-0.125, 0.375, -1.125, 2.375])] {
            let found: Vec<f32> = rounded(w.clone(), 0.5, u).into_data().try_into_vec().unwrap();
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} for {expected:?}");
        }
    }

    #[test]
    fn the_predicted_step_is_that_of_the_parabola() {
        let total = |sum| Total { sum, n: 10 };
        let batches = [2300.0, 2500.0, 2400.0, 2350.0, 2450.0].map(total);
        assert_eq!(trace(&batches[..4], 40, &Bootstrap::default()).interval, None);
        let found = trace(&batches, 50, &Bootstrap::default());
        assert!((found.value - 240.0).abs() < 1e-12);
        let step = predicted(&found, 0.1).unwrap();
        let interval = step.interval.unwrap();
        assert!((step.value - 0.1).abs() < 1e-12 && interval.low < 0.1 && interval.high > 0.1, "{step:?}");
        assert_eq!(predicted(&trace(&[total(0.0)], 10, &Bootstrap::default()), 0.1), None);
    }
}
