//! Information of continuous vectors, by the distances to near neighbours.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::geometry::paired;
use crate::latent::Twins;
use crate::{Value, host};

/// A mutual information that was estimated, and whether the estimate can be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dependence {
    /// In bits.
    pub information: Value,
    /// One side has more than three dimensions, where the estimate falls short: 4.35 instead of 9.58 bits in eight. Use
    /// [`decoder_bound`](crate::decoder_bound), which is a bound in any number.
    pub unreliable: bool,
}

/// The mutual information of `x`, `[n, d_x]`, and `y`, `[n, d_y]`, by their `k` nearest neighbours; 4 is usual.
///
/// ```text
/// I = ψ(k) + ψ(n) − mean_i(ψ(n_x,i + 1) + ψ(n_y,i + 1))
/// ```
///
/// `n_x,i` is how many points are nearer to `i` in `x` than its `k`-th neighbour is in both, with the largest difference of a coordinate
/// as the distance. On the host, in `n² (d_x + d_y)` steps: for up to some ten thousand points.
///
/// Source: Kraskov, Stögbauer, Grassberger 2004, "Estimating mutual information", estimator 1 (`docs/references.md#ksg`).
///
/// # Errors
///
/// If more than `k` points lie on one another, as in quantized data: there is no density then. Use [`Joint`](crate::Joint).
///
/// # Panics
///
/// If the sides have not equally many rows, or there are not at least `k + 1`, or `k` is 0.
pub fn ksg(x: Tensor<2>, y: Tensor<2>, k: usize) -> Result<Dependence, Twins> {
    let n = paired(&x, &y);
    assert!(0 < k && k < n, "{n} points have no {k} neighbours each");
    let ([_, width], [_, height]) = (x.dims(), y.dims());
    let (x, y) = (host::floats(x), host::floats(y));
    let psi = digammas(n);
    let (mut from_x, mut from_y) = (vec![0.0f32; n], vec![0.0f32; n]);
    let (mut sum, mut twins) = (0.0, 0);
    for point in 0..n {
        largest_differences(&x, width, point, &mut from_x);
        largest_differences(&y, height, point, &mut from_y);
        let mut nearest = vec![f32::INFINITY; k];
        for (other, distance) in from_x.iter().zip(&from_y).map(|(a, b)| a.max(*b)).enumerate() {
            if other != point && distance < nearest[k - 1] {
                let place = nearest.partition_point(|known| *known <= distance);
                nearest[place..].rotate_right(1);
                nearest[place] = distance;
            }
        }
        let reach = nearest[k - 1];
        twins += usize::from(reach == 0.0);
        // The point itself is among them, so this is n_x + 1.
        let within = |distances: &[f32]| distances.iter().filter(|distance| **distance < reach).count();
        sum += psi[within(&from_x).max(1)] + psi[within(&from_y).max(1)];
    }
    if twins > 0 {
        return Err(Twins { points: twins, n });
    }
    let bits = (psi[k] + psi[n] - sum / n as f64) / std::f64::consts::LN_2;
    let information = Value::measured(bits, format!("KSG information, k = {k}"), n).with_null(0.0);
    Ok(Dependence { information, unreliable: width.max(height) > 3 })
}

/// `max_c |x_jc − x_ic|` for a point `i` and all `j`.
fn largest_differences(x: &[f32], width: usize, point: usize, distances: &mut [f32]) {
    let own = &x[point * width..][..width];
    for (distance, row) in distances.iter_mut().zip(x.chunks(width.max(1))) {
        *distance = row.iter().zip(own).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    }
}

/// `ψ(m)` for `m` from 1 to `n`: `−γ + 1 + 1/2 + … + 1/(m − 1)`. The first entry, of 0, is not a number.
fn digammas(n: usize) -> Vec<f64> {
    const EULER: f64 = 0.577_215_664_901_532_9;
    let mut psi = vec![f64::NAN, -EULER];
    for m in 1..n {
        psi.push(psi[m] + 1.0 / m as f64);
    }
    psi
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_digamma_function() {
        let psi = digammas(1000);
        assert!((psi[2] - 0.422_784_335_098_467_1).abs() < 1e-15);
        // log m − 1/(2 m) − 1/(12 m²).
        assert!((psi[1000] - (1000f64.ln() - 5e-4 - 1e-6 / 12.0)).abs() < 1e-13);
    }

    #[test]
    fn quantized_points_have_no_density() {
        let device = Device::flex();
        let x = host::gaussian(300, 1, 1, &device);
        let found = ksg(x.clone().round(), x.clone().round(), 4);
        assert!(found.is_err_and(|twins| twins.points > 200 && twins.n == 300));
        assert!(ksg(x.clone(), host::gaussian(300, 4, 2, &device), 4).is_ok_and(|found| found.unreliable));
    }
}
