//! Samples sorted once, so that a scalar quantizer costs as much as it has cells, whatever the number of samples.

use std::ops::Range;

use crate::source::shannon_db;

/// A scalar quantizer: what lies between two boundaries becomes the level there.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Rising.
    boundaries: Vec<f64>,
    /// Rising or equal; one more than boundaries.
    levels: Vec<f64>,
}

impl Steps {
    /// Everything goes to the nearest of `levels`, which may come in any order.
    ///
    /// # Panics
    /// If there are no levels.
    pub fn nearest(mut levels: Vec<f64>) -> Self {
        assert!(!levels.is_empty(), "a quantizer needs a level");
        levels.sort_by(f64::total_cmp);
        levels.dedup();
        let boundaries = levels.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        Self { boundaries, levels }
    }

    /// An encoder that is not the nearest level: `boundaries` rising, and one level more than those.
    ///
    /// # Panics
    /// If the numbers do not fit, naming both.
    pub fn new(boundaries: Vec<f64>, levels: Vec<f64>) -> Self {
        assert_eq!(boundaries.len() + 1, levels.len(), "one level more than boundaries");
        Self { boundaries, levels }
    }
}

/// What a quantizer made of some samples; those of several matrices may be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// `sum x^2`.
    pub signal: f64,
    /// `sum (q(x) - x)^2`.
    pub noise: f64,
    /// How many became zero.
    pub zeros: u64,
    /// How many there were.
    pub count: u64,
}

impl Tally {
    /// `10 log10(signal / noise)`.
    pub fn snr_db(&self) -> f64 {
        10.0 * (self.signal / self.noise).log10()
    }

    /// The fraction that became zero.
    pub fn zero_fraction(&self) -> f64 {
        self.zeros as f64 / self.count as f64
    }

    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.signal += other.signal;
        self.noise += other.noise;
        self.zeros += other.zeros;
        self.count += other.count;
    }
}

