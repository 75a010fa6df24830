//! One walk through a model: observe a block, quantize it, pass the error on.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use quench_nn::{LayerInfo, Model, Section, Tap, Weight};

use crate::ledger::Ledger;
use crate::passage::{Kept, Passage};
use crate::plan::{Plan, Treatment};
use crate::quantizer::Method;
use crate::run::{Event, Finished, Journal, check, exact, quantize};
use crate::stats::{Reference, Stats};
use crate::{QuantizeError, Target};

/// Bytes of inputs of the dense network that are kept at a time; one site may have more.
const REFERENCES: usize = 1 << 30;

/// Bytes of activations that are kept from one pass through a section for the next.
const KEPT: usize = 1 << 30;

/// One stage of a plan.
pub(crate) struct Stage<'a, I> {
    pub(crate) plan: &'a Plan,
    pub(crate) stage: usize,
    pub(crate) stages: usize,
    pub(crate) batches: &'a [I],
    pub(crate) sections: Vec<Section>,
}

/// A layer that this stage quantizes.
pub(crate) struct Task {
    pub(crate) layer: LayerInfo,
    pub(crate) target: Target,
    pub(crate) method: Method,
}

/// What every batch has become on its way to a section.
struct Flow<C> {
    /// In the model as quantized so far.
    now: Vec<C>,
    /// In the model as this stage found it, where layers are to make up for the difference.
    before: Option<Vec<C>>,
}

/// What solving a section starts from, and what its passes leave.
struct Left<C> {
    /// The weights that the section had before; empty if nothing is fed back.
    weights: Vec<Weight>,
    /// What does not change any more.
    kept: Vec<Kept>,
    /// What came out of the section as this stage found it; empty where nobody asked.
    before: Vec<C>,
}

/// Progress through the batches of a section, and who is told.
struct Progress<'a> {
    done: usize,
    total: usize,
    observe: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
}

impl Progress<'_> {
    fn step(&mut self) -> Result<(), QuantizeError> {
        self.done += 1;
        check((self.observe)(Event::Batches { done: self.done, total: self.total }))
    }
}

