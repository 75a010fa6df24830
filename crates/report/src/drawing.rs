//! [`Drawing`]: a figure as lines, discs and letters on a sheet.

use crate::figure::{Datum, Figure, Line, Series, Style};
use crate::scale::{Ruler, Scale};

/// Width of a sheet; letters are 12 high, so that both can be read on a phone.
const WIDTH: f64 = 480.0;
/// Height of what is inside the axes, for axes of numbers.
const HEIGHT: f64 = 250.0;
/// Height of a name on an axis of names.
const ROW: f64 = 17.0;
/// Height of letters.
pub(crate) const LETTER: f64 = 12.0;
/// Width of a letter, on the average and a little more.
const ADVANCE: f64 = 6.6;
/// How many colours and marks there are; series beyond them begin anew.
const SLOTS: usize = 8;

/// A figure with a place for everything, in points from the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// Width of the sheet.
    pub width: f64,
    /// Height of the sheet.
    pub height: f64,
    /// From the back to the front.
    pub marks: Vec<Mark>,
}

/// One thing that is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// What it is.
    pub stroke: Stroke,
    /// Its colour.
    pub ink: Ink,
    /// What is said of it when it is pointed at; empty for most.
    pub label: String,
}

/// Lines, rectangles, marks and letters.
#[derive(Clone, Debug, PartialEq)]
pub enum Stroke {
    /// Points joined by a line.
    Path {
        /// The points.
        points: Vec<(f64, f64)>,
        /// How thick.
        width: f64,
        /// Whether it is broken.
        dash: Dash,
    },
    /// A filled rectangle.
    Rectangle {
        /// Its upper left corner.
        from: (f64, f64),
        /// Its width and height.
        size: (f64, f64),
    },
    /// A small mark at a place.
    Point {
        /// Its middle.
        at: (f64, f64),
        /// Its shape.
        marker: Marker,
    },
    /// A line of letters.
    Text {
        /// Where, at half of their height.
        at: (f64, f64),
        /// What.
        text: String,
        /// Which end is there.
        anchor: Anchor,
        /// Whether it is read from below to above.
        turned: bool,
    },
}

/// Whether a line is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dash {
    /// It is not.
    Whole,
    /// Long parts.
    Long,
    /// Short parts.
    Short,
}

/// The shape of a mark, 7 points wide, so that series differ without colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A filled disc.
    Disc,
    /// A filled square.
    Square,
    /// A filled triangle.
    Triangle,
    /// A filled square on its corner.
    Diamond,
    /// A ring.
    Ring,
    /// Two crossed lines.
    Cross,
    /// A hollow square.
    Frame,
    /// A hollow square on its corner.
    Lozenge,
}

const MARKERS: [Marker; SLOTS] = [
    Marker::Disc,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::Ring,
    Marker::Cross,
    Marker::Frame,
    Marker::Lozenge,
];

/// What a colour is for; which one it is, a style says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Letters.
    Text,
    /// The frame and the lines across.
    Axis,
    /// Lines behind everything.
    Grid,
    /// A series, 0 to 7.
    Series(usize),
}

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// Where the axes are.
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) x: Ruler,
    pub(crate) y: Ruler,
}

impl Frame {
    fn new(figure: &Figure, top: f64) -> Self {
        let data = || figure.series.iter().flat_map(|series| &series.data);
        let with = |range: Option<(f64, f64)>, value: f64| {
            let (low, high) = range.unwrap_or((value, value));
            [value, low, high]
        };
        let bars = figure.series.iter().any(|series| series.style == Style::Bars);
        let levels =
            figure.lines.iter().filter_map(|line| if let Line::Level { y, .. } = line { Some(*y) } else { None });
        let uprights =
            figure.lines.iter().filter_map(|line| if let Line::Upright { x, .. } = line { Some(*x) } else { None });
        let xs = data().flat_map(|datum| with(datum.x_range, datum.x)).chain(figure.x.with).chain(uprights);
        let ys = data().flat_map(|datum| with(datum.y_range, datum.y)).chain(figure.y.with).chain(levels);
        let x = Ruler::new(&figure.x.scale, xs.chain(bars.then_some(0.0))).with_ticks(&figure.x.ticks);
        let y = Ruler::new(&figure.y.scale, ys).with_ticks(&figure.y.ticks);
        let widest = y.ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(1).min(24);
        let left = 30.0 + ADVANCE * widest as f64;
        let height = match &figure.y.scale {
            Scale::Names(names) => ROW * names.len().max(2) as f64,
            _ => HEIGHT,
        };
        Self { left, top, width: WIDTH - left - 14.0, height, x, y }
    }

