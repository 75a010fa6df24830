//! `quench report`: one page of what other commands have written as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use quench::checkpoint::write_atomically;
use quench::job::{self, Contrasted, Predictions, Thresholds, document};
use quench::report::{Bound, Document, Evidence, Input, Number, RateAxis, RatePoint, Rates};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::Report;
use crate::failure::Outcome;
use crate::format::count;
use crate::table::Column::{Number as Right, Text};
use crate::{eval, picture, snr, table};

/// A file that was read.
enum File {
    Job(Box<job::Report>),
    Scores(eval::Scores),
    Predictions(Predictions),
    Thresholds(Thresholds),
    Contrasted(Box<Contrasted>),
    Snr(snr::Report),
    Document(Box<Document>),
    /// JSON of something else.
    Other,
}

/// Reads, says what there is, and writes.
pub fn run(arguments: &Report) -> anyhow::Result<Outcome> {
    let json = arguments.output.with_extension("json");
    let folder = arguments.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if arguments.output.is_dir() || !folder.is_dir() || json == arguments.output {
        bail!("--output {}: not the name of an HTML file in a folder that exists", arguments.output.display());
    }
    if let Some(same) = arguments.inputs.iter().find(|input| is_same(input, &json)) {
        bail!(
            "--output {}: its numbers would overwrite {}; name another file",
            arguments.output.display(),
            same.display()
        );
    }
    let mut document = read_all(arguments, &json)?;
    if let Some(title) = &arguments.title {
        document.title.clone_from(title);
    }
    let html = document.html().context("the inputs have nothing that a report shows")?;
    table::print(&sections(&document))?;
    let mut written = vec![arguments.output.display().to_string(), json.display().to_string()];
    // The page last: where it is, all is.
    write_atomically(&json, format!("{}\n", document.json()).as_bytes())?;
    if let Some(folder) = &arguments.figures {
        fs::create_dir_all(folder).with_context(|| format!("cannot make --figures {}", folder.display()))?;
        let figures = document.figures();
        for figure in &figures {
            let drawing = figure.draw(true);
            let svg = drawing.svg(&figure.title, &figure.description);
            write_atomically(folder.join(format!("{}.svg", figure.id)), svg.as_bytes())?;
            write_atomically(folder.join(format!("{}.png", figure.id)), &picture::png(&drawing)?)?;
        }
        written.push(format!("{} as SVG and PNG in {}", count(figures.len(), "figure"), folder.display()));
    }
    write_atomically(&arguments.output, html.as_bytes())?;
    table::print(&format!("\n{}\n", written.join("\n")))?;
    Ok(Outcome::Done)
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn read_all(arguments: &Report, own: &Path) -> anyhow::Result<Document> {
    let mut all = Document { version: env!("CARGO_PKG_VERSION").to_owned(), ..Document::default() };
    let (mut reports, mut models) = (Vec::new(), Vec::new());
    for input in &arguments.inputs {
        let files = if input.is_dir() { listed(input, own)? } else { vec![input.clone()] };
        for path in files {
            let (kind, found) = match read(&path)? {
                File::Job(report) => {
                    models.push(model(&report.model));
                    let found = document::report(&report);
                    reports.push(*report);
                    ("quench quantize", found)
                }
                File::Scores(scores) => {
                    models.push(model(scores.against.as_ref().unwrap_or(&scores.model)));
                    // A job says the same of the same model; both are shown.
                    let name = format!("{}, evaluated", model(&scores.model));
                    let mut found = document::measured(&name, &scores.comparison);
                    for run in &mut found.runs {
                        run.model = scores.against.as_deref().map_or(String::new(), model);
                    }
                    ("quench eval", found)
                }
                File::Predictions(predictions) => {
                    models.push(model(&predictions.dense));
                    ("quench predict", document::predictions(&predictions))
                }
                File::Thresholds(thresholds) => {
                    models.extend(thresholds.models.iter().map(|swept| model(&swept.model)));
                    ("quench threshold", document::thresholds(&thresholds))
                }
                File::Contrasted(contrasted) => {
                    models.push(model(&contrasted.reference));
                    ("quench measure", document::contrasted(&contrasted))
                }
                File::Snr(report) => ("quench snr", Document { rates: vec![rates(&report)], ..Document::default() }),
                File::Document(document) => ("quench report", *document),
                File::Other if input.is_dir() => continue,
                File::Other => bail!(
                    "{}: this is no file of `quench quantize`, `eval`, `predict`, `threshold`, `measure`, `snr` or `report`; give what their --json wrote",
                    path.display()
                ),
            };
            all.inputs.push(Input { file: path.display().to_string(), kind: kind.to_owned() });
            if all.title.is_empty() {
                all.title.clone_from(&found.title);
            }
            all.extend(found);
        }
    }
    let together = document::joint(&all, &reports);
    all.extend(together);
    models.sort();
    models.dedup();
    if all.title.is_empty() {
        all.title = if models.is_empty() { "Report".to_owned() } else { format!("Quantized {}", models.join(", ")) };
    }
    Ok(all)
}

/// The JSON files of a folder, by name, but not the one that will be written.
fn listed(folder: &Path, own: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "json") && path.is_file() && !is_same(&path, own) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{}: there is no JSON file in this folder", folder.display());
    }
    Ok(files)
}

