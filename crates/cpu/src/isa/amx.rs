//! AMX: a unit that multiplies matrices of bytes, 16 rows by 64 columns at a time.
//!
//! Rust has no stable intrinsics for it, so its instructions are assembled by hand.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

use quench_format::tiles::ROWS;

/// The machine has AMX with 8-bit integers, and the system lets this process use it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

/// Words of a row of the input: 64 columns.
pub(crate) const WORDS: usize = 16;

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        static HAS: LazyLock<bool> = LazyLock::new(|| {
            const TILE: u32 = 1 << 24;
            const INT8: u32 = 1 << 25;
            // The maximal leaf is asked for first: beyond it the answer would be that of another leaf.
            let leaves = __cpuid_count(0, 0).eax;
            leaves >= 7 && __cpuid_count(7, 0).edx & (TILE | INT8) == TILE | INT8 && permitted()
        });
        HAS.then_some(Self(()))
    }

    /// Prepares the unit of this thread for [`Tiles::multiply`] with `rows` rows and `steps` steps (8 or 16).
    ///
    /// # Panics
    ///
    /// If the unit has no such tiles.
    pub(crate) fn tiles(self, rows: usize, steps: usize) -> Tiles {
        assert!((1..=16).contains(&rows) && (1..=16).contains(&steps), "tiles of {rows} rows and {steps} steps");
        let mut config = Config { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        // Two of sums, one of the input, two of the matrix.
        for (tile, rows, bytes) in [(0, rows, 64), (1, rows, 64), (2, rows, 4 * steps), (3, steps, 64), (4, steps, 64)]
        {
            (config.rows[tile], config.bytes[tile]) = (rows as u8, bytes as u16);
        }
        // SAFETY: the token says that the unit is there and permitted; it reads the 64 bytes of the configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Tiles { rows, steps }
    }
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
pub(crate) struct Tiles {
    rows: usize,
    steps: usize,
}

impl Tiles {
    /// `to[t][i][r] = Σ x[i, j] · w[t][r, j]` over as many columns as there are codes; signed bytes, exact sums.
    ///
    /// - `x`: 64 columns of every row beside each other, `[columns / 64, rows, 16 words]`
    /// - `start`: the step of `x` at which to begin
    /// - `w`: lines of two tiles of the matrix, `[steps, 16 words]` each
    ///
    /// # Panics
    ///
    /// If the operands are too short, or not whole tiles.
    #[inline(always)]
    pub(crate) fn multiply<const M: usize>(
        &self,
        x: &[i32],
        start: usize,
        w: [&[[u32; ROWS]]; 2],
        to: &mut [[[i32; ROWS]; M]; 2],
    ) {
        let lines = w[0].len();
        // 16 steps are one row of 64 columns, 8 are half of one: no tile goes beyond the row in which it starts.
        assert!(self.rows == M && lines == w[1].len() && lines % self.steps == 0 && start % self.steps == 0);
        assert!(x.len() >= (start + lines).div_ceil(WORDS) * WORDS * M, "columns of the input");
        // SAFETY: `self` says that the unit is prepared for these tiles; it reads within the operands, which the
        // assertions have measured, and writes `to`. No other code of this program uses its registers.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", options(nomem, nostack));
            let mut line = 0;
            while line < lines {
                let step = start + line;
                let x = x.as_ptr().add(step / WORDS * WORDS * M + step % WORDS);
                asm!(
                    "tileloadd tmm2, [{x} + {stride}]",
                    "tileloadd tmm3, [{w0} + {stride}]",
                    "tdpbssd tmm0, tmm2, tmm3",
                    "tileloadd tmm4, [{w1} + {stride}]",
                    "tdpbssd tmm1, tmm2, tmm4",
                    x = in(reg) x,
                    w0 = in(reg) w[0].as_ptr().add(line),
                    w1 = in(reg) w[1].as_ptr().add(line),
                    stride = in(reg) 64_usize,
                    options(nostack, readonly),
                );
                line += self.steps;
            }
            asm!(
                "tilestored [{to} + {stride}], tmm0",
                "tilestored [{next} + {stride}], tmm1",
                to = in(reg) to[0].as_mut_ptr(),
                next = in(reg) to[1].as_mut_ptr(),
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
