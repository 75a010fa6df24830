//! Layers that are dense or quantized, taps that see activations, and the walk over a model's blocks.
//!
//! A model is written once: its matrices are [`Weight`]s, and whether one is dense or packed is data, not a type.
//! A [`Tap`] sees the activations on their way; [`Model`] is what quantization needs to know of a network: its blocks,
//! in order, and the weights in each.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use quench_nn::{Linear, Tap, Weight};
//!
//! /// Remembers the largest activation it has seen.
//! struct Largest(f32);
//! impl Tap for Largest {
//!     fn tap<const D: usize>(&mut self, _site: &str, x: Tensor<D>) -> Tensor<D> {
//!         self.0 = self.0.max(x.clone().abs().max().into_scalar());
//!         x
//!     }
//! }
//!
//! let device = Device::flex();
//! let layer = Linear::new(Weight::dense(Tensor::from_floats([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]], &device)), None);
//! let mut tap = Largest(0.0);
//! let x = tap.tap("lm_head.input", Tensor::<2>::from_floats([[1.0, -2.0]], &device)); // [rows, in]
//! let y = layer.forward(x); // [rows, out]
//! assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [-3.0, -5.0, -2.0]);
//! assert_eq!(tap.0, 2.0);
//! ```

mod conv;
mod embedding;
mod linear;
mod lora;
mod model;
mod tap;
#[cfg(test)]
mod testing;
mod turn;
mod weight;

pub use conv::Conv2d;
pub use embedding::Embedding;
pub use linear::Linear;
pub use lora::{Adapted, Lora};
pub use model::{Gain, LayerInfo, LoadError, Model, Part, Role, Seam, Section};
pub use quench_kernels::{Window, unfold};
pub use tap::Tap;
pub use turn::Turn;
pub use weight::Weight;
