//! What quantization does to a system that runs on its own results, `x_{t+1} = f(Q(x_t))`.
//!
//! - [`Recursion`]: a map and a quantizer. Its [cycle](Recursion::cycle), since there are finitely many states; its
//!   [horizon](Recursion::horizon) beside the map without quantization; its [Lyapunov exponents](Recursion::lyapunov); its
//!   [basins](Recursion::basins).
//! - [`Jacobian`] and [`ball_radius`]: how much a step of the map enlarges an error, and how far errors can take it.
//! - [`FirstDivergence`], [`by_position`]: the same for decoders, which run on their own tokens.
//!
//! A chaotic map and its quantized twin have nothing in common behind the horizon, point by point; what remains are averages.

mod basins;
mod decoding;
mod jacobian;
mod known;
mod lyapunov;
mod recursion;

pub use basins::{Basin, Basins, wilson};
pub use decoding::{FirstDivergence, by_position};
pub use jacobian::{Gain, Jacobian, ball_radius};
pub(crate) use known::checks;
pub use recursion::{Cycle, Recursion, grid};
