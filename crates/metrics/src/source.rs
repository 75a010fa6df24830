//! Sources whose limits are known: how well any quantizer can do at a rate, and samples to measure one on.
//!
//! Signal-to-noise ratios are `10 log10(variance / mean squared error)` in decibels; sources have variance 1.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A memoryless source with mean 0 and variance 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `exp(-x^2 / 2) / sqrt(2 pi)`.
    Gaussian,
    /// `exp(-sqrt(2) |x|) / sqrt(2)`.
    Laplace,
    /// `1 / sqrt(12)` on `[-sqrt(3), sqrt(3)]`.
    Uniform,
}

impl Source {
    /// The density at `x`.
    pub fn density(self, x: f64) -> f64 {
        use std::f64::consts::{SQRT_2, TAU};
        match self {
            Self::Gaussian => (-x * x / 2.0).exp() / TAU.sqrt(),
            Self::Laplace => (-SQRT_2 * x.abs()).exp() / SQRT_2,
            Self::Uniform if x.abs() <= self.reach() => 0.5 / self.reach(),
            Self::Uniform => 0.0,
        }
    }

    /// The differential entropy in bits: `log2(2 pi e) / 2`, `log2(e sqrt(2))`, `log2(12) / 2`.
    pub fn entropy(self) -> f64 {
        use std::f64::consts::{E, SQRT_2, TAU};
        match self {
            Self::Gaussian => (TAU * E).log2() / 2.0,
            Self::Laplace => (E * SQRT_2).log2(),
            Self::Uniform => 12.0_f64.log2() / 2.0,
        }
    }

    /// `n` samples, the same for the same seed on every machine.
    pub fn samples(self, n: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // In (0, 1], so that its logarithm is finite.
        let mut unit = move || 1.0 - random.random::<f64>();
        let mut samples = Vec::with_capacity(n + 1);
        while samples.len() < n {
            let (u, v) = (unit(), unit());
            match self {
                // Box and Muller 1958: two numbers from two.
                Self::Gaussian => {
                    let (radius, angle) = ((-2.0 * u.ln()).sqrt(), std::f64::consts::TAU * v);
                    samples.extend([radius * angle.cos(), radius * angle.sin()].map(|x| x as f32));
                }
                Self::Laplace => {
                    let magnitude = -u.ln() / std::f64::consts::SQRT_2;
                    samples.push(if v <= 0.5 { magnitude } else { -magnitude } as f32);
                }
                Self::Uniform => samples.push(((2.0 * u - 1.0) * self.reach()) as f32),
            }
        }
        samples.truncate(n);
        samples
    }

    /// Shannon's lower bound on the distortion at `rate` bits, as a signal-to-noise ratio that no code of any kind exceeds;
    /// for the Gaussian it is the rate-distortion function itself, `6.02 rate`.
    ///
    /// ```text
    /// D(R) >= 2^(2 h - 2 R) / (2 pi e)
    /// ```
    ///
    /// Source: Shannon 1959; Berger 1971, "Rate Distortion Theory", section 4.3.
    pub fn shannon_db(self, rate: f64) -> f64 {
        shannon_db(self.entropy(), 1.0, rate)
    }

    /// The best quantizer with `2^bits` levels of a fixed length each: the conditions of Lloyd and Max, solved by Newton's
    /// method.
    ///
    /// ```text
    /// level_i = E[x | boundary_(i-1) < x < boundary_i]        boundary_i = (level_i + level_(i+1)) / 2
    /// ```
    ///
    /// Both together are one equation for each level that knows its two neighbours only, so a step of Newton's method is
    /// a tridiagonal system. Lloyd's own iteration needs some `4^bits` steps to the same digits.
    ///
    /// Source: Max 1960, "Quantizing for Minimum Distortion"; Lloyd 1982.
    ///
    /// # Panics
    /// If `bits` is not 1 to 12.
    pub fn lloyd_max_db(self, bits: u32) -> f64 {
        assert!(
            (1..=12).contains(&bits),
            "a Lloyd-Max quantizer of {bits} bits was asked for; 1 to 12 are known to work"
        );
        if self == Self::Uniform {
            return db((4.0_f64).powi(bits as i32));
        }
        // The positive half; the density is even.
        let count = 1_usize << (bits - 1);
        let mut levels = self.panter_dite(count);
        for _ in 0..100 {
            let cells: Vec<Moments> = self.cells(&levels);
            let mut diagonal = vec![0.0; count];
            let (mut lower, mut upper, mut right) = (vec![0.0; count], vec![0.0; count], vec![0.0; count]);
            for (i, cell) in cells.iter().enumerate() {
                let center = cell.first / cell.mass;
                // How the center of a cell follows its boundaries, each of which follows two levels by half.
                let low = self.density(cell.low) * (center - cell.low) / cell.mass / 2.0;
                let high = self.density(cell.high) * (cell.high - center) / cell.mass / 2.0;
                let (first, last) = (i == 0, i + 1 == count);
                diagonal[i] = 1.0 - if first { 0.0 } else { low } - if last { 0.0 } else { high };
                lower[i] = if first { 0.0 } else { -low };
                upper[i] = if last { 0.0 } else { -high };
                right[i] = center - levels[i];
            }
            let step = tridiagonal(&lower, diagonal, &upper, right);
            // Half a step where a whole one would let levels pass each other.
            let mut share = 1.0;
            let moved = loop {
                let moved: Vec<f64> = levels.iter().zip(&step).map(|(level, step)| level + share * step).collect();
                if moved[0] > 0.0 && moved.is_sorted_by(|a, b| a < b) && moved[count - 1] < self.reach() {
                    break moved;
                }
                share /= 2.0;
            };
            levels = moved;
            if share == 1.0 && step.iter().all(|step| step.abs() < 1e-10) {
                break;
            }
        }
        let noise: f64 = self.cells(&levels).iter().zip(&levels).map(|(cell, level)| cell.noise(*level)).sum();
        db(1.0 / (2.0 * noise))
    }

