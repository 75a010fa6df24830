//! [`Sweep`]: a metric over the step of a quantizer, and whether something ends there.

use serde::{Deserialize, Serialize};

use super::{About, Group, Part, Section};
use crate::figure::{Axis, Datum, Figure, Line, Series, Style, slug};
use crate::number::{Evidence, Number, rounded};
use crate::table::{Cell, Head, Table};
use crate::{ReportError, Scale, error};

/// A metric at many steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// What of.
    pub title: String,
    /// The metric.
    pub metric: String,
    /// Its unit; empty for a plain number.
    #[serde(default)]
    pub unit: String,
    /// What was measured, by ascending step.
    pub points: Vec<Step>,
    /// The nearest monotone function at each step; empty if it was not fitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monotone: Vec<f64>,
    /// The nearest logistic function of the logarithm of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logistic: Option<Logistic>,
    /// Where limits are crossed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crossings: Vec<Crossing>,
    /// What theory says of small steps, and where it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
    /// What it is evidence of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judgement: Option<Judgement>,
}

/// The metric at one step; measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The step δ, above 0.
    pub step: f64,
    /// The metric.
    pub metric: f64,
    /// Its standard error.
    pub error: f64,
}

/// `y = after + (before − after) / (1 + (δ / half)^(2 ln 9 / width))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logistic {
    /// The metric at small steps.
    pub before: f64,
    /// The metric at large steps.
    pub after: f64,
    /// The step at which half of the change has happened.
    pub half: Number,
    /// The logarithm of the ratio of the steps at which 90 and 10 percent of it have; 1.54 for a smooth divergence.
    pub width: Number,
}

/// Linear response of a divergence: `y = δ² trace / 24` for small steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// `Σ s² F`, of the Fisher information and the scales that the step is relative to; measured.
    pub trace: Number,
    /// Where limits would be crossed; predicted.
    pub crossings: Vec<Crossing>,
    /// From which step on the metric is no longer within a factor of 1.5; measured. None if the largest step still is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Number>,
}

/// The step at which the metric passes a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossing {
    /// The limit, in the unit of the metric.
    pub limit: f64,
    /// The step.
    pub step: Number,
}

/// What a sweep is evidence of; that there is no transition is an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Judgement {
    /// Smooth degradation, without a critical step.
    Smooth,
    /// Too few samples to tell whether the change is sharp.
    Inconclusive {
        /// The width of the change, with 1.0 inside its interval.
        width: Number,
        /// How many times as many samples would probably tell.
        times: f64,
    },
    /// A sharp change of one system, of which nothing is known for others.
    Sharp {
        /// Where half of it has happened.
        step: Number,
    },
    /// A change that sharpens with the size of the system.
    Transition {
        /// Where half of it has happened, in the largest system.
        step: Number,
        /// `ν` of `width ~ size^(−1/ν)`.
        nu: Number,
    },
}

impl Logistic {
    /// The function at a step.
    pub fn at(&self, step: f64) -> f64 {
        let power = 2.0 * 9f64.ln() / self.width.value;
        self.after + (self.before - self.after) / (1.0 + (power * (step / self.half.value).ln()).exp())
    }
}

impl Judgement {
    /// In words.
    pub fn sentence(&self) -> String {
        match self {
            Self::Smooth => {
                "Smooth degradation: there is no critical step, only one at which a tolerance ends.".to_owned()
            }
            Self::Inconclusive { times, .. } => format!(
                "Inconclusive: there are too few samples to tell whether the change is sharp; about {} times as many would.",
                rounded(*times)
            ),
            Self::Sharp { .. } => {
                "A sharp change; whether it sharpens with the size of the system is not known.".to_owned()
            }
            Self::Transition { .. } => {
                "A transition: the change sharpens as a power of the size of the system.".to_owned()
            }
        }
    }
}

impl Section for Sweep {
    const ABOUT: About = About {
        id: "sweeps",
        title: "Threshold",
        text: "A metric over the step δ of a quantizer, with standard errors; the nearest monotone function, in which limits are crossed; \
               and the nearest logistic function, whose width says how sharp the change is.",
        from: "quench threshold --json; a document with \"sweeps\" (quench_job::document::sweep)",
    };

    fn check(&self) -> Result<(), ReportError> {
        if !self.monotone.is_empty() {
            error::same_length(&self.title, "the monotone fit", self.monotone.len(), self.points.len())?;
        }
        let numbers = self.points.iter().flat_map(|point| [&point.step, &point.metric, &point.error]);
        error::finite(&self.title, "a number of the sweep", numbers)
    }

    fn groups(all: &[Self]) -> Vec<Group> {
        all.iter().map(Self::group).collect()
    }
}

impl Sweep {
    fn group(&self) -> Group {
        let mut parts = Vec::new();
        if let Some(judgement) = &self.judgement {
            parts.push(Part::Text(judgement.sentence()));
        }
        parts.push(Part::Figure(self.figure()));
        let found = self.found();
        if !found.rows.is_empty() {
            parts.push(Part::Table(found));
        }
        let measured = |name: &str, unit: &str| Head::of(name, unit, Evidence::Measured);
        let head = vec![
            Head::plain("step δ"),
            measured(&self.metric, &self.unit),
            measured("standard error", &self.unit),
            measured("monotone fit", &self.unit),
        ];
        let mut table = Table::new(format!("Steps of {}", self.title), head);
        for (at, point) in self.points.iter().enumerate() {
            let fit = Cell::value(self.monotone.get(at).copied());
            table.rows.push(vec![Cell::Value(point.step), Cell::Value(point.metric), Cell::Value(point.error), fit]);
        }
        parts.push(Part::Fallback(table.without_empty_columns()));
        Group { title: self.title.clone(), parts }
    }

