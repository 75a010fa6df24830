//! Prints the table of methods by bits for one model, as it stands in `docs/results.md`.
//!
//!     cargo run --example compare_methods -- MODEL_FOLDER CALIBRATION.txt EVALUATION.txt [BITS...]

use std::error::Error;
use std::ops::ControlFlow;

use quench::job::{Job, Overwrite, Report};
use quench::models::text::TextSource;
use quench::quantize::Recipe;

/// GPTQ as it was published.
const PLAIN: &str = "refit = false\ndescent = 0\npairs = 0\nrestarts = 0\nfeedback = 0\n";

/// Names, what a rule says for each, and whether layers are calibrated in sequence; the cascade is measured beside direct
/// quantization in one run.
const METHODS: [(&str, &str, bool); 13] = [
    ("RTN, absmax", "method = \"rtn\"\nsearch = \"absmax\"", false),
    ("RTN, MSE scales", "method = \"rtn\"", false),
    ("GPTQ, natural order", "order = \"natural\"", false),
    ("GPTQ, act-order, static groups", "", false),
    ("GPTQ, act-order, stored", "order = \"activation\"", false),
    ("static groups, refit", "refit = true", false),
    ("static groups, descent", "descent = 4", false),
    ("static groups, refit and descent", "refit = true\ndescent = 4", false),
    ("the same, pairs and restarts", SOLVER, false),
    ("the same, in sequence", SOLVER, true),
    ("not in sequence, feedback", "feedback = 1.0", false),
    ("in sequence, feedback: the default", "feedback = 1.0", true),
    ("cascade int8 to final", "feedback = 1.0\ncascade = [\"int8\"]", true),
];

/// The whole solver of one layer.
const SOLVER: &str = "refit = true\ndescent = 4\npairs = 2\nrestarts = 2";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, calibration, evaluation, bits @ ..] = &arguments[..] else {
        return Err("usage: compare_methods MODEL_FOLDER CALIBRATION.txt EVALUATION.txt [BITS...]".into());
    };
    let bits: Vec<u32> = bits.iter().map(|bits| bits.parse()).collect::<Result<_, _>>()?;
    let bits = if bits.is_empty() { vec![4, 3, 2] } else { bits };
    let work = std::env::temp_dir().join(format!("quench-compare-{}", std::process::id()));
    println!(
        "| bits | group | method | bits per weight | perplexity | KL mean | KL median | KL 99 % | top-1 agreement |"
    );
    println!("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut dense = None;
    for bits in bits {
        // Two bits need the smaller groups that other tools take too.
        let group = if bits == 2 { 64 } else { 128 };
        for (name, rule, sequential) in METHODS {
            let rule = with_defaults(rule);
            let recipe = format!(
                "name = \"{name}\"\n[calibration]\nsequential = {sequential}\n[[rules]]\nlayers = \"*\"\ncode = \"int{bits}\"\ngroup = {group}\n{rule}\n"
            );
            let job = Job {
                model: model.into(),
                output: work.join("out"),
                recipe: Recipe::from_toml(&recipe)?,
                plan: None,
                device: Default::default(),
                calibration: vec![TextSource::new(calibration)],
                evaluation: vec![TextSource::new(evaluation)],
                overwrite: Overwrite::Force,
                resume: false,
                coding: Default::default(),
            };
            let report = job.run(&mut |_| ControlFlow::Continue(()))?;
            dense = Some(row(bits, group, name, &report));
            if let Some(verdict) = &report.cascade {
                eprintln!("int{bits}: {}", verdict.sentence);
            }
        }
    }
    if let Some(dense) = dense {
        println!("\nDense perplexity {dense:.3}.");
    }
    Ok(std::fs::remove_dir_all(work)?)
}

/// A rule in which the parts of the solver that it does not name are off; with feedback, all of them are on.
fn with_defaults(rule: &str) -> String {
    if rule.contains("feedback") {
        return format!("{rule}\n{SOLVER}");
    }
    let named = |line: &&str| rule.contains(line.split(' ').next().unwrap_or_default());
    let off: Vec<&str> = PLAIN.lines().filter(|line| !named(line)).collect();
    if rule.contains("rtn") { rule.to_owned() } else { format!("{rule}\n{}", off.join("\n")) }
}

/// Prints one line, and gives the dense perplexity.
fn row(bits: u32, group: u32, name: &str, report: &Report) -> f64 {
    let Some(score) = report.comparison.as_ref().and_then(|measured| measured.texts()?.candidates.first()) else {
        return f64::NAN;
    };
    let total = &score.total;
    println!(
        "| {bits} | {group} | {name} | {:.3} | {:.3} | {:.5} | {:.5} | {:.4} | {:.2} % |",
        report.size.bits_per_weight,
        total.perplexity,
        total.kl.mean,
        total.kl.median,
        total.kl.p99,
        100.0 * total.agreement
    );
    total.dense_perplexity
}
