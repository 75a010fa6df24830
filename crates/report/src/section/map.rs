//! [`Map`]: vectors in the plane, before and after.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Series, Style, slug};
use crate::number::{Evidence, rounded};
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale, error};

/// Vectors in two dimensions, computed by the caller: both sides with the axes of the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// What of.
    pub title: String,
    /// What the axes are: `["first principal component", "second principal component"]`.
    pub axes: [String; 2],
    /// The share of the variance that both axes show, 0 to 1; measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained: Option<f64>,
    /// The names of the vectors; empty if they have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Where each vector was.
    pub before: Vec<[f64; 2]>,
    /// Where it is.
    pub after: Vec<[f64; 2]>,
}

impl Section for Map {
    const ABOUT: About = About {
        id: "maps",
        title: "Map of the vectors",
        text: "The vectors in the plane of the two directions that the axes name; a line joins where a vector was and where it is. What is near \
               in the plane may be far apart in the other dimensions.",
        from: "quench measure --json; a document with \"maps\"",
    };

    fn check(&self) -> Result<(), ReportError> {
        error::same_length(&self.title, "the vectors after", self.after.len(), self.before.len())?;
        if !self.names.is_empty() {
            error::same_length(&self.title, "the names", self.names.len(), self.before.len())?;
        }
        error::finite(&self.title, "a place", self.before.iter().chain(&self.after).flatten())
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        all.iter().map(Self::group).collect()
    }
}

impl Map {
    fn name(&self, at: usize) -> String {
        self.names.get(at).cloned().unwrap_or_else(|| (at + 1).to_string())
    }

    fn group(&self) -> Group {
        let places = |places: &[[f64; 2]]| {
            places.iter().enumerate().map(|(at, [x, y])| Datum::named(*x, *y, self.name(at))).collect()
        };
        let pairs =
            self.before.iter().zip(&self.after).flat_map(|pair| <[_; 2]>::from(pair).map(|[x, y]| Datum::at(*x, *y)));
        let series = |name: &str, style, slot, data| Series { name: name.to_owned(), style, slot, data };
        let figure = Figure {
            id: format!("map-{}", slug(&self.title)),
            title: format!("{}, before and after", self.title),
            description: format!(
                "{} vectors in the plane, each joined with where it is after quantization.",
                self.before.len()
            ),
            x: Axis::new(&self.axes[0], Scale::Linear),
            y: Axis::new(&self.axes[1], Scale::Linear),
            series: vec![
                series("", Style::Pairs, 7, pairs.collect()),
                series("before (measured)", Style::Points, 4, places(&self.before)),
                series("after (measured)", Style::Points, 5, places(&self.after)),
            ],
            lines: Vec::new(),
        };
        let measured = |name: String| Head::of(name, "", Evidence::Measured);
        let [x, y] = &self.axes;
        let head = vec![
            Head::plain("vector"),
            measured(format!("{x}, before")),
            measured(format!("{y}, before")),
            measured(format!("{x}, after")),
            measured(format!("{y}, after")),
        ];
        let mut table = Table::new(format!("Places of {}", self.title), head);
        for (at, ([x, y], [u, v])) in self.before.iter().zip(&self.after).enumerate() {
            let mut row = vec![Cell::Text(self.name(at))];
            row.extend([*x, *y, *u, *v].map(Cell::Value));
            table.rows.push(row);
        }
        let mut parts = vec![Part::Figure(figure), Part::Fallback(table)];
        if let Some(explained) = self.explained {
            let share = rounded(100.0 * explained);
            parts.insert(0, Part::Text(format!("Both axes show {share} % of the variance (measured).")));
        }
        Group { title: self.title.clone(), parts }
    }
}
