//! Coherence: the least that several metrics say of what two models have in common.
//!
//! No metric sees all. Alignment may be .95 where half of the neighbours are lost, neighbours may stay where the next token changes: so
//! there is no weighted mean of them, but the lowest, beyond chance, of those that were named.

mod known;
mod measure;

pub(crate) use known::checks;
pub use measure::{Hidden, Predictions};

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bootstrap, Interval, Pairs, Value, beyond_chance};

/// A way to compare two models on the same samples, as a number that is 1 where nothing is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The mean share of the `k` nearest neighbours that is kept; chance `k / (n − 1)`.
    KnnOverlap,
    /// How near the neighbours that are new were ([`Preservation`](crate::Preservation)); chance about 1/2.
    Trustworthiness,
    /// How near the neighbours that are lost still are; chance about 1/2.
    Continuity,
    /// Debiased linear [`cka`](crate::cka); chance 0.
    Cka,
    /// [`rsa`](crate::rsa), the correlation of distances; chance 0.
    Rsa,
    /// 1 − the [`procrustes`](crate::procrustes) disparity; chance from a permutation of the samples.
    Procrustes,
    /// 1 − the [`loss`](crate::Reconstruction::loss) of reconstruction by `k` neighbours; chance from a permutation of the samples.
    Reconstruction,
    /// `exp(−mean KL)` of the predictions per token.
    ExpKl,
    /// The share of the tokens with the same likeliest successor.
    Agreement,
}

impl Metric {
    /// All of them: those of hidden states, then those of predictions.
    pub const ALL: [Self; 9] = [
        Self::KnnOverlap,
        Self::Trustworthiness,
        Self::Continuity,
        Self::Cka,
        Self::Rsa,
        Self::Procrustes,
        Self::Reconstruction,
        Self::ExpKl,
        Self::Agreement,
    ];

    /// The fewest samples that the metric has a meaning for, with `k` neighbours.
    pub fn fewest(self, k: usize) -> usize {
        match self {
            Self::KnnOverlap => k + 2, // with k + 1 all others are neighbours
            Self::Reconstruction => k + 1,
            Self::Trustworthiness | Self::Continuity => (3 * k).div_ceil(2) + 1,
            Self::Cka => 4,
            Self::Rsa | Self::Procrustes => 3,
            Self::ExpKl | Self::Agreement => 1,
        }
    }

    /// Whether it compares predictions; the others compare hidden states.
    pub fn of_predictions(self) -> bool {
        matches!(self, Self::ExpKl | Self::Agreement)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KnnOverlap => "knn-overlap",
            Self::Trustworthiness => "trustworthiness",
            Self::Continuity => "continuity",
            Self::Cka => "cka",
            Self::Rsa => "rsa",
            Self::Procrustes => "procrustes",
            Self::Reconstruction => "reconstruction",
            Self::ExpKl => "exp-kl",
            Self::Agreement => "agreement",
        })
    }
}

/// What coherence is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoherenceOptions {
    /// The metrics; the default is `knn-overlap` and `exp-kl`, inside and outside.
    pub metrics: Vec<Metric>,
    /// How many neighbours: 10.
    pub k: usize,
    /// The pairs of `rsa`.
    pub pairs: Pairs,
    /// The intervals; its seed is that of the permutations, too.
    pub bootstrap: Bootstrap,
}

impl Default for CoherenceOptions {
    fn default() -> Self {
        let metrics = vec![Metric::KnnOverlap, Metric::ExpKl];
        Self { metrics, k: 10, pairs: Pairs::default(), bootstrap: Bootstrap::default() }
    }
}

/// A metric and what it found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The metric.
    pub metric: Metric,
    /// Its number, with what chance gives.
    pub value: Value,
}

impl Scored {
    /// The number beyond chance, `(m − chance) / (1 − chance)`: 1 where nothing is lost, 0 where nothing is left.
    pub fn score(&self) -> f64 {
        self.value.beyond_chance()
    }

    /// Its interval, where there is one.
    pub fn interval(&self) -> Option<Interval> {
        let null = self.value.null.unwrap_or(0.0);
        self.value.interval.map(|interval| interval.map(|value| beyond_chance(value, null)))
    }
}

/// What several metrics say of two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coherence {
    /// One for each metric that was named, in that order; at least one.
    pub scored: Vec<Scored>,
}

/// Why there is no coherence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoherenceError {
    /// No metric was named.
    NoMetric,
    /// A metric compares hidden states, or predictions, that were not given.
    Missing(Metric),
    /// A metric has no value for these samples: too few of them, or a side that does not vary.
    Undefined(Metric),
}

