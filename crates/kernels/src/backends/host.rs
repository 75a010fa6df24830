//! What Flex and NdArray share: tensors as slices, for [`quench_cpu`].

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IntDType, TensorData};
use quench_cpu::{DENSE_ROWS, Dense, Images, Isa, Weights};

use crate::dense::dense;
use crate::ops::{Layout, Levels, Minimums, Order, PackedParts, Side, Window};

/// A backend whose tensors are in host memory.
pub(crate) trait HostBackend: Backend {
    /// The elements of an f32 tensor, row-major; copied only if strided.
    fn f32s(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]>;
    /// The elements of an i32 tensor, row-major; copied only if strided.
    fn i32s(tensor: &IntTensor<Self>) -> Cow<'_, [i32]>;
    /// The words of a float tensor of an even number of elements, row-major; copied only if strided.
    fn words(tensor: &FloatTensor<Self>) -> Cow<'_, [u32]>;
    /// The elements of a float tensor, unless it is strided.
    fn dense(tensor: &FloatTensor<Self>) -> Option<Dense<'_>>;
}

/// `W` `[out, in]`, f32.
pub(crate) fn decode<B: HostBackend>(w: PackedParts<B>) -> FloatTensor<B> {
    let shape = w.layout.shape;
    let values = quench_cpu::decode(&Slices::new::<B>(&w).weights(), Isa::chosen());
    B::float_from_data(TensorData::new(values, shape), &w.scales.device())
}

/// The rows of `W` named by `rows` `[n]`: `[n, in]`, f32.
///
/// # Panics
///
/// If a row is not below `out`, naming both.
pub(crate) fn select<B: HostBackend>(rows: IntTensor<B>, w: PackedParts<B>) -> FloatTensor<B> {
    let [out, columns] = w.layout.shape;
    let rows = B::int_cast(rows, IntDType::I32);
    let row = |&row: &i32| match usize::try_from(row) {
        Ok(row) if row < out => row,
        _ => panic!("row {row} of a matrix {:?}", w.layout.shape),
    };
    let rows: Vec<usize> = B::i32s(&rows).iter().map(row).collect();
    let values = quench_cpu::select(&Slices::new::<B>(&w).weights(), &rows);
    B::float_from_data(TensorData::new(values, [rows.len(), columns]), &w.scales.device())
}

/// `x · Wᵀ` or `x · W`; `x` `[rows, in or out]` of any float dtype, which the product has too.
pub(crate) fn matmul<B: HostBackend>(x: FloatTensor<B>, w: PackedParts<B>, side: Side) -> FloatTensor<B> {
    let (dtype, device) = (x.dtype(), x.device());
    let [rows, _] = x.shape().dims::<2>();
    let x = match dtype {
        DType::F32 => x,
        _ => B::float_cast(x, FloatDType::F32),
    };
    let [_, columns] = side.columns(w.layout.shape);
    let y = quench_cpu::matmul(&Slices::new::<B>(&w).weights(), &B::f32s(&x), rows, side, w.activations, Isa::chosen());
    let y = B::float_from_data(TensorData::new(y, [rows, columns]), &device);
    match dtype {
        DType::F32 => y,
        dtype => B::float_cast(y, FloatDType::from(dtype)),
    }
}

/// `W ⋆ x + b`; `x` `[batch, channels, height, width]` of any float dtype, which the result has too.
pub(crate) fn convolve<B: HostBackend>(
    x: FloatTensor<B>,
    w: PackedParts<B>,
    bias: FloatTensor<B>,
    window: &Window,
) -> FloatTensor<B> {
    let (dtype, device, shape) = (x.dtype(), x.device(), x.shape().dims::<4>());
    let in_f32 = |x: FloatTensor<B>| if x.dtype() == DType::F32 { x } else { B::float_cast(x, FloatDType::F32) };
    let (x, bias) = (in_f32(x), in_f32(bias));
    let images = Images { values: &B::f32s(&x), shape };
    let weights = Slices::new::<B>(&w);
    let y = quench_cpu::convolve(&weights.weights(), &B::f32s(&bias), window, images, w.activations, Isa::chosen());
    let [lines, places] = window.output([shape[2], shape[3]]);
    let y = B::float_from_data(TensorData::new(y, [shape[0], w.layout.shape[0], lines, places]), &device);
    match dtype {
        DType::F32 => y,
        dtype => B::float_cast(y, FloatDType::from(dtype)),
    }
}

/// `x · Wᵀ` for a dense matrix: our own for few rows in f32, the backend's for more.
///
/// Flex multiplies one row on one thread, and eight rows by a transposed matrix no faster than it packs the matrix.
pub(crate) fn dense_matmul<B: HostBackend>(x: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
    let ([rows, _], shape) = (x.shape().dims::<2>(), w.shape().dims::<2>());
    if rows <= DENSE_ROWS
        && x.dtype() == DType::F32
        && let Some(w) = B::dense(&w)
    {
        let y = quench_cpu::dense(w, shape, &B::f32s(&x), rows, Isa::chosen());
        return B::float_from_data(TensorData::new(y, [rows, shape[0]]), &x.device());
    }
    dense::<B>(x, w)
}

/// [`PackedParts`] as slices.
struct Slices<'a> {
    layout: Layout,
    codes: Cow<'a, [i32]>,
    scales: Cow<'a, [u32]>,
    levels: Values<'a>,
    minimums: Option<Cow<'a, [f32]>>,
    order: Option<Cow<'a, [i32]>>,
}

/// [`Levels`] as slices.
enum Values<'a> {
    Signed,
    Unsigned,
    Affine(Cow<'a, [i32]>),
    Table(Cow<'a, [f32]>),
}

impl<'a> Slices<'a> {
    fn new<B: HostBackend>(w: &'a PackedParts<B>) -> Self {
        Self {
            layout: w.layout,
            codes: B::i32s(&w.codes),
            scales: B::words(&w.scales),
            levels: match &w.levels {
                Levels::Signed => Values::Signed,
                Levels::Unsigned => Values::Unsigned,
                Levels::Affine(zeros) => Values::Affine(B::i32s(zeros)),
                Levels::Table(levels) => Values::Table(B::f32s(levels)),
            },
            minimums: match &w.minimums {
                Minimums::None => None,
                Minimums::Floats(minimums) => Some(B::f32s(minimums)),
            },
            order: match &w.order {
                Order::Natural => None,
                Order::Permuted(order) => Some(B::i32s(order)),
            },
        }
    }

    fn weights(&self) -> Weights<'_> {
        let levels = match &self.levels {
            Values::Signed => quench_cpu::Levels::Signed,
            Values::Unsigned => quench_cpu::Levels::Unsigned,
            Values::Affine(zeros) => quench_cpu::Levels::Affine(bytemuck::cast_slice(zeros)),
            Values::Table(levels) => quench_cpu::Levels::Table(levels),
        };
        let order = self.order.as_deref().map(bytemuck::cast_slice);
        let w = Weights::new(self.layout, bytemuck::cast_slice(&self.codes), &self.scales, levels, order);
        match &self.minimums {
            None => w,
            Some(minimums) => w.with_minimums(bytemuck::cast_slice(minimums)),
        }
    }
}
