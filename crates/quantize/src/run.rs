//! The block-by-block loop.

use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Device;
use quench_format::Packed;
use quench_kernels::{Activations, QTensor};
use quench_nn::{Model, Section, Weight};

use crate::ledger::{Entry, Ledger};
use crate::plan::{Plan, Treatment};
use crate::quantizer::{Matrix, Method, Quantized};
use crate::stats::{Stats, host};
use crate::{QuantizeError, Target};

/// One finished layer.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What was done.
    pub entry: Entry,
    /// The result.
    pub packed: Packed,
}

/// Where finished sections are kept, so that a broken run can go on from them. `()` keeps nothing.
pub trait Journal {
    /// The layers of a section that an earlier run finished, in order.
    ///
    /// # Errors
    /// Whatever keeps the journal from reading what it has.
    fn finished(
        &mut self,
        stage: usize,
        section: Section,
    ) -> Result<Option<Vec<Finished>>, Box<dyn Error + Send + Sync>> {
        let _ = (stage, section);
        Ok(None)
    }

    /// Keeps the layers of a section that is now finished.
    ///
    /// # Errors
    /// Whatever keeps the journal from writing.
    fn record(
        &mut self,
        stage: usize,
        section: Section,
        layers: &[Finished],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let _ = (stage, section, layers);
        Ok(())
    }
}

impl Journal for () {}

/// What happens during a run, for progress bars.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A section begins; `index` of `total` over all stages.
    Section {
        /// The section.
        section: Section,
        /// The stage, from 0.
        stage: usize,
        /// Sections finished before it.
        index: usize,
        /// Sections in all stages together.
        total: usize,
    },
    /// Calibration batches have passed through the current section.
    Batches {
        /// Batches so far.
        done: usize,
        /// Batches in all.
        total: usize,
    },
    /// A layer is quantized.
    Layer(&'a Entry),
}

/// Quantizes `model` as `plan` says: block by block, observe, quantize, pass the error on.
///
/// Every stage walks the model once. Before a block's weights are quantized, its inputs are observed in the model as
/// quantized so far: the blocks before it in this stage's form, the block itself in the form that the stage before left.
/// The next block receives the outputs of the quantized one. Only one dense block is in memory at a time.
///
/// - `batches`: calibration inputs; may be empty if no method needs them
/// - `observe`: called with every [`Event`]; breaking out of it stops the run after what it has finished was recorded
///
/// # Errors
/// [`QuantizeError::Plan`] if the plan is not about this model, [`QuantizeError::Interrupted`] if `observe` broke off,
/// and whatever the model, the journal or a quantizer reports.
pub fn run<M: Model>(
    model: &mut M,
    plan: &Plan,
    batches: &[M::Input],
    journal: &mut dyn Journal,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Ledger, QuantizeError> {
    plan.check(&model.layers())?;
    let stages = plan.stages();
    let mut ledger = Ledger::default();
    for stage in 0..stages {
        Stage { plan, stage, stages, batches, sections: model.sections() }.run(model, journal, observe, &mut ledger)?;
    }
    Ok(ledger)
}

struct Stage<'a, I> {
    plan: &'a Plan,
    stage: usize,
    stages: usize,
    batches: &'a [I],
    sections: Vec<Section>,
}

/// A layer that this stage quantizes.
struct Task {
    name: String,
    site: String,
    target: Target,
    method: Method,
}

