//! Adapters: how they begin, and how they become codes again.

use burn::tensor::Device;
use faer::{Mat, Side};
use quench_format::Packed;
use quench_nn::Adapted;
use quench_quantize::quantizer::Quantized;
use quench_quantize::{Gram, Matrix, Method, QuantizeError};

/// The best correction of low rank for what quantization has lost.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// `A`, `[rank, in]`.
    pub down: Matrix,
    /// `B`, `[out, rank]`.
    pub up: Matrix,
    /// `tr(E G Eᵀ)` before, `E = W − Ŵ`, with the damped `G`.
    pub before: f64,
    /// `tr((E − B A) G (E − B A)ᵀ)`: what no adapter of this rank can take away.
    pub after: f64,
}

/// `argmin tr((E − B A) G (E − B A)ᵀ)` over `A` `[rank, in]` and `B` `[out, rank]`: an adapter that begins where quantization erred.
///
/// With `G + λI = L Lᵀ` the norm is Frobenius' of `(E − B A) L`, so that the truncated singular value decomposition is the answer:
///
/// ```text
/// E L = U S Vᵀ        B = U_r S_r^½        A = S_r^½ V_rᵀ L⁻¹        what is left: Σ_{i > r} S_i²
/// ```
///
/// - `residual`: `E = W − Ŵ`, `[out, in]`; `λ = damping · mean(diag G)`
/// - `rank`: at most the smaller extent is used
///
/// `None` if `G + λI` is not positive definite, or the decomposition fails.
///
/// Source: Saha et al. 2024, "CALDERA", section 3, with the adapter in full precision (`docs/references.md#caldera`).
pub fn recover(residual: &Matrix, gram: &Gram, rank: usize, damping: f64) -> Option<Recovery> {
    let (out, n) = (residual.rows, residual.columns);
    let rank = rank.min(out).min(n);
    let g = gram.to_host();
    let mean = (0..n).map(|i| f64::from(g[i * n + i])).sum::<f64>() / n as f64;
    // Inputs that are all zero leave every correction as good as any other: the plain decomposition.
    let lambda = if mean > 0.0 { damping * mean } else { 1.0 };
    let g = Mat::<f64>::from_fn(n, n, |i, j| {
        0.5 * (f64::from(g[i * n + j]) + f64::from(g[j * n + i])) + if i == j { lambda } else { 0.0 }
    });
    let llt = g.llt(Side::Lower).ok()?;
    let l = llt.L();
    let e = Mat::<f64>::from_fn(out, n, |i, j| f64::from(residual.values[i * n + j]));
    let weighted = &e * l;
    let svd = weighted.thin_svd().ok()?;
    let (u, s, v) = (svd.U(), svd.S().column_vector(), svd.V());
    let energy = |range: std::ops::Range<usize>| range.map(|i| s[i] * s[i]).sum::<f64>();
    // (S^½ V_rᵀ L⁻¹)ᵀ = L⁻ᵀ V_r S^½ = (L Lᵀ)⁻¹ L V_r S^½
    let rooted = Mat::<f64>::from_fn(n, rank, |i, j| v[(i, j)] * s[j].sqrt());
    let down = faer::linalg::solvers::Solve::solve(&llt, &(l * &rooted)); // [in, rank]
    let down_values = (0..rank * n).map(|at| down[(at % n, at / n)] as f32).collect();
    let up_values = (0..out * rank).map(|at| (u[(at / rank, at % rank)] * s[at % rank].sqrt()) as f32).collect();
    Some(Recovery {
        down: Matrix { rows: rank, columns: n, values: down_values },
        up: Matrix { rows: out, columns: rank, values: up_values },
        before: energy(0..out.min(n)),
        after: energy(rank..out.min(n)),
    })
}

/// `Ŵ + t B A` in codes of the scheme that `Ŵ` has, by a quantizer that weighs errors with the Gram matrix; what the merging costs is
/// its [`Quantized::output_loss`], the part of the output's energy that became error.
///
/// Scales are found anew: those of `Ŵ` were for other weights.
///
/// # Errors
///
/// Whatever the quantizer reports.
pub fn merge(layer: &str, adapted: &Adapted, method: &Method, gram: &Gram) -> Result<Quantized, QuantizeError> {
    let [rows, columns] = adapted.base.shape();
    let w = Matrix { rows, columns, values: crate::host(adapted.dequantize().detach()) };
    method.quantize(layer, &w, adapted.base.scheme(), Some(gram))
}

