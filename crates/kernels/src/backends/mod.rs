//! What each backend does better than the portable bodies, and the backward pass.
//!
//! Flex and NdArray share [`host`], a decoder over slices; their product is decode, then the backend's own matmul. A
//! product that never writes the dense matrix ("fused") has its place in `host.rs` for the CPU and in `cube.rs` for the
//! Cube family.

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
#[cfg(feature = "ndarray")]
mod ndarray;
