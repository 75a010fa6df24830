//! `quench bench`: tokens per second and peak memory, side by side; each model in a process of its own.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, bail};
use quench::job;
use quench::kernels::Activations;
use quench::models::DecoderConfig;
use serde::Serialize;

use crate::args::Bench;
use crate::failure::{Elsewhere, Outcome};
use crate::format::{bytes, count, number};
use crate::json::Target;
use crate::model;
use crate::progress::Progress;
use crate::table::{self, Column};
use crate::timing::{Event, Measured, Test, steps};

/// Lengths where none are asked for.
const PROMPT: usize = 512;
const GENERATE: usize = 64;

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    device: String,
    threads: usize,
    repetitions: usize,
    seed: u64,
    /// The first one is what ratios are to.
    models: Vec<Entry>,
}

/// A model, in one precision of its activations.
#[derive(Debug, Serialize)]
struct Entry {
    model: PathBuf,
    name: String,
    /// Absent for a dense model, on which they have no effect.
    activations: Option<String>,
    /// Bytes of tensor data on disk.
    size_bytes: u64,
    load_seconds: f64,
    loaded_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    /// The peak over that of the first model.
    peak_ratio: Option<f64>,
    /// Keys and values of the longest test, in f32.
    kv_cache_bytes: u64,
    tests: Vec<Figure>,
}

/// One test of a model.
#[derive(Debug, Serialize)]
struct Figure {
    #[serde(flatten)]
    test: Test,
    /// Of each run.
    seconds: Vec<f64>,
    /// The median over the runs.
    tokens_per_second: f64,
    lowest_tokens_per_second: f64,
    highest_tokens_per_second: f64,
    /// The median over that of the first model.
    ratio: f64,
}

/// A model to measure.
#[derive(Debug)]
struct Subject {
    /// As it was typed.
    path: PathBuf,
    /// Where it lies.
    folder: PathBuf,
    name: String,
    size_bytes: u64,
    packed: bool,
    config: DecoderConfig,
}

/// Measures the models one after the other, and prints two tables.
pub fn run(arguments: &Bench) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let subjects = subjects(arguments)?;
    let tests = tests(arguments, &subjects)?;
    let threads = match arguments.threads {
        0 => thread::available_parallelism().map_or(1, Into::into),
        threads => threads.into(),
    };
    let asked: Vec<(&Subject, Activations)> = subjects
        .iter()
        .flat_map(|subject| {
            // A dense model does not know the difference.
            let different = if subject.packed { arguments.activations.len() } else { 1 };
            arguments.activations[..different].iter().map(move |activations| (subject, *activations))
        })
        .collect();

    let mut progress = Progress::new(arguments.quiet);
    let mut begun = 0;
    progress.phase("bench", asked.len() * steps(tests.len(), arguments.repetitions));
    let mut device = String::new();
    let mut models: Vec<Entry> = Vec::new();
    for (subject, activations) in asked {
        let command = command(arguments, &subject.folder, activations, &tests, threads)?;
        let measured = measure(command, &subject.name, &mut |what| {
            progress.step(begun, &format!("{}, {what}", subject.name));
            begun += 1;
        })?;
        device.clone_from(&measured.device);
        models.push(entry(subject, activations, &tests, measured, models.first()));
    }
    progress.end();

    let (repetitions, seed) = (arguments.repetitions, arguments.seed);
    let report = Report { version: env!("CARGO_PKG_VERSION"), device, threads, repetitions, seed, models };
    table::print(&text(&report))?;
    if let Some(json) = json {
        json.write(&report)?;
    }
    Ok(Outcome::Done)
}

/// What is known of the models before they are read: the one to compare with comes first.
fn subjects(arguments: &Bench) -> anyhow::Result<Vec<Subject>> {
    let paths: Vec<&PathBuf> = arguments.against.iter().chain(&arguments.models).collect();
    let names: Vec<String> = paths.iter().map(|path| model::name(path)).collect();
    let different: BTreeSet<&String> = names.iter().collect();
    let subjects = paths.iter().zip(&names).map(|(path, name)| {
        let folder = model::folder(path, arguments.quiet)?;
        let config = DecoderConfig::read(&folder.join("config.json"))?;
        let inspection = job::inspect(&folder)?;
        Ok(Subject {
            path: path.to_path_buf(),
            // Models that are called alike are told by their paths.
            name: if different.len() == names.len() { name.clone() } else { path.display().to_string() },
            size_bytes: inspection.bytes,
            packed: inspection.rows.iter().any(|row| row.packed),
            config,
            folder: folder.into_owned(),
        })
    });
    subjects.collect()
}

