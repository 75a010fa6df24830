//! The main job.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use quench_checkpoint::{CheckpointError, Coding, Folder, Source, Staging};
use quench_eval::{Candidate, EvalError, Measured};
use quench_models::text::TextSource;
use quench_models::{Decoder, Encoder, Kind, ResNet};
use quench_nn::Model;
use quench_quantize::recipe::Evaluation;
use quench_quantize::{
    Balance, Entry, Event, Ledger, Method, Plan, QuantizeError, Recipe, balance, rounding_gain, run,
};

use crate::JobError;
use crate::card::{Base, card};
use crate::fingerprint::Fingerprint;
use crate::journal::DiskJournal;
use crate::report::{CascadeVerdict, Report, Seconds, Size, Transformed};
use crate::save::{self, Save};
use crate::subject::{Inputs, Subject};

/// Shards of the result are at most this large, as Hugging Face has it.
pub(crate) const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// A model folder in, a quantized model folder out.
#[derive(Clone, Debug)]
pub struct Job {
    /// The dense model, a Hugging Face folder.
    pub model: PathBuf,
    /// The folder to make.
    pub output: PathBuf,
    /// What to do.
    pub recipe: Recipe,
    /// A plan to follow instead of the one that the recipe makes; the recipe still says how to calibrate and measure.
    pub plan: Option<Plan>,
    /// Where to compute.
    pub device: Device,
    /// Calibration data: texts, or for an image classifier folders of images. May be empty if no method needs it.
    pub calibration: Vec<TextSource>,
    /// Evaluation data: texts, for a sentence encoder [tasks](quench_eval::Task), for an image classifier a folder of labelled
    /// images. Nothing is measured if it is empty.
    pub evaluation: Vec<TextSource>,
    /// What to do with a result or an unfinished run that is there already.
    pub overwrite: Overwrite,
    /// Go on from an unfinished run.
    pub resume: bool,
    /// How the result keeps the codes of packed layers.
    pub coding: Coding,
}

/// What to do with what is at the output already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Stop with an error.
    #[default]
    Refuse,
    /// Replace it, once the new result is complete.
    Force,
}

/// What a job is doing, for progress bars.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A phase begins.
    Phase {
        /// `"awq"`, `"smoothquant"`, `"transform"`, `"curvature"`, `"sweep"`, `"run"`, `"compare"`, `"candidates"`, `"predict"`, `"attempt"`, `"quantize"`, `"quantize directly"`, `"evaluate"` or `"save"`.
        name: &'static str,
        /// Steps in it.
        total: usize,
    },
    /// The phase goes on.
    Progress {
        /// Steps done.
        done: usize,
        /// Steps in all.
        of: usize,
        /// What comes now, `"block 3"` for example.
        what: &'a str,
    },
    /// Calibration batches have passed through the current section.
    Batches {
        /// Batches so far.
        done: usize,
        /// Batches in all.
        of: usize,
    },
    /// A layer is quantized.
    Layer(&'a Entry),
    /// Sections that an earlier run had finished were taken over.
    Resumed {
        /// How many.
        sections: usize,
    },
}

