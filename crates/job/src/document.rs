//! What was found, as sections of a report: quantized models, evaluations, predictions, and the measures of `quench_metrics`.
//!
//! Each function gives the sections that its argument can fill; [`joint`] adds what several of them show together.

mod contrasted;
mod together;

use quench_eval::{Comparison, GateResult, Measure as Task, Measured, Score};
use quench_metrics::threshold::{self, Verdict};
use quench_metrics::topology::{self, Stability};
use quench_metrics::{Bootstrap, Coherence, Evidence, Interval, Value};
use quench_quantize::Entry;
use quench_report::{
    Crossing, Diagram, Document, Judgement, Language, Languages, Layer, Layers, Logistic, Measure, Number, Response,
    Run, Shape, Step, Sweep,
};

pub use contrasted::contrasted;
pub use together::joint;

use crate::{Predictions, Report, Thresholds};

/// A number of the library as one of a report.
pub fn number(value: &Value) -> Number {
    let evidence = match value.evidence {
        Evidence::Measured => quench_report::Evidence::Measured,
        Evidence::Predicted => quench_report::Evidence::Predicted,
        Evidence::Certified => quench_report::Evidence::Certified,
    };
    Number {
        interval: value.interval.map(interval),
        seed: value.seed,
        null: value.null,
        ..Number::new(value.value, evidence).by(value.estimator.clone(), value.n as u64)
    }
}

/// A finished job: its size, its gates, its layers, and its languages where it was measured on some.
pub fn report(report: &Report) -> Document {
    let name = name(&report.output);
    let gates = report.gates.iter().map(gate).collect();
    let size = quench_report::Size {
        dense_bytes: report.size.dense_bytes,
        bytes: report.size.bytes,
        compression: report.size.compression,
        compression_f32: report.size.compression_f32,
        bits_per_weight: report.size.bits_per_weight,
        bits_per_parameter: report.size.bits_per_parameter,
    };
    let mut document = match &report.comparison {
        Some(measured) => self::measured(&name, measured),
        None => Document { runs: vec![Run { name: name.clone(), ..Run::default() }], ..Document::default() },
    };
    // The first candidate is the result; what was measured beside it, direct quantization of a cascade, has no size.
    let run = &mut document.runs[0];
    run.name.clone_from(&name);
    run.model = self::name(&report.model);
    run.recipe.clone_from(&report.recipe.name);
    run.device.clone_from(&report.device);
    run.size = Some(size);
    run.gates = gates;
    run.notes.extend(report.cascade.as_ref().map(|cascade| cascade.sentence.clone()));
    let arriving = document.layers.first().map(|layers| layers.rows.clone()).unwrap_or_default();
    let rows = report.plan.layers.iter().filter_map(|planned| report.ledger.last(&planned.name)).map(|entry| Layer {
        arriving_snr_db: arriving.iter().find(|row| row.layer == entry.layer).and_then(|row| row.arriving_snr_db),
        ..layer(entry)
    });
    let layers = Layers { run: name, rows: rows.collect() };
    match document.layers.first_mut() {
        Some(first) => *first = layers,
        None if layers.rows.is_empty() => {}
        None => document.layers.push(layers),
    }
    document
}

