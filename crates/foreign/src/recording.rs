//! [`Recording`]: anyone's module as a [`Model`].

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchAutodiffContext, DispatchTensor, TensorMetadata};
use burn::module::Module;
use burn::tensor::{Device, Shape, Tensor};
use quench_nn::{LayerInfo, LoadError, Model, Part, Section, Tap, Weight};

use crate::capture::capture;
use crate::graph::{Graph, Segment, Show, Step, Values};
use crate::multiply::{Look, matrix, parameter};
use crate::operator::{Operator, Product};
use crate::tensors::shapes;
use crate::weights::{Found, Weights};
use crate::{ForeignError, Left, Tensors, replay};

/// A module of `burn::nn` layers, recorded while it computed some inputs, and replayed without it.
///
/// Every `Linear`, `Conv1d`, `Conv2d`, transposed convolution and `Embedding`, and every product of an activation with a parameter, has
/// become a layer with a [`Weight`], which can be observed, quantized and multiplied with packed; all else is replayed operation by
/// operation. So a recording is what every part of Quench takes: a plan, the quantizers, the comparisons.
///
/// Its blocks lie between the inputs of layers: one for each site, and one for all layers that take turns, as in a recurrent
/// network. A site that is visited more than once in a pass is shown once, all visits together, at the last; what a tap returns then
/// is not used.
///
/// The shapes of a recording do not change: an input of another shape is computed by a recording of its own, and
/// [`Recording::new`] makes as many as the samples call for.
pub struct Recording {
    device: Device,
    found: Vec<Found>,
    layers: Vec<LayerInfo>,
    weights: Vec<Weight>,
    left: Vec<Left>,
    graphs: Vec<Graph>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("layers", &self.layers).field("left", &self.left).finish_non_exhaustive()
    }
}

/// Inputs of a recorded module.
#[derive(Clone, Debug)]
pub struct Sample(Vec<DispatchTensor>);

impl Sample {
    /// Tensors in the order in which `forward` takes them.
    pub fn new(tensors: impl Tensors) -> Self {
        Self(tensors.into_values())
    }
}

/// A pass on its way through the blocks.
#[derive(Clone, Debug)]
pub struct Flow {
    graph: usize,
    values: Values,
}

impl Recording {
    /// Records `forward` once for every shape among the samples; the module is read, not changed.
    ///
    /// - `forward`: the module and one sample to whatever the module gives; it may use nothing but its arguments
    ///
    /// # Errors
    ///
    /// [`ForeignError::NoSamples`], [`ForeignError::Autodiff`] and [`ForeignError::Device`] for samples that cannot be recorded with,
    /// [`ForeignError::Capture`] if Burn cannot finish, [`ForeignError::Ways`] if layers depend on the shape, and
    /// [`ForeignError::NoWeights`].
    ///
    /// # Panics
    ///
    /// If `forward` reads a value of a tensor (`into_data`, `into_scalar`), for there are none while it is recorded, or uses a tensor
    /// that came from neither the module nor the sample.
    pub fn new<M: Module, I: Tensors, O: Tensors>(
        module: &M,
        samples: &[I],
        forward: impl Fn(&M, I) -> O,
    ) -> Result<Self, ForeignError> {
        // Adapters and other changes to parameters become part of them, and running statistics are used, not gathered.
        let module = module.valid().materialize();
        let Some(first) = samples.first() else { return Err(ForeignError::NoSamples) };
        let values = checked(first.clone())?;
        let device = Device::new(values.first().ok_or(ForeignError::NoSamples)?.device());
        let (found, left, weights, graph) = record(&module, first, &forward, &device)?;
        let info = |(layer, found): (usize, &Found)| LayerInfo {
            name: found.name.clone(),
            site: found.site.as_ref().map(|site| format!("{site}.input")).unwrap_or_default(),
            shape: found.orientation.shape(&found.dims),
            role: found.role,
            block: Some(graph.block[layer]),
            residual: None,
        };
        let layers: Vec<LayerInfo> = found.iter().enumerate().map(info).collect();
        let mut recording = Self { device, found, layers, weights, left, graphs: vec![graph] };
        if recording.found.is_empty() {
            return Err(ForeignError::NoWeights { left: recording.left });
        }
        for sample in &samples[1..] {
            recording.add(&module, sample, &forward)?;
        }
        Ok(recording)
    }

