//! Cube (CUDA, ROCm, Vulkan, Metal, wgpu): the kernels of [`crate::cube`].

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;

use crate::cube;
use crate::ops::{PackedParts, QuantBackend, Side};

impl QuantBackend for CubeBackend {
    fn packed_decode(w: PackedParts<Self>) -> FloatTensor<Self> {
        cube::decode(w, DType::F32)
    }

    fn packed_matmul(x: FloatTensor<Self>, w: PackedParts<Self>, side: Side) -> FloatTensor<Self> {
        cube::matmul(x, w, side)
    }

    fn packed_select(rows: IntTensor<Self>, w: PackedParts<Self>) -> FloatTensor<Self> {
        cube::select_rows(rows, w)
    }
}
