//! `quench eval`: perplexity, and the distance from a dense model.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::bail;
use quench::eval::{Candidate, Comparison, ModelScore, Options, Protocol, Text, compare, perplexity};
use quench::models::text::TextSource;
use quench::models::{Tokenizer, open};
use quench::nn::Model;
use serde::Serialize;

use crate::args::Eval;
use crate::failure::Outcome;
use crate::json::Target;
use crate::model::{self, Texts};
use crate::progress::Progress;
use crate::{table, texts};

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Scores {
    version: &'static str,
    model: PathBuf,
    against: Option<PathBuf>,
    options: Options,
    #[serde(flatten)]
    scores: Measured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Measured {
    /// One model alone.
    Scores(ModelScore),
    /// A model against its dense original.
    Comparison(Comparison),
}

/// Scores the texts and prints a table.
pub fn run(arguments: &Eval) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let sources = sources(arguments)?;
    let folder = model::folder(&arguments.model)?;
    let against = arguments.against.as_deref().map(model::folder).transpose()?;
    let device = arguments.device.resolve()?;

    let tokenizer = Tokenizer::open(&folder)?;
    let texts = tokens(&sources, &tokenizer)?;
    let protocol = Protocol {
        length: arguments.length,
        stride: arguments.stride.unwrap_or(arguments.length),
        windows: Some(arguments.windows),
        bos: tokenizer.adds_bos(),
    };
    let options = Options { protocol, bos: tokenizer.bos(), ..Options::default() };
    let mut model = open(&folder, &device)?;
    model.set_activations(arguments.activations);
    let context = model.config().max_positions;
    if arguments.length > context {
        bail!(
            "windows of {} tokens are longer than the context of the model; give --length {context} or less",
            arguments.length
        );
    }
    let mut progress = Progress::new(arguments.quiet);
    let mut begun = false;
    let mut observe = |done, of| {
        if !std::mem::replace(&mut begun, true) {
            progress.phase("evaluate", of);
        }
        progress.step(done, "");
        // Nothing is kept of an evaluation, so Ctrl-C just ends the program.
        ControlFlow::Continue(())
    };
    let scores = match &against {
        None => Measured::Scores(perplexity(&mut model, &texts, &options, &device, &mut observe)?),
        Some(dense) => {
            let mut candidates = [Candidate { name: model::name(&arguments.model), model: &mut model }];
            let mut dense = open(dense, &device)?;
            dense.set_activations(arguments.activations);
            Measured::Comparison(compare(&mut dense, &mut candidates, &texts, &options, &device, &mut observe)?)
        }
    };
    progress.end();

    let text = match &scores {
        Measured::Scores(scores) => scores.table(),
        Measured::Comparison(comparison) if arguments.verbose => {
            format!("{}\n{}", comparison.table(), comparison.layer_table())
        }
        Measured::Comparison(comparison) => comparison.table(),
    };
    table::print(&text)?;
    if let Some(json) = json {
        let (model, against) = (arguments.model.clone(), arguments.against.clone());
        json.write(&Scores { version: env!("CARGO_PKG_VERSION"), model, against, options, scores })?;
    }
    Ok(Outcome::Done)
}

fn sources(arguments: &Eval) -> anyhow::Result<Vec<TextSource>> {
    let with_spark =
        [Some(&arguments.model), arguments.against.as_ref()].into_iter().flatten().any(|model| model::is_spark(model));
    match (&arguments.text[..], with_spark) {
        ([], true) => texts::sources(&[model::spark_texts(Texts::Evaluation)?]),
        ([], false) => bail!("there is no text to score; give --text FILE"),
        (named, _) => texts::sources(named),
    }
}

fn tokens(sources: &[TextSource], tokenizer: &Tokenizer) -> anyhow::Result<Vec<Text>> {
    let mut texts = Vec::new();
    for source in sources {
        let mut sequences = Vec::new();
        for text in source.read()? {
            sequences.push(tokenizer.encode(&text, false)?);
        }
        texts.push(Text { language: source.language.clone(), sequences });
    }
    Ok(texts)
}
