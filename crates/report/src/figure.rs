//! [`Figure`]: what a plot shows, before it has a place on a sheet.

use crate::Scale;

/// A plot: axes, and series of numbers on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name in file names and anchors: letters, digits and hyphens.
    pub id: String,
    /// What it is, in a few words.
    pub title: String,
    /// What can be seen, in a sentence, for those who do not see it.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn, in this order.
    pub series: Vec<Series>,
    /// Straight lines from end to end.
    pub lines: Vec<Line>,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What is on it, with the unit.
    pub label: String,
    /// How numbers lie on it.
    pub scale: Scale,
    /// A number that it must show, beside those of the series.
    pub with: Option<f64>,
    /// Where its labels are; empty for round numbers.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// An axis whose range is that of the series.
    pub fn new(label: impl Into<String>, scale: Scale) -> Self {
        Self { label: label.into(), scale, with: None, ticks: Vec::new() }
    }

    /// A linear one that begins at 0.
    pub fn from_zero(label: impl Into<String>) -> Self {
        Self { with: Some(0.0), ..Self::new(label, Scale::Linear) }
    }
}

/// Numbers that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the legend says; a series without a name has no line in the legend.
    pub name: String,
    /// How it is drawn.
    pub style: Style,
    /// Which of the colours and marks it has; equal ones look alike.
    pub slot: usize,
    /// The numbers.
    pub data: Vec<Datum>,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Marks with the bars of their ranges.
    Points,
    /// Marks that are joined.
    Joined,
    /// A curve without marks.
    Curve,
    /// A dashed curve: a bound or a fit.
    Dashed,
    /// Bars from 0 along the horizontal axis.
    Bars,
    /// Lines from each number to the next one but one: pairs.
    Pairs,
}

/// One place with what is known about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Datum {
    /// Horizontally.
    pub x: f64,
    /// Vertically.
    pub y: f64,
    /// Its interval horizontally.
    pub x_range: Option<(f64, f64)>,
    /// Its interval vertically.
    pub y_range: Option<(f64, f64)>,
    /// What it is called; shown when it is pointed at.
    pub label: String,
}

impl Datum {
    /// A place without a name.
    pub fn at(x: f64, y: f64) -> Self {
        Self { x, y, ..Self::default() }
    }

    /// A place with a name.
    pub fn named(x: f64, y: f64, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..Self::at(x, y) }
    }
}

/// A straight line across the whole plot.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// At one height.
    Level {
        /// Which.
        y: f64,
        /// What it is.
        name: String,
    },
    /// At one place.
    Upright {
        /// Which.
        x: f64,
        /// What it is.
        name: String,
    },
    /// `y = x + above`, on linear axes or, with `above` 0, on logarithmic ones.
    Diagonal {
        /// How far above the diagonal.
        above: f64,
        /// What it is.
        name: String,
    },
}

impl Line {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Level { name, .. } | Self::Upright { name, .. } | Self::Diagonal { name, .. } => name,
        }
    }
}

/// A word as part of a file name and of an anchor: lower case, all else than letters and digits as single hyphens.
pub(crate) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => slug.push(c.to_ascii_lowercase()),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    slug.truncate(48);
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn slugs() {
        assert_eq!(super::slug("../model.layers.0 <q>/"), "model-layers-0-q");
    }
}
