//! [`Compression`]: a budget of bytes and a floor in, the plan that was measured to hold both out, or why there is none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use quench_checkpoint::{Coding, Folder, Source, Staging};
use quench_eval::Gate;
use quench_metrics::bounds::Floor;
use quench_models::text::TextSource;
use quench_models::{Decoder, Encoder, Kind, ResNet};
use quench_nn::LayerInfo;
use quench_quantize::recipe::{Evaluation, Gates};
use quench_quantize::{
    AllocateError, Candidate, Errors, Gram, Matrix, Method, Plan, Planned, QuantizeError, Recipe, Refine, ScaleSearch,
    Target, Treatment, allocate,
};
use serde::Serialize;

use crate::job::{Observe, Overwrite, Step};
use crate::predict::{Forecast, ROOM, interrupt, opened, usual};
use crate::report::Report;
use crate::subject::Subject;
use crate::{Job, JobError, recipes, save};

/// How often the plan is made anew with damages corrected by what was measured.
const ROUNDS: usize = 3;

/// Bits a parameter below which a code of one bit is tried.
const FEW_BITS: f64 = 3.0;

/// Bytes of a name and its place in the header of a file, for each tensor; only the first attempt needs to guess.
const HEADER: u64 = 128;

/// What `quench compress` does.
#[derive(Clone, Debug)]
pub struct Compression {
    /// The dense model.
    pub model: PathBuf,
    /// The folder to make.
    pub output: PathBuf,
    /// Bytes that the files of the result may take.
    pub budget: Budget,
    /// What the result has to keep.
    pub floor: Gates,
    /// Calibration data.
    pub calibration: Vec<TextSource>,
    /// What candidates are measured on.
    pub evaluation: Vec<TextSource>,
    /// How they are measured.
    pub settings: Evaluation,
    /// Where to compute.
    pub device: Device,
    /// What to do with a result that is there already.
    pub overwrite: Overwrite,
}

/// How large the result may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// So many bytes.
    Bytes(u64),
    /// So many bits a parameter, over the whole model.
    Bits(f64),
    /// So many times smaller than with 32 bits a parameter.
    Ratio(f64),
}

impl Budget {
    fn bytes(self, parameters: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Bits(bits) => (bits * parameters as f64 / 8.0) as u64,
            Self::Ratio(ratio) => (4.0 * parameters as f64 / ratio) as u64,
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Compressed {
    /// Bytes that the files were allowed to take.
    pub budget: u64,
    /// Every plan that was tried, in this order; what was measured, and on how many bytes.
    pub attempts: Vec<Attempt>,
    /// Which of them is the result, if one is small enough.
    pub best: Option<usize>,
    /// Whether it keeps the floor.
    pub verdict: Verdict,
    /// What so many bytes can hold at most.
    pub certificate: Floor,
    /// The whole report of the best.
    pub report: Option<Report>,
}

/// Whether the floor is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was measured to be.
    Kept,
    /// No plan that was tried keeps it: what the best one misses.
    Missed(Vec<String>),
    /// Even the fewest bits for everything take more bytes than there are: so many.
    TooSmall(u64),
}

/// One plan, carried out.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// `uniform int4/128/f16`, or `mixed 1`.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// KL divergence that was predicted, in nats per label.
    pub predicted_kl: f64,
    /// KL divergence that was measured.
    pub kl: f64,
    /// What it misses of the floor.
    pub misses: Vec<String>,
    /// How many layers have each scheme.
    pub schemes: BTreeMap<String, usize>,
}

/// A way to quantize a layer.
#[derive(Clone, Copy)]
struct Way {
    target: Target,
    method: Method,
}

/// A layer and what each of the ways would do to it; the last candidate leaves it dense.
struct Choices {
    layer: LayerInfo,
    candidates: Vec<Candidate>,
}

