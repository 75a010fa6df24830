//! Does a result hold the limits of its recipe?

use std::fmt;

use quench_metrics::Interval;
use quench_quantize::recipe::Gates;
use serde::{Deserialize, Serialize};

use crate::measured::{Estimate, Measured};

/// A limit that a recipe may set; named as its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Largest allowed `perplexity / dense perplexity - 1`.
    MaxPerplexityIncrease,
    /// Largest allowed mean KL divergence, nats per token or image; of vectors that of normal laws of unit variance around them,
    /// `|v − v̂|² / 2 = 1 − cos`.
    MaxKl,
    /// Smallest allowed top-1 agreement, 0 to 1; of probes, in the worst task.
    MinAgreement,
    /// Largest allowed `dense accuracy - accuracy`: top-1 of images, or of probes in the worst task.
    MaxAccuracyDrop,
    /// Largest allowed `dense correlation - correlation` over pairs of texts, in the worst task.
    MaxCorrelationDrop,
    /// Smallest allowed overlap of the 10 nearest neighbours, 0 to 1.
    MinNeighbours,
    /// Smallest allowed compression, bytes before over bytes after.
    MinCompression,
}

impl Gate {
    /// Whether `measured` holds `limit`; NaN holds none.
    pub(crate) fn holds(self, measured: f64, limit: f64) -> bool {
        match self {
            Self::MaxPerplexityIncrease | Self::MaxKl | Self::MaxAccuracyDrop | Self::MaxCorrelationDrop => {
                measured <= limit
            }
            Self::MinAgreement | Self::MinNeighbours | Self::MinCompression => measured >= limit,
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaxPerplexityIncrease => "max_perplexity_increase",
            Self::MaxKl => "max_kl",
            Self::MinAgreement => "min_agreement",
            Self::MaxAccuracyDrop => "max_accuracy_drop",
            Self::MaxCorrelationDrop => "max_correlation_drop",
            Self::MinNeighbours => "min_neighbours",
            Self::MinCompression => "min_compression",
        })
    }
}

/// One limit, and what was measured against it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    /// Which limit.
    pub gate: Gate,
    /// The language it is for; `None` for the whole evaluation.
    pub language: Option<String>,
    /// The limit.
    pub limit: f64,
    /// What was measured; `None` if the evaluation does not measure it.
    pub measured: Option<f64>,
    /// The bootstrap interval of what was measured, where there is one.
    pub interval: Option<Interval>,
    /// Why nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the measured value holds the limit; false if nothing was measured.
    pub passed: bool,
}

impl GateResult {
    /// Whether the whole interval falls on the side of the limit that the verdict says: other data of the same kind
    /// would have given the same verdict. `None` where there is no interval.
    pub fn conclusive(&self) -> Option<bool> {
        self.interval.map(|Interval { low, high, .. }| {
            [low, high].iter().all(|bound| self.gate.holds(*bound, self.limit) == self.passed)
        })
    }
}

/// `max_kl de: 0.0213, limit 0.01: failed`.
impl fmt::Display for GateResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.gate)?;
        if let Some(language) = &self.language {
            write!(f, " {language}")?;
        }
        match (self.measured, &self.reason) {
            (Some(measured), _) => write!(f, ": {measured:.4}")?,
            (None, Some(reason)) => write!(f, ": not evaluated, {reason}")?,
            (None, None) => f.write_str(": not evaluated")?,
        }
        let verdict = if self.passed { "passed" } else { "failed" };
        write!(f, ", limit {}: {verdict}", self.limit)?;
        if self.conclusive() == Some(false) {
            f.write_str(" (not conclusive: the limit is inside the interval)")?;
        }
        Ok(())
    }
}

/// Every limit that `gates` sets, with its verdict: first those for the whole evaluation, then those for languages.
///
/// The measured value itself is held against the limit, since the evaluation data are part of the recipe; whether
/// other data would have given the same verdict is [`GateResult::conclusive`]. What an evaluation does not measure fails,
/// with the reason: a language without text, or a limit that makes no sense for this kind of model. Nothing else stands
/// in for it.
///
/// - `measured`: its first candidate is the result that the gates are for. Without one, or without an evaluation, every
///   limit but the compression's fails
/// - `compression`: the bytes of the dense checkpoint over the bytes of the result
pub fn check(gates: &Gates, measured: Option<&Measured>, compression: f64) -> Vec<GateResult> {
    let measure = |gate, language| match measured {
        Some(measured) => measured.measure(gate, language),
        None => Err("nothing was evaluated; give data to evaluate on".to_owned()),
    };
    let whole = [
        (Gate::MaxPerplexityIncrease, gates.max_perplexity_increase),
        (Gate::MaxKl, gates.max_kl),
        (Gate::MinAgreement, gates.min_agreement),
        (Gate::MaxAccuracyDrop, gates.max_accuracy_drop),
        (Gate::MaxCorrelationDrop, gates.max_correlation_drop),
        (Gate::MinNeighbours, gates.min_neighbours),
        (Gate::MinCompression, gates.min_compression),
    ];
    let whole = whole.into_iter().filter_map(|(gate, limit)| {
        let limit = limit?;
        let estimate = match gate {
            Gate::MinCompression => Ok(Estimate { value: compression, interval: None }),
            _ => measure(gate, None),
        };
        Some(verdict(gate, None, limit, estimate))
    });
    let languages = gates.languages.iter().flat_map(|(language, gates)| {
        let limits = [
            (Gate::MaxPerplexityIncrease, gates.max_perplexity_increase),
            (Gate::MaxKl, gates.max_kl),
            (Gate::MinAgreement, gates.min_agreement),
        ];
        limits
            .into_iter()
            .filter_map(move |(gate, limit)| Some(verdict(gate, Some(language), limit?, measure(gate, Some(language)))))
    });
    whole.chain(languages).collect()
}

