//! Flex, Burn's CPU backend.

use std::borrow::Cow;

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use quench_cpu::Dense;

use super::host::{self, HostBackend};
use crate::ops::{PackedParts, QuantBackend, Side, Window};

impl QuantBackend for Flex {
    fn packed_decode(w: PackedParts<Self>) -> FloatTensor<Self> {
        host::decode(w)
    }

    fn packed_matmul(x: FloatTensor<Self>, w: PackedParts<Self>, side: Side) -> FloatTensor<Self> {
        host::matmul(x, w, side)
    }

    fn packed_select(rows: IntTensor<Self>, w: PackedParts<Self>) -> FloatTensor<Self> {
        host::select(rows, w)
    }

    fn packed_convolve(
        x: FloatTensor<Self>,
        w: PackedParts<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self> {
        host::convolve(x, w, bias, &window)
    }

    fn dense_matmul(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        host::dense_matmul::<Self>(x, w)
    }
}

impl HostBackend for Flex {
    fn f32s(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]> {
        match tensor.as_slice() {
            Some(values) => Cow::Borrowed(values),
            None => Cow::Owned(tensor.to_contiguous().storage().to_vec()),
        }
    }

    fn i32s(tensor: &IntTensor<Self>) -> Cow<'_, [i32]> {
        match tensor.as_slice() {
            Some(values) => Cow::Borrowed(values),
            None => Cow::Owned(tensor.to_contiguous().storage().to_vec()),
        }
    }

    fn dense(tensor: &FloatTensor<Self>) -> Option<Dense<'_>> {
        match tensor.dtype() {
            DType::F32 => tensor.as_slice().map(Dense::F32),
            DType::F16 => tensor.as_slice().map(Dense::F16),
            DType::BF16 => tensor.as_slice().map(Dense::BF16),
            _ => None,
        }
    }

    fn words(tensor: &FloatTensor<Self>) -> Cow<'_, [u32]> {
        let size = match tensor.dtype() {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            other => panic!("the scales of a packed matrix are f32, f16 or bf16, not {other:?}"),
        };
        let bytes = |tensor: &FloatTensor<Self>| {
            let start = tensor.layout().start_offset() * size;
            start..start + tensor.layout().num_elements() * size
        };
        match tensor.is_contiguous() {
            // The allocator aligns to more than a word, though nothing promises it.
            true => match bytemuck::try_cast_slice(&tensor.bytes()[bytes(tensor)]) {
                Ok(words) => Cow::Borrowed(words),
                Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(&tensor.bytes()[bytes(tensor)])),
            },
            false => {
                let tensor = tensor.to_contiguous();
                Cow::Owned(bytemuck::pod_collect_to_vec(&tensor.bytes()[bytes(&tensor)]))
            }
        }
    }
}
