//! [`ReportError`]: why there is no page.

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// No section has data.
    #[error("there is nothing to report: no section has data")]
    Empty,
    /// Two parts of a section that belong together differ in length.
    #[error("section {section:?}: {what} has {found} entries, expected {expected}")]
    Length {
        /// Title of the part.
        section: String,
        /// Which list.
        what: String,
        /// How many it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// A number where only finite ones have a meaning, such as a place on an axis.
    #[error("section {section:?}: {what} is not finite")]
    NotFinite {
        /// Title of the part.
        section: String,
        /// Which number.
        what: String,
    },
    /// The JSON is not that of a document.
    #[error("this is not the JSON of a report: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
}

/// Lists that belong together have the same length.
pub(crate) fn same_length(section: &str, what: &str, found: usize, expected: usize) -> Result<(), ReportError> {
    if found == expected {
        return Ok(());
    }
    Err(ReportError::Length { section: section.to_owned(), what: what.to_owned(), found, expected })
}

/// Every number is finite.
pub(crate) fn finite<'a>(
    section: &str,
    what: &str,
    numbers: impl IntoIterator<Item = &'a f64>,
) -> Result<(), ReportError> {
    if numbers.into_iter().all(|number| number.is_finite()) {
        return Ok(());
    }
    Err(ReportError::NotFinite { section: section.to_owned(), what: what.to_owned() })
}
