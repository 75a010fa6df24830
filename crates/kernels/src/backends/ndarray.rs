//! NdArray, the reference CPU backend; it has no f16 and no bf16.

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{NdArray, TensorMetadata};
use burn_ndarray::NdArrayTensor;

use super::host::{self, HostBackend};
use quench_cpu::Dense;

use crate::ops::{PackedParts, QuantBackend, Side, Window};

impl QuantBackend for NdArray {
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

impl HostBackend for NdArray {
    fn f32s(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]> {
        match tensor {
            NdArrayTensor::F32(values) => match values.view().to_slice() {
                Some(values) => Cow::Borrowed(values),
                None => Cow::Owned(values.view().iter().copied().collect()),
            },
            other => panic!("the parts of a packed matrix are f32, not {:?}", other.dtype()),
        }
    }

    fn dense(tensor: &FloatTensor<Self>) -> Option<Dense<'_>> {
        match tensor {
            NdArrayTensor::F32(_) => match Self::f32s(tensor) {
                Cow::Borrowed(values) => Some(Dense::F32(values)),
                Cow::Owned(_) => None,
            },
            _ => None,
        }
    }

    fn words(tensor: &FloatTensor<Self>) -> Cow<'_, [u32]> {
        match Self::f32s(tensor) {
            Cow::Borrowed(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
            Cow::Owned(values) => Cow::Owned(bytemuck::cast_vec(values)),
        }
    }

    fn i32s(tensor: &IntTensor<Self>) -> Cow<'_, [i32]> {
        match tensor {
            NdArrayTensor::I32(values) => match values.view().to_slice() {
                Some(values) => Cow::Borrowed(values),
                None => Cow::Owned(values.view().iter().copied().collect()),
            },
            other => panic!("the parts of a packed matrix are i32, not {:?}", other.dtype()),
        }
    }
}
