//! The latent space that a network uses: where its vectors are, how many dimensions they have, how much room there is.
//!
//! - [`Latent`]: a box, an ellipsoid and a span, `A ∩ R ∩ E`, of calibration vectors; whether others are in it, and its volume.
//! - [`two_nn`], [`participation_ratio`]: how many dimensions vectors have, curved and straight.

mod dimension;
mod known;
mod membership;
mod volume;

pub use dimension::{Twins, participation_ratio, two_nn};
pub(crate) use known::checks;
pub use membership::{Bounds, Latent, LatentOptions, Reach};
