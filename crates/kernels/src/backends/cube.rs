//! Cube (CUDA, ROCm, Vulkan, Metal, wgpu): the portable bodies for now.
//!
//! To Burn's fusion an operation on packed matrices is one opaque step, so the portable chain of shifts, masks and
//! products runs as it stands, some tens of launches for a decode. A decoder in one launch, and products that read codes
//! in place of weights, belong in this file.

use burn_cubecl::CubeBackend;

use crate::ops::QuantBackend;

impl QuantBackend for CubeBackend {}
