//! The scale of one group, searched.

use quench_format::{Code, FloatKind, Scale, Scheme};
use serde::{Deserialize, Serialize};

use super::levels::Levels;

/// How the scale of a group is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleSearch {
    /// The scale at which the largest weight just fits: `2 max|w| / (2^b − 1)` for integers, `max|w| / max level`
    /// for tables, and the range `[min, max]` with zero inside for affine codes.
    AbsMax,
    /// The scale with the least squared error among shrunken candidates, for integers of either sign (so that the
    /// one level more on the negative side may serve the longer tail).
    #[default]
    Mse,
    /// The same candidates, by the squared error of the outputs as if inputs were not correlated: `Σ h_j (ŵ_j − w_j)²` with
    /// the mean square `h_j` of input `j`, [`Gram::importance`](crate::Gram::importance). Needs calibration.
    Gram,
    /// No scale, which is the scale 1: for the published signed-log codec alone, whose weights lie in [-1, 1]. Spelled
    /// `none`.
    #[serde(rename = "none")]
    Unscaled,
}

/// Shrink factors tried by the search, coarse steps first, then fine ones around the best.
const COARSE: [f32; 16] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72, 0.68, 0.64, 0.6, 0.56, 0.52, 0.48, 0.44, 0.4];
const FINE: [f32; 6] = [-0.03, -0.02, -0.01, 0.01, 0.02, 0.03];

/// The search for one group.
pub(super) struct Finder<'a> {
    pub(super) scheme: Scheme,
    pub(super) search: ScaleSearch,
    pub(super) levels: &'a Levels,
}

/// The grid of one group; of zero point and minimum the one that the scheme has.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) scale: f32,
    pub(super) zero: u16,
    pub(super) minimum: f32,
}

impl Finder<'_> {
    /// The grid of the weights `x`, whose errors count by `importance`.
    pub(super) fn find(&self, x: &[f32], importance: Option<&[f32]>) -> Found {
        if self.search == ScaleSearch::Unscaled {
            return Found { scale: 1.0, ..Found::default() };
        }
        let (low, high) = x.iter().fold((0.0f32, 0.0f32), |(low, high), v| (low.min(*v), high.max(*v)));
        if low == high {
            return Found::default();
        }
        let code = self.scheme.code;
        if let Code::Trellis(trellis) = code {
            // Made for normal weights: a spread and no largest one.
            let spread = (squared_error(x, None, |v| v) / x.len() as f64).sqrt();
            return Found { scale: self.rounded(spread as f32 * trellis.gain()), ..Found::default() };
        }
        let at = |shrink: f32, sign: f32| match code {
            Code::Affine { .. } => {
                let top = (code.len() - 1) as f32;
                let scale = self.rounded(shrink * (high - low) / top);
                let zero = if scale == 0.0 { 0.0 } else { (-shrink * low / scale).round_ties_even().clamp(0.0, top) };
                Found { scale, zero: zero as u16, minimum: shrink * low }
            }
            Code::Int { .. } => {
                let span = (code.len() - 1) as f32;
                Found { scale: self.rounded(sign * shrink * 2.0 * high.max(-low) / span), ..Found::default() }
            }
            _ => Found { scale: self.rounded(shrink * high.max(-low) / self.levels.top()), ..Found::default() },
        };
        if self.search == ScaleSearch::AbsMax {
            return at(1.0, 1.0);
        }
        let both = matches!(code, Code::Int { .. }) && self.scale_has_sign();
        let signs: &[f32] = if both { &[1.0, -1.0] } else { &[1.0] };
        let mut best = (f64::INFINITY, 1.0, 1.0, at(1.0, 1.0));
        let consider = |shrink: f32, sign: f32, best: &mut (f64, f32, f32, Found)| {
            let candidate = at(shrink, sign);
            let error = self.error(x, importance, candidate);
            if error < best.0 {
                *best = (error, shrink, sign, candidate);
            }
        };
        for sign in signs {
            for shrink in COARSE {
                consider(shrink, *sign, &mut best);
            }
        }
        let (_, shrink, sign, _) = best;
        for step in FINE {
            consider(shrink + step, sign, &mut best);
        }
        best.3
    }

    /// A scale as it is judged: rounded to its kind where it is kept as a float of few bits.
    fn rounded(&self, scale: f32) -> f32 {
        rounded(self.scheme.scale.float().unwrap_or(FloatKind::F32), scale)
    }

    /// Whether a negative scale can be stored.
    fn scale_has_sign(&self) -> bool {
        match self.scheme.scale {
            Scale::Float(_) => true,
            Scale::PowerOfTwo => false,
            Scale::Nested { code, .. } => !code.is_affine(),
        }
    }

    /// The squared error of `x` on a grid.
    fn error(&self, x: &[f32], importance: Option<&[f32]>, Found { scale, zero, minimum }: Found) -> f64 {
        if scale == 0.0 {
            return squared_error(x, importance, |v| v);
        }
        let inverse = 1.0 / scale;
        let code = self.scheme.code;
        match code {
            Code::Int { bits } => {
                let half = (1u32 << (bits.get() - 1)) as f32;
                integer_error(x, importance, scale, 0.0, -half, half - 1.0)
            }
            Code::Affine { .. } if self.scheme.minimum.is_some() => {
                integer_error(x, importance, scale, minimum, 0.0, (code.len() - 1) as f32)
            }
            Code::Affine { .. } => {
                let zero = f32::from(zero);
                integer_error(x, importance, scale, 0.0, -zero, (code.len() - 1) as f32 - zero)
            }
            _ => squared_error(x, importance, |v| v - scale * self.levels.grid.level(self.levels.code(v * inverse))),
        }
    }
}

