//! Decoders run on their own tokens: where two of them part, and how far apart they are by then.

use serde::{Deserialize, Serialize};

use crate::{Bootstrap, Summary, Total, Value};

/// Where pairs of sequences of tokens first differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstDivergence {
    /// Of each pair, the first position with different tokens; `None` if all that both have are equal.
    pub positions: Vec<Option<usize>>,
    /// How many positions each pair had to differ at.
    pub lengths: Vec<usize>,
}

impl FirstDivergence {
    /// Of pairs of sequences; where one is longer, or ended earlier, only what both have counts.
    pub fn of<'a, T: PartialEq + 'a>(pairs: impl IntoIterator<Item = (&'a [T], &'a [T])>) -> Self {
        let (positions, lengths) =
            pairs.into_iter().map(|(a, b)| (a.iter().zip(b).position(|(a, b)| a != b), a.len().min(b.len()))).unzip();
        Self { positions, lengths }
    }

    /// The probability that a pair is still the same after `t` tokens, for each `t` from 0 to the longest sequence.
    ///
    /// ```text
    /// S(t) = Π_{s < t} (1 − parted at s / still the same and long enough to part at s)
    /// ```
    ///
    /// A pair that ended without a difference counts as long as it lasted.
    ///
    /// Source: Kaplan and Meier 1958 (`docs/references.md#kaplan-meier`).
    pub fn survival(&self) -> Vec<f64> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let (mut parted, mut ended) = (vec![0usize; longest + 1], vec![0usize; longest + 1]);
        for (position, length) in self.positions.iter().zip(&self.lengths) {
            match position {
                Some(position) => parted[*position] += 1,
                None => ended[*length] += 1,
            }
        }
        let mut together = self.positions.len();
        let mut survival = vec![1.0];
        for t in 0..longest {
            together -= ended[t];
            let hazard = if together > 0 { parted[t] as f64 / together as f64 } else { 0.0 };
            survival.push(survival[t] * (1.0 - hazard));
            together -= parted[t];
        }
        survival
    }

    /// The first number of tokens after which no more than half of the pairs are the same, if there is one.
    pub fn median(&self) -> Option<usize> {
        self.survival().iter().position(|share| *share <= 0.5)
    }

    /// The positions of those pairs that part, as numbers; `None` if none does.
    pub fn summary(&self) -> Option<Summary> {
        let positions: Vec<f32> = self.positions.iter().flatten().map(|position| *position as f32).collect();
        Summary::of(&positions)
    }
}

/// The mean at each position of what was measured at each token of several sequences, such as [`kl_per_token`](crate::kl_per_token).
///
/// - `sequences`: one number for each token; a shorter one has nothing to say about later positions
///
/// The intervals are of sequences drawn anew.
pub fn by_position(sequences: &[Vec<f32>], bootstrap: &Bootstrap) -> Vec<Value> {
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let at = |position: usize| {
        let numbers: Vec<Total> = sequences
            .iter()
            .filter_map(|tokens| tokens.get(position))
            .map(|x| Total { sum: f64::from(*x), n: 1 })
            .collect();
        let mean = numbers.iter().map(|total| total.sum).sum::<f64>() / numbers.len() as f64;
        let value = Value::measured(mean, "mean over sequences at a position", numbers.len());
        value.with_interval(bootstrap.mean(&numbers), bootstrap.seed)
    };
    (0..longest).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_part_once() {
        let pairs: [(&[u32], &[u32]); 4] =
            [(&[1, 2, 3], &[1, 9, 3]), (&[1, 2, 3], &[1, 2, 3]), (&[5], &[6]), (&[1, 2], &[1, 2, 7])];
        let found = FirstDivergence::of(pairs);
        assert_eq!(found.positions, [Some(1), None, Some(0), None]);
        assert_eq!(found.lengths, [3, 3, 1, 2]);
        // One of four, one of the three that are left, and the only one that is three tokens long stays.
        let expected = [1.0, 0.75, 0.5, 0.5];
        assert!(found.survival().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{:?}", found.survival());
        assert_eq!((found.median(), found.summary().unwrap().mean), (Some(2), 0.5));
        assert_eq!(FirstDivergence::of::<u32>([]).survival(), [1.0]);
    }

    /// Each token parts with probability 0.1: the survival is geometric, also where many sequences end early.
    #[test]
    fn survival_of_a_constant_hazard() {
        let draws = crate::Source::Uniform.samples(4000 * 30, 3);
        let zeros = [0u8; 30];
        let parts: Vec<Vec<u8>> =
            draws.chunks(30).map(|draws| draws.iter().map(|x| u8::from(*x < -0.8 * 3f32.sqrt())).collect()).collect();
        let pairs = parts.iter().enumerate().map(|(i, part)| (&part[..5 + i % 26], &zeros[..]));
        let survival = FirstDivergence::of(pairs).survival();
        for t in [1, 5, 10, 20] {
            assert!((survival[t] - 0.9f64.powi(t as i32)).abs() < 0.02, "{t}: {}", survival[t]);
        }
    }

    #[test]
    fn means_at_positions() {
        let found = by_position(&[vec![1.0, 5.0], vec![3.0], vec![2.0, 7.0]], &Bootstrap::default());
        assert_eq!(found.iter().map(|value| (value.value, value.n)).collect::<Vec<_>>(), [(2.0, 3), (6.0, 2)]);
        let interval = found[1].interval.unwrap();
        assert_eq!((interval.low, interval.high), (5.0, 7.0));
    }
}
