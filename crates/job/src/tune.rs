//! [`Tuning`]: a quantized model made better by its dense original, folder in and folder out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use quench_checkpoint::dialect::{self, Dialect};
use quench_checkpoint::{CheckpointError, Folder, Source, Staging, Writer, write_atomically};
use quench_models::text::TextSource;
use quench_models::{Decoder, Kind, ResNet, companion};
use quench_nn::Model;
use quench_quantize::recipe::Calibration;
use quench_quantize::{Matrix, QuantizeError};
use quench_tune::{Data, Event, Point, Settings, Teacher, TuneError, Tuned, tune};
use serde::Serialize;
use serde_json::{Value, json};

use crate::fingerprint;
use crate::job::{MAX_SHARD_BYTES, Observe, Overwrite, Step};
use crate::save::COMPANIONS;
use crate::subject::Subject;
use crate::{CalibrationSize, JobError};

/// What `quench finetune` does.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The folder of the quantized model.
    pub model: PathBuf,
    /// That of its dense original.
    pub teacher: PathBuf,
    /// Where the result goes.
    pub output: PathBuf,
    /// Texts, or images, to train on.
    pub data: Vec<TextSource>,
    /// How much of it is read, what is held out included.
    pub reading: Calibration,
    /// How many of the batches, the last ones, are held out to judge by.
    pub held_out: usize,
    /// What is trained, how fast, and for how long.
    pub settings: Settings,
    /// Where to compute.
    pub device: Device,
    /// Whether an output that exists is replaced.
    pub overwrite: Overwrite,
    /// Whether to go on from a run that was broken off.
    pub resume: bool,
}

/// What came of it; `tuning.json` beside the result.
#[derive(Clone, Debug, Serialize)]
pub struct TuningReport {
    /// The version of quench.
    pub version: String,
    /// The model before.
    pub model: PathBuf,
    /// Its dense original.
    pub teacher: PathBuf,
    /// Where the result is.
    pub output: PathBuf,
    /// What was asked for.
    pub settings: Settings,
    /// What was read.
    pub data: CalibrationSize,
    /// Batches of it that were held out.
    pub held_out: usize,
    /// Every evaluation on what was held out: steps, and the divergence from the teacher in nats per label.
    pub points: Vec<Point>,
    /// The best of them, which was kept.
    pub best: Point,
    /// The divergence of what was stored, on the same.
    pub kl: f64,
    /// The loss of every step.
    pub losses: Vec<f64>,
    /// What merging an adapter cost, layer by layer: the part of the output's energy that became error.
    pub merged: BTreeMap<String, Option<f64>>,
}

/// What is written beside the result.
const REPORT: &str = "tuning.json";

impl Tuning {
    /// Asks the teacher, trains, and saves.
    ///
    /// Until the result is complete, what the teacher said and the state of the run are in `OUTPUT.partial`.
    ///
    /// # Errors
    /// Whatever is wrong with models, data, settings or output; [`TuneError::Interrupted`] if `observe` broke off;
    /// [`JobError::NoLogits`] for a model without classes, [`JobError::NotQuantized`] for one without packed layers.
    pub fn run(&self, observe: Observe<'_>) -> Result<TuningReport, JobError> {
        let kind = Kind::of(&self.model)?;
        let other = Kind::of(&self.teacher)?;
        if kind != other {
            return Err(JobError::Kinds { path: self.model.clone(), kind, against: self.teacher.clone(), other });
        }
        match kind {
            Kind::Decoder => self.run_as::<Decoder>(observe),
            Kind::ResNet => self.run_as::<ResNet>(observe),
            Kind::Encoder => Err(JobError::NoLogits { path: self.model.clone(), kind }),
        }
    }

    fn run_as<M: Subject>(&self, observe: Observe<'_>) -> Result<TuningReport, JobError> {
        let folder = Folder::open(&self.model)?;
        if dialect::layers(&folder).is_empty() {
            return Err(JobError::NotQuantized { path: self.model.clone() });
        }
        let force = self.overwrite == Overwrite::Force;
        let staging =
            if self.resume { Staging::resume(&self.output, force) } else { Staging::create(&self.output, force) };
        let mut staging = staging.map_err(|error| match error {
            CheckpointError::Interrupted { folder } => JobError::Unfinished { path: folder },
            error => JobError::Checkpoint(error),
        })?;
        match self.run_in::<M>(&mut staging, &folder, observe) {
            Ok(report) => {
                staging.publish()?;
                Ok(report)
            }
            Err(error) => {
                if !error.is_worth_resuming() && !self.resume {
                    staging.discard()?;
                }
                Err(error)
            }
        }
    }

