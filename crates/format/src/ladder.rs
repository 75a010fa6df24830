//! The levels of a code in ascending order, for whoever rounds on a device.

use crate::{Code, grid};

/// The levels that can be encoded, from the lowest to the highest, and where one ends and the next begins.
///
/// `x` belongs to the first rank whose upper boundary is not below it: then `codes[rank]` is [`Code::nearest`], to the bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Ladder {
    /// By rank.
    pub codes: Vec<u16>,
    /// By rank, ascending.
    pub levels: Vec<f32>,
    /// The largest `x` of each rank but the last, which has none.
    pub uppers: Vec<f32>,
}

impl Code {
    /// The levels in ascending order; of a trellis, whose codes are not chosen one by one, none.
    ///
    /// ```
    /// let ladder = "int2".parse::<quench_format::Code>()?.ladder();
    /// assert_eq!((ladder.codes, ladder.levels), (vec![0, 1, 2, 3], vec![-2.0, -1.0, 0.0, 1.0]));
    /// // A tie goes to the even code: −1.5 to −2, and just above it to −1.
    /// assert_eq!(ladder.uppers, [-1.5, (-0.5_f32).next_down(), 0.5]);
    /// # Ok::<(), quench_format::FormatError>(())
    /// ```
    pub fn ladder(self) -> Ladder {
        let codes: Vec<u16> = (0..self.ranks()).map(|rank| self.at_rank(rank)).collect();
        let levels: Vec<f32> = codes.iter().map(|code| self.level(*code)).collect();
        let uppers = (1..codes.len()).map(|k| grid::boundary(codes[k - 1], levels[k - 1], levels[k])).collect();
        Ladder { codes, levels, uppers }
    }
}

impl Ladder {
    /// The rank of the level nearest to `x`; not-a-number has the last.
    pub fn rank(&self, x: f32) -> usize {
        self.uppers.partition_point(|upper| x > *upper || x.is_nan())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::code::tests::any_code;

    proptest! {
        #[test]
        fn a_rank_is_the_nearest_code(code in any_code(), x in -1.5f32..1.5) {
            let ladder = code.ladder();
            let reach = code.max_level();
            for x in [x * reach, x, 0.0, reach, -reach] {
                prop_assert_eq!(ladder.codes[ladder.rank(x)], code.nearest(x), "{} {}", code, x);
            }
        }
    }

    #[test]
    fn a_trellis_has_no_ladder() {
        let ladder = "trellis2:12".parse::<Code>().unwrap().ladder();
        assert!(ladder.codes.is_empty() && ladder.uppers.is_empty());
    }
}
