//! Reports: what is known of quantized models, as one HTML file that needs no network, as JSON, and as figures.
//!
//! A [`Document`] is plain data: sections, each of which may be empty. What has data is shown. Everything that can be seen stands in the
//! JSON, which is embedded in the page as well; nothing is computed in the browser but places on a screen.
//!
//! - [`Number`]: a value with its [`Evidence`], `measured`, `predicted` or `certified`; a column of a table has one of them, or each number
//!   bears its own.
//! - [`Run`], [`Layers`], [`Rates`], [`Prediction`], [`Sweep`], [`Languages`], [`Shape`], [`Map`], [`Explorer`]: the sections.
//! - [`Figure`]: axes and series of numbers; [`Drawing`]: the same in points on a sheet, which [`Drawing::svg`] writes and anything that
//!   can draw lines, discs and letters can paint.
//!
//! Nothing here knows of tensors, models or files.
//!
//! ```
//! use quench_report::{Document, Evidence, Languages, Language, Number};
//!
//! let kl = Number::new(0.0037, Evidence::Measured).between(0.0031, 0.0042, 0.95);
//! let german = Language { language: "de".into(), samples: 510, kl: Some(kl), increase: None, agreement: None };
//! let languages = vec![Languages { run: "int4".into(), rows: vec![german] }];
//! let document = Document { title: "int4 against dense".into(), languages, ..Document::default() };
//! let page = document.html()?;
//! assert!(page.contains(r#"<data value="0.0037">0.003700</data>"#));
//! assert_eq!(document.figures().len(), 1);
//! # Ok::<(), quench_report::ReportError>(())
//! ```

mod document;
mod drawing;
mod error;
mod escape;
mod figure;
mod number;
mod page;
mod scale;
mod section;
mod svg;
mod table;

pub use document::{Document, Filling, Input};
pub use drawing::{Anchor, Dash, Drawing, Ink, Mark, Marker, Stroke};
pub use error::ReportError;
pub use figure::{Axis, Datum, Figure, Line, Series, Style};
pub use number::{Evidence, Interval, Number, rounded};
pub use scale::Scale;
pub use section::explorer::{Column, Explorer, Parameter, Row};
pub use section::languages::{Language, Languages};
pub use section::layers::{Layer, Layers};
pub use section::map::Map;
pub use section::prediction::Prediction;
pub use section::rates::{Bound, Measure as RateAxis, RatePoint, Rates};
pub use section::shape::{Diagram, Shape};
pub use section::summary::{Gate, Measure, Run, Size, Verdict};
pub use section::sweep::{Crossing, Judgement, Logistic, Response, Step, Sweep};
