//! Prints the table of methods by bits for one model, as it stands in `docs/results.md`.
//!
//!     cargo run --example compare_methods -- MODEL_FOLDER CALIBRATION.txt EVALUATION.txt [BITS...]

use std::error::Error;
use std::ops::ControlFlow;

use quench::job::{Job, Overwrite, Report};
use quench::models::text::TextSource;
use quench::quantize::Recipe;

/// Names, and what a rule says for each; the cascade is measured beside direct quantization in one run.
const METHODS: [(&str, &str); 6] = [
    ("RTN, absmax", "method = \"rtn\"\nsearch = \"absmax\""),
    ("RTN, MSE scales", "method = \"rtn\""),
    ("GPTQ, natural order", "order = \"natural\""),
    ("GPTQ, act-order, static groups", "order = \"static\""),
    ("GPTQ, act-order, stored", "order = \"activation\""),
    ("cascade int8 to final, GPTQ static", "order = \"static\"\ncascade = [\"int8\"]"),
];

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
        for (name, rule) in METHODS {
            let recipe = format!(
                "name = \"{name}\"\n[[rules]]\nlayers = \"*\"\ncode = \"int{bits}\"\ngroup = {group}\n{rule}\n"
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
