//! The encoder of a trellis code: the best string of given ends by Viterbi's algorithm ([`super::viterbi`]), and then the ends.
//!
//! A cyclic string begins in the class in which it ends. A first pass goes once around, with free ends. Some weights away from them
//! nothing is seen of it that they are free: the class there, the *seam*, is kept, and the pass goes on over the first weights once more
//! until it arrives at the seam, now with a past. Paths that end there have all come through it, as a rule, and the best is a string;
//! where one has not, as in 7 of 100 sequences of the tests, a second pass has the seam given at both ends. Trying all `2^(L-K)` classes
//! would be exact; with `L` = 8 and 9 its error is the same to 0.01 %.
//!
//! (With the seam at 64 weights the error of `trellis2:16` rises by 0.3 %, with 80 by 0.1 %, and 128 gain 0.06 %. Keeping the path at
//! both sides of the ends and mending what is between, which was tried first, loses three times as much for the same time.)
//!
//! The cost: `1.4 * 2^L` metrics a weight, each two fused products, a comparison and two selections. The workspace: `2^L + 2 * 2^(L-K)`
//! floats, of which clones of an encoder share the first, and `2^(L-K)` codes of `K` bits (4 for `K` = 3) for each weight and 96 more:
//! 1.8 MiB for `K` = 2, `L` = 16, 256 weights.

use std::ops::Range;

use super::viterbi::{Target, Viterbi};
use super::{Strings, Trellis, level};
use crate::bits;

/// Weights from the free ends to the seam, or half of all where there are fewer.
const SEAM: usize = 96;

/// One sequence to encode: minimize `sum of h[t] * (x[t] - scales[t] * level[t])^2`.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// What the weights should be, `[length]`, finite.
    pub x: &'a [f32],
    /// What an error at each of them costs, `[length]`, finite and not negative; `None` is 1 for all.
    pub h: Option<&'a [f32]>,
    /// What multiplies the level of each, `[length]`, finite. Where it is 0, any level will do.
    pub scales: &'a [f32],
}

impl<'a> Sequence<'a> {
    /// Some weights of it: of a column, those of one band.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn part(&self, weights: Range<usize>) -> Self {
        let part = |all: &'a [f32]| &all[weights.clone()];
        Self { x: part(self.x), h: self.h.map(part), scales: part(self.scales) }
    }

    /// The targets of all weights. What is the same for all of them, `s` and `x` times a power of two, does not matter: `s` is
    /// below 2, and what is below `2^-40` of the largest counts nothing.
    fn targets(&self, targets: &mut [Target]) {
        let Self { x, h, scales } = *self;
        let root = |t: usize| h.map_or(1.0, |h| f64::from(h[t])).sqrt();
        for t in 0..x.len() {
            assert!(x[t].is_finite(), "x[{t}]: {} is not finite", x[t]);
            assert!(scales[t].is_finite(), "scales[{t}]: {} is not finite", scales[t]);
            assert!(h.is_none_or(|h| h[t].is_finite() && h[t] >= 0.0), "h[{t}]: {}", h.map_or(0.0, |h| h[t]));
        }
        let largest = (0..x.len()).map(|t| root(t) * f64::from(scales[t]).abs()).fold(0.0, f64::max);
        // Its exponent, so that the division is exact.
        let unit = f64::from_bits(largest.to_bits() >> 52 << 52);
        for (t, target) in targets.iter_mut().enumerate() {
            let s = root(t) * f64::from(scales[t]) / unit;
            *target = match s.abs() > SMALLEST {
                true => Target { x: (root(t) * f64::from(x[t]) / unit).clamp(-FARTHEST, FARTHEST) as f32, s: s as f32 },
                false => Target::default(),
            };
        }
    }

    /// What levels cost.
    fn loss(&self, level: impl Fn(usize) -> f32) -> f64 {
        let error = |t: usize| f64::from(self.x[t]) - f64::from(self.scales[t]) * f64::from(level(t));
        (0..self.x.len()).map(|t| self.h.map_or(1.0, |h| f64::from(h[t])) * error(t).powi(2)).sum()
    }
}

/// What counts nothing, beside 1: its squares would be no normal numbers.
const SMALLEST: f64 = 1.0 / (1_u64 << 40) as f64;
/// Where the squares of targets are still far from overflowing.
const FARTHEST: f64 = (1_u64 << 40) as f64;

/// Encodes sequences up to some length, one after the other, in a workspace of its own. Clones, one for each thread, share the levels.
#[derive(Clone, Debug)]
pub struct Encoder {
    trellis: Trellis,
    /// `[longest]`: the best codes, a weight's own `K` bits each; first those of the rotated sequence.
    codes: Vec<u16>,
    /// `[longest]`: the windows of the string that was found.
    windows: Vec<u16>,
    /// `[longest]`
    targets: Vec<Target>,
    viterbi: Viterbi,
}

