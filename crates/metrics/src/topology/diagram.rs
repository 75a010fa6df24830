//! When features of a shape appear, and when they are gone.

use serde::{Deserialize, Serialize};

/// A persistence diagram: for each feature of one dimension the scales of its birth and of its death.
///
/// Features that die at the scale of their birth are left out: they lie on the diagonal, where every diagram has as many as it likes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagram {
    /// 0 for pieces, 1 for loops.
    pub dimension: usize,
    /// `(birth, death)` of the features that die, by falling persistence; of equal ones by birth.
    pub pairs: Vec<(f64, f64)>,
    /// Births of the features that never die, ascending: their death is at infinity.
    pub essential: Vec<f64>,
}

impl Diagram {
    /// A diagram of features in any order; those without persistence are left out, those with an infinite death are essential.
    ///
    /// # Panics
    ///
    /// If a death is not at or behind its birth, which NaN is not, or a birth is not finite.
    pub fn new(dimension: usize, features: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let (mut pairs, mut essential) = (Vec::new(), Vec::new());
        for (birth, death) in features {
            assert!(birth.is_finite() && birth <= death, "a feature cannot be born at {birth} and die at {death}");
            if death == f64::INFINITY {
                essential.push(birth);
            } else if birth < death {
                pairs.push((birth, death));
            }
        }
        let key = |&(birth, death): &(f64, f64)| (birth - death, birth);
        pairs.sort_unstable_by(|a, b| {
            let ((a, birth), (b, other)) = (key(a), key(b));
            a.total_cmp(&b).then(birth.total_cmp(&other))
        });
        essential.sort_unstable_by(f64::total_cmp);
        Self { dimension, pairs, essential }
    }

    /// How long each feature that dies has lived, `death − birth`, falling.
    pub fn persistences(&self) -> impl Iterator<Item = f64> {
        self.pairs.iter().map(|(birth, death)| death - birth)
    }

    /// The features of `pairs` that live longer than `floor`; those of an infinite life are not among them.
    pub fn longer_than(&self, floor: f64) -> &[(f64, f64)] {
        &self.pairs[..self.pairs.partition_point(|(birth, death)| death - birth > floor)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted_and_those_on_the_diagonal_left_out() {
        let infinite = f64::INFINITY;
        let diagram =
            Diagram::new(1, [(1.0, 2.0), (0.5, 0.5), (0.0, infinite), (0.0, 3.0), (-1.0, infinite), (0.0, 1.0)]);
        assert_eq!(diagram.pairs, [(0.0, 3.0), (0.0, 1.0), (1.0, 2.0)]);
        assert_eq!(diagram.essential, [-1.0, 0.0]);
        assert_eq!(diagram.persistences().collect::<Vec<_>>(), [3.0, 1.0, 1.0]);
        assert_eq!(diagram.longer_than(1.0), [(0.0, 3.0)]);
        assert_eq!(diagram.longer_than(3.0), []);
    }

    #[test]
    #[should_panic(expected = "a feature cannot be born at 2 and die at 1")]
    fn death_follows_birth() {
        Diagram::new(0, [(2.0, 1.0)]);
    }
}
