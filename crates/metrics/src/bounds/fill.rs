//! Reverse water-filling: a rate divided over Gaussian parts.

use crate::{Check, Expected, Source};

/// A part of what is quantized: a layer, or a direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Its variance times the weight of its errors, `h σ²`, at least 0.
    pub variance: f64,
    /// How many numbers it has.
    pub count: f64,
}

/// How a rate was divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// The water level `θ`: what is left of every part that has bits.
    pub level: f64,
    /// Bits a number, for each part.
    pub rates: Vec<f64>,
    /// Mean weighted squared error of a number.
    pub distortion: f64,
}

/// Divides `rate` bits a number over `parts` so that the least is lost.
///
/// ```text
/// minimize  Σ n_l v_l 2^(−2 R_l)  /  Σ n_l     over    Σ n_l R_l = rate · Σ n_l,  R_l ≥ 0
/// R_l = max(0, log2(v_l / θ) / 2)
/// ```
///
/// Where all parts have bits, equal rates lose [`means_ratio`] times as much.
///
/// Source: Cover and Thomas, "Elements of Information Theory", theorem 10.3.3 (`docs/references.md#rate-distortion`).
///
/// # Panics
/// If nothing has a variance, or a number is negative, or the rate is not finite.
pub fn water_fill(parts: &[Part], rate: f64) -> Filled {
    let valid = |x: f64| x.is_finite() && x >= 0.0;
    let good = parts.iter().all(|part| valid(part.variance) && valid(part.count)) && valid(rate);
    assert!(good, "variances, counts and the rate must be finite and at least 0: {parts:?} at {rate}");
    let total: f64 = parts.iter().map(|part| part.count).sum();
    // By falling variance: with the first k above the water, log2 θ = (Σ n log2 v − 2 rate Σ n over all) / Σ n over those.
    let mut above: Vec<&Part> = parts.iter().filter(|part| part.variance > 0.0 && part.count > 0.0).collect();
    assert!(!above.is_empty(), "none of {} parts has a variance", parts.len());
    above.sort_by(|a, b| b.variance.total_cmp(&a.variance));
    let (mut logs, mut count, mut level) = (0.0, 0.0, 0.0);
    for (at, part) in above.iter().enumerate() {
        logs += part.count * part.variance.log2();
        count += part.count;
        level = ((logs - 2.0 * rate * total) / count).exp2();
        if above.get(at + 1).is_none_or(|next| next.variance <= level) {
            break;
        }
    }
    let rates = parts.iter().map(|part| (0.5 * (part.variance / level).log2()).max(0.0)).collect();
    let left: f64 = parts.iter().map(|part| part.count * part.variance.min(level)).sum();
    Filled { level, rates, distortion: left / total }
}

/// The arithmetic mean of the variances over the geometric one, each number counted once; infinite where a variance is 0.
pub fn means_ratio(parts: &[Part]) -> f64 {
    let total: f64 = parts.iter().map(|part| part.count).sum();
    let mean = |f: &dyn Fn(f64) -> f64| parts.iter().map(|part| part.count * f(part.variance)).sum::<f64>() / total;
    mean(&|variance| variance) / mean(&f64::ln).exp()
}

/// 32 layers of equal size with variances `exp(1.5 z)`, `z` standard normal.
fn log_normal() -> Vec<Part> {
    let part = |z: f32| Part { variance: (1.5 * f64::from(z)).exp(), count: 1.0 };
    Source::Gaussian.samples(32, 5).into_iter().map(part).collect()
}

fn decibel(ratio: f64) -> f64 {
    10.0 * ratio.log10()
}

/// What equal rates lose against the best ones, dB.
fn gain(parts: &[Part], rate: f64) -> f64 {
    let equal: f64 = parts.iter().map(|part| part.variance).sum::<f64>() / parts.len() as f64 * super::distortion(rate);
    decibel(equal / water_fill(parts, rate).distortion)
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "water-filling",
        quantity: "gain on 32 log-normal layers at 6 bits over AM/GM, all with bits, dB",
        expected: Expected::Near { value: 0.0, within: 1e-9 },
        measure: |_| gain(&log_normal(), 6.0) - decibel(means_ratio(&log_normal())),
    },
    Check {
        concept: "water-filling",
        quantity: "the same at 1 bit, where some layers have none, dB",
        // 5.09 − 5.35 for the layers of the theory note, whose draw is another.
        expected: Expected::Between(-0.6, -0.05),
        measure: |_| gain(&log_normal(), 1.0) - decibel(means_ratio(&log_normal())),
    },
    Check {
        concept: "water-filling",
        quantity: "bits of the first of two layers with h σ² = 16 and 1, 6 bits in all",
        expected: Expected::Near { value: 4.0, within: 1e-12 },
        measure: |_| water_fill(&[16.0, 1.0].map(|variance| Part { variance, count: 1.0 }), 3.0).rates[0],
    },
    Check {
        concept: "water-filling",
        quantity: "their error over that of 3 bits each: 2 √16 / 17",
        expected: Expected::Near { value: 8.0 / 17.0, within: 1e-12 },
        measure: |_| {
            let parts = [16.0, 1.0].map(|variance| Part { variance, count: 1.0 });
            water_fill(&parts, 3.0).distortion / (8.5 * super::distortion(3.0))
        },
    },
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_part_below_the_water_has_no_bits() {
        let parts = [4.0, 0.01, 0.0].map(|variance| Part { variance, count: 2.0 });
        let filled = water_fill(&parts, 1.0 / 3.0);
        assert_eq!((filled.level, &filled.rates[..]), (1.0, &[1.0, 0.0, 0.0][..]));
        assert!((filled.distortion - 1.01 / 3.0).abs() < 1e-15);
        assert_eq!(water_fill(&parts, 0.0).distortion, 4.01 / 3.0);
    }

    proptest! {
        #[test]
        fn the_rate_is_spent_and_no_other_division_is_better(
            parts in prop::collection::vec((1e-3..1e3_f64, 0.5..5.0_f64), 1..8),
            rate in 0.0..5.0_f64,
            (from, to, share) in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0.0..1.0_f64),
        ) {
            let parts: Vec<Part> = parts.into_iter().map(|(variance, count)| Part { variance, count }).collect();
            let total: f64 = parts.iter().map(|part| part.count).sum();
            let filled = water_fill(&parts, rate);
            let spent = |rates: &[f64]| parts.iter().zip(rates).map(|(part, rate)| part.count * rate).sum::<f64>() / total;
            let left = |rates: &[f64]| {
                parts.iter().zip(rates).map(|(part, rate)| part.count * part.variance * crate::bounds::distortion(*rate)).sum::<f64>() / total
            };
            prop_assert!((spent(&filled.rates) - rate).abs() < 1e-9);
            prop_assert!((left(&filled.rates) - filled.distortion).abs() < 1e-9 * filled.distortion);
            let mut moved = filled.rates.clone();
            let (from, to) = (from.index(parts.len()), to.index(parts.len()));
            let bits = share * moved[from] * parts[from].count;
            moved[from] -= bits / parts[from].count;
            moved[to] += bits / parts[to].count;
            prop_assert!(left(&moved) >= filled.distortion * (1.0 - 1e-12));
        }
    }
}
