//! The operations of each backend, and the backward pass.
//!
//! Flex and NdArray share [`host`], which hands slices to [`quench_cpu`]; `cube.rs` hands the Cube family's tensors to
//! [`crate::cube`].

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
#[cfg(feature = "ndarray")]
mod ndarray;