impl Encoder {
    pub(super) fn new(trellis: Trellis, longest: usize) -> Self {
        Self::over(trellis, longest, level)
    }

    /// The encoder of another codebook.
    fn over(trellis: Trellis, longest: usize, level: impl Fn(u32) -> f32) -> Self {
        assert_length(trellis, longest);
        let viterbi = Viterbi::new(trellis.bits(), trellis.state(), longest + seam(longest), level);
        let targets = vec![Target::default(); longest];
        Self { trellis, codes: vec![0; longest], windows: vec![0; longest], targets, viterbi }
    }

    /// The code whose sequences these are.
    pub fn trellis(&self) -> Trellis {
        self.trellis
    }

    /// Weights of the longest sequence that there is room for.
    pub fn longest(&self) -> usize {
        self.codes.len()
    }

    /// Encodes one sequence and gives its error, `sum of h[t] * (x[t] - scales[t] * level[t])^2`; of strings with the same error the
    /// one found is always the same, on every machine.
    ///
    /// - `words`: `[words(length)]`, overwritten; [`Trellis::decode`] reads them
    ///
    /// # Panics
    /// If a length is wrong, the sequence longer than the encoder has room for or its string shorter than a window, a number not finite,
    /// or an `h` negative.
    pub fn encode(&mut self, sequence: Sequence<'_>, words: &mut [u32]) -> f64 {
        let length = sequence.x.len();
        assert!(length <= self.longest(), "{length} weights for an encoder of {}", self.longest());
        assert_length(self.trellis, length);
        let lengths = [("scales", sequence.scales.len()), ("h", sequence.h.map_or(length, <[f32]>::len))];
        for (name, found) in lengths {
            assert!(found == length, "{name}: expected {length} elements, found {found}");
        }
        let (targets, codes) = (&mut self.targets[..length], &mut self.codes[..length]);
        sequence.targets(targets);

        // Once around from anywhere, and on to a place that lies well within that path.
        let seam = seam(length);
        self.viterbi.start_anywhere();
        self.viterbi.sweep(0, targets);
        let class = self.viterbi.trace(self.viterbi.cheapest(), seam..length, &mut codes[seam..]);
        self.viterbi.sweep(length, &targets[..seam]);
        let (before, after) = codes.split_at_mut(seam);
        let turn = self.viterbi.trace(class, length..length + seam, before);
        if self.viterbi.trace(turn, seam..length, after) != class {
            // Paths that had not met there yet.
            self.viterbi.start_in(class);
            self.viterbi.sweep(0, &targets[seam..]);
            self.viterbi.sweep(length - seam, &targets[..seam]);
            let turn = self.viterbi.trace(class, length - seam..length, before);
            self.viterbi.trace(turn, 0..length - seam, after);
        }
        bits::pack_row(codes, self.trellis.bits(), words);
        let windows = &mut self.windows[..length];
        self.trellis.windows(words, windows);
        sequence.loss(|t| self.viterbi.level(u32::from(windows[t])))
    }

    /// Encodes a column of a matrix, all bands of it one after the other, and gives its error.
    ///
    /// Bands do not depend on each other: to share them among threads, give each a clone of the encoder, and
    /// [parts](Sequence::part) of the column with their words ([`Strings::of_column`]).
    ///
    /// - `column`: `[out]`
    /// - `words`: `[words_per_column]`, overwritten; [`Strings::put_column`] takes them to their place
    ///
    /// # Panics
    /// As [`Encoder::encode`]; the longest sequence is the last.
    pub fn encode_column(&mut self, strings: &Strings, column: Sequence<'_>, words: &mut [u32]) -> f64 {
        strings.of_column(words).map(|(rows, words)| self.encode(column.part(rows), words)).sum()
    }
}

fn seam(length: usize) -> usize {
    SEAM.min(length / 2)
}

