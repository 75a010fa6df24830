//! What this machine can do at most: bytes read a second, and multiplications of each kind.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// A buffer larger than the caches, to be read from end to end.
pub struct Stream {
    lines: Vec<Line>,
    threads: usize,
}

impl Stream {
    /// Twice the last cache, from 256 MB to 1 GB.
    pub fn new(threads: usize) -> Self {
        let bytes = (2 * last_cache()).clamp(256 << 20, 1 << 30);
        Self { lines: vec![Line([1; 8]); bytes / size_of::<Line>()], threads }
    }

    /// How much is read.
    pub fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// Reads it all on all threads at once, and so drives everything else out of the caches. Bytes a second: threads times
    /// the median speed of a chunk, which takes less time than a product, so that an interruption by another process
    /// counts no more here than there.
    pub fn read(&self) -> f64 {
        const CHUNK: usize = (1 << 20) / size_of::<Line>();
        let next = AtomicUsize::new(0);
        let chunks = self.lines.as_chunks::<CHUNK>().0;
        let read = || {
            let mut speeds = Vec::with_capacity(chunks.len());
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let start = Instant::now();
                black_box(fold(chunk));
                speeds.push(size_of_val(chunk) as f64 / start.elapsed().as_secs_f64());
            }
            speeds
        };
        let speeds = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(read)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("reading does not panic")).collect()
        });
        self.threads as f64 * median(speeds)
    }
}

/// The middle one.
///
/// # Panics
///
/// If there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let [low, high] = [(values.len() - 1) / 2, values.len() / 2];
    (values[low] + values[high]) / 2.0
}

/// All words combined, so that each must be read.
fn fold(lines: &[Line]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was detected.
        return unsafe { x86::fold(lines) };
    }
    let mut sums = [0; 8];
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line.0) {
            *sum ^= word;
        }
    }
    sums.into_iter().fold(0, |a, b| a ^ b)
}

/// Bytes of the last level of cache, 0 if it is not told.
pub fn last_cache() -> usize {
    let size = |index| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"));
    let kilobytes = |text: String| text.trim().strip_suffix('K')?.parse::<usize>().ok();
    (2..5).filter_map(|index| kilobytes(size(index).ok()?)).max().unwrap_or(0) << 10
}

/// A kind of multiplication and how many operations a second it gets, an addition and a multiplication counted as two.
pub struct Peak {
    /// The instruction.
    pub name: &'static str,
    /// Operations a second, on all threads.
    pub ops: f64,
}