/// `W − Ŵ`.
pub(crate) fn residual(dense: &Matrix, packed: &Packed) -> Matrix {
    let values = dense.values.iter().zip(packed.decode()).map(|(w, q)| w - q).collect();
    Matrix { values, ..*dense }
}

/// A tensor from a matrix on the host.
pub(crate) fn tensor(matrix: &Matrix, device: &Device) -> burn::tensor::Tensor<2> {
    let data = burn::tensor::TensorData::new(matrix.values.clone(), [matrix.rows, matrix.columns]);
    burn::tensor::Tensor::from_data(data, device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use quench_kernels::{Activations, QTensor};
    use quench_nn::Lora;
    use quench_quantize::{Order, Refine, ScaleSearch};

    use super::*;
    use crate::testing::{matrix, on, rounded};

    fn gram(device: &Device) -> Gram {
        // Inputs that are correlated: some of them are mixtures of a few.
        let x = on(&matrix(40, 4, 1, 1.0), device).matmul(on(&matrix(4, 12, 2, 1.0), device));
        let x = x + on(&matrix(40, 12, 3, 0.2), device);
        Gram::new(x.clone().transpose().matmul(x), 40)
    }

    fn product(found: &Recovery, device: &Device) -> Matrix {
        let values = crate::host(tensor(&found.up, device).matmul(tensor(&found.down, device)));
        Matrix { rows: found.up.rows, columns: found.down.columns, values }
    }

    fn minus(a: &Matrix, b: &Matrix) -> Matrix {
        Matrix { values: a.values.iter().zip(&b.values).map(|(a, b)| a - b).collect(), ..*a }
    }

    /// What is left is what was foretold, full rank leaves nothing, and neither the plain decomposition nor any neighbour of the answer is
    /// better.
    #[test]
    fn the_correction_is_the_best_of_its_rank() {
        let device = Device::flex();
        let (gram, e) = (gram(&device), matrix(8, 12, 4, 1.0));
        let energy = |e: &Matrix| gram.energy(e).iter().sum::<f64>();
        for rank in [1, 3, 8, 20] {
            let found = recover(&e, &gram, rank, 1e-7).unwrap();
            assert_eq!([found.up.columns, found.down.rows], [rank.min(8); 2]);
            assert!((found.before / energy(&e) - 1.0).abs() < 1e-4);
            let left = energy(&minus(&e, &product(&found, &device)));
            assert!((left - found.after).abs() < 1e-4 * found.before, "{rank}: {left}, not {}", found.after);
            let plain = Gram::new(Tensor::eye(12, &device), 1);
            let plain = recover(&e, &plain, rank, 1e-7).unwrap();
            assert!(left <= energy(&minus(&e, &product(&plain, &device))) + 1e-4 * found.before);
            for seed in 0..8 {
                let mut other = found.clone();
                let (down, up) =
                    (matrix(found.down.rows, 12, seed, 0.05), matrix(8, found.up.columns, seed + 50, 0.05));
                other.down = minus(&other.down, &down);
                other.up = minus(&other.up, &up);
                assert!(energy(&minus(&e, &product(&other, &device))) >= left * (1.0 - 1e-6));
            }
        }
    }

    /// Merging reports what a look at the weights finds, and is better than forgetting the adapter.
    #[test]
    fn merging_costs_what_it_says() {
        let device = Device::flex();
        let (gram, w) = (gram(&device), matrix(8, 12, 4, 1.0));
        let packed = rounded(&w, "int3/6/f16");
        let found = recover(&residual(&w, &packed), &gram, 4, 0.01).unwrap();
        let base = QTensor::from_packed(&packed, &device).with_activations(Activations::F32);
        let lora = Lora::new(tensor(&found.down, &device), tensor(&found.up, &device), 1.0);
        let adapted = Adapted::new(base, lora);
        let refine = Refine { refit: true, descent: 5, pairs: 0 };
        let (search, order) = (ScaleSearch::Gram, Order::Static);
        let method = Method::Gptq { search, order, damping: 0.01, block: 128, refine, restarts: 0, feedback: 0.0 };
        let merged = merge("w", &adapted, &method, &gram).unwrap();
        assert_eq!(merged.packed.scheme(), packed.scheme());
        let target = Matrix { values: crate::host(adapted.dequantize()), ..w };
        let error = |packed: &Packed| {
            let decoded = Matrix { values: packed.decode(), ..target };
            gram.share(&minus(&decoded, &target), &target)
        };
        let found = error(&merged.packed);
        assert!((found / merged.output_loss.unwrap() - 1.0).abs() < 1e-3);
        assert!(found < error(&packed), "{found}");
    }
}
