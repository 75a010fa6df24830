//! How far predictions were off where both sides are known, and what that says of the next one.

use quench_metrics::Interval;
use serde::Deserialize;

/// A prediction, and what was measured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// What the model is: `llama`.
    pub architecture: String,
    /// Which one: `ref-llama`.
    pub model: String,
    /// What was made of it: `rtn-int4-g128`.
    pub candidate: String,
    /// KL divergence in nats per label, as it was predicted.
    pub predicted: f64,
    /// As it was measured, on other data.
    pub measured: f64,
}

/// The share of intervals that are to hold what is measured.
const LEVEL: f64 = 0.95;

/// By how much an interval is wider, in logarithms, for an architecture of which no pair is known.
const UNSEEN: f64 = 2.0;

/// The pairs that come with Quench, as `configs/predictions.toml` has them; `benches/prediction.py` makes it anew.
///
/// Panics if the table that was compiled in is none; a test reads it.
pub fn pairs() -> Vec<Pair> {
    #[derive(Deserialize)]
    struct Table {
        pair: Vec<Pair>,
    }
    let table: Table = toml::from_str(include_str!("../../../../configs/predictions.toml"))
        .unwrap_or_else(|error| unreachable!("configs/predictions.toml: {error}"));
    table.pair
}

/// Where what is predicted to be `kl` will probably be measured: `[kl / e^q, kl · e^q]`, with `q` the quantile of
/// `|ln(predicted / measured)|` over pairs that makes the interval hold for the next pair of the same kind with a probability of
/// 95 %, whatever their law.
///
/// `None` if there are fewer than 19 pairs, which cannot give such an interval.
///
/// Source: Vovk, Gammerman, Shafer 2005, split conformal prediction (`docs/references.md#conformal`).
pub fn interval(kl: f64, architecture: &str, pairs: &[Pair]) -> Option<Interval> {
    let mut residuals: Vec<f64> = pairs.iter().map(|pair| (pair.predicted / pair.measured).ln().abs()).collect();
    residuals.sort_by(f64::total_cmp);
    // The rank that the next residual falls below with the probability wanted, among itself and these.
    let rank = (LEVEL * (residuals.len() + 1) as f64).ceil() as usize;
    let known = pairs.iter().any(|pair| pair.architecture == architecture);
    let width = residuals.get(rank.checked_sub(1)?)? * if known { 1.0 } else { UNSEEN };
    Some(Interval { low: kl / width.exp(), high: kl * width.exp(), level: LEVEL })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(model: &str, ratio: f64) -> Pair {
        let (architecture, candidate) = ("llama".to_owned(), "rtn".to_owned());
        Pair { architecture, model: model.to_owned(), candidate, predicted: 0.01 * ratio, measured: 0.01 }
    }

    #[test]
    fn the_interval_is_that_of_the_rank() {
        let pairs: Vec<Pair> = (1..=19).map(|k| pair("a", (0.01 * f64::from(k)).exp())).collect();
        assert_eq!(interval(1.0, "llama", &pairs[1..]), None);
        // ⌈0.95 · 20⌉ = 19: the largest of them.
        let found = interval(2.0, "llama", &pairs).unwrap();
        assert!((found.high / 2.0 - 0.19_f64.exp()).abs() < 1e-12 && (found.low * found.high - 4.0).abs() < 1e-12);
        let wider = interval(2.0, "bert", &pairs).unwrap();
        assert!((wider.high / 2.0 - 0.38_f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn intervals_from_other_models_hold_what_was_measured() {
        let pairs = pairs();
        assert!(pairs.len() > 19, "{} pairs", pairs.len());
        let held_out = |pair: &&Pair| {
            let others: Vec<Pair> = pairs.iter().filter(|other| other.model != pair.model).cloned().collect();
            let found = interval(pair.predicted, &pair.architecture, &others);
            found.is_some_and(|found| (found.low..=found.high).contains(&pair.measured))
        };
        let held = pairs.iter().filter(held_out).count();
        assert!(10 * held >= 9 * pairs.len(), "{held} of {} pairs", pairs.len());
    }
}
