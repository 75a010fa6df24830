//! `quench convert`: the same model in another container.

use quench::checkpoint::Coding;
use quench::job::{Conversion, Converted, JobError, Overwrite, Requantize};

use crate::args::Convert;
use crate::failure::Outcome;
use crate::format::{bytes, count};
use crate::json::Target;
use crate::progress::Progress;
use crate::{interrupt, model, table};

/// Converts, and says what became of the layers.
pub fn run(arguments: &Convert) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let from = model::folder(&arguments.input, arguments.quiet)?.into_owned();
    let overwrite = if arguments.force { Overwrite::Force } else { Overwrite::Refuse };
    let coding = coding(arguments.entropy_code);
    let (to, container) = (arguments.output.clone(), arguments.to);
    let requantize = arguments.requantize.unwrap_or(Requantize::Refuse);
    let conversion = Conversion { from, to, container, overwrite, coding, requantize };
    interrupt::install("nothing is left behind")?;
    let converted = carry_out(&conversion, arguments.quiet)?;
    table::print(&text(&converted, arguments))?;
    if let Some(json) = json {
        json.write(&converted)?;
    }
    Ok(Outcome::Done)
}

/// That of `--entropy-code`.
pub fn coding(entropy_code: bool) -> Coding {
    if entropy_code { Coding::Entropy } else { Coding::Words }
}

fn carry_out(conversion: &Conversion, quiet: bool) -> Result<Converted, JobError> {
    let mut progress = Progress::new(quiet);
    let converted = conversion.run(&mut |step| {
        progress.follow(&step);
        interrupt::flow()
    })?;
    progress.end();
    Ok(converted)
}

fn text(converted: &Converted, arguments: &Convert) -> String {
    let Converted { bytes_before, bytes: after, packed, decoded, requantized, losses, dense, .. } = converted;
    let mut lines = vec![["size".to_owned(), format!("{} -> {}", bytes(*bytes_before), bytes(*after))]];
    if *packed > 0 {
        lines.push(["packed".to_owned(), format!("{}, bit for bit", count(*packed, "layer"))]);
    }
    if *requantized > 0 {
        lines.push(["rounded".to_owned(), format!("{} onto another grid", count(*requantized, "layer"))]);
        lines.extend(losses.iter().map(|loss| [String::new(), loss.to_string()]));
        let worst = losses.iter().reduce(|worst, loss| if loss.worst > worst.worst { loss } else { worst });
        lines.extend(worst.map(|loss| ["worst".to_owned(), format!("{:.2e}, {}", loss.worst, loss.worst_layer)]));
    }
    if *decoded > 0 {
        let what = format!("{} to dense f32, each weight as the packed layer has it", count(*decoded, "layer"));
        lines.push(["decoded".to_owned(), what]);
    }
    lines.push(["dense".to_owned(), format!("{}, unchanged", count(*dense, "tensor"))]);
    let (container, output) = (arguments.to, arguments.output.display());
    format!("{}\nsaved as {container} in {output}\n  quench inspect {output}\n", table::aligned(&lines))
}
