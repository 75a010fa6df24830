//! The volume of a latent space.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bounds, Latent, Reach};
use crate::{Interval, Value};

impl Latent {
    /// `log2` of the `k`-dimensional volume of `A ∩ R ∩ E` within the span, with `draws` points drawn evenly in `R ∩ E`.
    ///
    /// ```text
    /// log2 Vol = log2 (π^{k/2} / Γ(k/2 + 1) · Π_{c < k} length_c · r^k) + log2 (share of the draws that is in A)
    /// ```
    ///
    /// A ball that is cut by the span has there the radius `√(r² − |distance of the span from 0|²)`. The interval is Wilson's of the
    /// share, at 95 %. `None` if no draw is in `A`, as in many dimensions, or the span does not meet the ball.
    pub fn log2_volume(&self, draws: usize, seed: u64) -> Option<Value> {
        let (centre, radius) = self.cut()?;
        let k = self.span;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let inside = match self.bounds {
            Bounds::Free => draws,
            bounds => (0..draws)
                .filter(|_| self.draw(&mut random, &centre, radius).into_iter().all(|x| bounds.contain(x)))
                .count(),
        };
        let logs: f64 = self.lengths[..k].iter().map(|length| length.log2()).sum();
        let whole = unit_ball(k) + logs + k as f64 * radius.log2();
        let interval = wilson(inside, draws).map(|share| whole + share.log2());
        (inside > 0).then(|| {
            let value = whole + (inside as f64 / draws as f64).log2();
            Value::measured(value, "log2 volume, Monte Carlo", draws).with_interval(Some(interval), seed)
        })
    }

    /// Where the middle of `R ∩ E` is, and its radius in units of the lengths.
    fn cut(&self) -> Option<(Vec<f64>, f64)> {
        if self.reach == Reach::Ellipsoid || self.span == self.mean.len() {
            let centre = if self.reach == Reach::Ball { vec![0.0; self.mean.len()] } else { self.mean.clone() };
            return Some((centre, self.radius));
        }
        // The point of the span that is nearest to 0.
        let mut centre = self.mean.clone();
        for axis in 0..self.span {
            let along: f64 = (0..centre.len()).map(|row| self.axes[(row, axis)] * self.mean[row]).sum();
            centre.iter_mut().enumerate().for_each(|(row, x)| *x -= along * self.axes[(row, axis)]);
        }
        let left = self.radius * self.radius - centre.iter().map(|x| x * x).sum::<f64>();
        (left > 0.0).then(|| (centre, left.sqrt()))
    }

    /// A point of `R ∩ E`: a normal direction, and a radius whose `k`-th power is even.
    fn draw(&self, random: &mut ChaCha8Rng, centre: &[f64], radius: f64) -> Vec<f64> {
        let direction: Vec<f64> = (0..self.span).map(|_| normal(random)).collect();
        let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
        let radius = radius * random.random::<f64>().powf(1.0 / self.span as f64) / length;
        let mut point = centre.to_vec();
        for (axis, along) in direction.iter().enumerate() {
            let step = along * radius * self.lengths[axis];
            point.iter_mut().enumerate().for_each(|(row, x)| *x += step * self.axes[(row, axis)]);
        }
        point
    }
}

/// Box and Muller's.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (u, v) = (1.0 - random.random::<f64>(), random.random::<f64>());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// `log2` of the volume of the ball with radius 1: `V_k = V_{k−2} · 2π / k` from 1 and 2.
fn unit_ball(k: usize) -> f64 {
    let (start, log) = if k.is_multiple_of(2) { (2, 0.0) } else { (3, 1.0) };
    (start..=k).step_by(2).map(|k| (std::f64::consts::TAU / k as f64).log2()).sum::<f64>() + log
}

/// Wilson's interval of a share.
fn wilson(successes: usize, n: usize) -> Interval {
    const Z: f64 = 1.959_963_985;
    let (share, n) = (successes as f64 / n as f64, n as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Interval { low: (middle - half) / scale, high: ((middle + half) / scale).min(1.0), level: 0.95 }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{LatentOptions, host};

    #[test]
    fn volumes_of_balls() {
        let pi = std::f64::consts::PI;
        for (k, expected) in [(1, 2.0), (2, pi), (3, 4.0 * pi / 3.0), (4, pi * pi / 2.0), (5, 8.0 * pi * pi / 15.0)] {
            assert!((unit_ball(k).exp2() - expected).abs() < 1e-12, "{k}");
            let found = Latent::ball(Bounds::Free, k, 2.0).log2_volume(1, 0).unwrap();
            assert!((found.value - expected.log2() - k as f64).abs() < 1e-12);
        }
        let half = Latent::ball(Bounds::Orthant, 2, 1.0).log2_volume(40_000, 3).unwrap();
        let expected = (pi / 4.0).log2();
        assert!(half.interval.is_some_and(|interval| interval.low < expected && expected < interval.high), "{half:?}");
        assert_eq!(Latent::ball(Bounds::Orthant, 60, 1.0).log2_volume(1000, 0), None);
    }

    /// A line that passes 0 at a distance of 3 has a piece of 2 √(5² − 3²) = 8 in a ball of 5.
    #[test]
    fn a_ball_is_cut_by_the_span() {
        let device = Device::flex();
        let line: Vec<f32> = (0..101).flat_map(|i| [i as f32 * 0.08, 3.0, 0.0]).collect();
        let options = LatentOptions { reach: Reach::Ball, quantile: 1.0, ..LatentOptions::default() };
        let mut latent = Latent::fit(host::matrix(line, 3, &device), options).unwrap();
        assert_eq!(latent.span(), 1);
        assert!((latent.radius - 73f64.sqrt()).abs() < 1e-5);
        latent.radius = 5.0;
        assert!((latent.log2_volume(10, 0).unwrap().value - 3.0).abs() < 1e-5);
        latent.radius = 2.9;
        assert_eq!(latent.log2_volume(10, 0), None);
        latent.radius = 5.0;
        latent.bounds = Bounds::Orthant;
        assert!((latent.log2_volume(20_000, 0).unwrap().value - 2.0).abs() < 0.05, "half of it is to the right of 0");
    }

    #[test]
    fn an_ellipse_has_the_volume_of_its_axes() {
        let device = Device::flex();
        let scales = host::matrix(vec![8.0, 2.0, 1.0], 3, &device);
        let x = host::gaussian(4000, 3, 1, &device) * scales;
        let latent = Latent::fit(x, LatentOptions { variance: 1.0, ..LatentOptions::default() }).unwrap();
        let expected = unit_ball(3) + 4.0 + 3.0 * latent.radius.log2();
        let found = latent.log2_volume(10, 0).unwrap().value;
        assert!((found - expected).abs() < 0.1, "{found} {expected}");
    }
}