    /// A uniform quantizer with unlimited levels, whose indices are coded with their entropy of `rate` bits.
    ///
    /// At high rates 1.53 dB below [`Source::shannon_db`], and above every quantizer of fixed length.
    /// Source: Gish and Pierce 1968, "Asymptotically Efficient Quantizing".
    pub fn entropy_coded_db(self, rate: f64) -> f64 {
        self.cells_of_equal_width_db(rate, |_, middle| middle)
    }

    /// As [`Source::entropy_coded_db`], with levels that are the centers of mass of their cells, as a decoder that knows the source
    /// would have them: for the Gaussian 0.4 dB better at 2 bits, and nearer to [`Source::shannon_db`] at low rates than at high ones.
    pub fn ecsq_db(self, rate: f64) -> f64 {
        self.cells_of_equal_width_db(rate, |cell, _| cell.center())
    }

    /// Cells of equal width, one around zero, as many as the source reaches, with `level(cell, middle)` for each.
    fn cells_of_equal_width_db(self, rate: f64, level: fn(&Moments, f64) -> f64) -> f64 {
        if self == Self::Uniform {
            return db(4.0_f64.powf(rate));
        }
        let at = |step: f64| {
            let (mut entropy, mut noise) = (0.0, 0.0);
            let mut middle = 0.0;
            while middle - step / 2.0 < self.reach() {
                let cell = self.moments((middle - step / 2.0).max(0.0), (middle + step / 2.0).min(self.reach()));
                // The cell around zero lies on both sides of it, and its level is 0; every other cell has a twin.
                let (mass, twins) = if middle == 0.0 { (2.0 * cell.mass, 1.0) } else { (cell.mass, 2.0) };
                if mass > 0.0 {
                    entropy -= twins * mass * mass.log2();
                }
                noise += 2.0 * cell.noise(if middle == 0.0 { 0.0 } else { level(&cell, middle) });
                middle += step;
            }
            (entropy, noise)
        };
        // The entropy falls as the step grows.
        let (mut low, mut high) = (-rate - 4.0, 6.0);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if at(f64::exp2(middle)).0 > rate { low = middle } else { high = middle }
        }
        db(1.0 / at(f64::exp2((low + high) / 2.0)).1)
    }

    /// Beyond this there is less than 1e-17 of the probability, or nothing.
    fn reach(self) -> f64 {
        match self {
            Self::Gaussian => 9.0,
            Self::Laplace => 28.0,
            Self::Uniform => 3.0_f64.sqrt(),
        }
    }

    /// Levels of density proportional to the cube root of the source's: nearly the best where there are many.
    ///
    /// Source: Panter and Dite 1951.
    fn panter_dite(self, count: usize) -> Vec<f64> {
        let steps = 16 * count.max(256);
        let width = self.reach() / steps as f64;
        let density = |step: usize| self.density((step as f64 + 0.5) * width).cbrt();
        let total: f64 = (0..steps).map(density).sum();
        let (mut levels, mut below) = (Vec::with_capacity(count), 0.0);
        for step in 0..steps {
            below += density(step) / total;
            if below * count as f64 >= levels.len() as f64 + 0.5 && levels.len() < count {
                levels.push((step as f64 + 0.5) * width);
            }
        }
        levels
    }

    /// The cells of the positive half: boundaries half-way between `levels`, the first at 0, the last at the reach.
    fn cells(self, levels: &[f64]) -> Vec<Moments> {
        let middles = levels.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let bounds: Vec<f64> = [0.0].into_iter().chain(middles).chain([self.reach()]).collect();
        bounds.windows(2).map(|pair| self.moments(pair[0], pair[1])).collect()
    }

    /// The moments of the density between `low` and `high`, by Gauss-Legendre quadrature in pieces of a quarter at most.
    fn moments(self, low: f64, high: f64) -> Moments {
        let pieces = ((high - low) / 0.25).ceil().max(1.0);
        let half = (high - low) / pieces / 2.0;
        let mut moments = Moments { low, high, mass: 0.0, first: 0.0, second: 0.0 };
        for piece in 0..pieces as usize {
            let middle = low + half * (2 * piece + 1) as f64;
            for (node, weight) in LEGENDRE {
                for x in [middle - half * node, middle + half * node] {
                    let mass = half * weight * self.density(x);
                    moments.mass += mass;
                    moments.first += mass * x;
                    moments.second += mass * x * x;
                }
            }
        }
        moments
    }
}