fn verdict(gate: Gate, language: Option<&String>, limit: f64, estimate: Result<Estimate, String>) -> GateResult {
    let (estimate, reason) = match estimate {
        Ok(estimate) => (Some(estimate), None),
        Err(reason) => (None, Some(reason)),
    };
    GateResult {
        gate,
        language: language.cloned(),
        limit,
        measured: estimate.map(|estimate| estimate.value),
        interval: estimate.and_then(|estimate| estimate.interval),
        reason,
        passed: estimate.is_some_and(|estimate| gate.holds(estimate.value, limit)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quench_metrics::Summary;
    use quench_quantize::recipe::LanguageGates;

    use super::*;
    use crate::{CandidateScore, Comparison, ModelScore, Perplexity, Score};

    fn score(increase: f64, kl: f64, agreement: f64) -> Score {
        let around = |value: f64| Some(Interval { low: value * 0.9, high: value * 1.1, level: 0.95 });
        Score {
            tokens: 100,
            perplexity: 10.0 * (1.0 + increase),
            dense_perplexity: 10.0,
            increase,
            increase_interval: around(increase),
            kl: Summary { n: 100, mean: kl, median: kl, p99: kl },
            kl_interval: around(kl),
            agreement,
            agreement_interval: None,
        }
    }

    fn measured(total: Score) -> Measured {
        let candidate = CandidateScore {
            name: "int4".into(),
            total,
            languages: BTreeMap::from([("de".into(), score(0.05, 0.02, 0.90))]),
            layers: Vec::new(),
        };
        let dense = Perplexity { windows: 10, tokens: 100, nll: 10f64.ln(), perplexity: 10.0, interval: None };
        let dense = ModelScore { total: dense, languages: BTreeMap::new() };
        Measured::Texts(Comparison { dense, candidates: vec![candidate] })
    }

    fn texts() -> Measured {
        measured(score(0.019, 0.010, 0.95))
    }

    #[test]
    fn every_limit_on_both_sides() {
        for (gates, passed) in [
            (Gates { max_perplexity_increase: Some(0.02), ..Gates::default() }, true),
            (Gates { max_perplexity_increase: Some(0.018), ..Gates::default() }, false),
            (Gates { max_kl: Some(0.010), ..Gates::default() }, true),
            (Gates { max_kl: Some(0.009), ..Gates::default() }, false),
            (Gates { min_agreement: Some(0.95), ..Gates::default() }, true),
            (Gates { min_agreement: Some(0.951), ..Gates::default() }, false),
            (Gates { min_compression: Some(4.0), ..Gates::default() }, true),
            (Gates { min_compression: Some(4.01), ..Gates::default() }, false),
        ] {
            let results = check(&gates, Some(&texts()), 4.0);
            assert_eq!(results.len(), 1, "{gates:?}");
            assert_eq!(results[0].passed, passed, "{}", results[0]);
        }
        assert!(check(&Gates::default(), Some(&texts()), 4.0).is_empty());
    }

    #[test]
    fn a_missing_language_fails() {
        let limits = LanguageGates { max_kl: Some(1.0), min_agreement: Some(0.0), ..LanguageGates::default() };
        let languages = BTreeMap::from([("de".to_string(), limits.clone()), ("pt".to_string(), limits)]);
        let results = check(&Gates { languages, ..Gates::default() }, Some(&texts()), 4.0);
        let verdicts: Vec<_> = results.iter().map(|r| (r.language.as_deref(), r.measured, r.passed)).collect();
        assert_eq!(
            verdicts,
            [
                (Some("de"), Some(0.02), true),
                (Some("de"), Some(0.90), true),
                (Some("pt"), None, false),
                (Some("pt"), None, false),
            ]
        );
        assert!(results[2].to_string().contains("max_kl pt: not evaluated"), "{}", results[2]);
    }

    #[test]
    fn without_a_score_only_compression_can_hold() {
        let gates = Gates { max_kl: Some(f64::MAX), min_compression: Some(4.0), ..Gates::default() };
        let results = check(&gates, None, 4.0);
        assert_eq!(results.iter().map(|result| result.passed).collect::<Vec<_>>(), [false, true]);
        assert_eq!(
            results[0].to_string(),
            format!(
                "max_kl: not evaluated, nothing was evaluated; give data to evaluate on, limit {}: failed",
                f64::MAX
            )
        );
    }

    #[test]
    fn nothing_measurable_holds_no_limit() {
        let broken = measured(score(0.019, f64::NAN, 0.95));
        let gates = Gates { max_kl: Some(f64::MAX), min_compression: Some(0.0), ..Gates::default() };
        assert!(check(&gates, Some(&broken), f64::NAN).iter().all(|result| !result.passed));
    }

    #[test]
    fn says_whether_it_is_conclusive() {
        let of = |limit| check(&Gates { max_kl: Some(limit), ..Gates::default() }, Some(&texts()), 4.0).remove(0);
        assert_eq!(of(0.0095).conclusive(), Some(false));
        assert!(of(0.0095).to_string().ends_with("failed (not conclusive: the limit is inside the interval)"));
        assert_eq!(of(0.0105).conclusive(), Some(false));
        assert_eq!(of(0.02).conclusive(), Some(true));
        assert_eq!(of(0.001).conclusive(), Some(true));
        let compression =
            check(&Gates { min_compression: Some(2.0), ..Gates::default() }, Some(&texts()), 4.0).remove(0);
        assert_eq!(compression.conclusive(), None);
        assert_eq!(compression.to_string(), "min_compression: 4.0000, limit 2: passed");
    }
}
