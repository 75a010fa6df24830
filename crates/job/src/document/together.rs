//! What several runs show together: rates and distortions, and what was found at which setting.

use std::collections::BTreeMap;

use quench_format::{Group, Scheme};
use quench_metrics::Source;
use quench_report::{
    Bound, Column, Document, Evidence, Explorer, Parameter, RateAxis, RatePoint, Rates, Row, Run, Sweep,
};

use super::{AGREEMENT, INCREASE, KL, name};
use crate::Report;

/// The most bits for which a quantizer of fixed length is solved.
const WIDEST: u32 = 12;

/// Sections that need more than one input: the weights of all layers beside bounds of theory, divergence over size, and an
/// explorer for each method that was tried with several widths or group sizes, and for each sweep.
///
/// - `document`: what [`report`](super::report), [`measured`](super::measured) and [`predictions`](super::predictions) gave
/// - `reports`: the jobs among them
pub fn joint(document: &Document, reports: &[Report]) -> Document {
    let rates = [weights(reports), divergence(document)].into_iter().flatten().collect();
    let explorers = settings(document, reports).into_iter().chain(document.sweeps.iter().map(steps)).collect();
    Document { rates, explorers, ..Document::default() }
}

/// Bounds for a Gaussian source, as curves from 1 bit to `last`.
pub(super) fn gaussian_bounds(last: f64) -> Vec<Bound> {
    let last = last.ceil().clamp(2.0, f64::from(WIDEST));
    let curve = |of: &dyn Fn(f64) -> f64| {
        (0..=24).map(|k| 1.0 + (last - 1.0) * f64::from(k) / 24.0).map(|r| (r, of(r))).collect()
    };
    let widths = 1..=last as u32;
    let bound = |name: &str, points| Bound { name: name.to_owned(), evidence: Evidence::Certified, points };
    vec![
        bound("Shannon, Gaussian", curve(&|rate| Source::Gaussian.shannon_db(rate))),
        bound("entropy-coded, Gaussian", curve(&|rate| Source::Gaussian.entropy_coded_db(rate))),
        bound("Lloyd-Max, Gaussian", widths.map(|b| (f64::from(b), Source::Gaussian.lloyd_max_db(b))).collect()),
    ]
}

/// Every layer of every job at its bits.
fn weights(reports: &[Report]) -> Option<Rates> {
    let mut points = Vec::new();
    for report in reports {
        let run = name(&report.output);
        for entry in report.plan.layers.iter().filter_map(|planned| report.ledger.last(&planned.name)) {
            let Some(snr) = entry.weight_snr_db else { continue };
            points.push(RatePoint {
                series: entry.method.clone(),
                name: format!("{run}: {}", entry.layer),
                rate: entry.bits_per_weight,
                quality: quench_report::Number::new(snr, Evidence::Measured),
            });
        }
    }
    let last = points.iter().map(|point| point.rate).reduce(f64::max)?;
    Some(Rates {
        title: "Weights of all layers".to_owned(),
        rate: RateAxis::new("rate", "bits per weight"),
        quality: RateAxis::new("signal-to-noise ratio of the weights", "dB"),
        bounds: gaussian_bounds(last),
        points,
    })
}

/// The divergence of every model over its size.
fn divergence(document: &Document) -> Option<Rates> {
    let mut points = Vec::new();
    for run in &document.runs {
        let (Some(size), Some(kl)) = (&run.size, found(run, KL)) else { continue };
        let (series, name) = ("all evaluation data".to_owned(), run.name.clone());
        points.push(RatePoint { series, name, rate: size.bits_per_parameter, quality: kl.clone() });
    }
    for prediction in &document.predictions {
        let Some(rate) = prediction.bits else { continue };
        for quality in [Some(&prediction.predicted), prediction.measured.as_ref()].into_iter().flatten() {
            let (series, name) = ("beside a prediction".to_owned(), prediction.name.clone());
            let series = if quality.evidence == Evidence::Predicted { "by curvature".to_owned() } else { series };
            points.push(RatePoint { series, name, rate, quality: quality.clone() });
        }
    }
    (points.len() > 1).then(|| Rates {
        title: "Divergence over size".to_owned(),
        rate: RateAxis::new("size", "bits per parameter"),
        quality: RateAxis::new("mean KL divergence", "nats per label").logarithmic(),
        bounds: Vec::new(),
        points,
    })
}

