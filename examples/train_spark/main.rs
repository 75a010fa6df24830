//! Makes spark, the small model that lives in `crates/models/spark`: its text, its tokenizer, its weights.
//!
//! ```text
//! cargo run --release --example train_spark                 # into crates/models/spark, less than an hour
//! cargo run --release --example train_spark -- FOLDER 200   # elsewhere, in two cycles of 200 steps
//! ```
//!
//! Everything is drawn from one seed: the text from two grammars (`grammar/`), the first weights, the order of learning.
//! The network is Quench's own [`Decoder`](quench::models::Decoder), opened on an autodiff device; what a reader of this
//! example may take from it is how `Model::open` hands out weights to be trained, and `Writer` takes them back.

mod batches;
mod checkpoint;
mod grammar;
mod text;
mod tokenizer;
mod training;

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::Device;
use quench::models::generate::{Sampling, generate};
use quench::models::{Tokenizer, open};
use quench::nn::Model;

use crate::batches::{Stream, windows};
use crate::text::LANGUAGES;
use crate::training::{Schedule, perplexity, train};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const SEED: u64 = 1;
/// The second cycle starts from the best weights of the first, with a new optimizer, and learns what is far apart.
const CYCLES: [Schedule; 2] =
    [Schedule { steps: 1400, short: 0.7, peak: 4e-3 }, Schedule { steps: 800, short: 0.0, peak: 3e-3 }];
/// Bytes of text to learn from, in each language.
const TRAINING: usize = 4_000_000;
/// Bytes of each evaluation text; calibration texts are twice as long.
const HELD_OUT: usize = 40_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(|| PathBuf::from("crates/models/spark"), PathBuf::from);
    let steps = arguments.next().map(|steps| steps.parse::<usize>()).transpose()?;

    let (mut training, mut calibration, mut evaluation) = (Vec::new(), Vec::new(), Vec::new());
    for (seed, language) in (SEED..).zip(&LANGUAGES) {
        let text = language.text(seed, TRAINING, HELD_OUT)?;
        for (part, lines) in [("calibration", &text.calibration), ("evaluation", &text.evaluation)] {
            let part = folder.join("text").join(part);
            fs::create_dir_all(&part)?;
            fs::write(part.join(format!("{}.txt", language.code)), lines.join("\n") + "\n")?;
        }
        training.push(text.training);
        calibration.push(text.calibration);
        evaluation.push(text.evaluation);
    }

    let learned = tokenizer::train(&training.concat(), checkpoint::VOCABULARY)?;
    tokenizer::save(&learned, &folder)?;
    checkpoint::start(&folder, SEED)?;
    let mut stream = Stream::new(&training, &learned, SEED)?;
    println!("{} tokens to learn from, {} weights", stream.len(), checkpoint::weights());

    let held_out = |texts: &[Vec<String>]| -> Result<Vec<_>> {
        texts.iter().map(|lines| windows(lines, &learned, checkpoint::CONTEXT)).collect()
    };
    let judges = held_out(&calibration)?.concat();
    for cycle in CYCLES {
        let cycle = Schedule { steps: steps.unwrap_or(cycle.steps), ..cycle };
        let decoder = open(&folder, &Device::default().autodiff())?;
        train(decoder, &mut stream, &judges, &cycle, &folder)?;
    }

    // What was kept, as anybody will read it: from the file, in bf16.
    let mut decoder = open(&folder, &Device::default())?;
    decoder.load_all()?;
    for (language, windows) in LANGUAGES.iter().zip(held_out(&evaluation)?) {
        println!(
            "{}: held-out perplexity {:.3}, of token frequencies alone {:.1}",
            language.code,
            perplexity(&decoder, &windows)?,
            stream.unigram_perplexity(&windows, checkpoint::VOCABULARY),
        );
    }
    let tokenizer = Tokenizer::open(&folder)?;
    for (seed, prompt) in (SEED..).zip(["One morning, Mia", "Dear Tom,", "Eines Morgens", "Was ist sieben plus"]) {
        let sampling = Sampling { temperature: 0.7, seed, max_tokens: 120, ..Sampling::default() };
        let prompt = tokenizer.encode(prompt, true)?;
        let new = generate(&decoder, &prompt, &sampling, tokenizer.eos(), |_| ControlFlow::Continue(()))?;
        println!("\n{}", tokenizer.decode(&[prompt, new].concat())?);
    }
    Ok(())
}