    /// The place of a pair of numbers, if it has one.
    pub(crate) fn place(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((self.across(self.x.place(x)?), self.down(self.y.place(y)?)))
    }

    fn across(&self, share: f64) -> f64 {
        self.left + share * self.width
    }

    fn down(&self, share: f64) -> f64 {
        self.top + (1.0 - share) * self.height
    }
}

impl Figure {
    /// The figure on a sheet, with its title above it if it is to stand alone.
    pub fn draw(&self, titled: bool) -> Drawing {
        self.framed(titled).0
    }

    /// The figure on a sheet, and where its axes are.
    pub(crate) fn framed(&self, titled: bool) -> (Drawing, Frame) {
        let frame = Frame::new(self, if titled { 34.0 } else { 10.0 });
        let mut marks = Vec::new();
        if titled {
            text(&mut marks, (WIDTH / 2.0, 15.0), &self.title, Anchor::Middle);
        }
        self.axes(&frame, &mut marks);
        for line in &self.lines {
            if let Some(points) = across(line, &frame) {
                marks.push(mark(path(points, 1.2, Dash::Short), Ink::Axis, line.name()));
            }
        }
        for series in &self.series {
            self.series(series, &frame, &mut marks);
        }
        let bottom = self.legend(&frame, &mut marks);
        (Drawing { width: WIDTH, height: bottom, marks }, frame)
    }

    fn axes(&self, frame: &Frame, marks: &mut Vec<Mark>) {
        let (right, bottom) = (frame.left + frame.width, frame.top + frame.height);
        let mut last = f64::NEG_INFINITY;
        for (at, label) in &frame.x.ticks {
            let Some(x) = frame.x.place(*at).map(|share| frame.across(share)) else { continue };
            marks.push(mark(path(vec![(x, frame.top), (x, bottom)], 1.0, Dash::Whole), Ink::Grid, ""));
            // A label that would touch the one before it is left out.
            let half = ADVANCE * label.chars().count() as f64 / 2.0;
            if x - half > last + 4.0 {
                text(marks, (x, bottom + 12.0), label, Anchor::Middle);
                last = x + half;
            }
        }
        for (at, label) in &frame.y.ticks {
            let Some(y) = frame.y.place(*at).map(|share| frame.down(share)) else { continue };
            marks.push(mark(path(vec![(frame.left, y), (right, y)], 1.0, Dash::Whole), Ink::Grid, ""));
            text(marks, (frame.left - 6.0, y), &shortened(label, 24), Anchor::End);
        }
        let corners = vec![
            (frame.left, frame.top),
            (frame.left, bottom),
            (right, bottom),
            (right, frame.top),
            (frame.left, frame.top),
        ];
        marks.push(mark(path(corners, 1.0, Dash::Whole), Ink::Axis, ""));
        text(marks, (frame.left + frame.width / 2.0, bottom + 30.0), &self.x.label, Anchor::Middle);
        let at = (11.0, frame.top + frame.height / 2.0);
        let stroke = Stroke::Text { at, text: self.y.label.clone(), anchor: Anchor::Middle, turned: true };
        marks.push(mark(stroke, Ink::Text, ""));
    }

    fn series(&self, series: &Series, frame: &Frame, marks: &mut Vec<Mark>) {
        let ink = Ink::Series(series.slot % SLOTS);
        let placed: Vec<(&Datum, (f64, f64))> =
            series.data.iter().filter_map(|datum| Some((datum, frame.place(datum.x, datum.y)?))).collect();
        let joined = || placed.iter().map(|(_, at)| *at).collect::<Vec<_>>();
        match series.style {
            Style::Joined => marks.push(mark(path(joined(), 1.5, Dash::Whole), ink, &series.name)),
            Style::Curve => marks.push(mark(path(joined(), 2.0, Dash::Whole), ink, &series.name)),
            Style::Dashed => marks.push(mark(path(joined(), 1.8, Dash::Long), ink, &series.name)),
            Style::Pairs => {
                for pair in joined().chunks_exact(2) {
                    marks.push(mark(path(pair.to_vec(), 0.8, Dash::Whole), ink, ""));
                }
            }
            Style::Points | Style::Bars => {}
        }
        if matches!(series.style, Style::Curve | Style::Dashed | Style::Pairs) {
            return;
        }
        let zero = frame.x.place(0.0).map(|share| frame.across(share));
        for (datum, at) in &placed {
            let bar = |points: [(f64, f64); 2]| -> Option<Vec<(f64, f64)>> {
                points.into_iter().map(|(x, y)| frame.place(x, y)).collect()
            };
            let ranges = [
                datum.x_range.and_then(|(low, high)| bar([(low, datum.y), (high, datum.y)])),
                datum.y_range.and_then(|(low, high)| bar([(datum.x, low), (datum.x, high)])),
            ];
            if series.style == Style::Bars {
                let from = zero.unwrap_or(frame.left);
                let (left, width) = (from.min(at.0), (from - at.0).abs());
                let stroke = Stroke::Rectangle { from: (left, at.1 - 5.0), size: (width, 10.0) };
                marks.push(mark(stroke, ink, &datum.label));
                let over =
                    ranges.into_iter().flatten().map(|points| mark(path(points, 2.0, Dash::Whole), Ink::Text, ""));
                marks.extend(over);
            } else {
                marks.extend(ranges.into_iter().flatten().map(|points| mark(path(points, 1.2, Dash::Whole), ink, "")));
                marks.push(mark(Stroke::Point { at: *at, marker: MARKERS[series.slot % SLOTS] }, ink, &datum.label));
            }
        }
    }

