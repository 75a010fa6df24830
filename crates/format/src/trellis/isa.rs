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
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the machine has what the function is compiled for.
            return unsafe { avx512(sweep) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { avx2(sweep) };
        }
    }
    sweep.viterbi.sweep_here(sweep.first, sweep.targets);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,fma")]
fn avx512(sweep: Sweep<'_>) {
    sweep.viterbi.sweep_here(sweep.first, sweep.targets);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(sweep: Sweep<'_>) {
    sweep.viterbi.sweep_here(sweep.first, sweep.targets);
}
