//! Finds the lines of a text that mean nearly the same as a query, with a quantized sentence encoder.
//!
//!     cargo run --release --example embed -- MODEL_FOLDER TEXT_FILE "a query" ["another"]
//!
//! - `MODEL_FOLDER`: a BERT with its tokenizer, all-MiniLM-L6-v2 for example; a dense one is quantized to 8 bits in memory,
//!   one that `quench quantize` has saved is taken as it is
//! - `TEXT_FILE`: one sentence in each line

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use quench::job::recipes;
use quench::models::{Encoder, Tokenizer};
use quench::nn::Model;
use quench::quantize::{Recipe, run};

/// How many neighbours are shown.
const NEAREST: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, queries @ ..] = &arguments[..] else {
        return Err("usage: embed MODEL_FOLDER TEXT_FILE QUERY...".into());
    };
    if queries.is_empty() {
        return Err("what shall be looked for? usage: embed MODEL_FOLDER TEXT_FILE QUERY...".into());
    }
    let (tokenizer, encoder) = (Tokenizer::open(Path::new(model))?, open(Path::new(model))?);
    let text = fs::read_to_string(text).map_err(|error| format!("{text}: {error}"))?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err("the text has no lines".into());
    }

    // Vectors of length 1, so that a product of two is the cosine of their angle.
    let vectors = encoder.embed_texts(&tokenizer, &lines, 32)?; // [lines, hidden]
    let asked = encoder.embed_texts(&tokenizer, queries, 32)?; // [queries, hidden]
    let cosines = asked.matmul(vectors.transpose()); // [queries, lines]
    let cosines = cosines.into_data().try_into_vec::<f32>().map_err(|error| format!("{error:?}"))?;
    for (query, cosines) in queries.iter().zip(cosines.chunks_exact(lines.len())) {
        let mut order: Vec<usize> = (0..lines.len()).collect();
        order.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
        println!("{query}");
        for &line in order.iter().take(NEAREST) {
            println!("  {:.3}  {}", cosines[line], lines[line]);
        }
    }
    Ok(())
}

/// The encoder of a folder, quantized.
fn open(folder: &Path) -> Result<Encoder, Box<dyn Error>> {
    let mut encoder = Encoder::open(folder, &Device::default())?;
    if encoder.source().manifest().layers.is_empty() {
        let recipe: Recipe = recipes::find("rtn-int8")?;
        let plan = recipe.plan(&encoder.layers())?;
        // Rounding needs no calibration, so there are no batches.
        run(&mut encoder, &plan, &[], &mut (), &mut |_| ControlFlow::Continue(()))?;
    }
    encoder.load_all()?;
    Ok(encoder)
}