/// Rounds `scale` to `kind`, staying inside its range.
pub(super) fn rounded(kind: FloatKind, scale: f32) -> f32 {
    let stored = kind.round(scale);
    if stored.is_finite() {
        return stored;
    }
    match kind {
        FloatKind::F16 => half::f16::MAX.to_f32().copysign(scale),
        FloatKind::BF16 => half::bf16::MAX.to_f32().copysign(scale),
        FloatKind::F32 => f32::MAX.copysign(scale),
    }
}

/// `Σ h error(x)²`.
fn squared_error(x: &[f32], h: Option<&[f32]>, error: impl Fn(f32) -> f32) -> f64 {
    let squares = x.iter().map(|v| f64::from(error(*v)).powi(2));
    match h {
        None => squares.sum(),
        Some(h) => squares.zip(h).map(|(square, h)| square * f64::from(*h)).sum(),
    }
}

/// `Σ h (x − minimum − scale · clamp(round((x − minimum) / scale), low, high))²`, in a form that vectorises.
fn integer_error(x: &[f32], h: Option<&[f32]>, scale: f32, minimum: f32, low: f32, high: f32) -> f64 {
    // Adding and taking away 1.5 · 2²³ rounds to the nearest integer, ties to even, below 2²².
    const ROUND: f32 = 12_582_912.0;
    let inverse = 1.0 / scale;
    let mut sums = [0.0f32; 8];
    let chunks = x.chunks_exact(8);
    let error = |v: f32| {
        let v = v - minimum;
        let code = ((v * inverse).max(low).min(high) + ROUND) - ROUND;
        let e = v - scale * code;
        e * e
    };
    let whole = x.len() - chunks.remainder().len();
    match h {
        None => {
            for chunk in chunks {
                for (sum, v) in sums.iter_mut().zip(chunk) {
                    *sum += error(*v);
                }
            }
        }
        Some(h) => {
            for (chunk, h) in chunks.zip(h.chunks_exact(8)) {
                for ((sum, v), h) in sums.iter_mut().zip(chunk).zip(h) {
                    *sum += h * error(*v);
                }
            }
        }
    }
    let rest = (whole..x.len()).map(|at| f64::from(error(x[at])) * h.map_or(1.0, |h| f64::from(h[at])));
    let rest: f64 = rest.sum();
    sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() + rest
}
