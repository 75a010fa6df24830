//! AMX: a unit that multiplies matrices of bf16, 16 rows by 32 columns at a time.
//!
//! Rust has no stable intrinsics for it, so its instructions are assembled by hand.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

use quench_format::tiles::ROWS;

/// The machine has AMX with bf16, and the system lets this process use it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        static HAS: LazyLock<bool> = LazyLock::new(|| {
            const TILE: u32 = 1 << 24;
            const BF16: u32 = 1 << 22;
            // The maximal leaf is asked for first: beyond it the answer would be that of another leaf.
            let leaves = __cpuid_count(0, 0).eax;
            leaves >= 7 && __cpuid_count(7, 0).edx & (TILE | BF16) == TILE | BF16 && permitted()
        });
        HAS.then_some(Self(()))
    }

    /// Prepares the unit of this thread for [`Tiles::multiply`].
    pub(crate) fn tiles(self) -> Tiles {
        let config = Config { palette: 1, start: 0, reserved: [0; 14], bytes: [64; 16], rows: [16; 16] };
        let config = Config { bytes: first_eight(config.bytes), rows: first_eight(config.rows), ..config };
        // SAFETY: the token says that the unit is there and permitted; it reads the 64 bytes of the configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Tiles(())
    }
}

/// There are eight tiles; what is said of others must be zero.
fn first_eight<T: Copy + Default>(values: [T; 16]) -> [T; 16] {
    std::array::from_fn(|tile| if tile < 8 { values[tile] } else { T::default() })
}

/// Asks Linux for the registers, which are too large to be saved for everyone.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that touches no memory of ours.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") REQUEST, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What the unit's tiles hold: Intel's layout of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// The unit of this thread, prepared until this is dropped.
pub(crate) struct Tiles(());

/// Sixteen rows of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Block<T>(pub [[T; ROWS]; ROWS]);

impl Tiles {
    /// `sums[s][t][i, r] += Σ x[s][i, j] · w[t][r, j]` for two strips of sixteen rows and two tiles of the matrix.
    ///
    /// - `x`: 32 columns of every row of a strip, as pairs of bf16, for each chunk of columns
    /// - `w`: 16 pairs of columns for every row of a tile, for each chunk of columns
    ///
    /// # Panics
    ///
    /// If the operands differ in length.
    pub(crate) fn multiply(&self, x: [&[Block<u32>]; 2], w: [&[Block<u32>]; 2], sums: [[&mut Block<f32>; 2]; 2]) {
        let chunks = x[0].len();
        assert!(x[1].len() == chunks && w[0].len() == chunks && w[1].len() == chunks, "chunks of columns");
        assert!(chunks > 0, "no columns");
        let [[s00, s01], [s10, s11]] = sums;
        // SAFETY: `self` says that the unit is prepared for eight tiles of 16 rows of 64 bytes, the size of a block; it
        // reads `chunks` blocks of each operand and reads and writes the sums. No other code of this program uses its
        // registers.
        unsafe {
            asm!(
                "tileloadd tmm0, [{s00} + {stride}]",
                "tileloadd tmm1, [{s01} + {stride}]",
                "tileloadd tmm2, [{s10} + {stride}]",
                "tileloadd tmm3, [{s11} + {stride}]",
                "2:",
                "tileloadd tmm4, [{x0} + {stride}]",
                "tileloadd tmm6, [{w0} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 1024",
                "add {x1}, 1024",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {chunks}",
                "jnz 2b",
                "tilestored [{s00} + {stride}], tmm0",
                "tilestored [{s01} + {stride}], tmm1",
                "tilestored [{s10} + {stride}], tmm2",
                "tilestored [{s11} + {stride}], tmm3",
                s00 = in(reg) s00,
                s01 = in(reg) s01,
                s10 = in(reg) s10,
                s11 = in(reg) s11,
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                w0 = inout(reg) w[0].as_ptr() => _,
                w1 = inout(reg) w[1].as_ptr() => _,
                chunks = inout(reg) chunks => _,
                stride = in(reg) 64_usize,
                options(nostack),
            );
        }
    }
}

impl Tiles {
    /// [`Tiles::multiply`] for one strip.
    ///
    /// # Panics
    ///
    /// If the operands differ in length.
    pub(crate) fn multiply_one(&self, x: &[Block<u32>], w: [&[Block<u32>]; 2], sums: [&mut Block<f32>; 2]) {
        let chunks = x.len();
        assert!(w[0].len() == chunks && w[1].len() == chunks, "chunks of columns");
        assert!(chunks > 0, "no columns");
        let [s0, s1] = sums;
        // SAFETY: as in `multiply`, with the operands of one strip.
        unsafe {
            asm!(
                "tileloadd tmm0, [{s0} + {stride}]",
                "tileloadd tmm1, [{s1} + {stride}]",
                "2:",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{w0} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x}, 1024",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {chunks}",
                "jnz 2b",
                "tilestored [{s0} + {stride}], tmm0",
                "tilestored [{s1} + {stride}], tmm1",
                s0 = in(reg) s0,
                s1 = in(reg) s1,
                x = inout(reg) x.as_ptr() => _,
                w0 = inout(reg) w[0].as_ptr() => _,
                w1 = inout(reg) w[1].as_ptr() => _,
                chunks = inout(reg) chunks => _,
                stride = in(reg) 64_usize,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: leaves the unit as it was found.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
