//! Rotations that spread every number of a vector over all of it, in any dimension and at the cost of a sort.
//!
//! ```text
//! R = S · (H ⊗ C)          n = 2^k · m, m odd
//!
//! S   the signs, drawn from the seed                    [n, n], diagonal
//! H   Hadamard, ±1 / √(2^k)                             [2^k, 2^k]
//! C   Hartley, (cos + sin)(2π b c / m) / √m             [m, m]
//! ```
//!
//! `H ⊗ C` is symmetric and its own inverse, so `R` is orthogonal. A product of two vectors stays what it is when both are
//! turned, which is why a network whose weights and activations are turned together computes the same. Outliers do not
//! stay: what was one large number is `n` small ones, and weights look normal afterwards, whatever they were before.
//!
//! ```
//! use quench_format::Rotation;
//!
//! let rotation = Rotation::new(12, 0);
//! let mut x: Vec<f64> = (0..12).map(f64::from).collect();
//! rotation.apply(&mut x);
//! let length: f64 = x.iter().map(|x| x * x).sum();
//! assert!((length - 506.0).abs() < 1e-9); // 0 + 1 + 4 + .. + 121
//! rotation.undo(&mut x);
//! assert!((x[7] - 7.0).abs() < 1e-12);
//! ```
//!
//! Source: Ashkboos et al. 2024, "QuaRot", and Tseng et al. 2024, "QuIP#" for the signs; the Hartley factor is ours, for widths
//! of which no Hadamard matrix is listed.

use std::f64::consts::TAU;

/// An orthogonal matrix `R [n, n]` of a seed; see the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    signs: Vec<f64>,
    /// `2^k`.
    power: usize,
    /// `C`, `[m, m]`.
    hartley: Vec<f64>,
}

impl Rotation {
    /// The rotation of `size` dimensions with the signs of `seed`.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(size: usize, seed: u64) -> Self {
        assert!(size > 0, "a rotation needs a dimension");
        let power = 1 << size.trailing_zeros();
        let odd = size / power;
        Self { signs: signs(size, seed), power, hartley: hartley(odd) }
    }

    /// Dimensions `n`.
    pub fn size(&self) -> usize {
        self.signs.len()
    }

    /// `S`: one sign, 1 or -1, for each dimension.
    pub fn signs(&self) -> &[f64] {
        &self.signs
    }

    /// The factors of `H ⊗ C`, first the one whose index changes least: symmetric orthogonal matrices, row-major, of at
    /// most `limit` rows each but for the last where `m` is larger. `limit` is at least 2.
    pub fn factors(&self, limit: usize) -> Vec<(usize, Vec<f64>)> {
        let mut factors = Vec::new();
        let (mut left, largest) = (self.power, 1 << limit.max(2).ilog2());
        while left > 1 {
            let size = left.min(largest);
            factors.push((size, hadamard(size)));
            left /= size;
        }
        let odd = self.size() / self.power;
        if odd > 1 || factors.is_empty() {
            factors.push((odd, self.hartley.clone()));
        }
        factors
    }

    /// `x ← x R`, `[n]`, by the fast transform.
    ///
    /// # Panics
    /// If `x` has another length.
    pub fn apply(&self, x: &mut [f64]) {
        assert_eq!(x.len(), self.size(), "a rotation of {} dimensions turns no vector of {}", self.size(), x.len());
        x.iter_mut().zip(&self.signs).for_each(|(x, sign)| *x *= sign);
        self.mix(x);
    }

    /// `x ← x Rᵀ`: what [`apply`](Self::apply) did is undone.
    ///
    /// # Panics
    /// If `x` has another length.
    pub fn undo(&self, x: &mut [f64]) {
        assert_eq!(x.len(), self.size(), "a rotation of {} dimensions turns no vector of {}", self.size(), x.len());
        self.mix(x);
        x.iter_mut().zip(&self.signs).for_each(|(x, sign)| *x *= sign);
    }

    /// `x ← x (H ⊗ C)`.
    fn mix(&self, x: &mut [f64]) {
        let odd = x.len() / self.power;
        let mut half = x.len() / 2;
        while half >= odd && self.power > 1 {
            for pair in x.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                low.iter_mut().zip(high).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
            }
            half /= 2;
        }
        let root = (self.power as f64).sqrt().recip();
        let mut mixed = vec![0.0; odd];
        for x in x.chunks_exact_mut(odd) {
            for (mixed, row) in mixed.iter_mut().zip(self.hartley.chunks_exact(odd)) {
                *mixed = root * row.iter().zip(&*x).map(|(c, x)| c * x).sum::<f64>();
            }
            x.copy_from_slice(&mixed);
        }
    }
}

