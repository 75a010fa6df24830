//! What so many bytes can hold: bounds that no compressor evades.

use std::fmt;

use serde::Serialize;

use super::distortion;
use crate::{Check, Expected};

/// Bits that a trained model keeps in one parameter at most, as found on models that were taught facts.
///
/// Source: Allen-Zhu and Li 2024, "Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws"
/// (`docs/references.md#knowledge-capacity`).
const BITS_PER_PARAMETER: f64 = 2.0;

/// What is possible at most when so many weights become so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Floor {
    /// Bits of the result: it is one of `2^bits`, whatever it was made from.
    pub bits: f64,
    /// Bits a weight.
    pub bits_per_weight: f64,
    /// The least mean squared error of Gaussian weights, in parts of their variance.
    pub distortion: f64,
    /// Independent facts that it can name at most, each of `bits_per_fact` bits.
    pub facts: f64,
    /// The part of what a model of so many weights can know, 2 bits a weight, that fits.
    pub knowledge: f64,
}

impl Floor {
    /// The floor of `weights` weights in `bytes` bytes.
    ///
    /// - `bits_per_fact`: `log2 V` for one of `V` values without an error; with errors what Fano's inequality leaves of it
    ///
    /// # Panics
    /// If there are no weights, or a fact takes no bits.
    pub fn new(bytes: u64, weights: u64, bits_per_fact: f64) -> Self {
        assert!(
            weights > 0 && bits_per_fact > 0.0,
            "{weights} weights and facts of {bits_per_fact} bits have no floor"
        );
        let bits = 8.0 * bytes as f64;
        let bits_per_weight = bits / weights as f64;
        let knowledge = (bits_per_weight / BITS_PER_PARAMETER).min(1.0);
        Self {
            bits,
            bits_per_weight,
            distortion: distortion(bits_per_weight),
            facts: (bits / bits_per_fact).floor(),
            knowledge,
        }
    }
}

/// `5.33e-6 bits a weight: of the weights at least 99.9993 % is lost; at most 2562 facts; 0.0003 % of what the model can know`.
impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bits_per_weight, distortion, facts, knowledge, .. } = self;
        let bits =
            if *bits_per_weight < 0.01 { format!("{bits_per_weight:.2e}") } else { format!("{bits_per_weight:.3}") };
        write!(
            f,
            "{bits} bits a weight: of the weights at least {:.4} % is lost; at most {facts} facts; {:.4} % of what the model can know",
            100.0 * distortion,
            100.0 * knowledge
        )
    }
}

/// Bytes that `facts` independent facts take at least, each of `bits_per_fact` bits.
pub fn bytes_for_facts(facts: f64, bits_per_fact: f64) -> f64 {
    facts * bits_per_fact / 8.0
}

/// 30 GB of floats of 32 bits.
const WEIGHTS: u64 = 7_500_000_000;

fn floor(bytes: u64) -> Floor {
    Floor::new(bytes, WEIGHTS, 50_000.0_f64.log2())
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "size certificate",
        quantity: "30 GB in 5 kB, bits a weight · 1e6",
        expected: Expected::Near { value: 5.3, within: 0.05 },
        measure: |_| 1e6 * floor(5_000).bits_per_weight,
    },
    Check {
        concept: "size certificate",
        quantity: "30 GB in 5 kB, D / σ²",
        expected: Expected::Near { value: 0.999_993, within: 5e-7 },
        measure: |_| floor(5_000).distortion,
    },
    Check {
        concept: "size certificate",
        quantity: "30 GB in 3 kB, D / σ²",
        expected: Expected::Near { value: 0.999_996, within: 5e-7 },
        measure: |_| floor(3_000).distortion,
    },
    Check {
        concept: "size certificate",
        quantity: "facts of a vocabulary of 50 000 in 4 KiB",
        expected: Expected::Near { value: 2_099.0, within: 0.0 },
        measure: |_| floor(4_096).facts,
    },
    Check {
        concept: "size certificate",
        quantity: "facts of a vocabulary of 50 000 in 5 KiB",
        expected: Expected::Near { value: 2_600.0, within: 50.0 },
        measure: |_| floor(5_120).facts,
    },
    Check {
        concept: "size certificate",
        quantity: "bits in 7.5e9 parameters at 2 each · 1e-10",
        expected: Expected::Near { value: 1.5, within: 1e-9 },
        measure: |_| floor(5_000).bits / floor(5_000).knowledge * 1e-10,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_says_what_is_lost() {
        let text = floor(5_000).to_string();
        assert_eq!(
            text,
            "5.33e-6 bits a weight: of the weights at least 99.9993 % is lost; at most 2562 facts; 0.0003 % of what the model can know"
        );
        let half = Floor::new(1_000, 2_000, 1.0);
        assert_eq!(
            (half.bits_per_weight, half.distortion, half.facts, half.knowledge),
            (4.0, 2.0_f64.powi(-8), 8_000.0, 1.0)
        );
    }

    #[test]
    fn facts_and_bytes_are_the_same_bound() {
        let bits = 50_000.0_f64.log2();
        assert!(bytes_for_facts(floor(4_096).facts, bits) <= 4_096.0);
        assert!(bytes_for_facts(floor(4_096).facts + 1.0, bits) > 4_096.0);
    }
}
