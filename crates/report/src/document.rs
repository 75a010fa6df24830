//! [`Document`]: everything that a report says.

use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::section::{About, Group, Part, Section};
use crate::{Explorer, Languages, Layers, Map, Prediction, Rates, ReportError, Run, Shape, Sweep, page};

/// Everything that a report says; what is empty is not shown.
///
/// As JSON, every section is a list under its name, and all may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// The version of the program that wrote it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What it is about.
    pub title: String,
    /// Where its numbers come from.
    pub inputs: Vec<Input>,
    /// Quantized models as a whole.
    pub runs: Vec<Run>,
    /// What is kept at which rate.
    pub rates: Vec<Rates>,
    /// Predictions beside measurements.
    pub predictions: Vec<Prediction>,
    /// Metrics over the step of a quantizer.
    pub sweeps: Vec<Sweep>,
    /// Languages, a run each.
    pub languages: Vec<Languages>,
    /// Error and bits of layers, a run each.
    pub layers: Vec<Layers>,
    /// Persistence diagrams.
    pub shapes: Vec<Shape>,
    /// Vectors in the plane.
    pub maps: Vec<Map>,
    /// Tables to be looked through.
    pub explorers: Vec<Explorer>,
}

/// A file that numbers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its path.
    pub file: String,
    /// What it is: `quench quantize`.
    pub kind: String,
}

/// Whether a section has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    /// The section's title.
    pub title: &'static str,
    /// How many parts it has.
    pub parts: usize,
    /// What gives its data.
    pub from: &'static str,
}

/// A section as it is shown.
pub(crate) struct Chapter {
    pub(crate) about: About,
    pub(crate) groups: Vec<Group>,
}

impl Document {
    /// Each section, in the order of the page.
    pub fn filling(&self) -> Vec<Filling> {
        self.chapters()
            .into_iter()
            .zip(self.counts())
            .map(|(Chapter { about, .. }, parts)| Filling { title: about.title, parts, from: about.from })
            .collect()
    }

    /// Whether the document can be shown.
    ///
    /// # Errors
    /// [`ReportError::Empty`] if no section has data; [`ReportError::Length`] and [`ReportError::NotFinite`] if the parts of one do not
    /// fit to each other.
    pub fn check(&self) -> Result<(), ReportError> {
        if self.counts().iter().all(|parts| *parts == 0) {
            return Err(ReportError::Empty);
        }
        fn each<T: Section>(all: &[T]) -> Result<(), ReportError> {
            all.iter().try_for_each(T::check)
        }
        each(&self.runs)?;
        each(&self.rates)?;
        each(&self.predictions)?;
        each(&self.sweeps)?;
        each(&self.languages)?;
        each(&self.layers)?;
        each(&self.shapes)?;
        each(&self.maps)?;
        each(&self.explorers)
    }

    /// One HTML file that needs no other and no network.
    ///
    /// # Errors
    /// As [`Document::check`].
    pub fn html(&self) -> Result<String, ReportError> {
        self.check()?;
        Ok(page::html(self, &self.chapters()))
    }

    /// The same numbers as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings, numbers and lists are JSON")
    }

    /// A document from its JSON, which need not have every section.
    ///
    /// # Errors
    /// [`ReportError::Json`] if it is not one.
    pub fn from_json(text: &str) -> Result<Self, ReportError> {
        serde_json::from_str(text).map_err(|error| ReportError::Json { reason: error.to_string() })
    }

    /// Every figure of the page, but not those of explorers; each has another `id`.
    pub fn figures(&self) -> Vec<Figure> {
        let parts = self.chapters().into_iter().flat_map(|chapter| chapter.groups).flat_map(|group| group.parts);
        parts.filter_map(|part| if let Part::Figure(figure) = part { Some(figure) } else { None }).collect()
    }

    /// Adds what another document has, section by section.
    pub fn extend(&mut self, other: Self) {
        self.inputs.extend(other.inputs);
        self.runs.extend(other.runs);
        self.rates.extend(other.rates);
        self.predictions.extend(other.predictions);
        self.sweeps.extend(other.sweeps);
        self.languages.extend(other.languages);
        self.layers.extend(other.layers);
        self.shapes.extend(other.shapes);
        self.maps.extend(other.maps);
        self.explorers.extend(other.explorers);
    }

    fn counts(&self) -> [usize; 9] {
        [
            self.runs.len(),
            self.explorers.len(),
            self.rates.len(),
            self.predictions.len(),
            self.sweeps.len(),
            self.languages.len(),
            self.layers.len(),
            self.shapes.len(),
            self.maps.len(),
        ]
    }

    /// Every section, in the order of [`Document::counts`]; figures have names of their own.
    fn chapters(&self) -> Vec<Chapter> {
        fn chapter<T: Section>(all: &[T]) -> Chapter {
            let groups = if all.is_empty() { Vec::new() } else { T::groups(all) };
            Chapter { about: T::ABOUT, groups }
        }
        let mut chapters = vec![
            chapter(&self.runs),
            chapter(&self.explorers),
            chapter(&self.rates),
            chapter(&self.predictions),
            chapter(&self.sweeps),
            chapter(&self.languages),
            chapter(&self.layers),
            chapter(&self.shapes),
            chapter(&self.maps),
        ];
        let mut taken = std::collections::BTreeSet::new();
        let parts = chapters.iter_mut().flat_map(|chapter| &mut chapter.groups).flat_map(|group| &mut group.parts);
        for part in parts {
            if let Part::Figure(figure) = part {
                let first = figure.id.clone();
                let mut count = 1;
                while !taken.insert(figure.id.clone()) {
                    count += 1;
                    figure.id = format!("{first}-{count}");
                }
            }
        }
        chapters
    }
}