impl<I: Clone> Stage<'_, I> {
    pub(crate) fn run<M: Model<Input = I>>(
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
        let feeds_back =
            self.sections.iter().flat_map(|section| self.tasks(model, *section)).any(|task| task.feeds_back());
        let mut flow = Flow { now: Vec::new(), before: feeds_back.then(Vec::new) };
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
            let weights = if flow.before.is_some() && !tasks.is_empty() { weights(model, section) } else { Vec::new() };
            let mut left = Left { weights, kept: Vec::new(), before: Vec::new() };
            let finished = match finished {
                Some(finished) => restore(model, section, finished),
                None if tasks.is_empty() => Vec::new(),
                None => {
                    let finished = self.solve(model, section, &tasks, &flow, &mut left, observe)?;
                    journal.record(self.stage, section, &finished).map_err(QuantizeError::Journal)?;
                    finished
                }
            };
            ledger.entries.extend(finished.into_iter().map(|layer| layer.entry));
            if carry_on {
                flow.now = self.through(model, section, &flow.now, left.kept);
                match &mut flow.before {
                    Some(before) if left.before.is_empty() => {
                        swap(model, section, &mut left.weights);
                        *before = self.through(model, section, before, Vec::new());
                        swap(model, section, &mut left.weights);
                    }
                    Some(before) => *before = left.before,
                    None => {}
                }
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
                Some(Task { layer, target: stages[own], method: *method })
            })
            .collect()
    }

    /// Quantizes the layers of a section. If the plan is sequential, site after site: what reads a site in which quantized
    /// layers of the same section have a part is calibrated on what they give.
    fn solve<M: Model<Input = I>>(
        &self,
        model: &mut M,
        section: Section,
        tasks: &[Task],
        flow: &Flow<M::Carry>,
        left: &mut Left<M::Carry>,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, QuantizeError> {
        let (calibrated, others): (Vec<&Task>, Vec<&Task>) = tasks.iter().partition(|task| task.method.needs_gram());
        let mut steps = self.steps(model, section, &calibrated, flow);
        // What no batch comes by is no different, but for the error that it is.
        let reached = |task: &&Task| steps.iter().any(|step| step.tasks.iter().any(|other| other.layer == task.layer));
        let others: Vec<&Task> =
            others.into_iter().chain(calibrated.into_iter().filter(|task| !reached(task))).collect();
        let mut finished = quantize(model, section, self.stage, &others, &Stats::default(), observe)?;
        let compared = flow.before.as_ref().filter(|_| !left.weights.is_empty());
        let bytes: Vec<usize> = steps.iter().map(|step| step.bytes * self.batches.len()).collect();
        let spans = spans(&bytes, REFERENCES);
        let passes = steps.len() + if compared.is_some() { spans.len() } else { 0 };
        left.kept.resize_with(self.batches.len(), Kept::default);
        let mut room = KEPT;
        let mut progress = Progress { done: 0, total: passes * self.batches.len(), observe };
        for span in spans {
            let steps = &mut steps[span];
            let mut references = Vec::new();
            if let Some(before) = compared {
                swap(model, section, &mut left.weights);
                left.before.clear();
                for (index, batch) in self.batches.iter().enumerate() {
                    let mut reference = Reference::at(steps.iter().flat_map(Step::seen));
                    left.before.extend(pass(model, section, batch, before.get(index), &mut reference));
                    references.push(reference);
                    progress.step()?;
                }
                swap(model, section, &mut left.weights);
            }
            for step in steps {
                let mut stats = step.stats();
                for (index, batch) in self.batches.iter().enumerate() {
                    if let Some(reference) = references.get_mut(index) {
                        stats.compare(reference);
                    }
                    let awaited = if compared.is_some() { step.seen().collect() } else { step.sites().collect() };
                    let kept = &mut left.kept[index];
                    let mut passage = Passage::to(awaited, step.first(), &mut stats, kept, &mut room);
                    pass(model, section, batch, flow.now.get(index), &mut passage);
                    progress.step()?;
                }
                finished.extend(quantize(model, section, self.stage, &step.tasks, &stats, progress.observe)?);
            }
        }
        finished.sort_by_key(|finished| tasks.iter().position(|task| task.layer.name == finished.entry.layer));
        Ok(finished)
    }

    /// What is calibrated together, in the order in which a batch comes by.
    fn steps<'t, M: Model<Input = I>>(
        &self,
        model: &M,
        section: Section,
        tasks: &[&'t Task],
        flow: &Flow<M::Carry>,
    ) -> Vec<Step<'t>> {
        let Some(batch) = self.batches.first().filter(|_| !tasks.is_empty()) else { return Vec::new() };
        let mut first = Reference::at(tasks.iter().flat_map(|task| task.seen()));
        pass(model, section, batch, flow.now.first(), &mut first);
        let mut steps: Vec<Step<'t>> = Vec::new();
        for site in first.order() {
            let here: Vec<&Task> = tasks.iter().copied().filter(|task| task.layer.site == *site).collect();
            if here.is_empty() {
                continue;
            }
            let seen: BTreeSet<String> = here.iter().flat_map(|task| task.seen()).collect();
            let bytes = seen.iter().map(|site| first.bytes(site)).sum();
            match steps.last_mut().filter(|_| !self.plan.sequential) {
                Some(step) => {
                    step.tasks.extend(here);
                    step.bytes += bytes;
                }
                None => steps.push(Step { tasks: here, bytes }),
            }
        }
        steps
    }

    /// Every batch through one section, from where the passes before have left it.
    fn through<M: Model<Input = I>>(
        &self,
        model: &M,
        section: Section,
        carries: &[M::Carry],
        kept: Vec<Kept>,
    ) -> Vec<M::Carry> {
        let kept = kept.into_iter().chain(std::iter::repeat_with(Kept::default));
        let batches = self.batches.iter().enumerate().zip(kept);
        let one = |((index, batch), mut kept): ((usize, _), Kept)| {
            let mut room = 0;
            pass(model, section, batch, carries.get(index), &mut Passage::through(&mut (), &mut kept, &mut room))
        };
        batches.filter_map(one).collect()
    }
}

