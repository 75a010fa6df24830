//! `quench snr`: how much of the weights each code keeps, at the bits it really takes, beside what theory allows.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::bail;
use quench::checkpoint::{Dtype, Folder, Source as _};
use quench::format::Bits;
use quench::hub::Reference;
use quench::metrics::Source;
use serde::{Deserialize, Serialize};

use crate::args::Snr;
use crate::failure::Outcome;
use crate::json::Target;
use crate::progress::Progress;
use crate::rivals::{ALL, Matrix, Rival, Score};
use crate::table::{self, Column};
use crate::{model, plot};

/// The seed of the samples. Its largest samples are within 1 % those of the theory note's tables, so that the rows scaled by
/// the largest weight, which move by half a decibel and more with the seed, can be compared.
pub const SEED: u64 = 366;

/// Samples of a source.
pub const SAMPLES: usize = 1 << 20;

/// Columns of the matrix that samples make.
const COLUMNS: usize = 1024;

/// Matrices of a model that are looked at where none is named, spread over its depth.
const MATRICES: usize = 8;

/// Weights that are looked at in each of them, in whole rows spread over it.
const WEIGHTS: usize = 1 << 19;

/// Widths to compare at: `4..9`, both ends included, or `4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    first: u8,
    last: u8,
}

impl Widths {
    fn each(self) -> impl Iterator<Item = Bits> {
        (self.first..=self.last).filter_map(Bits::new)
    }
}

impl FromStr for Widths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if (2..=12).contains(&first) && (first..=12).contains(&last) => {
                Ok(Self { first, last })
            }
            _ => Err("expected a width from 2 to 12 as in `4`, or a range of them as in `4..9`".to_owned()),
        }
    }
}

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Samples of a known source.
    Known(Source),
    /// A model, and perhaps one tensor of it: `MODEL:tensor`.
    Model(PathBuf, Option<String>),
}

impl FromStr for Origin {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "gaussian" => Self::Known(Source::Gaussian),
            "laplace" => Self::Known(Source::Laplace),
            "uniform" => Self::Known(Source::Uniform),
            // A colon may also belong to the path.
            _ if Path::new(text).exists() => Self::Model(text.into(), None),
            _ => match text.rsplit_once(':') {
                // The first colon of `hf:OWNER/NAME` comes before no tensor.
                Some((path, tensor)) if !Reference::is_meant(text) || Reference::is_meant(path) => {
                    Self::Model(path.into(), Some(tensor.to_owned()))
                }
                _ => Self::Model(text.into(), None),
            },
        })
    }
}

/// What `--json` writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    version: String,
    /// What was compared on, in words.
    pub weights: String,
    /// Each quantizer at each width.
    pub rows: Vec<Row>,
}

/// One quantizer at one width.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub quantizer: String,
    bits: u32,
    /// With scales.
    pub bits_per_weight: f64,
    /// Of the weights.
    pub snr_db: f64,
    /// Absent for limits of theory.
    pub zero_fraction: Option<f64>,
    /// The parameters that were found, where there were any and a single matrix.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    chosen: String,
}

/// Prints signal-to-noise ratios by width, then every quantizer with what it takes.
pub fn run(arguments: &Snr) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let plot = arguments.plot.as_deref().map(plot::Target::new).transpose()?;
    let (matrices, weights) = match &arguments.source {
        Origin::Known(source) => {
            let matrix =
                Matrix::new(source.samples(SAMPLES, arguments.seed), [SAMPLES / COLUMNS, COLUMNS], Some(*source));
            (vec![matrix], format!("{SAMPLES} samples of a {} source", format!("{source:?}").to_lowercase()))
        }
        Origin::Model(path, tensor) => read(path, tensor.as_deref(), arguments.quiet)?,
    };
    let mut progress = Progress::new(arguments.quiet);
    progress.phase("snr", ALL.len());
    let mut rows = Vec::new();
    for (done, rival) in ALL.into_iter().enumerate() {
        progress.step(done, rival.name());
        rows.extend(arguments.bits.each().filter_map(|bits| row(rival, &matrices, bits)));
    }
    progress.end();
    let report = Report { version: env!("CARGO_PKG_VERSION").to_owned(), weights, rows };
    table::print(&text(&report, arguments.bits))?;
    if let Some(json) = json {
        json.write(&report)?;
    }
    if let Some(plot) = plot {
        let curves: Vec<plot::Curve> = ALL.into_iter().filter_map(|rival| curve(rival, &report.rows)).collect();
        plot.write(&format!("Signal-to-noise ratio, {}", report.weights), &curves)?;
    }
    Ok(Outcome::Done)
}

