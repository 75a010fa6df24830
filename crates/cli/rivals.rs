//! The quantizers that `quench snr` compares, each on the same weights at the same width.

use quench::format::{Bits, Code, FloatKind, Group, Minifloat, Mu, Octaves, Scale, Scheme, power_of_two};
use quench::metrics::{Sorted, Source, Steps, Tally};
use quench::quantize::{self, Method, ScaleSearch};

/// A matrix to compare on.
#[derive(Debug)]
pub struct Matrix {
    /// Row-major, finite.
    values: Vec<f32>,
    /// `[out, in]`.
    shape: [usize; 2],
    sorted: Sorted,
    /// What it was drawn from, where that is known.
    source: Option<Source>,
}

impl Matrix {
    /// Weights of shape `[out, in]`, and what they were drawn from, if that is known.
    pub fn new(values: Vec<f32>, shape: [usize; 2], source: Option<Source>) -> Self {
        Self { sorted: Sorted::new(values.clone()), values, shape, source }
    }

    /// How many weights there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// `sum w^2`.
    pub fn energy(&self) -> f64 {
        self.sorted.energy()
    }

    /// True where every weight is zero, so that there is no signal.
    pub fn is_silent(&self) -> bool {
        self.sorted.largest() == 0.0
    }
}

/// Who shares a scale that the largest weight decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The whole matrix; the scale is an f32.
    Tensor,
    /// 128 columns of a row; the scale is an f16.
    Groups,
}

/// A way to quantize at a width of `b` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// The published signed-log codec by its own map, scaled by the largest weight.
    Published,
    /// The levels of the published codec, each weight to the nearest.
    PublishedNearest,
    /// Its encoder and decoder in each other's place: mu-law with `mu = 2^(b-1) - 1`.
    Swapped(Sharing),
    /// Mu-law with the mu and the scale of the least error.
    MuLaw,
    /// Mu-law with the mu of the least error, each group scaled by its largest weight.
    MuLawGroups,
    /// The same with the scale of the least error for each group, as the quantizers search it.
    MuLawSearched,
    /// The mu-law curve with `2^b` levels, half a step off zero, mu and scale of the least error. It has no zero, and is no
    /// code here; it shows what the zero costs.
    MuLawMidRise,
    /// The geometric grid with the range and the scale of the least error.
    Geometric,
    /// Symmetric integers scaled by the largest weight.
    Uniform(Sharing),
    /// Integers with the scale of the least error for each group, as the quantizers search it.
    UniformSearched,
    /// `2^b` equal steps of the least error, half a step off zero.
    UniformMidRise,
    /// NF4 in groups of 64.
    Normal4,
    /// E2M1 in groups of 16 with E4M3 scales, which is NVFP4.
    E2M1,
    /// E4M3 in groups of 128.
    E4M3,
    /// The best `2^b` levels there are.
    LloydMax,
    /// Equal steps, coded with their entropy of `b` bits.
    EntropyCoded,
    /// What no code of any kind exceeds.
    Shannon,
}

/// What a rival made of the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// What was chosen for the weights; empty where there was no choice.
    pub chosen: String,
    /// Scales and tables included.
    pub bits_per_weight: f64,
    /// Signal-to-noise ratio in dB.
    pub snr_db: f64,
    /// The fraction of weights that became zero; none for a limit of theory.
    pub zero_fraction: Option<f64>,
}

/// Everyone, in the order of the tables.
pub const ALL: [Rival; 19] = [
    Rival::Published,
    Rival::PublishedNearest,
    Rival::Swapped(Sharing::Tensor),
    Rival::Swapped(Sharing::Groups),
    Rival::MuLaw,
    Rival::MuLawGroups,
    Rival::MuLawSearched,
    Rival::MuLawMidRise,
    Rival::Geometric,
    Rival::Uniform(Sharing::Tensor),
    Rival::Uniform(Sharing::Groups),
    Rival::UniformSearched,
    Rival::UniformMidRise,
    Rival::Normal4,
    Rival::E2M1,
    Rival::E4M3,
    Rival::LloydMax,
    Rival::EntropyCoded,
    Rival::Shannon,
];

/// Curvatures that are tried.
const MUS: [f32; 16] = [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 255.0];

