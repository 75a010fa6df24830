//! The shortest path through a trellis, by Viterbi's algorithm.
//!
//! Windows `a`, `b` of neighbours agree in `L - K` bits, `a >> K = b mod 2^(L-K)`; call this number the *class* between the two. With
//! `cost[q]` the least cost of the weights so far where the class after them is `q`, one more weight gives
//!
//! ```text
//! cost'[p] = min over j of  cost[w mod 2^(L-K)] + (s * level(w) - x)^2        w = p << K | j,  j = 0 .. 2^K
//! ```
//!
//! and the best `j` is the weight's own `K` bits: kept for each class and weight, they lead back along the best path.
//!
//! Classes `p` that differ in their upper `K` bits alone have the same `2^K` before them. Call what they share their *root*, the lower
//! `L - 2K` bits, `p = t * roots + root`: the costs before sixteen roots are read once, turned so that a lane is a root, and serve all
//! `2^K` values of `t`.
//!
//! Both products are fused with their sums (one rounding): two instructions in place of four, and the same bits on every machine.

use std::ops::Range;
use std::sync::Arc;

use super::isa::{self, Sweep};

/// Roots handled at once: a register of AVX-512, two of AVX2, four of NEON.
pub(super) const LANES: usize = 16;
const WORD: usize = u32::BITS as usize;

/// What one weight should be: `(s * level - x)^2` is what a level costs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Target {
    pub x: f32,
    pub s: f32,
}

/// The shortest path over the classes of a trellis. Clones share the levels.
#[derive(Clone, Debug)]
pub(super) struct Viterbi {
    bits: u32,
    /// `2^(L-K)`.
    classes: usize,
    /// `[roots / LANES, 2^K, 2^K, LANES]`: the level of window `(t * roots + root) << K | j` at `[root / LANES, t, j, root % LANES]`;
    /// fewer roots than `LANES` are repeated.
    levels: Arc<[[f32; LANES]]>,
    /// `[classes]`: the costs so far.
    costs: Vec<f32>,
    /// `[classes]`: room for those after one more weight.
    next: Vec<f32>,
    /// `[length, ..]`: the best `j` of every class for every weight; see [`Viterbi::code`].
    back: Vec<[u32; LANES]>,
}

impl Viterbi {
    pub fn new(bits: u32, state: u32, length: usize, level: impl Fn(u32) -> f32) -> Self {
        let (branches, classes) = (1 << bits, 1_usize << (state - bits));
        let roots = classes / branches;
        let rows = roots.div_ceil(LANES) * branches;
        let mut levels = vec![[0.0; LANES]; rows * branches];
        for (i, x) in levels.as_flattened_mut().iter_mut().enumerate() {
            let (j, t) = (i / LANES % branches, i / LANES / branches % branches);
            let root = (i / (LANES * branches * branches) * LANES + i % LANES) % roots;
            *x = level(((t * roots + root) << bits | j) as u32);
        }
        let back = vec![[0; LANES]; length * rows.div_ceil(codes_per_word(branches))];
        Self { bits, classes, levels: levels.into(), costs: vec![0.0; classes], next: vec![0.0; classes], back }
    }

    /// How many classes there are.
    #[cfg(test)]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The level of a window.
    pub fn level(&self, window: u32) -> f32 {
        let branches = 1 << self.bits;
        let (class, j) = (window as usize >> self.bits, window as usize & (branches - 1));
        let (row, lane) = self.place(class);
        self.levels[row * branches + j][lane]
    }

    /// All classes cost nothing.
    pub fn start_anywhere(&mut self) {
        self.costs.fill(0.0);
    }

    /// No class is possible but one.
    pub fn start_in(&mut self, class: usize) {
        self.costs.fill(f32::INFINITY);
        self.costs[class] = 0.0;
    }

    /// What a class costs after a sweep.
    #[cfg(test)]
    pub fn cost(&self, class: usize) -> f32 {
        self.costs[class]
    }

    /// The class that costs least after a sweep, the first of them.
    pub fn cheapest(&self) -> usize {
        let mut best = 0;
        for (class, cost) in self.costs.iter().enumerate() {
            if *cost < self.costs[best] {
                best = class;
            }
        }
        best
    }

    /// Adds weights to all paths, of which the first is `first` for [`Viterbi::trace`].
    pub fn sweep(&mut self, first: usize, targets: &[Target]) {
        isa::run(Sweep { viterbi: self, first, targets });
    }

    /// [`Viterbi::sweep`], compiled for the instruction set around it.
    #[inline(always)]
    pub(super) fn sweep_here(&mut self, first: usize, targets: &[Target]) {
        match self.bits {
            1 => self.sweep_branches::<2>(first, targets),
            2 => self.sweep_branches::<4>(first, targets),
            3 => self.sweep_branches::<8>(first, targets),
            _ => self.sweep_branches::<16>(first, targets),
        }
    }

    #[inline(always)]
    fn sweep_branches<const N: usize>(&mut self, first: usize, targets: &[Target]) {
        let stride = self.levels.len().div_ceil(N * codes_per_word(N));
        for (t, &target) in (first..).zip(targets) {
            let back = &mut self.back[t * stride..][..stride];
            if self.classes >= N * LANES {
                step::<N>(&self.levels, &self.costs, &mut self.next, back, target);
            } else {
                step_few::<N>(&self.levels, &self.costs, &mut self.next, back, target);
            }
            std::mem::swap(&mut self.costs, &mut self.next);
        }
    }

