//! A number with what is known about it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::Interval;

/// How a number came about. Numbers of different evidence are never averaged, summed or compared without saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// By running both models.
    Measured,
    /// By a formula that is known to be near, with an interval from cases in which both were known.
    Predicted,
    /// By a theorem whose premises were computed.
    Certified,
}

/// A number with what is known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The number.
    pub value: f64,
    /// How it was estimated, in the words of the field: `debiased linear CKA`.
    pub estimator: Cow<'static, str>,
    /// Of how many samples.
    pub n: usize,
    /// What was drawn, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Where the true value probably is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// What the estimator gives where there is nothing to be found, e.g. of independent data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<f64>,
    /// How it came about.
    pub evidence: Evidence,
}

impl Value {
    /// A measured value of `n` samples, without interval, seed and null value.
    pub fn measured(value: f64, estimator: impl Into<Cow<'static, str>>, n: usize) -> Self {
        Self {
            value,
            estimator: estimator.into(),
            n,
            seed: None,
            interval: None,
            null: None,
            evidence: Evidence::Measured,
        }
    }

    /// The value with an interval that was drawn with a seed.
    pub fn with_interval(self, interval: Option<Interval>, seed: u64) -> Self {
        Self { interval, seed: Some(seed), ..self }
    }

    /// The value with what chance would give.
    pub fn with_null(self, null: f64) -> Self {
        Self { null: Some(null), ..self }
    }

    /// The value beyond chance, `(value − null) / (1 − null)`, where 1 is the best: 0 is chance. Without a null value, the value.
    pub fn beyond_chance(&self) -> f64 {
        self.null.map_or(self.value, |null| crate::beyond_chance(self.value, null))
    }
}
