//! Results as Markdown tables that are aligned to be read as they are. JSON is what `serde` makes of the types.

use quench_metrics::Interval;

use crate::{
    Comparison, GateResult, ImageAccuracy, ImageComparison, Measure, ModelScore, Perplexity, Score, SentenceComparison,
    SentenceScore,
};

/// The name of the row over all texts.
const ALL: &str = "all";

impl ModelScore {
    /// One row for all texts, and one per language.
    pub fn table(&self) -> String {
        let row = |name: &str, score: &Perplexity| {
            vec![
                name.to_owned(),
                score.tokens.to_string(),
                format!("{:.3}", score.perplexity),
                interval(score.interval, |bound| format!("{bound:.3}")),
            ]
        };
        let rows = self.languages.iter().map(|(name, score)| row(name, score));
        let rows: Vec<_> = [row(ALL, &self.total)].into_iter().chain(rows).collect();
        table(&["text", "tokens", "perplexity", "interval"], 1, &rows)
    }
}

impl Comparison {
    /// One row per candidate for all texts, and one per candidate and language; KL in nats per token. A model alone has the
    /// table of its own.
    pub fn table(&self) -> String {
        if self.candidates.is_empty() {
            return self.dense.table();
        }
        let row = |candidate: &str, text: &str, score: &Score| {
            vec![
                candidate.to_owned(),
                text.to_owned(),
                score.tokens.to_string(),
                format!("{:.3}", score.dense_perplexity),
                format!("{:.3}", score.perplexity),
                percent(score.increase, true),
                interval(score.increase_interval, |bound| percent(bound, true)),
                format!("{:.5}", score.kl.mean),
                format!("{:.5}", score.kl.median),
                format!("{:.5}", score.kl.p99),
                percent(score.agreement, false),
            ]
        };
        let rows: Vec<_> = self
            .candidates
            .iter()
            .flat_map(|candidate| {
                let languages = candidate.languages.iter().map(|(name, score)| row(&candidate.name, name, score));
                [row(&candidate.name, ALL, &candidate.total)].into_iter().chain(languages)
            })
            .collect();
        let header = [
            "candidate",
            "text",
            "tokens",
            "dense perplexity",
            "perplexity",
            "increase",
            "interval",
            "mean KL",
            "median KL",
            "99 % KL",
            "agreement",
        ];
        table(&header, 2, &rows)
    }

    /// One row per layer, with a signal-to-noise ratio and a relative error for each candidate; empty if none were
    /// measured.
    pub fn layer_table(&self) -> String {
        let Some(first) = self.candidates.iter().find(|candidate| !candidate.layers.is_empty()) else {
            return String::new();
        };
        let names = self.candidates.iter().flat_map(|candidate| {
            ["dB", "relative error", "loss alone"].map(|what| format!("{}, {what}", candidate.name))
        });
        let header: Vec<String> = ["layer".to_owned()].into_iter().chain(names).collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let row = |layer: &str| {
            let cells = self.candidates.iter().flat_map(|candidate| {
                match candidate.layers.iter().find(|error| error.layer == layer) {
                    Some(error) => [
                        format!("{:.2}", error.snr_db),
                        format!("{:.5}", error.relative_error),
                        format!("{:.3e}", error.output_loss),
                    ],
                    None => std::array::from_fn(|_| "-".to_owned()),
                }
            });
            [layer.to_owned()].into_iter().chain(cells).collect()
        };
        let rows: Vec<Vec<String>> = first.layers.iter().map(|error| row(&error.layer)).collect();
        table(&header, 1, &rows)
    }
}

/// How the dense model's rows are called.
const DENSE: &str = "dense";

