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
//! (A first pass over only the 64 weights on either side takes 3/4 of the time, and the error rises by 0.3 % at 2 bits, 0.7 % at 1. A
//! third pass, rotated, with the class that the second has there, gains 0.3 % or less.)
//!
//! The cost: `2 * 2^L` metrics a weight, each a difference, two products, a sum and a comparison. The workspace: `2^L + 2 * 2^(L-K)`
//! floats, and `2^(L-K)` codes of `K` bits (4 for `K` = 3) for each weight: 1.4 MiB for `K` = 2, `L` = 16, 256 weights.

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
        self.viterbi.sweep([&self.targets[length - half..], &self.targets[..length - half]]);
        let end = self.viterbi.cheapest();
        let overlap = self.viterbi.trace(end, half..length, &mut self.codes[half..]);

        self.viterbi.start_in(overlap);
        self.viterbi.sweep([&self.targets, &[]]);
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
    /// `[classes / LANES, 2^K, LANES]`: the level of window `p << K | j` at `[p / LANES, j, p % LANES]`.
    levels: Vec<[f32; LANES]>,
    /// `[classes / 2^K / LANES, 2^K, LANES]`: the cost of class `q << K | j` at `[q / LANES, j, q % LANES]`.
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
            let (row, j, lane) = (i / LANES / branches, i / LANES % branches, i % LANES);
            let p = (row * LANES + lane) % classes;
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
    fn sweep(&mut self, targets: [&[[f32; 2]]; 2]) {
        match self.bits {
            1 => self.sweep_branches::<2>(targets),
            2 => self.sweep_branches::<4>(targets),
            3 => self.sweep_branches::<8>(targets),
            _ => self.sweep_branches::<16>(targets),
        }
    }

    fn sweep_branches<const N: usize>(&mut self, targets: [&[[f32; 2]]; 2]) {
        for (t, &[x, h]) in targets.into_iter().flatten().enumerate() {
            self.step::<N>(t, x, h);
            self.turn::<N>();
        }
    }

    /// From `costs` to `next`, with weight `t`.
    #[inline(always)]
    fn step<const N: usize>(&mut self, t: usize, x: f32, h: f32) {
        let per_word = codes_per_word(N);
        let stride = self.next.len().div_ceil(per_word);
        let back = &mut self.back[t * stride..][..stride];
        let (levels, costs) = (self.levels.as_chunks::<N>().0, self.costs.as_chunks::<N>().0);
        let mut costs = costs.iter().cycle();
        for ((next, levels), back) in self.next.chunks_mut(per_word).zip(levels.chunks(per_word)).zip(back) {
            *back = [0; LANES];
            for (slot, (next, levels)) in next.iter_mut().zip(levels).enumerate() {
                let Some(costs) = costs.next() else { unreachable!("a cycle") };
                let (mut least, mut best) = ([f32::INFINITY; LANES], [0_u32; LANES]);
                for (j, (level, cost)) in levels.iter().zip(costs).enumerate() {
                    for lane in 0..LANES {
                        let error = x - level[lane];
                        let cost = cost[lane] + h * (error * error);
                        best[lane] = if cost < least[lane] { j as u32 } else { best[lane] };
                        least[lane] = if cost < least[lane] { cost } else { least[lane] };
                    }
                }
                *next = least;
                for lane in 0..LANES {
                    back[lane] |= best[lane] << (slot * WORD / per_word);
                }
            }
        }
    }

    /// From `next` to `costs`: class `q << K | j` goes to `[q / LANES, j, q % LANES]`.
    #[inline(always)]
    fn turn<const N: usize>(&mut self) {
        let next = &self.next.as_flattened()[..self.classes];
        let costs = self.costs.as_chunks_mut::<N>().0;
        if next.len() < N * LANES {
            for (j, costs) in costs[0].iter_mut().enumerate() {
                *costs = std::array::from_fn(|lane| next[(lane * N + j) % next.len()]);
            }
            return;
        }
        for (costs, next) in costs.iter_mut().zip(next.chunks_exact(N * LANES)) {
            for (j, costs) in costs.iter_mut().enumerate() {
                *costs = std::array::from_fn(|lane| next[lane * N + j]);
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

    use half::f16;
    use proptest::prelude::*;

    use super::super::TILE;
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

        fn gaussians(&mut self, n: usize) -> Vec<f32> {
            let mut one = || (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos();
            (0..n).map(|_| one() as f32).collect()
        }
    }

    fn trellis(bits: u32, state: u32) -> Trellis {
        Trellis::new(bits, state).unwrap()
    }

    /// `sum of h * (x - scale * level)^2`, in the units of `x`.
    fn loss(sequence: Sequence<'_>, levels: &[f32]) -> f64 {
        let Sequence { x, h, scale } = sequence;
        (0..x.len()).map(|t| f64::from(h.map_or(1.0, |h| h[t])) * f64::from(x[t] - scale * levels[t]).powi(2)).sum()
    }

    /// Squared error over squares, of `x` in sequences of the encoder's length, decoded with its own codebook.
    ///
    /// Over the squares themselves and not their expectation, which would be the larger part of the statistical error.
    fn mse(encoder: &mut Encoder, level: impl Fn(u32) -> f32, x: &[f32], scale: f32) -> f64 {
        let (trellis, length) = (encoder.trellis(), encoder.length());
        let (mut words, mut noise) = (vec![0; trellis.words(length)], 0.0);
        for x in x.chunks_exact(length) {
            let sequence = Sequence { x, h: None, scale };
            encoder.encode(sequence, &mut words);
            let levels: Vec<f32> = (0..length).map(|t| level(trellis.window(&words, length, t))).collect();
            noise += loss(sequence, &levels);
        }
        noise / x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>()
    }

    /// The error on `sequences` tiles of 256 standard normal weights at the code's own scale.
    fn gaussian_mse(trellis: Trellis, sequences: usize) -> f64 {
        let x = Source(20).gaussians(TILE * sequences);
        mse(&mut trellis.encoder(TILE), level, &x, trellis.gain())
    }

    fn decibels(mse: f64) -> f64 {
        -10.0 * mse.log10()
    }

    /// Every sequence of codes in turn, with its levels.
    fn every_string(bits: u32, state: u32, length: usize, level: &[f32], mut visit: impl FnMut(&[u16], &[f32])) {
        let string = bits * length as u32;
        for value in 0..1_u64 << string {
            let codes: Vec<u16> =
                (0..length).map(|t| (value >> (bits * t as u32)) as u16 & ((1 << bits) - 1)).collect();
            let twice = value | value << string;
            let window = |t| (twice >> (bits * t as u32)) as usize & ((1 << state) - 1);
            let levels: Vec<f32> = (0..length).map(|t| level[window(t)]).collect();
            visit(&codes, &levels);
        }
    }

    #[test]
    fn a_path_between_given_classes_is_the_best_of_all() {
        for (bits, state, length) in [(1, 4, 8), (1, 5, 9), (2, 5, 5), (2, 6, 5), (3, 8, 4), (4, 8, 3)] {
            let mut source = Source(u64::from(bits * 100 + state));
            let (level, x) = (source.gaussians(1 << state), source.gaussians(length));
            let h: Vec<f32> = (0..length).map(|_| source.uniform() as f32).collect();
            let sequence = Sequence { x: &x, h: Some(&h), scale: 1.0 };

            let classes = 1 << (state - bits);
            let mut best = vec![(f64::INFINITY, Vec::new()); classes];
            every_string(bits, state, length, &level, |codes, levels| {
                let string = codes.iter().rev().fold(0, |all, code| all << bits | usize::from(*code));
                let (least, loss) = (&mut best[string % classes], loss(sequence, levels));
                if loss < least.0 {
                    *least = (loss, codes.to_vec());
                }
            });

            let mut viterbi = Viterbi::new(bits, state, length, |window| level[window as usize]);
            let targets: Vec<[f32; 2]> = x.iter().zip(&h).map(|(x, h)| [*x, *h]).collect();
            for (class, (least, expected)) in best.into_iter().enumerate() {
                viterbi.start_in(class);
                viterbi.sweep([&targets, &[]]);
                let mut codes = vec![0; length];
                let cost = f64::from(viterbi.next.as_flattened()[class]);
                assert_eq!(viterbi.trace(class, 0..length, &mut codes), class);
                assert!((cost - least).abs() < 1e-5 * least, "{bits} {state} class {class}: {cost} against {least}");
                assert_eq!(codes, expected, "{bits} {state} class {class}");
            }
        }
    }

    #[test]
    fn the_class_found_in_the_middle_is_nearly_the_best() {
        for (bits, state) in [(1, 8), (2, 8), (2, 9), (3, 8), (4, 8)] {
            let trellis = trellis(bits, state);
            let (mut encoder, mut words, mut levels) = (trellis.encoder(256), vec![0; trellis.words(256)], [0.0; 256]);
            let (mut found, mut least) = (0.0, 0.0);
            for x in Source(4).gaussians(256 * 32).chunks_exact(256) {
                let sequence = Sequence { x, h: None, scale: 1.0 };
                encoder.encode(sequence, &mut words);
                trellis.decode(&words, &mut levels);
                found += loss(sequence, &levels);
                // The cyclic string of least error, by all classes in turn.
                let viterbi = &mut encoder.viterbi;
                let costs = (0..viterbi.classes).map(|class| {
                    viterbi.start_in(class);
                    viterbi.sweep([&encoder.targets, &[]]);
                    viterbi.next.as_flattened()[class]
                });
                least += f64::from(costs.fold(f32::INFINITY, f32::min));
            }
            println!("{trellis}: found {found:.3}, least {least:.3}, {:.5}", found / least);
            assert!(found >= least * (1.0 - 1e-5) && found < least * 1.001, "{trellis}: {found} against {least}");
        }
    }

    /// Theory note, section 10, which has long sequences, and 0.0744 for 256 weights of 2 bits with a fixed start.
    #[test]
    fn gaussian_weights_have_the_known_error() {
        // 131072 and 32768 weights.
        let cases = [(1, 12, 5.66), (2, 12, 11.36), (3, 12, 17.12), (1, 16, 5.83), (2, 16, 11.75), (3, 16, 17.59)];
        for (bits, state, theory) in cases {
            let mse = gaussian_mse(trellis(bits, state), if state == 12 { 512 } else { 128 });
            println!("{} {mse:.5} {:.2} dB, long sequences {theory} dB", trellis(bits, state), decibels(mse));
            assert!((decibels(mse) - theory).abs() < 0.2, "{mse}");
            match (bits, state) {
                (2, 12) => assert!(mse <= 0.075, "{mse}"),
                (2, 16) => assert!(mse <= 0.069, "{mse}"),
                _ => {}
            }
        }
    }

    #[test]
    fn longer_windows_and_more_bits_are_better() {
        for bits in 1..=4 {
            let errors: Vec<f64> = [8, 9, 10, 12, 14].map(|state| gaussian_mse(trellis(bits, state), 24)).to_vec();
            assert!(errors.is_sorted_by(|a, b| a > b), "{bits} bits: {errors:?}");
            // Shannon's bound, and the scalar quantizers of the same rate (Max 1960).
            let (bound, scalar) = (0.25_f64.powi(bits as i32), [0.3634, 0.1175, 0.03454, 0.009497][bits as usize - 1]);
            assert!(errors.iter().all(|mse| (bound..scalar).contains(mse)), "{bits} bits: {errors:?}");
        }
    }

    #[test]
    fn what_was_decoded_is_found_again() {
        for (bits, state, length) in [(1, 12, 256), (2, 12, 256), (2, 8, 100), (3, 12, 77), (4, 16, 64)] {
            let trellis = trellis(bits, state);
            let mut source = Source(5);
            let codes: Vec<u16> = (0..length).map(|_| source.integer() as u16 & ((1 << bits) - 1)).collect();
            let words = bits::pack(&codes, length, bits);
            let (mut x, mut levels) = (vec![0.0; length], vec![0.0; length]);
            trellis.decode(&words, &mut x);
            let mut again = vec![u32::MAX; words.len()];
            trellis.encoder(length).encode(Sequence { x: &x, h: None, scale: 1.0 }, &mut again);
            trellis.decode(&again, &mut levels);
            assert_eq!(levels, x, "{trellis}");
        }
    }

    #[test]
    fn the_words_found_are_the_same_everywhere() {
        // Numbers without rounding: 16 bits between -2 and 2.
        let mut source = Source(1);
        let x: Vec<f32> = (0..64).map(|_| (source.integer() & 0xffff) as f32 / 16384.0 - 2.0).collect();
        let mut words = [0; 4];
        trellis(2, 10).encoder(64).encode(Sequence { x: &x, h: None, scale: 1.25 }, &mut words);
        assert_eq!(words, [0x1dd9_b8cb, 0xdbad_7d56, 0x6c60_c2d0, 0x6796_affe]);
    }

    #[test]
    fn an_encoder_remembers_nothing() {
        let trellis = trellis(3, 10);
        let x = Source(1).gaussians(200);
        let (mut used, mut words) = (trellis.encoder(100), [[0; 10]; 2]);
        used.encode(Sequence { x: &x[..100], h: Some(&[0.5; 100]), scale: 0.3 }, &mut words[0]);
        used.encode(Sequence { x: &x[100..], h: None, scale: 1.0 }, &mut words[0]);
        trellis.encoder(100).encode(Sequence { x: &x[100..], h: None, scale: 1.0 }, &mut words[1]);
        assert_eq!(words[0], words[1]);
    }

    #[test]
    fn errors_go_where_they_cost_little() {
        let trellis = trellis(2, 10);
        let x = Source(9).gaussians(256 * 8);
        let h: Vec<f32> = (0..256).map(|t| if t % 2 == 0 { 1.0 } else { 0.0 }).collect();
        let (mut encoder, mut words, mut levels) = (trellis.encoder(256), [0; 16], [0.0; 256]);
        let mut total = [0.0; 2];
        for x in x.chunks_exact(256) {
            for (total, used) in total.iter_mut().zip([None, Some(&h[..])]) {
                encoder.encode(Sequence { x, h: used, scale: 1.0 }, &mut words);
                trellis.decode(&words, &mut levels);
                *total += loss(Sequence { x, h: Some(&h), scale: 1.0 }, &levels);
            }
        }
        // The bits of the weights that count nothing are free: 4 for each that counts, where 16 times less error is the limit.
        assert!(total[1] < total[0] / 8.0 && total[1] > total[0] / 16.0, "{total:?}");
    }

    #[test]
    #[should_panic(expected = "x[3]: inf / 1 is not finite")]
    fn what_is_not_finite_is_a_panic() {
        let mut x = [0.0; 32];
        x[3] = f32::INFINITY;
        trellis(2, 8).encoder(32).encode(Sequence { x: &x, h: None, scale: 1.0 }, &mut [0; 2]);
    }

    #[test]
    #[should_panic(expected = "7 weights of trellis2:16 are 14 bits, fewer than a window")]
    fn a_sequence_shorter_than_a_window_is_a_panic() {
        trellis(2, 16).encoder(7);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn weights_and_scale_may_share_a_factor(seed: u64, bits in 1_u32..=4, octaves in -40_i32..40, negative: bool) {
            let trellis = trellis(bits, 8);
            let factor = 2.0_f32.powi(octaves) * if negative { -1.0 } else { 1.0 };
            let x = Source(seed).gaussians(50);
            let scaled: Vec<f32> = x.iter().map(|x| x * factor).collect();
            let h: Vec<f32> = x.iter().map(|x| x.abs()).collect();
            let (mut one, mut other) = (vec![0; trellis.words(50)], vec![0; trellis.words(50)]);
            let mut encoder = trellis.encoder(50);
            encoder.encode(Sequence { x: &x, h: Some(&h), scale: 0.75 }, &mut one);
            let h: Vec<f32> = h.iter().map(|h| h * 0.25).collect();
            encoder.encode(Sequence { x: &scaled, h: Some(&h), scale: 0.75 * factor }, &mut other);
            prop_assert_eq!(one, other);
        }
    }

    /// Quantiles of a standard normal, `(i + 1/2) / 2^state`, in random order: the codebook of the theory note.
    fn quantiles(state: u32) -> Vec<f32> {
        let n = 1_usize << state;
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        // 1/2 + density * (x + x^3 / 3 + x^5 / (3 * 5) + ...)
        let below = |x: f64| {
            let terms = (1..200).scan(x, |term, k| {
                let this = *term;
                *term *= x * x / f64::from(2 * k + 1);
                Some(this)
            });
            0.5 + density(x) * terms.sum::<f64>()
        };
        let (mut table, mut x) = (vec![0.0; n], 0.0);
        for i in n / 2..n {
            // Newton's method, from the quantile before.
            for _ in 0..10 {
                x -= (below(x) - (i as f64 + 0.5) / n as f64) / density(x);
            }
            (table[i], table[n - 1 - i]) = (x as f32, -x as f32);
        }
        let mut source = Source(3);
        for i in (1..n).rev() {
            table.swap(i, source.integer() as usize % (i + 1));
        }
        table
    }

    /// The codebooks that were not taken, and the reference. `docs/format.md` shows what this prints.
    #[test]
    #[ignore = "minutes: cargo test --release -p quench-format the_codebooks -- --ignored --nocapture"]
    fn the_codebooks() {
        let bytes = |hash: u32| hash.to_le_bytes().iter().map(|b| f32::from(*b)).sum::<f32>() - 510.0;
        let halves = |hash: u32| {
            let pair = hash & 0x8fff_8fff ^ 0x3b60_3b60;
            f16::from_bits(pair as u16).to_f32() + f16::from_bits((pair >> 16) as u16).to_f32()
        };
        let x = Source(20).gaussians(TILE * 512);
        println!("| K | L | `level` | EXL3 mul1 | QTIP 1MAD | QTIP 3INST | EXL3 mcg | quantiles |");
        for (bits, state) in (1..=4).flat_map(|bits| [8, 10, 12, 14, 16].map(|state| (bits, state))) {
            let trellis = trellis(bits, state);
            let all = 0..1_u32 << state;
            let books: [Vec<f32>; 6] = [
                all.clone().map(level).collect(),
                all.clone().map(|w| bytes(w.wrapping_mul(0x83dc_d12d))).collect(),
                all.clone().map(|w| bytes(w.wrapping_mul(34_038_481).wrapping_add(76_625_530))).collect(),
                all.clone().map(|w| halves(w.wrapping_mul(89_226_354).wrapping_add(64_248_484))).collect(),
                all.clone().map(|w| halves(w.wrapping_mul(0xcbac_1fed))).collect(),
                quantiles(state),
            ];
            let found = books.map(|book| {
                // Short books have variances of their own, and the best scale goes with them.
                let variance = book.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / book.len() as f64;
                let at = |window: u32| book[window as usize];
                let scale = trellis.gain() / variance.sqrt() as f32;
                let mse = mse(&mut Encoder::over(trellis, TILE, at), at, &x, scale);
                format!("{mse:.5} ({:.2})", decibels(mse))
            });
            println!("| {bits} | {state} | {} |", found.join(" | "));
        }
    }

    /// The error at scales near [`Trellis::gain`].
    #[test]
    #[ignore = "minutes: cargo test --release -p quench-format the_gains -- --ignored --nocapture"]
    fn the_gains() {
        for (bits, state) in (1..=4).flat_map(|bits| [8, 12, 16].map(|state| (bits, state))) {
            let trellis = trellis(bits, state);
            let x = Source(21).gaussians(TILE * 64);
            let scales = [-0.08, -0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06, 0.08].map(|d| trellis.gain() + d);
            let found = scales.map(|scale| (scale, mse(&mut trellis.encoder(TILE), level, &x, scale)));
            println!("{trellis} {}", found.map(|(scale, mse)| format!("{scale:.2}: {mse:.5}")).join("  "));
        }
    }

    /// Weights a second, on one thread.
    #[test]
    #[ignore = "a measurement: cargo test --release -p quench-format how_fast -- --ignored --nocapture"]
    fn how_fast() {
        for (bits, state) in [(1, 12), (2, 12), (3, 12), (4, 12), (2, 8), (2, 16)] {
            let trellis = trellis(bits, state);
            let x = Source(2).gaussians(TILE << (18 - state));
            let mut words = vec![0; trellis.words(x.len())];
            let tile = trellis.words(TILE);
            let mut encoder = trellis.encoder(TILE);
            let begin = Instant::now();
            for (x, words) in x.chunks_exact(TILE).zip(words.chunks_exact_mut(tile)) {
                encoder.encode(Sequence { x, h: None, scale: trellis.gain() }, words);
            }
            let encoded = x.len() as f64 / begin.elapsed().as_secs_f64();
            let (mut levels, rounds) = ([0.0; TILE], 1 + (1 << 24) / x.len());
            let (begin, mut sum) = (Instant::now(), 0.0);
            for words in (0..rounds).flat_map(|_| words.chunks_exact(tile)) {
                trellis.decode(words, &mut levels);
                sum += levels[0];
            }
            let decoded = (rounds * x.len()) as f64 / begin.elapsed().as_secs_f64();
            println!("{trellis}: encodes {encoded:.0}, decodes {decoded:.0} weights/s (sum {sum})");
        }
    }
}
