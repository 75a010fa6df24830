//! `quench finetune`: a quantized model trained to say what its dense original says.

use std::ffi::OsString;
use std::path::PathBuf;

use quench::job::{Overwrite, Tuning, TuningReport};
use quench::quantize::recipe::Calibration;
use quench::tune::{Method, Rates, Settings};

use crate::args::{Finetune, Tuned};
use crate::failure::Outcome;
use crate::format::{number, percent};
use crate::json::Target;
use crate::progress::Progress;
use crate::table::Column::Number;
use crate::{interrupt, model, table, texts};

/// Trains, and prints how near the model came.
pub fn run(arguments: &Finetune) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let settings = settings(arguments);
    let tuning = Tuning {
        model: model::folder(&arguments.model, arguments.quiet)?.into_owned(),
        teacher: model::folder(&arguments.teacher, arguments.quiet)?.into_owned(),
        output: arguments.output.clone().unwrap_or_else(|| output(arguments, &settings)),
        data: texts::sources(&arguments.data)?,
        reading: Calibration {
            samples: arguments.samples,
            length: arguments.length,
            batch: arguments.batch,
            seed: arguments.seed,
            ..Calibration::default()
        },
        held_out: arguments.held_out,
        settings,
        device: arguments.device.resolve()?,
        overwrite: if arguments.force { Overwrite::Force } else { Overwrite::Refuse },
        resume: arguments.resume,
    };
    interrupt::install("the state of the run is kept, and --resume goes on from it")?;
    let mut progress = Progress::new(arguments.quiet);
    let report = tuning.run(&mut |step| {
        progress.follow(&step);
        interrupt::flow()
    })?;
    progress.end();
    table::print(&summary(&report))?;
    if let Some(json) = json {
        json.write(&report)?;
    }
    Ok(Outcome::Done)
}

fn settings(arguments: &Finetune) -> Settings {
    let Rates { weights, scales, gains, adapters } = Rates::default();
    let times = arguments.rate;
    let layers = &arguments.layers;
    Settings {
        method: match arguments.method {
            Tuned::Qat => Method::Qat,
            Tuned::Lora => Method::Lora { rank: arguments.rank, strength: 1.0, recover: true },
            Tuned::Norms => Method::Norms,
        },
        targets: if layers.is_empty() { vec!["*".to_owned()] } else { layers.clone() },
        rates: Rates {
            weights: times * weights,
            scales: times * scales,
            gains: times * gains,
            adapters: times * adapters,
        },
        steps: arguments.steps,
        accumulate: arguments.accumulate,
        evaluate: arguments.evaluate,
        patience: arguments.patience,
        top: arguments.top,
        seed: arguments.seed,
        ..Settings::default()
    }
}

/// Beside the model, its name and that of the method.
fn output(arguments: &Finetune, settings: &Settings) -> PathBuf {
    let mut name: OsString = arguments.model.file_name().unwrap_or(arguments.model.as_os_str()).to_owned();
    name.push(format!("-{}", settings.method.name()));
    arguments.model.with_file_name(name)
}

fn summary(report: &TuningReport) -> String {
    let columns = [Number("steps"), Number("held-out KL"), Number("of the first")];
    let first = report.points.first().map_or(f64::NAN, |point| point.kl);
    let rows: Vec<[String; 3]> = report
        .points
        .iter()
        .map(|point| [point.step.to_string(), number(point.kl), percent(point.kl / first)])
        .collect();
    let stored = match report.merged.len() {
        0 => String::new(),
        count => format!("{count} adapters merged; as stored: {} nats\n", number(report.kl)),
    };
    format!(
        "{}KL from the teacher in nats per label; kept: step {}\n{stored}{}\n",
        table::markdown(columns, &rows),
        report.best.step,
        report.output.display()
    )
}
