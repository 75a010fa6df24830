//! `quench inspect`: what is in a checkpoint.

use quench::job::{self, Inspection};

use crate::args::Inspect;
use crate::failure::Outcome;
use crate::format::bytes;
use crate::json::Target;
use crate::layers::{self, Layer};
use crate::{model, table};

/// Prints a table of the layers, and totals.
pub fn run(arguments: &Inspect) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let inspection = job::inspect(&model::folder(&arguments.path, false)?)?;
    table::print(&text(&inspection, arguments.verbose))?;
    if let Some(json) = json {
        json.write(&inspection)?;
    }
    Ok(Outcome::Done)
}

fn text(inspection: &Inspection, verbose: bool) -> String {
    let layers = inspection.rows.iter().map(|row| Layer {
        name: row.layer.clone(),
        shape: row.shape.clone(),
        scheme: row.scheme.clone(),
        method: if row.entropy_coded { "rANS".to_owned() } else { String::new() },
        bits_per_weight: Some(row.bits_per_weight),
        weight_snr_db: row.weight_snr_db,
        output_snr_db: row.output_snr_db,
    });
    let mut lines = vec![
        ["dialect".to_owned(), inspection.dialect.to_owned()],
        ["size".to_owned(), format!("{}, {} parameters", bytes(inspection.bytes), inspection.parameters)],
    ];
    let whole = format!("{:.3} over the whole checkpoint", inspection.bits_per_parameter);
    let bits = match (inspection.bits_per_weight, inspection.decoded_bits_per_weight) {
        (Some(packed), Some(decoded)) => {
            format!("{packed:.3} in the quantized layers, {decoded:.3} once decoded, {whole}")
        }
        (Some(packed), None) => format!("{packed:.3} in the quantized layers, {whole}"),
        (None, _) => whole,
    };
    lines.push(["bits per weight".to_owned(), bits]);
    lines.extend(inspection.recipe.iter().map(|recipe| ["recipe".to_owned(), recipe.clone()]));
    lines.extend(inspection.gates.iter().map(|gates| ["gates".to_owned(), gates.clone()]));
    let layers: Vec<Layer> = layers.collect();
    let legend = if layers.iter().any(|layer| layer.weight_snr_db.is_some()) { layers::LEGEND } else { "" };
    format!("{}{legend}\n{}", layers::table(&layers, verbose), table::aligned(&lines))
}
