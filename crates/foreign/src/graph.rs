//! A recording in steps, cut into blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use burn::backend::DispatchTensor;
use burn::tensor::{Device, Shape};
use burn_ir::{OperationIr, TensorId, TensorIr};

use crate::capture::Captured;
use crate::operator::{Operator, Product};
use crate::replay;
use crate::weights::Weights;

/// Tensors by their ids in the recording.
pub(crate) type Values = BTreeMap<TensorId, DispatchTensor>;

/// The operations between two products.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) operations: Vec<OperationIr>,
    /// What they need from before.
    pub(crate) reads: Vec<TensorId>,
    /// What is needed after them.
    pub(crate) gives: Vec<TensorIr>,
}

/// Whether a product shows its input to a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Another layer with the same input does.
    No,
    /// It does, and goes on with what the tap returns.
    Once,
    /// There will be more at the same site, to be shown together.
    Part,
    /// These were the last.
    Last,
}

/// One step.
#[derive(Debug)]
pub(crate) enum Step {
    Run(Segment),
    Multiply { layer: usize, product: Box<Product>, show: Show },
}

impl Step {
    fn reads(&self) -> Vec<TensorId> {
        match self {
            Self::Run(segment) => segment.reads.clone(),
            Self::Multiply { product, .. } => reads(product),
        }
    }
}

/// One way through the module, for inputs of certain shapes.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) shapes: Vec<Shape>,
    pub(crate) inputs: Vec<TensorId>,
    pub(crate) outputs: Vec<TensorId>,
    /// What does not depend on the input: biases, norms, positions, tables of numbers.
    pub(crate) constants: Values,
    pub(crate) steps: Vec<Step>,
    /// What nobody needs any more after each step.
    pub(crate) dead: Vec<Vec<TensorId>>,
    /// Where each block's steps are; what follows the last is the end.
    pub(crate) blocks: Vec<Range<usize>>,
    /// The block of each layer.
    pub(crate) block: Vec<usize>,
}

impl Graph {
    pub(crate) fn new(captured: &Captured, weights: &Weights, shapes: Vec<Shape>, device: &Device) -> Self {
        let mut steps = steps(captured, weights);
        let mut last_read: BTreeMap<TensorId, usize> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            last_read.extend(step.reads().into_iter().map(|id| (id, at)));
        }
        last_read.extend(captured.outputs.iter().map(|id| (*id, usize::MAX)));
        for (at, step) in steps.iter_mut().enumerate() {
            if let Step::Run(segment) = step {
                segment.gives.retain(|tensor| last_read.get(&tensor.id).is_some_and(|last| *last > at));
            }
        }
        let constant = |id: &TensorId| captured.values.contains_key(id) && !captured.inputs.contains(id);
        let mut dead = vec![Vec::new(); steps.len()];
        for (id, at) in &last_read {
            if let Some(dead) = dead.get_mut(*at).filter(|_| !constant(id)) {
                dead.push(*id);
            }
        }
        let constants = last_read.keys().filter(|id| constant(id));
        let constants = constants.map(|id| (*id, replay::upload(captured.values[id].clone(), device))).collect();
        let (blocks, block) = blocks(&steps, weights);
        let (inputs, outputs) = (captured.inputs.clone(), captured.outputs.clone());
        Self { shapes, inputs, outputs, constants, steps, dead, blocks, block }
    }

    /// The steps after the last block.
    pub(crate) fn end(&self) -> Range<usize> {
        self.blocks.last().map_or(0, |last| last.end)..self.steps.len()
    }
}

/// What the outputs depend on beside the weights, in order.
fn steps(captured: &Captured, weights: &Weights) -> Vec<Step> {
    let kept = captured.needed(|at, operation| match weights.products.get(&at) {
        Some((_, product)) => reads(product),
        None => operation.inputs().map(|input| input.id).collect(),
    });
    let mut visits = Visits::of(weights);
    let mut steps = Vec::new();
    let mut pending = Vec::new();
    for (at, operation) in captured.operations.iter().enumerate().filter(|(at, _)| kept[*at]) {
        match weights.products.get(&at) {
            Some((layer, product)) => {
                steps.extend(segment(std::mem::take(&mut pending)));
                let show = visits.next(weights, *layer);
                steps.push(Step::Multiply { layer: *layer, product: Box::new(product.clone()), show });
            }
            None => pending.push(operation.clone()),
        }
    }
    steps.extend(segment(pending));
    steps
}

/// Everything that `operations` give counts as needed until it is known what is.
fn segment(operations: Vec<OperationIr>) -> Option<Step> {
    let mut made = BTreeSet::new();
    let (mut reads, mut gives) = (Vec::new(), Vec::new());
    for operation in &operations {
        let from_before = operation.inputs().map(|input| input.id).filter(|id| !made.contains(id));
        reads.extend(from_before);
        made.extend(operation.outputs().map(|output| output.id));
        gives.extend(operation.outputs().cloned());
    }
    reads.sort();
    reads.dedup();
    (!operations.is_empty()).then_some(Step::Run(Segment { operations, reads, gives }))
}

/// What a product reads beside its weight.
fn reads(product: &Product) -> Vec<TensorId> {
    match &product.operator {
        Operator::Decoded { operation, .. } => {
            operation.inputs().map(|input| input.id).filter(|id| *id != product.weight.id).collect()
        }
        _ => [&product.x].into_iter().chain(&product.bias).map(|tensor| tensor.id).collect(),
    }
}

/// How often each site is yet to be visited by the layer that shows it.
struct Visits {
    left: Vec<usize>,
    whole: Vec<usize>,
}

impl Visits {
    fn of(weights: &Weights) -> Self {
        let mut whole = vec![0; weights.found.len()];
        weights.products.values().for_each(|(layer, _)| whole[*layer] += 1);
        Self { left: whole.clone(), whole }
    }

    fn next(&mut self, weights: &Weights, layer: usize) -> Show {
        self.left[layer] -= 1;
        let found = &weights.found[layer];
        match (self.left[layer], self.whole[layer]) {
            _ if found.site.as_ref() != Some(&found.name) => Show::No,
            (_, 1) => Show::Once,
            (0, _) => Show::Last,
            _ => Show::Part,
        }
    }
}

/// Cuts the steps where no layer is in use: each block ends with the last product of its layers. Layers that read the same inputs
/// are in one block; one without a site is where it is read first.
fn blocks(steps: &[Step], weights: &Weights) -> (Vec<Range<usize>>, Vec<usize>) {
    let mut spans: BTreeMap<usize, Range<usize>> = BTreeMap::new();
    let leader = |layer: usize| match &weights.found[layer].site {
        Some(site) => weights.found.iter().position(|found| found.name == *site).unwrap_or(layer),
        None => layer,
    };
    for (at, step) in steps.iter().enumerate() {
        let Step::Multiply { layer, .. } = step else { continue };
        let span = spans.entry(leader(*layer)).or_insert(at..at + 1);
        if weights.found[*layer].site.is_some() {
            span.end = at + 1;
        }
    }
    let mut order: Vec<Range<usize>> = spans.values().cloned().collect();
    order.sort_by_key(|span| span.start);
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for span in order {
        match blocks.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            Some(last) => {
                let start = last.end;
                blocks.push(start..span.end);
            }
            None => blocks.push(0..span.end),
        }
    }
    let home = |layer| {
        let start = spans.get(&leader(layer)).map_or(0, |span| span.start);
        blocks.iter().position(|block| block.contains(&start)).unwrap_or_default()
    };
    let block = (0..weights.found.len()).map(home).collect();
    (blocks, block)
}