/// An evaluation: what is known of each candidate, its languages and its layers. `name` is that of the first.
pub fn measured(name: &str, measured: &Measured) -> Document {
    match measured {
        Measured::Texts(comparison) => texts(name, comparison),
        Measured::Images(comparison) => {
            let dense = bare(comparison.dense.top_1, comparison.dense.top_1_interval);
            let images = comparison.images as u64;
            let mut runs = vec![];
            for candidate in &comparison.candidates {
                let measures = vec![
                    measure("top-1 accuracy, dense", "share of images", dense.clone(), images),
                    measure(
                        "top-1 accuracy",
                        "share of images",
                        bare(candidate.accuracy.top_1, candidate.accuracy.top_1_interval),
                        images,
                    ),
                    measure("change of accuracy", "", bare(candidate.change, candidate.change_interval), images),
                    measure(KL, "nats per image", bare(candidate.kl.mean, candidate.kl_interval), images),
                    measure(
                        AGREEMENT,
                        "share of images",
                        bare(candidate.agreement, candidate.agreement_interval),
                        images,
                    ),
                ];
                runs.push(run(name, &candidate.name, runs.is_empty(), measures));
            }
            if runs.is_empty() {
                runs.push(run(name, name, true, vec![measure("top-1 accuracy", "share of images", dense, images)]));
            }
            Document { runs, ..Document::default() }
        }
        Measured::Sentences(comparison) => {
            let what = |task: Task| match task {
                Task::Spearman => "Spearman correlation",
                Task::Accuracy => "accuracy of a probe",
            };
            let mut runs = vec![];
            for candidate in &comparison.candidates {
                let mut measures = Vec::new();
                for (task, change) in comparison.tasks.iter().zip(&candidate.tasks) {
                    let (of, n) = (format!("{}, {}", task.name, what(task.measure)), task.n as u64);
                    measures.push(measure(&format!("{of}, dense"), "", bare(task.score, task.interval), n));
                    measures.push(measure(&of, "", bare(change.score, None), n));
                    let changed = bare(change.change, change.change_interval);
                    measures.push(measure(&format!("{of}, change"), "", changed, n));
                }
                let (vectors, n) = (&candidate.vectors, candidate.vectors.texts as u64);
                let cosine = bare(vectors.cosine, vectors.cosine_interval);
                measures.push(measure("mean cosine with the dense vector", "", cosine, n));
                if let Some(kept) = &vectors.neighbours {
                    let overlap = bare(kept.overlap, kept.interval);
                    measures.push(measure("10 nearest neighbours kept", "share", overlap, n));
                }
                runs.push(run(name, &candidate.name, runs.is_empty(), measures));
            }
            if runs.is_empty() {
                let scores = comparison.tasks.iter().map(|task| {
                    let of = format!("{}, {}", task.name, what(task.measure));
                    measure(&of, "", bare(task.score, task.interval), task.n as u64)
                });
                runs.push(run(name, name, true, scores.collect()));
            }
            Document { runs, ..Document::default() }
        }
    }
}

/// What a file of `quench predict` says.
pub fn predictions(found: &Predictions) -> Document {
    let mut document = Document::default();
    for predicted in &found.predictions {
        let prediction = &predicted.prediction;
        let name = name(&prediction.model);
        let rows = prediction.layers.iter().map(|layer| Layer {
            layer: layer.layer.clone(),
            relative_error: Some(layer.relative_error),
            predicted_kl: Some(layer.kl),
            predicted_kl_diagonal: layer.kl_diagonal,
            ..Layer::default()
        });
        document.layers.push(Layers { run: format!("{name}, predicted"), rows: rows.collect() });
        document.predictions.push(quench_report::Prediction {
            name,
            bits: Some(prediction.bits_per_parameter),
            predicted: Number {
                estimator: "K-FAC, to second order".to_owned(),
                ..Number::new(prediction.kl, quench_report::Evidence::Predicted)
            },
            measured: predicted.measured_kl.map(|kl| bare(kl, predicted.measured_interval)),
            doubt: predicted.doubt.clone().unwrap_or_default(),
        });
    }
    document
}

/// A sweep with its fits: where limits are crossed, and what it is evidence of by itself or, with `verdict`, among others.
pub fn sweep(
    [title, metric, unit]: [&str; 3],
    sweep: &threshold::Sweep,
    limits: &[f64],
    verdict: Option<&Verdict>,
    bootstrap: &Bootstrap,
) -> Sweep {
    let step = |point: &threshold::Point| Step { step: point.step, metric: point.metric, error: point.error };
    let enough = sweep.points().len() > 4; // which a logistic function needs
    let logistic = enough.then(|| threshold::Logistic::of(sweep, bootstrap));
    let own = enough.then(|| threshold::verdict(std::slice::from_ref(sweep), bootstrap));
    let judgement = verdict.or(own.as_ref()).map(|verdict| match verdict {
        Verdict::Smooth => Judgement::Smooth,
        Verdict::Inconclusive { width, times } => Judgement::Inconclusive { width: number(width), times: *times },
        Verdict::Sharp { step } => Judgement::Sharp { step: number(step) },
        Verdict::Transition { step, nu } => Judgement::Transition { step: number(step), nu: number(nu) },
    });
    let crossing = |limit: &f64| Some(Crossing { limit: *limit, step: number(&sweep.crossing(*limit, bootstrap)?) });
    Sweep {
        title: title.to_owned(),
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        points: sweep.points().iter().map(step).collect(),
        monotone: sweep.monotone(),
        logistic: logistic.map(|fit| Logistic {
            before: fit.before,
            after: fit.after,
            half: number(&fit.half),
            width: number(&fit.width),
        }),
        crossings: limits.iter().filter_map(crossing).collect(),
        response: None,
        judgement,
    }
}