impl Compression {
    /// Finds the plan, carries it out, and leaves the result at `output`; nothing is there where no plan is small enough.
    ///
    /// # Errors
    /// Whatever is wrong with the model, the data or the output; [`JobError::BrokenOff`] if `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Compressed, JobError> {
        match Kind::of(&self.model)? {
            Kind::Decoder => self.run_as::<Decoder>(observe),
            Kind::ResNet => self.run_as::<ResNet>(observe),
            Kind::Encoder => self.run_as::<Encoder>(observe),
        }
        .map_err(JobError::broken_off)
    }

    fn run_as<M: Subject>(&self, observe: Observe<'_>) -> Result<Compressed, JobError> {
        let dense = Folder::open(&self.model)?;
        if let Some(layer) = save::first_packed(&dense) {
            return Err(JobError::AlreadyQuantized { path: self.model.clone(), layer });
        }
        let staging = Staging::create(&self.output, self.overwrite == Overwrite::Force)?;
        let found = self.search::<M>(&dense, &staging, observe);
        match found {
            Ok(mut found) if found.best.is_some() => {
                let output = staging.publish()?;
                found.report.iter_mut().for_each(|report| report.output.clone_from(&output));
                Ok(found)
            }
            other => {
                staging.discard()?;
                other
            }
        }
    }

    /// Tries plans in the staging folder, and leaves the best where it is published from.
    fn search<M: Subject>(
        &self,
        dense: &Folder,
        staging: &Staging,
        observe: Observe<'_>,
    ) -> Result<Compressed, JobError> {
        let parameters = save::extent(dense).0;
        let budget = self.budget.bytes(parameters);
        let classes = 50_000.0_f64;
        let certificate = Floor::new(budget, parameters.max(1), classes.log2());

        let ways = ways(8.0 * budget as f64 / parameters.max(1) as f64)?;
        let choices = self.choices::<M>(&ways, observe)?;
        let of_layers: u64 = choices.iter().map(|choice| choice.candidates[choice.candidates.len() - 1].bytes).sum();
        let whole: M = opened(&self.model, &self.device)?;
        let mut fixed = save::extent(whole.source().as_ref()).1 - of_layers + HEADER * dense.names().len() as u64;
        let smallest: u64 = choices.iter().filter_map(|choice| choice.candidates.iter().map(|c| c.bytes).min()).sum();
        if fixed + smallest > budget {
            let verdict = Verdict::TooSmall(fixed + smallest);
            return Ok(Compressed { budget, attempts: Vec::new(), best: None, verdict, certificate, report: None });
        }

        let mut tried: Vec<(Vec<usize>, Attempt, Report, PathBuf)> = Vec::new();
        let mut factors = vec![1.0; ways.len() + 1];
        let mut next: Vec<(String, Vec<usize>)> = uniforms(&choices, &ways, budget - fixed);
        for round in 0..=ROUNDS {
            for (name, chosen) in std::mem::take(&mut next) {
                if tried.iter().any(|(other, ..)| *other == chosen) {
                    continue;
                }
                let folder = staging.work().join(tried.len().to_string());
                let (attempt, report) = self.attempt::<M>(&name, &choices, &ways, &chosen, &folder, observe)?;
                fixed = fixed.max(attempt.bytes.saturating_sub(bytes(&choices, &chosen)));
                correct(&mut factors, &choices, &chosen, attempt.kl);
                tried.push((chosen, attempt, report, folder));
            }
            if round < ROUNDS {
                let chosen = mixed(&choices, &factors, budget.saturating_sub(fixed))?;
                next = chosen.map(|chosen| (format!("mixed {}", round + 1), chosen)).into_iter().collect();
            }
        }

        let within = tried.iter().enumerate().filter(|(_, (_, attempt, ..))| attempt.bytes <= budget);
        let best = within.min_by(|(_, a), (_, b)| a.1.kl.total_cmp(&b.1.kl)).map(|(index, _)| index);
        let verdict = match best.map(|best| &tried[best].1.misses) {
            Some(misses) if misses.is_empty() => Verdict::Kept,
            Some(misses) => Verdict::Missed(misses.clone()),
            None => Verdict::TooSmall(tried.iter().map(|(_, attempt, ..)| attempt.bytes).min().unwrap_or(fixed)),
        };
        let mut report = None;
        let mut attempts = Vec::with_capacity(tried.len());
        for (index, (_, attempt, found, folder)) in tried.into_iter().enumerate() {
            if best == Some(index) {
                let path = staging.model();
                fs::rename(&folder, &path).map_err(|source| JobError::Write { path, source })?;
                report = Some(found);
            }
            attempts.push(attempt);
        }
        Ok(Compressed { budget, attempts, best, verdict, certificate, report })
    }

    /// What each way would do to each layer, by gradients along the errors that it makes.
    fn choices<M: Subject>(&self, ways: &[Way], observe: Observe<'_>) -> Result<Vec<Choices>, JobError> {
        let forecast = Forecast {
            dense: self.model.clone(),
            candidates: Vec::new(),
            calibration: self.calibration.clone(),
            settings: recipes::find(recipes::DEFAULT)?.calibration,
            device: self.device.clone(),
        };
        let inputs = forecast.curvature::<M>(&Errors::default(), observe)?;
        let mut model: M = opened(&self.model, &self.device)?;
        let layers = model.layers();
        let total = layers.len();
        interrupt(observe(Step::Phase { name: "candidates", total }))?;
        let (mut found, mut done) = (Vec::<Choices>::with_capacity(total), 0);
        let mut waiting = Waiting::default();
        for section in model.sections() {
            model.load(section).map_err(QuantizeError::from)?;
            let weights: Vec<(String, Matrix)> =
                model.open(section).iter().map(|part| (part.name.clone(), Matrix::of(part.weight))).collect();
            for (name, w) in weights {
                interrupt(observe(Step::Progress { done, of: total, what: &name }))?;
                let Some(layer) = layers.iter().find(|layer| layer.name == name) else { continue };
                let dense = model.source().info(&format!("{name}.weight")).map_or(0, |info| save::bytes(&info));
                if !waiting.has_room_for(ways.len() * size_of_val(&w.values[..])) {
                    std::mem::take(&mut waiting).weigh::<M>(&forecast, &mut found, observe)?;
                    interrupt(observe(Step::Phase { name: "candidates", total }))?;
                }
                let candidates = candidates(layer, &w, dense, ways, inputs.gram(&name), &mut waiting, &self.device);
                found.push(Choices { layer: layer.clone(), candidates });
                done += 1;
            }
            model.release(section);
        }
        waiting.weigh::<M>(&forecast, &mut found, observe)?;
        // What no gradient reaches stays as it is.
        found.iter_mut().for_each(|choice| choice.candidates.retain(|candidate| !candidate.damage.is_nan()));
        Ok(found)
    }

    /// Carries a plan out.
    fn attempt<M: Subject>(
        &self,
        name: &str,
        choices: &[Choices],
        ways: &[Way],
        chosen: &[usize],
        folder: &Path,
        observe: Observe<'_>,
    ) -> Result<(Attempt, Report), JobError> {
        let planned = choices.iter().zip(chosen).map(|(choice, &chosen)| {
            let way = ways.get(choice.candidates[chosen].label).copied();
            let treatment = way.map(|Way { target, method }| {
                let method = if choice.layer.site.is_empty() { Method::rtn(ScaleSearch::Mse) } else { method };
                Treatment { stages: vec![target], method }
            });
            Planned { name: choice.layer.name.clone(), shape: choice.layer.shape, treatment }
        });
        let base = recipes::find(recipes::DEFAULT)?;
        let plan = Plan {
            recipe: base.name.clone(),
            transforms: usual::<M>(),
            sequential: base.calibration.sequential,
            layers: planned.collect(),
        };
        let mut schemes = BTreeMap::new();
        for layer in &plan.layers {
            let scheme = layer.treatment.as_ref().map_or("dense".to_owned(), |t| t.stages[0].to_string());
            *schemes.entry(scheme).or_insert(0) += 1;
        }
        let job = Job {
            model: self.model.clone(),
            output: folder.to_owned(),
            recipe: Recipe { gates: self.floor.clone(), evaluation: self.settings.clone(), ..base },
            plan: Some(plan),
            device: self.device.clone(),
            calibration: self.calibration.clone(),
            evaluation: self.evaluation.clone(),
            overwrite: Overwrite::Force,
            resume: false,
            coding: Coding::default(),
        };
        interrupt(observe(Step::Phase { name: "attempt", total: 1 }))?;
        let report = job.run(observe)?;
        let measured = report.comparison.as_ref().ok_or(JobError::NoEvaluation)?;
        let kl = measured.measure(Gate::MaxKl, None).map_err(JobError::Unmeasured)?.value;
        let attempt = Attempt {
            name: name.to_owned(),
            bytes: weights_on_disk(folder)?,
            predicted_kl: choices.iter().zip(chosen).map(|(choice, &chosen)| choice.candidates[chosen].damage).sum(),
            kl,
            misses: report.gates.iter().filter(|gate| !gate.passed).map(ToString::to_string).collect(),
            schemes,
        };
        Ok((attempt, report))
    }
}