/// As [`Source::shannon_db`], for a source of differential entropy `entropy` (bits) and this variance.
pub fn shannon_db(entropy: f64, variance: f64, rate: f64) -> f64 {
    let distortion = (2.0 * (entropy - rate)).exp2() / (std::f64::consts::TAU * std::f64::consts::E);
    db(variance / distortion)
}

/// Nodes and weights of the Gauss-Legendre rule of order 8, one of each pair. Source: Abramowitz and Stegun, table 25.4.
const LEGENDRE: [(f64, f64); 4] = [
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_47),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_26),
];

/// Integrals of `density`, `x density` and `x^2 density` between two boundaries.
struct Moments {
    low: f64,
    high: f64,
    mass: f64,
    first: f64,
    second: f64,
}

impl Moments {
    /// The center of mass; the middle of a cell that has none.
    fn center(&self) -> f64 {
        if self.mass > 0.0 { self.first / self.mass } else { (self.low + self.high) / 2.0 }
    }

    /// The squared error where all of the cell becomes `level`.
    fn noise(&self, level: f64) -> f64 {
        self.second - 2.0 * level * self.first + level * level * self.mass
    }
}

fn db(ratio: f64) -> f64 {
    10.0 * ratio.log10()
}

/// Solves a tridiagonal system by elimination without pivots; `lower[0]` and the last of `upper` are not used.
fn tridiagonal(lower: &[f64], mut diagonal: Vec<f64>, upper: &[f64], mut right: Vec<f64>) -> Vec<f64> {
    let n = diagonal.len();
    for i in 1..n {
        let factor = lower[i] / diagonal[i - 1];
        diagonal[i] -= factor * upper[i - 1];
        right[i] -= factor * right[i - 1];
    }
    for i in (0..n).rev() {
        let above = if i + 1 < n { upper[i] * right[i + 1] } else { 0.0 };
        right[i] = (right[i] - above) / diagonal[i];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "{found:.4} against {expected}");
    }

    /// Theory note, section 3, test 3; Max 1960, table 1, for the Gaussian.
    #[test]
    fn lloyd_max_has_known_values() {
        for (bits, gaussian, laplace) in
            [(1, 4.396, 3.010), (2, 9.300, 7.540), (3, 14.616, 12.638), (4, 20.222, 18.133)]
        {
            close(Source::Gaussian.lloyd_max_db(bits), gaussian, 0.01);
            close(Source::Laplace.lloyd_max_db(bits), laplace, 0.01);
            close(Source::Uniform.lloyd_max_db(bits), 6.0206 * f64::from(bits), 1e-4);
        }
        for (bits, gaussian, laplace) in [(5, 26.01, 23.87), (7, 37.87, 35.69), (9, 49.86, 47.67)] {
            close(Source::Gaussian.lloyd_max_db(bits), gaussian, 0.02);
            close(Source::Laplace.lloyd_max_db(bits), laplace, 0.02);
        }
    }

    /// Theory note, section 3: the last two rows of both tables, which take 4 bits as a high rate already (0.03 dB).
    #[test]
    fn limits_have_known_values() {
        for (rate, gaussian, laplace) in [(4.0, 22.55, 23.19), (6.0, 34.59, 35.22), (9.0, 52.67, 53.29)] {
            close(Source::Gaussian.entropy_coded_db(rate), gaussian, 0.03);
            close(Source::Laplace.entropy_coded_db(rate), laplace, 0.04);
        }
        for (rate, gaussian, laplace, uniform) in [(4.0, 24.08, 24.71, 25.62), (9.0, 54.19, 54.81, 55.72)] {
            close(Source::Gaussian.shannon_db(rate), gaussian, 0.01);
            close(Source::Laplace.shannon_db(rate), laplace, 0.01);
            close(Source::Uniform.shannon_db(rate), uniform, 0.01);
        }
    }

    #[test]
    fn densities_and_samples_have_variance_one() {
        for source in [Source::Gaussian, Source::Laplace, Source::Uniform] {
            let whole = source.moments(0.0, source.reach());
            close(2.0 * whole.mass, 1.0, 1e-12);
            close(2.0 * whole.second, 1.0, 1e-12);
            let samples = source.samples(100_001, 7);
            assert_eq!(samples.len(), 100_001);
            assert_eq!(samples, source.samples(100_001, 7));
            let sum = |power: i32| samples.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / 100_001.0;
            close(sum(1), 0.0, 0.02);
            close(sum(2), 1.0, 0.03);
            // The fourth moments tell the sources apart.
            let fourth = [3.0, 6.0, 1.8][source as usize];
            close(sum(4) / fourth, 1.0, 0.1);
        }
    }
}
