//! E8, the densest lattice of eight dimensions, as a quantizer.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{Check, Expected};

/// The point of E8 that is nearest to `x`.
///
/// ```text
/// E8 = D8 ∪ (D8 + ½),   D8: integers with an even sum
/// ```
///
/// Each half is searched by rounding every coordinate; where the sum is odd, the coordinate that was furthest off goes the other way.
///
/// Source: Conway and Sloane 1982, "Fast Quantizing and Decoding Algorithms for Lattice Quantizers and Codes"
/// (`docs/references.md#lattices`).
pub fn e8(x: [f64; 8]) -> [f64; 8] {
    let whole = d8(x);
    let half = d8(x.map(|x| x - 0.5)).map(|y| y + 0.5);
    if distance(x, half) < distance(x, whole) { half } else { whole }
}

fn d8(x: [f64; 8]) -> [f64; 8] {
    let mut y = x.map(f64::round);
    if y.iter().sum::<f64>() % 2.0 != 0.0 {
        let off = |at: usize| (x[at] - y[at]).abs();
        let worst = (0..8).fold(0, |worst, at| if off(at) > off(worst) { at } else { worst });
        // A coordinate that is an integer already may go either way.
        y[worst] += if x[worst] < y[worst] { -1.0 } else { 1.0 };
    }
    y
}

fn distance(x: [f64; 8], y: [f64; 8]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// Mean squared error of a number that is uniform over the cells of `nearest`, a lattice of volume 1 that contains `2 Z⁸`.
fn second_moment(nearest: fn([f64; 8]) -> [f64; 8]) -> f64 {
    const DRAWS: usize = 400_000;
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let draw = |_| {
        let x = std::array::from_fn(|_| 2.0 * random.random::<f64>());
        distance(x, nearest(x))
    };
    (0..DRAWS).map(draw).sum::<f64>() / (8 * DRAWS) as f64
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "E8",
        quantity: "normalized second moment, 929 / 12960",
        expected: Expected::Near { value: 929.0 / 12_960.0, within: 1e-4 },
        measure: |_| second_moment(e8),
    },
    Check {
        concept: "E8",
        quantity: "gain over integers, dB",
        expected: Expected::Near { value: 0.654, within: 0.01 },
        measure: |_| 10.0 * (second_moment(|x| x.map(f64::round)) / second_moment(e8)).log10(),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `y` is in E8.
    fn member(y: [f64; 8]) -> bool {
        let even = |y: [f64; 8]| y.iter().all(|y| y.fract() == 0.0) && y.iter().sum::<f64>() % 2.0 == 0.0;
        even(y) || even(y.map(|y| y - 0.5))
    }

    #[test]
    fn points_are_their_own_nearest_and_no_neighbour_is_nearer() {
        // The 240 shortest vectors: two coordinates of ±1, or all of ±½ with an even number of minus signs.
        let mut shortest = Vec::new();
        for (i, j) in (0..8).flat_map(|i| (0..i).map(move |j| (i, j))) {
            for (a, b) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
                let mut y = [0.0; 8];
                (y[i], y[j]) = (a, b);
                shortest.push(y);
            }
        }
        let halves = (0..256_u32).filter(|signs| signs.count_ones() % 2 == 0);
        shortest.extend(halves.map(|signs| std::array::from_fn(|at| if signs >> at & 1 == 0 { 0.5 } else { -0.5 })));
        assert_eq!(shortest.len(), 240);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let x: [f64; 8] = std::array::from_fn(|_| 6.0 * random.random::<f64>() - 3.0);
            let y = e8(x);
            assert!(member(y) && e8(y) == y, "{y:?}");
            let beside = |v: &[f64; 8]| std::array::from_fn(|at| y[at] + v[at]);
            assert!(shortest.iter().all(|v| distance(x, beside(v)) >= distance(x, y)), "{x:?}");
        }
    }
}