/// The ways to quantize a layer, from few bits to many.
///
/// - `bits`: for each parameter, that there are; what is slow and for few bits alone is left out where there are many
fn ways(bits: f64) -> Result<Vec<Way>, JobError> {
    let from = |recipe: &str, target: &str| -> Result<Way, JobError> {
        let recipe = recipes::find(recipe)?;
        let target = target.parse().unwrap_or_else(|error| unreachable!("a target of ours: {error}"));
        Ok(Way { target, method: recipe.rules[0].method() })
    };
    let few = (bits < FEW_BITS).then_some(("gptq-trellis2-g128", "trellis1:12/128/f16"));
    let others = [
        ("gptq-int2-g64", "int2/64/f16"),
        ("gptq-int3-g128", "int3/128/f16"),
        ("gptq-int4-g128", "int4/128/f16"),
        ("gptq-int4-g128", "int5/128/f16"),
        ("gptq-int4-g128", "int6/128/f16"),
        ("gptq-int4-g128", "int8/128/f16"),
    ];
    few.into_iter().chain(others).map(|(recipe, target)| from(recipe, target)).collect()
}

/// Errors that wait for their gradients.
#[derive(Default)]
struct Waiting {
    errors: Errors,
    bytes: usize,
}

impl Waiting {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= ROOM
    }

    /// Sets the damage of every candidate that waits.
    fn weigh<M: Subject>(
        self,
        forecast: &Forecast,
        choices: &mut [Choices],
        observe: Observe<'_>,
    ) -> Result<(), JobError> {
        let curvature = forecast.curvature::<M>(&self.errors, observe)?;
        for Choices { layer, candidates } in choices {
            for candidate in candidates {
                if let Some(slopes) = curvature.slopes().along(&layer.name, candidate.label) {
                    candidate.damage = curvature.damage_along(&slopes);
                }
            }
        }
        Ok(())
    }
}