impl<I: Clone> Stage<'_, I> {
    fn run<M: Model<Input = I>>(
        &self,
        model: &mut M,
        journal: &mut dyn Journal,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
        ledger: &mut Ledger,
    ) -> Result<(), QuantizeError> {
        let mut kept = Vec::with_capacity(self.sections.len());
        for section in &self.sections {
            kept.push(journal.finished(self.stage, *section).map_err(QuantizeError::Journal)?);
        }
        // Activations are carried as far as the last section that still needs to see them.
        let last = (0..self.sections.len()).rev().find(|index| {
            kept[*index].is_none()
                && self.tasks(model, self.sections[*index]).iter().any(|task| task.method.needs_gram())
        });
        let mut carries: Vec<M::Carry> = Vec::new();
        for (index, (section, finished)) in self.sections.iter().copied().zip(kept).enumerate() {
            let (position, total) = (self.stage * self.sections.len() + index, self.stages * self.sections.len());
            let event = Event::Section { section, stage: self.stage, index: position, total };
            check(observe(event))?;

            let tasks = self.tasks(model, section);
            let carry_on = last.is_some_and(|last| index < last);
            if tasks.is_empty() && !carry_on {
                continue;
            }
            model.load(section)?;
            let finished = match finished {
                Some(finished) => self.restore(model, section, finished)?,
                None if tasks.is_empty() => Vec::new(),
                None => {
                    let stats = self.observe(model, section, &tasks, &carries, observe)?;
                    let finished = quantize(model, section, self.stage, &tasks, &stats, observe)?;
                    journal.record(self.stage, section, &finished).map_err(QuantizeError::Journal)?;
                    finished
                }
            };
            ledger.entries.extend(finished.into_iter().map(|layer| layer.entry));
            if carry_on {
                self.carry(model, section, &mut carries);
            }
            model.release(section);
        }
        Ok(())
    }

    /// The layers of `section` that this stage quantizes. A layer with fewer stages than the longest cascade joins late.
    fn tasks<M: Model>(&self, model: &M, section: Section) -> Vec<Task> {
        let layers = model.layers().into_iter().filter(|layer| layer.section() == section);
        layers
            .filter_map(|layer| {
                let Treatment { stages, method } = self.plan.treatment(&layer.name)?;
                let own = (self.stage + stages.len()).checked_sub(self.stages)?;
                Some(Task { name: layer.name, site: layer.site, target: stages[own], method: *method })
            })
            .collect()
    }

    fn observe<M: Model<Input = I>>(
        &self,
        model: &M,
        section: Section,
        tasks: &[Task],
        carries: &[M::Carry],
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Stats, QuantizeError> {
        if tasks.iter().all(|task| !task.method.needs_gram()) {
            return Ok(Stats::default());
        }
        let mut stats = Stats::at(tasks.iter().map(|task| task.site.clone()));
        let total = self.batches.len();
        for (index, batch) in self.batches.iter().enumerate() {
            match section {
                Section::Embedding => {
                    model.start(batch.clone(), &mut stats);
                }
                Section::Block(block) => {
                    model.block(block, carries[index].clone(), &mut stats);
                }
                Section::Head => {
                    model.finish(carries[index].clone(), &mut stats);
                }
            }
            check(observe(Event::Batches { done: index + 1, total }))?;
        }
        Ok(stats)
    }

    fn carry<M: Model<Input = I>>(&self, model: &M, section: Section, carries: &mut Vec<M::Carry>) {
        match section {
            Section::Embedding => {
                *carries = self.batches.iter().map(|batch| model.start(batch.clone(), &mut ())).collect()
            }
            Section::Block(block) => {
                let through = std::mem::take(carries).into_iter().map(|carry| model.block(block, carry, &mut ()));
                *carries = through.collect();
            }
            Section::Head => {}
        }
    }

    fn restore<M: Model>(
        &self,
        model: &mut M,
        section: Section,
        finished: Vec<Finished>,
    ) -> Result<Vec<Finished>, QuantizeError> {
        for part in model.open(section) {
            if let Some(layer) = finished.iter().find(|layer| layer.entry.layer == part.name) {
                let device = device_of(part.weight);
                *part.weight = exact(&layer.packed, &device);
            }
        }
        Ok(finished)
    }
}

fn quantize<M: Model>(
    model: &mut M,
    section: Section,
    stage: usize,
    tasks: &[Task],
    stats: &Stats,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Vec<Finished>, QuantizeError> {
    let mut finished = Vec::with_capacity(tasks.len());
    for part in model.open(section) {
        let Some(task) = tasks.iter().find(|task| task.name == part.name) else { continue };
        let [rows, columns] = part.weight.shape();
        let w = Matrix { rows, columns, values: host(part.weight.val()) };
        let Quantized { packed, output_loss, damping, rounded_rows } =
            task.method.quantize(&task.name, &w, task.target, stats.gram(&task.site))?;
        let entry = Entry {
            layer: task.name.clone(),
            stage,
            scheme: packed.scheme().to_string(),
            method: task.method.name().to_owned(),
            shape: [rows, columns],
            bits_per_weight: packed.bits_per_weight(),
            weight_snr_db: weight_snr_db(&w.values, &packed.decode()),
            output_loss,
            damping,
            rounded_rows,
        };
        let device = device_of(part.weight);
        *part.weight = exact(&packed, &device);
        check(observe(Event::Layer(&entry)))?;
        finished.push(Finished { entry, packed });
    }
    Ok(finished)
}

fn weight_snr_db(w: &[f32], decoded: &[f32]) -> Option<f64> {
    let signal: f64 = w.iter().map(|w| f64::from(*w).powi(2)).sum();
    let noise: f64 = w.iter().zip(decoded).map(|(w, q)| (f64::from(*w) - f64::from(*q)).powi(2)).sum();
    (noise > 0.0 && signal > 0.0).then(|| 10.0 * (signal / noise).log10())
}

fn check(flow: ControlFlow<()>) -> Result<(), QuantizeError> {
    if flow.is_break() { Err(QuantizeError::Interrupted) } else { Ok(()) }
}

/// A packed weight whose products read their input as it is, so that statistics are the same on every machine.
fn exact(packed: &Packed, device: &Device) -> Weight {
    Weight::Quantized(QTensor::from_packed(packed, device).with_activations(Activations::F32))
}

/// Where a weight lives.
fn device_of(weight: &Weight) -> Device {
    weight.devices().into_iter().next().unwrap_or_default()
}