/// A job by its settings: the width of its code and the columns of a group, where they are the same in all layers.
fn setting(report: &Report) -> Option<(String, [f64; 2])> {
    let mut entries = report.plan.layers.iter().filter_map(|planned| report.ledger.last(&planned.name));
    let first = entries.next()?;
    if entries.any(|entry| (&entry.scheme, &entry.method) != (&first.scheme, &first.method)) {
        return None;
    }
    let Scheme { code, group: Group::Columns(columns), .. } = first.scheme.parse().ok()? else { return None };
    Some((first.method.clone(), [f64::from(code.bits()), f64::from(columns.get())]))
}

/// Bits and columns of a group, and what came of them.
type Setting<'a> = ([f64; 2], &'a Run);

fn settings(document: &Document, reports: &[Report]) -> Vec<Explorer> {
    let mut found_of: BTreeMap<(String, String), Vec<Setting<'_>>> = BTreeMap::new();
    for report in reports {
        let Some((method, at)) = setting(report) else { continue };
        let output = name(&report.output);
        let Some(run) = document.runs.iter().find(|run| run.name == output) else { continue };
        let rows = found_of.entry((method, name(&report.model))).or_default();
        // Of two jobs with the same setting, the first.
        if rows.iter().all(|(other, _)| *other != at) {
            rows.push((at, run));
        }
    }
    found_of
        .into_iter()
        .filter(|(_, rows)| rows.len() > 1)
        .map(|((method, model), rows)| explorer(&format!("{method} on {model}"), &rows))
        .collect()
}

fn explorer(title: &str, rows: &[Setting<'_>]) -> Explorer {
    let column = |name: &str, unit: &str, logarithmic| Column {
        name: name.to_owned(),
        unit: unit.to_owned(),
        evidence: Evidence::Measured,
        logarithmic,
    };
    let parameter =
        |name: &str, unit: &str, logarithmic| Parameter { name: name.to_owned(), unit: unit.to_owned(), logarithmic };
    // A curve over a logarithm leaves out what is not above 0, as an increase that is a decrease.
    let columns = vec![
        column(KL, "nats per token", true),
        column(INCREASE, "as a fraction", false),
        column(AGREEMENT, "share of tokens", false),
        column("size", "bits per parameter", false),
        column("quantized layers", "bits per weight", false),
        column("compression", "times", false),
    ];
    let row = |(at, run): &Setting<'_>| {
        let value = |name| found(run, name).map(|number| number.value).filter(|value| value.is_finite());
        let size = run.size.as_ref();
        let found = vec![
            value(KL),
            value(INCREASE),
            value(AGREEMENT),
            size.map(|size| size.bits_per_parameter),
            size.map(|size| size.bits_per_weight),
            size.map(|size| size.compression),
        ];
        Row { at: at.to_vec(), found }
    };
    let mut rows: Vec<Row> = rows.iter().map(row).collect();
    rows.sort_by(|a, b| a.at.partial_cmp(&b.at).unwrap_or(std::cmp::Ordering::Equal));
    let parameters = vec![parameter("bits", "of a code", false), parameter("group size", "columns", true)];
    Explorer { title: title.to_owned(), parameters, columns, rows }
}

/// A sweep, to be looked through step by step.
fn steps(sweep: &Sweep) -> Explorer {
    let column = |name: &str| Column {
        name: name.to_owned(),
        unit: sweep.unit.clone(),
        evidence: Evidence::Measured,
        logarithmic: false,
    };
    let row = |(at, point): (usize, &quench_report::Step)| Row {
        at: vec![point.step],
        found: vec![Some(point.metric), Some(point.error), sweep.monotone.get(at).copied()],
    };
    Explorer {
        title: format!("{}, by its step", sweep.title),
        parameters: vec![Parameter { name: "step δ".to_owned(), unit: String::new(), logarithmic: true }],
        columns: vec![column(&sweep.metric), column("standard error"), column("monotone fit")],
        rows: sweep.points.iter().enumerate().map(row).collect(),
    }
}

fn found<'a>(run: &'a Run, name: &str) -> Option<&'a quench_report::Number> {
    run.measures.iter().find(|measure| measure.name == name).map(|measure| &measure.number)
}