/// What each way makes of a layer; what it costs is yet to be [weighed](Waiting::weigh). The last one leaves it dense.
///
/// - `dense`: bytes of the layer as it is stored
fn candidates(
    layer: &LayerInfo,
    w: &Matrix,
    dense: u64,
    ways: &[Way],
    gram: Option<&Gram>,
    waiting: &mut Waiting,
    device: &Device,
) -> Vec<Candidate> {
    let mut candidates = Vec::with_capacity(ways.len() + 1);
    for (label, way) in ways.iter().enumerate() {
        let method = if gram.is_some() { quick(way.method) } else { Method::rtn(ScaleSearch::Mse) };
        let Ok(quantized) = method.quantize(&layer.name, w, way.target, gram) else { continue };
        let mut error = w.clone();
        let decoded = quantized.packed.decode();
        error.values.iter_mut().zip(&decoded).for_each(|(w, decoded)| *w = decoded - *w);
        waiting.errors.add(&layer.name, label, &error, device);
        waiting.bytes += size_of_val(&error.values[..]);
        candidates.push(Candidate { bytes: quantized.packed.storage_bits().div_ceil(8), damage: f64::NAN, label });
    }
    candidates.push(Candidate { bytes: dense, damage: 0.0, label: ways.len() });
    candidates
}