    /// What was found of the sweep.
    fn found(&self) -> Table {
        let head = vec![Head::plain("of"), Head::plain("value"), Head::plain("evidence"), Head::plain("by")];
        let mut table = Table::new(format!("What is found of {}", self.title), head);
        let mut row = |name: String, number: &Number| {
            let by = if number.estimator.is_empty() { Cell::Nothing } else { Cell::text(&number.estimator) };
            let (evidence, number) = (Cell::Evidence(number.evidence), Cell::Number(number.clone()));
            table.rows.push(vec![Cell::Text(name), number, evidence, by]);
        };
        for crossing in &self.crossings {
            row(format!("step δ at which {} passes {}", self.metric, rounded(crossing.limit)), &crossing.step);
        }
        if let Some(Response { trace, crossings, end }) = &self.response {
            row("Fisher trace, Σ s² F".to_owned(), trace);
            for crossing in crossings {
                let limit = rounded(crossing.limit);
                row(format!("step δ at which δ² trace / 24 passes {limit}"), &crossing.step);
            }
            if let Some(end) = end {
                row("step δ at which linear response ends".to_owned(), end);
            }
        }
        if let Some(logistic) = &self.logistic {
            row("step δ at which half of the change has happened".to_owned(), &logistic.half);
            row("width of the change, ln(δ₁₀ / δ₉₀)".to_owned(), &logistic.width);
        }
        match &self.judgement {
            Some(Judgement::Sharp { step }) => row("step δ of the sharp change".to_owned(), step),
            Some(Judgement::Transition { step, nu }) => {
                row("critical step δ".to_owned(), step);
                row("exponent ν".to_owned(), nu);
            }
            Some(Judgement::Inconclusive { .. } | Judgement::Smooth) | None => {}
        }
        table.without_empty_columns()
    }

    fn figure(&self) -> Figure {
        let points = self.points.iter().map(|point| Datum {
            y_range: Some((point.metric - point.error, point.metric + point.error)),
            ..Datum::named(point.step, point.metric, format!("δ {}: {}", rounded(point.step), rounded(point.metric)))
        });
        let mut series = vec![Series {
            name: "measured, ± one standard error".to_owned(),
            style: Style::Points,
            slot: 0,
            data: points.collect(),
        }];
        if !self.monotone.is_empty() {
            let data = self.points.iter().zip(&self.monotone).map(|(point, fit)| Datum::at(point.step, *fit)).collect();
            series.push(Series { name: "monotone fit".to_owned(), style: Style::Curve, slot: 1, data });
        }
        if let (Some(logistic), [first, .., last]) = (&self.logistic, &self.points[..]) {
            let step = |k: i32| first.step * (last.step / first.step).powf(f64::from(k) / 80.0);
            let data = (0..=80).map(step).map(|step| Datum::at(step, logistic.at(step))).collect();
            series.push(Series { name: "logistic fit".to_owned(), style: Style::Dashed, slot: 2, data });
        }
        if let (Some(Response { trace, .. }), [first, ..]) = (&self.response, &self.points[..]) {
            // As far up as the metric goes: beyond, the parabola says nothing and would flatten what was measured.
            let top = self.points.iter().map(|point| point.metric).fold(0.0, f64::max);
            let last = (24.0 * top / trace.value).sqrt();
            let step = |k: i32| first.step * (last / first.step).powf(f64::from(k) / 80.0);
            let data = (0..=80).map(step).map(|step| Datum::at(step, step * step * trace.value / 24.0)).collect();
            let name = "linear response, δ² trace / 24 (predicted)".to_owned();
            series.push(Series { name, style: Style::Dashed, slot: 3, data });
        }
        let level = |crossing: &Crossing| Line::Level {
            y: crossing.limit,
            name: format!("limit {}, passed at δ {}", rounded(crossing.limit), rounded(crossing.step.value)),
        };
        let mut lines: Vec<Line> = self.crossings.iter().map(level).collect();
        if let Some(Judgement::Sharp { step } | Judgement::Transition { step, .. }) = &self.judgement {
            lines.push(Line::Upright { x: step.value, name: format!("half at δ {}", rounded(step.value)) });
        }
        let y = if self.unit.is_empty() { self.metric.clone() } else { format!("{}, {}", self.metric, self.unit) };
        Figure {
            id: format!("sweep-{}", slug(&self.title)),
            title: format!("{} over the step, {}", self.metric, self.title),
            description: format!(
                "{} at {} steps with standard errors. {}",
                self.metric,
                self.points.len(),
                self.judgement.as_ref().map(Judgement::sentence).unwrap_or_default()
            ),
            x: Axis::new("step δ", Scale::Log),
            y: Axis::new(y, Scale::Linear),
            series,
            lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_has_its_half_and_its_width() {
        let number = |value| Number::new(value, Evidence::Measured);
        let logistic = Logistic { before: 1.0, after: 0.0, half: number(2.0), width: number(0.7) };
        assert!((logistic.at(2.0) - 0.5).abs() < 1e-12);
        // 90 % and 10 % of the change are a factor of e^0.7 apart.
        let (early, late) = (2.0 * (-0.35f64).exp(), 2.0 * 0.35f64.exp());
        assert!((logistic.at(early) - 0.9).abs() < 1e-12 && (logistic.at(late) - 0.1).abs() < 1e-12);
    }
}
