//! A convolution with a packed matrix, by the operations of a backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata};
use burn::tensor::ops::PadMode;
use burn::tensor::{Shape, Slice, Tensor};

use crate::ops::{PackedParts, QuantBackend, Side, Window};

/// What each position of the window sees, one row of a matrix each (im2col).
///
/// - `x`: `[batch, channels, height, width]`
/// - returns `[batch · positions, channels · kernel height · kernel width]`, positions row by row
///
/// A convolution is the product of this with its weight. Built from slices, so every backend has it and its gradient.
///
/// # Panics
///
/// If the padded image is smaller than the kernel.
pub fn unfold(x: Tensor<4>, window: &Window) -> Tensor<2> {
    Tensor::from_dispatch(rows::<Dispatch>(x.into_dispatch(), window))
}

fn rows<B: Backend>(x: FloatTensor<B>, window: &Window) -> FloatTensor<B> {
    let [batch, channels, height, width] = x.shape().dims::<4>();
    let [lines, places] = window.output([height, width]);
    let ([tall, wide], [above, left]) = (window.kernel, window.padding);
    let x = match window.padding {
        [0, 0] => x,
        _ => B::float_pad(x, &[(0, 0), (0, 0), (above, above), (left, left)], PadMode::Constant(0.0)),
    };
    let along = |axis: usize, at: usize, positions: usize| {
        let (first, stride) = (at * window.dilation[axis], window.stride[axis]);
        let last = first + (positions - 1) * stride;
        Slice::new(first as isize, Some(last as isize + 1), stride as isize)
    };
    let seen = (0..tall * wide).map(|k| {
        let part = [Slice::full(), Slice::full(), along(0, k / wide, lines), along(1, k % wide, places)];
        B::float_reshape(B::float_slice(x.clone(), &part), Shape::from([batch, channels, 1, lines, places]))
    });
    let seen = B::float_cat(seen.collect(), 2); // [batch, channels, kernel, lines, places]
    let rows = B::float_permute(seen, &[0, 3, 4, 1, 2]);
    B::float_reshape(rows, Shape::from([batch * lines * places, channels * tall * wide]))
}

/// `W ⋆ x + b` as a product of the unfolded image.
pub(crate) fn convolve<B: QuantBackend>(
    x: FloatTensor<B>,
    w: PackedParts<B>,
    bias: FloatTensor<B>,
    window: &Window,
) -> FloatTensor<B> {
    let [batch, _, height, width] = x.shape().dims::<4>();
    let ([lines, places], out) = (window.output([height, width]), w.layout.shape[0]);
    let y = B::packed_matmul(rows::<B>(x, window), w, Side::Transposed); // [batch · positions, out]
    let dtype = y.dtype();
    let bias = if bias.dtype() == dtype { bias } else { B::float_cast(bias, dtype.into()) };
    let y = B::float_add(y, B::float_reshape(bias, Shape::from([1, out])));
    B::float_permute(B::float_reshape(y, Shape::from([batch, lines, places, out])), &[0, 3, 1, 2])
}