/// Hadamard of Sylvester's form, `[size, size]`, of length 1 in each row; `size` is a power of two.
fn hadamard(size: usize) -> Vec<f64> {
    let root = (size as f64).sqrt().recip();
    let even = |at: usize| ((at / size) & (at % size)).count_ones().is_multiple_of(2);
    (0..size * size).map(|at| if even(at) { root } else { -root }).collect()
}

/// The real transform of Hartley, `[size, size]`, of length 1 in each row.
fn hartley(size: usize) -> Vec<f64> {
    let root = (size as f64).sqrt().recip();
    let entry = |at: usize| {
        // Of a whole turn, so that the products of large numbers do not lose what comes after the point.
        let angle = TAU * ((at / size) * (at % size) % size) as f64 / size as f64;
        root * (angle.cos() + angle.sin())
    };
    (0..size * size).map(entry).collect()
}

/// Signs of SplitMix64 (Steele, Lea and Flood 2014), one from the top bit of each number.
fn signs(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut sign = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        if z >> 63 == 0 { 1.0 } else { -1.0 }
    };
    (0..count).map(|_| sign()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `R` row by row: the rows of the identity, turned.
    fn matrix(rotation: &Rotation) -> Vec<Vec<f64>> {
        let n = rotation.size();
        let unit = |at: usize| {
            let mut row: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i == at))).collect();
            rotation.apply(&mut row);
            row
        };
        (0..n).map(unit).collect()
    }

    #[test]
    fn a_rotation_is_the_product_it_says() {
        for size in [1, 2, 3, 4, 6, 12, 15, 40, 96] {
            let rotation = Rotation::new(size, 7);
            let found = matrix(&rotation);
            for limit in [2, 4, 16, 64] {
                let factors = rotation.factors(limit);
                assert_eq!(factors.iter().map(|(size, _)| size).product::<usize>(), size);
                for (i, row) in found.iter().enumerate() {
                    for (j, &found) in row.iter().enumerate() {
                        let (mut expected, mut i, mut j) = (rotation.signs()[i], i, j);
                        for (size, factor) in factors.iter().rev() {
                            expected *= factor[i % size * size + j % size];
                            (i, j) = (i / size, j / size);
                        }
                        assert!((found - expected).abs() < 1e-14, "{size} {limit}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_rotation_keeps_every_angle_and_can_be_undone() {
        for size in [1, 2, 8, 24, 35, 288, 704] {
            let rotation = Rotation::new(size, 1);
            let rows = matrix(&rotation);
            for (i, a) in rows.iter().enumerate().step_by(size / 9 + 1) {
                for (j, b) in rows.iter().enumerate() {
                    let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert!((product - f64::from(u8::from(i == j))).abs() < 1e-12, "{size}: {i} {j}");
                }
                let mut back = a.clone();
                rotation.undo(&mut back);
                assert!(back.iter().enumerate().all(|(j, x)| (x - f64::from(u8::from(i == j))).abs() < 1e-12));
            }
        }
    }

    #[test]
    fn no_number_stays_large() {
        for size in [64, 96, 768, 11008] {
            let rotation = Rotation::new(size, 3);
            let mut x = vec![0.0; size];
            x[size / 3] = 1.0;
            rotation.apply(&mut x);
            let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
            assert!(largest <= (2.0 / size as f64).sqrt() + 1e-12, "{size}: {largest}");
        }
    }

    #[test]
    fn signs_are_those_of_the_seed() {
        // The first three numbers of SplitMix64 from 0: e220a839.., 6e789e6a.., 06c45d18...
        assert_eq!(signs(3, 0), [-1.0, 1.0, 1.0]);
        let plus = signs(10_000, 5).iter().filter(|sign| **sign > 0.0).count();
        assert!((4800..5200).contains(&plus), "{plus}");
        assert_ne!(signs(64, 1), signs(64, 2));
    }

    #[test]
    #[should_panic(expected = "a rotation of 12 dimensions turns no vector of 11")]
    fn a_vector_of_another_length_is_a_panic() {
        Rotation::new(12, 0).apply(&mut [0.0; 11]);
    }
}
