//! Points coordinate by coordinate, and how many of them are near the ends.

use std::collections::HashMap;

use burn::tensor::Tensor;

use super::{Cube, Vertices};
use crate::{host, normal};

/// What of the coordinates is near the ends.
pub(super) struct Share {
    /// Of all coordinates.
    pub(super) mean: f64,
    /// Of points, all of whose coordinates are.
    pub(super) corner: f64,
    /// The standard error of the mean.
    pub(super) error: f64,
}

impl Share {
    /// From the number of coordinates of each point that are near.
    pub(super) fn of(near: Vec<usize>, d: usize) -> Self {
        let n = near.len() as f64;
        let share = |count: &usize| *count as f64 / d as f64;
        let mean = near.iter().sum::<usize>() as f64 / (n * d as f64);
        let variance = near.iter().map(|count| (share(count) - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let corner = near.iter().filter(|count| **count == d).count() as f64 / n;
        Self { mean, corner, error: (variance / n).sqrt() }
    }
}

/// Points on the host, coordinate by coordinate.
pub(super) struct Points {
    n: usize,
    columns: Vec<Column>,
}

/// One coordinate of all points, and the range of it.
struct Column {
    values: Vec<f64>,
    mean: f64,
    variance: f64,
    center: f64,
    half: f64,
}

impl Points {
    pub(super) fn of(x: Tensor<2>, cube: Cube) -> Self {
        let [n, _] = x.dims();
        let values = host::floats(x.transpose()); // [d, n]
        let columns =
            values.chunks(n).map(|values| Column::of(values.iter().map(|x| f64::from(*x)).collect(), cube)).collect();
        Self { n, columns }
    }

    /// How many coordinates of each point are near the ends.
    pub(super) fn near(&self, delta: f64) -> Vec<usize> {
        let mut counts = vec![0; self.n];
        for column in &self.columns {
            let reach = column.reach(delta);
            for (count, x) in counts.iter_mut().zip(&column.values) {
                *count += usize::from((x - column.center).abs() >= reach);
            }
        }
        counts
    }

    /// What normal coordinates of the same means and variances would give, with its standard error. Cutting off at the box changes
    /// nothing: what is outside is near before and after.
    pub(super) fn gaussian_null(&self, delta: f64) -> (f64, f64) {
        let d = self.columns.len() as f64;
        let (mut sum, mut variance) = (0.0, 0.0);
        for column in &self.columns {
            let share = column.gaussian_share(delta);
            sum += share;
            variance += share * (1.0 - share) / self.n as f64;
        }
        (sum / d, variance.sqrt() / d)
    }

    pub(super) fn bimodality(&self) -> f64 {
        let coefficients = self.columns.iter().filter(|column| column.varies()).map(|column| {
            let moment = |k: i32| column.values.iter().map(|x| (x - column.mean).powi(k)).sum::<f64>() / self.n as f64;
            let (skew, kurtosis) = (moment(3) / column.variance.powf(1.5), moment(4) / column.variance.powi(2));
            (skew * skew + 1.0) / kurtosis
        });
        let (count, sum) = coefficients.fold((0, 0.0), |(count, sum), coefficient| (count + 1, sum + coefficient));
        sum / f64::from(count)
    }

    pub(super) fn one_bit_db(&self) -> f64 {
        let noise: f64 = self.columns.iter().map(Column::one_bit_error).sum();
        let signal: f64 = self.columns.iter().map(|column| column.variance).sum();
        10.0 * (signal / noise).log10()
    }

    pub(super) fn vertices(&self) -> Vertices {
        let n = self.n as f64;
        let words = self.columns.len().div_ceil(64);
        let mut patterns = vec![0u64; self.n * words];
        let mut differing = 0.0;
        for (j, column) in self.columns.iter().enumerate() {
            let mut ones = 0.0;
            for (i, _) in column.values.iter().enumerate().filter(|(_, x)| **x >= column.center) {
                patterns[i * words + j / 64] |= 1 << (j % 64);
                ones += 1.0;
            }
            differing += 2.0 * ones * (n - ones) / (n * (n - 1.0));
        }
        let mut counts: HashMap<&[u64], usize> = HashMap::new();
        patterns.chunks(words).for_each(|pattern| *counts.entry(pattern).or_default() += 1);
        // In a fixed order, so that the sum has the same last digit everywhere.
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable();
        let entropy =
            counts.iter().map(|count| *count as f64 / n).map(|share| -share * share.log2()).sum::<f64>().abs();
        Vertices { occupied: counts.len(), entropy, hamming: differing / self.columns.len() as f64 }
    }
}

impl Column {
    fn of(values: Vec<f64>, cube: Cube) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        assert!(variance.is_finite(), "activations are finite");
        let (center, half) = match cube {
            Cube::Bounded { low, high } => {
                assert!(low < high, "a range from {low} to {high} is empty");
                ((low + high) / 2.0, (high - low) / 2.0)
            }
            Cube::Fitted => {
                let (low, high) =
                    values.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
                let center = (low + high) / 2.0;
                let mut distances: Vec<f64> = values.iter().map(|x| (x - center).abs()).collect();
                distances.sort_unstable_by(f64::total_cmp);
                (center, crate::summary::quantile(&distances, 0.99))
            }
        };
        Self { values, mean, variance, center, half }
    }

    /// From which distance to the center a value is near an end.
    fn reach(&self, delta: f64) -> f64 {
        // `(1 − δ) a` rounds, and a value that is exactly there is near.
        (1.0 - delta) * self.half * (1.0 - 4.0 * f64::EPSILON)
    }

    /// Whether the spread is more than the rounding of f32.
    fn varies(&self) -> bool {
        self.variance.sqrt() > 1e-7 * self.mean.abs()
    }

    fn gaussian_share(&self, delta: f64) -> f64 {
        let (reach, offset) = (self.reach(delta), self.mean - self.center);
        if !self.varies() {
            return f64::from(u8::from(offset.abs() >= reach));
        }
        let deviation = self.variance.sqrt();
        normal::cdf((offset - reach) / deviation) + normal::cdf((-offset - reach) / deviation)
    }

    /// The mean squared distance to the mean of the own side of the center.
    fn one_bit_error(&self) -> f64 {
        let side = |above: bool| {
            let own = self.values.iter().filter(|x| (**x >= self.center) == above);
            let (count, sum) = own.clone().fold((0.0, 0.0), |(count, sum), x| (count + 1.0, sum + x));
            own.map(|x| (x - sum / count).powi(2)).sum::<f64>()
        };
        (side(false) + side(true)) / self.values.len() as f64
    }
}
