//! A map that runs on its own quantized results.

use std::cmp::Ordering;

/// The quantizer to the nearest multiples of a step; half-way to the even one, in each coordinate.
///
/// The rule for ties decides the last fixed points: of `x ↦ 0.99 x` on whole numbers, 50 becomes 49.5, and that 50 again.
pub fn grid(step: f64) -> impl Fn(&[f64]) -> Vec<f64> {
    // Positive zero: −0 and 0 are one state.
    move |x| x.iter().map(|x| (x / step).round_ties_even() * step + 0.0).collect()
}

/// The recursion `x_{t+1} = f(Q(x_t))`.
///
/// A state is `Q(x_t)`, of which there are finitely many where `f` is bounded: every recursion ends in a cycle. States are told apart by
/// their bits, so a quantizer has to give each of its values in one way; −0 and 0 are two.
#[derive(Clone, Copy, Debug)]
pub struct Recursion<F, Q> {
    /// One step of the map.
    pub map: F,
    /// The quantizer; the identity for the map alone.
    pub quantizer: Q,
}

/// Where a recursion ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Cycle {
    /// How many states come before the cycle.
    pub tail: usize,
    /// How many states the cycle has.
    pub period: usize,
    /// The smallest state of the cycle, coordinate by coordinate: the same for all starts that end in it.
    pub state: Vec<f64>,
}

impl<F: Fn(&[f64]) -> Vec<f64>, Q: Fn(&[f64]) -> Vec<f64>> Recursion<F, Q> {
    /// The next state of a state, `Q(f(s))`.
    pub fn next(&self, state: &[f64]) -> Vec<f64> {
        (self.quantizer)(&(self.map)(state))
    }

    /// The cycle in which the recursion from `x` ends, `None` if tail and period together are longer than `budget`.
    ///
    /// Brent's method: it keeps two states, and takes at most some three times as many steps as tail and period have.
    ///
    /// Source: Brent 1980 (`docs/references.md#cycles`).
    pub fn cycle(&self, x: &[f64], budget: usize) -> Option<Cycle> {
        let start = (self.quantizer)(x);
        // The period: a state is kept at each power of two, until it comes again.
        let (mut power, mut period) = (1, 1);
        let (mut kept, mut state) = (start.clone(), self.next(&start));
        while !same(&kept, &state) {
            if period == power {
                // Tail and period are longer than half of the power. At twice the budget nothing within it can be missed.
                if power > 2 * budget {
                    return None;
                }
                kept.clone_from(&state);
                (power, period) = (2 * power, 0);
            }
            state = self.next(&state);
            period += 1;
        }
        // The tail: two states that are a period apart meet where the cycle begins.
        let (mut behind, mut ahead) = (start.clone(), start);
        for _ in 0..period {
            ahead = self.next(&ahead);
        }
        let mut tail = 0;
        while !same(&behind, &ahead) {
            (behind, ahead) = (self.next(&behind), self.next(&ahead));
            tail += 1;
        }
        if tail + period > budget {
            return None;
        }
        let mut smallest = behind.clone();
        for _ in 1..period {
            behind = self.next(&behind);
            if order(&behind, &smallest) == Ordering::Less {
                smallest.clone_from(&behind);
            }
        }
        Some(Cycle { tail, period, state: smallest })
    }

    /// The horizon: for how many steps the recursion stays within `tolerance` of the map without the quantizer, both from `x`.
    ///
    /// The distance is the largest of the coordinates'. `None` if it is never longer in `budget` steps. For a chaotic map of exponent `λ`,
    /// errors of standard deviation `δ / √12` need about `ln(tolerance √12 / δ) / λ` steps.
    pub fn horizon(&self, x: &[f64], tolerance: f64, budget: usize) -> Option<usize> {
        let (mut quantized, mut exact) = (x.to_vec(), x.to_vec());
        (0..budget).find(|_| {
            quantized = (self.map)(&(self.quantizer)(&quantized));
            exact = (self.map)(&exact);
            let apart = quantized.iter().zip(&exact).map(|(a, b)| (a - b).abs());
            // NaN is far from everything.
            !apart.fold(0.0, |far: f64, near| if near.is_nan() { near } else { far.max(near) }).le(&tolerance)
        })
    }

    /// The states from the one of `x` on.
    pub fn states(&self, x: &[f64]) -> impl Iterator<Item = Vec<f64>> {
        std::iter::successors(Some((self.quantizer)(x)), |state| Some(self.next(state)))
    }
}

/// Whether two states are the same, bit by bit: so that even NaN comes again.
fn same(a: &[f64], b: &[f64]) -> bool {
    order(a, b) == Ordering::Equal
}

/// The order of states.
pub(super) fn order(a: &[f64], b: &[f64]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne()).unwrap_or(a.len().cmp(&b.len()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ties_go_to_the_even_multiple() {
        let quantizer = grid(0.5);
        assert_eq!(quantizer(&[0.25, 0.75, -0.25, 1.3]), [0.0, 1.0, 0.0, 1.5]);
        assert!(quantizer(&[-0.1])[0].is_sign_positive());
    }

    #[test]
    fn a_diverging_twin_is_seen() {
        let doubling = Recursion { map: |x: &[f64]| vec![2.0 * x[0]], quantizer: grid(1.0) };
        // 0.25 becomes 0, and stays there: apart by 0.5, 1, 2, 4.
        assert_eq!(doubling.horizon(&[0.25], 1.5, 10), Some(2));
        assert_eq!(doubling.horizon(&[0.25], 1.5, 2), None);
        assert_eq!(doubling.horizon(&[f64::NAN], 1.5, 10), Some(0));
    }

    proptest! {
        /// Any map of a few numbers, beside a table of when each was there first.
        #[test]
        fn cycles_are_those_of_a_table(table in prop::collection::vec(0usize..40, 40), start in 0usize..40, budget in 1usize..45) {
            let recursion = Recursion { map: |x: &[f64]| vec![table[x[0] as usize] as f64], quantizer: grid(1.0) };
            let (mut seen, mut state, mut time) = (HashMap::new(), start, 0);
            while !seen.contains_key(&state) {
                seen.insert(state, time);
                state = table[state];
                time += 1;
            }
            let (tail, period) = (seen[&state], time - seen[&state]);
            let smallest = seen.iter().filter(|(_, time)| **time >= tail).map(|(state, _)| *state).min().unwrap();
            let expected = Cycle { tail, period, state: vec![smallest as f64] };
            let found = recursion.cycle(&[start as f64], budget);
            prop_assert_eq!(found, (tail + period <= budget).then_some(expected));
        }
    }
}
