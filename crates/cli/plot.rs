//! `--plot FILE`: curves as PNG or SVG, by the name of the file; no font of the system is asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use font8x8::UnicodeFonts;
use plotters::prelude::*;
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingBackend, DrawingErrorKind};
use quench::checkpoint::write_atomically;

/// Width and height in pixels.
const SIZE: (u32, u32) = (1200, 760);

/// Points joined by lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What the legend says.
    pub name: String,
    /// Bits per weight, decibels.
    pub points: Vec<(f64, f64)>,
}

/// How the picture is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Png,
    Svg,
}

/// A file that a picture will be written to, checked before the work begins.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    kind: Kind,
}

impl Target {
    /// Checks the name, and that its folder is there.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let kind = match extension.as_deref() {
            Some("png") => Kind::Png,
            Some("svg") => Kind::Svg,
            _ => bail!("--plot {}: the name of a picture ends in .png or .svg", path.display()),
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if path.is_dir() || !folder.is_dir() {
            bail!("--plot {}: not a file in a folder that exists", path.display());
        }
        Ok(Self { path: path.to_owned(), kind })
    }

    /// Draws the curves over bits per weight.
    pub fn write(&self, title: &str, curves: &[Curve]) -> anyhow::Result<()> {
        let bytes = match self.kind {
            Kind::Svg => svg(title, curves)?.into_bytes(),
            Kind::Png => png(title, curves)?,
        };
        write_atomically(&self.path, &bytes).with_context(|| format!("cannot write --plot {}", self.path.display()))
    }
}

fn svg(title: &str, curves: &[Curve]) -> anyhow::Result<String> {
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, SIZE), title, curves)?;
    Ok(text)
}

fn png(title: &str, curves: &[Curve]) -> anyhow::Result<Vec<u8>> {
    let mut pixels = vec![0; 3 * (SIZE.0 * SIZE.1) as usize];
    draw(Lettered(BitMapBackend::with_buffer(&mut pixels, SIZE)), title, curves)?;
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, SIZE.0, SIZE.1);
    encoder.set_color(::png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(bytes)
}

fn draw<B: DrawingBackend>(backend: B, title: &str, curves: &[Curve]) -> anyhow::Result<()> {
    chart(backend, title, curves).map_err(|error| anyhow!("the plot cannot be drawn: {error}"))
}

fn chart<B: DrawingBackend>(
    backend: B,
    title: &str,
    curves: &[Curve],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|(_, y)| y.is_finite());
    let (low, high) = points().fold((f64::INFINITY, 0.0_f64), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let top = points().fold(1.0_f64, |top, (_, y)| top.max(*y));
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    // The legend stands beside the curves, which leave no room among them.
    let (left, right) = area.split_horizontally(SIZE.0 - 290);
    let mut chart = ChartBuilder::on(&left)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(low.min(high) - 0.2..high + 0.2, 0.0..top * 1.05)?;
    chart.configure_mesh().x_desc("bits per weight").y_desc("dB").label_style(("sans-serif", 16)).draw()?;
    for (at, curve) in curves.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        let points = || curve.points.iter().copied().filter(|(_, y)| y.is_finite());
        chart.draw_series(LineSeries::new(points(), color.stroke_width(2)))?;
        chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
        let y = 60 + 28 * at as i32;
        right.draw(&Rectangle::new([(4, y - 4), (24, y + 4)], color.filled()))?;
        right.draw(&Text::new(curve.name.clone(), (32, y - 8), ("sans-serif", 16)))?;
    }
    area.present()
}

/// A bitmap with letters of 8 by 8 pixels, so that no font of the system is needed.
struct Lettered<B>(B);

/// Pixels that a letter takes in each direction.
const LETTER: i32 = 8;

impl<B: DrawingBackend> DrawingBackend for Lettered<B> {
    type ErrorType = B::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<B::ErrorType>> {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<B::ErrorType>> {
        self.0.present()
    }

    fn draw_pixel(&mut self, at: BackendCoord, color: BackendColor) -> Result<(), DrawingErrorKind<B::ErrorType>> {
        self.0.draw_pixel(at, color)
    }

    fn draw_rect<S: plotters_backend::BackendStyle>(
        &mut self,
        upper_left: BackendCoord,
        lower_right: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Result<(), DrawingErrorKind<B::ErrorType>> {
        self.0.draw_rect(upper_left, lower_right, style, fill)
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        at: BackendCoord,
    ) -> Result<(), DrawingErrorKind<B::ErrorType>> {
        use plotters::style::text_anchor::{HPos, VPos};
        let width = LETTER * text.chars().count() as i32;
        let anchor = style.anchor();
        let left = match anchor.h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        let top = match anchor.v_pos {
            // Half of what the text style is larger than a letter, as a font would leave above it.
            VPos::Top => (style.size() as i32 - LETTER) / 2,
            VPos::Center => -LETTER / 2,
            VPos::Bottom => -LETTER,
        };
        let (columns, rows) = self.get_size();
        for (place, letter) in text.chars().enumerate() {
            let Some(lines) = font8x8::BASIC_FONTS.get(letter) else { continue };
            for (y, line) in (0..).zip(lines) {
                for x in (0..LETTER).filter(|x| line >> x & 1 == 1) {
                    let (x, y) = style.transform().transform(left + LETTER * place as i32 + x, top + y);
                    let (x, y) = (at.0 + x, at.1 + y);
                    if (0..columns as i32).contains(&x) && (0..rows as i32).contains(&y) {
                        self.draw_pixel((x, y), style.color())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        _: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<B::ErrorType>> {
        Ok(((LETTER * text.chars().count() as i32) as u32, LETTER as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves() -> Vec<Curve> {
        let line = |name: &str, by: f64| Curve {
            name: name.to_owned(),
            points: (4..=9).map(|b| (f64::from(b), by * f64::from(b))).collect(),
        };
        vec![line("uniform", 6.0), line("limit", 6.02)]
    }

    #[test]
    fn a_picture_has_its_curves_and_its_words() {
        let text = svg("A title", &curves()).unwrap();
        for word in ["<svg", "polyline", "A title", "uniform", "limit", "bits per weight"] {
            assert!(text.contains(word), "{word}");
        }
        let bytes = png("A title", &curves()).unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        // Black letters stand above the curves, and colours below.
        let row = |y: usize| &pixels[3 * SIZE.0 as usize * y..][..3 * SIZE.0 as usize];
        let title = (0..40).flat_map(row).filter(|value| **value < 64).count();
        assert!(title > 100, "{title}");
        let coloured =
            pixels.chunks(3).filter(|rgb| rgb.iter().max().unwrap() - rgb.iter().min().unwrap() > 64).count();
        assert!(coloured > 1000, "{coloured}");
    }

    #[test]
    fn the_name_says_the_kind() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jpg", "a", "no/a.png"] {
            assert!(Target::new(&folder.path().join(name)).is_err(), "{name}");
        }
        let path = folder.path().join("a.SVG");
        Target::new(&path).unwrap().write("A title", &curves()).unwrap();
        assert!(std::fs::read_to_string(path).unwrap().starts_with("<svg"));
    }
}
