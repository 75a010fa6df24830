//! A drawing of a report as PNG; no font of the system is asked for.

use anyhow::anyhow;
use font8x8::UnicodeFonts;
use plotters::prelude::{BitMapBackend, DrawingBackend, RGBColor, ShapeStyle};
use plotters_backend::DrawingErrorKind;
use quench::report::{Anchor, Dash, Drawing, Ink, Marker, Stroke};

/// Pixels of a picture for each point of a drawing: enough for a column of a paper.
const SCALE: u32 = 3;
/// What is painted is this many times larger, and then averaged: edges become smooth.
const FINER: u32 = 2;
/// Width and height in points of one of the 8 by 8 squares of a letter.
const SQUARE: (f64, f64) = (0.82, 1.2);

type Painted = Result<(), DrawingErrorKind<<BitMapBackend<'static> as DrawingBackend>::ErrorType>>;

/// The drawing as the bytes of a PNG file, dark on white.
pub fn png(drawing: &Drawing) -> anyhow::Result<Vec<u8>> {
    let pixels = |points: f64, scale: u32| (points * f64::from(scale)).ceil() as u32;
    let size = (pixels(drawing.width, SCALE), pixels(drawing.height, SCALE));
    let fine = (size.0 * FINER, size.1 * FINER);
    let mut large = vec![255; 3 * (fine.0 * fine.1) as usize];
    paint(BitMapBackend::with_buffer(&mut large, fine), drawing)
        .map_err(|error| anyhow!("a plot cannot be painted: {error}"))?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&averaged(&large, size))?;
    writer.finish()?;
    Ok(bytes)
}

/// Squares of `FINER` by `FINER` pixels as one.
fn averaged(large: &[u8], (width, height): (u32, u32)) -> Vec<u8> {
    let (width, height, finer) = (width as usize, height as usize, FINER as usize);
    let mut small = Vec::with_capacity(3 * width * height);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        for color in 0..3 {
            let sum: u32 = (0..finer * finer)
                .map(|at| 3 * ((y * finer + at / finer) * width * finer + x * finer + at % finer) + color)
                .map(|at| u32::from(large[at]))
                .sum();
            small.push((sum / (FINER * FINER)) as u8);
        }
    }
    small
}

fn paint(mut sheet: BitMapBackend<'_>, drawing: &Drawing) -> Painted {
    let unit = f64::from(SCALE * FINER);
    let place = |(x, y): (f64, f64)| ((x * unit).round() as i32, (y * unit).round() as i32);
    for mark in &drawing.marks {
        let color = color(mark.ink);
        let thin =
            |width: f64| ShapeStyle { color: color.into(), filled: false, stroke_width: (width * unit).round() as u32 };
        let full = ShapeStyle { color: color.into(), filled: true, stroke_width: 1 };
        match &mark.stroke {
            Stroke::Path { points, width, dash } => {
                for part in dashed(points, *dash) {
                    sheet.draw_path(part.into_iter().map(place), &thin(*width))?;
                }
            }
            Stroke::Rectangle { from, size } => {
                sheet.draw_rect(place(*from), place((from.0 + size.0, from.1 + size.1)), &full, true)?;
            }
            Stroke::Point { at: (x, y), marker } => {
                let around = |corners: &[(f64, f64)]| -> Vec<(i32, i32)> {
                    corners.iter().map(|(dx, dy)| place((x + dx, y + dy))).collect()
                };
                let square = [(-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2), (-3.2, -3.2)];
                let diamond = [(0.0, -4.4), (4.4, 0.0), (0.0, 4.4), (-4.4, 0.0), (0.0, -4.4)];
                let radius = (3.5 * unit) as u32;
                match marker {
                    Marker::Disc => sheet.draw_circle(place((*x, *y)), radius, &full, true)?,
                    Marker::Ring => {
                        let ring = (0..=24).map(|k| std::f64::consts::TAU * f64::from(k) / 24.0);
                        let ring: Vec<(f64, f64)> = ring.map(|a| (3.5 * a.cos(), 3.5 * a.sin())).collect();
                        sheet.draw_path(around(&ring), &thin(1.4))?;
                    }
                    Marker::Square => sheet.fill_polygon(around(&square), &full)?,
                    Marker::Triangle => {
                        let triangle = [(0.0, -4.0), (4.0, 3.0), (-4.0, 3.0)];
                        sheet.fill_polygon(around(&triangle), &full)?;
                    }
                    Marker::Diamond => sheet.fill_polygon(around(&diamond), &full)?,
                    Marker::Cross => {
                        sheet.draw_path(around(&[(-3.2, -3.2), (3.2, 3.2)]), &thin(1.4))?;
                        sheet.draw_path(around(&[(3.2, -3.2), (-3.2, 3.2)]), &thin(1.4))?;
                    }
                    Marker::Frame => sheet.draw_path(around(&square), &thin(1.4))?,
                    Marker::Lozenge => sheet.draw_path(around(&diamond), &thin(1.4))?,
                }
            }
            Stroke::Text { at, text, anchor, turned } => {
                let width = 8.0 * SQUARE.0 * text.chars().count() as f64;
                let start = match anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => -width / 2.0,
                    Anchor::End => -width,
                };
                for (dx, dy) in squares(text) {
                    let (left, top) = (start + dx, dy - 4.0 * SQUARE.1);
                    let (right, bottom) = (left + SQUARE.0, top + SQUARE.1);
                    // Read from below to above: right becomes up.
                    let turn = |(x, y): (f64, f64)| if *turned { (at.0 + y, at.1 - x) } else { (at.0 + x, at.1 + y) };
                    let (a, b) = (place(turn((left, top))), place(turn((right, bottom))));
                    sheet.draw_rect((a.0.min(b.0), a.1.min(b.1)), (a.0.max(b.0), a.1.max(b.1)), &full, true)?;
                }
            }
        }
    }
    Ok(())
}

