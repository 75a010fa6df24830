//! What `quench quantize` says in the end.

use std::path::Path;

use quench::eval::{CandidateScore, Comparison, Measured, gate_table};
use quench::job::{CalibrationSize, Report};
use quench::models::Kind;

use crate::format::{bytes, change, count, number, percent, seconds};
use crate::layers::{self, Layer};
use crate::{model, table};

/// The report in words and tables; every layer if `verbose`.
pub fn report(report: &Report, verbose: bool) -> String {
    let mut text = format!("{}{}\n", layers::table(&planned(report), verbose), layers::LEGEND);
    text.push_str(&table::aligned(&figures(report)));
    if let Some(comparison) = &report.comparison {
        // What one language model loses on one text is among the figures.
        let told = matches!(comparison, Measured::Texts(texts) if texts.candidates.len() == 1 && texts.dense.languages.is_empty());
        if !told {
            text.push_str(&format!("\n{}", comparison.table()));
        }
        if let (true, Some(layers)) = (verbose, comparison.layer_table()) {
            text.push_str(&format!(
                "\nOutput of each layer against the dense model, on the evaluation text:\n\n{layers}"
            ));
        }
    }
    if let Some(cascade) = &report.cascade {
        text.push_str(&format!("\nCascade or direct? {}.\n", cascade.sentence));
    }
    if !report.gates.is_empty() {
        text.push_str(&format!("\n{}", gate_table(&report.gates)));
    }
    text
}

/// Where the model is, and what to do with it.
pub fn next(report: &Report, output: &Path, kind: Kind) -> String {
    let failed = report.gates.iter().filter(|gate| !gate.passed).count();
    let saved = match failed {
        0 => "saved in".to_owned(),
        failed => format!("{} failed; saved, and marked as failed, in", count(failed, "gate")),
    };
    let folder = output.display();
    let use_it = match kind {
        Kind::Decoder => format!("quench generate {folder} --prompt 'TEXT'"),
        Kind::Encoder | Kind::ResNet => {
            format!("quench eval {folder} --against {} --data PATH", model::spelled(&report.model))
        }
    };
    format!("\n{saved} {folder}\n  {use_it}\n  quench inspect {folder}\n")
}

fn planned(report: &Report) -> Vec<Layer> {
    let layers = report.plan.layers.iter().map(|planned| {
        let entry = report.ledger.last(&planned.name);
        // As it was done: the plan may leave a curvature open.
        let stages = report.ledger.entries.iter().filter(|entry| entry.layer == planned.name);
        let stages: Vec<&str> = stages.map(|entry| entry.scheme.as_str()).collect();
        Layer {
            name: planned.name.clone(),
            shape: planned.shape.to_vec(),
            scheme: if stages.is_empty() { "dense".to_owned() } else { stages.join(" > ") },
            method: entry.map(|entry| entry.method.clone()).unwrap_or_default(),
            bits_per_weight: entry.map(|entry| entry.bits_per_weight),
            weight_snr_db: entry.and_then(|entry| entry.weight_snr_db),
            output_snr_db: entry.and_then(|entry| entry.output_snr_db()),
        }
    });
    layers.collect()
}

fn figures(report: &Report) -> Vec<[String; 2]> {
    let size = &report.size;
    let mut lines: Vec<[String; 2]> = Vec::new();
    let mut line = |name: &str, value: String| lines.push([name.to_owned(), value]);
    line("size", format!("{} -> {}", bytes(size.dense_bytes), bytes(size.bytes)));
    line(
        "compression",
        format!("{:.2} times ({:.2} times against 32-bit weights)", size.compression, size.compression_f32),
    );
    line(
        "bits per weight",
        format!(
            "{:.3} in the quantized layers{}, {:.3} over the whole model",
            size.bits_per_weight,
            match size.decoded_bits_per_weight {
                decoded if decoded == size.bits_per_weight => String::new(),
                decoded => format!(", {decoded:.3} once decoded"),
            },
            size.bits_per_parameter
        ),
    );
    for done in report.transforms.iter().filter(|done| done.applied || done.gain.is_some()) {
        let gain = done.gain.map_or(String::new(), |gain| format!(", rounding gains {gain:.2} dB"));
        line(&done.transform.to_string(), if done.applied { format!("done{gain}") } else { format!("not done{gain}") });
    }
    if report.calibration.samples > 0 {
        line("calibration", calibration(&report.calibration));
    }
    match &report.comparison {
        Some(Measured::Texts(comparison)) => {
            lines.extend(comparison.candidates.first().into_iter().flat_map(|candidate| loss(comparison, candidate)));
        }
        Some(Measured::Images(_) | Measured::Sentences(_)) => {}
        None => line("loss", "not measured; --eval PATH measures it".to_owned()),
    }
    let times = [
        ("data", report.seconds.data),
        ("quantize", report.seconds.quantize),
        ("evaluate", report.seconds.evaluate),
        ("save", report.seconds.save),
    ];
    let times = times.iter().filter(|(_, time)| *time > 0.0).map(|(name, time)| format!("{name} {}", seconds(*time)));
    lines.push(["time".to_owned(), times.collect::<Vec<_>>().join(", ")]);
    lines
}

fn calibration(calibration: &CalibrationSize) -> String {
    let CalibrationSize { unit, samples, tokens, languages } = calibration;
    if *tokens == 0 {
        return count(*samples, unit);
    }
    let parts: Vec<String> = languages.iter().map(|(name, tokens)| format!("{name} {tokens}")).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!("{}, {tokens} tokens{parts}", count(*samples, unit))
}

fn loss(comparison: &Comparison, candidate: &CandidateScore) -> [[String; 2]; 3] {
    let score = &candidate.total;
    let interval = score.increase_interval.map(|interval| {
        format!(" ({:.0} % interval {} to {})", 100.0 * interval.level, change(interval.low), change(interval.high))
    });
    let perplexity = format!(
        "{} -> {}, {}{} on {} tokens",
        number(comparison.dense.total.perplexity),
        number(score.perplexity),
        change(score.increase),
        interval.unwrap_or_default(),
        score.tokens
    );
    let (mean, median, p99) = (number(score.kl.mean), number(score.kl.median), number(score.kl.p99));
    [
        ["perplexity".to_owned(), perplexity],
        ["KL divergence".to_owned(), format!("mean {mean}, median {median}, 99th percentile {p99} nats per token")],
        ["top-1 agreement".to_owned(), percent(score.agreement)],
    ]
}