/// The peaks of this CPU; none where nobody wrote the loop.
pub fn peaks(threads: usize) -> Vec<Peak> {
    #[cfg(target_arch = "x86_64")]
    return x86::peaks(threads);
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::ffi::c_long;

    use super::*;

    /// # Safety
    ///
    /// The CPU has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn fold(lines: &[Line]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        let (fours, rest) = lines.as_chunks::<4>();
        for lines in fours {
            for (sum, line) in sums.iter_mut().zip(lines) {
                // SAFETY: a line is 64 bytes, aligned to 64.
                *sum = _mm512_xor_si512(*sum, unsafe { _mm512_load_si512((&raw const line.0).cast()) });
            }
        }
        let [a, b, c, d] = sums;
        let sum = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
        let rest = rest.iter().flat_map(|line| line.0).fold(0, |a, b| a ^ b);
        _mm512_reduce_add_epi64(sum).cast_unsigned() ^ rest
    }

    /// The best of many short tries on each thread, while all others try too.
    fn peak(name: &'static str, threads: usize, ops: usize, body: unsafe fn(usize)) -> Peak {
        const TURNS: usize = 20_000;
        let best = || {
            let once = |_| {
                let start = Instant::now();
                // SAFETY: `peaks` asks for what was detected only.
                unsafe { body(black_box(TURNS)) };
                start.elapsed().as_secs_f64()
            };
            (TURNS * ops) as f64 / (0..50).map(once).fold(f64::INFINITY, f64::min)
        };
        let ops = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(best)).collect();
            threads.into_iter().map(|thread| thread.join().expect("arithmetic does not panic")).sum()
        });
        Peak { name, ops }
    }

    pub fn peaks(threads: usize) -> Vec<Peak> {
        let mut found = Vec::new();
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push(peak("f32 FMA, 256 bits", threads, ACCUMULATORS * 16, fma_256));
        }
        if is_x86_feature_detected!("avx512f") {
            found.push(peak("f32 FMA, 512 bits", threads, ACCUMULATORS * 32, fma_512));
        }
        if is_x86_feature_detected!("avx512bf16") {
            found.push(peak("bf16 vdpbf16ps", threads, ACCUMULATORS * 64, dot_bf16));
        }
        if is_x86_feature_detected!("avx512vnni") {
            found.push(peak("int8 vpdpbusd", threads, ACCUMULATORS * 128, dot_int8));
        }
        if tiles_allowed() {
            found.push(peak("bf16 tdpbf16ps (AMX)", threads, TILES * 16 * 16 * 32 * 2, tiles_bf16));
            found.push(peak("int8 tdpbssd (AMX)", threads, TILES * 16 * 16 * 64 * 2, tiles_int8));
        }
        found
    }

    // `for` and not `map`: a closure would be called through code that was compiled without the feature.

    /// Enough to hide the latency of an instruction.
    const ACCUMULATORS: usize = 12;

    #[target_feature(enable = "avx2,fma")]
    fn fma_256(turns: usize) {
        let (x, y) = (_mm256_set1_ps(black_box(1.0)), _mm256_set1_ps(black_box(1e-9)));
        let mut sums = [y; ACCUMULATORS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512(turns: usize) {
        let (x, y) = (_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(1e-9)));
        let mut sums = [y; ACCUMULATORS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot_bf16(turns: usize) {
        let x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(1.0));
        let mut sums = [_mm512_setzero_ps(); ACCUMULATORS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, x);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot_int8(turns: usize) {
        let x = _mm512_set1_epi8(black_box(1));
        let mut sums = [_mm512_setzero_si512(); ACCUMULATORS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, x);
            }
        }
        black_box(sums);
    }

    /// Tiles that take sums; two more are multiplied.
    const TILES: usize = 4;

    /// Whether the CPU multiplies tiles and Linux lets us.
    fn tiles_allowed() -> bool {
        unsafe extern "C" {
            fn syscall(number: c_long, ...) -> c_long;
        }
        const ARCH_PRCTL: c_long = 158;
        const REQUEST_PERMISSION: c_long = 0x1023;
        const TILE_DATA: c_long = 18;
        // amx-bf16, amx-tile and amx-int8; `is_x86_feature_detected` does not know them on stable Rust.
        let there = __cpuid_count(7, 0).edx >> 22 & 0b1101 == 0b1101;
        // SAFETY: a request that changes nothing but what this process may do.
        cfg!(target_os = "linux") && there && unsafe { syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) } == 0
    }

    /// What `ldtilecfg` loads: all tiles 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct TileConfig {
        palette: u8,
        start: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl TileConfig {
        fn full() -> Self {
            let tile = |i| i < TILES + 2;
            Self {
                palette: 1,
                start: 0,
                reserved: [0; 14],
                bytes: std::array::from_fn(|i| if tile(i) { 64 } else { 0 }),
                rows: std::array::from_fn(|i| if tile(i) { 16 } else { 0 }),
            }
        }
    }

    /// A loop over `TILES` products of tiles 4 and 5, which are zero.
    macro_rules! tiles {
        ($name:ident, $instruction:literal) => {
            /// # Safety
            ///
            /// [`tiles_allowed`] said yes.
            unsafe fn $name(turns: usize) {
                // SAFETY: the configuration is 64 valid bytes, no tile is touched beyond it, and the compiler keeps
                // nothing in tiles.
                unsafe {
                    asm!(
                        "ldtilecfg [{config}]",
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2",
                        "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
                        "2:",
                        concat!($instruction, " tmm0, tmm4, tmm5"),
                        concat!($instruction, " tmm1, tmm4, tmm5"),
                        concat!($instruction, " tmm2, tmm4, tmm5"),
                        concat!($instruction, " tmm3, tmm4, tmm5"),
                        "dec {turns}",
                        "jnz 2b",
                        "tilerelease",
                        config = in(reg) &TileConfig::full(),
                        turns = inout(reg) turns.max(1) => _,
                        options(nostack),
                    );
                }
            }
        };
    }

    tiles!(tiles_bf16, "tdpbf16ps");
    tiles!(tiles_int8, "tdpbssd");
}
