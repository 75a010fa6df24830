//! Reconstruction: do the weights that make a point of its neighbours still make it on the other side?

use burn::tensor::Tensor;
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

use super::paired;
use crate::{Neighbours, host};

/// How well affine combinations of neighbours, found in a reference, give the points of the reference and of an approximation.
///
/// ```text
/// α_i = argmin |z_i − Σ_j α_ij z_j|²,   Σ_j α_ij = 1,   j among the k nearest of z_i in the reference
/// error_i = |x_i − Σ_j α_ij x_j|²   in the reference and in the approximation
/// ```
///
/// An affine map keeps what is made exactly: with `k` above the dimension both errors are 0. A rotation, a common factor and a shift
/// keep the shares that are unexplained for every `k`. To `G` of the least-squares problem `10⁻⁶ tr G` is added on its diagonal, which
/// chooses the shortest of several `α`.
///
/// Source: Roweis and Saul 2000, "Nonlinear dimensionality reduction by locally linear embedding" (`docs/references.md#lle`).
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// `error_i` in the reference.
    pub own: Vec<f64>,
    /// `error_i` in the approximation.
    pub transferred: Vec<f64>,
    /// `|x_i − mean|²` in the reference.
    pub own_variance: Vec<f64>,
    /// `|x_i − mean|²` in the approximation.
    pub transferred_variance: Vec<f64>,
}

impl Reconstruction {
    /// The weights of `reference`, `[n, width]`, on `approximation`, `[n, any width]`; on the host, in f64.
    ///
    /// # Panics
    ///
    /// If the sides have not equally many rows, or there are not at least `k + 1` of them, or `k` is 0.
    pub fn of(reference: Tensor<2>, approximation: Tensor<2>, k: usize) -> Self {
        paired(&reference, &approximation);
        let neighbours = Neighbours::of(reference.clone(), k);
        let (reference, approximation) = (Points::of(reference), Points::of(approximation));
        let (mut own, mut transferred) = (Vec::new(), Vec::new());
        for (point, list) in neighbours.lists().enumerate() {
            let weights = weights(&reference.from(point, list));
            own.push(error(&reference.from(point, list), &weights));
            transferred.push(error(&approximation.from(point, list), &weights));
        }
        Self { own, transferred, own_variance: reference.variances(), transferred_variance: approximation.variances() }
    }

    /// The share of the variance that is unexplained in the approximation beyond the share in the reference, of the points in `drawn`:
    /// 0 if nothing is lost. `None` if one side does not vary.
    pub fn loss(&self, drawn: impl Iterator<Item = usize> + Clone) -> Option<f64> {
        let share = |errors: &[f64], variances: &[f64]| {
            let sum = |values: &[f64]| drawn.clone().map(|index| values[index]).sum::<f64>();
            let variance = sum(variances);
            (variance > 0.0).then(|| sum(errors) / variance)
        };
        let loss = share(&self.transferred, &self.transferred_variance)? - share(&self.own, &self.own_variance)?;
        Some(loss.max(0.0))
    }
}

/// Rows on the host.
struct Points {
    width: usize,
    values: Vec<f32>,
}

impl Points {
    fn of(x: Tensor<2>) -> Self {
        let [_, width] = x.dims();
        Self { width, values: host::floats(x) }
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// From a point to others, `[others, width]`.
    fn from(&self, point: usize, others: &[u32]) -> Vec<Vec<f64>> {
        let from = self.row(point);
        let difference = |index: &u32| {
            self.row(*index as usize).iter().zip(from).map(|(to, from)| f64::from(*to) - f64::from(*from)).collect()
        };
        others.iter().map(difference).collect()
    }

    fn variances(&self) -> Vec<f64> {
        let rows = self.values.chunks(self.width.max(1));
        let mut mean = vec![0.0; self.width];
        let n = rows.len() as f64;
        rows.clone().for_each(|row| mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / n));
        rows.map(|row| row.iter().zip(&mean).map(|(x, mean)| (f64::from(*x) - mean).powi(2)).sum()).collect()
    }
}

/// `α` with sum 1 that makes `|Σ_j α_j steps_j|²` smallest: `G α ∝ 1`.
fn weights(steps: &[Vec<f64>]) -> Vec<f64> {
    let k = steps.len();
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let trace: f64 = steps.iter().map(|step| dot(step, step)).sum();
    let gram = Mat::from_fn(k, k, |i, j| dot(&steps[i], &steps[j]) + if i == j { 1e-6 * trace } else { 0.0 });
    let ones = Mat::from_fn(k, 1, |_, _| 1.0);
    // Neighbours that all lie on the point leave nothing to solve: any weights are exact.
    let solved = gram.llt(Side::Lower).map_or(ones.clone(), |factor| factor.solve(&ones));
    let sum: f64 = (0..k).map(|j| solved[(j, 0)]).sum();
    (0..k).map(|j| solved[(j, 0)] / sum).collect()
}

/// `|Σ_j α_j steps_j|²`.
fn error(steps: &[Vec<f64>], weights: &[f64]) -> f64 {
    let mut residual = vec![0.0; steps.first().map_or(0, Vec::len)];
    for (step, weight) in steps.iter().zip(weights) {
        residual.iter_mut().zip(step).for_each(|(sum, step)| *sum += weight * step);
    }
    residual.iter().map(|x| x * x).sum()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Between its neighbours 0 and 3, a point at 1 is 2/3 of the one and 1/3 of the other.
    #[test]
    fn weights_by_hand() {
        let found = weights(&[vec![-1.0], vec![2.0]]);
        assert!((found[0] - 2.0 / 3.0).abs() < 1e-5 && (found[1] - 1.0 / 3.0).abs() < 1e-5, "{found:?}");
        assert_eq!(weights(&[vec![0.0], vec![0.0]]), [0.5, 0.5]);
        assert_eq!(error(&[vec![1.0, 0.0], vec![0.0, 3.0]], &[0.5, 0.5]), 0.25 + 2.25);
    }

    #[test]
    fn similar_shapes_keep_what_is_unexplained() {
        let device = Device::flex();
        let x = host::gaussian(200, 6, 1, &device);
        let turned = x.clone().flip([1]) * 3.0 + 7.0;
        let found = Reconstruction::of(x, turned, 4);
        let share = found.own.iter().sum::<f64>() / found.own_variance.iter().sum::<f64>();
        assert!(share > 0.05, "four neighbours explain six dimensions: {share}");
        assert!(found.loss(0..200).unwrap() < 1e-5, "{:?}", found.loss(0..200));
        assert_eq!(found.loss(0..0), None);
    }
}
