//! From one weight matrix to codes and scales.

mod curve;
mod descent;
mod fit;
mod gptq;
mod levels;
mod rtn;
mod search;
mod solution;
mod strings;

use quench_format::{Code, Packed, Scale};
use quench_nn::Weight;
use serde::{Deserialize, Serialize};

pub use descent::Refine;
pub use gptq::Order;
pub use search::ScaleSearch;

use fit::Request;

use crate::stats::host;
use crate::{CodeChoice, Gram, QuantizeError, Target};

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
    /// A weight as it is multiplied with, decoded where it is packed.
    pub fn of(weight: &Weight) -> Self {
        let [rows, columns] = weight.shape();
        Self { rows, columns, values: host(weight.val()) }
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..][..self.columns]
    }

    /// The weight of the largest magnitude and where it is, the first of equals.
    fn largest(&self) -> Option<(usize, f32)> {
        let weights = self.values.iter().copied().enumerate();
        weights.reduce(|best, next| if next.1.abs() > best.1.abs() { next } else { best })
    }
}

/// A quantizer and its parameters: the registry, where adding one is a file and a variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Method {
    /// Round to nearest: every weight on its own. The published signed-log code is rounded by its own map.
    Rtn {
        /// How scales are found.
        search: ScaleSearch,
        /// What is done to the codes and scales then.
        #[serde(default, skip_serializing_if = "Refine::is_none")]
        refine: Refine,
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
        /// What is done to the codes and scales then.
        #[serde(default, skip_serializing_if = "Refine::is_none")]
        refine: Refine,
        /// How often the columns are rounded anew on the refitted grid; each row keeps the best.
        #[serde(default)]
        restarts: usize,
        /// Which part of what the layers before have lost the layer makes up for, 0 to 1; `quantize` itself does not look
        /// at it, [`run`](crate::run) moves the weights first.
        #[serde(default)]
        feedback: f64,
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
    /// Plain rounding, nothing refined.
    pub fn rtn(search: ScaleSearch) -> Self {
        Self::Rtn { search, refine: Refine::default() }
    }

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rtn { .. } => "rtn",
            Self::Gptq { .. } => "gptq",
        }
    }

    /// Its name, and the search where that is what asks for calibration.
    pub fn described(&self) -> &'static str {
        match self {
            Self::Rtn { search: ScaleSearch::Gram, .. } => "rtn with search = \"gram\"",
            Self::Rtn { refine, .. } if !refine.is_none() => "rtn with refit or descent",
            _ => self.name(),
        }
    }

    /// Whether the columns of the result have an order that is stored.
    pub fn stores_order(&self) -> bool {
        matches!(self, Self::Gptq { order: Order::Activation, .. })
    }

    /// How it finds scales.
    pub fn search(&self) -> ScaleSearch {
        match self {
            Self::Rtn { search, .. } | Self::Gptq { search, .. } => *search,
        }
    }

    /// Which part of what the layers before have lost a layer makes up for.
    pub(crate) fn feedback(&self) -> f64 {
        match self {
            Self::Rtn { .. } => 0.0,
            Self::Gptq { feedback, .. } => *feedback,
        }
    }

    /// What it does to codes and scales once they are found.
    pub fn refine(&self) -> Refine {
        match self {
            Self::Rtn { refine, .. } | Self::Gptq { refine, .. } => *refine,
        }
    }

    /// Whether it weighs errors by the Gram matrix of the inputs.
    pub fn needs_gram(&self) -> bool {
        matches!(self, Self::Gptq { .. }) || self.search() == ScaleSearch::Gram || !self.refine().is_none()
    }

    /// Whether it can quantize to `target`.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn check(&self, target: Target) -> Result<(), String> {
        let published = matches!(target.code, CodeChoice::Code(Code::PublishedLog { .. }));
        if self.search() == ScaleSearch::Unscaled && !(published && matches!(target.scale, Scale::Float(_))) {
            return Err(format!(
                "`search = \"none\"` leaves {target} without a scale, which only plog2..plog16 with scale = \"f32\", \
                 \"f16\" or \"bf16\" can do; use search = \"absmax\""
            ));
        }
        if self.search() == ScaleSearch::Hqq && target.minimum.is_none() {
            return Err(format!(
                "`search = \"hqq\"` finds minimums, and {target} has none; give an affine code and minimum = \"f16\""
            ));
        }
        let affine = matches!(target.code, CodeChoice::Code(code) if code.is_affine());
        match target.minimum {
            Some(_) if !affine => {
                Err(format!("`minimum` adds to the weights of affine codes (uint2, uint4), and {target} is none"))
            }
            Some(Scale::PowerOfTwo) => Err(format!("`minimum` is below zero, which e8m0 cannot keep in {target}")),
            _ => Ok(()),
        }
    }

    /// Quantizes `w` `[out, in]`.
    ///
    /// - `target`: a scheme, or one whose curvature is to be searched; the scheme of the result has what was found
    /// - `gram`: the sum of `x xᵀ` over calibration inputs, `[in, in]`; where it is given, every method reports its
    ///   output loss
    ///
    /// # Errors
    /// [`QuantizeError::NonFiniteWeight`], [`QuantizeError::OutsideUnit`] and [`QuantizeError::Plan`] where there is to be
    /// no scale and weights or code need one, [`QuantizeError::NoCalibration`] if the method needs a Gram matrix that is
    /// not given, [`QuantizeError::NonFiniteInputs`] and [`QuantizeError::Factor`] if that matrix is no good.
    pub fn quantize(
        &self,
        layer: &str,
        w: &Matrix,
        target: impl Into<Target>,
        gram: Option<&Gram>,
    ) -> Result<Quantized, QuantizeError> {
        let target = target.into();
        let fits = self.check(target).and_then(|()| target.check_shape([w.rows, w.columns]));
        fits.map_err(|reason| QuantizeError::Plan { layer: layer.to_owned(), reason })?;
        if let Some(at) = w.values.iter().position(|value| !value.is_finite()) {
            return Err(QuantizeError::NonFiniteWeight {
                layer: layer.to_owned(),
                row: at / w.columns,
                column: at % w.columns,
                value: w.values[at],
            });
        }
        if self.search() == ScaleSearch::Unscaled
            && let Some((at, value)) = w.largest().filter(|(_, value)| value.abs() > 1.0)
        {
            let (row, column) = (at / w.columns, at % w.columns);
            return Err(QuantizeError::OutsideUnit { layer: layer.to_owned(), row, column, value });
        }
        if gram.is_some_and(|gram| !gram.is_finite()) {
            return Err(QuantizeError::NonFiniteInputs { layer: layer.to_owned() });
        }
        if self.needs_gram() && gram.is_none() {
            return Err(QuantizeError::NoCalibration { layer: layer.to_owned(), method: self.described() });
        }
        let importance = gram.filter(|_| self.search() == ScaleSearch::Gram).map(Gram::importance);
        let request = Request { target, search: self.search(), importance: importance.as_deref() };
        match (self, gram) {
            (Self::Gptq { order, damping, block, refine, restarts, .. }, Some(gram)) => {
                let (order, damping, block, refine, restarts) = (*order, *damping, *block, *refine, *restarts);
                gptq::Gptq { layer, w, request, order, damping, block, refine, restarts }.quantize(gram)
            }
            (Self::Rtn { refine, .. } | Self::Gptq { refine, .. }, gram) => {
                rtn::quantize(layer, w, request, *refine, gram)
            }
        }
    }
}
