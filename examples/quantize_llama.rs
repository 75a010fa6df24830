//! Quantizes a Hugging Face folder from Rust, measures what was lost, and saves the result.
//!
//!     cargo run --example quantize_llama -- MODEL_FOLDER OUTPUT_FOLDER CALIBRATION.txt EVALUATION.txt [RECIPE]

use std::error::Error;
use std::ops::ControlFlow;

use quench::job::{Job, Overwrite, recipes};
use quench::models::text::TextSource;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, output, calibration, evaluation, recipe @ ..] = &arguments[..] else {
        return Err("usage: quantize_llama MODEL_FOLDER OUTPUT_FOLDER CALIBRATION.txt EVALUATION.txt [RECIPE]".into());
    };
    let job = Job {
        model: model.into(),
        output: output.into(),
        recipe: recipes::find(recipe.first().map_or(recipes::DEFAULT, String::as_str))?,
        plan: None,
        device: Default::default(),
        calibration: vec![TextSource::new(calibration)],
        evaluation: vec![TextSource::new(evaluation)],
        overwrite: Overwrite::Refuse,
        resume: false,
        coding: Default::default(),
    };
    let report = job.run(&mut |_| ControlFlow::Continue(()))?;
    println!("{:.2} times smaller, {:.3} bits per weight", report.size.compression, report.size.bits_per_weight);
    let comparison = report.comparison.as_ref().and_then(|measured| measured.texts());
    for score in comparison.iter().flat_map(|comparison| &comparison.candidates) {
        let (before, after) = (score.total.dense_perplexity, score.total.perplexity);
        println!("{}: perplexity {before:.3} before, {after:.3} after; KL {:.5}", score.name, score.total.kl.mean);
    }
    Ok(())
}
