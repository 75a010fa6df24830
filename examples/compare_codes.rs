//! Prints the table of codes by bits for one model of any kind, as it stands in `docs/results.md`.
//!
//!     cargo run --release --example compare_codes -- MODEL_FOLDER CALIBRATION EVALUATION[,EVALUATION...] [BITS...]

use std::error::Error;
use std::ops::ControlFlow;

use quench::eval::Measured;
use quench::job::{Job, Overwrite, Report};
use quench::models::Kind;
use quench::models::text::TextSource;
use quench::quantize::Recipe;

/// Names, the code with `*` for its width, and what else a rule says.
const CODES: [(&str, &str, &str); 5] = [
    ("uniform, RTN", "int*", "method = \"rtn\""),
    ("uniform, GPTQ", "int*", "refit = false\ndescent = 0\npairs = 0\nfeedback = 0"),
    ("slog, RTN", "slog*:mu*", "method = \"rtn\""),
    ("slog, GPTQ", "slog*:mu*", "refit = false\ndescent = 0\npairs = 0\nfeedback = 0"),
    ("published log", "plog*", "method = \"rtn\"\nsearch = \"absmax\"\ngroup = \"tensor\""),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, calibration, evaluation, bits @ ..] = &arguments[..] else {
        return Err("usage: compare_codes MODEL_FOLDER CALIBRATION EVALUATION[,EVALUATION...] [BITS...]".into());
    };
    // A sentence has few tokens.
    let samples = if Kind::of(model.as_ref())? == Kind::Encoder { 512 } else { 128 };
    let bits: Vec<u32> = bits.iter().map(|bits| bits.parse()).collect::<Result<_, _>>()?;
    let bits = if bits.is_empty() { (2..=8).collect() } else { bits };
    let work = std::env::temp_dir().join(format!("quench-codes-{}", std::process::id()));
    for (index, (bits, code)) in bits.iter().flat_map(|bits| CODES.map(|code| (*bits, code))).enumerate() {
        let (name, code, rule) = code;
        let code = code.replacen('*', &bits.to_string(), 1);
        let group = if rule.contains("group") { "" } else { "group = 64\n" };
        let recipe = format!(
            "name = \"{name}\"\n[calibration]\nsamples = {samples}\nbatch = 32\nsequential = false\n[evaluation]\nbatch = 32\n[[rules]]\nlayers = \"*\"\ncode = \"{code}\"\n{group}{rule}\n"
        );
        let job = Job {
            model: model.into(),
            output: work.join("out"),
            recipe: Recipe::from_toml(&recipe)?,
            plan: None,
            device: Default::default(),
            calibration: vec![TextSource::new(calibration)],
            evaluation: evaluation.split(',').map(TextSource::new).collect(),
            overwrite: Overwrite::Force,
            resume: false,
            coding: Default::default(),
        };
        let report = job.run(&mut |_| ControlFlow::Continue(()))?;
        let cells = cells(&report);
        if index == 0 {
            let names: Vec<&str> = cells.iter().map(|(name, _, _)| name.as_str()).collect();
            let dense: Vec<&str> = cells.iter().map(|(_, dense, _)| dense.as_str()).collect();
            println!("| bits | code | bits per weight | {} |", names.join(" | "));
            println!("| ---: | --- | ---: |{}", " ---: |".repeat(names.len()));
            println!("| | dense | | {} |", dense.join(" | "));
        }
        let values: Vec<&str> = cells.iter().map(|(_, _, value)| value.as_str()).collect();
        println!("| {bits} | {name} | {:.3} | {} |", report.size.bits_per_weight, values.join(" | "));
    }
    Ok(std::fs::remove_dir_all(work)?)
}

/// What was measured: name, dense model, result.
fn cells(report: &Report) -> Vec<(String, String, String)> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let cell = |name: &str, dense: String, value: String| (name.to_owned(), dense, value);
    match &report.comparison {
        Some(Measured::Texts(texts)) => {
            let score = &texts.candidates[0].total;
            vec![
                cell("perplexity", format!("{:.3}", score.dense_perplexity), format!("{:.3}", score.perplexity)),
                cell("mean KL", "0".into(), format!("{:.5}", score.kl.mean)),
                cell("top-1 agreement", percent(1.0), percent(score.agreement)),
            ]
        }
        Some(Measured::Images(images)) => {
            let score = &images.candidates[0];
            vec![
                cell("top-1", percent(images.dense.top_1), percent(score.accuracy.top_1)),
                cell("agreement", percent(1.0), percent(score.agreement)),
                cell("mean KL", "0".into(), format!("{:.5}", score.kl.mean)),
            ]
        }
        Some(Measured::Sentences(sentences)) => {
            let score = &sentences.candidates[0];
            let tasks = sentences.tasks.iter().zip(&score.tasks);
            let tasks =
                tasks.map(|(task, own)| cell(&task.name, format!("{:.4}", task.score), format!("{:.4}", own.score)));
            let neighbours = score.vectors.neighbours.iter();
            let neighbours = neighbours.map(|kept| cell("kNN-10 overlap", percent(1.0), percent(kept.overlap)));
            tasks.chain(neighbours).collect()
        }
        None => Vec::new(),
    }
}