    /// Follows the best path that ends in `class` back through `weights`, writes its codes, gives the class it began in.
    pub fn trace(&self, class: usize, weights: Range<usize>, codes: &mut [u16]) -> usize {
        weights.zip(codes).rev().fold(class, |class, (t, code)| {
            *code = self.code(t, class) as u16;
            (class << self.bits | usize::from(*code)) & (self.classes - 1)
        })
    }

    /// The best `j` for weight `t` and the class after it.
    ///
    /// A word of `back` has a lane of so many neighbouring rows, the first in its low bits.
    fn code(&self, t: usize, class: usize) -> u32 {
        let branches = 1 << self.bits;
        let per_word = codes_per_word(branches);
        let stride = self.levels.len().div_ceil(branches * per_word);
        let (row, lane) = self.place(class);
        let word = self.back[t * stride + row / per_word][lane];
        word >> (row % per_word * WORD / per_word) & ((1 << self.bits) - 1)
    }

    /// The row of sixteen classes that a class is in, `[roots / LANES, 2^K]`, and its lane.
    fn place(&self, class: usize) -> (usize, usize) {
        let roots = self.classes >> self.bits;
        let (t, root) = (class / roots, class % roots);
        (root / LANES * (1 << self.bits) + t, root % LANES)
    }
}

/// From `costs` to `next`, with one weight.
#[inline(always)]
fn step<const N: usize>(
    levels: &[[f32; LANES]],
    costs: &[f32],
    next: &mut [f32],
    back: &mut [[u32; LANES]],
    target: Target,
) {
    let roots = costs.len() / N;
    // Rows that share a word of `back`: those of so many blocks of roots.
    let blocks = (codes_per_word(N) / N).max(1);
    let words = (N / codes_per_word(N)).max(1);
    let (levels, _) = levels.as_chunks::<N>();
    for (i, (back, levels)) in back.chunks_mut(words).zip(levels.chunks(blocks * N)).enumerate() {
        let mut packed = [[0; LANES]; 2];
        for (b, levels) in levels.chunks_exact(N).enumerate() {
            let first = (i * blocks + b) * LANES;
            let before = turned::<N>(&costs[first * N..][..N * LANES]);
            for (t, levels) in levels.iter().enumerate() {
                let (least, best) = cheapest::<N>(levels, &before, target);
                next[t * roots + first..][..LANES].copy_from_slice(&least);
                let at = b * N + t;
                let (word, shift) = (at / codes_per_word(N), at % codes_per_word(N) * WORD / codes_per_word(N));
                for lane in 0..LANES {
                    packed[word][lane] |= best[lane] << shift;
                }
            }
        }
        back.copy_from_slice(&packed[..back.len()]);
    }
}

/// [`step`] where there are fewer roots than lanes.
fn step_few<const N: usize>(
    levels: &[[f32; LANES]],
    costs: &[f32],
    next: &mut [f32],
    back: &mut [[u32; LANES]],
    target: Target,
) {
    let roots = costs.len() / N;
    back.fill([0; LANES]);
    let before = std::array::from_fn(|j| std::array::from_fn(|lane| costs[lane % roots * N + j]));
    for (t, levels) in levels.as_chunks::<N>().0.iter().enumerate() {
        let (least, best) = cheapest::<N>(levels, &before, target);
        next[t * roots..][..roots].copy_from_slice(&least[..roots]);
        let (word, shift) = (t / codes_per_word(N), t % codes_per_word(N) * WORD / codes_per_word(N));
        for lane in 0..LANES {
            back[word][lane] |= best[lane] << shift;
        }
    }
}

/// `[LANES, N]` turned to `[N, LANES]`.
#[inline(always)]
fn turned<const N: usize>(costs: &[f32]) -> [[f32; LANES]; N] {
    let mut turned = [[0.0; LANES]; N];
    for (lane, costs) in costs.as_chunks::<N>().0.iter().enumerate().take(LANES) {
        for j in 0..N {
            turned[j][lane] = costs[j];
        }
    }
    turned
}

/// The least cost in every lane, and the branch that has it, the first of them.
#[inline(always)]
fn cheapest<const N: usize>(
    levels: &[[f32; LANES]; N],
    before: &[[f32; LANES]; N],
    Target { x, s }: Target,
) -> ([f32; LANES], [u32; LANES]) {
    let (mut least, mut best) = ([f32::INFINITY; LANES], [0; LANES]);
    for j in 0..N {
        for lane in 0..LANES {
            let error = s.mul_add(levels[j][lane], -x);
            let cost = error.mul_add(error, before[j][lane]);
            best[lane] = if cost < least[lane] { j as u32 } else { best[lane] };
            least[lane] = if cost < least[lane] { cost } else { least[lane] };
        }
    }
    (least, best)
}

/// Codes of `log2(branches)` bits, 3 as 4, in a word.
const fn codes_per_word(branches: usize) -> usize {
    WORD / (branches.ilog2() as usize).next_power_of_two()
}
