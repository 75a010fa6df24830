//! A module's forward pass as a list of operations.

use std::collections::{BTreeMap, BTreeSet};

use burn::backend::capture::CaptureBackend;
use burn::backend::tensor::FloatTensor;
use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, DeviceConfig, Tensor, TensorData};
use burn_ir::{OperationIr, TensorId};

use crate::{ForeignError, Tensors};

/// What one pass did.
pub(crate) struct Captured {
    /// In order.
    pub(crate) operations: Vec<OperationIr>,
    /// Parameters and constants.
    pub(crate) values: BTreeMap<TensorId, TensorData>,
    /// Float parameters of the module by their paths, `"layers.0.query.weight"`, in the order of the module.
    pub(crate) parameters: Vec<(String, TensorId)>,
    pub(crate) inputs: Vec<TensorId>,
    pub(crate) outputs: Vec<TensorId>,
}

impl Captured {
    /// Which operations the outputs depend on.
    ///
    /// - `reads`: what the operation at a place depends on
    pub(crate) fn needed(&self, reads: impl Fn(usize, &OperationIr) -> Vec<TensorId>) -> Vec<bool> {
        let mut tensors: BTreeSet<TensorId> = self.outputs.iter().copied().collect();
        let mut needed = vec![false; self.operations.len()];
        for (at, operation) in self.operations.iter().enumerate().rev() {
            // What initializes a tensor does nothing: its value is known.
            let computes = !matches!(operation, OperationIr::Init(_));
            needed[at] = computes && operation.outputs().any(|output| tensors.contains(&output.id));
            if needed[at] {
                tensors.extend(reads(at, operation));
            }
        }
        needed
    }
}

/// Records `forward` on one input; nothing is computed, and the module stays as it is.
///
/// - `home`: where it would be computed
pub(crate) fn capture<M: Module, I: Tensors, O: Tensors>(
    module: &M,
    input: &I,
    forward: &impl Fn(&M, I) -> O,
    home: &Device,
) -> Result<Captured, ForeignError> {
    // What is lazy would be made on the capture device, where nothing is computed.
    module.visit(&mut Initialize);
    let (device, settings) = (Device::capture(), home.settings());
    // Integers that `forward` makes have the type that they would have there: not every device has all.
    let same = DeviceConfig::default()
        .float_dtype(settings.float_dtype)
        .int_dtype(settings.int_dtype)
        .bool_dtype(settings.bool_dtype);
    let mut names = Names::default();
    let captured = device.capture_scope(|scope| {
        device.clone().configure(same).expect("a device that nobody has used takes any type");
        let module = module.clone().to_device(&device);
        module.visit(&mut names);
        let input = input.clone().to_device(&device);
        let inputs = ids(input.clone());
        let output = forward(&module, input);
        let outputs = ids(output.clone());
        let complete = scope.complete(inputs, outputs);
        // Until here nothing may be dropped: an operation would think that it has the last handle.
        drop((module, output));
        complete
    });
    let captured = captured.map_err(|error| ForeignError::Capture { reason: error.to_string() })?;
    let graph = captured.graph;
    Ok(Captured {
        operations: graph.operations,
        values: captured.values,
        parameters: names.found,
        inputs: graph.inputs,
        outputs: graph.outputs,
    })
}

/// The id of every tensor on the capture device.
fn ids<T: Tensors>(tensors: T) -> Vec<TensorId> {
    tensors.into_values().into_iter().map(|tensor| primitive(tensor).id()).collect()
}

/// # Panics
///
/// If the tensor is elsewhere: `forward` has let a tensor in from outside.
fn primitive(tensor: DispatchTensor) -> FloatTensor<CaptureBackend> {
    match tensor.kind {
        DispatchTensorKind::Capture(
            BackendTensor::Float(tensor) | BackendTensor::Int(tensor) | BackendTensor::Bool(tensor),
        ) => tensor,
        other => {
            panic!("a tensor {other:?} was not made from the module and its inputs: `forward` may use nothing else")
        }
    }
}

struct Initialize;

impl ModuleVisitor for Initialize {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        parameter.base();
    }
}

/// Where each float parameter is in the module.
#[derive(Default)]
struct Names {
    path: Vec<String>,
    found: Vec<(String, TensorId)>,
}

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        self.found.push((self.path.join("."), primitive(parameter.val().into_dispatch()).id()));
    }
}
