//! The table of layers: one line per kind of layer, or per layer.

use quench::job::layer_kind;

use crate::table::{self, Column};

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it is coded, or the type of a dense one.
    pub scheme: String,
    /// How it was quantized, if that is known.
    pub method: String,
    /// Stored bits over weights.
    pub bits_per_weight: Option<f64>,
    /// Signal-to-noise ratio of its weights.
    pub weight_snr_db: Option<f64>,
    /// Signal-to-noise ratio of its output on the calibration inputs.
    pub output_snr_db: Option<f64>,
}

/// A scheme, or several in turn, as the texts between curvatures, and the curvatures: `slog5:mu8/128/f16` is
/// `["slog5", "/128/f16"]` and `[8]`.
fn pieces(scheme: &str) -> (Vec<&str>, Vec<f32>) {
    let mut parts = scheme.split(":mu");
    let (mut texts, mut curvatures) = (Vec::from_iter(parts.next()), Vec::new());
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(part.len());
        curvatures.push(part[..end].parse().unwrap_or_default());
        texts.push(&part[end..]);
    }
    (texts, curvatures)
}

/// The scheme of layers that differ in curvatures alone, these as ranges: `slog5:mu1.5..4/128/f16`.
fn common_scheme(members: &[&Layer]) -> String {
    let (texts, _) = pieces(&members[0].scheme);
    let mut scheme = String::new();
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            let found = members.iter().filter_map(|layer| pieces(&layer.scheme).1.get(at - 1).copied());
            let (low, high) = found.fold((f32::INFINITY, 0.0_f32), |(low, high), mu| (low.min(mu), high.max(mu)));
            let range = if low == high { low.to_string() } else { format!("{low}..{high}") };
            scheme.push_str(&format!(":mu{range}"));
        }
        scheme.push_str(text);
    }
    scheme
}

/// What the columns of the table are.
pub const LEGEND: &str = "bits per weight, scales included; signal-to-noise ratio of weights and of outputs on calibration text: mean (worst)\n";

/// One line per layer if `every`, else one per kind, shape and scheme; curvatures that were searched share a line.
pub fn table(layers: &[Layer], every: bool) -> String {
    let mut groups: Vec<(String, Vec<&Layer>)> = Vec::new();
    for layer in layers {
        let kind = if every { layer.name.clone() } else { layer_kind(&layer.name) };
        let fits = |(name, members): &(String, Vec<&Layer>)| {
            let alike = |other: &Layer| {
                (&other.shape, &other.method) == (&layer.shape, &layer.method)
                    && pieces(&other.scheme).0 == pieces(&layer.scheme).0
            };
            *name == kind && members.first().is_some_and(|other| alike(other))
        };
        match groups.iter_mut().find(|group| fits(group)) {
            Some((_, members)) => members.push(layer),
            None => groups.push((kind, vec![layer])),
        }
    }
    let rows: Vec<[String; 8]> = groups.iter().map(|(kind, members)| row(kind, members)).collect();
    let columns = [
        Column::Text("layer"),
        Column::Number("n"),
        Column::Text("shape"),
        Column::Text("scheme"),
        Column::Text("method"),
        Column::Number("bits"),
        Column::Number("weight dB"),
        Column::Number("output dB"),
    ];
    table::markdown(columns, &rows)
}

fn row(kind: &str, members: &[&Layer]) -> [String; 8] {
    let first = members[0];
    let several = members.len() > 1;
    let of =
        |value: fn(&Layer) -> Option<f64>| -> Vec<f64> { members.iter().filter_map(|layer| value(layer)).collect() };
    let (bits, weight, output) =
        (of(|layer| layer.bits_per_weight), of(|layer| layer.weight_snr_db), of(|layer| layer.output_snr_db));
    [
        // Alone, a layer is called by its own name.
        if several { kind.to_owned() } else { first.name.clone() },
        if several { members.len().to_string() } else { String::new() },
        format!("{:?}", first.shape),
        common_scheme(members),
        first.method.clone(),
        mean(&bits).map_or_else(String::new, |bits| format!("{bits:.3}")),
        decibels(&weight),
        decibels(&output),
    ]
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The mean, and the worst of several: `21.3 (19.8)`.
fn decibels(values: &[f64]) -> String {
    let worst = values.iter().copied().fold(f64::INFINITY, f64::min);
    match mean(values) {
        None => String::new(),
        Some(mean) if values.len() == 1 => format!("{mean:.1}"),
        Some(mean) => format!("{mean:.1} ({worst:.1})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, scheme: &str, snr: Option<f64>) -> Layer {
        Layer {
            name: name.to_owned(),
            shape: vec![4, 8],
            scheme: scheme.to_owned(),
            method: String::new(),
            bits_per_weight: Some(4.25),
            weight_snr_db: snr,
            output_snr_db: None,
        }
    }

    #[test]
    fn layers_of_one_kind_share_a_line() {
        let layers = [
            layer("model.layers.0.mlp.up_proj", "int4", Some(20.0)),
            layer("model.layers.1.mlp.up_proj", "int4", Some(18.0)),
            layer("model.layers.2.mlp.up_proj", "int8", Some(40.0)),
            layer("lm_head", "dense", None),
        ];
        let table = super::table(&layers, false);
        assert!(
            table.contains("| model.layers.*.mlp.up_proj | 2 | [4, 8] | int4   | 4.250 | 19.0 (18.0) |"),
            "{table}"
        );
        assert!(table.contains("| model.layers.2.mlp.up_proj |   | [4, 8] | int8   |"), "{table}");
        assert_eq!(table.lines().count(), 5);
        assert!(!table.contains("method") && !table.contains("output dB"), "empty columns are left out\n{table}");
        assert_eq!(super::table(&layers, true).lines().count(), 6);
    }

    #[test]
    fn curvatures_share_a_line() {
        let schemes = ["slog8:mu0/128/f16 > slog5:mu4/128/f16", "slog8:mu0/128/f16 > slog5:mu1.5/128/f16"];
        let layers = [0, 1].map(|at| layer(&format!("layers.{at}.fc"), schemes[at], None));
        let table = super::table(&layers, false);
        assert!(table.contains("| layers.*.fc | 2 | [4, 8] | slog8:mu0/128/f16 > slog5:mu1.5..4/128/f16 |"), "{table}");
        let table = super::table(&layers, true);
        assert!(schemes.iter().all(|scheme| table.contains(&format!("| {scheme} "))), "{table}");
    }
}
