//! The curvature of a log-signed code, searched for a whole matrix.

use quench_format::{Bits, Code, Mu};

use super::Matrix;
use super::fit::{Fit, Request};
use super::levels::Map;

/// Weights that the search looks at, in whole rows; the whole matrix where it has no more.
const SAMPLE: usize = 1 << 16;
/// The last step of the ladder, `mu = 2^10 − 1`.
const LADDER: i32 = 10;
/// How often the bracket is halved: from a factor of 2 in `1 + mu` to one of 1.2.
const HALVINGS: usize = 2;

/// The grid of `bits` whose curvature gives the matrix the least squared error, `mu` in `[0, 1023]`.
///
/// ```text
/// mu = argmin Σ h_j (ŵ_j(mu) − w_j)²
/// ```
///
/// with the scales that `request` asks for at each `mu`: first on the ladder `mu = 2^k − 1`, all of it, because the error may be
/// flat before it falls (under one large weight every small `mu` makes all others zero); then the steps beside the best are
/// halved. Large matrices are searched on rows spread over them; the uniform grid, `mu = 0`, is compared on all weights and
/// kept where it is better, so the result is never worse than it.
pub(super) fn fit(w: &Matrix, bits: Bits, request: Request<'_>) -> Fit {
    let at =
        |w: &Matrix, mu: Mu| Fit::on(w, request.target.with_code(Code::LogSigned { bits, mu }), request, Map::Nearest);
    let sample = sample(w);
    let error = |mu: Mu| {
        let w = sample.as_ref().unwrap_or(w);
        at(w, mu).error(w, request.importance)
    };
    let found = at(w, search(error));
    if sample.is_none() {
        return found;
    }
    let uniform = at(w, Mu::UNIFORM);
    if uniform.error(w, request.importance) < found.error(w, request.importance) { uniform } else { found }
}

/// The `mu` of the least error on the ladder, the first of equals, and then beside it.
fn search(error: impl Fn(Mu) -> f64) -> Mu {
    let steps = (0..=LADDER).filter_map(|step| Mu::new((step as f32).exp2() - 1.0));
    let ladder: Vec<(Mu, f64)> = steps.map(|mu| (mu, error(mu))).collect();
    let best = (0..ladder.len()).min_by(|a, b| ladder[*a].1.total_cmp(&ladder[*b].1)).unwrap_or_default();
    let mut middle = ladder[best];
    let mut low = ladder[best.saturating_sub(1)].0;
    let mut high = ladder[(best + 1).min(ladder.len() - 1)].0;
    for _ in 0..HALVINGS {
        let [below, above] = [between(low, middle.0), between(middle.0, high)];
        let [left, right] = [below, above].map(|mu| if mu == middle.0 { middle } else { (mu, error(mu)) });
        if left.1 < middle.1 && left.1 <= right.1 {
            (middle, high) = (left, middle.0);
        } else if right.1 < middle.1 {
            (low, middle) = (middle.0, right);
        } else {
            (low, high) = (below, above);
        }
    }
    middle.0
}

/// The geometric mean of `1 + mu`, to the next half.
fn between(a: Mu, b: Mu) -> Mu {
    let mean = ((1.0 + a.get()) * (1.0 + b.get())).sqrt() - 1.0;
    Mu::new((2.0 * mean).round() / 2.0).unwrap_or(a)
}

