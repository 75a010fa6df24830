//! Vectors of the same things before and after, as two shapes: how much of one is in the other?
//!
//! `x` and `y` are `[n, d]` with a row for each thing, in one order on both sides; their widths may differ, except where a rule of
//! one is applied to the other. No function keeps `n²` numbers.

mod analogies;
mod cka;
mod plane;
mod procrustes;
mod products;
mod ranks;
mod reconstruction;
mod rsa;

pub use analogies::Analogies;
pub use cka::{biased_cka, cka};
pub use plane::Plane;
pub use procrustes::procrustes;
pub use ranks::Preservation;
pub use reconstruction::Reconstruction;
pub use rsa::{Pairs, rsa};

pub(crate) use analogies::lattice;
pub(crate) use products::{centred, cross, squares};

use burn::tensor::Tensor;

/// How many things both sides have.
///
/// # Panics
///
/// If they have not equally many.
#[track_caller]
pub(crate) fn paired(x: &Tensor<2>, y: &Tensor<2>) -> usize {
    let (a, b) = (x.dims(), y.dims());
    assert_eq!(a[0], b[0], "vectors are paired row by row: {a:?} and {b:?}");
    a[0]
}
