//! One loop compiled for several instruction sets; the only `unsafe` of the crate.

use super::viterbi::{Target, Viterbi};

/// Adding weights to all paths.
pub(super) struct Sweep<'a> {
    pub viterbi: &'a mut Viterbi,
    pub first: usize,
    pub targets: &'a [Target],
}

/// Runs a sweep with the widest vectors that the machine has. The costs are the same with any of them.
pub(super) fn run(sweep: Sweep<'_>) {
    if let Some(isa) = Isa::ALL.into_iter().find(|isa| isa.is_here()) {
        isa.run(sweep);
    }
}

/// An instruction set.
#[derive(Clone, Copy, Debug)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What all machines of a kind have. On x86 that has no fused product: right, and slow.
    Plain,
}

impl Isa {
    /// All of them, the fastest first.
    #[cfg(target_arch = "x86_64")]
    const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Plain];
    /// All of them.
    #[cfg(not(target_arch = "x86_64"))]
    const ALL: [Self; 1] = [Self::Plain];

    /// Whether the machine has it.
    fn is_here(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Plain => true,
        }
    }

    fn run(self, sweep: Sweep<'_>) {
        assert!(self.is_here(), "{self:?}");
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has what the function is compiled for.
            Self::Avx512 => unsafe { avx512(sweep) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { avx2(sweep) },
            Self::Plain => here(sweep),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,fma")]
fn avx512(sweep: Sweep<'_>) {
    here(sweep);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(sweep: Sweep<'_>) {
    here(sweep);
}

#[inline(always)]
fn here(Sweep { viterbi, first, targets }: Sweep<'_>) {
    viterbi.sweep_here(first, targets);
}

#[cfg(test)]
mod tests {
    use super::super::level;
    use super::*;

    #[test]
    fn costs_and_paths_are_the_same_on_all() {
        for (bits, state) in [(1, 8), (1, 10), (2, 8), (2, 11), (3, 8), (3, 11), (4, 8), (4, 12)] {
            let targets: Vec<Target> = (0..40_u16)
                .map(|t| Target { x: f32::from(t * 37 % 29) / 9.0 - 1.5, s: 0.3 + f32::from(t % 7) / 7.0 })
                .collect();
            let found = Isa::ALL.into_iter().filter(|isa| isa.is_here()).map(|isa| {
                let mut viterbi = Viterbi::new(bits, state, 43, level);
                viterbi.start_anywhere();
                isa.run(Sweep { viterbi: &mut viterbi, first: 3, targets: &targets });
                let costs: Vec<u32> = (0..viterbi.classes()).map(|class| viterbi.cost(class).to_bits()).collect();
                let mut codes = vec![0; 40];
                let begin = viterbi.trace(viterbi.cheapest(), 3..43, &mut codes);
                (costs, codes, begin)
            });
            let found: Vec<_> = found.collect();
            assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{bits} {state}");
        }
    }
}
