//! `quench predict`: how far quantized models are from a dense one, without running them.

use std::ops::ControlFlow;

use anyhow::{Context, bail};
use quench::eval::{Estimate, Gate};
use quench::job::{Forecast, Measurement, Predicted, Prediction, Predictions, Step};
use quench::kernels::Activations;
use quench::quantize::recipe::{Calibration, Evaluation};

use crate::args::Predict;
use crate::failure::Outcome;
use crate::format::{number, percent};
use crate::json::Target;
use crate::model::{self, Texts};
use crate::progress::Progress;
use crate::table::Column::{Number, Text};
use crate::{table, texts};

/// Predicts, measures if asked to, and prints a table.
pub fn run(arguments: &Predict) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let dense = model::folder(&arguments.dense, arguments.quiet)?.into_owned();
    let calibration = match (&arguments.calibration[..], model::is_spark(&arguments.dense)) {
        ([], true) => texts::sources(&[model::spark_texts(Texts::Calibration)?])?,
        ([], false) => bail!("there is nothing to average the gradients over; give --calibration PATH"),
        (named, _) => texts::sources(named)?,
    };
    let mut candidates = Vec::with_capacity(arguments.candidates.len());
    for candidate in &arguments.candidates {
        candidates.push(model::folder(candidate, arguments.quiet)?.into_owned());
    }
    for path in arguments.eval.iter().flat_map(|source| &source.paths) {
        std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let device = arguments.device.resolve()?;
    let settings = Calibration {
        samples: arguments.samples,
        length: arguments.length,
        batch: arguments.batch,
        seed: arguments.seed,
        ..Calibration::default()
    };
    let forecast = Forecast { dense, candidates, calibration, settings, device };
    let mut progress = Progress::new(arguments.quiet);
    // Nothing is kept, so Ctrl-C just ends the program.
    let mut observe = |step: Step<'_>| {
        progress.follow(&step);
        ControlFlow::Continue(())
    };
    let mut rows = Vec::new();
    for prediction in forecast.run(&mut observe)? {
        let measured = match &arguments.eval[..] {
            [] => None,
            data => Some(measure(&forecast, &prediction, texts::sources(data)?, arguments, &mut observe)?),
        };
        let (measured_kl, measured_interval) =
            (measured.map(|estimate| estimate.value), measured.and_then(|estimate| estimate.interval));
        rows.push(Predicted { doubt: prediction.doubt(), prediction, measured_kl, measured_interval });
    }
    progress.end();

    table::print(&summary(&rows))?;
    if arguments.verbose {
        for row in &rows {
            table::print(&format!("\n{}\n{}", row.prediction.model.display(), layers(&row.prediction)))?;
        }
    }
    if let Some(json) = json {
        let Forecast { dense, settings, .. } = forecast;
        json.write(&Predictions { version: env!("CARGO_PKG_VERSION").to_owned(), dense, settings, predictions: rows })?;
    }
    Ok(Outcome::Done)
}

fn measure(
    forecast: &Forecast,
    prediction: &Prediction,
    data: Vec<quench::models::text::TextSource>,
    arguments: &Predict,
    observe: quench::job::Observe<'_>,
) -> anyhow::Result<Estimate> {
    let settings = Evaluation { length: arguments.length, stride: arguments.length, ..Evaluation::default() };
    let measurement = Measurement {
        model: prediction.model.clone(),
        name: name(prediction),
        against: Some(forecast.dense.clone()),
        data,
        settings,
        activations: Activations::F32,
        device: forecast.device.clone(),
    };
    measurement.run(observe)?.measure(Gate::MaxKl, None).map_err(anyhow::Error::msg)
}

fn name(prediction: &Prediction) -> String {
    prediction.model.file_name().unwrap_or(prediction.model.as_os_str()).to_string_lossy().into_owned()
}

fn summary(rows: &[Predicted]) -> String {
    let columns = [
        Text("model"),
        Number("bits"),
        Number("predicted KL"),
        Number("95 %"),
        Number("by K-FAC"),
        Number("by the diagonal"),
        Number("measured KL"),
        Number("predicted / measured"),
        Text("costliest layer"),
        Text("doubt"),
    ];
    let cells: Vec<[String; 10]> = rows
        .iter()
        .map(|row| {
            let Prediction { bits_per_parameter, kl, interval, kl_kfac, kl_diagonal, layers, .. } = &row.prediction;
            let worst = layers.iter().max_by(|a, b| a.kl.total_cmp(&b.kl));
            [
                name(&row.prediction),
                format!("{bits_per_parameter:.3}"),
                number(*kl),
                interval.map_or(String::new(), |of| format!("{} to {}", number(of.low), number(of.high))),
                number(*kl_kfac),
                number(*kl_diagonal),
                row.measured_kl.map_or(String::new(), number),
                row.measured_kl.map_or(String::new(), |measured| format!("{:.2}", kl / measured)),
                worst.map_or(String::new(), |worst| format!("{} ({})", worst.layer, percent(worst.kl / kl))),
                row.doubt.clone().unwrap_or_default(),
            ]
        })
        .collect();
    format!(
        "{}KL in nats per label, to second order, and where it will be measured; bits: of the file over the parameters\n",
        table::markdown(columns, &cells)
    )
}

fn layers(prediction: &Prediction) -> String {
    let columns = [
        Text("layer"),
        Number("relative error"),
        Number("predicted KL"),
        Number("by K-FAC"),
        Number("by the diagonal"),
    ];
    let known = |kl: Option<f64>| kl.map_or(String::new(), number);
    let cells: Vec<[String; 5]> = prediction
        .layers
        .iter()
        .map(|layer| {
            let error = percent(layer.relative_error);
            [layer.layer.clone(), error, number(layer.kl), known(layer.kl_kfac), known(layer.kl_diagonal)]
        })
        .collect();
    table::markdown(columns, &cells)
}