    fn run_in<M: Subject>(
        &self,
        staging: &mut Staging,
        folder: &Folder,
        observe: Observe<'_>,
    ) -> Result<TuningReport, JobError> {
        let mut dense = M::from_folder(&self.teacher, &self.device)?;
        dense.load_all().map_err(QuantizeError::from)?;
        let asked = dense.calibration(&self.teacher, &self.data, &self.reading, &self.device)?;
        let sums = [fingerprint::weights(&Folder::open(&self.teacher)?)?, fingerprint::hex(asked.checksum)];
        let run = format!("{} {} {}", sums.join(" "), self.reading.batch, self.held_out);
        staging.keep();
        let work = staging.work();
        let batches = asked.batches;
        let trained = batches.len().saturating_sub(self.held_out);
        let (train, held_out) = batches.split_at(trained);
        interrupt(observe(Step::Phase { name: "ask the teacher", total: batches.len() }))?;
        let mut ask = |batches: &[M::Input], name: &str, before: usize| {
            let mut step =
                |done| observe(Step::Progress { done: before + done, of: train.len() + held_out.len(), what: "" });
            Teacher::ask(&dense, batches, self.settings.top, &run, &work.join(name), &mut step)
        };
        let [train_teacher, held_out_teacher] = [ask(train, "teacher", 0)?, ask(held_out, "held-out", trained)?];
        drop(batches);

        let device = self.device.clone().autodiff();
        let mut model = M::from_folder(&self.model, &device)?;
        model.load_all().map_err(QuantizeError::from)?;
        let inputs = dense.calibration(&self.teacher, &self.data, &self.reading, &device)?;
        let (train, held_out) = inputs.batches.split_at(trained);
        let data = Data { train, held_out, train_teacher: &train_teacher, held_out_teacher: &held_out_teacher };
        let mut packed = BTreeMap::new();
        for layer in dialect::layers(folder) {
            packed.extend(dialect::read(folder, &layer)?.map(|packed| (layer, packed)));
        }
        let dense = RefCell::new(dense);
        let original = |name: &str| matrix(&mut *dense.borrow_mut(), name);
        let total = self.settings.steps;
        interrupt(observe(Step::Phase { name: self.settings.method.name(), total }))?;
        let mut told = |event: Event<'_>| show(event, total, observe);
        let run = format!("{run} {}", fingerprint::weights(folder)?);
        let tuned = tune(&mut model, &packed, &original, &data, &self.settings, &run, &work, &mut told)?;
        interrupt(observe(Step::Phase { name: "save", total: 1 }))?;
        let report = TuningReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model.clone(),
            teacher: self.teacher.clone(),
            output: self.output.clone(),
            settings: self.settings.clone(),
            data: inputs.size,
            held_out: self.held_out,
            points: tuned.points.clone(),
            best: tuned.best,
            kl: tuned.kl,
            losses: tuned.losses.clone(),
            merged: tuned.merged.iter().map(|merged| (merged.layer.clone(), merged.output_loss)).collect(),
        };
        self.save(folder, packed, tuned, &report, &staging.model())?;
        Ok(report)
    }

    /// Everything of the model before, with what was trained in its place, in our own dialect.
    fn save(
        &self,
        folder: &Folder,
        mut packed: BTreeMap<String, quench_format::Packed>,
        mut tuned: Tuned,
        report: &TuningReport,
        output: &Path,
    ) -> Result<(), JobError> {
        let mut writer = Writer::create(output, MAX_SHARD_BYTES)?;
        for (key, value) in folder.metadata().iter().filter(|(key, _)| key.starts_with("quench.")) {
            writer.metadata(key, value);
        }
        let mut of_packed = Vec::new();
        for layer in packed.keys() {
            if let Some(dialect) = Dialect::of(folder, layer) {
                of_packed.extend(dialect.tensors(folder, layer)?);
            }
        }
        packed.append(&mut tuned.layers);
        for (layer, packed) in packed {
            writer.packed(layer, packed)?;
        }
        for name in folder.names() {
            match tuned.vectors.remove(name) {
                _ if of_packed.iter().any(|found| found == name) => {}
                None => writer.copy(folder, name)?,
                Some(values) => {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    writer.add(name, quench_checkpoint::Dtype::F32, [values.len()], bytes)?;
                }
            }
        }
        writer.finish()?;
        for name in COMPANIONS.into_iter().chain(["plan.toml", "recipe.toml"]) {
            // What the quantized folder has not, its original may have.
            let found = companion(&self.model, name).or_else(|_| companion(&self.teacher, name));
            match found {
                Ok(bytes) => write_atomically(output.join(name), &bytes)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(JobError::Read { path: self.model.join(name), source }),
            }
        }
        let path = self.model.join("config.json");
        let read = |error| JobError::Read { path: path.clone(), source: error };
        let text = companion(&self.model, "config.json").map_err(read)?;
        let mut config: Value = serde_json::from_slice(&text).map_err(|error| read(std::io::Error::other(error)))?;
        let recipe = config["quantization_config"]["recipe"].clone();
        config["quantization_config"] = json!({
            "quant_method": "quench",
            "format_version": quench_checkpoint::FORMAT_VERSION,
            "recipe": recipe,
            "tuned": self.settings.method.name(),
        });
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        write_atomically(output.join("config.json"), pretty(&config).as_bytes())?;
        let report = serde_json::to_value(report).unwrap_or_default();
        Ok(write_atomically(output.join(REPORT), pretty(&report).as_bytes())?)
    }
}

/// The dense matrix of a layer.
fn matrix<M: Model>(dense: &mut M, name: &str) -> Option<Matrix> {
    let section = dense.layers().into_iter().find(|layer| layer.name == name)?.section();
    let part = dense.open(section).into_iter().find(|part| part.name == name)?;
    Some(Matrix::of(part.weight))
}

fn show(event: Event<'_>, total: usize, observe: Observe<'_>) -> ControlFlow<()> {
    match event {
        Event::Resumed { step } => observe(Step::Progress { done: step, of: total, what: "resumed" }),
        Event::Step { step, of, loss, .. } => {
            observe(Step::Progress { done: step, of, what: &format!("loss {loss:.4}") })
        }
        Event::Evaluated { point, best } => {
            let mark = if best { ", the best" } else { "" };
            observe(Step::Progress { done: point.step, of: total, what: &format!("held-out KL {:.4}{mark}", point.kl) })
        }
        Event::Merged(merged) => observe(Step::Progress { done: total, of: total, what: &merged.layer }),
    }
}

fn interrupt(flow: ControlFlow<()>) -> Result<(), TuneError> {
    if flow.is_break() { Err(TuneError::Interrupted { step: 0 }) } else { Ok(()) }
}
