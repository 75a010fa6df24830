//! Cube (CUDA, ROCm, Vulkan, Metal, wgpu): the portable bodies for now.
//!
//! Burn compiles the chain of shifts, masks and products into its own kernels. A decoder in one launch and products that
//! read codes in place of weights belong in this file.

use burn_cubecl::CubeBackend;

use crate::ops::QuantBackend;

impl QuantBackend for CubeBackend {}
