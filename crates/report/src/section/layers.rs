//! [`Layers`]: the error and the bits of each layer.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Series, Style, slug};
use crate::number::Evidence;
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale};

/// The layers of one run, in the order of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layers {
    /// The run.
    pub run: String,
    /// One for each layer.
    pub rows: Vec<Layer>,
}

/// One layer. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layer {
    /// Its name.
    pub layer: String,
    /// Its scheme, as `int4/128/f16`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// The quantizer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Bits per weight with scales and zero points; counted.
    pub bits: Option<f64>,
    /// Signal-to-noise ratio of the weights in dB; measured.
    pub weight_snr_db: Option<f64>,
    /// Signal-to-noise ratio of the output that the error of this layer alone leaves, in dB; measured.
    pub output_snr_db: Option<f64>,
    /// Signal-to-noise ratio of the output in the quantized model, errors of the layers before it included, in dB; measured.
    pub arriving_snr_db: Option<f64>,
    /// `‖Ŵ − W‖ / ‖W‖`; measured.
    pub relative_error: Option<f64>,
    /// What its error adds to the divergence of the model, in nats per label; predicted.
    pub predicted_kl: Option<f64>,
    /// The same where errors do not depend on each other; predicted.
    pub predicted_kl_diagonal: Option<f64>,
}

/// A number of a layer.
type Of = fn(&Layer) -> Option<f64>;

/// How many kinds of layers have a colour of their own.
const KINDS: usize = 8;

impl Section for Layers {
    const ABOUT: About = About {
        id: "layers",
        title: "Layers",
        text: "One mark for each layer, in the order of the model, by its kind. A signal-to-noise ratio that is 6 dB higher is an error \
               of half the size.",
        from: "quench quantize --json (--verbose is not needed), quench eval --against --json, quench predict --json",
    };

    fn check(&self) -> Result<(), ReportError> {
        Ok(())
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        all.iter().map(Self::group).collect()
    }
}

impl Layers {
    fn group(&self) -> Group {
        use Evidence::{Measured, Predicted};
        let figures: [(&str, &str, &str, Of, Scale, Evidence); 6] = [
            (
                "weights",
                "Error of the weights",
                "signal-to-noise ratio, dB",
                |l| l.weight_snr_db,
                Scale::Linear,
                Measured,
            ),
            (
                "output",
                "Error of the outputs, by this layer alone",
                "signal-to-noise ratio, dB",
                |l| l.output_snr_db,
                Scale::Linear,
                Measured,
            ),
            (
                "arriving",
                "Error of the outputs, with all layers before",
                "signal-to-noise ratio, dB",
                |l| l.arriving_snr_db,
                Scale::Linear,
                Measured,
            ),
            (
                "relative",
                "Relative error of the weights",
                "‖Ŵ − W‖ / ‖W‖",
                |l| l.relative_error,
                Scale::Linear,
                Measured,
            ),
            ("bits", "Bits", "bits per weight", |l| l.bits, Scale::Linear, Measured),
            ("kl", "What each layer costs", "KL divergence, nats per label", |l| l.predicted_kl, Scale::Log, Predicted),
        ];
        let mut parts: Vec<Part> =
            figures.into_iter().filter_map(|figure| self.figure(figure)).map(Part::Figure).collect();
        parts.push(Part::Fallback(self.table()));
        Group { title: self.run.clone(), parts }
    }

    /// `None` if no layer has the number.
    fn figure(
        &self,
        (id, title, label, of, scale, evidence): (&str, &str, &str, Of, Scale, Evidence),
    ) -> Option<Figure> {
        let mut kinds: Vec<&str> = Vec::new();
        let mut series: Vec<Series> = Vec::new();
        for (place, row) in self.rows.iter().enumerate() {
            let Some(value) = of(row).filter(|value| value.is_finite()) else { continue };
            let kind = row.layer.rsplit('.').next().unwrap_or(&row.layer);
            let slot = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
            let slot = slot.min(KINDS - 1);
            if slot == series.len() {
                series.push(Series { name: kind.to_owned(), style: Style::Points, slot, data: Vec::new() });
            } else if slot == KINDS - 1 && series[slot].name != kind {
                series[slot].name = "others".to_owned();
            }
            let label = format!("{}: {}", row.layer, crate::rounded(value));
            series[slot].data.push(Datum::named((place + 1) as f64, value, label));
        }
        if series.is_empty() {
            return None;
        }
        let description = format!("{title} of the {} layers of {}, {label}; {evidence}.", self.rows.len(), self.run);
        let y = if id == "bits" { Axis::from_zero(label) } else { Axis::new(label, scale) };
        Some(Figure {
            id: format!("layers-{}-{id}", slug(&self.run)),
            title: format!("{title} ({evidence}), {}", self.run),
            description,
            x: Axis::new("layer, in the order of the model", Scale::Linear),
            y,
            series,
            lines: Vec::new(),
        })
    }

    fn table(&self) -> Table {
        use Evidence::{Measured, Predicted};
        let columns: [(&str, &str, Of, Evidence); 7] = [
            ("bits", "per weight", |l| l.bits, Measured),
            ("weights", "dB", |l| l.weight_snr_db, Measured),
            ("output, alone", "dB", |l| l.output_snr_db, Measured),
            ("output, with layers before", "dB", |l| l.arriving_snr_db, Measured),
            ("relative error", "", |l| l.relative_error, Measured),
            ("KL", "nats per label", |l| l.predicted_kl, Predicted),
            ("KL by the diagonal", "nats per label", |l| l.predicted_kl_diagonal, Predicted),
        ];
        let mut head = vec![Head::plain("layer"), Head::plain("scheme"), Head::plain("method")];
        head.extend(columns.iter().map(|(name, unit, _, evidence)| Head::of(*name, *unit, *evidence)));
        let mut table = Table::new(format!("Layers of {}", self.run), head);
        for row in &self.rows {
            let words = |text: &str| if text.is_empty() { Cell::Nothing } else { Cell::text(text) };
            let mut cells = vec![Cell::text(&row.layer), words(&row.scheme), words(&row.method)];
            cells.extend(columns.iter().map(|(_, _, of, _)| Cell::value(of(row))));
            table.rows.push(cells);
        }
        table.without_empty_columns()
    }
}
