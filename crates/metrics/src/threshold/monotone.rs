//! The nearest monotone function, and where it crosses a limit.

/// In which direction a metric changes with the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trend {
    /// As a divergence does.
    Rising,
    /// As an agreement does.
    Falling,
}

impl Trend {
    /// The number turned so that it rises.
    fn rising(self, x: f64) -> f64 {
        match self {
            Self::Rising => x,
            Self::Falling => -x,
        }
    }
}

/// The monotone function with the least weighted sum of squares: neighbours in the wrong order become their mean, again and again.
pub(super) fn monotone(metrics: &[f64], weights: &[f64], trend: Trend) -> Vec<f64> {
    // Mean, weight and length of the blocks so far.
    let mut blocks: Vec<(f64, f64, usize)> = Vec::with_capacity(metrics.len());
    for (metric, weight) in metrics.iter().zip(weights) {
        let mut block = (trend.rising(*metric), *weight, 1);
        while let Some(&(mean, weight, length)) = blocks.last() {
            if mean <= block.0 {
                break;
            }
            let total = weight + block.1;
            block = ((mean * weight + block.0 * block.1) / total, total, length + block.2);
            blocks.pop();
        }
        blocks.push(block);
    }
    blocks.into_iter().flat_map(|(mean, _, length)| std::iter::repeat_n(trend.rising(mean), length)).collect()
}

/// The place at which a monotone function passes `limit`, by linear interpolation.
pub(super) fn interpolated(places: &[f64], values: &[f64], limit: f64, trend: Trend) -> Option<f64> {
    let above = |value: f64| trend.rising(value) - trend.rising(limit);
    let beyond = values.iter().position(|value| above(*value) > 0.0).filter(|beyond| *beyond > 0)?;
    let (low, high) = (above(values[beyond - 1]), above(values[beyond]));
    Some(places[beyond - 1] + (places[beyond] - places[beyond - 1]) * low / (low - high))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn violators_are_pooled_by_weight() {
        assert_eq!(monotone(&[1.0, 4.0, 1.0, 5.0], &[1.0, 2.0, 1.0, 1.0], Trend::Rising), [1.0, 3.0, 3.0, 5.0]);
        assert_eq!(monotone(&[3.0, 2.0, 1.0], &[1.0; 3], Trend::Rising), [2.0; 3]);
        assert_eq!(monotone(&[3.0, 0.0, 2.0], &[1.0; 3], Trend::Falling), [3.0, 1.0, 1.0]);
    }

    proptest! {
        /// The conditions of the best fit: monotone, blocks at their means, and no block better split in two.
        #[test]
        fn is_the_best_fit(metrics in prop::collection::vec(-3i8..3, 1..12)) {
            let metrics: Vec<f64> = metrics.into_iter().map(f64::from).collect();
            let fit = monotone(&metrics, &vec![1.0; metrics.len()], Trend::Rising);
            prop_assert!(fit.is_sorted());
            let mut start = 0;
            for block in fit.chunk_by(|a, b| a == b) {
                let own = &metrics[start..start + block.len()];
                let mut sum = 0.0;
                for (at, metric) in own.iter().enumerate() {
                    sum += metric - block[0];
                    // A first part below its block's mean would rather be lower.
                    prop_assert!(sum >= -1e-9 && (at + 1 < own.len() || sum.abs() < 1e-9));
                }
                start += block.len();
            }
        }
    }
}