    /// A line for each name below the axes, as many beside each other as there is room for; its lower end.
    fn legend(&self, frame: &Frame, marks: &mut Vec<Mark>) -> f64 {
        let mut at = (frame.left, frame.top + frame.height + 52.0);
        let mut any = false;
        let series = self.series.iter().filter(|series| !series.name.is_empty());
        let entries = series.map(|series| (series.name.as_str(), Some(series)));
        let entries: Vec<_> =
            entries.chain(self.lines.iter().filter(|l| !l.name().is_empty()).map(|l| (l.name(), None))).collect();
        for (name, series) in entries {
            let name = shortened(name, 60);
            let width = 34.0 + ADVANCE * name.chars().count() as f64;
            if any && at.0 + width > WIDTH {
                at = (frame.left, at.1 + 18.0);
            }
            let line = |width, dash| path(vec![at, (at.0 + 20.0, at.1)], width, dash);
            let middle = (at.0 + 10.0, at.1);
            match series {
                None => marks.push(mark(line(1.2, Dash::Short), Ink::Axis, "")),
                Some(series) => {
                    let ink = Ink::Series(series.slot % SLOTS);
                    let point = Stroke::Point { at: middle, marker: MARKERS[series.slot % SLOTS] };
                    let strokes = match series.style {
                        Style::Points => vec![point],
                        Style::Joined => vec![line(1.5, Dash::Whole), point],
                        Style::Curve => vec![line(2.0, Dash::Whole)],
                        Style::Dashed => vec![line(1.8, Dash::Long)],
                        Style::Pairs => vec![line(0.8, Dash::Whole)],
                        Style::Bars => vec![Stroke::Rectangle { from: (at.0, at.1 - 5.0), size: (20.0, 10.0) }],
                    };
                    marks.extend(strokes.into_iter().map(|stroke| mark(stroke, ink, "")));
                }
            }
            text(marks, (at.0 + 26.0, at.1), &name, Anchor::Start);
            at.0 += width;
            any = true;
        }
        if any { at.1 + 12.0 } else { frame.top + frame.height + 42.0 }
    }
}

/// Both ends of a line, as far as it is inside the axes.
fn across(line: &Line, frame: &Frame) -> Option<Vec<(f64, f64)>> {
    let ((left, right), (bottom, top)) = (frame.x.ends(), frame.y.ends());
    let ends = match line {
        Line::Level { y, .. } => [(left, *y), (right, *y)],
        Line::Upright { x, .. } => [(*x, bottom), (*x, top)],
        Line::Diagonal { above, .. } => {
            let (from, to) = (left.max(bottom - above), right.min(top - above));
            if from >= to {
                return None;
            }
            [(from, from + above), (to, to + above)]
        }
    };
    ends.into_iter().map(|(x, y)| frame.place(x, y)).collect()
}

fn mark(stroke: Stroke, ink: Ink, label: &str) -> Mark {
    Mark { stroke, ink, label: label.to_owned() }
}

fn path(points: Vec<(f64, f64)>, width: f64, dash: Dash) -> Stroke {
    Stroke::Path { points, width, dash }
}

fn text(marks: &mut Vec<Mark>, at: (f64, f64), text: &str, anchor: Anchor) {
    marks.push(mark(Stroke::Text { at, text: text.to_owned(), anchor, turned: false }, Ink::Text, ""));
}

/// The end of a long name says more than its beginning.
fn shortened(name: &str, most: usize) -> String {
    let count = name.chars().count();
    if count <= most {
        return name.to_owned();
    }
    ['…'].into_iter().chain(name.chars().skip(count - most + 1)).collect()
}
