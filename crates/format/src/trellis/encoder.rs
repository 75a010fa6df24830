//! The encoder of a trellis code: Viterbi's algorithm, twice.
//!
//! Windows `a`, `b` of neighbours agree in `L - K` bits, `a >> K = b mod 2^(L-K)`; call this number the *class* between the two.
//! With `cost[p]` the least cost of the weights so far where the class after them is `p`, one more weight gives
//!
//! ```text
//! cost'[p] = min over j of  cost[w mod 2^(L-K)] + h * (x - s * level(w))^2        w = p << K | j,  j = 0 .. 2^K
//! ```
//!
//! and the best `j` is the weight's own `K` bits: kept for each class and weight, they lead back along the best path.
//!
//! A cyclic string begins in the class in which it ends. Which one is found on the sequence rotated by half, where it lies in
//! the middle of a path with free ends; a second pass has it given at both ends. Trying all `2^(L-K)` classes would be exact.
//!
//! The cost: `2 * 2^L` metrics a weight, each a difference, two products, a sum, a comparison; `2^L + 3 * 2^(L-K)` floats and
//! `2^(L-K)` times `K` bits (4 for `K` = 3) a weight of workspace: 1.4 MiB for `K` = 2, `L` = 16, 256 weights.

use std::ops::Range;

use super::{Trellis, level};
use crate::bits;

/// Classes handled at once: a register of AVX-512, two of AVX2, four of NEON.
const LANES: usize = 16;
const WORD: usize = u32::BITS as usize;

/// One sequence to encode: minimize `sum of h[t] * (x[t] - scale * level[t])^2`.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// What the weights should be, `[length]`, finite.
    pub x: &'a [f32],
    /// What an error at each of them costs, `[length]`, finite and not negative; `None` is 1 for all.
    pub h: Option<&'a [f32]>,
    /// What multiplies the levels, finite and not 0.
    pub scale: f32,
}

/// Encodes sequences of one length, one after the other, in a workspace of its own: one for each thread.
#[derive(Clone, Debug)]
pub struct Encoder {
    trellis: Trellis,
    /// `[length]`: the best codes, a weight's own `K` bits each.
    codes: Vec<u16>,
    /// `[length]`: `x / scale` and `h`.
    targets: Vec<[f32; 2]>,
    viterbi: Viterbi,
}

impl Encoder {
    pub(super) fn new(trellis: Trellis, length: usize) -> Self {
        Self::over(trellis, length, level)
    }

    /// The encoder of another codebook.
    fn over(trellis: Trellis, length: usize, level: impl Fn(u32) -> f32) -> Self {
        let string = length * trellis.bits() as usize;
        assert!(
            string >= trellis.state() as usize,
            "{length} weights of {trellis} are {string} bits, fewer than a window"
        );
        let viterbi = Viterbi::new(trellis.bits(), trellis.state(), length, level);
        Self { trellis, codes: vec![0; length], targets: vec![[0.0; 2]; length], viterbi }
    }

    /// The code whose sequences these are.
    pub fn trellis(&self) -> Trellis {
        self.trellis
    }

    /// Weights of one sequence.
    pub fn length(&self) -> usize {
        self.codes.len()
    }

    /// Encodes one sequence; of strings with the same error the one found is always the same, on every machine.
    ///
    /// - `words`: `[words(length)]`, overwritten; [`Trellis::decode`] reads them
    ///
    /// # Panics
    /// If a length is wrong, a number not finite, an `h` negative, or the scale 0.
    pub fn encode(&mut self, sequence: Sequence<'_>, words: &mut [u32]) {
        let Sequence { x, h, scale } = sequence;
        let length = self.length();
        assert!(x.len() == length, "x: expected {length} elements, found {}", x.len());
        assert!(
            h.is_none_or(|h| h.len() == length),
            "h: expected {length} elements, found {}",
            h.map_or(0, <[f32]>::len)
        );
        assert!(scale.is_finite() && scale != 0.0, "scale {scale}");
        for (t, target) in self.targets.iter_mut().enumerate() {
            *target = [x[t] / scale, h.map_or(1.0, |h| h[t])];
            assert!(target[0].is_finite(), "x[{t}]: {} / {scale} is not finite", x[t]);
            assert!(target[1].is_finite() && target[1] >= 0.0, "h[{t}]: {}", target[1]);
        }
        // Rotated by half, so that what comes before the first weight is as long as what comes after it.
        let half = length / 2;
        self.viterbi.start_anywhere();
        self.viterbi.sweep(self.targets[length - half..].iter().chain(&self.targets[..length - half]));
        let end = self.viterbi.cheapest();
        let overlap = self.viterbi.trace(end, half..length, &mut self.codes[half..]);

        self.viterbi.start_in(overlap);
        self.viterbi.sweep(&self.targets);
        self.viterbi.trace(overlap, 0..length, &mut self.codes);
        bits::pack_row(&self.codes, self.trellis.bits(), words);
    }
}

