//! [`Rates`]: what is kept at which rate, beside what no code can exceed.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Series, Style, slug};
use crate::number::{Evidence, Number, rounded};
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale, error};

/// Points and bounds over a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// What of: `weights, layer by layer`.
    pub title: String,
    /// The horizontal axis; bits per weight for most.
    pub rate: Measure,
    /// The vertical axis.
    pub quality: Measure,
    /// Curves that a theorem gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<Bound>,
    /// What was measured or predicted.
    pub points: Vec<RatePoint>,
}

/// What is on an axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Its name: `signal-to-noise ratio`.
    pub name: String,
    /// Its unit: `dB`.
    pub unit: String,
    /// Whether equal ratios are equally far apart.
    #[serde(default)]
    pub logarithmic: bool,
}

/// A curve that a theorem gives for a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// Its name and source: `Shannon, Gaussian`.
    pub name: String,
    /// `certified` where the law of the source is known, `measured` where it was estimated from samples.
    pub evidence: Evidence,
    /// `(rate, quality)`, by ascending rate.
    pub points: Vec<(f64, f64)>,
}

/// A code, a layer or a model at its rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatePoint {
    /// What it belongs to; points of one series look alike.
    pub series: String,
    /// What it is.
    pub name: String,
    /// Its rate; counted.
    pub rate: f64,
    /// What is kept or lost.
    pub quality: Number,
}

impl Measure {
    /// A linear axis.
    pub fn new(name: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { name: name.into(), unit: unit.into(), logarithmic: false }
    }

    /// The same as a logarithmic one.
    pub fn logarithmic(self) -> Self {
        Self { logarithmic: true, ..self }
    }

    pub(crate) fn axis(&self) -> Axis {
        let label = if self.unit.is_empty() { self.name.clone() } else { format!("{}, {}", self.name, self.unit) };
        Axis::new(label, if self.logarithmic { Scale::Log } else { Scale::Linear })
    }
}

impl Section for Rates {
    const ABOUT: About = About {
        id: "rates",
        title: "Rate and distortion",
        text: "What is kept at the bits that are really stored, scales included. Dashed curves are theorems about a source with \
               independent numbers of the law that they name, which weights have only nearly: no code exceeds Shannon's, no code of \
               fixed length and one scale exceeds Lloyd's and Max's.",
        from: "quench quantize --json, quench snr --json; several of them make curves",
    };

    fn check(&self) -> Result<(), ReportError> {
        error::finite(&self.title, "a rate", self.points.iter().map(|point| &point.rate))?;
        let bounds =
            self.bounds.iter().flat_map(|bound| bound.points.iter().flat_map(|(rate, quality)| [rate, quality]));
        error::finite(&self.title, "a bound", bounds)
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        all.iter().map(Self::group).collect()
    }
}

impl Rates {
    /// Points by series and evidence, in the order in which they come.
    fn series(&self) -> Vec<(&str, Evidence, Vec<&RatePoint>)> {
        let mut found: Vec<(&str, Evidence, Vec<&RatePoint>)> = Vec::new();
        for point in &self.points {
            let key = (point.series.as_str(), point.quality.evidence);
            match found.iter_mut().find(|(series, evidence, _)| (*series, *evidence) == key) {
                Some((_, _, points)) => points.push(point),
                None => found.push((key.0, key.1, vec![point])),
            }
        }
        found
    }

    fn group(&self) -> Group {
        let bounds = self.bounds.iter().enumerate().map(|(slot, bound)| Series {
            name: format!("{} ({})", bound.name, bound.evidence),
            style: Style::Dashed,
            slot: 7 - slot % 3,
            data: bound.points.iter().map(|(rate, quality)| Datum::at(*rate, *quality)).collect(),
        });
        let points = self.series().into_iter().enumerate().map(|(slot, (name, evidence, points))| Series {
            name: format!("{name} ({evidence})"),
            style: Style::Points,
            slot,
            data: points
                .into_iter()
                .map(|point| Datum {
                    y_range: point.quality.range(),
                    ..Datum::named(
                        point.rate,
                        point.quality.value,
                        format!("{}: {} at {}", point.name, rounded(point.quality.value), rounded(point.rate)),
                    )
                })
                .collect(),
        });
        let figure = Figure {
            id: format!("rates-{}", slug(&self.title)),
            title: self.title.clone(),
            description: format!(
                "{} over {} of {} points, with {} curves of theory.",
                self.quality.name,
                self.rate.name,
                self.points.len(),
                self.bounds.len()
            ),
            x: self.rate.axis(),
            y: self.quality.axis(),
            series: bounds.chain(points).collect(),
            lines: Vec::new(),
        };
        let mut parts = vec![Part::Figure(figure)];
        // One table for each evidence, so that no column mixes them.
        for evidence in [Evidence::Measured, Evidence::Predicted, Evidence::Certified] {
            let head = vec![
                Head::plain("name"),
                Head::plain("series"),
                Head::of(&self.rate.name, &self.rate.unit, Evidence::Measured),
                Head::of(&self.quality.name, &self.quality.unit, evidence),
            ];
            let mut table = Table::new(format!("{}: {evidence}", self.title), head);
            let rows = self.points.iter().filter(|point| point.quality.evidence == evidence).map(|point| {
                let quality = Cell::Number(point.quality.clone());
                vec![Cell::text(&point.name), Cell::text(&point.series), Cell::Value(point.rate), quality]
            });
            table.rows.extend(rows);
            if !table.rows.is_empty() {
                parts.push(Part::Fallback(table));
            }
        }
        for evidence in [Evidence::Certified, Evidence::Measured, Evidence::Predicted] {
            let bounds = self.bounds.iter().filter(|bound| bound.evidence == evidence);
            let head = vec![
                Head::plain("bound"),
                Head::plain(format!("{}, {}", self.rate.name, self.rate.unit)),
                Head::of(&self.quality.name, &self.quality.unit, evidence),
            ];
            let mut table = Table::new(format!("{}: bounds, {evidence}", self.title), head);
            for bound in bounds {
                let row = |(rate, quality): &(f64, f64)| {
                    vec![Cell::text(&bound.name), Cell::Value(*rate), Cell::Value(*quality)]
                };
                table.rows.extend(bound.points.iter().map(row));
            }
            if !table.rows.is_empty() {
                parts.push(Part::Fallback(table));
            }
        }
        Group { title: self.title.clone(), parts }
    }
}
