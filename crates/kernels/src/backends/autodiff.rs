//! Gradients: a packed matrix is a constant, and the gradient of its product is the product from the other side.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend};

use crate::ops::{Levels, Minimums, Order, PackedParts, QuantBackend, Side};

impl<B: QuantBackend, C: CheckpointStrategy> QuantBackend for Autodiff<B, C> {
    fn packed_decode(w: PackedParts<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::packed_decode(inner(w)))
    }

    fn packed_matmul(x: FloatTensor<Self>, w: PackedParts<Self>, side: Side) -> FloatTensor<Self> {
        let w = inner(w);
        let (x, node) = x.into_parts();
        match Product.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((w.clone(), side), B::packed_matmul(x, w, side)),
            OpsKind::UnTracked(step) => step.finish(B::packed_matmul(x, w, side)),
        }
    }

    fn packed_select(rows: IntTensor<Self>, w: PackedParts<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::packed_select(rows, inner(w)))
    }
}

/// `y = x · Wᵀ` has `dx = dy · W`, and the other way round. What is kept for it are the packed parts: never a dense `W`.
#[derive(Debug)]
struct Product;

impl<B: QuantBackend> Backward<B, 1> for Product {
    type State = (PackedParts<B>, Side);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (w, side) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |dy| B::packed_matmul(dy, w, side.flip()));
    }
}

/// The parts without their graph.
fn inner<B: QuantBackend, C: CheckpointStrategy>(w: PackedParts<Autodiff<B, C>>) -> PackedParts<B> {
    PackedParts {
        codes: w.codes,
        scales: w.scales.into_primitive(),
        levels: match w.levels {
            Levels::Signed => Levels::Signed,
            Levels::Unsigned => Levels::Unsigned,
            Levels::Affine(zeros) => Levels::Affine(zeros),
            Levels::Table(levels) => Levels::Table(levels.into_primitive()),
        },
        minimums: match w.minimums {
            Minimums::None => Minimums::None,
            Minimums::Floats(minimums) => Minimums::Floats(minimums.into_primitive()),
        },
        order: match w.order {
            Order::Natural => Order::Natural,
            Order::Permuted(order) => Order::Permuted(order),
        },
        layout: w.layout,
        activations: w.activations,
    }
}