/// What a file of `quench threshold` says: two sweeps of each model, its divergence and its agreement.
pub fn thresholds(found: &Thresholds) -> Document {
    let mut document = Document::default();
    for swept in &found.models {
        let name = name(&swept.model);
        let bootstrap = &found.settings.bootstrap;
        let own = (found.models.len() == 1).then_some(&swept.verdict);
        let labels =
            [[name.as_str(), "KL divergence", "nats per label"], [name.as_str(), AGREEMENT, "share of labels"]];
        let crossing = |limit: f64, step: &Value| Crossing { limit, step: number(step) };
        let response = Response {
            trace: number(&swept.trace),
            crossings: vec![crossing(found.settings.limit, &swept.predicted)],
            end: swept.response_end.as_ref().map(number),
        };
        let kl = sweep(labels[0], &swept.kl, &[found.settings.limit], None, bootstrap);
        // A divergence has no ceiling that it comes to: what is sharp is asked of the agreement.
        document.sweeps.push(Sweep { response: Some(response), logistic: None, judgement: None, ..kl });
        let agreement = sweep(labels[1], &swept.agreement, &[], own.or(Some(&found.verdict)), bootstrap);
        document.sweeps.push(Sweep { title: format!("{name}, agreement"), ..agreement });
    }
    document
}

/// Diagrams before and after a change, with the smallest certified bound and the bottleneck distances that it bounds.
///
/// # Panics
/// If the lists differ in length, or their diagrams in dimension.
pub fn shape(
    title: &str,
    points: usize,
    before: &[topology::Diagram],
    after: &[topology::Diagram],
    stability: Option<&Stability>,
) -> Shape {
    assert_eq!(before.len(), after.len(), "each diagram before has one after");
    let diagram = |diagram: &topology::Diagram| Diagram {
        dimension: diagram.dimension,
        pairs: diagram.pairs.clone(),
        essential: diagram.essential.clone(),
    };
    let distance = |(x, y): (&topology::Diagram, &topology::Diagram)| {
        assert_eq!(x.dimension, y.dimension, "diagrams of one dimension are compared");
        let distance = Number::new(topology::bottleneck(x, y), quench_report::Evidence::Measured);
        distance.by("bottleneck distance", points as u64)
    };
    let smallest = stability.map(|stability| {
        let bounds = [Some(&stability.distances), Some(&stability.displacement), stability.step.as_ref()];
        number(bounds.into_iter().flatten().min_by(|a, b| a.value.total_cmp(&b.value)).unwrap_or(&stability.distances))
    });
    Shape {
        title: title.to_owned(),
        points: points as u64,
        before: before.iter().map(diagram).collect(),
        after: after.iter().map(diagram).collect(),
        bound: smallest,
        distances: before.iter().zip(after).map(distance).collect(),
    }
}

/// Each metric of a coherence as what is known of a run.
pub fn coherence(coherence: &Coherence) -> Vec<Measure> {
    let measure = |scored: &quench_metrics::Scored| Measure {
        name: scored.metric.to_string(),
        unit: String::new(),
        number: number(&scored.value),
    };
    coherence.scored.iter().map(measure).collect()
}

/// The name of the mean divergence.
const KL: &str = "mean KL divergence";
/// The name of the increase of perplexity.
const INCREASE: &str = "increase of perplexity";
/// The name of the agreement.
const AGREEMENT: &str = "top-1 agreement";

