//! [`Shape`]: which pieces and loops a cloud of vectors has, before and after.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Line, Series, Style, slug};
use crate::number::{Evidence, Number, rounded};
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale, error};

/// Persistence diagrams of the same points before and after a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// What of.
    pub title: String,
    /// How many points.
    pub points: u64,
    /// One for each dimension.
    pub before: Vec<Diagram>,
    /// The same dimensions, after.
    pub after: Vec<Diagram>,
    /// What the bottleneck distance cannot exceed, in units of distance; certified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Number>,
    /// The bottleneck distance in each dimension; measured. Empty if it was not computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<Number>,
}

/// A persistence diagram; all numbers are distances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagram {
    /// 0 for pieces, 1 for loops.
    pub dimension: usize,
    /// Birth and death of the features that die.
    pub pairs: Vec<(f64, f64)>,
    /// Births of those that do not.
    pub essential: Vec<f64>,
}

impl Diagram {
    fn name(&self) -> String {
        match self.dimension {
            0 => "pieces".to_owned(),
            1 => "loops".to_owned(),
            n => format!("dimension {n}"),
        }
    }
}

impl Section for Shape {
    const ABOUT: About = About {
        id: "shapes",
        title: "Shape",
        text: "Each mark is a piece or a loop of the cloud: the scale at which it appears, and the one at which it is gone. Marks far \
               above the diagonal are features, marks at it are noise. Features above the dashed line live longer than twice the certified \
               bound: by the stability theorem the changed cloud has them too.",
        from: "quench measure --json; a document with \"shapes\" (quench_job::document::shape)",
    };

    fn check(&self) -> Result<(), ReportError> {
        error::same_length(&self.title, "the diagrams after", self.after.len(), self.before.len())?;
        if !self.distances.is_empty() {
            error::same_length(&self.title, "the bottleneck distances", self.distances.len(), self.before.len())?;
        }
        let numbers = self.before.iter().chain(&self.after).flat_map(|d| d.pairs.iter().flat_map(|(b, d)| [b, d]));
        error::finite(&self.title, "a birth or death", numbers)
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        all.iter().map(Self::group).collect()
    }
}

impl Shape {
    fn group(&self) -> Group {
        let mut parts: Vec<Part> = (0..self.before.len())
            .filter(|at| !self.before[*at].pairs.is_empty() || !self.after[*at].pairs.is_empty())
            .map(|at| Part::Figure(self.figure(at)))
            .collect();
        let head = vec![
            Head::plain("of"),
            Head::of("features before", "", Evidence::Measured),
            Head::of("features after", "", Evidence::Measured),
            Head::of("longest life before", "distance", Evidence::Measured),
            Head::of("longest life after", "distance", Evidence::Measured),
            Head::of("bottleneck distance", "distance", Evidence::Measured),
            Head::of("bound on it", "distance", Evidence::Certified),
            Head::of("surely kept", "features", Evidence::Certified),
        ];
        let mut table = Table::new(format!("Diagrams of {}", self.title), head);
        for (at, (before, after)) in self.before.iter().zip(&self.after).enumerate() {
            let longest = |diagram: &Diagram| {
                Cell::value(diagram.pairs.iter().map(|(birth, death)| death - birth).reduce(f64::max))
            };
            let kept = self.bound.as_ref().map(|bound| {
                before.pairs.iter().filter(|(birth, death)| death - birth > 2.0 * bound.value).count()
                    + before.essential.len()
            });
            table.rows.push(vec![
                Cell::text(before.name()),
                Cell::Value((before.pairs.len() + before.essential.len()) as f64),
                Cell::Value((after.pairs.len() + after.essential.len()) as f64),
                longest(before),
                longest(after),
                Cell::number(self.distances.get(at)),
                Cell::number(self.bound.as_ref()),
                kept.map_or(Cell::Nothing, |kept| Cell::Value(kept as f64)),
            ]);
        }
        parts.push(Part::Table(table.without_empty_columns()));
        Group { title: self.title.clone(), parts }
    }

    fn figure(&self, at: usize) -> Figure {
        let series = |name: &str, diagram: &Diagram, slot: usize| Series {
            name: name.to_owned(),
            style: Style::Points,
            slot,
            data: diagram
                .pairs
                .iter()
                .map(|(birth, death)| {
                    Datum::named(*birth, *death, format!("{name}: {} to {}", rounded(*birth), rounded(*death)))
                })
                .collect(),
        };
        let (before, after) = (&self.before[at], &self.after[at]);
        let mut lines = vec![Line::Diagonal { above: 0.0, name: String::new() }];
        if let Some(bound) = &self.bound {
            lines.push(Line::Diagonal { above: 2.0 * bound.value, name: "above: surely kept (certified)".to_owned() });
        }
        let pairs = || before.pairs.iter().chain(&after.pairs);
        let first = pairs().map(|(birth, _)| *birth).reduce(f64::min);
        let last = pairs().map(|(_, death)| *death).reduce(f64::max);
        Figure {
            id: format!("shape-{}-{}", slug(&self.title), before.dimension),
            title: format!("{} of {} before and after", before.name(), self.title),
            description: format!(
                "Persistence diagram: {} {} before, {} after.",
                before.pairs.len(),
                before.name(),
                after.pairs.len()
            ),
            // The same range on both, so that the diagonal is one.
            x: Axis { with: last, ..Axis::new("birth, distance", Scale::Linear) },
            y: Axis { with: first, ..Axis::new("death, distance", Scale::Linear) },
            series: vec![series("before (measured)", before, 4), series("after (measured)", after, 5)],
            lines,
        }
    }
}