impl Rival {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "published log, absmax",
            Self::PublishedNearest => "published log, nearest",
            Self::Swapped(Sharing::Tensor) => "slog mu=2^B-1, absmax",
            Self::Swapped(Sharing::Groups) => "slog mu=2^B-1, g128",
            Self::MuLaw => "slog, mu and clip tuned",
            Self::MuLawGroups => "slog, mu tuned, g128",
            Self::MuLawSearched => "slog, mu and clip tuned, g128",
            Self::MuLawMidRise => "mu-law without zero, tuned",
            Self::Geometric => "geometric (lns), tuned",
            Self::Uniform(Sharing::Tensor) => "uniform, absmax",
            Self::Uniform(Sharing::Groups) => "uniform, g128",
            Self::UniformSearched => "uniform, clip tuned, g128",
            Self::UniformMidRise => "uniform without zero, tuned",
            Self::Normal4 => "nf4, g64",
            Self::E2M1 => "e2m1 with e4m3 scales, g16",
            Self::E4M3 => "e4m3, g128",
            Self::LloydMax => "Lloyd-Max",
            Self::EntropyCoded => "uniform, entropy coded",
            Self::Shannon => "Shannon bound",
        }
    }

    /// What it makes of `matrix` at `bits`, 2 to 12; none where it has no such width.
    pub fn score(self, matrix: &Matrix, bits: Bits) -> Option<Score> {
        let (sorted, b) = (&matrix.sorted, bits.get());
        let top = (1_u32 << (b - 1)) - 1;
        match self {
            Self::Published => {
                Some(tensor(matrix, b, sorted.quantize(&published(b - 1, sorted.largest())), String::new()))
            }
            Self::PublishedNearest => {
                let levels = levels(Code::published_log(bits)?);
                Some(tensor(matrix, b, sorted.quantize(&scaled(&levels, sorted.largest())), String::new()))
            }
            Self::Swapped(sharing) => {
                let code = Code::log_signed(bits, Mu::new(top as f32)?)?;
                Some(shared(matrix, code, sharing))
            }
            Self::MuLaw => {
                let curves = MUS.into_iter().filter_map(Mu::new);
                let tried = curves.filter_map(|mu| {
                    let code = Code::log_signed(bits, mu)?;
                    Some((code, best_scale(sorted, &levels(code))))
                });
                tuned(matrix, b, tried)
            }
            Self::MuLawGroups => {
                let codes = MUS.into_iter().filter_map(|mu| Code::log_signed(bits, Mu::new(mu)?));
                let tried =
                    codes.map(|code| Score { chosen: code.to_string(), ..shared(matrix, code, Sharing::Groups) });
                tried.max_by(|a, b| a.snr_db.total_cmp(&b.snr_db))
            }
            Self::MuLawSearched => {
                // A searched scale cuts the tails off, so the best mu may be one further down; never far from the other.
                let chosen: Code = Self::MuLawGroups.score(matrix, bits)?.chosen.parse().ok()?;
                let at =
                    MUS.iter().position(|mu| Mu::new(*mu).and_then(|mu| Code::log_signed(bits, mu)) == Some(chosen))?;
                let near = &MUS[at.saturating_sub(1)..(at + 2).min(MUS.len())];
                let codes = near.iter().filter_map(|mu| Code::log_signed(bits, Mu::new(*mu)?));
                let tried =
                    codes.filter_map(|code| Some(Score { chosen: code.to_string(), ..searched(matrix, code)? }));
                tried.max_by(|a, b| a.snr_db.total_cmp(&b.snr_db))
            }
            Self::MuLawMidRise => {
                let tried =
                    MUS.into_iter().map(|mu| (format!("mu{mu}"), best_scale(sorted, &mid_rise(b, f64::from(mu)))));
                tuned(matrix, b, tried)
            }
            Self::Geometric => {
                let ranges = (2..=64).filter_map(|quarters| Octaves::new(quarters as f32 / 4.0));
                let tried = ranges.filter_map(|range| {
                    let code = Code::geometric(bits, range)?;
                    Some((code, best_scale(sorted, &levels(code))))
                });
                tuned(matrix, b, tried)
            }
            Self::Uniform(sharing) => Some(shared(matrix, Code::Int { bits }, sharing)),
            Self::UniformSearched => searched(matrix, Code::Int { bits }),
            Self::UniformMidRise => {
                let count = 1_u32 << b;
                let levels: Vec<f64> = (0..count).map(|k| f64::from(2 * k + 1) / f64::from(count) - 1.0).collect();
                let (scale, tally) = best_scale(sorted, &levels);
                Some(tensor(matrix, b, tally, clip(scale, sorted)))
            }
            Self::Normal4 => (b == 4).then(|| grouped(matrix, scheme(Code::Normal4, 64))),
            Self::E2M1 => {
                let (code, inner) = (Code::Float(Minifloat::E2M1), Code::Float(Minifloat::E4M3));
                let scale = Scale::Nested { code: inner, group: Group::Tensor, outer: FloatKind::F32 };
                (b == 4).then(|| grouped(matrix, Scheme { scale, ..scheme(code, 16) }))
            }
            Self::E4M3 => (b == 8).then(|| grouped(matrix, scheme(Code::Float(Minifloat::E4M3), 128))),
            Self::LloydMax => Some(match matrix.source {
                Some(source) => limit(b, source.lloyd_max_db(b)),
                None => {
                    let mut score = tensor(matrix, b, sorted.quantize(&sorted.lloyd_max(1 << b)), String::new());
                    // Its table, in place of a scale.
                    score.bits_per_weight = f64::from(b) + 32.0 * f64::from(1_u32 << b) / matrix.len() as f64;
                    score
                }
            }),
            Self::EntropyCoded => Some(match matrix.source {
                Some(source) => limit(b, source.entropy_coded_db(f64::from(b))),
                None => {
                    let tally = sorted.entropy_coded(f64::from(b));
                    Score { bits_per_weight: f64::from(b), ..tensor(matrix, b, tally, String::new()) }
                }
            }),
            Self::Shannon => Some(match matrix.source {
                Some(source) => limit(b, source.shannon_db(f64::from(b))),
                None => limit(b, sorted.shannon_db(f64::from(b))),
            }),
        }
    }
}

