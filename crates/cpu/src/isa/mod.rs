//! The instruction sets, and the choice between them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(not(target_arch = "x86_64"))]
mod no_matrix;
pub(crate) mod portable;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use crate::simd::Job;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{Amx as Matrix, Block, Tiles as MatrixTiles};
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use no_matrix::{Block, Matrix, MatrixTiles};

/// An instruction set that this machine has; the best one unless `QUENCH_ISA` names another.
///
/// Spelled `amx` (which is `avx512` with the matrix unit), `avx512`, `avx-vnni`, `avx2`, `neon`, `portable`. Every product gives the same integers on all of them;
/// floats are summed in the same order, but `portable` rounds twice where the others fuse.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Amx(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    Portable,
}

impl Isa {
    /// What `QUENCH_ISA` names, or the best that the machine has; looked up once.
    ///
    /// # Panics
    ///
    /// As [`Isa::from_environment`] refuses.
    pub fn chosen() -> Self {
        static CHOSEN: LazyLock<Isa> =
            LazyLock::new(|| Isa::from_environment().unwrap_or_else(|error| panic!("{error}")));
        *CHOSEN
    }

    /// What `QUENCH_ISA` names, or the best that the machine has.
    ///
    /// # Errors
    ///
    /// If `QUENCH_ISA` names none, or one that this machine lacks; the message lists those it has.
    pub fn from_environment() -> Result<Self, String> {
        match std::env::var("QUENCH_ISA") {
            Ok(name) => name.parse().map_err(|error| format!("QUENCH_ISA: {error}")),
            Err(_) => Ok(Self::all().swap_remove(0)),
        }
    }

    /// Every instruction set that this machine has, the fastest first.
    pub fn all() -> Vec<Self> {
        let kinds = [
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::detect_amx().map(Kind::Amx),
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::detect().map(Kind::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::<true>::detect().map(Kind::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::<false>::detect().map(Kind::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(Kind::Neon),
            Some(Kind::Portable),
        ];
        kinds.into_iter().flatten().map(Self).collect()
    }

    /// Runs a job for this instruction set, not yet compiled for it: jobs within call [`Simd::vectorize`].
    pub(crate) fn run<J: Job>(self, job: J) -> J::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(simd) | Kind::Avx512(simd) => job.run(simd),
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni(simd) => job.run(simd),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(simd) => job.run(simd),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(simd) => job.run(simd),
            Kind::Portable => job.run(portable::Portable),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(_) => "amx",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "neon",
            Kind::Portable => "portable",
        })
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::all();
        all.iter().find(|isa| isa.to_string() == name).copied().ok_or_else(|| {
            let names: Vec<_> = all.iter().map(Self::to_string).collect();
            format!("this machine has no instruction set '{name}'; it has {}", names.join(", "))
        })
    }
}
