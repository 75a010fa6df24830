//! One product of a replay: its input shown to a tap, multiplied with a weight that may be packed.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::module::Param;
use burn::tensor::ops::PadMode;
use burn::tensor::{Int, Shape, Tensor};
use quench_nn::{Conv2d, Embedding, Weight, Window, unfold};

use crate::operator::{Operator, Orientation, Product};

/// What a tap sees of one product: all that it is multiplied with, a row each.
pub(crate) trait Look {
    /// Whether anybody looks at it.
    fn looks(&self) -> bool;

    /// `rows`: `[rows, in]`; what is returned goes on in its place.
    fn see(&mut self, rows: Tensor<2>) -> Tensor<2>;
}

impl Product {
    /// `x` → the result, in the shape of the recording.
    ///
    /// - `bias`: `[out]`
    pub(crate) fn apply(
        &self,
        weight: &Weight,
        x: DispatchTensor,
        bias: Option<DispatchTensor>,
        look: &mut impl Look,
    ) -> DispatchTensor {
        let out = self.out.shape.clone();
        match &self.operator {
            Operator::Right => {
                let rows = look.see(as_rows(x));
                Dispatch::float_reshape(weight.matmul(rows).into_dispatch(), out)
            }
            Operator::Left => {
                let rows = look.see(as_rows(swapped(x)));
                let mut dims = out.to_vec();
                let rank = dims.len();
                dims.swap(rank - 2, rank - 1);
                swapped(Dispatch::float_reshape(weight.matmul(rows).into_dispatch(), Shape::from(dims)))
            }
            Operator::Convolve { window, padding } => {
                let y = convolve(weight, image(x), bias, *window, *padding, look);
                Dispatch::float_reshape(y.into_dispatch(), out)
            }
            Operator::Look => {
                let table = Embedding::new(weight.clone());
                Dispatch::float_reshape(table.forward(Tensor::<2, Int>::from_dispatch(x)).into_dispatch(), out)
            }
            Operator::Decoded { .. } => unreachable!("the operation itself is replayed"),
        }
    }

    /// Shows the points of `x` `[batch, in, ..]` that the matrix of a [decoded](Operator::Decoded) product is multiplied with.
    pub(crate) fn show_points(&self, x: DispatchTensor, look: &mut impl Look) {
        if look.looks() {
            let dims = x.shape();
            let (batch, channels) = (dims[0], dims[1]);
            let points = dims[2..].iter().product();
            let x = Tensor::<3>::from_dispatch(Dispatch::float_reshape(x, Shape::from([batch, channels, points])));
            look.see(x.swap_dims(1, 2).reshape([batch * points, channels]));
        }
    }
}

/// A parameter as the matrix `[out, in]`.
pub(crate) fn matrix(parameter: DispatchTensor, orientation: Orientation) -> Tensor<2> {
    let dims = parameter.shape();
    let (first, rest) = (dims[0], dims[1..].iter().product());
    let x = Tensor::<2>::from_dispatch(Dispatch::float_reshape(parameter, Shape::from([first, rest])));
    match orientation {
        Orientation::Rows => x,
        Orientation::Columns => x.transpose(),
    }
}

/// A matrix `[out, in]` as the parameter that it was.
pub(crate) fn parameter(w: Tensor<2>, orientation: Orientation, dims: &[usize]) -> DispatchTensor {
    let x = match orientation {
        Orientation::Rows => w,
        Orientation::Columns => w.transpose(),
    };
    Dispatch::float_reshape(x.into_dispatch(), Shape::from(dims.to_vec()))
}

/// `[.., n]` → `[rows, n]`.
fn as_rows(x: DispatchTensor) -> Tensor<2> {
    let dims = x.shape();
    let columns = dims[dims.len() - 1];
    let rows = dims[..dims.len() - 1].iter().product();
    Tensor::from_dispatch(Dispatch::float_reshape(x, Shape::from([rows, columns])))
}

/// The last two dimensions swapped.
fn swapped(x: DispatchTensor) -> DispatchTensor {
    let rank = x.shape().len();
    Dispatch::float_swap_dims(x, rank - 2, rank - 1)
}

/// `[batch, channels, (height,) width]` as an image, of height 1 where it has none.
fn image(x: DispatchTensor) -> Tensor<4> {
    let dims = x.shape();
    let height = if dims.len() == 4 { dims[2] } else { 1 };
    let shape = Shape::from([dims[0], dims[1], height, dims[dims.len() - 1]]);
    Tensor::from_dispatch(Dispatch::float_reshape(x, shape))
}

fn convolve(
    weight: &Weight,
    x: Tensor<4>,
    bias: Option<DispatchTensor>,
    window: Window,
    padding: [(usize, usize); 2],
    look: &mut impl Look,
) -> Tensor<4> {
    let [above, left] = padding;
    let (x, window) = if above.0 == above.1 && left.0 == left.1 {
        (x, Window { padding: [above.0, left.0], ..window })
    } else {
        (x.pad([above, left], PadMode::Constant(0.0)), window)
    };
    // Not `Param::from_tensor`, which would make a leaf of it.
    let bias = bias.map(|bias| Param::initialized(burn::module::ParamId::new(), Tensor::from_dispatch(bias)));
    let convolution = Conv2d { weight: weight.clone(), bias, window, groups: 1 };
    if !look.looks() {
        return convolution.forward(x);
    }
    let [batch, _, height, width] = x.dims();
    let output = window.output([height, width]);
    let rows = look.see(unfold(x, &window));
    convolution.multiply(rows, batch, output)
}
