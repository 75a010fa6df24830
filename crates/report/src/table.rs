//! [`Table`]: numbers in rows, each column with its unit and its evidence.

use std::fmt::Write as _;

use crate::escape;
use crate::number::{Evidence, Number, rounded};
use crate::section::summary::Verdict;

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) caption: String,
    pub(crate) head: Vec<Head>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// The head of a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    name: String,
    unit: String,
    evidence: Option<Evidence>,
}

/// What stands in a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Nothing,
    Text(String),
    /// A number whose evidence is that of the column, or that was given.
    Value(f64),
    /// A number of the column's evidence, with its interval.
    Number(Number),
    Evidence(Evidence),
    Verdict(Verdict),
}

impl Head {
    /// A column of words, or of numbers that were given.
    pub(crate) fn plain(name: impl Into<String>) -> Self {
        Self { name: name.into(), unit: String::new(), evidence: None }
    }

    /// A column of numbers.
    pub(crate) fn of(name: impl Into<String>, unit: impl Into<String>, evidence: Evidence) -> Self {
        Self { name: name.into(), unit: unit.into(), evidence: Some(evidence) }
    }
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn value(value: Option<f64>) -> Self {
        value.map_or(Self::Nothing, Self::Value)
    }

    pub(crate) fn number(number: Option<&Number>) -> Self {
        number.map_or(Self::Nothing, |number| Self::Number(number.clone()))
    }

    pub(crate) fn count(count: Option<u64>) -> Self {
        count.map_or(Self::Nothing, |count| Self::Value(count as f64))
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Value(_) | Self::Number(_))
    }
}

impl Table {
    pub(crate) fn new(caption: impl Into<String>, head: Vec<Head>) -> Self {
        Self { caption: caption.into(), head, rows: Vec::new() }
    }

    /// Leaves out columns in which nothing stands.
    pub(crate) fn without_empty_columns(self) -> Self {
        let full = |at: usize| self.rows.iter().any(|row| row[at] != Cell::Nothing);
        let kept: Vec<usize> = (0..self.head.len()).filter(|at| full(*at)).collect();
        let head = kept.iter().map(|at| self.head[*at].clone()).collect();
        let rows = self.rows.iter().map(|row| kept.iter().map(|at| row[*at].clone()).collect()).collect();
        Self { caption: self.caption, head, rows }
    }

    /// The table in a box that scrolls by itself, which a phone needs; `id` names its body.
    pub(crate) fn html(&self, id: Option<&str>) -> String {
        let caption = escape::text(&self.caption);
        let mut out = format!("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\"><table>");
        let _ = write!(out, "<caption>{caption}</caption><thead><tr>");
        for (at, head) in self.head.iter().enumerate() {
            let numbers = self.rows.iter().any(|row| row[at].is_number());
            let class = if numbers { " class=\"number\"" } else { "" };
            let _ = write!(out, "<th scope=\"col\"{class}>{}", escape::text(&head.name));
            if !head.unit.is_empty() {
                let _ = write!(out, " <small>{}</small>", escape::text(&head.unit));
            }
            if let Some(evidence) = head.evidence {
                out.push(' ');
                out.push_str(&badge(evidence));
            }
            out.push_str("</th>");
        }
        let id = id.map_or(String::new(), |id| format!(" id=\"{}\"", escape::text(id)));
        let _ = write!(out, "</tr></thead><tbody{id}>");
        for row in &self.rows {
            out.push_str("<tr>");
            for (at, cell) in row.iter().enumerate() {
                out.push_str(&cell_html(cell, at == 0));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        out
    }
}

fn cell_html(cell: &Cell, first: bool) -> String {
    let (open, close) = if first { ("<th scope=\"row\"", "</th>") } else { ("<td", "</td>") };
    match cell {
        Cell::Nothing => format!("{open}>{close}"),
        Cell::Text(text) => format!("{open}>{}{close}", escape::text(text)),
        Cell::Evidence(evidence) => format!("{open}>{}{close}", badge(*evidence)),
        Cell::Verdict(verdict) => {
            let class = match verdict {
                Verdict::Passed => "passed",
                Verdict::Failed => "failed",
                Verdict::Inconclusive => "open",
            };
            format!("{open}><span class=\"verdict {class}\">{verdict}</span>{close}")
        }
        Cell::Value(value) => format!("{open} class=\"number\">{}{close}", data(*value)),
        Cell::Number(number) => {
            let interval = number.interval.map_or(String::new(), |interval| {
                let usual = (interval.level - 0.95).abs() < 1e-9;
                let level = if usual { String::new() } else { format!(" ({} %)", percent(interval.level)) };
                format!(" <small>{} to {}{level}</small>", data(interval.low), data(interval.high))
            });
            format!("{open} class=\"number\">{}{interval}{close}", data(number.value))
        }
    }
}

/// A number with all of its digits for machines, and four for people.
pub(crate) fn data(value: f64) -> String {
    if !value.is_finite() {
        return rounded(value);
    }
    format!("<data value=\"{value:?}\">{}</data>", rounded(value))
}

/// A level of confidence in percent.
fn percent(level: f64) -> String {
    rounded((1e6 * level).round() / 1e4)
}

/// How a number came about, as a word in a frame.
pub(crate) fn badge(evidence: Evidence) -> String {
    format!("<span class=\"badge {evidence}\">{evidence}</span>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusual_level_is_said() {
        let of = |level| cell_html(&Cell::Number(Number::new(2.5, Evidence::Measured).between(2.0, 3.0, level)), false);
        assert!(of(0.95).ends_with("</data></small></td>"), "{}", of(0.95));
        assert!(of(0.9).ends_with("</data> (90 %)</small></td>"), "{}", of(0.9));
    }

    #[test]
    fn cells_are_escaped_and_empty_columns_left_out() {
        let head = vec![Head::plain("<a>"), Head::plain("b"), Head::of("kl", "nats", Evidence::Predicted)];
        let mut table = Table::new("c & d", head);
        table.rows.push(vec![Cell::text("</td>\""), Cell::Nothing, Cell::Value(0.25)]);
        let html = table.without_empty_columns().html(Some("rows"));
        assert!(html.contains("<caption>c &amp; d</caption>"), "{html}");
        assert!(
            html.contains("<th scope=\"col\">&lt;a&gt;</th><th scope=\"col\" class=\"number\">kl <small>nats</small>")
        );
        assert!(html.contains(
            "<th scope=\"row\">&lt;/td&gt;&quot;</th><td class=\"number\"><data value=\"0.25\">0.2500</data></td>"
        ));
        assert!(html.contains("badge predicted") && html.contains("<tbody id=\"rows\">"));
    }
}
