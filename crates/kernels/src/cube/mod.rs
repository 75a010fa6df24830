//! Kernels of the Cube family: written once, compiled for CUDA, ROCm, Vulkan, Metal and WebGPU.
//!
//! Every buffer of a packed matrix is read as 32-bit words, halves by bit operations, so that no kernel asks for a type
//! that a device may lack. Indices are of the width that the largest buffer needs, 32 bits below 2^32 elements; a device
//! that addresses no more refuses such a buffer when it is made.
//!
//! Sizes of cubes and blocks, and the rows at which one kernel takes over from another, are chosen by counting
//! registers, shared memory and bytes in flight; none of them has been measured.

mod decode;
mod gemv;
mod matmul;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use quench_format::FloatKind;
use quench_format::tiles::STEP;

pub(crate) use decode::{decode, select_rows};
pub(crate) use matmul::matmul;

use crate::ops::{Layout, Levels, Minimums, Order, PackedParts};

/// A packed matrix as a kernel reads it: codes in words `C`, scales in words `S`, of one lane or several.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Words<C: CubePrimitive, S: CubePrimitive> {
    codes: Box<[C]>,
    /// From one tile to the next in `codes`.
    code_pitch: usize,
    scales: Box<[S]>,
    /// From one tile to the next in `scales`.
    scale_pitch: usize,
    levels: Values,
    out: usize,
    columns: usize,
    /// Columns that share a scale.
    group: usize,
}

/// How a code becomes a number at scale 1, as a kernel reads it.
#[derive(CubeType, CubeLaunch)]
#[expect(
    dead_code,
    reason = "kernels are launched with `ValuesArgs` and see `ValuesExpand`, which the macros make of it"
)]
pub(crate) enum Values {
    /// `u − 2^(bits−1)`.
    Signed,
    /// `u − zero`.
    Affine(Zeros),
    /// `table[u]`.
    Table(Box<[f32]>),
}

/// Zero points: words of four bytes up to 8 bits of code, of two halves above.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Zeros {
    words: Box<[u32]>,
    /// From one tile to the next.
    pitch: usize,
}

/// What is known of the words when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Packing {
    /// Bits of one code.
    bits: u32,
    /// What a scale is kept as.
    scale: FloatKind,
    /// Whether the columns of a step share their scale.
    whole_steps: bool,
}

/// The tensors of a packed matrix, in rows of words whose distance is a multiple of 16 bytes.
struct Operands {
    codes: CubeTensor,
    scales: CubeTensor,
    levels: Levels<CubeBackend>,
    order: Option<CubeTensor>,
    layout: Layout,
}

impl Operands {
    /// # Panics
    ///
    /// If the matrix has minimums, for which there is no kernel here: [`crate::QTensor::is_served`].
    fn new(w: PackedParts<CubeBackend>) -> Self {
        if let Minimums::Floats(_) = w.minimums {
            panic!("no kernel adds minimums on Cube: decode a matrix {:?} that has them", w.layout.shape);
        }
        Self {
            codes: in_rows(w.codes),
            scales: in_rows(w.scales),
            levels: match w.levels {
                // Codes are unsigned only beside minimums.
                Levels::Signed | Levels::Unsigned => Levels::Signed,
                Levels::Affine(zeros) => Levels::Affine(in_rows(zeros)),
                Levels::Table(levels) => Levels::Table(into_contiguous(levels)),
            },
            order: match w.order {
                Order::Natural => None,
                Order::Permuted(order) => Some(into_contiguous(order)),
            },
            layout: w.layout,
        }
    }

    fn packing(&self) -> Packing {
        let Layout { shape: [_, columns], bits, group, scale } = self.layout;
        Packing { bits, scale, whole_steps: group.is_multiple_of(STEP) || group >= columns }
    }

    /// The arguments of a kernel that reads codes and scales in vectors of so many words.
    fn words<C: CubePrimitive, S: CubePrimitive>(&self, code_lanes: usize, scale_lanes: usize) -> WordsLaunch<C, S> {
        WordsLaunch::new(
            self.codes.clone().into_buffer_arg(),
            pitch(&self.codes) / code_lanes,
            self.scales.clone().into_buffer_arg(),
            pitch(&self.scales) / scale_lanes,
            match &self.levels {
                Levels::Signed | Levels::Unsigned => ValuesArgs::Signed,
                Levels::Affine(zeros) => {
                    ValuesArgs::Affine(ZerosLaunch::new(zeros.clone().into_buffer_arg(), pitch(zeros)))
                }
                Levels::Table(levels) => ValuesArgs::Table(levels.clone().into_buffer_arg()),
            },
            self.layout.shape[0],
            self.layout.shape[1],
            self.layout.group,
        )
    }

    /// The order of the columns as an argument.
    fn order(&self) -> ComptimeOptionArgs<Box<[u32]>> {
        self.order.clone().map(CubeTensor::into_buffer_arg).into()
    }
}

/// A matrix whose rows are dense and lie a multiple of 16 bytes apart, as those of [`crate::QTensor`] do: CUDA keeps the
/// rows of a tensor apart, the others have no gaps.
fn in_rows(tensor: CubeTensor) -> CubeTensor {
    let strides = tensor.meta.strides();
    match strides[1] == 1 && (strides[0] * tensor.elem_size()).is_multiple_of(16) {
        true => tensor,
        false => into_contiguous(tensor),
    }
}

/// Words from one row to the next.
fn pitch(tensor: &CubeTensor) -> usize {
    tensor.meta.strides()[0] * tensor.elem_size() / size_of::<u32>()
}

/// A tensor on the device of `like`, of any contents.
fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), dtype)
}

/// The index type that reaches every element of these tensors.
fn address_type<'a>(tensors: impl IntoIterator<Item = &'a CubeTensor>) -> AddressType {
    tensors.into_iter().map(CubeTensor::required_address_type).max().unwrap_or_default()
}
