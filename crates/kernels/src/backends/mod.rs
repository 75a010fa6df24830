//! What each backend does better than the portable bodies, and the backward pass.
//!
//! Flex and NdArray share [`host`], which hands slices to [`quench_cpu`]; `cube.rs` is for the Cube family.

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
#[cfg(feature = "ndarray")]
mod ndarray;
