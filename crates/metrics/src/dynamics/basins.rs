//! Which starts end where.

use serde::{Deserialize, Serialize};

use super::Recursion;
use super::recursion::order;
use crate::{Interval, Value, normal};

/// One cycle, and how many of the starts end in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basin {
    /// The smallest state of the cycle.
    pub state: Vec<f64>,
    /// How many states it has.
    pub period: usize,
    /// The share of all starts that end in it, with Wilson's interval.
    pub share: Value,
}

/// Where a sample of starts ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basins {
    /// Of each cycle that was reached, the most frequented first.
    pub basins: Vec<Basin>,
    /// How many starts did not reach a cycle within the budget.
    pub unfinished: usize,
}

impl<F: Fn(&[f64]) -> Vec<f64>, Q: Fn(&[f64]) -> Vec<f64>> Recursion<F, Q> {
    /// The cycles in which some starts end, each found within `budget` steps or not at all.
    ///
    /// - `level`: of the intervals, e.g. 0.95
    pub fn basins(&self, starts: &[Vec<f64>], budget: usize, level: f64) -> Basins {
        let mut ends: Vec<(Vec<f64>, usize)> = starts
            .iter()
            .filter_map(|start| self.cycle(start, budget))
            .map(|cycle| (cycle.state, cycle.period))
            .collect();
        ends.sort_by(|(a, _), (b, _)| order(a, b));
        let unfinished = starts.len() - ends.len();
        let basin = |ends: &[(Vec<f64>, usize)]| {
            let value = Value::measured(ends.len() as f64 / starts.len() as f64, "share of starts", starts.len());
            let share = Value { interval: Some(wilson(ends.len(), starts.len(), level)), ..value };
            Basin { state: ends[0].0.clone(), period: ends[0].1, share }
        };
        let mut basins: Vec<Basin> = ends.chunk_by(|(a, _), (b, _)| order(a, b).is_eq()).map(basin).collect();
        // A stable sort: of equal ones the smaller state comes first.
        basins.sort_by(|a, b| b.share.value.total_cmp(&a.share.value));
        Basins { basins, unfinished }
    }
}

/// Wilson's interval of a share of which `successes` of `n` independent trials are a sample; 0 to 1 for no trials.
///
/// ```text
/// (p + z²/2n ± z √(p (1 − p) / n + z² / 4n²)) / (1 + z²/n)
/// ```
///
/// Source: Wilson 1927 (`docs/references.md#wilson`).
///
/// # Panics
///
/// If there are more successes than trials.
pub fn wilson(successes: usize, n: usize, level: f64) -> Interval {
    assert!(successes <= n, "{successes} successes of {n} trials");
    if n == 0 {
        return Interval { low: 0.0, high: 1.0, level };
    }
    let (p, n) = (successes as f64 / n as f64, n as f64);
    let z = normal::quantile((1.0 + level) / 2.0);
    let center = p + z * z / (2.0 * n);
    let reach = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let end = |x: f64| (x / (1.0 + z * z / n)).clamp(0.0, 1.0);
    Interval { low: end(center - reach), high: end(center + reach), level }
}

#[cfg(test)]
mod tests {
    use super::super::grid;
    use super::*;

    #[test]
    fn known_intervals() {
        // Newcombe 1998, table I: 81 of 263, and 0 of 20, in percent.
        for (successes, n, low, high) in [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)] {
            let interval = wilson(successes, n, 0.95);
            assert!((interval.low - low).abs() < 1e-4 && (interval.high - high).abs() < 1e-4, "{interval:?}");
        }
        assert_eq!(wilson(0, 0, 0.95), Interval { low: 0.0, high: 1.0, level: 0.95 });
    }

    /// `x²` on whole numbers: 0 and ±1 stay, 2 grows to infinity, which is a state as well, but takes 11 steps.
    #[test]
    fn starts_end_in_their_cycles() {
        let square = Recursion { map: |x: &[f64]| vec![x[0] * x[0]], quantizer: grid(1.0) };
        let starts: Vec<Vec<f64>> = [0.3, -0.2, 1.0, -1.0, 0.9, 2.0].map(|x| vec![x]).to_vec();
        let found = square.basins(&starts, 5, 0.95);
        let counts: Vec<(f64, usize, f64)> =
            found.basins.iter().map(|b| (b.state[0], b.period, b.share.value)).collect();
        assert_eq!((counts, found.unfinished), (vec![(1.0, 1, 0.5), (0.0, 1, 2.0 / 6.0)], 1));
        assert_eq!(square.basins(&starts, 50, 0.95).unfinished, 0);
    }
}