/// The method without what takes most of its time: good enough to compare ways, and what it is off by is corrected.
fn quick(method: Method) -> Method {
    match method {
        Method::Gptq { search, order, damping, block, refine, .. } => {
            let refine = Refine { pairs: 0, ..refine };
            Method::Gptq { search, order, damping, block, refine, restarts: 0, feedback: 0.0 }
        }
        method => method,
    }
}

/// The largest uniform plans within so many bytes: one for all layers, and one that leaves dense what recipes leave dense.
fn uniforms(choices: &[Choices], ways: &[Way], room: u64) -> Vec<(String, Vec<usize>)> {
    let plan = |label: usize, ends: bool| -> Vec<usize> {
        choices
            .iter()
            .map(|choice| {
                let dense = ends && choice.layer.block.is_none();
                let label = if dense { ways.len() } else { label };
                let found = choice.candidates.iter().position(|candidate| candidate.label == label);
                found.unwrap_or(choice.candidates.len() - 1)
            })
            .collect()
    };
    let largest = |ends: bool| {
        let fits = |label: &usize| bytes(choices, &plan(*label, ends)) <= room;
        let label = (0..ways.len()).rev().find(fits)?;
        let kept = if ends { ", ends dense" } else { "" };
        Some((format!("uniform {}{kept}", ways[label].target), plan(label, ends)))
    };
    [largest(false), largest(true)].into_iter().flatten().collect()
}

fn bytes(choices: &[Choices], chosen: &[usize]) -> u64 {
    choices.iter().zip(chosen).map(|(choice, &chosen)| choice.candidates[chosen].bytes).sum()
}

/// The allocation of so many bytes by damages that are corrected per way; `None` if they are too few.
fn mixed(choices: &[Choices], factors: &[f64], room: u64) -> Result<Option<Vec<usize>>, JobError> {
    let corrected =
        |candidate: &Candidate| Candidate { damage: candidate.damage * factors[candidate.label], ..*candidate };
    let tensors: Vec<Vec<Candidate>> =
        choices.iter().map(|choice| choice.candidates.iter().map(corrected).collect()).collect();
    match allocate(&tensors, room) {
        Ok(allocation) => Ok(Some(allocation.choices)),
        Err(AllocateError::Infeasible { .. }) => Ok(None),
        Err(error) => Err(JobError::Allocate(error)),
    }
}

/// Moves the factor of every way by its part in a prediction that was off.
fn correct(factors: &mut [f64], choices: &[Choices], chosen: &[usize], measured: f64) {
    let chosen: Vec<Candidate> = choices.iter().zip(chosen).map(|(choice, &at)| choice.candidates[at]).collect();
    let predicted: f64 = chosen.iter().map(|candidate| candidate.damage * factors[candidate.label]).sum();
    if !(predicted > 0.0 && measured > 0.0) {
        return;
    }
    let mut shares = vec![0.0; factors.len()];
    for candidate in &chosen {
        shares[candidate.label] += candidate.damage * factors[candidate.label] / predicted;
    }
    for (factor, share) in factors.iter_mut().zip(shares) {
        *factor *= (measured / predicted).powf(share);
    }
}

/// Bytes of the files with the weights.
fn weights_on_disk(folder: &Path) -> Result<u64, JobError> {
    let fault = |source| JobError::Read { path: folder.to_owned(), source };
    let mut total = 0;
    for entry in fs::read_dir(folder).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if entry.path().extension().is_some_and(|extension| extension == "safetensors") {
            total += entry.metadata().map_err(fault)?.len();
        }
    }
    Ok(total)
}

impl Compressed {
    /// Whether there is a result, and it keeps the floor.
    pub fn kept(&self) -> bool {
        self.verdict == Verdict::Kept
    }
}

