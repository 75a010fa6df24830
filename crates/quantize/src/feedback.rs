//! What the layers before have lost, and how the next one makes up for it.

use burn::tensor::Tensor;
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use crate::Gram;
use crate::quantizer::Matrix;
use crate::stats::{Drift, host};

/// The weight that, on the inputs as they are, comes nearest to what `w` gives on those of the dense network:
///
/// ```text
/// W* = argmin Σ |W x̄ − V x|² + λ |V − W|² = W + W D (G + λI)⁻¹        D = Σ (x̄ − x) xᵀ
/// ```
///
/// of which the part `strength` is taken. Quantizing `W*` in the place of `W` is asymmetric calibration: for every `V`
/// the loss above is `tr((V − W*)(G + λI)(V − W*)ᵀ)` and a constant.
///
/// - `w`: `[out, in]`; `drift`: `D`, `[in, in]`; `λ = damping · mean(diag G)`
///
/// Source: Li et al. 2025, "GPTAQ" (`docs/references.md#gptaq`), which folds the same correction into its column updates.
pub(crate) fn target(w: &Matrix, drift: &Drift<'_>, gram: &Gram, strength: f64, damping: f64) -> Option<Matrix> {
    let n = w.columns;
    let g = gram.to_host();
    let lambda = damping * (0..n).map(|i| f64::from(g[i * n + i])).sum::<f64>() / n as f64;
    let h = Mat::<f64>::from_fn(n, n, |i, j| {
        0.5 * (f64::from(g[i * n + j]) + f64::from(g[j * n + i])) + if i == j { lambda } else { 0.0 }
    });
    let drift: Tensor<2> = match *drift {
        Drift::Input(drift) => {
            let w =
                Tensor::<2>::from_data(burn::tensor::TensorData::new(w.values.clone(), [w.rows, n]), &gram.device());
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