impl ImageComparison {
    /// One row for the dense model, and one per candidate; KL in nats per image. A model alone has one row without a name.
    pub fn table(&self) -> String {
        let accuracy = |accuracy: &ImageAccuracy| {
            [percent(accuracy.top_1, false), accuracy.top_5.map_or_else(none, |top_5| percent(top_5, false))]
        };
        let [top_1, top_5] = accuracy(&self.dense);
        if self.candidates.is_empty() {
            let bounds = interval(self.dense.top_1_interval, |bound| percent(bound, false));
            return table(
                &["images", "top-1", "interval", "top-5"],
                0,
                &[vec![self.images.to_string(), top_1, bounds, top_5]],
            );
        }
        let mut rows = vec![vec![DENSE.to_owned(), self.images.to_string(), top_1, top_5]];
        rows[0].resize_with(10, none);
        rows.extend(self.candidates.iter().map(|score| {
            let [top_1, top_5] = accuracy(&score.accuracy);
            vec![
                score.name.clone(),
                self.images.to_string(),
                top_1,
                top_5,
                percent(score.change, true),
                interval(score.change_interval, |bound| percent(bound, true)),
                percent(score.agreement, false),
                format!("{:.5}", score.kl.mean),
                format!("{:.5}", score.kl.median),
                format!("{:.5}", score.kl.p99),
            ]
        }));
        let header =
            ["model", "images", "top-1", "top-5", "change", "interval", "agreement", "mean KL", "median KL", "99 % KL"];
        table(&header, 1, &rows)
    }
}

impl SentenceComparison {
    /// One row per task for the dense model and for each candidate; then, for candidates, how far their vectors are from
    /// the dense model's. A model alone has one row per task without its name.
    pub fn table(&self) -> String {
        let mut rows = Vec::new();
        for (index, task) in self.tasks.iter().enumerate() {
            let measure = match task.measure {
                Measure::Spearman => "Spearman",
                Measure::Accuracy => "accuracy",
            };
            let row = |model: &str, score: f64| {
                vec![task.name.clone(), model.to_owned(), measure.to_owned(), task.n.to_string(), format!("{score:.4}")]
            };
            let mut dense = row(DENSE, task.score);
            dense.extend([none(), interval(task.interval, |bound| format!("{bound:.4}")), none()]);
            rows.push(dense);
            for candidate in &self.candidates {
                let change = &candidate.tasks[index];
                let mut cells = row(&candidate.name, change.score);
                cells.extend([
                    format!("{:+.4}", change.change),
                    interval(change.change_interval, |bound| format!("{bound:+.4}")),
                    change.agreement.map_or_else(none, |agreement| percent(agreement, false)),
                ]);
                rows.push(cells);
            }
        }
        if self.candidates.is_empty() {
            let own = |row: Vec<String>| [0, 2, 3, 4, 6].map(|cell| row[cell].clone()).to_vec();
            let rows: Vec<_> = rows.into_iter().map(own).collect();
            return table(&["task", "measure", "n", "score", "interval"], 2, &rows);
        }
        let header = ["task", "model", "measure", "n", "score", "change", "interval", "agreement"];
        let tasks = table(&header, 3, &rows);
        let row = |candidate: &SentenceScore| {
            let vectors = &candidate.vectors;
            let [overlap, bounds, beyond] = vectors.neighbours.map_or_else(
                || [none(), none(), none()],
                |score| {
                    let bounds = interval(score.interval, |bound| percent(bound, false));
                    [percent(score.overlap, false), bounds, percent(score.beyond_chance, false)]
                },
            );
            vec![
                candidate.name.clone(),
                vectors.texts.to_string(),
                format!("{:.5}", vectors.cosine),
                overlap,
                bounds,
                beyond,
            ]
        };
        let rows: Vec<_> = self.candidates.iter().map(row).collect();
        let header = ["vectors", "texts", "mean cosine", "same 10 neighbours", "interval", "beyond chance"];
        format!("{tasks}\n{}", table(&header, 1, &rows))
    }
}

/// One row per gate.
pub fn gate_table(results: &[GateResult]) -> String {
    let row = |result: &GateResult| {
        let verdict = match (result.passed, result.conclusive()) {
            (true, Some(false)) => "passed, not conclusive",
            (false, Some(false)) => "failed, not conclusive",
            (true, _) => "passed",
            (false, _) => "failed",
        };
        vec![
            result.gate.to_string(),
            result.language.clone().unwrap_or_else(|| ALL.to_owned()),
            verdict.to_owned(),
            result.limit.to_string(),
            result.measured.map_or_else(|| "not evaluated".to_owned(), |value| format!("{value:.5}")),
            interval(result.interval, |bound| format!("{bound:.5}")),
        ]
    };
    let rows: Vec<_> = results.iter().map(row).collect();
    table(&["gate", "text", "verdict", "limit", "measured", "interval"], 3, &rows)
}