/// Called with every [`Step`]; breaking stops the job where it can be resumed.
pub type Observe<'a> = &'a mut dyn FnMut(Step<'_>) -> ControlFlow<()>;

impl Job {
    /// What the job would do, from headers alone.
    ///
    /// # Errors
    /// If the model cannot be opened or the recipe does not fit it.
    pub fn plan(&self) -> Result<Plan, JobError> {
        match Kind::of(&self.model)? {
            Kind::Decoder => self.plan_for(&<Decoder as Subject>::from_folder(&self.model, &self.device)?),
            Kind::Encoder => self.plan_for(&<Encoder as Subject>::from_folder(&self.model, &self.device)?),
            Kind::ResNet => self.plan_for(&<ResNet as Subject>::from_folder(&self.model, &self.device)?),
        }
    }

    fn plan_for<M: Subject>(&self, model: &M) -> Result<Plan, JobError> {
        let layers = model.layers();
        let plan = match &self.plan {
            Some(plan) => plan.clone(),
            None => {
                let mut plan = self.recipe.plan(&layers)?;
                plan.transforms.retain(|transform| M::TRANSFORMS.contains(transform));
                plan
            }
        };
        if let Some(transform) = plan.transforms.iter().find(|transform| !M::TRANSFORMS.contains(transform)) {
            return Err(JobError::Transform { path: self.model.clone(), transform: *transform });
        }
        plan.check(&layers)?;
        Ok(plan)
    }

    /// Quantizes, measures, saves, and reports.
    ///
    /// Finished sections are kept in `OUTPUT.partial` until the result is complete; a run that was interrupted, or that
    /// could not write, is gone on from with `resume`, and gives the same bytes. A run that failed because of its input
    /// leaves nothing. The result appears whole or not at all.
    ///
    /// # Errors
    /// Whatever is wrong with the model, the texts, the recipe, the output or the device; [`JobError::Interrupted`] if
    /// `observe` broke off.
    pub fn run(&self, observe: Observe<'_>) -> Result<Report, JobError> {
        let dense = Folder::open(&self.model)?;
        if let Some(layer) = save::first_packed(&dense) {
            return Err(JobError::AlreadyQuantized { path: self.model.clone(), layer });
        }
        if let (Ok(model), Ok(output)) = (self.model.canonicalize(), self.output.canonicalize())
            && model == output
        {
            return Err(JobError::OutputIsModel { path: self.output.clone() });
        }
        match Kind::of(&self.model)? {
            Kind::Decoder => self.run_as::<Decoder>(&dense, observe),
            Kind::Encoder => self.run_as::<Encoder>(&dense, observe),
            Kind::ResNet => self.run_as::<ResNet>(&dense, observe),
        }
    }

    fn run_as<M: Subject>(&self, dense: &Folder, observe: Observe<'_>) -> Result<Report, JobError> {
        let mut model = M::from_folder(&self.model, &self.device)?;
        let plan = self.plan_for(&model)?;
        let mut staging = self.staging()?;
        match self.run_in(&mut staging, dense, &mut model, plan, observe) {
            Ok(mut report) => {
                report.output = staging.publish()?;
                Ok(report)
            }
            Err(error) => {
                // What is wrong with the input will be wrong again; what was taken over from before is not ours to drop.
                if !error.is_worth_resuming() && !self.resume {
                    staging.discard()?;
                }
                Err(error)
            }
        }
    }

    /// The job inside its staging folder, which is left for the caller to publish or to discard.
    fn run_in<M: Subject>(
        &self,
        staging: &mut Staging,
        dense: &Folder,
        model: &mut M,
        plan: Plan,
        observe: Observe<'_>,
    ) -> Result<Report, JobError> {
        let mut seconds = Seconds::default();
        let clock = Instant::now();
        let base = Base::of(&self.model)?;
        let inputs = self.inputs(&plan, model)?;
        let settings = windows(&self.recipe.evaluation, model);
        let tasks = match self.evaluation.is_empty() {
            true => None,
            false => Some(model.tasks(&self.model, &self.evaluation, &settings)?),
        };
        seconds.data = clock.elapsed().as_secs_f64();

        let device = format!("{:?}", self.device);
        let work = staging.work();
        let fingerprint = Fingerprint::new(dense, &plan, self.coding, inputs.checksum, &device)?;
        let mark = work.join("job.json");
        if self.resume && mark.exists() {
            fingerprint.check(&mark, &partial(&work))?;
        } else if self.resume {
            return Err(JobError::NothingToResume { path: partial(&work) });
        }
        fingerprint.write(&mark)?;
        // From here on a crash leaves what is finished.
        staging.keep();

        let interrupted = |error| match error {
            QuantizeError::Interrupted => JobError::Interrupted { path: partial(&work) },
            error => JobError::Quantize(error),
        };
        let clock = Instant::now();
        let transforms = transform(model, &plan, &inputs.batches, observe).map_err(|error| match error {
            JobError::Quantize(error) => interrupted(error),
            error => error,
        })?;
        let mut direct = direct(&plan).filter(|_| tasks.is_some()).map(|plan| (plan, model.clone()));
        let mut journal = DiskJournal::new(work.join("result"), self.coding);
        let ledger = quantize(model, &plan, &inputs.batches, &mut journal, "quantize", observe).map_err(interrupted)?;
        if let Some((plan, model)) = &mut direct {
            let mut journal = DiskJournal::new(work.join("direct"), self.coding);
            quantize(model, plan, &inputs.batches, &mut journal, "quantize directly", observe).map_err(interrupted)?;
        }
        seconds.quantize = clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let comparison = match &tasks {
            Some(tasks) => {
                let direct = direct.as_mut().map(|(_, model)| model);
                Some(self.compare(model, direct, tasks, &settings, &work, observe)?)
            }
            None => None,
        };
        seconds.evaluate = clock.elapsed().as_secs_f64();

        let sections = finished_sections(&journal, &plan, model)?;
        let size = size(dense, model.source().as_ref(), &sections, &plan);
        let gates = quench_eval::check(&self.recipe.gates, comparison.as_ref(), size.compression);
        let failed: Vec<String> = gates.iter().filter(|gate| !gate.passed).map(ToString::to_string).collect();
        let verdict = match (gates.len(), failed.len()) {
            (0, _) => "none".to_owned(),
            (_, 0) => "passed".to_owned(),
            _ => format!("failed: {}", failed.join("; ")),
        };

        let clock = Instant::now();
        broken(observe(Step::Phase { name: "save", total: 1 }), &work)?;
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model.clone(),
            output: self.output.clone(),
            device,
            recipe: self.recipe.clone(),
            plan,
            transforms,
            ledger,
            size,
            cascade: comparison.as_ref().and_then(CascadeVerdict::new),
            comparison,
            gates,
            calibration: inputs.size,
            seconds,
        };
        let save = Save {
            folder: dense.path(),
            dense: model.source().as_ref(),
            marks: model.marks(),
            sections: &sections,
            recipe: &self.recipe,
            plan: &report.plan,
            ledger: &report.ledger,
            gates: &verdict,
            card: &card(&report, M::KIND, &base),
            base_card: base.card.as_deref(),
            coding: self.coding,
            max_shard_bytes: MAX_SHARD_BYTES,
        };
        save.write(&staging.model())?;
        report.seconds.save = clock.elapsed().as_secs_f64();
        Ok(report)
    }

    fn staging(&self) -> Result<Staging, JobError> {
        let force = self.overwrite == Overwrite::Force;
        let staging =
            if self.resume { Staging::resume(&self.output, force) } else { Staging::create(&self.output, force) };
        staging.map_err(|error| match error {
            CheckpointError::Interrupted { folder } => JobError::Unfinished { path: folder },
            error => JobError::Checkpoint(error),
        })
    }

    /// Calibration inputs, if a method needs any.
    fn inputs<M: Subject>(&self, plan: &Plan, model: &M) -> Result<Inputs<M::Input>, JobError> {
        let treatments = plan.layers.iter().filter_map(|layer| layer.treatment.as_ref());
        let methods = treatments.map(|treatment| &treatment.method);
        let mut methods = methods.filter(|method| method.needs_gram()).map(Method::described);
        let mut balances = plan.transforms.iter().filter_map(|transform| transform.balance()).map(Balance::name);
        match methods.next().or_else(|| balances.next()) {
            None => Ok(Inputs::none()),
            Some(method) if self.calibration.is_empty() => Err(JobError::NoCalibration { method, data: M::DATA }),
            Some(_) => model.calibration(&self.model, &self.calibration, &self.recipe.calibration, &self.device),
        }
    }

    fn compare<M: Subject>(
        &self,
        quantized: &mut M,
        direct: Option<&mut M>,
        tasks: &M::Tasks,
        settings: &Evaluation,
        work: &Path,
        observe: Observe<'_>,
    ) -> Result<Measured, JobError> {
        let mut dense = M::from_folder(&self.model, &self.device)?;
        let name = if direct.is_some() { "cascade" } else { "quantized" };
        let mut candidates = vec![Candidate { name: name.to_owned(), model: quantized }];
        candidates.extend(direct.map(|model| Candidate { name: "direct".to_owned(), model }));
        let mut progress = evaluation_steps(observe);
        match M::measure(&mut dense, &mut candidates, tasks, settings, &self.device, &mut progress) {
            Err(JobError::Eval(EvalError::Interrupted)) => Err(JobError::Interrupted { path: partial(work) }),
            result => result,
        }
    }
}

