//! The block-by-block loop.

use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use quench_format::Packed;
use quench_kernels::Activations;
use quench_nn::{Model, Section, Weight};

use crate::ledger::{Entry, Ledger};
use crate::plan::Plan;
use crate::quantizer::{Matrix, Method, Quantized};
use crate::stage::{Stage, Task};
use crate::stats::Stats;
use crate::{QuantizeError, feedback};

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

/// Quantizes the weights of `tasks` in place.
pub(crate) fn quantize<M: Model>(
    model: &mut M,
    section: Section,
    stage: usize,
    tasks: &[&Task],
    stats: &Stats,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Vec<Finished>, QuantizeError> {
    let mut finished = Vec::with_capacity(tasks.len());
    for part in model.open(section) {
        let Some(task) = tasks.iter().find(|task| task.layer.name == part.name) else { continue };
        let w = Matrix::of(part.weight);
        let gram = stats.gram(&task.layer.site);
        let moved = match (&task.method, gram, stats.drift(&task.layer.site)) {
            (Method::Gptq { feedback, damping, .. }, Some(gram), Some(drift)) if *feedback > 0.0 => {
                feedback::target(&w, &drift, gram, *feedback, *damping)
            }
            _ => None,
        };
        let Quantized { packed, output_loss, damping, rounded_rows } =
            task.method.quantize(&task.layer.name, moved.as_ref().unwrap_or(&w), task.target, gram)?;
        let entry = Entry {
            layer: task.layer.name.clone(),
            stage,
            scheme: packed.scheme().to_string(),
            method: task.method.name().to_owned(),
            shape: [w.rows, w.columns],
            bits_per_weight: packed.bits_per_weight(),
            weight_snr_db: weight_snr_db(&w.values, &packed.decode()),
            output_loss,
            damping,
            rounded_rows,
        };
        *part.weight = exact(&packed, part.weight);
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

pub(crate) fn check(flow: ControlFlow<()>) -> Result<(), QuantizeError> {
    if flow.is_break() { Err(QuantizeError::Interrupted) } else { Ok(()) }
}

/// A packed weight in the place of another, whose products read their input as it is, so that statistics are the same on every
/// machine.
pub(crate) fn exact(packed: &Packed, before: &Weight) -> Weight {
    let device = before.devices().into_iter().next().unwrap_or_default();
    let mut weight = Weight::packed(packed, &device);
    weight.set_activations(Activations::F32);
    weight
}