/// `+1.25 %`.
fn percent(share: f64, signed: bool) -> String {
    let value = 100.0 * share;
    if signed { format!("{value:+.2} %") } else { format!("{value:.2} %") }
}

fn interval(interval: Option<Interval>, bound: impl Fn(f64) -> String) -> String {
    match interval {
        Some(Interval { low, high, .. }) => format!("{} to {}", bound(low), bound(high)),
        None => none(),
    }
}

/// The cell of what there is not.
fn none() -> String {
    "-".to_owned()
}

/// A Markdown table; the first `left` columns are aligned left, the others right.
fn table(header: &[&str], left: usize, rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<String>| {
        let cells = cells.into_iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < left { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") }
        });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.iter().enumerate().map(|(column, width)| {
        if column < left {
            format!(" {} |", "-".repeat(*width))
        } else {
            format!(" {}: |", "-".repeat(width.saturating_sub(1)))
        }
    });
    let rule = format!("|{}\n", rule.collect::<String>());
    let header = line(header.iter().map(|name| (*name).to_owned()).collect());
    header + &rule + &rows.iter().map(|row| line(row.clone())).collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quench_metrics::Summary;

    use super::*;
    use crate::{CandidateScore, Gate, LayerError};

    fn comparison() -> Comparison {
        let score = Score {
            tokens: 15300,
            perplexity: 45.0,
            dense_perplexity: 44.0,
            increase: 45.0 / 44.0 - 1.0,
            increase_interval: Some(Interval { low: 0.0201, high: 0.0256, level: 0.95 }),
            kl: Summary { n: 15300, mean: 0.02, median: 0.01, p99: 0.2 },
            kl_interval: None,
            agreement: 0.9125,
            agreement_interval: None,
        };
        let dense = Perplexity { windows: 60, tokens: 15300, nll: 44f64.ln(), perplexity: 44.0, interval: None };
        let layer = LayerError { layer: "lm_head".into(), relative_error: 0.1, snr_db: 20.0, output_loss: 0.001 };
        let candidate = |name: &str, layers: Vec<LayerError>| CandidateScore {
            name: name.into(),
            total: score,
            languages: BTreeMap::from([("en".to_string(), score)]),
            layers,
        };
        Comparison {
            dense: ModelScore { total: dense, languages: BTreeMap::from([("en".to_string(), dense)]) },
            candidates: vec![candidate("int4", vec![layer]), candidate("int3", Vec::new())],
        }
    }

    #[test]
    fn tables_are_aligned() {
        let comparison = comparison();
        for table in [comparison.table(), comparison.layer_table(), comparison.dense.table(), gate_table(&[])] {
            let lengths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
            assert!(lengths.iter().all(|length| *length == lengths[0]), "{table}");
        }
        assert_eq!(
            comparison.layer_table(),
            "| layer   | int4, dB | int4, relative error | int4, loss alone | int3, dB | int3, relative error | int3, loss alone |\n\
             | ------- | -------: | -------------------: | ---------------: | -------: | -------------------: | ---------------: |\n\
             | lm_head |    20.00 |              0.10000 |         1.000e-3 |        - |                    - |                - |\n"
        );
        assert!(comparison.table().contains("| int4      | en   |  15300 |"), "{}", comparison.table());
        assert!(comparison.table().contains("+2.27 % | +2.01 % to +2.56 % | 0.02000 |"), "{}", comparison.table());
        assert!(comparison.table().contains("91.25 % |"), "{}", comparison.table());
    }

    #[test]
    fn gates() {
        let result = |language: Option<&str>, measured| GateResult {
            gate: Gate::MaxKl,
            language: language.map(Into::into),
            limit: 0.01,
            measured,
            reason: None,
            interval: measured.map(|value: f64| Interval { low: 0.0, high: 2.0 * value, level: 0.95 }),
            passed: false,
        };
        let table = gate_table(&[result(None, Some(0.02)), result(Some("pt"), None)]);
        assert!(table.contains("| max_kl | all  | failed, not conclusive |  0.01 |       0.02000 |"), "{table}");
        assert!(table.contains("| max_kl | pt   | failed                 |  0.01 | not evaluated |"), "{table}");
    }

    #[test]
    fn json_round_trip() {
        let comparison = comparison();
        let text = serde_json::to_string(&comparison).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison);
    }
}
