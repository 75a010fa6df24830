//! `quench eval`: perplexity, correlation or accuracy, and the distance from a dense model.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::bail;
use quench::eval::Measured;
use quench::job::Measurement;
use quench::models::text::TextSource;
use quench::quantize::recipe::Evaluation;
use serde::{Deserialize, Serialize};

use crate::args::Eval;
use crate::failure::Outcome;
use crate::json::Target;
use crate::model::{self, Texts};
use crate::progress::Progress;
use crate::{table, texts};

/// What `--json` writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scores {
    version: String,
    /// The model that was measured.
    pub model: PathBuf,
    /// The dense one.
    pub against: Option<PathBuf>,
    settings: Evaluation,
    activations: String,
    /// The model beside its dense original; without one, what is called dense is the model itself.
    pub comparison: Measured,
}

/// Measures and prints a table.
pub fn run(arguments: &Eval) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let data = sources(arguments)?;
    let folder = model::folder(&arguments.model, arguments.quiet)?;
    let against = arguments.against.as_deref().map(|against| model::folder(against, arguments.quiet)).transpose()?;
    let measurement = Measurement {
        model: folder.into_owned(),
        name: model::name(&arguments.model),
        against: against.map(|folder| folder.into_owned()),
        data,
        settings: Evaluation {
            length: arguments.length,
            stride: arguments.stride.unwrap_or(arguments.length),
            windows: arguments.windows,
            batch: arguments.batch,
        },
        activations: arguments.activations,
        device: arguments.device.resolve()?,
    };
    let mut progress = Progress::new(arguments.quiet);
    let comparison = measurement.run(&mut |step| {
        progress.follow(&step);
        // Nothing is kept of an evaluation, so Ctrl-C just ends the program.
        ControlFlow::Continue(())
    })?;
    progress.end();

    table::print(&comparison.table())?;
    if let (true, Some(layers)) = (arguments.verbose, comparison.layer_table()) {
        table::print(&format!("\n{layers}"))?;
    }
    if let Some(json) = json {
        let Measurement { settings, activations, .. } = measurement;
        let (model, against, activations) =
            (arguments.model.clone(), arguments.against.clone(), activations.to_string());
        json.write(&Scores {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model,
            against,
            settings,
            activations,
            comparison,
        })?;
    }
    Ok(Outcome::Done)
}

fn sources(arguments: &Eval) -> anyhow::Result<Vec<TextSource>> {
    let with_spark =
        [Some(&arguments.model), arguments.against.as_ref()].into_iter().flatten().any(|model| model::is_spark(model));
    match (&arguments.data[..], with_spark) {
        ([], true) => texts::sources(&[model::spark_texts(Texts::Evaluation)?]),
        ([], false) => bail!("there is nothing to measure on; give --data PATH"),
        (named, _) => texts::sources(named),
    }
}