/// The shortest path over the classes of a trellis.
#[derive(Clone, Debug)]
struct Viterbi {
    bits: u32,
    /// `2^(L-K)`.
    classes: usize,
    /// `[2^K, classes]`: the level of window `p << K | j` at `[j, p]`, so that neighbouring classes are neighbours in memory.
    levels: Vec<[f32; LANES]>,
    /// `[2^K, classes / 2^K]`: the cost of class `q << K | j` at `[j, q]`.
    costs: Vec<[f32; LANES]>,
    /// `[classes]`: the costs after one more weight, in order.
    next: Vec<[f32; LANES]>,
    /// `[length, ..]`: the best `j` of every class for every weight; see [`Viterbi::code`].
    back: Vec<[u32; LANES]>,
}

impl Viterbi {
    /// Rows shorter than `LANES` are repeated up to it, here and in `costs` and `next`.
    fn new(bits: u32, state: u32, length: usize, level: impl Fn(u32) -> f32) -> Self {
        let (branches, classes) = (1 << bits, 1 << (state - bits));
        let padded: usize = LANES.max(classes);
        let mut levels = vec![[0.0; LANES]; branches * padded / LANES];
        for (i, x) in levels.as_flattened_mut().iter_mut().enumerate() {
            let (j, p) = (i / padded, i % padded % classes);
            *x = level((p << bits | j) as u32);
        }
        let costs = vec![[0.0; LANES]; branches * LANES.max(classes >> bits) / LANES];
        let next = vec![[0.0; LANES]; padded / LANES];
        let back = vec![[0; LANES]; length * next.len().div_ceil(codes_per_word(branches))];
        Self { bits, classes, levels, costs, next, back }
    }

    /// All classes cost nothing.
    fn start_anywhere(&mut self) {
        self.costs.as_flattened_mut().fill(0.0);
    }

    /// No class is possible but one.
    fn start_in(&mut self, class: usize) {
        self.next.as_flattened_mut().fill(f32::INFINITY);
        self.next.as_flattened_mut()[class] = 0.0;
        match self.bits {
            1 => self.turn::<2>(),
            2 => self.turn::<4>(),
            3 => self.turn::<8>(),
            _ => self.turn::<16>(),
        }
    }

    /// The class that costs least after a sweep, the first of them.
    fn cheapest(&self) -> usize {
        let costs = &self.next.as_flattened()[..self.classes];
        let mut best = 0;
        for (class, cost) in costs.iter().enumerate() {
            if *cost < costs[best] {
                best = class;
            }
        }
        best
    }

    /// Adds weights to all paths, each `[x, h]`.
    fn sweep<'a>(&mut self, targets: impl IntoIterator<Item = &'a [f32; 2]>) {
        match self.bits {
            1 => self.sweep_branches::<2>(targets),
            2 => self.sweep_branches::<4>(targets),
            3 => self.sweep_branches::<8>(targets),
            _ => self.sweep_branches::<16>(targets),
        }
    }

    fn sweep_branches<'a, const N: usize>(&mut self, targets: impl IntoIterator<Item = &'a [f32; 2]>) {
        for (t, &[x, h]) in targets.into_iter().enumerate() {
            self.step::<N>(t, x, h);
            self.turn::<N>();
        }
    }

    /// From `costs` to `next`, with weight `t`.
    #[inline(always)]
    fn step<const N: usize>(&mut self, t: usize, x: f32, h: f32) {
        let (rows, columns, per_word) = (self.next.len(), self.costs.len() / N, codes_per_word(N));
        let stride = rows.div_ceil(per_word);
        let levels: [&[[f32; LANES]]; N] = std::array::from_fn(|j| &self.levels[j * rows..][..rows]);
        let costs: [&[[f32; LANES]]; N] = std::array::from_fn(|j| &self.costs[j * columns..][..columns]);
        for (block, (next, back)) in
            self.next.chunks_mut(per_word).zip(&mut self.back[t * stride..][..stride]).enumerate()
        {
            let mut codes = [0_u32; LANES];
            for (slot, next) in next.iter_mut().enumerate() {
                let p = block * per_word + slot;
                let q = p & (columns - 1);
                let (mut least, mut best) = ([f32::INFINITY; LANES], [0_u32; LANES]);
                for j in 0..N {
                    let (level, cost) = (&levels[j][p], &costs[j][q]);
                    for lane in 0..LANES {
                        let error = x - level[lane];
                        let cost = cost[lane] + h * (error * error);
                        best[lane] = if cost < least[lane] { j as u32 } else { best[lane] };
                        least[lane] = if cost < least[lane] { cost } else { least[lane] };
                    }
                }
                *next = least;
                for lane in 0..LANES {
                    codes[lane] |= best[lane] << (slot * WORD / per_word);
                }
            }
            *back = codes;
        }
    }

    /// From `next` to `costs`: class `q << K | j` goes to `[j, q]`.
    #[inline(always)]
    fn turn<const N: usize>(&mut self) {
        let next = &self.next.as_flattened()[..self.classes];
        let columns = self.costs.len() / N;
        if self.classes < N * LANES {
            for j in 0..N {
                for (q, cost) in self.costs[j * columns].iter_mut().enumerate() {
                    *cost = next[(q * N + j) & (self.classes - 1)];
                }
            }
            return;
        }
        for (q, next) in next.chunks_exact(N * LANES).enumerate() {
            for j in 0..N {
                self.costs[j * columns + q] = std::array::from_fn(|lane| next[lane * N + j]);
            }
        }
    }

    /// Follows the best path that ends in `class` back through `weights`, writes its codes, gives the class it began in.
    fn trace(&self, class: usize, weights: Range<usize>, codes: &mut [u16]) -> usize {
        weights.zip(codes).rev().fold(class, |class, (t, code)| {
            *code = self.code(t, class) as u16;
            (class << self.bits | usize::from(*code)) & (self.classes - 1)
        })
    }

    /// The best `j` for weight `t` and the class after it.
    ///
    /// A word of `back` has a lane of so many neighbouring rows of `next`, the first in its low bits.
    fn code(&self, t: usize, class: usize) -> u32 {
        let per_word = codes_per_word(1 << self.bits);
        let (row, lane) = (class / LANES, class % LANES);
        let word = self.back[t * self.next.len().div_ceil(per_word) + row / per_word][lane];
        word >> (row % per_word * WORD / per_word) & ((1 << self.bits) - 1)
    }
}

