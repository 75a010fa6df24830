//! Pure functions of tensors: how far is an approximation from what it approximates?
//!
//! - [`Distortion`]: two tensors, as a relative error and a signal-to-noise ratio ([`relative_error`], [`snr_db`]).
//! - Two models, by their logits on the same tokens: [`nll`], [`kl_per_token`], [`agreement`].
//! - Two models, by their vectors of the same things: [`cosines`], [`Neighbours`].
//! - One model, by what is true: [`places`] of labels, [`spearman`] with people's scores, a linear [`Probe`].
//! - Numbers on the host: what a scalar quantizer makes of samples ([`Sorted`], [`Steps`]), and what is the best that any
//!   could do on a known [`Source`].
//! - [`bounds`]: what nothing can do better.
//! - [`Summary`] and [`Bootstrap`]: many values as a few numbers, with an interval; [`Value`]: a number with what is known about it.
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
mod distortion;
mod divergence;
mod host;
mod probe;
mod rank;
mod sorted;
mod source;
mod summary;
mod value;
mod vectors;

pub use check::{Check, Expected, require};
pub use classes::places;
pub use distortion::{Distortion, relative_error, snr_db};
pub use divergence::{agreement, kl_per_token, nll};
pub use probe::Probe;
pub use rank::spearman;
pub use sorted::{Sorted, Steps, Tally};
pub use source::{Source, shannon_db};
pub use summary::{Bootstrap, Interval, Summary, Total};
pub use value::{Evidence, Value};
pub use vectors::{Neighbours, beyond_chance, cosines, unit};