/// How to measure, in windows that the model's context can hold.
pub(crate) fn windows(settings: &Evaluation, model: &impl Subject) -> Evaluation {
    let context = model.context().unwrap_or(usize::MAX);
    Evaluation { length: settings.length.min(context), stride: settings.stride.min(context), ..settings.clone() }
}

/// The progress of an evaluation as steps of a job.
pub(crate) fn evaluation_steps(observe: Observe<'_>) -> impl FnMut(usize, usize) -> ControlFlow<()> {
    let mut begun = false;
    move |done, of| {
        if !std::mem::replace(&mut begun, true) {
            observe(Step::Phase { name: "evaluate", total: of })?;
        }
        observe(Step::Progress { done, of, what: "" })
    }
}

/// The plan with only the last stage of each cascade, if it has one.
fn direct(plan: &Plan) -> Option<Plan> {
    let mut direct = plan.clone();
    for treatment in direct.layers.iter_mut().filter_map(|layer| layer.treatment.as_mut()) {
        treatment.stages.drain(..treatment.stages.len() - 1);
    }
    (direct != *plan).then_some(direct)
}

/// What plain rounding must gain by a rotation, in dB, for it to be done: below, what the prediction does not see decides, and on
/// ref-llama that was a loss (`docs/results.md`).
const LEAST_GAIN: f64 = 0.05;

