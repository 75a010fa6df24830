//! From a recipe to a plan to a quantized model.
//!
//! A [`Recipe`] says what the user wants, in rules over layer names. [`Recipe::plan`] turns it into a [`Plan`]: one line
//! per layer, which can be printed, edited and saved. [`run`] carries the plan out, block by block: it observes the inputs
//! of a block ([`Stats`]), quantizes its weights ([`Method`]), and hands the outputs of the quantized block to the next.
//! What was done and what it cost is in the [`Ledger`]. [`allocate()`] divides a budget of bytes over layers by predicted damage.

pub mod allocate;
mod balance;
mod checks;
mod curvature;
mod error;
mod factor;
mod feedback;
pub mod fit;
mod ledger;
mod passage;
mod plan;
pub mod quantizer;
pub mod recipe;
mod run;
mod stage;
mod stats;
pub mod structure;
mod target;
mod text;

pub use allocate::{AllocateError, Allocation, Candidate, allocate};
pub use balance::{Balance, Balanced, balance, rounding_gain};
pub use checks::known_answers;
pub use curvature::{Curvature, Errors, Likelihood, Slopes};
pub use error::QuantizeError;
pub use ledger::{Entry, Ledger};
pub use plan::{Plan, Planned, Treatment};
pub use quantizer::{Matrix, Method, Order, Refine, ScaleSearch};
pub use recipe::{Gates, LanguageGates, Recipe};
pub use run::{Event, Finished, Journal, run};
pub use stats::{Gram, Stats};
pub use target::{CodeChoice, Target};