/// Rows spread over a large matrix, with that of its largest weight, on which an absmax scale for the tensor depends.
fn sample(w: &Matrix) -> Option<Matrix> {
    let kept = (SAMPLE / w.columns.max(1)).max(1);
    let largest = w.largest().map_or(0, |(at, _)| at / w.columns);
    if kept >= w.rows {
        return None;
    }
    let mut rows: Vec<usize> = (0..kept).map(|index| index * w.rows / kept).chain([largest]).collect();
    rows.sort_unstable();
    rows.dedup();
    let values = rows.iter().flat_map(|row| w.row(*row)).copied().collect();
    Some(Matrix { rows: rows.len(), columns: w.columns, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::{Method, ScaleSearch};

    /// Uniform numbers from SplitMix64, so that they are the same everywhere.
    fn uniform(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64 + 1e-17
        }
    }

    fn matrix(rows: usize, columns: usize, mut sample: impl FnMut() -> f64) -> Matrix {
        Matrix { rows, columns, values: (0..rows * columns).map(|_| sample() as f32).collect() }
    }

    fn mu(code: Code) -> f32 {
        let Code::LogSigned { mu, .. } = code else { panic!("{code}") };
        mu.get()
    }

    /// The mu that is found for `target`, and the squared error of it and of other spellings.
    fn found(w: &Matrix, target: &str, search: ScaleSearch, others: &[f32]) -> (f32, f64, Vec<f64>) {
        let run = |target: &str| {
            let target: crate::Target = target.parse().unwrap();
            let packed = Method::rtn(search).quantize("test", w, target, None).unwrap().packed;
            let noise = packed.decode().iter().zip(&w.values).map(|(q, w)| f64::from(q - w).powi(2)).sum::<f64>();
            (packed.scheme(), noise)
        };
        let (scheme, noise) = run(target);
        let others = others.iter().map(|mu| run(&target.replace('*', &mu.to_string())).1);
        (mu(scheme.code), noise, others.collect())
    }

    /// Known answers (docs/format.md): with absmax scales over groups of 128, about 2 for Gaussian weights and 4 to 6 for
    /// Laplacian ones; uniform weights want the uniform grid.
    #[test]
    fn known_curvatures() {
        let (mut u, mut v) = (uniform(1), uniform(2));
        let gaussian = matrix(256, 128, || (-2.0 * u().ln()).sqrt() * (std::f64::consts::TAU * v()).cos());
        let (mut u, mut v) = (uniform(3), uniform(4));
        let laplace = matrix(256, 128, || u().ln() * if v() < 0.5 { 1.0 } else { -1.0 });
        let mut u = uniform(5);
        let flat = matrix(256, 128, || 2.0 * u() - 1.0);
        for (name, w, low, high) in
            [("gaussian", &gaussian, 1.5, 3.0), ("laplace", &laplace, 3.5, 7.5), ("uniform", &flat, 0.0, 0.5)]
        {
            for bits in [4, 5, 6] {
                let target = format!("slog{bits}:mu*/128/f32");
                let (mu, noise, others) = found(w, &target, ScaleSearch::AbsMax, &[0.0, 1.0, 3.0, 7.0, 15.0]);
                assert!((low..=high).contains(&mu), "{name}, {bits} bits: mu {mu}");
                assert!(others.iter().all(|other| noise <= *other), "{name}, {bits} bits: {noise} against {others:?}");
            }
        }
        // With three levels every mu is the same grid, and the first is taken.
        assert_eq!(found(&gaussian, "slog2:mu*/128/f16", ScaleSearch::Mse, &[]).0, 0.0);
    }

    /// A matrix of which only a part is looked at, one whose heavy rows are rare, and one scale for all.
    #[test]
    fn never_worse_than_uniform() {
        let mut u = uniform(6);
        let mut large = matrix(4096, 64, || 2.0 * u() - 1.0);
        large.values[77_777] = 40.0;
        for target in ["slog3:mu*/tensor/f32", "slog4:mu*/row/f16", "slog5:mu*/32/int8/2:f32"] {
            for search in [ScaleSearch::AbsMax, ScaleSearch::Mse] {
                let (mu, noise, others) = found(&large, target, search, &[0.0]);
                assert!(noise <= others[0], "{target} {search:?} mu {mu}: {noise} against {others:?}");
            }
        }
        // One large weight in a tensor asks for a strong curve if it is to fit.
        let (mu, noise, others) = found(&large, "slog4:mu*/tensor/f32", ScaleSearch::AbsMax, &[0.0, 3.0]);
        assert!(mu > 30.0 && noise < 0.1 * others[1], "mu {mu}: {noise} against {others:?}");
        let zeros = Matrix { rows: 2, columns: 3, values: vec![0.0; 6] };
        assert_eq!(found(&zeros, "slog4:mu*/2/f16", ScaleSearch::Mse, &[]).1, 0.0);
    }
}
