//! [`QTensor`], a packed matrix on a device, and its operations: decode, matmul, convolution and row select.
//!
//! [`QuantBackend`] is Burn's extension trait for them, implemented in `backends/`: Flex and NdArray by [`quench_cpu`],
//! the Cube family by the kernels in `cube/`. What every backend is tested against is
//! [`Packed::decode`](quench_format::Packed::decode). [`dense_matmul`] is for the matrices that stay dense beside them.
//!
//! Under autodiff the weights are constants: the gradient of `x · Wᵀ` reaches `x` and is itself a packed product, so no
//! dense `W` is kept between the passes.

// Burn marks the whole crate burn-ndarray as deprecated; it is this project's reference CPU backend.
#![cfg_attr(feature = "ndarray", expect(deprecated, reason = "burn-ndarray is deprecated upstream as a whole"))]
// Without a backend nothing of an operation is used; Burn's own crates do the same.
#![cfg_attr(
    not(any(feature = "flex", feature = "ndarray", feature = "cube")),
    expect(unused_variables, reason = "the dispatch that Burn generates has no arms without a backend")
)]

mod backends;
mod convolve;
#[cfg(feature = "cube")]
mod cube;
mod dense;
mod ops;
mod qtensor;

pub use convolve::unfold;
pub use dense::dense_matmul;
pub use ops::{Activations, Layout, Levels, Minimums, Order, PackedParts, QuantBackend, Side, Window};
pub use qtensor::QTensor;
pub use quench_cpu::Isa;
