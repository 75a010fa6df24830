//! Flex, Burn's CPU backend.

use std::borrow::Cow;

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::host::{self, HostBackend};
use crate::ops::{PackedParts, QuantBackend, Side};

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
}
