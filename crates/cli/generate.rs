//! `quench generate`: a text goes on.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::bail;
use burn::tensor::Device;
use quench::models::generate::{Sampling, generate};
use quench::nn::Model;

use crate::args::Generate;
use crate::failure::Outcome;
use crate::{interrupt, model};

/// Tokens of the continuations that are shown side by side.
const SHORT: usize = 48;

/// Streams the prompt and its continuation to standard output.
pub fn run(arguments: &Generate) -> anyhow::Result<Outcome> {
    let prompt = match &arguments.prompt {
        Some(prompt) => prompt.as_str(),
        None if model::is_spark(&arguments.model) => model::SPARK_PROMPT,
        None => bail!("there is nothing to continue; give --prompt TEXT"),
    };
    let folder = model::folder(&arguments.model, false)?;
    let device = arguments.device.resolve()?;
    let (mut decoder, tokenizer) = model::load(&folder, &device)?;
    decoder.set_activations(arguments.activations);
    let sampling = Sampling {
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: Some(arguments.top_p),
        seed: arguments.seed,
        max_tokens: arguments.max_tokens,
    };

    let ids = tokenizer.encode(prompt, true)?;
    let mut stream = tokenizer.stream();
    // The stream has seen the prompt, so that the first new token gets the space before it.
    for id in &ids {
        stream.push(*id)?;
    }
    let mut out = io::stdout().lock();
    let mut written: anyhow::Result<()> = Ok(());
    // The prompt is shown with the first token: one that cannot be continued is an error and nothing else.
    let mut before = prompt;
    generate(&decoder, &ids, &sampling, tokenizer.eos(), |id| {
        written = stream.push(id).map_err(Into::into).and_then(|text| {
            write!(out, "{}{}", std::mem::take(&mut before), text.unwrap_or_default())?;
            Ok(out.flush()?)
        });
        if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    written?;
    writeln!(out, "{before}")?;
    Ok(Outcome::Done)
}

/// What the dense and the quantized model make of a prompt, each taking the likeliest token. Ctrl-C cuts them short.
pub fn side_by_side(dense: &Path, quantized: &Path, prompt: &str, device: &Device) -> anyhow::Result<String> {
    let mut text = format!("\nprompt     {prompt}\n");
    for (name, folder) in [("dense", dense), ("quantized", quantized)] {
        let (decoder, tokenizer) = model::load(folder, device)?;
        let sampling = Sampling { max_tokens: SHORT, ..Sampling::default() };
        let ids = tokenizer.encode(prompt, true)?;
        let new = generate(&decoder, &ids, &sampling, tokenizer.eos(), |_| interrupt::flow())?;
        let whole = tokenizer.decode(&[ids, new].concat())?;
        let continued = whole.strip_prefix(prompt).unwrap_or(&whole).trim();
        text.push_str(&format!("{name:<9}  ... {}\n", continued.replace('\n', "\n               ")));
    }
    Ok(text)
}
