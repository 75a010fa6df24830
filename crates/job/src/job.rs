//! The main job.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor};
use quench_checkpoint::{CheckpointError, Folder, Source, Staging};
use quench_eval::{Candidate, Comparison, EvalError, Measured, Options, Protocol, Text, compare};
use quench_models::text::{Sample, TextSource, sample};
use quench_models::{Decoder, Tokenizer, ids};
use quench_nn::{Model, Section};
use quench_quantize::{Entry, Event, Ledger, Plan, QuantizeError, Recipe, run};

use crate::JobError;
use crate::fingerprint::Fingerprint;
use crate::journal::DiskJournal;
use crate::report::{CalibrationSize, CascadeVerdict, Report, Seconds, Size};
use crate::save::{self, Save};

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
    /// Calibration text; may be empty if no method needs it.
    pub calibration: Vec<TextSource>,
    /// Evaluation text; nothing is measured if it is empty.
    pub evaluation: Vec<TextSource>,
    /// What to do with a result or an unfinished run that is there already.
    pub overwrite: Overwrite,
    /// Go on from an unfinished run.
    pub resume: bool,
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
        /// `"quantize"`, `"quantize directly"`, `"evaluate"` or `"save"`.
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
        let model = quench_models::open(&self.model, &self.device)?;
        self.plan_for(&model)
    }

    fn plan_for(&self, model: &Decoder) -> Result<Plan, JobError> {
        let layers = model.layers();
        let plan = match &self.plan {
            Some(plan) => plan.clone(),
            None => self.recipe.plan(&layers)?,
        };
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
            return Err(JobError::AlreadyQuantized { path: self.model.clone(), layer: layer.to_owned() });
        }
        if let (Ok(model), Ok(output)) = (self.model.canonicalize(), self.output.canonicalize())
            && model == output
        {
            return Err(JobError::OutputIsModel { path: self.output.clone() });
        }
        let mut model = quench_models::open(&self.model, &self.device)?;
        let plan = self.plan_for(&model)?;
        let mut staging = self.staging()?;
        match self.run_in(&mut staging, &dense, &mut model, plan, observe) {
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
    fn run_in(
        &self,
        staging: &mut Staging,
        dense: &Folder,
        model: &mut Decoder,
        plan: Plan,
        observe: Observe<'_>,
    ) -> Result<Report, JobError> {
        let mut seconds = Seconds::default();
        let clock = Instant::now();
        let texts = Texts::read(self, &plan, model)?;
        seconds.texts = clock.elapsed().as_secs_f64();

        let device = format!("{:?}", self.device);
        let work = staging.work();
        let fingerprint = Fingerprint::new(dense, &plan, &texts.samples, &device)?;
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
        let mut journal = DiskJournal::new(work.join("result"));
        let ledger = quantize(model, &plan, &texts.batches, &mut journal, "quantize", observe).map_err(interrupted)?;
        let direct = direct(&plan);
        let mut direct_model = None;
        if let Some(direct) = direct.as_ref().filter(|_| !texts.evaluation.is_empty()) {
            let mut model = quench_models::open(&self.model, &self.device)?;
            let mut journal = DiskJournal::new(work.join("direct"));
            quantize(&mut model, direct, &texts.batches, &mut journal, "quantize directly", observe)
                .map_err(interrupted)?;
            direct_model = Some(model);
        }
        seconds.quantize = clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let comparison = self.compare(model, direct_model.as_mut(), &texts, &work, observe)?;
        seconds.evaluate = clock.elapsed().as_secs_f64();

        let sections = finished_sections(&journal, &plan, model)?;
        let size = size(dense, &sections, &plan);
        let measured = comparison.clone().map(Measured::Texts);
        let gates = quench_eval::check(&self.recipe.gates, measured.as_ref(), size.compression);
        let failed: Vec<String> = gates.iter().filter(|gate| !gate.passed).map(ToString::to_string).collect();
        let verdict = match (gates.len(), failed.len()) {
            (0, _) => "none".to_owned(),
            (_, 0) => "passed".to_owned(),
            _ => format!("failed: {}", failed.join("; ")),
        };

        let clock = Instant::now();
        broken(observe(Step::Phase { name: "save", total: 1 }), &work)?;
        let save = Save {
            dense,
            sections: &sections,
            recipe: &self.recipe,
            plan: &plan,
            ledger: &ledger,
            gates: &verdict,
            max_shard_bytes: MAX_SHARD_BYTES,
        };
        save.write(&staging.model())?;
        seconds.save = clock.elapsed().as_secs_f64();

        Ok(Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model.clone(),
            output: self.output.clone(),
            device,
            recipe: self.recipe.clone(),
            plan,
            ledger,
            size,
            cascade: comparison.as_ref().and_then(CascadeVerdict::new),
            comparison,
            gates,
            calibration: texts.calibration_size(),
            seconds,
        })
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

    fn compare(
        &self,
        quantized: &mut Decoder,
        direct: Option<&mut Decoder>,
        texts: &Texts,
        work: &Path,
        observe: Observe<'_>,
    ) -> Result<Option<Comparison>, JobError> {
        if texts.evaluation.is_empty() {
            return Ok(None);
        }
        let mut dense = quench_models::open(&self.model, &self.device)?;
        let name = if direct.is_some() { "cascade" } else { "quantized" };
        let mut candidates = vec![Candidate { name: name.to_owned(), model: quantized }];
        candidates.extend(direct.map(|model| Candidate { name: "direct".to_owned(), model }));
        let options = Options {
            protocol: texts.protocol(&self.recipe, dense.config().max_positions),
            bos: texts.bos,
            batch: self.recipe.evaluation.batch,
            ..Options::default()
        };
        let mut begun = false;
        let result =
            compare(&mut dense, &mut candidates, &texts.evaluation, &options, &self.device, &mut |done, of| {
                if !std::mem::replace(&mut begun, true) {
                    observe(Step::Phase { name: "evaluate", total: of })?;
                }
                observe(Step::Progress { done, of, what: "" })
            });
        match result {
            Ok(comparison) => Ok(Some(comparison)),
            Err(EvalError::Interrupted) => Err(JobError::Interrupted { path: partial(work) }),
            Err(error) => Err(error.into()),
        }
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

/// Runs one plan and hands its events on as steps.
fn quantize(
    model: &mut Decoder,
    plan: &Plan,
    batches: &[Tensor<2, Int>],
    journal: &mut DiskJournal,
    phase: &'static str,
    observe: Observe<'_>,
) -> Result<Ledger, QuantizeError> {
    let mut begun = false;
    let ledger = run(model, plan, batches, journal, &mut |event| match event {
        Event::Section { section, stage, index, total } => {
            if !std::mem::replace(&mut begun, true) {
                observe(Step::Phase { name: phase, total })?;
            }
            let what = if plan.stages() > 1 { format!("stage {} {section}", stage + 1) } else { section.to_string() };
            observe(Step::Progress { done: index, of: total, what: &what })
        }
        Event::Batches { done, total } => observe(Step::Batches { done, of: total }),
        Event::Layer(entry) => observe(Step::Layer(entry)),
    })?;
    if journal.resumed > 0 && observe(Step::Resumed { sections: journal.resumed }).is_break() {
        return Err(QuantizeError::Interrupted);
    }
    Ok(ledger)
}

/// The texts of a job as tokens.
struct Texts {
    samples: Vec<Sample>,
    batches: Vec<Tensor<2, Int>>,
    evaluation: Vec<Text>,
    bos: Option<u32>,
    adds_bos: bool,
}

impl Texts {
    fn read(job: &Job, plan: &Plan, model: &Decoder) -> Result<Self, JobError> {
        let mut treatments = plan.layers.iter().filter_map(|layer| layer.treatment.as_ref());
        let needs = treatments.find(|treatment| treatment.method.needs_gram()).map(|treatment| treatment.method.name());
        if let (Some(method), true) = (needs, job.calibration.is_empty()) {
            return Err(JobError::NoCalibrationText { method });
        }
        if needs.is_none() && job.evaluation.is_empty() {
            // Nothing is read, so a model without a tokenizer can still be rounded.
            return Ok(Self { samples: vec![], batches: vec![], evaluation: vec![], bos: None, adds_bos: false });
        }
        let tokenizer = Tokenizer::open(&job.model)?;
        let calibration = &job.recipe.calibration;
        let length = calibration.length.min(model.config().max_positions);
        let samples = match needs {
            Some(_) => sample(&job.calibration, &tokenizer, calibration.samples, length, calibration.seed)?,
            None => Vec::new(),
        };
        let batches = samples.chunks(calibration.batch).map(|batch| {
            let sequences: Vec<&[u32]> = batch.iter().map(|sample| sample.ids.as_slice()).collect();
            ids(&sequences, &job.device)
        });
        let mut evaluation: Vec<Text> = Vec::new();
        for source in &job.evaluation {
            let mut sequences = Vec::new();
            for text in source.read()? {
                sequences.push(tokenizer.encode(&text, false)?);
            }
            match evaluation.iter_mut().find(|text| text.language == source.language) {
                Some(text) => text.sequences.extend(sequences),
                None => evaluation.push(Text { language: source.language.clone(), sequences }),
            }
        }
        for text in &evaluation {
            let tokens = text.sequences.iter().map(Vec::len).max().unwrap_or(0);
            if tokens < 2 {
                return Err(JobError::NothingToEvaluate { language: text.language.clone(), tokens });
            }
        }
        Ok(Self {
            batches: batches.collect(),
            samples,
            evaluation,
            bos: tokenizer.bos(),
            adds_bos: tokenizer.adds_bos(),
        })
    }

    /// The recipe's protocol, in windows that the model's context can hold.
    fn protocol(&self, recipe: &Recipe, context: usize) -> Protocol {
        let evaluation = &recipe.evaluation;
        Protocol {
            length: evaluation.length.min(context),
            stride: evaluation.stride.min(context),
            windows: Some(evaluation.windows),
            bos: self.adds_bos && self.bos.is_some(),
        }
    }

    fn calibration_size(&self) -> CalibrationSize {
        let mut languages: Vec<(String, usize)> = Vec::new();
        for sample in &self.samples {
            let Some(language) = &sample.language else { continue };
            match languages.iter_mut().find(|(name, _)| name == language) {
                Some((_, tokens)) => *tokens += sample.ids.len(),
                None => languages.push((language.clone(), sample.ids.len())),
            }
        }
        let tokens = self.samples.iter().map(|sample| sample.ids.len()).sum();
        CalibrationSize { samples: self.samples.len(), tokens, languages }
    }
}

/// The journal's folders of the last stage.
fn finished_sections(journal: &DiskJournal, plan: &Plan, model: &Decoder) -> Result<Vec<Folder>, JobError> {
    let Some(last) = plan.stages().checked_sub(1) else { return Ok(Vec::new()) };
    let blocks = (0..model.blocks()).map(Section::Block);
    let sections = [Section::Embedding].into_iter().chain(blocks).chain([Section::Head]);
    let folders = sections.map(|section| journal.section(last, section)).filter(|folder| folder.exists());
    Ok(folders.map(Folder::open).collect::<Result<_, _>>()?)
}

fn size(dense: &Folder, sections: &[Folder], plan: &Plan) -> Size {
    let (parameters, dense_bytes) = save::extent(dense);
    let packed_bytes: u64 = sections.iter().map(|section| save::extent(section).1).sum();
    let quantized = plan.layers.iter().filter(|layer| layer.treatment.is_some());
    let (mut weights, mut replaced) = (0, 0);
    for layer in quantized {
        weights += save::elements(&layer.shape);
        replaced += dense.info(&format!("{}.weight", layer.name)).map_or(0, |info| save::bytes(&info));
    }
    let bytes = dense_bytes - replaced + packed_bytes;
    Size {
        dense_bytes,
        bytes,
        compression: dense_bytes as f64 / bytes.max(1) as f64,
        compression_f32: 4.0 * parameters as f64 / bytes.max(1) as f64,
        bits_per_weight: 8.0 * packed_bytes as f64 / weights.max(1) as f64,
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