impl fmt::Display for CoherenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMetric => f.write_str("coherence is the least of the metrics that are named, and none is"),
            Self::Missing(metric) if metric.of_predictions() => {
                write!(f, "`{metric}` compares predictions, and none were given")
            }
            Self::Missing(metric) => write!(f, "`{metric}` compares hidden states, and none were given"),
            Self::Undefined(metric) => write!(f, "`{metric}` has no value for samples that are too few or do not vary"),
        }
    }
}

impl std::error::Error for CoherenceError {}

/// A metric that is lower than was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct BelowFloor {
    /// The lowest metric.
    pub metric: Metric,
    /// Its score beyond chance.
    pub score: f64,
    /// What was asked.
    pub floor: f64,
}

impl fmt::Display for BelowFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metric, score, floor } = self;
        write!(f, "coherence is {score:.4} by `{metric}`, its lowest metric, and must not be below {floor}")
    }
}

impl std::error::Error for BelowFloor {}

impl Coherence {
    /// Compares two models by the metrics of `options`.
    ///
    /// # Errors
    ///
    /// If no metric is named, or one has nothing to compare or no value.
    ///
    /// # Panics
    ///
    /// If the sides have not equally many samples, lengths of sequences do not add up to them, or there are not as many samples as
    /// `k` neighbours need.
    pub fn measure(
        options: &CoherenceOptions,
        hidden: Option<&Hidden>,
        predictions: Option<&Predictions>,
    ) -> Result<Self, CoherenceError> {
        let measure = |&metric: &Metric| {
            let value = match (metric.of_predictions(), hidden, predictions) {
                (false, Some(hidden), _) => hidden.measure(metric, options),
                (true, _, Some(predictions)) => predictions.measure(metric, options),
                _ => return Err(CoherenceError::Missing(metric)),
            };
            let value = value.filter(|value| value.value.is_finite()).ok_or(CoherenceError::Undefined(metric))?;
            Ok(Scored { metric, value })
        };
        let scored = options.metrics.iter().map(measure).collect::<Result<Vec<_>, _>>()?;
        if scored.is_empty() { Err(CoherenceError::NoMetric) } else { Ok(Self { scored }) }
    }

    /// The metric with the lowest score; the first of several. `None` only of a coherence that was read without metrics.
    pub fn lowest(&self) -> Option<&Scored> {
        self.scored.iter().min_by(|a, b| a.score().total_cmp(&b.score()))
    }

    /// Coherence: the lowest score.
    pub fn value(&self) -> Option<f64> {
        self.lowest().map(Scored::score)
    }

    /// Requires that no metric is below `floor`, beyond chance.
    ///
    /// # Errors
    ///
    /// The lowest metric, if it is.
    pub fn require(&self, floor: f64) -> Result<(), BelowFloor> {
        match self.lowest() {
            Some(lowest) if lowest.score() < floor => {
                Err(BelowFloor { metric: lowest.metric, score: lowest.score(), floor })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(metric: Metric, value: f64, null: f64) -> Scored {
        Scored { metric, value: Value::measured(value, "t", 9).with_null(null) }
    }

    #[test]
    fn the_lowest_beyond_chance_counts() {
        let all = vec![scored(Metric::Trustworthiness, 0.6, 0.5), scored(Metric::KnnOverlap, 0.4, 0.01)];
        let coherence = Coherence { scored: all };
        assert!((coherence.value().unwrap() - 0.2).abs() < 1e-12);
        assert_eq!(coherence.require(0.2 - 1e-9), Ok(()));
        let below = coherence.require(0.3).unwrap_err();
        assert_eq!(below.metric, Metric::Trustworthiness);
        let text = "coherence is 0.2000 by `trustworthiness`, its lowest metric, and must not be below 0.3";
        assert_eq!(below.to_string(), text);
    }

    #[test]
    fn names_are_those_of_the_file() {
        let text = r#"{"metrics": ["knn-overlap", "trustworthiness", "continuity", "cka", "rsa", "procrustes", "reconstruction", "exp-kl", "agreement"]}"#;
        let options: CoherenceOptions = serde_json::from_str(text).unwrap();
        assert_eq!((options.metrics.len(), options.k), (9, 10));
        for metric in options.metrics {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.to_string());
        }
        assert!(serde_json::from_str::<CoherenceOptions>(r#"{"metric": []}"#).is_err());
    }
}
