//! Fine-tuning after quantization.
//!
//! [`tune`] trains a quantized [`Model`](quench_nn::Model) to say what its dense original says ([`Teacher`]), by one of three
//! [`Method`]s: quantization-aware training, in which every weight is rounded while it is trained ([`LearnedStep`]); adapters of
//! low rank beside packed weights, which are [merged](merge) into the codes at the end; or the cheapest, gains of norms and
//! scales alone. The result is again packed, on the same schemes. The loop keeps its state on disk and can be broken off at any step.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use quench_format::{FormatError, Packed, Scales};
//! use quench_tune::{LearnedStep, Start};
//!
//! /// Moves three 2-bit weights towards 1, through the rounding.
//! fn pull(device: &Device) -> Result<(), FormatError> {
//!     let scales = Scales::Float(vec![0.5]);
//!     let packed = Packed::from_codes("int2/row/f32".parse()?, [1, 3], &[0, 2, 3], scales, None, None)?;
//!     let step = LearnedStep::new(&packed, Start::Decoded, &device.clone().autodiff()).expect("a scalar code");
//!     let loss = (step.weight() - Tensor::ones([1, 3], device).autodiff()).square().sum();
//!     let _gradients = loss.backward(); // of weights and scales
//!     step.to_packed().map(|_| ())
//! }
//! ```

mod checks;
mod distill;
mod error;
mod lora;
mod rounding;
mod settings;
mod state;
mod step;
#[cfg(test)]
mod testing;
mod train;
mod trained;

use burn::tensor::Tensor;

pub use checks::known_answers;
pub use distill::{Targets, Teacher};
pub use error::TuneError;
pub use lora::{Recovery, merge, recover};
pub use settings::{Method, Rates, Settings};
pub use state::Point;
pub use step::{LearnedStep, Start, Trained};
pub use train::{Data, Event, Merged, Tuned, tune};

/// The values of a float tensor on the host.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_else(|error| unreachable!("a float tensor converts to f32: {error:?}"))
}

/// `x` without its graph. Not `detach`, which leaves a trained tensor one that is trained.
pub(crate) fn constant<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { Tensor::from_inner(x.inner()) } else { x }
}
