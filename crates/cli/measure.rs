//! `quench measure`: what two models, or two files of vectors, have in common.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::bail;
use quench::job::{Contrast, ContrastSettings, Contrasted, Named, Scoring, Site};
use quench::metrics::{Bootstrap, Interval, Value};
use quench::quantize::recipe::Calibration;

use crate::args::Measure;
use crate::failure::Outcome;
use crate::format::number;
use crate::json::Target;
use crate::model::{self, Texts};
use crate::progress::Progress;
use crate::table::Column::{Number, Text};
use crate::{table, texts};

/// Compares, and prints tables.
pub fn run(arguments: &Measure) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let (reference, approximation) =
        (named(&arguments.reference, arguments)?, named(&arguments.approximation, arguments)?);
    let spark = [&arguments.reference, &arguments.approximation].into_iter().any(|model| model::is_spark(model));
    let data = match (&arguments.data[..], spark, reference.is_file()) {
        ([], true, _) => texts::sources(&[model::spark_texts(Texts::Evaluation)?])?,
        ([], false, false) => bail!("there is nothing to measure on; give --data PATH"),
        (named, ..) => texts::sources(named)?,
    };
    let contrast = Contrast {
        reference,
        approximation,
        data,
        settings: ContrastSettings {
            data: Calibration {
                samples: arguments.samples,
                length: arguments.length,
                batch: arguments.batch,
                seed: arguments.seed,
                ..Calibration::default()
            },
            metrics: arguments.metrics.clone(),
            floors: arguments.floors.clone(),
            k: arguments.k,
            points: arguments.points,
            landmarks: arguments.landmarks,
            bootstrap: Bootstrap { seed: arguments.seed, ..Bootstrap::default() },
        },
        device: arguments.device.resolve()?,
    };
    let mut progress = Progress::new(arguments.quiet);
    // Nothing is kept, so Ctrl-C just ends the program.
    let found = contrast.run(&mut |step| {
        progress.follow(&step);
        ControlFlow::Continue(())
    })?;
    progress.end();

    table::print(&summary(&found, arguments.verbose))?;
    if let Some(json) = json {
        json.write(&found)?;
    }
    Ok(if found.below() { Outcome::GateFailed } else { Outcome::Done })
}

/// A file of vectors as it is, a model as a folder.
fn named(path: &Path, arguments: &Measure) -> anyhow::Result<PathBuf> {
    Ok(model::folder(path, arguments.quiet)?.into_owned())
}

fn summary(found: &Contrasted, verbose: bool) -> String {
    let mut text = String::new();
    if !found.predictions.is_empty() {
        text.push_str(&scores(found.predictions.iter().map(|scoring| ("predictions", scoring)).collect()));
        text.push('\n');
        text.push_str(&numbers(&found.divergences));
        text.push('\n');
    }
    // The last site is nearest to what is predicted.
    let shown = if verbose { &found.sites[..] } else { &found.sites[found.sites.len().saturating_sub(1)..] };
    for site in shown {
        text.push_str(&scores(site.metrics.iter().map(|scoring| (site.site.as_str(), scoring)).collect()));
        text.push('\n');
        text.push_str(&about(site));
        text.push('\n');
    }
    if found.sites.len() > shown.len() {
        text.push_str(&format!("the last of {} sites; --verbose shows all\n\n", found.sites.len()));
    }
    match &found.coherence {
        Some(lowest) => {
            let at = if lowest.site.is_empty() { "in the predictions" } else { &lowest.site };
            text.push_str(&format!(
                "coherence {:.4}: the lowest score beyond chance, of {} {at}\n",
                lowest.score, lowest.metric
            ));
        }
        None => text.push_str("coherence inconclusive: no metric has a value\n"),
    }
    for floored in &found.floors {
        let name = floored.floor.metric.map_or_else(|| "coherence".to_owned(), |metric| metric.to_string());
        let score = floored.score.map_or_else(String::new, |score| format!("{score:.4} {} ", of(floored.interval)));
        text.push_str(&format!("floor {name} >= {}: {score}{}\n", floored.floor.least, floored.held));
    }
    text
}

fn scores(scorings: Vec<(&str, &Scoring)>) -> String {
    let columns = [
        Text("site"),
        Text("metric"),
        Number("score"),
        Number("value"),
        Text("interval"),
        Number("chance"),
        Number("n"),
        Text("estimator"),
    ];
    let rows: Vec<[String; 8]> = scorings
        .into_iter()
        .map(|(site, Scoring { metric, value, inconclusive, .. })| {
            let value = value.as_ref();
            let text = |of: &dyn Fn(&Value) -> String| value.map_or_else(String::new, of);
            [
                site.to_owned(),
                metric.to_string(),
                text(&|value| format!("{:.4}", value.beyond_chance())),
                text(&|value| number(value.value)),
                text(&|value| of(value.interval)),
                text(&|value| value.null.map_or_else(String::new, number)),
                text(&|value| value.n.to_string()),
                inconclusive.clone().unwrap_or_else(|| text(&|value| value.estimator.clone().into_owned())),
            ]
        })
        .collect();
    table::markdown(columns, &rows)
}

fn numbers(named: &[Named]) -> String {
    let lines: Vec<[String; 3]> = named
        .iter()
        .map(|Named { name, unit, value }| {
            let with = format!("{} {} {unit}", number(value.value), of(value.interval));
            [name.clone(), with.trim_end().replace("  ", " "), format!("{}, n {}", value.estimator, value.n)]
        })
        .collect();
    table::aligned(&lines)
}

/// Corners, latent space, shape and what to know of the data.
fn about(site: &Site) -> String {
    let mut text = numbers(&site.latent);
    if let Some([reference, approximation]) = &site.corners {
        let of = |corners: &quench::metrics::hypercubicity::Hypercubicity| {
            format!(
                "{:.4} (chance {:.4}), 1 bit {:.1} dB, bimodality {:.2}",
                corners.h_coord.value,
                corners.h_coord.null.unwrap_or_default(),
                corners.one_bit_db,
                corners.bimodality
            )
        };
        text.push_str(&format!("near corners: {}; approximation {}\n", of(reference), of(approximation)));
    }
    if let Some(shape) = &site.shape {
        let distances: Vec<String> = shape.distances.iter().map(|distance| number(distance.value)).collect();
        let bound = shape
            .bound
            .as_ref()
            .map_or_else(String::new, |bound| format!("; at most {} (certified)", number(bound.value)));
        text.push_str(&format!(
            "shape of {} landmarks: bottleneck distance of pieces and loops {} (measured){bound}\n",
            shape.points,
            distances.join(" and ")
        ));
    }
    for note in &site.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

fn of(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |interval| format!("[{}, {}]", number(interval.low), number(interval.high)))
}