/// A number of theory, at exactly `bits`.
fn limit(bits: u32, snr_db: f64) -> Score {
    Score { chosen: String::new(), bits_per_weight: f64::from(bits), snr_db, zero_fraction: None }
}

/// One f32 for the whole matrix beside codes of `bits`.
fn tensor(matrix: &Matrix, bits: u32, tally: Tally, chosen: String) -> Score {
    let bits_per_weight = f64::from(bits) + f64::from(FloatKind::F32.bits()) / matrix.len() as f64;
    Score { chosen, bits_per_weight, snr_db: tally.snr_db(), zero_fraction: Some(tally.zero_fraction()) }
}

/// The best of several grids, each with its best scale.
fn tuned<T: ToString>(matrix: &Matrix, bits: u32, tried: impl Iterator<Item = (T, (f64, Tally))>) -> Option<Score> {
    let (grid, (scale, tally)) = tried.min_by(|(_, (_, a)), (_, (_, b))| a.noise.total_cmp(&b.noise))?;
    Some(tensor(matrix, bits, tally, format!("{}, {}", grid.to_string(), clip(scale, &matrix.sorted))))
}

/// Where the outermost level lies.
fn clip(scale: f64, sorted: &Sorted) -> String {
    format!("clip {:.2}", scale / sorted.largest())
}

/// Scales that the largest weight decides.
fn shared(matrix: &Matrix, code: Code, sharing: Sharing) -> Score {
    match sharing {
        Sharing::Groups => grouped(matrix, scheme(code, 128)),
        Sharing::Tensor => {
            // The level -2^(b-1) of an integer code lies beyond the largest weight and stays unused.
            let levels: Vec<f64> = levels(code).iter().map(|level| level / f64::from(code.max_level())).collect();
            let tally = matrix.sorted.quantize(&scaled(&levels, matrix.sorted.largest()));
            tensor(matrix, code.bits(), tally, String::new())
        }
    }
}

/// The code in groups of `columns` with f16 scales.
fn scheme(code: Code, columns: u32) -> Scheme {
    let group = std::num::NonZeroU32::new(columns).map_or(Group::Row, Group::Columns);
    Scheme::new(code, group, Scale::Float(FloatKind::F16))
}

