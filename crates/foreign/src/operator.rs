//! Which operations of a recording are products with a parameter.

use std::collections::BTreeMap;
use std::fmt;

use burn_ir::{BaseOperationIr, FloatOperationIr, ModuleOperationIr, OperationIr, TensorId, TensorIr};
use quench_nn::Window;

/// How a parameter is a matrix `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// `[out, ..]`: as it is, its last dimensions as one. Convolutions and tables.
    Rows,
    /// `[in, ..]`: the transpose of that. Burn's `Linear`, and transposed convolutions.
    Columns,
}

impl Orientation {
    /// `[out, in]` of a parameter of these dimensions.
    pub fn shape(self, dims: &[usize]) -> [usize; 2] {
        let (first, rest) = (dims[0], dims[1..].iter().product());
        match self {
            Self::Rows => [first, rest],
            Self::Columns => [rest, first],
        }
    }
}

impl fmt::Display for Orientation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Columns => "columns",
        })
    }
}

/// What is computed with a matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operator {
    /// `y = x · Wᵀ`, `x`: `[.., in]`.
    Right,
    /// `y = W · x`, `x`: `[.., in, n]`.
    Left,
    /// `y = W ⋆ x + b`, `x`: `[batch, channels, height, width]`, or without height.
    Convolve {
        window: Window,
        /// Rows of zeros above and below, columns to the left and right.
        padding: [(usize, usize); 2],
    },
    /// What has no product of its own: the operation with the decoded parameter.
    Decoded {
        operation: Box<OperationIr>,
        /// Whether its matrix is multiplied with `x` point by point, `[batch, in, ..]`.
        points: bool,
    },
    /// `y = W[x]`.
    Look,
}

/// One product with a parameter.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) parameter: TensorId,
    /// The parameter as the operation reads it: itself, or a view.
    pub(crate) weight: TensorIr,
    pub(crate) orientation: Orientation,
    pub(crate) operator: Operator,
    pub(crate) x: TensorIr,
    pub(crate) bias: Option<TensorIr>,
    pub(crate) out: TensorIr,
}

/// The parameters of a module and their views: reshapes that add or take dimensions of 1, and transposes.
pub(crate) struct Views {
    known: BTreeMap<TensorId, View>,
}

#[derive(Clone, Copy)]
struct View {
    parameter: TensorId,
    transposed: bool,
}

impl Views {
    pub(crate) fn of(parameters: impl Iterator<Item = TensorId>) -> Self {
        Self { known: parameters.map(|parameter| (parameter, View { parameter, transposed: false })).collect() }
    }

    /// The parameter that a tensor shows.
    pub(crate) fn parameter(&self, tensor: TensorId) -> Option<TensorId> {
        self.known.get(&tensor).map(|view| view.parameter)
    }

    /// Notes what `operation` gives, if it is another view.
    pub(crate) fn follow(&mut self, operation: &OperationIr) -> bool {
        let OperationIr::BaseFloat(operation) = operation else { return false };
        let (input, out, transposes) = match operation {
            BaseOperationIr::Reshape(op) if inner(&op.input) == inner(&op.out) => (&op.input, &op.out, false),
            BaseOperationIr::SwapDims(op) if swaps_last(&op.input, &[op.dim1, op.dim2]) => (&op.input, &op.out, true),
            BaseOperationIr::Permute(op) if permutes_last(&op.axes) => (&op.input, &op.out, true),
            _ => return false,
        };
        let Some(view) = self.known.get(&input.id).copied() else { return false };
        self.known.insert(out.id, View { transposed: view.transposed != transposes, ..view });
        true
    }

    /// `operation` as a product with a parameter, if it is one.
    pub(crate) fn product(&self, operation: &OperationIr) -> Option<Product> {
        match operation {
            OperationIr::Float(_, FloatOperationIr::Matmul(op)) => match (self.matrix(&op.lhs), self.matrix(&op.rhs)) {
                (None, Some(View { parameter, transposed })) => Some(Product {
                    parameter,
                    weight: op.rhs.clone(),
                    orientation: if transposed { Orientation::Rows } else { Orientation::Columns },
                    operator: Operator::Right,
                    x: op.lhs.clone(),
                    bias: None,
                    out: op.out.clone(),
                }),
                (Some(View { parameter, transposed }), None) => Some(Product {
                    parameter,
                    weight: op.lhs.clone(),
                    orientation: if transposed { Orientation::Columns } else { Orientation::Rows },
                    operator: Operator::Left,
                    x: op.rhs.clone(),
                    bias: None,
                    out: op.out.clone(),
                }),
                _ => None,
            },
            OperationIr::Module(module) => self.module(operation, module),
            _ => None,
        }
    }