fn assert_length(trellis: Trellis, length: usize) {
    let string = length * trellis.bits() as usize;
    assert!(string >= trellis.state() as usize, "{length} weights of {trellis} are {string} bits, fewer than a window");
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use half::f16;
    use proptest::prelude::*;

    use super::super::TILE;
    use super::*;
    use crate::{Offsets, Packed, Parts, Scales};

    const ONES: &[f32] = &[1.0; 512];

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

    /// `sum of h * (x - scale * level)^2`, by the definition.
    fn loss(sequence: Sequence<'_>, levels: &[f32]) -> f64 {
        let Sequence { x, h, scales } = sequence;
        let error = |t: usize| f64::from(x[t]) - f64::from(scales[t]) * f64::from(levels[t]);
        (0..x.len()).map(|t| f64::from(h.map_or(1.0, |h| h[t])) * error(t).powi(2)).sum()
    }

    /// Squared error over squares, of `x` in sequences of the encoder's length, decoded with its own codebook.
    ///
    /// Over the squares themselves and not their expectation, which would be the larger part of the statistical error.
    fn mse(encoder: &mut Encoder, level: impl Fn(u32) -> f32, x: &[f32], scale: f32) -> f64 {
        let (trellis, length) = (encoder.trellis(), encoder.longest());
        let (mut words, mut noise, scales) = (vec![0; trellis.words(length)], 0.0, vec![scale; length]);
        for x in x.chunks_exact(length) {
            let sequence = Sequence { x, h: None, scales: &scales };
            let found = encoder.encode(sequence, &mut words);
            let levels: Vec<f32> = (0..length).map(|t| level(trellis.window(&words, length, t))).collect();
            assert_eq!(found, loss(sequence, &levels));
            noise += found;
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
            let sequence = Sequence { x: &x, h: Some(&h), scales: &ONES[..length] };

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
            let targets: Vec<Target> = x.iter().zip(&h).map(|(x, h)| Target { x: x * h.sqrt(), s: h.sqrt() }).collect();
            for (class, (least, expected)) in best.into_iter().enumerate() {
                viterbi.start_in(class);
                viterbi.sweep(0, &targets);
                let mut codes = vec![0; length];
                let cost = f64::from(viterbi.cost(class));
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
            let (mut encoder, mut words) = (trellis.encoder(256), vec![0; trellis.words(256)]);
            let (mut found, mut least) = (0.0, 0.0);
            for x in Source(4).gaussians(256 * 32).chunks_exact(256) {
                let sequence = Sequence { x, h: None, scales: &ONES[..256] };
                found += encoder.encode(sequence, &mut words);
                // The cyclic string of least error, by all classes in turn.
                let viterbi = &mut encoder.viterbi;
                let costs = (0..viterbi.classes()).map(|class| {
                    viterbi.start_in(class);
                    viterbi.sweep(0, &encoder.targets);
                    viterbi.cost(class)
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
            trellis.encoder(length).encode(Sequence { x: &x, h: None, scales: &ONES[..length] }, &mut again);
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
        trellis(2, 10).encoder(64).encode(Sequence { x: &x, h: None, scales: &[1.25; 64] }, &mut words);
        assert_eq!(words, [0x42c3_3a62, 0xae08_24a9, 0xcad5_128a, 0x1fd3_a394]);
    }

    #[test]
    fn an_encoder_remembers_nothing() {
        let trellis = trellis(3, 10);
        let x = Source(1).gaussians(200);
        let (mut used, mut words) = (trellis.encoder(150), [[0; 10]; 2]);
        used.encode(Sequence { x: &x[..101], h: Some(&[0.5; 101]), scales: &[0.3; 101] }, &mut [0; 10]);
        used.encode(Sequence { x: &x[100..], h: None, scales: &ONES[..100] }, &mut words[0]);
        trellis.encoder(100).encode(Sequence { x: &x[100..], h: None, scales: &ONES[..100] }, &mut words[1]);
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
                let scales = &ONES[..256];
                encoder.encode(Sequence { x, h: used, scales }, &mut words);
                trellis.decode(&words, &mut levels);
                *total += loss(Sequence { x, h: Some(&h), scales }, &levels);
            }
        }
        // The bits of the weights that count nothing are free: 4 for each that counts, where 16 times less error is the limit.
        assert!(total[1] < total[0] / 8.0 && total[1] > total[0] / 16.0, "{total:?}");
    }

    /// Weights of other scales are the same problem as weights over them, each with an importance.
    #[test]
    fn every_weight_may_have_a_scale_of_its_own() {
        let (trellis, mut source) = (trellis(2, 10), Source(11));
        let levels: Vec<f32> = source.gaussians(300);
        // Powers of two, of either sign, and some zeros.
        let scales: Vec<f32> = (0..300_u16).map(|t| [0.5, -2.0, 0.0, 8.0, -0.125][usize::from(t % 5)]).collect();
        let (mut encoder, mut words) = (trellis.encoder(300), [[0; 19]; 2]);
        let x: Vec<f32> = levels.iter().zip(&scales).map(|(x, scale)| x * scale).collect();
        let error = encoder.encode(Sequence { x: &x, h: None, scales: &scales }, &mut words[0]);
        let h: Vec<f32> = scales.iter().map(|scale| scale * scale).collect();
        let other = encoder.encode(Sequence { x: &levels, h: Some(&h), scales: &ONES[..300] }, &mut words[1]);
        assert_eq!(words[0], words[1]);
        assert!((error - other).abs() < 1e-9 * error && error > 0.0);
        // All of them zero: any string will do.
        let none = encoder.encode(Sequence { x: &x, h: None, scales: &[0.0; 300] }, &mut words[0]);
        assert_eq!(none, x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>());
    }

    #[test]
    fn what_is_far_away_is_no_trouble() {
        let trellis = trellis(3, 8);
        let x: Vec<f32> = (0..64).map(|t| [3e38, -1e30, 1e-40, 1.0][t % 4]).collect();
        let h: Vec<f32> = (0..64).map(|t| [1e38, 0.0, 1e-45, 1.0][t / 4 % 4]).collect();
        let scales: Vec<f32> = (0..64).map(|t| [1e-30, 1.0, 1e-45, 3e38][t / 16]).collect();
        let (mut words, mut levels) = ([0; 6], [0.0; 64]);
        let sequence = Sequence { x: &x, h: Some(&h), scales: &scales };
        let error = trellis.encoder(64).encode(sequence, &mut words);
        trellis.decode(&words, &mut levels);
        assert!(error.is_finite() && error == loss(sequence, &levels));
        let top = trellis.encoder(64).encode(Sequence { x: &[3e38; 64], h: None, scales: &[1e-38; 64] }, &mut words);
        assert!(top.is_finite());
    }

    #[test]
    fn columns_are_their_bands() {
        let (trellis, shape) = (trellis(2, 9), [700, 3]);
        let strings = Strings::new(trellis, shape);
        let x = Source(12).gaussians(700 * 3);
        let (h, scales) = (vec![2.0; 700], vec![1.25; 700]);
        let encoder = trellis.encoder(strings.rows(1).len());
        let (mut words, mut column, mut total) = (vec![0; strings.words()], vec![0; strings.words_per_column()], 0.0);
        for (j, x) in x.chunks_exact(700).enumerate() {
            let sequence = Sequence { x, h: Some(&h), scales: &scales };
            let error = encoder.clone().encode_column(&strings, sequence, &mut column);
            strings.put_column(j, &column, &mut words);
            let parts = (0..2).map(|band| {
                let mut string = vec![0; strings.words_per_string(band)];
                let error = encoder.clone().encode(sequence.part(strings.rows(band)), &mut string);
                assert_eq!(words[strings.string(band, j)], string);
                error
            });
            assert_eq!(error, parts.sum::<f64>());
            total += error;
        }
        // The matrix that comes of it has this error.
        let scheme = "trellis2:9/tensor/f32".parse().unwrap();
        let parts = Parts { codes: words, scales: Scales::Float(vec![1.25]), offsets: Offsets::None, order: None };
        let w = Packed::new(scheme, shape, parts).unwrap().decode();
        let errors = (0..2100).map(|i| 2.0 * f64::from(x[i % 3 * 700 + i / 3] - w[i]).powi(2));
        let found: f64 = errors.sum();
        assert!((found - total).abs() < 1e-4 * total, "{found} {total}");
    }

    #[test]
    #[should_panic(expected = "x[3]: inf is not finite")]
    fn what_is_not_finite_is_a_panic() {
        let mut x = [0.0; 32];
        x[3] = f32::INFINITY;
        trellis(2, 8).encoder(32).encode(Sequence { x: &x, h: None, scales: &ONES[..32] }, &mut [0; 2]);
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
            encoder.encode(Sequence { x: &x, h: Some(&h), scales: &[0.75; 50] }, &mut one);
            let h: Vec<f32> = h.iter().map(|h| h * 0.25).collect();
            encoder.encode(Sequence { x: &scaled, h: Some(&h), scales: &[0.75 * factor; 50] }, &mut other);
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

    /// The time that this thread had a processor, so that others do not count; on Linux, else that of the clock.
    struct Busy(Instant, Option<u64>);

    impl Busy {
        fn nanoseconds() -> Option<u64> {
            std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
        }

        fn now() -> Self {
            Self(Instant::now(), Self::nanoseconds())
        }

        /// In seconds.
        fn elapsed(self) -> f64 {
            let busy = self.1.zip(Self::nanoseconds()).map(|(begin, end)| (end - begin) as f64 / 1e9);
            busy.unwrap_or_else(|| self.0.elapsed().as_secs_f64())
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
            let begin = Busy::now();
            for (x, words) in x.chunks_exact(TILE).zip(words.chunks_exact_mut(tile)) {
                encoder.encode(Sequence { x, h: None, scales: &[trellis.gain(); TILE] }, words);
            }
            let encoded = x.len() as f64 / begin.elapsed();
            let (mut levels, rounds) = ([0.0; TILE], 1 + (1 << 24) / x.len());
            let (begin, mut sum) = (Busy::now(), 0.0);
            for words in (0..rounds).flat_map(|_| words.chunks_exact(tile)) {
                trellis.decode(words, &mut levels);
                sum += levels[0];
            }
            let decoded = (rounds * x.len()) as f64 / begin.elapsed();
            println!("{trellis}: encodes {encoded:.0}, decodes {decoded:.0} weights/s (sum {sum})");
        }
    }
}