/// Every group scaled by its largest weight, each weight to the nearest level.
fn grouped(matrix: &Matrix, scheme: Scheme) -> Score {
    let ([_, columns], grid) = (matrix.shape, scheme.code.grid());
    let size = scheme.group.size(columns);
    let largest = |group: &[f32]| group.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
    let top = scheme.code.max_level();
    let scale_of: Box<dyn Fn(f32) -> f32> = match scheme.scale {
        Scale::Float(kind) => Box::new(move |scale| kind.round(scale)),
        Scale::PowerOfTwo => Box::new(power_of_two),
        Scale::Nested { code, outer, .. } => {
            let outer = outer.round(matrix.sorted.largest() as f32 / top / code.max_level());
            let inner = code.grid();
            Box::new(move |scale| if outer == 0.0 { 0.0 } else { outer * inner.level(inner.nearest(scale / outer)) })
        }
    };
    let mut tally = Tally::default();
    for group in matrix.values.chunks(columns).flat_map(|row| row.chunks(size)) {
        let scale = scale_of(largest(group) / top);
        for w in group {
            let x = if scale == 0.0 { 0.0 } else { w / scale };
            let decoded = scale * grid.level(grid.nearest(x));
            tally.add(Tally {
                signal: f64::from(*w).powi(2),
                noise: (f64::from(*w) - f64::from(decoded)).powi(2),
                zeros: u64::from(decoded == 0.0),
                count: 1,
            });
        }
    }
    Score {
        chosen: String::new(),
        bits_per_weight: scheme.bits_per_weight(matrix.shape),
        snr_db: tally.snr_db(),
        zero_fraction: Some(tally.zero_fraction()),
    }
}

/// Groups of 128 whose scales are searched: `Method::Rtn`.
fn searched(matrix: &Matrix, code: Code) -> Option<Score> {
    let [rows, columns] = matrix.shape;
    let w = quantize::Matrix { rows, columns, values: matrix.values.clone() };
    let packed = Method::rtn(ScaleSearch::Mse).quantize("", &w, scheme(code, 128), None).ok()?.packed;
    let mut tally = Tally { signal: matrix.energy(), count: matrix.len() as u64, ..Tally::default() };
    for (w, decoded) in matrix.values.iter().zip(packed.decode()) {
        tally.noise += (f64::from(*w) - f64::from(decoded)).powi(2);
        tally.zeros += u64::from(decoded == 0.0);
    }
    Some(Score { bits_per_weight: packed.bits_per_weight(), ..tensor(matrix, code.bits(), tally, String::new()) })
}

fn levels(code: Code) -> Vec<f64> {
    code.levels().into_iter().map(f64::from).collect()
}

fn scaled(levels: &[f64], scale: f64) -> Steps {
    Steps::nearest(levels.iter().map(|level| level * scale).collect())
}

/// The published map as boundaries and levels, `quench::format::published` scaled by the largest weight: `k` begins at
/// `log2(k - 1/2) / B`, which is not half-way between levels.
fn published(width: u32, scale: f64) -> Steps {
    let top = (1_u32 << width) - 1;
    let log = |k: f64| scale * k.log2() / f64::from(width);
    let mirrored = |positive: Vec<f64>| positive.clone().into_iter().rev().map(|x| -x).chain(positive).collect();
    let boundaries: Vec<f64> = mirrored((2..=top).map(|k| log(f64::from(k) - 0.5)).collect());
    // Zero stands between both halves.
    let positive: Vec<f64> = (2..=top).map(|k| log(f64::from(k))).collect();
    let levels = positive.iter().rev().map(|x| -x).chain([0.0]).chain(positive.iter().copied()).collect();
    Steps::new(boundaries, levels)
}

/// Levels of the mu-law curve at `u = (k + 1/2) / 2^(b-1)`.
fn mid_rise(bits: u32, mu: f64) -> Vec<f64> {
    let half = 1_u32 << (bits - 1);
    let magnitude = |k: u32| ((f64::from(k) + 0.5) / f64::from(half) * mu.ln_1p()).exp_m1() / mu;
    (0..half).flat_map(|k| [magnitude(k), -magnitude(k)]).collect()
}

