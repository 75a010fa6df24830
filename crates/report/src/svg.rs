//! A drawing as SVG: inside a page, whose style gives its colours, or as a file with a style of its own.

use std::fmt::Write as _;

use crate::drawing::{Anchor, Dash, Drawing, Ink, LETTER, Mark, Marker, Stroke};
use crate::escape;

/// Colours of a file that stands alone: dark ones on white, for paper.
const PAPER: &str = "\
text{font:12px sans-serif;fill:#16181d}.k-axis{stroke:#5c6370;fill:none}.k-grid{stroke:#e3e5ea;fill:none}.k-text{stroke:#16181d}
.k0{--k:#0b62a4}.k1{--k:#c2410c}.k2{--k:#11754c}.k3{--k:#8a3a9c}.k4{--k:#7a5c00}.k5{--k:#b3123f}.k6{--k:#00748a}.k7{--k:#555b66}
.line{stroke:var(--k);fill:none}.fill{fill:var(--k);stroke:none}.hollow{stroke:var(--k);fill:none;stroke-width:1.4}text.k-text{stroke:none}
";

impl Drawing {
    /// A file of its own, black on white.
    pub fn svg(&self, title: &str, description: &str) -> String {
        let (width, height) = (self.width, self.height);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
             <title>{}</title>\n<desc>{}</desc>\n<style>{PAPER}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            escape::text(title),
            escape::text(description),
            self.body()
        )
    }

    /// Part of a page; `id` is that of the element, whose title and description have it as a prefix.
    pub(crate) fn inline(&self, id: &str, title: &str, description: &str) -> String {
        let (width, height) = (self.width, self.height);
        let (id, title, description) = (escape::text(id), escape::text(title), escape::text(description));
        format!(
            "<svg id=\"{id}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\n\
             <title id=\"{id}-title\">{title}</title><desc id=\"{id}-desc\">{description}</desc>\n{}</svg>\n",
            self.body()
        )
    }

    fn body(&self) -> String {
        let mut out = String::new();
        for mark in &self.marks {
            element(&mut out, mark);
        }
        out
    }
}

fn element(out: &mut String, mark: &Mark) {
    let class = |kind: &str| match mark.ink {
        Ink::Text => "k-text".to_owned(),
        Ink::Axis => "k-axis".to_owned(),
        Ink::Grid => "k-grid".to_owned(),
        Ink::Series(slot) => format!("{kind} k{slot}"),
    };
    let (name, attributes, content) = match &mark.stroke {
        Stroke::Path { points, width, dash } => {
            let dash = match dash {
                Dash::Whole => "",
                Dash::Long => " stroke-dasharray=\"7 4\"",
                Dash::Short => " stroke-dasharray=\"3 3\"",
            };
            let class = class("line");
            ("path", format!("class=\"{class}\" d=\"{}\" stroke-width=\"{width}\"{dash}", steps(points)), String::new())
        }
        Stroke::Rectangle { from: (x, y), size: (width, height) } => {
            let class = class("fill");
            (
                "rect",
                format!("class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\""),
                String::new(),
            )
        }
        Stroke::Point { at: (x, y), marker } => {
            let hollow = matches!(marker, Marker::Ring | Marker::Cross | Marker::Frame | Marker::Lozenge);
            let class = class(if hollow { "hollow" } else { "fill" });
            ("path", format!("class=\"{class}\" d=\"M{x:.1} {y:.1}{}\"", outline(*marker)), String::new())
        }
        Stroke::Text { at: (x, y), text, anchor, turned } => {
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => " text-anchor=\"middle\"",
                Anchor::End => " text-anchor=\"end\"",
            };
            let turn = if *turned { format!(" transform=\"rotate(-90 {x:.1} {y:.1})\"") } else { String::new() };
            // Their height is half above and half below.
            let base = y + 0.35 * LETTER;
            let class = class("fill");
            (
                "text",
                format!("class=\"{class}\" x=\"{x:.1}\" y=\"{base:.1}\"{anchor}{turn}"),
                escape::text(text).into_owned(),
            )
        }
    };
    let title = match mark.label.as_str() {
        "" => String::new(),
        label => format!("<title>{}</title>", escape::text(label)),
    };
    if title.is_empty() && content.is_empty() {
        let _ = writeln!(out, "<{name} {attributes}/>");
    } else {
        let _ = writeln!(out, "<{name} {attributes}>{title}{content}</{name}>");
    }
}

fn steps(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (at, (x, y)) in points.iter().enumerate() {
        let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
    }
    path
}

/// The outline of a mark, from its middle.
fn outline(marker: Marker) -> &'static str {
    match marker {
        Marker::Disc | Marker::Ring => "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
        Marker::Square | Marker::Frame => "m-3.2 -3.2h6.4v6.4h-6.4z",
        Marker::Triangle => "m0 -4l4 7h-8z",
        Marker::Diamond | Marker::Lozenge => "m0 -4.4l4.4 4.4l-4.4 4.4l-4.4 -4.4z",
        Marker::Cross => "m-3.2 -3.2l6.4 6.4m0 -6.4l-6.4 6.4",
    }
}
