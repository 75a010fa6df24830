//! [`Explorer`]: a table of what was computed for many settings, to be looked through with sliders.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Series, Style};
use crate::number::Evidence;
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale, error};

/// Settings, and what was found at each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explorer {
    /// What of.
    pub title: String,
    /// What can be set; a slider each.
    pub parameters: Vec<Parameter>,
    /// What was found.
    pub columns: Vec<Column>,
    /// One for each setting that was computed; settings that are not here were not, and the page says so.
    pub rows: Vec<Row>,
}

/// Something that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its name: `group size`.
    pub name: String,
    /// Its unit; empty for a plain number.
    #[serde(default)]
    pub unit: String,
    /// Whether equal ratios are equally far apart.
    #[serde(default)]
    pub logarithmic: bool,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name: `mean KL divergence`.
    pub name: String,
    /// Its unit; empty for a plain number.
    #[serde(default)]
    pub unit: String,
    /// How its numbers came about.
    pub evidence: Evidence,
    /// Whether equal ratios are equally far apart.
    #[serde(default)]
    pub logarithmic: bool,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The value of each parameter.
    pub at: Vec<f64>,
    /// The value of each column; nothing where it was not computed.
    pub found: Vec<Option<f64>>,
}

impl Section for Explorer {
    const ABOUT: About = About {
        id: "explorers",
        title: "Explorer",
        text: "Sliders choose a setting; what was computed for it is looked up in the table below, and nothing is computed or guessed \
               here. The curve shows all values of one setting, with the others as the sliders say. The arrow keys move a slider.",
        from: "several quench quantize --json of one model that differ in bits or group size; a document with \"explorers\" or \"sweeps\"",
    };

    fn check(&self) -> Result<(), ReportError> {
        for row in &self.rows {
            error::same_length(&self.title, "a row's setting", row.at.len(), self.parameters.len())?;
            error::same_length(&self.title, "a row", row.found.len(), self.columns.len())?;
            error::finite(&self.title, "a setting", &row.at)?;
            error::finite(&self.title, "a value", row.found.iter().flatten())?;
        }
        Ok(())
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        all.iter()
            .enumerate()
            .map(|(at, one)| Group { title: one.title.clone(), parts: vec![Part::Explorer(at, one.clone())] })
            .collect()
    }
}

impl Explorer {
    /// The values of a parameter that occur, ascending.
    pub fn values(&self, parameter: usize) -> Vec<f64> {
        let mut values: Vec<f64> = self.rows.iter().map(|row| row.at[parameter]).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    }

    /// All rows, as they are given.
    pub(crate) fn table(&self) -> Table {
        let named = |name: &str, unit: &str| if unit.is_empty() { name.to_owned() } else { format!("{name}, {unit}") };
        let parameters = self.parameters.iter().map(|parameter| Head::plain(named(&parameter.name, &parameter.unit)));
        let columns = self.columns.iter().map(|column| Head::of(&column.name, &column.unit, column.evidence));
        let mut table = Table::new(format!("All settings of {}", self.title), parameters.chain(columns).collect());
        let cells = |row: &Row| {
            let at = row.at.iter().map(|at| Cell::Value(*at));
            at.chain(row.found.iter().map(|found| Cell::value(*found))).collect()
        };
        table.rows = self.rows.iter().map(cells).collect();
        table
    }

    /// The axes of a column over a parameter, wide enough for every row, and all rows as points without a name.
    pub(crate) fn frame(&self, id: &str, parameter: usize, column: usize) -> Figure {
        let (over, of) = (&self.parameters[parameter], &self.columns[column]);
        let scale = |logarithmic| if logarithmic { Scale::Log } else { Scale::Linear };
        let label = |name: &str, unit: &str| if unit.is_empty() { name.to_owned() } else { format!("{name}, {unit}") };
        let data = self.rows.iter().filter_map(|row| Some(Datum::at(row.at[parameter], row.found[column]?)));
        // The values themselves, where they are few.
        let ticks = Some(self.values(parameter)).filter(|values| values.len() <= 8).unwrap_or_default();
        Figure {
            id: format!("{id}-{parameter}-{column}"),
            title: format!("{} over {}", of.name, over.name),
            description: format!(
                "{} ({}) over {} for the chosen setting; the table has all numbers.",
                of.name, of.evidence, over.name
            ),
            x: Axis { ticks, ..Axis::new(label(&over.name, &over.unit), scale(over.logarithmic)) },
            y: Axis::new(label(&of.name, &of.unit), scale(of.logarithmic)),
            series: vec![Series { name: String::new(), style: Style::Points, slot: 7, data: data.collect() }],
            lines: Vec::new(),
        }
    }
}