    /// Records another sample, unless one of its shapes is known.
    fn add<M: Module, I: Tensors, O: Tensors>(
        &mut self,
        module: &M,
        sample: &I,
        forward: &impl Fn(&M, I) -> O,
    ) -> Result<(), ForeignError> {
        let shapes = shapes(&checked(sample.clone())?);
        if self.graph(&shapes).is_some() {
            return Ok(());
        }
        let (found, _, _, graph) = record(module, sample, forward, &self.device)?;
        let first = &self.graphs[0];
        if found != self.found || graph.block != first.block {
            let names = |found: &[Found]| found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(ForeignError::Ways {
                first: format!("{:?}", first.shapes),
                other: format!("{shapes:?}"),
                expected: names(&self.found),
                found: names(&found),
            });
        }
        self.graphs.push(graph);
        Ok(())
    }

    /// The parameters that stay dense, and why; vectors are not named.
    pub fn left(&self) -> &[Left] {
        &self.left
    }

    /// The shapes of inputs that it computes.
    pub fn shapes(&self) -> impl Iterator<Item = &[Shape]> {
        self.graphs.iter().map(|graph| graph.shapes.as_slice())
    }

    /// What the module gives for one sample.
    ///
    /// # Panics
    ///
    /// If the sample has shapes that were not recorded.
    pub fn compute<O: Tensors>(&self, sample: Sample) -> O {
        let flow = self.start(sample, &mut ());
        let last = (0..self.blocks()).fold(flow, |flow, block| self.block(block, flow, &mut ()));
        O::from_values(&mut self.outputs(last, &mut ()).into_iter())
    }

    pub(crate) fn found(&self) -> &[Found] {
        &self.found
    }

    pub(crate) fn graph(&self, shapes: &[Shape]) -> Option<usize> {
        self.graphs.iter().position(|graph| graph.shapes == shapes)
    }

    /// The weights by the paths of their parameters.
    pub(crate) fn weights_mut(&mut self) -> impl Iterator<Item = (&str, &mut Weight)> {
        self.found.iter().map(|found| found.path.as_str()).zip(&mut self.weights)
    }

    fn outputs<T: Tap>(&self, flow: Flow, tap: &mut T) -> Vec<DispatchTensor> {
        let graph = &self.graphs[flow.graph];
        let flow = self.walk(graph.end(), flow, tap);
        let found = |id| flow.values.get(id).or_else(|| graph.constants.get(id)).cloned();
        graph.outputs.iter().map(|id| found(id).expect("outputs are kept")).collect()
    }

    /// Takes steps until nobody looks any more.
    fn walk<T: Tap>(&self, steps: Range<usize>, mut flow: Flow, tap: &mut T) -> Flow {
        let graph = &self.graphs[flow.graph];
        let mut seen = Seen::default();
        for at in steps {
            if tap.is_over() {
                break;
            }
            match &graph.steps[at] {
                Step::Run(segment) => replay::run(segment, &self.device, &graph.constants, &mut flow.values),
                Step::Multiply { layer, product, show } => {
                    let value = |id| flow.values.get(id).or_else(|| graph.constants.get(id)).cloned();
                    let x = value(&product.x.id).expect("inputs were made before");
                    let bias = product.bias.as_ref().and_then(|bias| value(&bias.id));
                    let mut look = Visit { tap, seen: &mut seen, site: &self.layers[*layer].site, show: *show };
                    let weight = &self.weights[*layer];
                    match &product.operator {
                        Operator::Decoded { points, .. } => {
                            if *points {
                                product.show_points(x, &mut look);
                            }
                            self.run_decoded(product, *layer, &graph.constants, &mut flow.values);
                        }
                        _ => {
                            let y = product.apply(weight, x, bias, &mut look);
                            flow.values.insert(product.out.id, y);
                        }
                    }
                }
            }
            graph.dead[at].iter().for_each(|id| {
                flow.values.remove(id);
            });
        }
        flow
    }

    fn run_decoded(&self, product: &Product, layer: usize, constants: &Values, values: &mut Values) {
        let Operator::Decoded { operation, .. } = &product.operator else { return };
        let Found { orientation, dims, .. } = &self.found[layer];
        let id = product.weight.id;
        values.insert(id, parameter(self.weights[layer].val(), *orientation, dims));
        let segment = Segment {
            reads: operation.inputs().map(|input| input.id).collect(),
            gives: vec![product.out.clone()],
            operations: vec![(**operation).clone()],
        };
        replay::run(&segment, &self.device, constants, values);
        values.remove(&id);
    }
}

type Recorded = (Vec<Found>, Vec<Left>, Vec<Weight>, Graph);