/// A rival on all matrices together: their energies added up, their bits and zeros by their numbers of weights.
fn row(rival: Rival, matrices: &[Matrix], bits: Bits) -> Option<Row> {
    let scores: Vec<Score> = matrices.iter().filter_map(|matrix| rival.score(matrix, bits)).collect();
    let first = scores.first()?;
    let weights: usize = matrices.iter().map(Matrix::len).sum();
    let mean = |value: &dyn Fn(&Score) -> f64| {
        let parts = scores.iter().zip(matrices).map(|(score, matrix)| value(score) * matrix.len() as f64);
        parts.sum::<f64>() / weights as f64
    };
    let signal: f64 = matrices.iter().map(Matrix::energy).sum();
    let noise =
        scores.iter().zip(matrices).map(|(score, matrix)| matrix.energy() * 10.0_f64.powf(-score.snr_db / 10.0));
    Some(Row {
        quantizer: rival.name().to_owned(),
        bits: bits.get(),
        bits_per_weight: mean(&|score| score.bits_per_weight),
        snr_db: 10.0 * (signal / noise.sum::<f64>()).log10(),
        zero_fraction: first.zero_fraction.map(|_| mean(&|score| score.zero_fraction.unwrap_or_default())),
        chosen: if scores.len() == 1 { first.chosen.clone() } else { String::new() },
    })
}

fn curve(rival: Rival, rows: &[Row]) -> Option<plot::Curve> {
    let of = rows.iter().filter(|row| row.quantizer == rival.name());
    let points: Vec<(f64, f64)> = of.map(|row| (row.bits_per_weight, row.snr_db)).collect();
    (!points.is_empty()).then(|| plot::Curve { name: rival.name().to_owned(), points })
}

/// The matrices of a model, or the one that is named, and what they are in words.
fn read(path: &Path, tensor: Option<&str>, quiet: bool) -> anyhow::Result<(Vec<Matrix>, String)> {
    let path = model::folder(path, quiet)?;
    let folder = if path.is_file() { Folder::open_file(&path)? } else { Folder::open(&path)? };
    let names: Vec<&str> = match tensor {
        Some(tensor) => {
            let whole = format!("{tensor}.weight");
            let Some(name) = folder.names().into_iter().find(|name| *name == tensor || *name == whole) else {
                bail!(
                    "there is no tensor {tensor} in {}; `quench inspect {0} --verbose` lists what there is",
                    path.display()
                );
            };
            vec![name]
        }
        None => {
            let dense = |name: &&str| {
                folder.info(name).is_some_and(|info| {
                    matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
                        && info.shape.len() >= 2
                        && info.shape.iter().product::<usize>() >= 1024
                })
            };
            let all: Vec<&str> = folder.names().into_iter().filter(dense).collect();
            if all.is_empty() {
                bail!("there is no dense matrix in {}; a quantized model has lost what this compares", path.display());
            }
            let taken = all.len().min(MATRICES);
            (0..taken).map(|at| all[(2 * at + 1) * all.len() / (2 * taken)]).collect()
        }
    };
    let mut matrices = Vec::new();
    for name in &names {
        let view = folder.tensor(name)?;
        let (rows, columns) = match view.shape() {
            [] => (1, 1),
            [columns] => (1, *columns),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        };
        let values = view.to_finite_f32()?;
        let kept = (WEIGHTS / columns.max(1)).clamp(1, rows.max(1));
        let some: Vec<f32> =
            (0..kept).flat_map(|at| &values[at * rows / kept * columns..][..columns]).copied().collect();
        let matrix = Matrix::new(some, [kept, columns], None);
        if matrix.is_silent() {
            bail!("{}: tensor {name} has no weight but zero: there is no signal to compare with", path.display());
        }
        matrices.push(matrix);
    }
    let weights: usize = matrices.iter().map(Matrix::len).sum();
    let what = match names[..] {
        [name] => name.to_owned(),
        _ => format!("{} matrices", names.len()),
    };
    Ok((matrices, format!("{weights} weights of {what}")))
}