/// Corners of the squares that the letters of a text are made of, in points from its upper left corner.
fn squares(text: &str) -> Vec<(f64, f64)> {
    let mut found = Vec::new();
    for (place, letter) in text.chars().enumerate() {
        for (y, line) in glyph(letter).into_iter().enumerate() {
            let on = (0..8).filter(|x| line >> x & 1 == 1);
            found.extend(on.map(|x| (SQUARE.0 * (8 * place + x) as f64, SQUARE.1 * y as f64)));
        }
    }
    found
}

/// The lines of a letter; signs that the font lacks as what is nearest to them.
fn glyph(letter: char) -> [u8; 8] {
    let near = match letter {
        '−' | '–' => '-',
        '…' => '.',
        '‖' => '|',
        'Ŵ' => 'W',
        '₀'..='₉' => char::from(b'0' + (letter as u32 - '₀' as u32) as u8),
        other => other,
    };
    let fonts = [font8x8::BASIC_FONTS.get(near), font8x8::LATIN_FONTS.get(near), font8x8::GREEK_FONTS.get(near)];
    fonts.into_iter().flatten().next().or_else(|| font8x8::BASIC_FONTS.get('?')).unwrap_or_default()
}

/// A path as the parts of it that are drawn.
fn dashed(points: &[(f64, f64)], dash: Dash) -> Vec<Vec<(f64, f64)>> {
    let (on, off) = match dash {
        Dash::Whole => return vec![points.to_vec()],
        Dash::Long => (7.0, 4.0),
        Dash::Short => (3.0, 3.0),
    };
    let mut parts: Vec<Vec<(f64, f64)>> = Vec::new();
    let (mut left, mut drawing) = (on, true);
    let Some(first) = points.first() else { return parts };
    let mut part = vec![*first];
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            if length <= left {
                left -= length;
                if drawing {
                    part.push(to);
                }
                break;
            }
            let share = left / length;
            from = (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1));
            if drawing {
                part.push(from);
                parts.push(std::mem::take(&mut part));
            } else {
                part = vec![from];
            }
            drawing = !drawing;
            left = if drawing { on } else { off };
        }
    }
    if part.len() > 1 {
        parts.push(part);
    }
    parts
}

/// The colours of an SVG file for paper.
fn color(ink: Ink) -> RGBColor {
    let rgb = match ink {
        Ink::Text => 0x16181d,
        Ink::Axis => 0x5c6370,
        Ink::Grid => 0xe3e5ea,
        Ink::Series(slot) => [0x0b62a4, 0xc2410c, 0x11754c, 0x8a3a9c, 0x7a5c00, 0xb3123f, 0x00748a, 0x555b66][slot % 8],
    };
    RGBColor((rgb >> 16) as u8, (rgb >> 8) as u8, rgb as u8)
}

#[cfg(test)]
mod tests {
    use quench::report::{Axis, Datum, Figure, Line, Scale, Series, Style};

    use super::*;

    #[test]
    fn a_picture_has_its_letters_and_its_colours() {
        let data = (0..8).map(|k| Datum::at(f64::from(k), f64::from(k * k))).collect();
        let series = |style, slot| Series { name: format!("{style:?}"), style, slot, data: Vec::clone(&data) };
        let styles = [Style::Points, Style::Joined, Style::Dashed, Style::Curve];
        let figure = Figure {
            id: "a".into(),
            title: "A title with δ and ‖".into(),
            description: String::new(),
            x: Axis::new("x", Scale::Linear),
            y: Axis::new("y", Scale::Linear),
            series: (0..8).map(|slot| series(styles[slot % 4], slot)).collect(),
            lines: vec![Line::Level { y: 3.0, name: "limit".into() }],
        };
        let drawing = figure.draw(true);
        let bytes = png(&drawing).unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(info.width, 1440);
        let dark = |rows: std::ops::Range<usize>| {
            let row = |y: usize| &pixels[3 * info.width as usize * y..][..3 * info.width as usize];
            rows.flat_map(row).filter(|value| **value < 64).count()
        };
        assert!(dark(24..66) > 1000, "{}", dark(24..66));
        assert_eq!(dark(0..24), 0, "nothing stands above the title");
        for slot in 0..8 {
            let RGBColor(r, g, b) = color(Ink::Series(slot));
            let found = pixels.chunks(3).filter(|rgb| **rgb == [r, g, b]).count();
            assert!(found > 100, "colour {slot}: {found}");
        }
    }

    #[test]
    fn dashes_have_their_length() {
        let parts = dashed(&[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)], Dash::Long);
        assert_eq!(parts, [vec![(0.0, 0.0), (7.0, 0.0)], vec![(10.0, 1.0), (10.0, 8.0)]]);
        assert_eq!(dashed(&[(0.0, 0.0), (1.0, 0.0)], Dash::Whole).len(), 1);
        assert!(dashed(&[], Dash::Short).is_empty());
    }
}