fn record<M: Module, I: Tensors, O: Tensors>(
    module: &M,
    sample: &I,
    forward: &impl Fn(&M, I) -> O,
    device: &Device,
) -> Result<Recorded, ForeignError> {
    if !replay::supports(device) {
        return Err(ForeignError::Device { device: format!("{device:?}") });
    }
    let captured = capture(module, sample, forward, device)?;
    let weights = Weights::of(&captured);
    let graph = Graph::new(&captured, &weights, shapes(&sample.clone().into_values()), device);
    let ids: BTreeMap<&str, _> = captured.parameters.iter().map(|(path, id)| (path.as_str(), *id)).collect();
    let dense = |found: &Found| {
        let data = captured.values[&ids[found.path.as_str()]].clone();
        Weight::dense(matrix(replay::upload(data, device), found.orientation))
    };
    let dense = weights.found.iter().map(dense).collect();
    Ok((weights.found, weights.left, dense, graph))
}

/// The tensors of a sample, none of which takes part in autodiff.
pub(crate) fn checked(sample: impl Tensors) -> Result<Vec<DispatchTensor>, ForeignError> {
    let values = sample.into_values();
    match values.iter().position(|value| value.autodiff != DispatchAutodiffContext::Disabled) {
        Some(index) => Err(ForeignError::Autodiff { index }),
        None => Ok(values),
    }
}

/// What a walk has shown.
#[derive(Default)]
struct Seen {
    /// What the tap returned for it.
    rows: BTreeMap<String, Tensor<2>>,
    /// What is to be shown with what comes.
    parts: BTreeMap<String, Vec<Tensor<2>>>,
}

/// One product on its way past a tap.
struct Visit<'a, T> {
    tap: &'a mut T,
    seen: &'a mut Seen,
    site: &'a str,
    show: Show,
}

impl<T: Tap> Look for Visit<'_, T> {
    fn looks(&self) -> bool {
        !self.site.is_empty() && self.tap.sees(self.site)
    }

    fn see(&mut self, rows: Tensor<2>) -> Tensor<2> {
        if !self.looks() {
            return rows;
        }
        match self.show {
            Show::No => self.seen.rows.get(self.site).cloned().unwrap_or(rows),
            Show::Once => {
                let rows = self.tap.tap(self.site, rows);
                self.seen.rows.insert(self.site.to_owned(), rows.clone());
                rows
            }
            Show::Part => {
                self.seen.parts.entry(self.site.to_owned()).or_default().push(rows.clone());
                rows
            }
            Show::Last => {
                let mut parts = self.seen.parts.remove(self.site).unwrap_or_default();
                parts.push(rows.clone());
                self.tap.tap(self.site, Tensor::cat(parts, 0));
                rows
            }
        }
    }
}

impl Model for Recording {
    type Input = Sample;
    type Carry = Flow;

    fn layers(&self) -> Vec<LayerInfo> {
        self.layers.clone()
    }

    fn blocks(&self) -> usize {
        self.graphs[0].blocks.len()
    }

    /// Does nothing: a recording is in memory.
    fn load(&mut self, _: Section) -> Result<(), LoadError> {
        Ok(())
    }

    fn release(&mut self, _: Section) {}

    /// # Panics
    ///
    /// If the sample has shapes that were not recorded.
    fn start<T: Tap>(&self, Sample(inputs): Sample, _: &mut T) -> Flow {
        let shapes = shapes(&inputs);
        let graph = self.graph(&shapes);
        let graph = graph.unwrap_or_else(|| {
            panic!("inputs {shapes:?} were not recorded; {:?} were", self.shapes().collect::<Vec<_>>())
        });
        let values = self.graphs[graph].inputs.iter().copied().zip(inputs).collect();
        Flow { graph, values }
    }

    fn block<T: Tap>(&self, index: usize, flow: Flow, tap: &mut T) -> Flow {
        self.walk(self.graphs[flow.graph].blocks[index].clone(), flow, tap)
    }

    /// The first output, its last dimension kept: `[1, rows, features]`.
    ///
    /// # Panics
    ///
    /// If the first output is not of floats.
    fn finish<T: Tap>(&self, flow: Flow, tap: &mut T) -> Tensor<3> {
        let first = self.outputs(flow, tap).into_iter().next().expect("a module has an output");
        let dims = first.shape();
        let (features, rest) = dims[..].split_last().map_or((1, &[][..]), |(last, rest)| (*last, rest));
        Tensor::from_dispatch(Dispatch::float_reshape(first, Shape::from([1, rest.iter().product(), features])))
    }

    fn open(&mut self, section: Section) -> Vec<Part<'_>> {
        let here = self.layers.iter().zip(&mut self.weights).filter(|(layer, _)| layer.section() == section);
        here.map(|(layer, weight)| Part { name: layer.name.clone(), site: layer.site.clone(), weight }).collect()
    }
}
