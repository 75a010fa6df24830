//! Known answers: numbers that a formula or a measurement of others gives, and the function of ours that must give them too.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// One known answer: the tests require it, `quench validate` prints it.
#[derive(Clone, Copy)]
pub struct Check {
    /// What is checked, in the words of the field: `hypercubicity`, `persistence`.
    pub concept: &'static str,
    /// The number, and of what: `h_coord of tanh(5z), δ = 0.2`.
    pub quantity: &'static str,
    /// What it has to be.
    pub expected: Expected,
    /// Computes it on a device.
    pub measure: fn(&Device) -> f64,
}

/// What a number has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// At most `within` away from `value`.
    Near {
        /// The known answer.
        value: f64,
        /// The tolerance, of the same unit.
        within: f64,
    },
    /// In this closed range.
    Between(f64, f64),
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Expected {
    /// Whether `found` is what was expected; NaN never is.
    pub fn holds(self, found: f64) -> bool {
        match self {
            Self::Near { value, within } => (found - value).abs() <= within,
            Self::Between(low, high) => low <= found && found <= high,
            Self::AtMost(high) => found <= high,
            Self::AtLeast(low) => found >= low,
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Near { value, within: 0.0 } => write!(f, "{}", short(value)),
            Self::Near { value, within } => write!(f, "{} ± {}", short(value), short(within)),
            Self::Between(low, high) => write!(f, "{} to {}", short(low), short(high)),
            Self::AtMost(high) => write!(f, "≤ {}", short(high)),
            Self::AtLeast(low) => write!(f, "≥ {}", short(low)),
        }
    }
}

/// A number with at most six digits behind the point, a small one as a power of ten.
fn short(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:e}") } else { ((x * 1e6).round() / 1e6).to_string() }
}

impl Check {
    /// The number, and whether it is what was expected.
    pub fn run(&self, device: &Device) -> (f64, bool) {
        let found = (self.measure)(device);
        (found, self.expected.holds(found))
    }
}

/// Every known answer about the metrics, concept by concept.
pub fn known_answers() -> Vec<Check> {
    let of = |checks: &[Check]| checks.to_vec();
    [
        crate::coherence::checks(),
        of(crate::information::checks()),
        crate::bounds::checks(),
        of(crate::latent::checks()),
        of(crate::hypercubicity::checks()),
        of(crate::threshold::checks()),
        of(crate::dynamics::checks()),
        of(crate::topology::checks()),
    ]
    .concat()
}

/// Requires all of `checks` on `device`; what fails is named together.
///
/// # Panics
///
/// If one does not hold.
#[track_caller]
pub fn require(checks: &[Check], device: &Device) {
    let failures: Vec<String> = checks
        .iter()
        .filter_map(|check| {
            let (found, holds) = check.run(device);
            (!holds).then(|| format!("{}: {}: {found}, expected {}", check.concept, check.quantity, check.expected))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} known answers are missed:\n{}",
        failures.len(),
        checks.len(),
        failures.join("\n")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_holds_for_nan() {
        let all = [
            Expected::Near { value: 0.0, within: 1.0 },
            Expected::Between(0.0, 1.0),
            Expected::AtMost(1.0),
            Expected::AtLeast(0.0),
        ];
        assert!(all.iter().all(|expected| !expected.holds(f64::NAN) && expected.holds(0.5)));
    }

    #[test]
    #[should_panic(expected = "1 of 1 known answers are missed:\nsum: 1 + 1: 2, expected 3 ± 0.5")]
    fn a_missed_answer_is_named() {
        let expected = Expected::Near { value: 3.0, within: 0.5 };
        require(&[Check { concept: "sum", quantity: "1 + 1", expected, measure: |_| 2.0 }], &Device::flex());
    }
}
