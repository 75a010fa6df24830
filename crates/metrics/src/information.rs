//! Information, in bits: how much do vectors say about what is asked, and how much is needed?
//!
//! A task `Y`, vectors `T` that depend on it, and what a quantizer leaves of them, `Q(T)`: `I(Y; Q(T)) ≤ I(Y; T)` always, and how
//! much less is what it cost. Weights have no task of their own: there is no mutual information of weights here.
//!
//! - What is needed: [`fano_information`] for classes, [`gaussian_rate`] for numbers, [`Headroom`] over it.
//! - What is there: [`decoder_bound`], a lower bound by a probe, for vectors of any width; [`Joint`] for counts; [`ksg`] for up to three
//!   dimensions; [`VertexCode::erasure_information`](crate::threshold::VertexCode), exact for corners of a cube.
//! - What was lost: [`mutual_information_loss`], measured; [`latent_rate`], what a quantized variable takes to be written.

mod channel;
mod counts;
mod decoder;
mod known;
mod ksg;
mod limits;

pub use channel::gaussian_information;
pub use counts::{Joint, cells, entropy, latent_rate};
pub use decoder::{Headroom, Loss, Need, decoder_bound, headroom, mutual_information_loss};
pub(crate) use known::checks;
pub use ksg::{Dependence, ksg};
pub use limits::{binary_entropy, fano_error, fano_information, gaussian_rate};
