//! The shape of a cloud of points: which pieces and which loops it has, at which scale, and which of them survive a change.
//!
//! - [`Distances`]: all distances between the points, computed on the device.
//! - [`persistence`]: the [`Diagram`]s of pieces (dimension 0) and loops (dimension 1) of the Vietoris-Rips filtration.
//! - [`bottleneck`] and [`wasserstein`]: how far two diagrams are apart.
//! - [`Landmarks`]: few points that stand for many, and how far they leave the others.
//! - [`Stability`]: bounds on the bottleneck distance that a theorem gives without any diagram, and what survives by them.
//!
//! The filtration is by diameter: a simplex is there as soon as all of its edges are no longer than the scale. Coefficients are those of
//! the field of two elements.

mod diagram;
mod distances;
mod known;
mod landmarks;
mod matching;
mod rips;
mod stability;

#[cfg(test)]
mod naive;

pub use diagram::Diagram;
pub use distances::Distances;
pub(crate) use known::checks;
pub use landmarks::Landmarks;
pub use matching::{WASSERSTEIN_LIMIT, bottleneck, wasserstein};
pub use rips::{persistence, persistence_up_to};
pub use stability::{LandmarkStability, Stability};