/// The tests, checked against the contexts of the models.
fn tests(arguments: &Bench, subjects: &[Subject]) -> anyhow::Result<Vec<Test>> {
    // A prompt needs room for the token after it.
    let room = |subject: &Subject| subject.config.max_positions.saturating_sub(1);
    let shortest = subjects.iter().min_by_key(|subject| room(subject));
    let lengths = |option: &str, asked: &[usize], default: usize| {
        let Some((shortest, room)) = shortest.map(|subject| (subject, room(subject))) else { return Ok(Vec::new()) };
        if asked.is_empty() {
            return Ok(vec![default.min(room)]);
        }
        if let Some(tokens) = asked.iter().find(|&&tokens| tokens > room) {
            let (name, context) = (&shortest.name, shortest.config.max_positions);
            bail!("{option} {tokens} is too long for {name}, whose context is {context}; give {option} {room} or less");
        }
        Ok(asked.to_vec())
    };
    let tests = Test::all(
        &lengths("--prompt", &arguments.prompt, PROMPT)?,
        &lengths("--generate", &arguments.generate, GENERATE)?,
    );
    if tests.is_empty() {
        bail!("there is nothing to measure; give --prompt or --generate a length above 0");
    }
    Ok(tests)
}

/// This program again, for one model.
fn command(
    arguments: &Bench,
    path: &Path,
    activations: Activations,
    tests: &[Test],
    threads: usize,
) -> anyhow::Result<Command> {
    let program = env::current_exe().context("cannot find this program, to start it once more")?;
    let lengths = |of: fn(&Test) -> bool| {
        let lengths: Vec<String> = tests.iter().filter(|test| of(test)).map(|test| test.tokens().to_string()).collect();
        if lengths.is_empty() { "0".to_owned() } else { lengths.join(",") }
    };
    let options = [
        ("--prompt", lengths(|test| matches!(test, Test::Prompt(_)))),
        ("--generate", lengths(|test| matches!(test, Test::Generate(_)))),
        ("--repetitions", arguments.repetitions.to_string()),
        ("--activations", activations.to_string()),
        ("--device", arguments.device.to_string()),
        ("--seed", arguments.seed.to_string()),
    ];
    let mut command = Command::new(program);
    command.args(["bench", "--measure"]);
    command.args(options.iter().flat_map(|(option, value)| [*option, value.as_str()]));
    command.arg("--").arg(path);
    // All that computes on the CPU is on the threads of rayon's pool.
    command.env("RAYON_NUM_THREADS", threads.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Runs `command` to its end; `begun` sees what is under way.
///
/// If this process ends before, so does the other one: its standard input ends.
fn measure(mut command: Command, name: &str, begun: &mut dyn FnMut(&str)) -> anyhow::Result<Measured> {
    let mut child = command.spawn().context("cannot start this program once more")?;
    let error = child.stderr.take().map(|error| thread::spawn(|| io::read_to_string(error)));
    let mut measured = None;
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        match serde_json::from_str(&line?).context("the process that measures said something else")? {
            Event::Begun(what) => begun(&what),
            Event::Measured(figures) => measured = Some(figures),
        }
    }
    // Its standard input stays open until here.
    let status = child.wait()?;
    let error = error.and_then(|error| error.join().ok()).and_then(Result::ok).unwrap_or_default();
    match (status.success(), measured) {
        (true, Some(measured)) => Ok(measured),
        _ => match Elsewhere::new(status.code(), &error) {
            Some(told) => Err(told.into()),
            None => bail!(
                "the process that measured {name} was ended ({status}); if memory was short, measure models one by one"
            ),
        },
    }
}

fn entry(
    subject: &Subject,
    activations: Activations,
    tests: &[Test],
    measured: Measured,
    first: Option<&Entry>,
) -> Entry {
    let figure = |(at, (&test, seconds)): (usize, (&Test, Vec<f64>))| {
        let mut rates: Vec<f64> = seconds.iter().map(|seconds| test.tokens() as f64 / seconds).collect();
        rates.sort_by(f64::total_cmp);
        let tokens_per_second = median(&rates);
        Figure {
            test,
            seconds,
            tokens_per_second,
            lowest_tokens_per_second: rates[0],
            highest_tokens_per_second: rates[rates.len() - 1],
            ratio: tokens_per_second / first.map_or(tokens_per_second, |first| first.tests[at].tokens_per_second),
        }
    };
    let peak_bytes = measured.peak_bytes;
    let first_peak = first.map_or(peak_bytes, |first| first.peak_bytes);
    Entry {
        model: subject.path.clone(),
        name: subject.name.clone(),
        activations: subject.packed.then(|| activations.to_string()),
        size_bytes: subject.size_bytes,
        load_seconds: measured.load_seconds,
        loaded_bytes: measured.loaded_bytes,
        peak_bytes,
        peak_ratio: peak_bytes.zip(first_peak).map(|(peak, first)| peak as f64 / first as f64),
        kv_cache_bytes: tests.iter().map(|test| kv_cache(&subject.config, test.tokens())).max().unwrap_or(0),
        tests: tests.iter().zip(measured.seconds).enumerate().map(figure).collect(),
    }
}

/// Of sorted values; the mean of the middle two where there are two.
fn median(values: &[f64]) -> f64 {
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}

/// Bytes of the keys and values of so many tokens, in f32.
fn kv_cache(config: &DecoderConfig, tokens: usize) -> u64 {
    let of_token = 2 * config.kv_heads * config.head_dim * size_of::<f32>();
    let kept = config.layers.iter().map(|layer| layer.window.map_or(tokens, |window| tokens.min(window)));
    (kept.sum::<usize>() * of_token) as u64
}

fn text(report: &Report) -> String {
    let several = report.models.len() > 1;
    let ratio = |ratio: Option<f64>| ratio.filter(|_| several).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    let speeds: Vec<[String; 6]> = report
        .models
        .iter()
        .flat_map(|entry| entry.tests.iter().map(move |figure| (entry, figure)))
        .map(|(entry, figure)| {
            let (lowest, highest) = (figure.lowest_tokens_per_second, figure.highest_tokens_per_second);
            let spread = if report.repetitions > 1 {
                format!("{} to {}", number(lowest), number(highest))
            } else {
                String::new()
            };
            [
                entry.name.clone(),
                entry.activations.clone().unwrap_or_default(),
                figure.test.to_string(),
                number(figure.tokens_per_second),
                spread,
                ratio(Some(figure.ratio)),
            ]
        })
        .collect();
    let known = |size: Option<u64>| size.map_or_else(|| "not known".to_owned(), bytes);
    let sizes: Vec<[String; 7]> = report
        .models
        .iter()
        .map(|entry| {
            [
                entry.name.clone(),
                entry.activations.clone().unwrap_or_default(),
                bytes(entry.size_bytes),
                known(entry.loaded_bytes),
                known(entry.peak_bytes),
                bytes(entry.kv_cache_bytes),
                ratio(entry.peak_ratio),
            ]
        })
        .collect();
    let speeds = table::markdown(
        [
            Column::Text("model"),
            Column::Text("activations"),
            Column::Text("test"),
            Column::Number("tokens/s"),
            Column::Number("lowest to highest"),
            Column::Number("ratio"),
        ],
        &speeds,
    );
    let sizes = table::markdown(
        [
            Column::Text("model"),
            Column::Text("activations"),
            Column::Number("on disk"),
            Column::Number("loaded"),
            Column::Number("peak"),
            Column::Number("KV cache"),
            Column::Number("ratio"),
        ],
        &sizes,
    );
    let (runs, threads) = (count(report.repetitions, "run"), count(report.threads, "thread"));
    format!("{speeds}median of {runs} after a warm-up, on {}, {threads}\n\n{sizes}", report.device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
