//! `quench threshold`: at which step of a quantizer a model stops to work, and whether that is a cliff.

use std::ops::ControlFlow;

use anyhow::bail;
use quench::job::{SweepSettings, Swept, Threshold as Sweeping, Thresholds};
use quench::metrics::{Bootstrap, Value};
use quench::quantize::recipe::Calibration;

use crate::args::Threshold;
use crate::failure::Outcome;
use crate::format::{bar, number, percent};
use crate::json::Target;
use crate::model::{self, Texts};
use crate::progress::Progress;
use crate::table::Column::{Number, Text};
use crate::{table, texts};

/// Width of the bars of a table, in letters.
const BAR: usize = 24;

/// Sweeps, and prints a table for each model and what it is evidence of.
pub fn run(arguments: &Threshold) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let spark = arguments.models.iter().any(|model| model::is_spark(model));
    let data = match (&arguments.data[..], spark) {
        ([], true) => texts::sources(&[model::spark_texts(Texts::Calibration)?])?,
        ([], false) => bail!("there is nothing to measure on; give --data PATH"),
        (named, _) => texts::sources(named)?,
    };
    let mut models = Vec::with_capacity(arguments.models.len());
    for named in &arguments.models {
        models.push(model::folder(named, arguments.quiet)?.into_owned());
    }
    let sweeping = Sweeping {
        models,
        data,
        settings: SweepSettings {
            data: Calibration {
                samples: arguments.samples,
                length: arguments.length,
                batch: arguments.batch,
                seed: arguments.seed,
                ..Calibration::default()
            },
            layers: arguments.layers.clone(),
            steps: arguments.steps.into(),
            range: arguments.from.zip(arguments.to).map(<[f64; 2]>::from),
            offsets: arguments.offsets.into(),
            limit: arguments.kl,
            bootstrap: Bootstrap { seed: arguments.seed, ..Bootstrap::default() },
        },
        device: arguments.device.resolve()?,
    };
    let mut progress = Progress::new(arguments.quiet);
    // Nothing is kept, so Ctrl-C just ends the program.
    let found = sweeping.run(&mut |step| {
        progress.follow(&step);
        ControlFlow::Continue(())
    })?;
    progress.end();

    for swept in &found.models {
        table::print(&format!("{}\n{}\n{}\n", model::spelled(&swept.model), sweep(swept), answers(&found, swept)))?;
    }
    table::print(&format!("{}\n", found.sentence()))?;
    if let Some(json) = json {
        json.write(&found)?;
    }
    Ok(Outcome::Done)
}

/// The metrics at each step.
fn sweep(swept: &Swept) -> String {
    let columns = [
        Number("step"),
        Number("KL"),
        Number("± "),
        Number("δ² tr F / 24"),
        Number("KL / that"),
        Number("agreement"),
        Number("±"),
        Text(""),
    ];
    let rows: Vec<[String; 8]> = swept
        .kl
        .points()
        .iter()
        .zip(swept.agreement.points())
        .map(|(kl, agreement)| {
            let response = kl.step * kl.step * swept.trace.value / 24.0;
            [
                number(kl.step),
                number(kl.metric),
                number(kl.error),
                number(response),
                format!("{:.2}", kl.metric / response),
                percent(agreement.metric),
                percent(agreement.error),
                bar(agreement.metric, BAR),
            ]
        })
        .collect();
    table::markdown(columns, &rows)
}

/// What the sweep says.
fn answers(found: &Thresholds, swept: &Swept) -> String {
    let limit = found.settings.limit;
    let beyond = |what: &str| format!("not within the sweep: {what}");
    let last = swept.kl.monotone().last().copied().unwrap_or_default();
    let tolerance = swept.tolerance.as_ref().map_or_else(
        || beyond(if last < limit { "choose a larger --to" } else { "choose a smaller --from" }),
        with_interval,
    );
    let ratio = swept.tolerance.as_ref().map_or(String::new(), |measured| {
        format!("predicted / measured {:.3}", swept.predicted.value / measured.value)
    });
    let line = |name: &str, value: String, more: String| [name.to_owned(), value, more];
    let lines = [
        line(&format!("step of KL = {limit}"), tolerance, "measured".to_owned()),
        line("  predicted", with_interval(&swept.predicted), ratio),
        line(
            "end of linear response",
            swept.response_end.as_ref().map_or_else(|| beyond("it still holds at the largest step"), with_interval),
            "measured".to_owned(),
        ),
        line(
            "power of the step below it",
            swept.exponent.as_ref().map_or_else(|| beyond("fewer than 3 steps"), with_interval),
            "2 is linear response".to_owned(),
        ),
        line(
            "width of the fall of the agreement",
            with_interval(&swept.width),
            "in ln δ; below 1 it is sharp, 1.54 is linear response of a divergence".to_owned(),
        ),
        line(
            "tr F",
            with_interval(&swept.trace),
            format!(
                "{} layers, {} weights, {} labels in {}",
                swept.layers.len(),
                swept.weights,
                swept.labels,
                swept.sequences
            ),
        ),
    ];
    table::aligned(&lines)
}

/// `0.0123 [0.0119, 0.0127]`.
fn with_interval(value: &Value) -> String {
    match value.interval {
        Some(interval) => format!("{} [{}, {}]", number(value.value), number(interval.low), number(interval.high)),
        None => number(value.value),
    }
}