/// Does the transforms of a plan in their order.
fn transform<M: Subject>(
    model: &mut M,
    plan: &Plan,
    batches: &[M::Input],
    observe: Observe<'_>,
) -> Result<Vec<Transformed>, JobError> {
    let mut done = Vec::with_capacity(plan.transforms.len());
    for transform in plan.transforms.iter().copied() {
        let phase = transform.balance().map_or("transform", Balance::name);
        done.push(if let Some(how) = transform.balance() {
            let balanced = balance(model, plan, how, batches, &mut steps(phase, 1, observe))?;
            model.rescale(&balanced.factors)?;
            let gains = balanced.gains.len();
            let gain = (gains > 0).then(|| balanced.gains.values().sum::<f64>() / gains as f64);
            Transformed { transform, applied: !balanced.factors.is_empty(), gain }
        } else {
            let mut changed = model.clone();
            let mut applied = changed.transform(transform)?;
            let mut gain = None;
            if applied && transform.is_rotation() {
                let mut on = steps("transform", 1, observe);
                let predicted = rounding_gain(&mut model.clone(), &mut changed.clone(), plan, &mut on)?;
                (applied, gain) = (predicted > LEAST_GAIN, Some(predicted));
            }
            if applied {
                *model = changed;
            }
            Transformed { transform, applied, gain }
        });
    }
    Ok(done)
}

/// The events of walks through a network as steps of a job.
fn steps<'a>(
    phase: &'static str,
    stages: usize,
    observe: &'a mut (dyn FnMut(Step<'_>) -> ControlFlow<()> + 'a),
) -> impl FnMut(Event<'_>) -> ControlFlow<()> + 'a {
    let mut begun = false;
    move |event| match event {
        Event::Section { section, stage, index, total } => {
            if !std::mem::replace(&mut begun, true) {
                observe(Step::Phase { name: phase, total })?;
            }
            let what = if stages > 1 { format!("stage {} {section}", stage + 1) } else { section.to_string() };
            observe(Step::Progress { done: index, of: total, what: &what })
        }
        Event::Batches { done, total } => observe(Step::Batches { done, of: total }),
        Event::Layer(entry) => observe(Step::Layer(entry)),
    }
}

/// Runs one plan and hands its events on as steps.
fn quantize<M: Model>(
    model: &mut M,
    plan: &Plan,
    batches: &[M::Input],
    journal: &mut DiskJournal,
    phase: &'static str,
    observe: Observe<'_>,
) -> Result<Ledger, QuantizeError> {
    let ledger = run(model, plan, batches, journal, &mut steps(phase, plan.stages(), observe))?;
    if journal.resumed > 0 && observe(Step::Resumed { sections: journal.resumed }).is_break() {
        return Err(QuantizeError::Interrupted);
    }
    Ok(ledger)
}

/// The journal's folders of the last stage.
fn finished_sections(journal: &DiskJournal, plan: &Plan, model: &impl Model) -> Result<Vec<Folder>, JobError> {
    let Some(last) = plan.stages().checked_sub(1) else { return Ok(Vec::new()) };
    let folders =
        model.sections().into_iter().map(|section| journal.section(last, section)).filter(|folder| folder.exists());
    Ok(folders.map(Folder::open).collect::<Result<_, _>>()?)
}

/// - `dense`: the checkpoint as it was stored
/// - `source`: the same, transformed: what stays dense is written as it is here
fn size(dense: &Folder, source: &dyn Source, sections: &[Folder], plan: &Plan) -> Size {
    let (parameters, dense_bytes) = save::extent(dense);
    let packed_bytes: u64 = sections.iter().map(|section| save::extent(section).1).sum();
    let decoded_bytes: u64 = sections.iter().map(|section| save::decoded_bytes(section)).sum();
    let quantized = plan.layers.iter().filter(|layer| layer.treatment.is_some());
    let (mut weights, mut replaced) = (0, 0);
    for layer in quantized {
        weights += save::elements(&layer.shape);
        replaced += source.info(&format!("{}.weight", layer.name)).map_or(0, |info| save::bytes(&info));
    }
    let bytes = save::extent(source).1 - replaced + packed_bytes;
    Size {
        dense_bytes,
        bytes,
        compression: dense_bytes as f64 / bytes.max(1) as f64,
        compression_f32: 4.0 * parameters as f64 / bytes.max(1) as f64,
        bits_per_weight: 8.0 * packed_bytes as f64 / weights.max(1) as f64,
        decoded_bits_per_weight: 8.0 * decoded_bytes as f64 / weights.max(1) as f64,
        bits_per_parameter: 8.0 * bytes as f64 / parameters.max(1) as f64,
        parameters,
    }
}

fn broken(flow: ControlFlow<()>, work: &Path) -> Result<(), JobError> {
    if flow.is_break() { Err(JobError::Interrupted { path: partial(work) }) } else { Ok(()) }
}

/// The folder that the user sees, of which `work` is a part.
fn partial(work: &Path) -> PathBuf {
    work.parent().unwrap_or(work).to_owned()
}
