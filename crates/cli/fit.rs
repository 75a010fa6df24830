//! `quench fit`: on which machines a model runs.

use quench::job::recipes;
use quench::job::{Fitted, Fitting, machine, machines};
use quench::quantize::fit::{Fit as Found, Load, Machine};

use crate::args::Fit;
use crate::failure::Outcome;
use crate::format::{bytes, number};
use crate::json::Target;
use crate::model;
use crate::table::{self, Column};

/// The word for every machine.
const ALL: &str = "all";

/// Prints a table of machines, and what the model takes.
pub fn run(arguments: &Fit) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let machines = match arguments.device.as_str() {
        ALL => machines(),
        name => vec![machine(name)?],
    };
    let recipe = arguments.recipe.as_deref().map(recipes::find).transpose()?;
    let load = Load {
        context: arguments.context as u64,
        batch: arguments.batch as u64,
        cache_bits: arguments.cache_bits,
        chunk: arguments.chunk as u64,
    };
    let folder = model::folder(&arguments.model, false)?.into_owned();
    let fitted = Fitting { model: folder, recipe, load, machines }.run()?;
    table::print(&text(&fitted))?;
    if let Some(json) = json {
        json.write(&fitted)?;
    }
    Ok(Outcome::Done)
}

fn text(fitted: &Fitted) -> String {
    let columns = [
        Column::Text("machine"),
        Column::Text("fits"),
        Column::Number("memory"),
        Column::Number("reserve"),
        Column::Number("left"),
        Column::Number("longest context"),
        Column::Number("tokens/s at most"),
    ];
    let row = |(machine, fit): &(Machine, Found)| {
        let left =
            if fit.fits() { bytes(fit.left as u64) } else { format!("-{}", bytes(fit.left.unsigned_abs() as u64)) };
        [
            machine.name.clone(),
            if fit.fits() { "yes" } else { "no" }.to_owned(),
            bytes(machine.memory),
            bytes(machine.reserve),
            left,
            fit.longest.map_or_else(|| "none".to_owned(), |longest| longest.to_string()),
            if fit.fits() { number(fit.tokens_per_second) } else { String::new() },
        ]
    };
    let rows: Vec<_> = fitted.machines.iter().map(row).collect();
    let load = fitted.load;
    let needs = |size: u64, what: String| format!("{}{what}", bytes(size));
    let mut lines = vec![["weights".to_owned(), bytes(fitted.weights.bytes)]];
    let asked = format!(" for {} of {} tokens, {} bits each number", load.batch, load.context, load.cache_bits);
    lines.push(["cache".to_owned(), needs(fitted.sizes.cache(load), asked)]);
    let chunk = format!(" at most, for {} tokens of the prompt at a time", load.chunk.min(load.context));
    lines.push(["activations".to_owned(), needs(fitted.sizes.activations(load), chunk)]);
    lines.push(["context".to_owned(), format!("at most {} tokens, as the model was made", fitted.max_context)]);
    format!("{}\n{}", table::markdown(columns, &rows), table::aligned(&lines))
}