/// One batch through one section, and what it becomes there.
pub(crate) fn pass<M: Model, T: Tap>(
    model: &M,
    section: Section,
    batch: &M::Input,
    carry: Option<&M::Carry>,
    tap: &mut T,
) -> Option<M::Carry> {
    match (section, carry) {
        (Section::Embedding, _) => Some(model.start(batch.clone(), tap)),
        (Section::Block(block), Some(carry)) => Some(model.block(block, carry.clone(), tap)),
        (Section::Head, Some(carry)) => {
            model.finish(carry.clone(), tap);
            None
        }
        (_, None) => unreachable!("activations are carried to every section that is observed"),
    }
}

/// Layers that are calibrated in one pass.
struct Step<'t> {
    tasks: Vec<&'t Task>,
    /// What the dense network gives for one batch where it is compared.
    bytes: usize,
}

impl Step<'_> {
    fn seen(&self) -> impl Iterator<Item = String> {
        self.tasks.iter().flat_map(|task| task.seen())
    }

    /// The site that a batch comes by first.
    fn first(&self) -> &str {
        &self.tasks[0].layer.site
    }

    fn sites(&self) -> impl Iterator<Item = String> {
        self.tasks.iter().map(|task| task.layer.site.clone())
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::at(self.sites());
        for task in &self.tasks {
            if let Some(residual) = &task.layer.residual {
                stats.through(&task.layer.site, residual);
            }
        }
        stats
    }
}

impl Task {
    fn feeds_back(&self) -> bool {
        self.method.feedback() > 0.0
    }

    /// Its site, and the sum that it is part of.
    fn seen(&self) -> impl Iterator<Item = String> {
        [self.layer.site.clone()].into_iter().chain(self.layer.residual.clone())
    }
}

/// Neighbours joined as long as their bytes together stay below `limit`.
fn spans(bytes: &[usize], limit: usize) -> Vec<Range<usize>> {
    let (mut spans, mut start, mut sum) = (Vec::new(), 0, 0);
    for (index, bytes) in bytes.iter().enumerate() {
        if index > start && sum + bytes > limit {
            spans.push(start..index);
            (start, sum) = (index, 0);
        }
        sum += bytes;
    }
    spans.extend((start < bytes.len()).then_some(start..bytes.len()));
    spans
}

/// The weights of a section, shared.
fn weights<M: Model>(model: &mut M, section: Section) -> Vec<Weight> {
    model.open(section).into_iter().map(|part| part.weight.clone()).collect()
}

/// Exchanges the weights of a section.
fn swap<M: Model>(model: &mut M, section: Section, weights: &mut [Weight]) {
    if !weights.is_empty() {
        model.open(section).into_iter().zip(weights).for_each(|(part, weight)| std::mem::swap(part.weight, weight));
    }
}

/// Puts back what an earlier run finished.
fn restore<M: Model>(model: &mut M, section: Section, finished: Vec<Finished>) -> Vec<Finished> {
    for part in model.open(section) {
        if let Some(layer) = finished.iter().find(|layer| layer.entry.layer == part.name) {
            *part.weight = exact(&layer.packed, part.weight);
        }
    }
    finished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_keep_to_their_limit() {
        assert!(spans(&[], 10).is_empty());
        assert_eq!(spans(&[4, 4, 4], 10), [0..2, 2..3]);
        assert_eq!(spans(&[40, 4, 4, 40], 10), [0..1, 1..3, 3..4]);
        assert_eq!(spans(&[5, 5, 1], 10), [0..2, 2..3]);
    }
}
