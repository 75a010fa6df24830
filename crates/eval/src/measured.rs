//! The three kinds of evaluation as one.

use quench_metrics::Interval;
use serde::{Deserialize, Serialize};

use crate::{Comparison, Gate, ImageComparison, Measure, SentenceComparison, TaskChange};

/// A dense model beside its candidates, by what the models read. In JSON, `kind` stands beside the fields of the kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Measured {
    /// Decoders, on running text.
    Texts(Comparison),
    /// Classifiers, on labelled images.
    Images(ImageComparison),
    /// Encoders, by their vectors of sentences.
    Sentences(SentenceComparison),
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its bootstrap interval, where there is one.
    pub interval: Option<Interval>,
}

impl Measured {
    /// `texts`, `images` or `sentences`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Texts(_) => "texts",
            Self::Images(_) => "images",
            Self::Sentences(_) => "sentences",
        }
    }

    /// The comparison on running text, if it is one.
    pub fn texts(&self) -> Option<&Comparison> {
        match self {
            Self::Texts(comparison) => Some(comparison),
            _ => None,
        }
    }

    /// The results as Markdown.
    pub fn table(&self) -> String {
        match self {
            Self::Texts(comparison) => comparison.table(),
            Self::Images(comparison) => comparison.table(),
            Self::Sentences(comparison) => comparison.table(),
        }
    }

    /// The errors of single layers as Markdown; `None` where they are not measured.
    pub fn layer_table(&self) -> Option<String> {
        match self {
            Self::Texts(comparison) if !comparison.candidates.is_empty() => Some(comparison.layer_table()),
            _ => None,
        }
    }

    /// What `gate` limits, measured of the first candidate: over all data, or over the texts of one language.
    ///
    /// # Errors
    ///
    /// Why this evaluation does not measure it, in words that follow "not evaluated, ".
    pub fn measure(&self, gate: Gate, language: Option<&str>) -> Result<Estimate, String> {
        match self {
            Self::Texts(comparison) => texts(comparison, gate, language),
            _ if language.is_some() => Err(format!("{} are not evaluated by language", self.kind())),
            Self::Images(comparison) => images(comparison, gate),
            Self::Sentences(comparison) => sentences(comparison, gate),
        }
    }
}

fn texts(comparison: &Comparison, gate: Gate, language: Option<&str>) -> Result<Estimate, String> {
    let candidate = comparison.candidates.first().ok_or_else(alone)?;
    let score = match language {
        None => &candidate.total,
        Some(language) => {
            candidate.languages.get(language).ok_or("there is no evaluation text in this language".to_owned())?
        }
    };
    let (value, interval) = match gate {
        Gate::MaxPerplexityIncrease => (score.increase, score.increase_interval),
        Gate::MaxKl => (score.kl.mean, score.kl_interval),
        Gate::MinAgreement => (score.agreement, score.agreement_interval),
        Gate::MaxAccuracyDrop | Gate::MaxCorrelationDrop | Gate::MinNeighbours | Gate::MinCompression => {
            return Err(unmeasured("text", &[Gate::MaxPerplexityIncrease, Gate::MaxKl, Gate::MinAgreement]));
        }
    };
    Ok(Estimate { value, interval })
}

fn images(comparison: &ImageComparison, gate: Gate) -> Result<Estimate, String> {
    let score = comparison.candidates.first().ok_or_else(alone)?;
    match gate {
        Gate::MaxKl => Ok(Estimate { value: score.kl.mean, interval: score.kl_interval }),
        Gate::MinAgreement => Ok(Estimate { value: score.agreement, interval: score.agreement_interval }),
        Gate::MaxAccuracyDrop => Ok(drop(score.change, score.change_interval)),
        Gate::MaxPerplexityIncrease | Gate::MaxCorrelationDrop | Gate::MinNeighbours | Gate::MinCompression => {
            Err(unmeasured("images", &[Gate::MaxKl, Gate::MinAgreement, Gate::MaxAccuracyDrop]))
        }
    }
}

fn sentences(comparison: &SentenceComparison, gate: Gate) -> Result<Estimate, String> {
    let score = comparison.candidates.first().ok_or_else(alone)?;
    // The task that the gate is furthest from holding.
    let worst = |measure: Measure, of: &dyn Fn(&TaskChange) -> Estimate| {
        let tasks = comparison.tasks.iter().zip(&score.tasks).filter(|(task, _)| task.measure == measure);
        let estimates = tasks.map(|(_, change)| of(change));
        estimates.reduce(|worst, next| if gate.holds(next.value, worst.value) { worst } else { next })
    };
    let probe = || "there is no probe among the tasks (a folder of labelled texts)".to_owned();
    match gate {
        Gate::MinAgreement => {
            let agreement = |change: &TaskChange| Estimate {
                value: change.agreement.unwrap_or(f64::NAN),
                interval: change.agreement_interval,
            };
            worst(Measure::Accuracy, &agreement).ok_or_else(probe)
        }
        Gate::MaxAccuracyDrop => {
            worst(Measure::Accuracy, &|change| drop(change.change, change.change_interval)).ok_or_else(probe)
        }
        Gate::MaxCorrelationDrop => worst(Measure::Spearman, &|change| drop(change.change, change.change_interval))
            .ok_or_else(|| "there is no file of pairs among the tasks".to_owned()),
        Gate::MinNeighbours => match &score.vectors.neighbours {
            Some(neighbours) => Ok(Estimate { value: neighbours.overlap, interval: neighbours.interval }),
            None => Err(format!("10 neighbours among {} texts say nothing; give 12 or more", score.vectors.texts)),
        },
        Gate::MaxPerplexityIncrease | Gate::MaxKl | Gate::MinCompression => {
            let gates = [Gate::MaxCorrelationDrop, Gate::MaxAccuracyDrop, Gate::MinAgreement, Gate::MinNeighbours];
            Err(unmeasured("sentences", &gates))
        }
    }
}

fn alone() -> String {
    "the dense model was evaluated alone".to_owned()
}

fn unmeasured(what: &str, gates: &[Gate]) -> String {
    let gates: Vec<String> = gates.iter().map(Gate::to_string).collect();
    format!("an evaluation on {what} does not measure it; it serves {}", gates.join(", "))
}

/// A change the other way round.
fn drop(change: f64, interval: Option<Interval>) -> Estimate {
    let interval = interval.map(|Interval { low, high, level }| Interval { low: -high, high: -low, level });
    Estimate { value: -change, interval }
}