/// The scale of the least error for `levels` within [-1, 1], the largest weight times 0.02 to 1.
fn best_scale(sorted: &Sorted, levels: &[f64]) -> (f64, Tally) {
    let mut best = (sorted.largest(), sorted.quantize(&scaled(levels, sorted.largest())));
    let mut consider = |scale: f64| {
        let tally = sorted.quantize(&scaled(levels, scale));
        if tally.noise < best.1.noise {
            best = (scale, tally);
        }
        best.0
    };
    let mut center = sorted.largest();
    for step in 1..=48 {
        center = consider(sorted.largest() * 0.92_f64.powi(step));
    }
    // The error has several valleys, each a few percent wide where codes have few bits.
    for width in [0.06, 0.04, 0.02, 0.01, 0.005] {
        consider(center * (1.0 + width));
        center = consider(center * (1.0 - width));
    }
    best
}

#[cfg(test)]
mod tests {
    use quench::format::published as codec;

    use super::*;

    /// The seed of `quench snr`: its largest samples are, within 1 %, those behind the tables of the theory note. The rows
    /// scaled by the largest weight move by half a decibel and more from one seed to another.
    const SEED: u64 = crate::snr::SEED;

    fn matrix(source: Source, samples: usize) -> Matrix {
        Matrix::new(source.samples(samples, SEED), [samples / 1024, 1024], Some(source))
    }

    fn score(rival: Rival, matrix: &Matrix, bits: u8) -> Score {
        rival.score(matrix, Bits::new(bits).unwrap()).unwrap()
    }

    /// The boundaries of the comparison are the published codec, weight by weight.
    #[test]
    fn the_published_row_is_the_codec() {
        let matrix = matrix(Source::Gaussian, 1 << 14);
        let top = matrix.sorted.largest() as f32;
        for bits in [2, 4, 8, 9] {
            let code = Code::published_log(Bits::new(bits).unwrap()).unwrap();
            let (mut signal, mut noise, mut zeros) = (0.0, 0.0, 0);
            for w in &matrix.values {
                let decoded = code.level(codec::encode_one(Bits::new(bits).unwrap(), w / top)) * top;
                signal += f64::from(*w).powi(2);
                noise += (f64::from(*w) - f64::from(decoded)).powi(2);
                zeros += usize::from(decoded == 0.0);
            }
            let found = score(Rival::Published, &matrix, bits);
            assert!((found.snr_db - 10.0 * f64::log10(signal / noise)).abs() < 1e-3, "{bits} bits: {found:?}");
            assert!((found.zero_fraction.unwrap() - zeros as f64 / matrix.len() as f64).abs() < 1e-3);
        }
    }

    /// Theory note, section 3: the tables, at three widths; `quench snr --bits 4..9` prints all.
    ///
    /// The note's tuned rows come from a coarse search, so here they are lower bounds; its `mu = 2^B - 1` row for a whole
    /// tensor comes from a sample with a larger maximum than its other rows, which shows at 4 bits.
    #[test]
    fn the_tables_of_the_theory_note() {
        use Rival::*;
        let gaussian: [(Rival, [f64; 3]); 11] = [
            (Published, [6.75, 12.16, 17.62]),
            (PublishedNearest, [7.08, 12.48, 17.93]),
            (Swapped(Sharing::Groups), [18.89, 29.46, 44.26]),
            (MuLawMidRise, [20.04, 31.28, 48.51]),
            (Geometric, [18.29, 28.24, 43.85]),
            (Uniform(Sharing::Tensor), [14.19, 27.12, 45.42]),
            (Uniform(Sharing::Groups), [18.61, 31.54, 49.84]),
            (UniformMidRise, [19.37, 29.82, 46.13]),
            (LloydMax, [20.22, 31.91, 49.86]),
            (EntropyCoded, [22.55, 34.59, 52.67]),
            (Shannon, [24.08, 36.12, 54.19]),
        ];
        let laplace: [(Rival, [f64; 3]); 8] = [
            (Published, [2.02, 4.99, 8.75]),
            (Swapped(Sharing::Groups), [18.40, 29.55, 44.51]),
            (MuLawMidRise, [17.87, 28.93, 45.52]),
            (Uniform(Sharing::Tensor), [7.55, 19.93, 38.21]),
            (Uniform(Sharing::Groups), [15.93, 28.75, 47.05]),
            (LloydMax, [18.13, 29.74, 47.67]),
            (EntropyCoded, [23.19, 35.22, 53.29]),
            (Shannon, [24.71, 36.75, 54.81]),
        ];
        for (source, table) in [(Source::Gaussian, &gaussian[..]), (Source::Laplace, &laplace[..])] {
            let matrix = matrix(source, crate::snr::SAMPLES);
            for (rival, row) in table {
                for (bits, expected) in [4, 6, 9].into_iter().zip(row) {
                    let found = score(*rival, &matrix, bits).snr_db;
                    let tuned = matches!(rival, MuLawMidRise | Geometric);
                    let above = if tuned { 1.2 } else { 0.15 };
                    let name = rival.name();
                    assert!(
                        (expected - 0.15..=expected + above).contains(&found),
                        "{source:?}, {name}, {bits} bits: {found:.2} dB against {expected}"
                    );
                }
            }
        }
        // With scales searched in groups, integers win at 3 bits and slog from 5, on Gaussian weights.
        let some = matrix(Source::Gaussian, 1 << 16);
        let gain = |bits| score(MuLawSearched, &some, bits).snr_db - score(UniformSearched, &some, bits).snr_db;
        assert!(gain(3) < -0.4 && gain(4).abs() < 0.4 && gain(5) > 0.3, "{} {} {}", gain(3), gain(4), gain(5));
        let swapped = score(Swapped(Sharing::Tensor), &matrix(Source::Gaussian, crate::snr::SAMPLES), 9).snr_db;
        assert!((swapped - 43.91).abs() < 0.15, "{swapped}");
    }

