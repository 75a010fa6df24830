//! What can go wrong with a module that Quench has not seen before.

use std::path::PathBuf;

use quench_checkpoint::CheckpointError;
use quench_quantize::QuantizeError;

/// An error of this crate; each names the parameter or tensor, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// There is nothing to record the module with.
    #[error("there are no sample inputs; a module is recorded while it computes one")]
    NoSamples,
    /// A sample takes part in autodiff.
    #[error("sample input {index} takes part in autodiff; give it without, x.inner()")]
    Autodiff {
        /// Which tensor of the sample, from 0.
        index: usize,
    },
    /// Recordings are not replayed on this device.
    #[error("recordings are not replayed on {device}; use a device of Flex, NdArray or Cube that this build has")]
    Device {
        /// The device.
        device: String,
    },
    /// Burn could not finish the recording.
    #[error("the module could not be recorded: {reason}")]
    Capture {
        /// What Burn said.
        reason: String,
    },
    /// The module takes another way with inputs of another shape.
    #[error(
        "inputs {first} and {other} take different ways through the module: it has the layers [{expected}] with the one and \
         [{found}] with the other; quantize it with samples that take one way"
    )]
    Ways {
        /// Shapes of the first sample.
        first: String,
        /// Shapes of this one.
        other: String,
        /// Layers in the first recording.
        expected: String,
        /// Layers in this one.
        found: String,
    },
    /// No parameter of the module is a weight that can be quantized.
    #[error("the module has no weight that can be quantized{}", listed(.left))]
    NoWeights {
        /// What was left dense, and why.
        left: Vec<crate::Left>,
    },
    /// The plan transforms the network first, which takes knowledge of it.
    #[error(
        "plan {plan} transforms the network before it is quantized, and nobody knows how in a foreign module; leave out `transforms`"
    )]
    Transforms {
        /// The recipe that the plan came from.
        plan: String,
    },
    /// A packed layer has no place in the module.
    #[error("layer {layer}: {reason}")]
    Layer {
        /// The layer.
        layer: String,
        /// What does not fit.
        reason: String,
    },
    /// A file does not have a parameter of the module.
    #[error("{}: parameter {parameter} {reason}", .file.display())]
    Parameter {
        /// The file.
        file: PathBuf,
        /// The path of the parameter.
        parameter: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Quantization failed.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
}

fn listed(left: &[crate::Left]) -> String {
    left.iter().map(|left| format!("; {left}")).collect()
}
