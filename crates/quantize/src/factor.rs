//! The triangular factor of an inverse Gram matrix.

use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, Par};

use crate::Gram;
use crate::stats::mean_diagonal;

/// The factor and the damping that it took.
pub(crate) struct Factor {
    /// `U`, upper triangular with `UᵀU = (G + λI)⁻¹`, row-major `[n, n]`.
    pub(crate) u: Vec<f32>,
    /// `λ / mean(diag G)`.
    pub(crate) damping: f64,
}

/// Factors `(G + λI)⁻¹ = UᵀU` in f64 on the host.
///
/// With `J` the reversal of indices, `J (G + λI) J = L Lᵀ` gives `U = J L⁻¹ J`: one Cholesky factorisation and one
/// triangular inverse, and the inverse of `G` is never formed. `λ = damping · mean(diag G)`, raised tenfold each time a
/// pivot is not positive.
///
/// # Errors
/// The last damping tried, if the matrix is still not positive definite at `λ = 10³ · mean(diag G)`.
pub(crate) fn factor(gram: &Gram, damping: f64) -> Result<Factor, f64> {
    let n = gram.size();
    let g = gram.to_host();
    let mean = mean_diagonal(&g);
    // Inputs that are all zero leave every column free: any positive diagonal rounds them on their own.
    let mean = if mean > 0.0 { mean } else { 1.0 };
    let mut damping = damping;
    loop {
        let lambda = damping * mean;
        let mut l = Mat::<f64>::from_fn(n, n, |i, j| {
            let (row, column) = (n - 1 - i, n - 1 - j);
            // The product that made G may differ by a rounding between its halves.
            let value = 0.5 * (f64::from(g[row * n + column]) + f64::from(g[column * n + row]));
            if i == j { value + lambda } else { value }
        });
        let par = Par::rayon(0);
        let mut memory = faer::dyn_stack::MemBuffer::new(cholesky_in_place_scratch::<f64>(n, par, Default::default()));
        let stack = faer::dyn_stack::MemStack::new(&mut memory);
        if cholesky_in_place(l.as_mut(), LltRegularization::default(), par, stack, Default::default()).is_ok() {
            let mut inverse = Mat::<f64>::zeros(n, n);
            invert_lower_triangular(inverse.as_mut(), l.as_ref(), par);
            let mut u = vec![0.0f32; n * n];
            for row in 0..n {
                for column in row..n {
                    u[row * n + column] = inverse[(n - 1 - row, n - 1 - column)] as f32;
                }
            }
            // An overflow of the inverse is a failure too.
            if u.iter().all(|value| value.is_finite()) && (0..n).all(|i| u[i * n + i] > 0.0) {
                return Ok(Factor { u, damping });
            }
        }
        if damping >= 1e3 {
            return Err(damping);
        }
        damping *= 10.0;
    }
}