fn text(report: &Report, widths: Widths) -> String {
    // One name for each width that can be asked for; columns without content are left out.
    const WIDE: [Column; 12] = [
        Column::Text("signal-to-noise, dB"),
        Column::Number("2 bits"),
        Column::Number("3"),
        Column::Number("4"),
        Column::Number("5"),
        Column::Number("6"),
        Column::Number("7"),
        Column::Number("8"),
        Column::Number("9"),
        Column::Number("10"),
        Column::Number("11"),
        Column::Number("12"),
    ];
    let wide: Vec<[String; 12]> = ALL
        .into_iter()
        .filter_map(|rival| {
            let mut cells: [String; 12] = Default::default();
            for row in report.rows.iter().filter(|row| row.quantizer == rival.name()) {
                cells[0] = row.quantizer.to_owned();
                cells[row.bits as usize - 1] = decibels(row.snr_db);
            }
            (!cells[0].is_empty()).then_some(cells)
        })
        .collect();
    let columns = [
        Column::Number("width"),
        Column::Text("quantizer"),
        Column::Number("bits per weight"),
        Column::Number("SNR dB"),
        Column::Number("zeros"),
        Column::Text("found"),
    ];
    let long: Vec<[String; 6]> = widths
        .each()
        .flat_map(|bits| report.rows.iter().filter(move |row| row.bits == bits.get()))
        .map(|row| {
            [
                row.bits.to_string(),
                row.quantizer.to_owned(),
                format!("{:.3}", row.bits_per_weight),
                decibels(row.snr_db),
                row.zero_fraction.map_or_else(String::new, |zeros| format!("{:.2} %", 100.0 * zeros)),
                row.chosen.clone(),
            ]
        })
        .collect();
    let wide = if widths.first == widths.last { String::new() } else { format!("{}\n", table::markdown(WIDE, &wide)) };
    format!(
        "{wide}{}{}; bits per weight with scales; zeros: the part of the weights that became zero\n",
        table::markdown(columns, &long),
        report.weights
    )
}

fn decibels(snr_db: f64) -> String {
    if snr_db.is_finite() { format!("{snr_db:.2}") } else { "exact".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_read() {
        assert_eq!("4..9".parse(), Ok(Widths { first: 4, last: 9 }));
        assert_eq!("2".parse(), Ok(Widths { first: 2, last: 2 }));
        for text in ["", "1", "13", "9..4", "4..", "..4", "4-9", "4..9..12"] {
            assert!(text.parse::<Widths>().is_err(), "{text}");
        }
    }

    #[test]
    fn origins_are_read() {
        let origin = |text: &str| text.parse::<Origin>().unwrap();
        assert_eq!(origin("laplace"), Origin::Known(Source::Laplace));
        assert_eq!(origin("spark:lm_head"), Origin::Model("spark".into(), Some("lm_head".into())));
        assert_eq!(origin("spark"), Origin::Model("spark".into(), None));
        assert_eq!(origin("hf:a/b"), Origin::Model("hf:a/b".into(), None));
        assert_eq!(origin("hf:a/b:lm_head"), Origin::Model("hf:a/b".into(), Some("lm_head".into())));
    }

    #[test]
    fn matrices_count_by_their_energy_and_size() {
        let matrices = [1.0, 10.0].map(|scale| {
            let values: Vec<f32> = Source::Gaussian.samples(4096, 3).iter().map(|x| scale * x).collect();
            Matrix::new(values, [32, 128], None)
        });
        let row = row(Rival::Uniform(crate::rivals::Sharing::Groups), &matrices, Bits::new(4).unwrap()).unwrap();
        // The same weights at two scales have the same ratio, and so have both together.
        let alone = Rival::Uniform(crate::rivals::Sharing::Groups).score(&matrices[0], Bits::new(4).unwrap()).unwrap();
        assert!((row.snr_db - alone.snr_db).abs() < 0.02, "{} {}", row.snr_db, alone.snr_db);
        assert_eq!(row.bits_per_weight, 4.125);
    }
}
