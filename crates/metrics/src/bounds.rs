//! What no quantizer, planner or compressor can do better, in closed form.
//!
//! - [`distortion`], [`rate`]: a Gaussian source at a rate; [`Source`] has the same for other sources and for quantizers of one number.
//! - [`water_fill`]: how a rate is best divided over parts of different importance.
//! - [`e8`]: what the densest lattice of eight dimensions saves over rounding number by number.
//! - [`Floor`]: what so many bytes can hold of so many weights.
//! - [`Symmetries`]: how many parameters of a transformer say nothing, since its symmetries undo them.

mod fill;
mod floor;
mod lattice;
mod symmetries;

pub use fill::{Filled, Part, means_ratio, water_fill};
pub use floor::{Floor, bytes_for_facts};
pub use lattice::e8;
pub use symmetries::Symmetries;

use crate::{Check, Expected, Source};

/// The least mean squared error of a Gaussian source at `rate` bits, in parts of its variance: `2^(−2 rate)`.
///
/// Source: Shannon 1959 (`docs/references.md#rate-distortion`).
pub fn distortion(rate: f64) -> f64 {
    (-2.0 * rate).exp2()
}

/// The least rate in bits of a Gaussian source at `distortion` parts of its variance: `max(0, log2(1 / distortion) / 2)`.
pub fn rate(distortion: f64) -> f64 {
    (-distortion.log2() / 2.0).max(0.0)
}

/// The known answers about bounds.
pub(crate) fn checks() -> Vec<Check> {
    [LADDER, fill::CHECKS, floor::CHECKS, lattice::CHECKS, symmetries::CHECKS].concat()
}

const LADDER: &[Check] = &[
    Check {
        concept: "rate-distortion",
        quantity: "D(R) of a Gaussian at 2 bits",
        expected: Expected::Near { value: 0.0625, within: 1e-12 },
        measure: |_| distortion(2.0),
    },
    Check {
        concept: "rate-distortion",
        quantity: "Lloyd-Max of a Gaussian at 2 bits, MSE",
        expected: Expected::Near { value: 0.1175, within: 1e-4 },
        measure: |_| noise(Source::Gaussian.lloyd_max_db(2)),
    },
    Check {
        concept: "rate-distortion",
        quantity: "entropy-coded scalar quantizer of a Gaussian at 2 bits, MSE",
        expected: Expected::Near { value: 0.0890, within: 1e-3 },
        measure: |_| noise(Source::Gaussian.ecsq_db(2.0)),
    },
    Check {
        concept: "rate-distortion",
        quantity: "entropy-coded scalar quantizer of a Gaussian at 3 bits, dB",
        expected: Expected::Near { value: 16.53, within: 0.01 },
        measure: |_| Source::Gaussian.ecsq_db(3.0),
    },
    Check {
        concept: "rate-distortion",
        quantity: "its distance from Shannon at 0.25 bits, dB",
        expected: Expected::Near { value: 0.48, within: 0.01 },
        measure: |_| gap(0.25),
    },
    Check {
        concept: "rate-distortion",
        quantity: "its distance from Shannon at 0.5 bits, dB",
        expected: Expected::Near { value: 0.92, within: 0.01 },
        measure: |_| gap(0.5),
    },
    Check {
        concept: "rate-distortion",
        quantity: "its distance from Shannon at 1 bit, dB",
        expected: Expected::Near { value: 1.44, within: 0.01 },
        measure: |_| gap(1.0),
    },
    Check {
        concept: "rate-distortion",
        quantity: "its distance from Shannon at high rates, dB: 10 log10(π e / 6)",
        expected: Expected::Near { value: 1.5329, within: 1e-3 },
        measure: |_| gap(6.0),
    },
    Check {
        concept: "rate-distortion",
        quantity: "its distance from Shannon at high rates, bits: log2(π e / 6) / 2",
        expected: Expected::Near { value: 0.2546, within: 2e-4 },
        measure: |_| gap(6.0) / (20.0 * 2.0_f64.log10()),
    },
    Check {
        concept: "rate-distortion",
        quantity: "bits a weight that are 20 times fewer than 32 leave of a Gaussian, MSE",
        expected: Expected::Near { value: 0.109, within: 5e-4 },
        measure: |_| distortion(32.0 / 20.0),
    },
];

/// The error that a signal-to-noise ratio leaves of a variance of 1.
fn noise(db: f64) -> f64 {
    10.0_f64.powf(-db / 10.0)
}

/// What an entropy-coded scalar quantizer of a Gaussian loses against the rate-distortion function, in dB.
fn gap(rate: f64) -> f64 {
    Source::Gaussian.shannon_db(rate) - Source::Gaussian.ecsq_db(rate)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn known_answers_hold() {
        crate::require(&checks(), &Device::flex());
    }

    #[test]
    fn rate_undoes_distortion() {
        for bits in [0.0, 0.3, 1.0, 4.0] {
            assert!((rate(distortion(bits)) - bits).abs() < 1e-12);
        }
        assert_eq!(rate(2.0), 0.0);
    }
}