    fn module(&self, operation: &OperationIr, module: &ModuleOperationIr) -> Option<Product> {
        let decoded = |points| Operator::Decoded { operation: Box::new(operation.clone()), points };
        let (weight, orientation, operator, x, bias, out) = match module {
            ModuleOperationIr::Embedding(op) => {
                (&op.weights, Orientation::Rows, Operator::Look, &op.indices, None, &op.out)
            }
            ModuleOperationIr::Conv1d(op) => {
                let (kernel, options) = (*op.weight.shape.last()?, &op.options);
                let window = Window {
                    kernel: [1, kernel],
                    stride: [1, options.stride[0]],
                    padding: [0, 0],
                    dilation: [1, options.dilation[0]],
                };
                let operator = match options.groups {
                    1 => Operator::Convolve { window, padding: [(0, 0), options.padding[0]] },
                    _ => decoded(false),
                };
                (&op.weight, Orientation::Rows, operator, &op.x, op.bias.as_ref(), &op.out)
            }
            ModuleOperationIr::Conv2d(op) => {
                let (dims, options) = (op.weight.shape.dims::<4>(), &op.options);
                let window = Window {
                    kernel: [dims[2], dims[3]],
                    stride: options.stride,
                    padding: [0, 0],
                    dilation: options.dilation,
                };
                let operator = match options.groups {
                    1 => Operator::Convolve { window, padding: options.padding },
                    _ => decoded(false),
                };
                (&op.weight, Orientation::Rows, operator, &op.x, op.bias.as_ref(), &op.out)
            }
            ModuleOperationIr::Conv3d(op) => {
                (&op.weight, Orientation::Rows, decoded(false), &op.x, op.bias.as_ref(), &op.out)
            }
            ModuleOperationIr::ConvTranspose1d(op) => {
                let operator = decoded(op.options.groups == 1);
                (&op.weight, Orientation::Columns, operator, &op.x, op.bias.as_ref(), &op.out)
            }
            ModuleOperationIr::ConvTranspose2d(op) => {
                let operator = decoded(op.options.groups == 1);
                (&op.weight, Orientation::Columns, operator, &op.x, op.bias.as_ref(), &op.out)
            }
            ModuleOperationIr::ConvTranspose3d(op) => {
                let operator = decoded(op.options.groups == 1);
                (&op.weight, Orientation::Columns, operator, &op.x, op.bias.as_ref(), &op.out)
            }
            _ => return None,
        };
        let view = self.known.get(&weight.id)?;
        (view.parameter == weight.id).then(|| Product {
            parameter: weight.id,
            weight: weight.clone(),
            orientation,
            operator,
            x: x.clone(),
            bias: bias.cloned(),
            out: out.clone(),
        })
    }

    fn matrix(&self, tensor: &TensorIr) -> Option<View> {
        self.known.get(&tensor.id).copied()
    }
}

/// The dimensions after those of 1 in front, two at least.
fn inner(tensor: &TensorIr) -> &[usize] {
    let dims = &tensor.shape[..];
    let ones = dims.iter().take_while(|dim| **dim == 1).count();
    &dims[ones.min(dims.len().saturating_sub(2))..]
}

fn swaps_last(tensor: &TensorIr, dims: &[usize; 2]) -> bool {
    let rank = tensor.shape.num_dims();
    rank >= 2 && (*dims == [rank - 2, rank - 1] || *dims == [rank - 1, rank - 2])
}

fn permutes_last(axes: &[usize]) -> bool {
    let rank = axes.len();
    rank >= 2
        && axes[..rank - 2].iter().enumerate().all(|(at, axis)| at == *axis)
        && axes[rank - 2..] == [rank - 1, rank - 2]
}