/// A file by the keys that only its kind has.
fn read(path: &Path) -> anyhow::Result<File> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{}: this is no JSON", path.display()))?;
    let has = |keys: &[&str]| keys.iter().all(|key| value.get(key).is_some());
    if has(&["ledger", "recipe", "plan"]) {
        Ok(File::Job(of(path, &text, "quench quantize")?))
    } else if has(&["comparison", "settings", "model"]) {
        Ok(File::Scores(of(path, &text, "quench eval")?))
    } else if has(&["predictions", "settings", "dense"]) {
        Ok(File::Predictions(of(path, &text, "quench predict")?))
    } else if has(&["models", "settings", "verdict"]) {
        Ok(File::Thresholds(of(path, &text, "quench threshold")?))
    } else if has(&["reference", "approximation", "sites"]) {
        Ok(File::Contrasted(of(path, &text, "quench measure")?))
    } else if has(&["weights", "rows"]) {
        Ok(File::Snr(of(path, &text, "quench snr")?))
    } else if ["inputs", "runs", "rates", "sweeps", "languages", "layers", "shapes", "maps", "explorers"]
        .iter()
        .any(|key| has(&[key]))
    {
        Ok(File::Document(of(path, &text, "quench report")?))
    } else {
        Ok(File::Other)
    }
}

fn of<T: DeserializeOwned>(path: &Path, text: &[u8], command: &str) -> anyhow::Result<T> {
    serde_json::from_slice(text)
        .with_context(|| format!("{}: it looks like a file of `{command}`, but cannot be read as one", path.display()))
}

fn model(folder: &Path) -> String {
    folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// Codes at their bits; limits of theory, which have no zeros to count, are bounds.
fn rates(report: &snr::Report) -> Rates {
    let mut bounds: Vec<Bound> = Vec::new();
    // Of samples of a named source the bounds are those of its density; of a model, of what its weights look like.
    let evidence = if report.weights.ends_with(" source") { Evidence::Certified } else { Evidence::Measured };
    let mut points = Vec::new();
    for row in report.rows.iter().filter(|row| row.snr_db.is_finite()) {
        let place = (row.bits_per_weight, row.snr_db);
        if row.zero_fraction.is_some() {
            let quality = Number::new(row.snr_db, Evidence::Measured);
            let (series, name) = ("codes".to_owned(), row.quantizer.clone());
            points.push(RatePoint { series, name, rate: row.bits_per_weight, quality });
            continue;
        }
        match bounds.iter_mut().find(|bound| bound.name == row.quantizer) {
            Some(bound) => bound.points.push(place),
            None => bounds.push(Bound { name: row.quantizer.clone(), evidence, points: vec![place] }),
        }
    }
    Rates {
        title: format!("Codes on {}", report.weights),
        rate: RateAxis::new("rate", "bits per weight"),
        quality: RateAxis::new("signal-to-noise ratio of the weights", "dB"),
        bounds,
        points,
    }
}

/// Which sections there are, and what would fill the others.
fn sections(document: &Document) -> String {
    let rows: Vec<[String; 3]> = document
        .filling()
        .into_iter()
        .map(|section| {
            let missing = if section.parts == 0 { section.from.to_owned() } else { String::new() };
            [section.title.to_owned(), section.parts.to_string(), missing]
        })
        .collect();
    table::markdown([Text("section"), Right("parts"), Text("filled by")], &rows)
}
