//! What the layers before have lost, and how the next one makes up for it.

use burn::tensor::{Tensor, TensorData};
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use crate::Gram;
use crate::quantizer::Matrix;
use crate::stats::{Drift, host, mean_diagonal};

/// The weight whose outputs, on the inputs `x` as they are, come nearest to those of the dense network:
///
/// ```text
/// W* = argmin_V Σ |ȳ − V x|² + λ |V − W|² = W + Σ (ȳ − W x) xᵀ (G + λI)⁻¹
/// ```
///
/// of which the part `strength` is taken: `W + strength · (W* − W)`. For a layer that adds to the residual stream, `ȳ − W x` is what
/// the whole sum lacks; for any other it is `W (x̄ − x)`, with the input `x̄` in the dense network. For every `V` the loss above
/// is `tr((V − W*)(G + λI)(V − W*)ᵀ)` and a constant, so that `W*` is quantized in the place of `W`.
///
/// - `w`: `[out, in]`; `λ = damping · mean(diag G)`; `None` if `G + λI` is not positive definite
///
/// Source: asymmetric calibration, Li et al. 2025, "GPTAQ", which folds a part of this correction into its column updates and
/// knows no residual stream (`docs/references.md#gptaq`).
pub(crate) fn target(w: &Matrix, drift: &Drift<'_>, gram: &Gram, strength: f64, damping: f64) -> Option<Matrix> {
    let n = w.columns;
    let g = gram.to_host();
    let lambda = damping * mean_diagonal(&g);
    let h = Mat::<f64>::from_fn(n, n, |i, j| {
        0.5 * (f64::from(g[i * n + j]) + f64::from(g[j * n + i])) + if i == j { lambda } else { 0.0 }
    });
    let drift: Tensor<2> = match *drift {
        Drift::Input(drift) => {
            let w = Tensor::<2>::from_data(TensorData::new(w.values.clone(), [w.rows, n]), &gram.device());
            w.matmul(drift.clone())
        }
        Drift::Output(drift) => drift.clone(),
    };
    let d = host(drift);
    // (D H⁻¹)ᵀ = H⁻¹ Dᵀ
    let transposed = Mat::<f64>::from_fn(n, w.rows, |i, j| f64::from(d[j * n + i]));
    let solved = h.llt(Side::Lower).ok()?.solve(&transposed);
    let values: Vec<f32> =
        (0..w.rows * n).map(|at| (f64::from(w.values[at]) + strength * solved[(at % n, at / n)]) as f32).collect();
    values.iter().all(|value| value.is_finite()).then_some(Matrix { values, ..*w })
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Numbers in [-1, 1) from a linear congruential generator.
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(next).collect()
    }

    fn tensor(values: &[f32], shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    /// With as many outputs of the sum as of the layer, in f64 and straight from the definition: the gradient of
    /// `Σ |ȳ − V x|² + λ |V − W|²` vanishes at `W*`, whichever way the drift is given.
    #[test]
    fn the_target_is_the_minimum() {
        let (out, n, samples) = (3, 5, 40);
        let x = values(samples * n, 1);
        let dense: Vec<f32> = x.iter().zip(values(samples * n, 2)).map(|(x, e)| x + 0.1 * e).collect();
        let w = Matrix { rows: out, columns: n, values: values(out * n, 3) };
        let rows = tensor(&x, [samples, n]);
        let gram = Gram::new(rows.clone().transpose().matmul(rows.clone()), samples);
        let input = (tensor(&dense, [samples, n]) - rows.clone()).transpose().matmul(rows.clone());
        let lack = tensor(&values(samples * out, 4), [samples, out]);
        let output = lack.clone().transpose().matmul(rows);
        let lack = host(lack);
        let damping = 0.05;
        let g = gram.diagonal();
        let lambda = damping * g.iter().map(|g| f64::from(*g)).sum::<f64>() / n as f64;
        for (drift, through) in [(Drift::Input(&input), false), (Drift::Output(&output), true)] {
            let best = target(&w, &drift, &gram, 1.0, damping).unwrap();
            for row in 0..out {
                let (v, w) = (best.row(row), w.row(row));
                let dot =
                    |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                for column in 0..n {
                    let slope: f64 = (0..samples)
                        .map(|t| {
                            let (x, dense) = (&x[t * n..][..n], &dense[t * n..][..n]);
                            let wanted =
                                if through { dot(w, x) + f64::from(lack[t * out + row]) } else { dot(w, dense) };
                            (wanted - dot(v, x)) * f64::from(x[column])
                        })
                        .sum();
                    let pull = lambda * (f64::from(v[column]) - f64::from(w[column]));
                    assert!((slope - pull).abs() < 1e-4, "{through} {row} {column}: {slope} against {pull}");
                }
            }
            let half = target(&w, &drift, &gram, 0.5, damping).unwrap();
            for ((half, best), w) in half.values.iter().zip(&best.values).zip(&w.values) {
                assert!((half - 0.5 * (best + w)).abs() < 1e-6);
            }
            assert!(best.values.iter().zip(&w.values).any(|(a, b)| (a - b).abs() > 1e-3));
        }
    }
}
