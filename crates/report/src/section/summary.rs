//! [`Run`]: a quantized model as a whole.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::number::{Evidence, Number, null_as_nan};
use crate::table::{Cell, Head, Table};
use crate::{ReportError, error};

/// A model that was quantized, or measured, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// What it is called in all sections.
    pub name: String,
    /// The dense model.
    pub model: String,
    /// The recipe; empty if it is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub recipe: String,
    /// Where it was computed; empty if it is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// What is known of the whole model.
    pub measures: Vec<Measure>,
    /// The limits it was held against.
    pub gates: Vec<Gate>,
    /// What is to be said in words: verdicts, doubts.
    pub notes: Vec<String>,
}

/// Bytes and bits; counted, so of evidence `measured`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Bytes of the dense model as it was stored.
    pub dense_bytes: u64,
    /// Bytes of the quantized one.
    pub bytes: u64,
    /// `dense_bytes / bytes`.
    pub compression: f64,
    /// The same against 32 bits for each parameter.
    pub compression_f32: f64,
    /// Bits per weight of the quantized layers, with scales and zero points.
    #[serde(with = "null_as_nan")]
    pub bits_per_weight: f64,
    /// Bits per parameter of the whole model.
    pub bits_per_parameter: f64,
}

/// A number about the whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// What it is: `mean KL divergence`.
    pub name: String,
    /// Its unit: `nats per token`; empty for a plain number.
    #[serde(default)]
    pub unit: String,
    /// The number.
    pub number: Number,
}

/// A limit, and what was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Its name: `max_kl`.
    pub name: String,
    /// The language it is for; nothing for all data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The limit.
    pub limit: f64,
    /// What was found; nothing if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Number>,
    /// Whether the limit holds.
    pub verdict: Verdict,
    /// Why nothing was found, or what to be careful about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remark: String,
}

/// Whether a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Passed,
    /// It does not, or nothing was found.
    Failed,
    /// The data do not tell.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
        })
    }
}

impl Section for Run {
    const ABOUT: About = About {
        id: "runs",
        title: "Summary",
        text: "Each number is measured (by running both models, or by counting bytes), predicted (by a formula, from the dense model and \
               the errors of the weights) or certified (by a theorem whose premises were computed): a \
               column is of one of them, or each row says of which. Intervals are of 95 % where nothing else is said. Limits were given.",
        from: "quench quantize --json, quench eval --json",
    };

    fn check(&self) -> Result<(), ReportError> {
        error::finite(&self.name, "a limit", self.gates.iter().map(|gate| &gate.limit))
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        let mut parts = vec![Part::Table(sizes(all))];
        parts.extend([measures(all), gates(all)].into_iter().filter(|table| !table.rows.is_empty()).map(Part::Table));
        let notes = all.iter().flat_map(|run| run.notes.iter().map(|note| Part::Text(format!("{}: {note}", run.name))));
        parts.extend(notes);
        vec![Group { title: String::new(), parts }]
    }
}

fn sizes(all: &[Run]) -> Table {
    let counted = |name, unit| Head::of(name, unit, Evidence::Measured);
    let head = vec![
        Head::plain("run"),
        Head::plain("gates"),
        Head::plain("dense model"),
        Head::plain("recipe"),
        counted("size before", "bytes"),
        counted("size after", "bytes"),
        counted("compression", "times"),
        counted("against 32 bits", "times"),
        counted("quantized layers", "bits per weight"),
        counted("whole model", "bits per parameter"),
        Head::plain("device"),
    ];
    let mut table = Table::new("Models and sizes", head);
    for run in all {
        let words = |text: &str| if text.is_empty() { Cell::Nothing } else { Cell::text(text) };
        let size = |of: fn(&Size) -> f64| Cell::value(run.size.as_ref().map(of));
        table.rows.push(vec![
            Cell::text(&run.name),
            run.verdict().map_or(Cell::Nothing, Cell::Verdict),
            words(&run.model),
            words(&run.recipe),
            size(|size| size.dense_bytes as f64),
            size(|size| size.bytes as f64),
            size(|size| size.compression),
            size(|size| size.compression_f32),
            size(|size| size.bits_per_weight),
            size(|size| size.bits_per_parameter),
            words(&run.device),
        ]);
    }
    table.without_empty_columns()
}

impl Run {
    /// The worst of its gates.
    fn verdict(&self) -> Option<Verdict> {
        let any = |verdict| self.gates.iter().any(|gate| gate.verdict == verdict).then_some(verdict);
        any(Verdict::Failed).or(any(Verdict::Inconclusive)).or(any(Verdict::Passed))
    }
}

fn measures(all: &[Run]) -> Table {
    let plain = Head::plain;
    let head = vec![
        plain("run"),
        plain("of"),
        plain("value"),
        plain("unit"),
        plain("evidence"),
        plain("samples"),
        plain("by"),
        plain("chance"),
    ];
    let mut table = Table::new("What is known of the whole model", head);
    for (run, measure) in all.iter().flat_map(|run| run.measures.iter().map(move |measure| (run, measure))) {
        let Measure { name, unit, number } = measure;
        let by = if number.estimator.is_empty() { Cell::Nothing } else { Cell::text(&number.estimator) };
        table.rows.push(vec![
            Cell::text(&run.name),
            Cell::text(name),
            Cell::Number(number.clone()),
            if unit.is_empty() { Cell::Nothing } else { Cell::text(unit) },
            Cell::Evidence(number.evidence),
            Cell::count(number.n),
            by,
            Cell::value(number.null),
        ]);
    }
    table.without_empty_columns()
}

fn gates(all: &[Run]) -> Table {
    let plain = Head::plain;
    let head = vec![
        plain("run"),
        plain("gate"),
        plain("language"),
        plain("limit"),
        plain("found"),
        plain("evidence"),
        plain("verdict"),
        plain("remark"),
    ];
    let mut table = Table::new("Gates", head);
    for (run, gate) in all.iter().flat_map(|run| run.gates.iter().map(move |gate| (run, gate))) {
        table.rows.push(vec![
            Cell::text(&run.name),
            Cell::text(&gate.name),
            Cell::text(gate.language.as_deref().unwrap_or("all")),
            Cell::Value(gate.limit),
            Cell::number(gate.found.as_ref()),
            gate.found.as_ref().map_or(Cell::Nothing, |found| Cell::Evidence(found.evidence)),
            Cell::Verdict(gate.verdict),
            if gate.remark.is_empty() { Cell::Nothing } else { Cell::text(&gate.remark) },
        ]);
    }
    table.without_empty_columns()
}