/// Samples in rising order, with sums over every stretch of them.
#[derive(Clone, Debug)]
pub struct Sorted {
    values: Vec<f32>,
    /// Of all before each.
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Sorted {
    /// Sorts the samples, which must be finite.
    pub fn new(mut values: Vec<f32>) -> Self {
        values.sort_unstable_by(f32::total_cmp);
        let running = |power: i32| {
            let sums = values.iter().scan(0.0, |sum, x| {
                *sum += f64::from(*x).powi(power);
                Some(*sum)
            });
            [0.0].into_iter().chain(sums).collect::<Vec<f64>>()
        };
        Self { sums: running(1), squares: running(2), values }
    }

    /// The largest magnitude; 0 without samples.
    pub fn largest(&self) -> f64 {
        let ends = [self.values.first(), self.values.last()];
        ends.into_iter().flatten().fold(0.0, |largest, x| f64::from(x.abs()).max(largest))
    }

    /// `sum x^2`.
    pub fn energy(&self) -> f64 {
        self.squares[self.values.len()]
    }

    /// What `steps` makes of the samples.
    pub fn quantize(&self, steps: &Steps) -> Tally {
        let mut tally = Tally { signal: self.energy(), count: self.values.len() as u64, ..Tally::default() };
        self.cells(&steps.boundaries, |cell, range| {
            let level = steps.levels[cell];
            tally.noise += self.noise(&range, level);
            tally.zeros += if level == 0.0 { range.len() as u64 } else { 0 };
        });
        // Differences of sums: what is left of an error of nothing may be below it.
        tally.noise = tally.noise.max(0.0);
        tally
    }

    /// The best `count` levels for these samples: Lloyd's iteration from the levels of Panter and Dite, until it gains less
    /// than 1e-5 of the noise.
    ///
    /// Source: Lloyd 1982, method I.
    pub fn lloyd_max(&self, count: usize) -> Steps {
        let mut levels = self.cube_root_levels(count);
        let mut last = f64::INFINITY;
        loop {
            let steps = Steps::nearest(levels);
            let noise = self.quantize(&steps).noise;
            if noise >= last * (1.0 - 1e-5) {
                return steps;
            }
            last = noise;
            levels = steps.levels;
            self.cells(&steps.boundaries, |cell, range| {
                if !range.is_empty() {
                    levels[cell] = (self.sums[range.end] - self.sums[range.start]) / range.len() as f64;
                }
            });
        }
    }

    /// A uniform quantizer of unlimited levels whose indices, coded with their entropy, take `rate` bits.
    pub fn entropy_coded(&self, rate: f64) -> Tally {
        let (mut low, mut high) = ((2.0 * self.largest()).log2() - 24.0, (4.0 * self.largest()).log2());
        for _ in 0..30 {
            let middle = (low + high) / 2.0;
            if self.uniform(middle.exp2()).0 > rate { low = middle } else { high = middle }
        }
        self.uniform(high.exp2()).1
    }

    /// Shannon's lower bound for a source of which these are samples, as a signal-to-noise ratio at `rate` bits.
    ///
    /// The differential entropy is estimated as `H(x / step) + log2(step)` with a step of 1/32 of the standard deviation.
    pub fn shannon_db(&self, rate: f64) -> f64 {
        let variance = self.energy() / self.values.len() as f64;
        let step = variance.sqrt() / 32.0;
        shannon_db(self.uniform(step).0 + step.log2(), variance, rate)
    }

    /// Entropy in bits, and error, of rounding to multiples of `step`.
    fn uniform(&self, step: f64) -> (f64, Tally) {
        let mut tally = Tally { signal: self.energy(), count: self.values.len() as u64, ..Tally::default() };
        let (mut entropy, mut start) = (0.0, 0);
        while start < self.values.len() {
            let index = (f64::from(self.values[start]) / step).round();
            let upper = (index + 0.5) * step;
            let within = self.values[start..].partition_point(|x| f64::from(*x) < upper).max(1);
            let range = start..start + within;
            let share = within as f64 / self.values.len() as f64;
            entropy -= share * share.log2();
            tally.noise += self.noise(&range, index * step);
            tally.zeros += if index == 0.0 { within as u64 } else { 0 };
            start = range.end;
        }
        tally.noise = tally.noise.max(0.0);
        (entropy, tally)
    }

    /// `sum (level - x)^2` over a stretch.
    fn noise(&self, range: &Range<usize>, level: f64) -> f64 {
        let first = self.sums[range.end] - self.sums[range.start];
        let second = self.squares[range.end] - self.squares[range.start];
        second - 2.0 * level * first + level * level * range.len() as f64
    }

    /// Every cell between `boundaries`, and the stretch of samples in it.
    fn cells(&self, boundaries: &[f64], mut visit: impl FnMut(usize, Range<usize>)) {
        let mut start = 0;
        for (cell, boundary) in boundaries.iter().enumerate() {
            let end = start + self.values[start..].partition_point(|x| f64::from(*x) <= *boundary);
            visit(cell, start..end);
            start = end;
        }
        visit(boundaries.len(), start..self.values.len());
    }

    /// Levels of density proportional to the cube root of a histogram's.
    fn cube_root_levels(&self, count: usize) -> Vec<f64> {
        let bins = 64 * count.max(64);
        let width = 2.0 * self.largest() / bins as f64;
        let edges: Vec<f64> = (1..bins).map(|bin| bin as f64 * width - self.largest()).collect();
        let mut roots = vec![0.0; bins];
        self.cells(&edges, |bin, range| roots[bin] = (range.len() as f64).cbrt());
        let total: f64 = roots.iter().sum();
        let (mut levels, mut below) = (Vec::with_capacity(count), 0.0);
        for (bin, root) in roots.iter().enumerate() {
            let share = root / total * count as f64;
            // Levels whose place in the order falls in this bin, spread over it.
            while share > 0.0 && levels.len() < count && levels.len() as f64 + 0.5 <= below + share {
                let within = (levels.len() as f64 + 0.5 - below) / share;
                levels.push((bin as f64 + within) * width - self.largest());
            }
            below += share;
        }
        levels.resize(count.min(levels.len().max(1)), self.largest());
        levels
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Source;

    #[track_caller]
    fn close(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "{found:.4} against {expected}");
    }

    #[test]
    fn samples_come_near_the_limits_of_their_source() {
        for source in [Source::Gaussian, Source::Laplace] {
            let sorted = Sorted::new(source.samples(200_000, 1));
            for bits in [2, 4] {
                let found = sorted.quantize(&sorted.lloyd_max(1 << bits)).snr_db();
                close(found, source.lloyd_max_db(bits), 0.1);
            }
            close(sorted.entropy_coded(4.0).snr_db(), source.entropy_coded_db(4.0), 0.05);
            close(sorted.shannon_db(6.0), source.shannon_db(6.0), 0.1);
        }
    }

    #[test]
    fn few_samples_and_zeros_are_no_trouble() {
        let sorted = Sorted::new(vec![0.0; 5]);
        assert_eq!((sorted.largest(), sorted.energy()), (0.0, 0.0));
        let tally = Sorted::new(vec![1.0, -1.0, 0.1]).quantize(&Steps::nearest(vec![1.0, 0.0, -1.0]));
        assert_eq!((tally.zeros, tally.count), (1, 3));
        close(tally.noise, 0.01, 1e-7);
        let two = Sorted::new(vec![1.0, 3.0]);
        assert_eq!(two.quantize(&two.lloyd_max(4)).noise, 0.0);
    }

    proptest! {
        #[test]
        fn as_one_sample_after_another(
            values in prop::collection::vec(-2.0_f32..2.0, 1..60), levels in prop::collection::vec(-2.0_f64..2.0, 1..9),
        ) {
            let steps = Steps::nearest(levels.clone());
            let tally = Sorted::new(values.clone()).quantize(&steps);
            let nearest = |x: f32| levels.iter().map(|level| (level - f64::from(x)).powi(2)).fold(f64::INFINITY, f64::min);
            let naive: f64 = values.iter().map(|x| nearest(*x)).sum();
            prop_assert!((tally.noise - naive).abs() < 1e-9, "{} against {naive}", tally.noise);
        }
    }
}
