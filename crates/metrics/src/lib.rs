//! Pure functions of tensors: how far is an approximation from what it approximates?
//!
//! - [`Distortion`]: two tensors, as a relative error and a signal-to-noise ratio ([`relative_error`], [`snr_db`]).
//! - Two models, by their logits on the same tokens: [`nll`], [`kl_per_token`], [`jsd_per_token`], [`agreement`], [`top_agreement`]; by their
//!   answers: [`Flips`].
//! - Two models, by their vectors of the same things: [`cosines`], [`Neighbours`].
//! - Two models, by their vectors as shapes: [`cka`], [`rsa`], [`Preservation`], [`procrustes`], [`Reconstruction`], [`Analogies`];
//!   [`Plane`], to draw them;
//!   [`Coherence`], the least of those that are named.
//! - What vectors say about a task, in bits: [`decoder_bound`], [`fano_information`], [`mutual_information_loss`]; where they are:
//!   [`Latent`], [`two_nn`].
//! - One model, by what is true: [`places`] of labels, [`spearman`] with people's scores, a linear [`Probe`].
//! - Numbers on the host: what a scalar quantizer makes of samples ([`Sorted`], [`Steps`]), and what is the best that any
//!   could do on a known [`Source`].
//! - [`bounds`]: what nothing can do better.
//! - [`Summary`] and [`Bootstrap`]: many values as a few numbers, with an interval; [`Value`]: a number with what is known about it.
//! - [`topology`]: which pieces and loops a cloud of points has, and which of them surely survive a change.
//! - [`hypercubicity`]: whether activations sit in the corners of a cube.
//! - [`threshold`]: at which step of a quantizer something ends, and whether that is a cliff.
//! - [`dynamics`]: what quantization does to a map that runs on its own results.
//! - [`Check`]: a known answer, for the tests and for `quench validate`.
//!
//! Nothing here knows of models or of quantization; every function is tested against a closed form.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//!
//! # fn on(device: &Device) {
//! let dense = Tensor::<2>::from_floats([[2.0, 1.0, 0.0]], device); // logits [rows, vocab]
//! let quantized = Tensor::<2>::from_floats([[2.0, 1.1, 0.0]], device);
//! assert_eq!(quench_metrics::agreement(dense.clone(), quantized.clone()), [true]);
//! let kl = quench_metrics::kl_per_token(dense.clone(), quantized.clone());
//! assert!((kl[0] - 9.398e-4).abs() < 1e-6);
//! let error = quench_metrics::relative_error(dense, quantized);
//! assert!((error - 0.1 / 5f64.sqrt()).abs() < 1e-6);
//! # }
//! # on(&Device::flex());
//! ```

pub mod bounds;
mod check;
mod classes;
mod coherence;
mod distortion;
mod divergence;
pub mod dynamics;
mod geometry;
mod host;
pub mod hypercubicity;
mod information;
mod latent;
mod normal;
mod probe;
mod rank;
mod sorted;
mod source;
mod summary;
pub mod threshold;
pub mod topology;
mod value;
mod vectors;

pub use check::{Check, Expected, known_answers, require};
pub use classes::places;
pub use coherence::{BelowFloor, Coherence, CoherenceError, CoherenceOptions, Hidden, Metric, Predictions, Scored};
pub use distortion::{Distortion, relative_error, snr_db};
pub use divergence::{Flips, agreement, jsd_per_token, kl_per_token, nll, top_agreement};
pub use geometry::{Analogies, Pairs, Plane, Preservation, Reconstruction, biased_cka, cka, procrustes, rsa};
pub use information::{
    Dependence, Headroom, Joint, Loss, Need, binary_entropy, cells, decoder_bound, entropy, fano_error,
    fano_information, gaussian_information, gaussian_rate, headroom, ksg, latent_rate, mutual_information_loss,
};
pub use latent::{Bounds, Latent, LatentOptions, Reach, Twins, participation_ratio, two_nn};
pub use probe::Probe;
pub use rank::spearman;
pub use sorted::{Sorted, Steps, Tally};
pub use source::{Source, shannon_db};
pub use summary::{Bootstrap, Interval, Summary, Total};
pub use value::{Evidence, Value};
pub use vectors::{Neighbours, beyond_chance, cosines, unit};