fn texts(name: &str, comparison: &Comparison) -> Document {
    let mut document = Document::default();
    for candidate in &comparison.candidates {
        let Score { tokens, perplexity, dense_perplexity, .. } = candidate.total;
        let score = &candidate.total;
        let n = tokens as u64;
        let first = document.runs.is_empty();
        let measures = vec![
            measure(KL, "nats per token", bare(score.kl.mean, score.kl_interval), n),
            measure("99th percentile of the KL divergence", "nats per token", bare(score.kl.p99, None), n),
            measure("perplexity, dense", "", bare(dense_perplexity, None), n),
            measure("perplexity", "", bare(perplexity, None), n),
            measure(INCREASE, "as a fraction", bare(score.increase, score.increase_interval), n),
            measure(AGREEMENT, "share of tokens", bare(score.agreement, score.agreement_interval), n),
        ];
        let run = run(name, &candidate.name, first, measures);
        let language = |(language, score): (&String, &Score)| Language {
            language: language.clone(),
            samples: score.tokens as u64,
            kl: Some(bare(score.kl.mean, score.kl_interval)),
            increase: Some(bare(score.increase, score.increase_interval)),
            agreement: Some(bare(score.agreement, score.agreement_interval)),
        };
        if !candidate.languages.is_empty() {
            let rows = candidate.languages.iter().map(language).collect();
            document.languages.push(Languages { run: run.name.clone(), rows });
        }
        if !candidate.layers.is_empty() {
            let rows = candidate.layers.iter().map(|error| Layer {
                layer: error.layer.clone(),
                output_snr_db: decibels(error.output_loss),
                arriving_snr_db: error.snr_db.is_finite().then_some(error.snr_db),
                ..Layer::default()
            });
            document.layers.push(Layers { run: run.name.clone(), rows: rows.collect() });
        }
        document.runs.push(run);
    }
    if document.runs.is_empty() {
        let dense = &comparison.dense.total;
        let perplexity = measure("perplexity", "", bare(dense.perplexity, dense.interval), dense.tokens as u64);
        document.runs.push(run(name, name, true, vec![perplexity]));
    }
    document
}

fn run(name: &str, candidate: &str, first: bool, measures: Vec<Measure>) -> Run {
    let name = if first { name.to_owned() } else { format!("{name}, {candidate}") };
    Run { name, measures, ..Run::default() }
}

fn measure(name: &str, unit: &str, number: Number, n: u64) -> Measure {
    Measure { name: name.to_owned(), unit: unit.to_owned(), number: Number { n: Some(n), ..number } }
}

/// A measured number.
fn bare(value: f64, bounds: Option<Interval>) -> Number {
    Number { interval: bounds.map(interval), ..Number::new(value, quench_report::Evidence::Measured) }
}

fn interval(Interval { low, high, level }: Interval) -> quench_report::Interval {
    quench_report::Interval { low, high, level }
}

fn layer(entry: &Entry) -> Layer {
    Layer {
        layer: entry.layer.clone(),
        scheme: entry.scheme.clone(),
        method: entry.method.clone(),
        bits: Some(entry.bits_per_weight),
        weight_snr_db: entry.weight_snr_db,
        output_snr_db: entry.output_snr_db(),
        ..Layer::default()
    }
}

/// A part of the energy as a signal-to-noise ratio.
fn decibels(loss: f64) -> Option<f64> {
    (loss > 0.0).then(|| -10.0 * loss.log10())
}

fn gate(result: &GateResult) -> quench_report::Gate {
    let verdict = match result.passed {
        true => quench_report::Verdict::Passed,
        false => quench_report::Verdict::Failed,
    };
    let remark = match (&result.reason, result.conclusive()) {
        (Some(reason), _) => reason.clone(),
        (None, Some(false)) => "not conclusive: the limit is inside the interval".to_owned(),
        _ => String::new(),
    };
    let found = result.measured.map(|value| bare(value, result.interval));
    let (name, language, limit) = (result.gate.to_string(), result.language.clone(), result.limit);
    quench_report::Gate { name, language, limit, found, verdict, remark }
}

fn name(folder: &std::path::Path) -> String {
    folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}