#[cfg(test)]
mod tests {
    use quench_nn::Role;

    use super::*;

    /// Two layers of a block and a head, each with `(bytes, damage)` for two ways and dense.
    fn choices() -> Vec<Choices> {
        let of = |name: &str, block, found: [(u64, f64); 3]| {
            let role = if block == Some(0) { Role::Block } else { Role::Head };
            let site = "site".to_owned();
            let layer = LayerInfo { name: name.to_owned(), site, shape: [1, 1], role, block, residual: None };
            let candidates = found.into_iter().enumerate();
            let candidates = candidates.map(|(label, (bytes, damage))| Candidate { bytes, damage, label }).collect();
            Choices { layer, candidates }
        };
        vec![
            of("a", Some(0), [(2, 8.0), (4, 1.0), (16, 0.0)]),
            of("b", Some(0), [(2, 2.0), (4, 1.0), (16, 0.0)]),
            of("head", None, [(2, 40.0), (4, 10.0), (16, 0.0)]),
        ]
    }

    fn two_ways() -> Vec<Way> {
        ways(8.0).unwrap().into_iter().take(2).collect()
    }

    #[test]
    fn the_largest_uniform_plans_that_fit_are_tried() {
        let named = |room| uniforms(&choices(), &two_ways(), room);
        let [all, ends] = &named(24)[..] else { panic!("both kinds fit") };
        assert_eq!((&*all.0, &all.1), ("uniform int3/128/f16", &vec![1, 1, 1]));
        assert_eq!((&*ends.0, &ends.1), ("uniform int3/128/f16, ends dense", &vec![1, 1, 2]));
        assert_eq!(named(11), [("uniform int2/64/f16".to_owned(), vec![0, 0, 0])]);
        assert!(named(5).is_empty());
    }

    #[test]
    fn bytes_go_where_they_spare_most() {
        let factors = [1.0; 3];
        // 24 bytes: the head is worth being dense, and of the others the first gains more.
        assert_eq!(mixed(&choices(), &factors, 22).unwrap(), Some(vec![1, 0, 2]));
        assert_eq!(mixed(&choices(), &factors, 5).unwrap(), None);
    }

    #[test]
    fn what_was_measured_corrects_the_ways_that_were_used() {
        let mut factors = [1.0; 3];
        let chosen = [1, 1, 2];
        correct(&mut factors, &choices(), &chosen, 4.0);
        // The dense way has no part in a divergence.
        assert_eq!(factors, [1.0, 2.0, 1.0]);
        correct(&mut factors, &choices(), &chosen, 4.0);
        assert_eq!(factors, [1.0, 2.0, 1.0]);
        correct(&mut factors, &choices(), &[0, 0, 2], 5.0);
        assert_eq!(factors, [0.5, 2.0, 1.0]);
    }

    #[test]
    fn a_search_that_is_broken_off_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let model = quench_models::spark::unpack().unwrap();
        let text = home.path().join("text.txt");
        fs::write(&text, "Once upon a time there was a dog. ".repeat(6000)).unwrap();
        let texts: Vec<TextSource> = vec![text.to_str().unwrap().parse().unwrap()];
        let compression = Compression {
            model,
            output: home.path().join("out"),
            budget: Budget::Ratio(6.0),
            floor: Gates::default(),
            calibration: texts.clone(),
            evaluation: texts,
            settings: Evaluation::default(),
            device: Device::flex(),
            overwrite: Overwrite::Refuse,
        };
        let error = compression.run(&mut |_| std::ops::ControlFlow::Break(())).unwrap_err();
        assert!(matches!(error, JobError::BrokenOff) && error.exit_code() == 130, "{error}");
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["text.txt"]);
    }

    #[test]
    fn a_budget_is_bytes_however_it_is_said() {
        assert_eq!(Budget::Bytes(7).bytes(100), 7);
        assert_eq!(Budget::Bits(4.0).bytes(100), 50);
        assert_eq!(Budget::Ratio(8.0).bytes(100), 50);
    }
}
