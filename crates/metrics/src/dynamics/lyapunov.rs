//! How fast errors grow in the long run.

use super::jacobian::{dot, norm};
use super::{Jacobian, Recursion};
use crate::{Source, Value};

impl<F: Fn(&[f64]) -> Vec<f64>, Q: Fn(&[f64]) -> Vec<f64>> Recursion<F, Q> {
    /// The largest finite-time Lyapunov exponent in nats per step: by which power of `e` an error grows with each step on average.
    ///
    /// ```text
    /// λ = (1/T) Σ_t ln( |J_t v_t| / |v_t| ),    v_{t+1} = J_t v_t,    J_t of f at Q(x_t)
    /// ```
    ///
    /// Along the states of the recursion, with the derivatives of the map alone: that of a quantizer is 0 almost everywhere, and its jumps
    /// are what the map then enlarges. One direction by finite differences: three evaluations a step.
    ///
    /// - `skip`: steps before any is counted, in which states and direction settle
    ///
    /// Source: Benettin, Galgani, Giorgilli, Strelcyn 1980 (`docs/references.md#lyapunov`).
    ///
    /// # Panics
    ///
    /// If `steps` is 0 or `x` has no coordinate.
    pub fn lyapunov(&self, x: &[f64], skip: usize, steps: usize) -> Value {
        let tangent = |state: &[f64], vs: &[Vec<f64>]| vec![along(&self.map, state, &vs[0])];
        let value = self.exponents(x, 1, skip, steps, tangent)[0];
        Value::measured(value, "finite-time Lyapunov exponent, Benettin", steps)
    }

    /// The `count` largest exponents, falling: as [`Recursion::lyapunov`] with as many directions, which Gram and Schmidt's method keeps
    /// apart (the diagonal of `R` in `J_t Q_t = Q_{t+1} R`). Their sum is by what volumes of as many dimensions grow.
    ///
    /// # Panics
    ///
    /// If `steps` or `count` is 0, or `x` has fewer than `count` coordinates.
    pub fn spectrum(&self, x: &[f64], count: usize, skip: usize, steps: usize) -> Vec<f64> {
        self.exponents(x, count, skip, steps, |state, vs| {
            let jacobian = Jacobian::of(&self.map, state);
            vs.iter().map(|v| jacobian.product(v)).collect()
        })
    }

    /// With `tangent(state, directions)`, the images of orthonormal directions.
    fn exponents(
        &self,
        x: &[f64],
        count: usize,
        skip: usize,
        steps: usize,
        tangent: impl Fn(&[f64], &[Vec<f64>]) -> Vec<Vec<f64>>,
    ) -> Vec<f64> {
        let width = x.len();
        assert!(0 < count && count <= width, "a map of {width} coordinates has no {count} exponents");
        assert!(steps > 0, "exponents are of at least one step");
        let start: Vec<f64> = Source::Gaussian.samples(count * width, 1).into_iter().map(f64::from).collect();
        let mut directions: Vec<Vec<f64>> = start.chunks(width).map(<[f64]>::to_vec).collect();
        orthonormalise(&mut directions);
        let mut sums = vec![0.0; count];
        for (time, state) in self.states(x).take(skip + steps).enumerate() {
            directions = tangent(&state, &directions);
            let lengths = orthonormalise(&mut directions);
            if time >= skip {
                sums.iter_mut().zip(lengths).for_each(|(sum, length)| *sum += length.ln() / steps as f64);
            }
        }
        sums
    }
}

/// `J v` by central differences along `v`.
fn along(map: impl Fn(&[f64]) -> Vec<f64>, x: &[f64], v: &[f64]) -> Vec<f64> {
    let scale = x.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    let reach = f64::EPSILON.cbrt() * scale;
    let moved = |sign: f64| map(&x.iter().zip(v).map(|(x, v)| x + sign * reach * v).collect::<Vec<_>>());
    moved(1.0).iter().zip(moved(-1.0)).map(|(above, below)| (above - below) / (2.0 * reach)).collect()
}

/// Gram and Schmidt's method; returns what was left of each vector's length. What is nothing but rounding gets a length of 0 and stays 0.
fn orthonormalise(vectors: &mut [Vec<f64>]) -> Vec<f64> {
    let mut lengths = Vec::with_capacity(vectors.len());
    for at in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(at);
        let vector = &mut rest[0];
        for other in before.iter() {
            let part = dot(vector, other);
            vector.iter_mut().zip(other).for_each(|(x, y)| *x -= part * y);
        }
        let length = norm(vector);
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x /= length);
        }
        lengths.push(length);
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::super::grid;
    use super::*;

    /// Of a linear map they are the logarithms of the magnitudes of its eigenvalues, 2 and 0.5 for `[[2, 1], [0, 0.5]]`.
    #[test]
    fn exponents_of_a_linear_map() {
        // Kept in a box; the derivative stays that of the map.
        let recursion = Recursion {
            map: |x: &[f64]| vec![2.0 * x[0] + x[1], 0.5 * x[1]],
            quantizer: |x: &[f64]| x.iter().map(|x| x.clamp(-1.0, 1.0)).collect(),
        };
        let spectrum = recursion.spectrum(&[0.3, 0.2], 2, 100, 200);
        assert!((spectrum[0] - 2f64.ln()).abs() < 1e-6 && (spectrum[1] - 0.5f64.ln()).abs() < 1e-6, "{spectrum:?}");
        assert!((recursion.lyapunov(&[0.3, 0.2], 100, 200).value - 2f64.ln()).abs() < 1e-6);
    }

    /// Hénon's map has a constant determinant of −0.3, so its exponents have the sum ln 0.3; the first is 0.419.
    #[test]
    fn exponents_of_henon() {
        let map = |x: &[f64]| vec![1.0 - 1.4 * x[0] * x[0] + x[1], 0.3 * x[0]];
        let recursion = Recursion { map, quantizer: <[f64]>::to_vec };
        let spectrum = recursion.spectrum(&[0.1, 0.1], 2, 100, 20_000);
        assert!((spectrum[0] - 0.419).abs() < 0.01, "{spectrum:?}");
        assert!((spectrum[0] + spectrum[1] - 0.3f64.ln()).abs() < 1e-6, "{spectrum:?}");
    }

    #[test]
    fn a_constant_map_forgets_everything() {
        let recursion = Recursion { map: |_: &[f64]| vec![1.0, 2.0], quantizer: grid(0.5) };
        assert_eq!(recursion.lyapunov(&[0.0, 0.0], 0, 5).value, f64::NEG_INFINITY);
    }
}
