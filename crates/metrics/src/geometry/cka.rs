//! Centred kernel alignment: do two sets of vectors have the same inner products?

use burn::tensor::Tensor;

use super::{centred, cross, paired, squares};

/// Debiased linear CKA of `x` and `y`, at most 1 for equal inner products up to a factor, 0 expected of independent ones.
///
/// ```text
/// CKA = H(K, L) / √(H(K, K) H(L, L)),   K = X Xᵀ, L = Y Yᵀ with zeros on their diagonals
/// H(K, L) = (tr KL + 1ᵀK1 1ᵀL1 / ((n−1)(n−2)) − 2 1ᵀKL1 / (n−2)) / (n (n−3))
/// ```
///
/// `H` is the unbiased estimate of Song's HSIC. It does not see the means; without them `K1` is `−k`, where `k_i = |x_i|²`, and so
///
/// ```text
/// tr KL = |XᵀY|² − Σ k_i l_i,   1ᵀK1 = −Σ k_i,   1ᵀKL1 = Σ k_i l_i
/// ```
///
/// takes the `[d_x, d_y]` product and the lengths of the rows. `None` if there are fewer than 4 rows, or one side has no variance
/// that the estimate could find. A resampled set holds rows twice, which this estimate takes for structure: there is no bootstrap.
///
/// Source: Song et al. 2012, Kornblith et al. 2019, Murphy et al. 2024 (`docs/references.md#cka`).
///
/// # Panics
///
/// If the sides have not equally many rows.
pub fn cka(x: Tensor<2>, y: Tensor<2>) -> Option<f64> {
    let n = paired(&x, &y) as f64;
    let (x, y) = (centred(x), centred(y));
    let (k, l) = (squares(&x), squares(&y));
    // Without the common factor n (n − 3).
    let hsic = |a: &Tensor<2>, b: &Tensor<2>, k: &[f64], l: &[f64]| {
        let both: f64 = k.iter().zip(l).map(|(k, l)| k * l).sum();
        let (k, l) = (k.iter().sum::<f64>(), l.iter().sum::<f64>());
        cross(a, b).squared_norm_l2() - both + k * l / ((n - 1.0) * (n - 2.0)) - 2.0 * both / (n - 2.0)
    };
    if n < 4.0 {
        return None;
    }
    let (xx, yy) = (hsic(&x, &x, &k, &k), hsic(&y, &y, &l, &l));
    (xx > 0.0 && yy > 0.0).then(|| hsic(&x, &y, &k, &l) / (xx * yy).sqrt())
}

/// Linear CKA as it was first defined, `|XᵀY|² / (|XᵀX| |YᵀY|)`; `None` if one side does not vary.
///
/// Only to show its bias: independent vectors get about `d / (n + d)`, .84 for 50 of 256 numbers. Use [`cka`].
///
/// # Panics
///
/// If the sides have not equally many rows.
pub fn biased_cka(x: Tensor<2>, y: Tensor<2>) -> Option<f64> {
    paired(&x, &y);
    let (x, y) = (centred(x), centred(y));
    let size = cross(&x, &x).norm_l2() * cross(&y, &y).norm_l2();
    (size > 0.0).then(|| cross(&x, &y).squared_norm_l2() / size)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::host;

    /// The definition, with `n × n` kernels in f64 and means left where they are.
    fn naive(x: &[f32], y: &[f32], width: usize) -> f64 {
        let kernel = |x: &[f32]| -> Vec<Vec<f64>> {
            let rows: Vec<&[f32]> = x.chunks(width).collect();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let entry = |i: usize, j: usize| if i == j { 0.0 } else { dot(rows[i], rows[j]) };
            (0..rows.len()).map(|i| (0..rows.len()).map(|j| entry(i, j)).collect()).collect()
        };
        let (k, l) = (kernel(x), kernel(y));
        let hsic = |k: &[Vec<f64>], l: &[Vec<f64>]| {
            let n = k.len();
            let sums = |k: &[Vec<f64>]| -> Vec<f64> { k.iter().map(|row| row.iter().sum()).collect() };
            let (row, column) = (sums(k), sums(l));
            let trace: f64 = (0..n).map(|i| (0..n).map(|j| k[i][j] * l[j][i]).sum::<f64>()).sum();
            let totals = row.iter().sum::<f64>() * column.iter().sum::<f64>();
            let both: f64 = row.iter().zip(&column).map(|(a, b)| a * b).sum();
            let n = n as f64;
            (trace + totals / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * both) / (n * (n - 3.0))
        };
        hsic(&k, &l) / (hsic(&k, &k) * hsic(&l, &l)).sqrt()
    }

    #[test]
    fn nothing_to_align() {
        let device = Device::flex();
        let some = host::gaussian(10, 3, 1, &device);
        assert_eq!(cka(some.clone() * 0.0 + 2.0, some.clone()), None);
        assert_eq!(biased_cka(some.clone() * 0.0, some.clone()), None);
        let three = some.slice_dim(0, 0..3);
        assert_eq!(cka(three.clone(), three), None);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(seed: u64, rows in 5usize..40, width in 1usize..9, offset in -3f32..3.0, noise in 0f32..2.0) {
            let device = Device::flex();
            let x = host::gaussian(rows, width, seed, &device) + offset;
            let y = x.clone() + host::gaussian(rows, width, seed ^ 1, &device) * noise;
            let expected = naive(&host::floats(x.clone()), &host::floats(y.clone()), width);
            let found = cka(x, y);
            prop_assert!(found.is_none_or(|found| (found - expected).abs() < 1e-4 * (1.0 + expected.abs())), "{found:?} {expected}");
        }
    }
}