/// Codes of `log2(branches)` bits, 3 as 4, in a word.
const fn codes_per_word(branches: usize) -> usize {
    WORD / (branches.ilog2() as usize).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Numbers that are the same everywhere: SplitMix64, and Box and Muller's transform of it.
    struct Source(u64);

    impl Source {
        fn integer(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }

        fn uniform(&mut self) -> f64 {
            (self.integer() >> 11) as f64 / (1_u64 << 53) as f64 + 1e-17
        }

        fn gaussian(&mut self) -> f64 {
            (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
        }

        fn gaussians(&mut self, n: usize) -> Vec<f32> {
            (0..n).map(|_| self.gaussian() as f32).collect()
        }
    }

    fn mse(encoder: &mut Encoder, level: impl Fn(u32) -> f32, x: &[f32], scale: f32) -> f64 {
        let (trellis, length) = (encoder.trellis(), encoder.length());
        let mut words = vec![0; trellis.words(length)];
        let mut noise = 0.0;
        for x in x.chunks_exact(length) {
            encoder.encode(Sequence { x, h: None, scale }, &mut words);
            for (t, x) in x.iter().enumerate() {
                noise += f64::from(x - scale * level(trellis.window(&words, length, t))).powi(2);
            }
        }
        noise / x.len() as f64
    }

    fn bytes(h: u32) -> u32 {
        h.to_le_bytes().iter().map(|b| u32::from(*b)).sum()
    }

    fn halves(h: u32) -> f32 {
        let h = h & 0x8fff_8fff ^ 0x3b60_3b60;
        half::f16::from_bits(h as u16).to_f32() + half::f16::from_bits((h >> 16) as u16).to_f32()
    }

    #[test]
    #[ignore]
    fn explore() {
        let gauss: Vec<f32> = Source(99).gaussians(1 << 16);
        let seqs: usize = std::env::var("SEQS").ok().and_then(|s| s.parse().ok()).unwrap_or(16);
        for (bits, state) in [(2, 8), (2, 10), (2, 12), (2, 14), (2, 16), (1, 12), (3, 12)] {
            let trellis = Trellis::new(bits, state).unwrap();
            let x = Source(7).gaussians(256 * seqs);
            let one = |w: u32| (bytes(w.wrapping_mul(34_038_481).wrapping_add(76_625_530)) as f32 - 510.0) / 147.8;
            let mul1 = |w: u32| level(w);
            let three = |w: u32| halves(w.wrapping_mul(89_226_354).wrapping_add(64_248_484)) / 1.24371088;
            let mcg = |w: u32| halves(w.wrapping_mul(0xCBAC_1FED)) / 1.24371088;
            let random = |w: u32| gauss[w as usize];
            let books: [(&str, &dyn Fn(u32) -> f32); 5] =
                [("1mad", &one), ("mul1", &mul1), ("3inst", &three), ("mcg", &mcg), ("random", &random)];
            for (name, f) in books {
                let n = 1_u32 << state;
                let var = (0..n).map(|w| f64::from(f(w)).powi(2)).sum::<f64>() / f64::from(n);
                let mut encoder = Encoder::over(trellis, 256, f);
                let begin = Instant::now();
                let all = [0.90_f32, 0.95, 1.0].map(|s| mse(&mut encoder, f, &x, s));
                println!(
                    "{trellis:8} {name:7} var {var:.4} {:.4} {:.4} {:.4}  {:.0} weights/s",
                    all[0],
                    all[1],
                    all[2],
                    3.0 * x.len() as f64 / begin.elapsed().as_secs_f64()
                );
            }
        }
    }
}
