//! [`Languages`]: what a model has lost in each language.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Series, Style, slug};
use crate::number::{Evidence, Number, rounded};
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale};

/// The languages of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Languages {
    /// The run.
    pub run: String,
    /// One for each language.
    pub rows: Vec<Language>,
}

/// One language; all numbers are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// Its name or tag.
    pub language: String,
    /// Tokens that were scored.
    pub samples: u64,
    /// Mean divergence from the dense model, nats per token.
    pub kl: Option<Number>,
    /// `perplexity / dense perplexity − 1`.
    pub increase: Option<Number>,
    /// Share of the tokens with the same likeliest successor, 0 to 1.
    pub agreement: Option<Number>,
}

/// A number of a language.
type Of = fn(&Language) -> Option<&Number>;

impl Section for Languages {
    const ABOUT: About = About {
        id: "languages",
        title: "Languages",
        text: "Each language on its own text, with the interval that other text of the kind would give. A language without text is not \
               here; nothing stands in for it.",
        from: "quench quantize --eval LANG=FILE --json, quench eval --data LANG=FILE --against --json",
    };

    fn check(&self) -> Result<(), ReportError> {
        Ok(())
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        all.iter().map(Self::group).collect()
    }
}

impl Languages {
    fn group(&self) -> Group {
        let columns: [(&str, &str, &str, Of); 3] = [
            ("kl", "KL divergence", "nats per token", |row| row.kl.as_ref()),
            ("increase", "Increase of perplexity", "as a fraction", |row| row.increase.as_ref()),
            ("agreement", "Agreement", "share of tokens", |row| row.agreement.as_ref()),
        ];
        let mut parts: Vec<Part> =
            columns[..2].iter().filter_map(|column| self.figure(*column)).map(Part::Figure).collect();
        let mut head = vec![Head::plain("language"), Head::of("tokens", "", Evidence::Measured)];
        head.extend(columns.iter().map(|(_, name, unit, _)| Head::of(*name, *unit, Evidence::Measured)));
        let mut table = Table::new(format!("Languages of {}", self.run), head);
        for row in &self.rows {
            let mut cells = vec![Cell::text(&row.language), Cell::Value(row.samples as f64)];
            cells.extend(columns.iter().map(|(_, _, _, of)| Cell::number(of(row))));
            table.rows.push(cells);
        }
        parts.push(Part::Fallback(table.without_empty_columns()));
        Group { title: self.run.clone(), parts }
    }

    fn figure(&self, (id, title, unit, of): (&str, &str, &str, Of)) -> Option<Figure> {
        // The first language stands on top.
        let rows: Vec<(&Language, &Number)> = self.rows.iter().rev().filter_map(|row| Some((row, of(row)?))).collect();
        if rows.is_empty() {
            return None;
        }
        let data = rows.iter().enumerate().map(|(place, (row, number))| Datum {
            x_range: number.range(),
            ..Datum::named(number.value, place as f64, format!("{}: {}", row.language, rounded(number.value)))
        });
        let names = rows.iter().map(|(row, _)| row.language.clone()).collect();
        Some(Figure {
            id: format!("languages-{}-{id}", slug(&self.run)),
            title: format!("{title} by language (measured), {}", self.run),
            description: format!("Bars with intervals: {title} of {} in {} languages, {unit}.", self.run, rows.len()),
            x: Axis::new(format!("{title}, {unit}"), Scale::Linear),
            y: Axis::new("", Scale::Names(names)),
            series: vec![Series { name: String::new(), style: Style::Bars, slot: 0, data: data.collect() }],
            lines: Vec::new(),
        })
    }
}
