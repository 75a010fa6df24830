//! Anyone's Burn module: recorded, quantized, and given back.
//!
//! A module of plain `burn::nn` layers says nothing of itself: it has no hooks, and its layers cannot be replaced. But Burn can record
//! what it computes. [`Recording`] finds in that which parameters are weights and what they are multiplied with, and replays it with
//! weights that may be packed; to the rest of Quench it is a [`Model`](quench_nn::Model). [`quantize_module`] quantizes it and gives
//! the user's own type back, its parameters [decoded](Decoded) where they are read; [`Compiled`] is the recording again, with fused
//! products.

// Burn marks the whole crate burn-ndarray as deprecated; it is this project's reference CPU backend.
#![cfg_attr(feature = "ndarray", allow(deprecated, reason = "burn-ndarray is deprecated upstream as a whole"))]
// Without a backend nothing is replayed.
#![cfg_attr(
    not(any(feature = "flex", feature = "ndarray", feature = "cube")),
    allow(dead_code, unused_imports, unused_variables, reason = "the dispatch has no arms without a backend")
)]

mod capture;
mod compiled;
mod decoded;
mod error;
mod graph;
mod multiply;
mod operator;
mod qat;
mod quantized;
mod recording;
mod replay;
mod save;
mod tensors;
mod weights;

pub use compiled::Compiled;
pub use decoded::{Decoded, Layer};
pub use error::ForeignError;
pub use operator::Orientation;
pub use qat::{Qat, Rounded, finish_qat, prepare_qat};
pub use quantized::{Quantized, quantize_module, quantize_planned};
pub use recording::{Flow, Recording, Sample};
pub use tensors::Tensors;
pub use weights::Left;
