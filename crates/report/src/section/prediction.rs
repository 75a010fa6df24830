//! [`Prediction`]: what was predicted of a model beside what was measured.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Line, Series, Style};
use crate::number::{Evidence, Number, rounded};
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale};

/// The divergence of one model from the dense one, in nats per label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The model.
    pub name: String,
    /// Bits per parameter of the whole model; counted.
    pub bits: Option<f64>,
    /// What was predicted.
    pub predicted: Number,
    /// What was measured, if anything was.
    pub measured: Option<Number>,
    /// Why the prediction should not be relied on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doubt: String,
}

impl Section for Prediction {
    const ABOUT: About = About {
        id: "predictions",
        title: "Prediction against measurement",
        text: "The divergence that the curvature of the dense model predicts from the errors of the weights, beside the one that running \
               the quantized model finds. On the line both are equal; hollow marks are those that the prediction itself doubts.",
        from: "quench predict --json, with --eval for what is measured",
    };

    fn check(&self) -> Result<(), ReportError> {
        Ok(())
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        let mut parts = Vec::new();
        let series = |doubted: bool| Series {
            name: if doubted { "with a doubt".to_owned() } else { "without a doubt".to_owned() },
            style: Style::Points,
            slot: if doubted { 4 } else { 0 },
            data: all.iter().filter(|p| p.doubt.is_empty() != doubted).filter_map(Self::datum).collect(),
        };
        let series: Vec<Series> = [false, true].map(series).into_iter().filter(|s| !s.data.is_empty()).collect();
        if !series.is_empty() {
            let points: usize = series.iter().map(|series| series.data.len()).sum();
            parts.push(Part::Figure(Figure {
                id: "predictions".to_owned(),
                title: "Prediction against measurement".to_owned(),
                description: format!("Measured over predicted divergence of {points} models, on logarithmic axes."),
                x: Axis::new("predicted KL, nats per label", Scale::Log),
                y: Axis::new("measured KL, nats per label", Scale::Log),
                series,
                lines: vec![Line::Diagonal { above: 0.0, name: "both equal".to_owned() }],
            }));
        }
        parts.push(Part::Table(table(all)));
        vec![Group { title: String::new(), parts }]
    }
}

impl Prediction {
    fn datum(&self) -> Option<Datum> {
        let measured = self.measured.as_ref()?;
        let label =
            format!("{}: predicted {}, measured {}", self.name, rounded(self.predicted.value), rounded(measured.value));
        Some(Datum {
            x_range: self.predicted.range(),
            y_range: measured.range(),
            ..Datum::named(self.predicted.value, measured.value, label)
        })
    }
}

fn table(all: &[Prediction]) -> Table {
    let head = vec![
        Head::plain("model"),
        Head::of("size", "bits per parameter", Evidence::Measured),
        Head::of("KL", "nats per label", Evidence::Predicted),
        Head::of("KL", "nats per label", Evidence::Measured),
        Head::plain("doubt"),
    ];
    let mut table = Table::new("Predicted and measured divergence", head);
    for row in all {
        table.rows.push(vec![
            Cell::text(&row.name),
            Cell::value(row.bits),
            Cell::Number(row.predicted.clone()),
            Cell::number(row.measured.as_ref()),
            if row.doubt.is_empty() { Cell::Nothing } else { Cell::text(&row.doubt) },
        ]);
    }
    table.without_empty_columns()
}
