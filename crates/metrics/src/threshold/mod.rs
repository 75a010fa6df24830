//! At which step of a quantizer does a model stop to work, and is that a cliff?
//!
//! Three different things are called a critical step:
//!
//! - the *tolerance step*, at which a metric passes a limit: [`Sweep::crossing`]. There is always one.
//! - the *end of linear response*, at which a divergence leaves `δ² tr F / 24`: [`Sweep::end_of_linear_response`].
//! - the *transition*, a step at which something sharpens with the size of the system: [`verdict`]. Most systems have none,
//!   and [`Verdict::Smooth`] says so.
//!
//! A system that has one and can be solved, codes of the corners of a cube: [`VertexCode`].

mod known;
mod logistic;
mod minimum;
mod monotone;
mod retrieval;
mod rounding;
mod sweep;
mod verdict;
mod vertex;

pub(crate) use known::checks;
pub use logistic::{Logistic, response_width};
pub use rounding::Rounding;
pub use sweep::{Point, Sweep};
pub use verdict::{Verdict, verdict};
pub use vertex::VertexCode;