    /// Theory note, section 3, test 2: the published codec on raw weights with a standard deviation of 0.05, B = 7, and
    /// scaled by the largest.
    #[test]
    fn the_published_codec_makes_most_weights_zero() {
        let samples = Source::Gaussian.samples(1 << 20, SEED);
        let raw: Vec<f32> = samples.iter().map(|x| 0.05 * x).collect();
        let bits = Bits::new(8).unwrap();
        let code = Code::published_log(bits).unwrap();
        let codes = codec::encode(bits, &raw).unwrap();
        let zeros = codes.iter().filter(|value| code.level(**value) == 0.0).count() as f64 / raw.len() as f64;
        assert!((zeros - 0.9053).abs() < 0.001, "{zeros}");
        let noise: f64 = raw.iter().zip(&codes).map(|(w, c)| f64::from(w - code.level(*c)).powi(2)).sum();
        let signal: f64 = raw.iter().map(|w| f64::from(*w).powi(2)).sum();
        assert!((10.0 * (signal / noise).log10() - 1.91).abs() < 0.1);
        let found = score(Rival::Published, &matrix(Source::Gaussian, 1 << 20), 8);
        assert!((found.zero_fraction.unwrap() - 0.3075).abs() < 0.003, "{found:?}");
    }

    #[test]
    fn true_bits() {
        let matrix = matrix(Source::Gaussian, 1 << 14);
        for (rival, bits, expected) in [
            (Rival::Uniform(Sharing::Groups), 5, 5.125),
            (Rival::Normal4, 4, 4.25),
            (Rival::E2M1, 4, 4.5 + 32.0 / 16384.0),
            (Rival::E4M3, 8, 8.125),
            (Rival::MuLaw, 3, 3.0 + 32.0 / 16384.0),
            (Rival::Shannon, 3, 3.0),
        ] {
            assert_eq!(score(rival, &matrix, bits).bits_per_weight, expected, "{rival:?}");
        }
        assert_eq!(Rival::Normal4.score(&matrix, Bits::new(5).unwrap()), None);
    }

    /// Weights whose source is not known are measured against themselves.
    #[test]
    fn limits_of_samples_lie_near_those_of_their_source() {
        let known = matrix(Source::Laplace, 1 << 17);
        let unknown = Matrix::new(known.values.clone(), known.shape, None);
        for rival in [Rival::LloydMax, Rival::EntropyCoded, Rival::Shannon] {
            let (found, expected) = (score(rival, &unknown, 4).snr_db, score(rival, &known, 4).snr_db);
            assert!((found - expected).abs() < 0.15, "{rival:?}: {found} against {expected}");
        }
    }
}
