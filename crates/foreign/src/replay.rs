//! Recorded operations on a backend.

use burn::backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn::backend::{BackendTensor, Dispatch, DispatchDevice, DispatchKindConversion, DispatchTensor};
use burn::tensor::{Device, TensorData};
use burn_ir::{BackendIr, HandleKind, TensorIr, TensorStatus};
use burn_router::TensorInterpreter;

use crate::graph::{Segment, Values};

/// Whether recordings are replayed on `device`.
pub(crate) fn supports(device: &Device) -> bool {
    match device.as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        _ => false,
    }
}

/// Runs the operations of `segment`; what is needed after them is put into `values`.
///
/// # Panics
///
/// If the device is not [supported](supports).
pub(crate) fn run(segment: &Segment, device: &Device, constants: &Values, values: &mut Values) {
    match device.as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(device) => run_on::<burn::backend::Flex>(segment, *device, constants, values),
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(device) => run_on::<burn::backend::NdArray>(segment, *device, constants, values),
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => run_on::<burn::backend::Cube>(segment, device.clone(), constants, values),
        other => unreachable!("{other:?} was refused when the module was recorded"),
    }
}

fn run_on<B: BackendIr>(segment: &Segment, device: B::Device, constants: &Values, values: &mut Values)
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let mut interpreter = TensorInterpreter::<B>::new(device);
    for id in &segment.reads {
        let tensor = values.get(id).or_else(|| constants.get(id)).expect("what is read was made before");
        let tensor =
            DispatchTensor::try_into_backend(tensor.clone()).expect("every tensor is on the device of the recording");
        let tensor = match tensor {
            BackendTensor::Float(tensor) => HandleKind::Float(tensor),
            BackendTensor::Int(tensor) => HandleKind::Int(tensor),
            BackendTensor::Bool(tensor) => HandleKind::Bool(tensor),
            other => unreachable!("a {} is not recorded", other.name()),
        };
        interpreter.register_tensor_to_device(*id, tensor);
    }
    segment.operations.iter().for_each(|operation| interpreter.register_op(operation.clone()));
    for tensor in &segment.gives {
        let found = match interpreter.get_tensor(&TensorIr { status: TensorStatus::ReadOnly, ..tensor.clone() }) {
            HandleKind::Float(tensor) => BackendTensor::Float(tensor),
            HandleKind::Int(tensor) => BackendTensor::Int(tensor),
            HandleKind::Bool(tensor) => BackendTensor::Bool(tensor),
            HandleKind::Quantized(_) => unreachable!("what is quantized is not recorded"),
        };
        values.insert(tensor.id, DispatchTensor::from_backend(found));
    }
}

/// A recorded constant on a device.
pub(crate) fn upload(data: TensorData, device: &Device) -> DispatchTensor {
    let (dtype, device) = (data.dtype(), device.as_dispatch());
    if dtype.is_float() {
        Dispatch::float_from_data(data, device)
    } else if dtype.is_bool() {
        Dispatch::bool_from_data(data, device)
    } else {
        Dispatch::int_from_data(data, device)
    }
}
