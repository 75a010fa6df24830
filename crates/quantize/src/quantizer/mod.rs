//! From one weight matrix to codes and scales.

mod fit;
mod gptq;
mod rtn;

use quench_format::{Packed, Scheme};
use serde::{Deserialize, Serialize};

pub use fit::ScaleSearch;
pub use gptq::Order;

use crate::{Gram, QuantizeError};

/// A dense matrix on the host, `[rows, columns]`, row-major.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
    /// `rows · columns` values.
    pub values: Vec<f32>,
}

impl Matrix {
    /// Row `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..][..self.columns]
    }
}

/// A quantizer and its parameters: the registry, where adding one is a file and a variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Method {
    /// Round to nearest: every weight on its own.
    Rtn {
        /// How scales are found.
        search: ScaleSearch,
    },
    /// GPTQ: columns in turn, each one's error folded into those that follow.
    Gptq {
        /// How scales are found.
        search: ScaleSearch,
        /// The order of the columns.
        order: Order,
        /// Damping relative to the mean of the Gram diagonal.
        damping: f64,
        /// Columns per lazy batch update.
        block: usize,
    },
}

/// One quantized matrix, with what is known about its error.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The codes and scales.
    pub packed: Packed,
    /// `tr(E G Eᵀ) / tr(W G Wᵀ)` with `E = Ŵ − W`: the part of the output's energy that became error, on the
    /// calibration inputs; unknown without them.
    pub output_loss: Option<f64>,
    /// The damping that made the Gram matrix positive definite, where one was factorised.
    pub damping: Option<f64>,
    /// Rows in which plain rounding had the smaller loss and was kept.
    pub rounded_rows: usize,
}

impl Method {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rtn { .. } => "rtn",
            Self::Gptq { .. } => "gptq",
        }
    }

    /// Whether it weighs errors by the Gram matrix of the inputs.
    pub fn needs_gram(&self) -> bool {
        matches!(self, Self::Gptq { .. })
    }

    /// Quantizes `w` `[out, in]`.
    ///
    /// - `gram`: the sum of `x xᵀ` over calibration inputs, `[in, in]`; where it is given, every method reports its
    ///   output loss
    ///
    /// # Errors
    /// [`QuantizeError::NonFiniteWeight`], [`QuantizeError::NoCalibration`] if the method needs a Gram matrix that is
    /// not given, [`QuantizeError::NonFiniteInputs`] and [`QuantizeError::Factor`] if that matrix is no good.
    pub fn quantize(
        &self,
        layer: &str,
        w: &Matrix,
        scheme: Scheme,
        gram: Option<&Gram>,
    ) -> Result<Quantized, QuantizeError> {
        if let Some(at) = w.values.iter().position(|value| !value.is_finite()) {
            return Err(QuantizeError::NonFiniteWeight {
                layer: layer.to_owned(),
                row: at / w.columns,
                column: at % w.columns,
                value: w.values[at],
            });
        }
        if gram.is_some_and(|gram| !gram.is_finite()) {
            return Err(QuantizeError::NonFiniteInputs { layer: layer.to_owned() });
        }
        match (self, gram) {
            (Self::Rtn { search }, gram) => rtn::quantize(layer, w, scheme, *search, gram),
            (Self::Gptq { search, order, damping, block }, Some(gram)) => {
                gptq::Gptq { layer, w, scheme, search: *search, order: *order, damping: *damping, block: *block }
                    .quantize(gram)
            }
            (Self::Gptq { .. }, None) => {
                Err(QuantizeError::NoCalibration { layer: layer.to_owned(), method: self.name() })
            }
        }
    }
}
