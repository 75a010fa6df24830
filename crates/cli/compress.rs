//! `quench compress`: as small as asked for, and as close to the dense model as that allows.

use quench::job::{Budget, Compressed, Compression, Overwrite, Verdict};
use quench::quantize::recipe::{Evaluation, Gates};

use crate::args::Compress;
use crate::failure::Outcome;
use crate::format::{bytes, number};
use crate::json::Target;
use crate::model::{self, Texts};
use crate::progress::Progress;
use crate::table::Column::{Number, Text};
use crate::{interrupt, table, texts};

/// Finds a plan, carries it out, and prints what was tried.
pub fn run(arguments: &Compress) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let spark = model::is_spark(&arguments.model);
    let data = |given: &[_], kind: Texts, option: &str| match (given, spark) {
        ([], true) => texts::sources(&[model::spark_texts(kind)?]),
        ([], false) => anyhow::bail!("plans are chosen by what is measured; give {option} PATH"),
        (named, _) => texts::sources(named),
    };
    let budget = match (arguments.ratio, arguments.bits, arguments.bytes) {
        (Some(ratio), ..) => Budget::Ratio(ratio),
        (_, Some(bits), _) => Budget::Bits(bits),
        (.., Some(bytes)) => Budget::Bytes(bytes),
        _ => anyhow::bail!("say how small: --ratio, --bits or --bytes"),
    };
    let limits = &arguments.floor;
    let compression = Compression {
        model: model::folder(&arguments.model, arguments.quiet)?.into_owned(),
        output: arguments.output.clone(),
        budget,
        floor: Gates {
            max_kl: limits.max_kl.or(limits.coherence.map(|coherence| -coherence.ln())),
            min_agreement: limits.min_agreement,
            max_perplexity_increase: limits.max_perplexity_increase,
            max_accuracy_drop: limits.max_accuracy_drop,
            max_correlation_drop: limits.max_correlation_drop,
            min_neighbours: limits.min_neighbours,
            ..Gates::default()
        },
        calibration: data(&arguments.calibration, Texts::Calibration, "--calibration")?,
        evaluation: data(&arguments.eval, Texts::Evaluation, "--eval")?,
        settings: Evaluation { windows: arguments.windows, ..Evaluation::default() },
        device: arguments.device.resolve()?,
        overwrite: if arguments.force { Overwrite::Force } else { Overwrite::Refuse },
    };
    interrupt::install("nothing is kept of a search that is broken off")?;
    let mut progress = Progress::new(arguments.quiet);
    let found = compression.run(&mut |step| {
        progress.follow(&step);
        interrupt::flow()
    })?;
    progress.end();
    table::print(&text(&found, arguments))?;
    if let Some(json) = json {
        json.write(&found)?;
    }
    Ok(if found.kept() { Outcome::Done } else { Outcome::GateFailed })
}

fn text(found: &Compressed, arguments: &Compress) -> String {
    let columns = [
        Text("plan"),
        Number("bytes"),
        Number("predicted KL"),
        Number("measured KL"),
        Text("layers by scheme"),
        Text("floor"),
        Text(""),
    ];
    let cells: Vec<[String; 7]> = found
        .attempts
        .iter()
        .enumerate()
        .map(|(index, attempt)| {
            let schemes: Vec<String> =
                attempt.schemes.iter().map(|(scheme, count)| format!("{count} {scheme}")).collect();
            let misses = if attempt.misses.is_empty() { "kept".to_owned() } else { attempt.misses.join("; ") };
            let over = if attempt.bytes > found.budget { "too large" } else { "" };
            [
                attempt.name.clone(),
                attempt.bytes.to_string(),
                number(attempt.predicted_kl),
                number(attempt.kl),
                schemes.join(", "),
                misses,
                if found.best == Some(index) { "best" } else { over }.to_owned(),
            ]
        })
        .collect();
    let table = match cells.is_empty() {
        true => String::new(),
        false => format!(
            "{}KL in nats per label; predicted to second order, measured on the evaluation data\n\n",
            table::markdown(columns, &cells)
        ),
    };
    let verdict = match &found.verdict {
        Verdict::Kept => "the floor is kept".to_owned(),
        Verdict::Missed(misses) => format!(
            "no plan within {} keeps the floor: {}\nthe best one is saved; allow more bytes, or fine-tune it",
            bytes(found.budget),
            misses.join("; ")
        ),
        Verdict::TooSmall(smallest) => format!(
            "infeasible: {} are asked for, and the fewest bits for every layer take {}\n{}",
            bytes(found.budget),
            bytes(*smallest),
            found.certificate
        ),
    };
    let saved = match found.best {
        Some(_) => format!("\nsaved in {}\n  quench inspect {0}", arguments.output.display()),
        None => String::new(),
    };
    format!("{table}{verdict}{saved}\n")
}
