//! The sections of a report: for each its data, and how they are shown.

pub mod explorer;
pub mod languages;
pub mod layers;
pub mod map;
pub mod prediction;
pub mod rates;
pub mod shape;
pub mod summary;
pub mod sweep;

use crate::figure::Figure;
use crate::table::Table;
use crate::{Explorer, ReportError};

/// What is said of a section, whether it has data or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// Its anchor, and its key in the JSON.
    pub(crate) id: &'static str,
    /// Its heading.
    pub(crate) title: &'static str,
    /// How it is read.
    pub(crate) text: &'static str,
    /// What gives its data.
    pub(crate) from: &'static str,
}

/// Things under one title; folded where there are several.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) parts: Vec<Part>,
}

/// One thing that is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Text(String),
    Figure(Figure),
    /// A table that is always to be seen.
    Table(Table),
    /// A table that says what a figure shows.
    Fallback(Table),
    /// The place of an explorer in the list of all.
    Explorer(usize, Explorer),
}

/// A kind of section.
pub(crate) trait Section: Sized {
    const ABOUT: About;

    /// Whether the parts fit to each other.
    fn check(&self) -> Result<(), ReportError>;

    /// What is shown of all of them.
    fn groups(all: &[Self]) -> Vec<Group>;
}
