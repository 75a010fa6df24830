//! The three kinds of evaluation as one.

use quench_metrics::Interval;
use serde::{Deserialize, Serialize};

use crate::{Comparison, Gate, ImageComparison, Measure, SentenceComparison, TaskChange, VectorScore};

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
        Gate::MaxAccuracyDrop => Ok(lost(score.change, score.change_interval)),
        Gate::MaxPerplexityIncrease | Gate::MaxCorrelationDrop | Gate::MinNeighbours | Gate::MinCompression => {
            Err(unmeasured("images", &[Gate::MaxKl, Gate::MinAgreement, Gate::MaxAccuracyDrop]))
        }
    }
}

fn sentences(comparison: &SentenceComparison, gate: Gate) -> Result<Estimate, String> {
    let score = comparison.candidates.first().ok_or_else(alone)?;
    // Of the tasks that have this measure, the one that is furthest from holding the gate.
    let worst = |measure: Measure, of: &dyn Fn(&TaskChange) -> Option<Estimate>| {
        let tasks = comparison.tasks.iter().zip(&score.tasks).filter(|(task, _)| task.measure == measure);
        let estimates = tasks.filter_map(|(_, change)| of(change));
        let worst = estimates.reduce(|worst, next| if gate.holds(next.value, worst.value) { worst } else { next });
        worst.ok_or_else(|| match measure {
            Measure::Accuracy => "there is no probe among the tasks (a folder of labelled texts)".to_owned(),
            Measure::Spearman => "there is no file of pairs among the tasks".to_owned(),
        })
    };
    let change = |change: &TaskChange| Some(lost(change.change, change.change_interval));
    let agreement =
        |change: &TaskChange| Some(Estimate { value: change.agreement?, interval: change.agreement_interval });
    match gate {
        Gate::MinAgreement => worst(Measure::Accuracy, &agreement),
        Gate::MaxAccuracyDrop => worst(Measure::Accuracy, &change),
        Gate::MaxCorrelationDrop => worst(Measure::Spearman, &change),
        Gate::MinNeighbours => match &score.vectors.neighbours {
            Some(neighbours) => Ok(Estimate { value: neighbours.overlap, interval: neighbours.interval }),
            None => Err(format!("10 neighbours among {} texts say nothing; give 12 or more", score.vectors.texts)),
        },
        Gate::MaxKl => {
            let VectorScore { cosine, cosine_interval, .. } = score.vectors;
            let away = |Interval { low, high, level }| Interval { low: 1.0 - high, high: 1.0 - low, level };
            Ok(Estimate { value: 1.0 - cosine, interval: cosine_interval.map(away) })
        }
        Gate::MaxPerplexityIncrease | Gate::MinCompression => {
            let gates =
                [Gate::MaxKl, Gate::MaxCorrelationDrop, Gate::MaxAccuracyDrop, Gate::MinAgreement, Gate::MinNeighbours];
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

/// What a change takes away: the same the other way round.
fn lost(change: f64, interval: Option<Interval>) -> Estimate {
    let interval = interval.map(|Interval { low, high, level }| Interval { low: -high, high: -low, level });
    Estimate { value: -change, interval }
}

#[cfg(test)]
mod tests {
    use quench_metrics::Summary;
    use quench_quantize::recipe::{Gates, LanguageGates};

    use super::*;
    use crate::{ImageAccuracy, ImageScore, ModelScore, NeighbourScore, Perplexity, SentenceScore, TaskScore, check};

    const AROUND: Option<Interval> = Some(Interval { low: -0.03, high: 0.01, level: 0.95 });

    fn images() -> Measured {
        let accuracy = ImageAccuracy { top_1: 0.8, top_1_interval: None, top_5: Some(0.99) };
        let score = ImageScore {
            name: "int4".into(),
            accuracy: ImageAccuracy { top_1: 0.79, ..accuracy },
            change: -0.01,
            change_interval: AROUND,
            agreement: 0.9,
            agreement_interval: None,
            kl: Summary { n: 100, mean: 0.05, median: 0.01, p99: 0.6 },
            kl_interval: None,
        };
        Measured::Images(ImageComparison { classes: 10, images: 100, dense: accuracy, candidates: vec![score] })
    }

    /// Two files of pairs, and two probes unless there is to be none.
    fn sentences(probes: bool, texts: usize) -> Measured {
        let task = |(name, measure): (&str, Measure)| TaskScore {
            name: name.into(),
            measure,
            n: 100,
            score: 0.8,
            interval: None,
        };
        let change = |change: f64, agreement| TaskChange {
            score: 0.8 + change,
            change,
            change_interval: AROUND,
            agreement,
            agreement_interval: None,
        };
        let mut tasks =
            vec![(("stsb", Measure::Spearman), change(-0.02, None)), (("ws", Measure::Spearman), change(-0.01, None))];
        if probes {
            tasks.push((("sst2", Measure::Accuracy), change(0.03, Some(0.95))));
            tasks.push((("trec", Measure::Accuracy), change(0.01, Some(0.97))));
        }
        let neighbours = NeighbourScore { overlap: 0.7, interval: None, beyond_chance: 0.69 };
        let neighbours = (texts >= 12).then_some(neighbours);
        let vectors = VectorScore { texts, cosine: 0.99, cosine_interval: None, neighbours };
        let (names, changes): (Vec<_>, Vec<_>) = tasks.into_iter().unzip();
        Measured::Sentences(SentenceComparison {
            tasks: names.into_iter().map(task).collect(),
            candidates: vec![SentenceScore { name: "int4".into(), tasks: changes, vectors }],
        })
    }

    fn texts() -> Measured {
        let dense = Perplexity { windows: 1, tokens: 2, nll: 0.0, perplexity: 1.0, interval: None };
        let dense = ModelScore { total: dense, languages: Default::default() };
        Measured::Texts(Comparison { dense, candidates: Vec::new() })
    }

    #[test]
    fn every_kind_measures_its_own_gates() {
        let (images, sentences, pairs) = (images(), sentences(true, 100), sentences(false, 11));
        for (measured, gate, expected) in [
            (&images, Gate::MaxKl, Ok(0.05)),
            (&images, Gate::MinAgreement, Ok(0.9)),
            (&images, Gate::MaxAccuracyDrop, Ok(0.01)),
            (&images, Gate::MaxCorrelationDrop, Err("an evaluation on images does not measure it; it serves max_kl")),
            (&images, Gate::MaxPerplexityIncrease, Err("an evaluation on images does not measure it")),
            (&sentences, Gate::MaxAccuracyDrop, Ok(-0.01)),
            (&sentences, Gate::MinAgreement, Ok(0.95)),
            (&sentences, Gate::MaxCorrelationDrop, Ok(0.02)),
            (&sentences, Gate::MinNeighbours, Ok(0.7)),
            (
                &sentences,
                Gate::MaxPerplexityIncrease,
                Err("an evaluation on sentences does not measure it; it serves max_kl"),
            ),
            (&pairs, Gate::MaxAccuracyDrop, Err("there is no probe among the tasks")),
            (&pairs, Gate::MinNeighbours, Err("10 neighbours among 11 texts")),
            (&texts(), Gate::MaxKl, Err("the dense model was evaluated alone")),
        ] {
            match (measured.measure(gate, None), expected) {
                (Ok(found), Ok(expected)) => assert!((found.value - expected).abs() < 1e-12, "{gate}: {found:?}"),
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{gate}: {found}"),
                (found, expected) => panic!("{} {gate}: {found:?}, expected {expected:?}", measured.kind()),
            }
        }
        let interval = images.measure(Gate::MaxAccuracyDrop, None).unwrap().interval.unwrap();
        assert_eq!((interval.low, interval.high), (-0.01, 0.03));
    }

    #[test]
    fn gates_say_why_they_fail() {
        let gates: Gates = serde_json::from_str(
            r#"{"max_perplexity_increase": 0.02, "max_accuracy_drop": 0.02, "max_correlation_drop": 0.5,
                "min_neighbours": 0.7, "languages": {"de": {"max_kl": 1}}}"#,
        )
        .unwrap();
        assert_eq!(gates.languages["de"], LanguageGates { max_kl: Some(1.0), ..LanguageGates::default() });
        let verdicts = |measured: &Measured| -> Vec<bool> {
            check(&gates, Some(measured), 1.0).iter().map(|result| result.passed).collect()
        };
        assert_eq!(verdicts(&images()), [false, true, false, false, false]);
        assert_eq!(verdicts(&sentences(true, 12)), [false, true, true, true, false]);
        let results = check(&gates, Some(&images()), 1.0);
        assert_eq!(
            results[0].to_string(),
            "max_perplexity_increase: not evaluated, an evaluation on images does not measure it; it serves max_kl, \
             min_agreement, max_accuracy_drop, limit 0.02: failed"
        );
        assert_eq!(
            results[1].to_string(),
            "max_accuracy_drop: 0.0100, limit 0.02: passed (not conclusive: the limit is inside the interval)"
        );
        assert!(results[4].to_string().contains("max_kl de: not evaluated, images are not evaluated by language"));
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<Vec<crate::GateResult>>(&text).unwrap(), results);
    }

    #[test]
    fn json_names_the_kind() {
        for measured in [texts(), images(), sentences(true, 100), sentences(false, 3)] {
            let text = serde_json::to_string(&measured).unwrap();
            assert!(text.starts_with(&format!(r#"{{"kind":"{}","#, measured.kind())), "{text}");
            assert_eq!(serde_json::from_str::<Measured>(&text).unwrap(), measured);
            let table = measured.table();
            for block in table.split("\n\n") {
                let lengths: Vec<usize> = block.lines().map(|line| line.chars().count()).collect();
                assert!(lengths.iter().all(|length| *length == lengths[0]), "{table}");
            }
        }
        let table = images().table();
        assert!(table.contains("| int4  |    100 | 79.00 % | 99.00 % | -1.00 % | -3.00 % to +1.00 % |"), "{table}");
        let table = sentences(true, 100).table();
        assert!(table.contains("| sst2 | int4  | accuracy | 100 | 0.8300 | +0.0300 |"), "{table}");
        assert!(table.contains("|   95.00 % |"), "{table}");
        assert!(table.contains("| int4    |   100 |     0.99000 |            70.00 % |"), "{table}");
    }
}
