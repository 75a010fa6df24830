//! AVX-512 with VNNI, and BF16 where it is there: sixteen rows are one register.

use std::arch::x86_64::*;

use half::{bf16, f16};
use quench_format::FloatKind;
use quench_format::tiles::ROWS;

use super::amx::Amx;
use crate::simd::{Job, Simd};

/// The machine has AVX-512 F, BW, DQ, VL and VNNI, and AVX2, FMA and F16C with them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512 {
    /// And BF16.
    bf16: bool,
    /// And a unit for matrices, if that is not to be left alone.
    amx: Option<Amx>,
}

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then(|| Self { bf16: is_x86_feature_detected!("avx512bf16"), amx: None })
    }

    /// With AMX.
    pub(crate) fn detect_amx() -> Option<Self> {
        let simd = Self::detect()?;
        Some(Self { amx: Some(Amx::detect()?), ..simd })
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn with_vnni<J: Job>(simd: Avx512, job: J) -> J::Output {
    job.run(simd)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
fn with_bf16<J: Job>(simd: Avx512, job: J) -> J::Output {
    job.run(simd)
}

// SAFETY of every block below: the intrinsics need the features that the token vouches for, and the ones that read or
// write memory get references to as many bytes as they touch (or, for prefetch, touch none).
impl Simd for Avx512 {
    type Codes = __m512i;
    type Sums = __m512i;
    type Floats = __m512;
    type Table = __m512;

    const BIAS: i32 = 0;
    const HEIGHT: usize = 12;
    const TILES: usize = 2;

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) -> J::Output {
        // SAFETY: `detect` saw these features.
        unsafe { with_vnni(self, job) }
    }

    #[inline(always)]
    fn vectorize_pairs<J: Job>(self, job: J) -> Result<J::Output, J> {
        match self.bf16 {
            // SAFETY: `detect` saw these features, BF16 included.
            true => Ok(unsafe { with_bf16(self, job) }),
            false => Err(job),
        }
    }

    #[inline(always)]
    fn matrix(self) -> Option<Amx> {
        self.amx
    }

    #[inline(always)]
    fn line(self, line: &[u32; ROWS]) -> __m512i {
        unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
    }

    #[inline(always)]
    fn field(self, codes: __m512i, right: i32, mask: u8) -> __m512i {
        // The shift moves 16 bits at a time; what crosses between bytes falls outside the mask.
        unsafe {
            let shifted = match right {
                -7 => _mm512_slli_epi16::<7>(codes),
                -6 => _mm512_slli_epi16::<6>(codes),
                -5 => _mm512_slli_epi16::<5>(codes),
                -4 => _mm512_slli_epi16::<4>(codes),
                -3 => _mm512_slli_epi16::<3>(codes),
                -2 => _mm512_slli_epi16::<2>(codes),
                -1 => _mm512_slli_epi16::<1>(codes),
                1 => _mm512_srli_epi16::<1>(codes),
                2 => _mm512_srli_epi16::<2>(codes),
                3 => _mm512_srli_epi16::<3>(codes),
                4 => _mm512_srli_epi16::<4>(codes),
                5 => _mm512_srli_epi16::<5>(codes),
                6 => _mm512_srli_epi16::<6>(codes),
                7 => _mm512_srli_epi16::<7>(codes),
                _ => codes,
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    fn halves(self, low: __m512, high: __m512) -> __m512i {
        unsafe {
            let half = _mm512_set1_epi32(0x8000);
            let low = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_castps_si512(low), half));
            let high = _mm512_add_epi32(_mm512_castps_si512(high), half);
            _mm512_mask_blend_epi16(0xaaaa_aaaa, low, high)
        }
    }

    #[inline(always)]
    fn store_codes(self, codes: __m512i, to: &mut [u32; ROWS]) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), codes) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn bytes(self, table: &[u8; 16]) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())) }
    }

    #[inline(always)]
    fn lookup(self, table: __m512i, codes: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(table, codes) }
    }

    #[inline(always)]
    fn sums(self, value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, codes: __m512i, x: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(x)) }
    }

    #[inline(always)]
    fn dot_wide(self, sums: __m512i, codes: __m512i, x: i32) -> __m512i {
        self.dot(sums, codes, x)
    }

    #[inline(always)]
    fn to_floats(self, sums: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; ROWS]) -> __m512 {
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn f16s(self, values: &[f16; ROWS]) -> __m512 {
        unsafe { f16s(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn bf16s(self, values: &[bf16; ROWS]) -> __m512 {
        unsafe { bf16s(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, values: __m512, to: &mut [f32; ROWS]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn scales(self, kind: FloatKind, words: &[u32]) -> __m512 {
        unsafe {
            match kind {
                FloatKind::F32 => {
                    let words: &[u32; 16] = words.first_chunk().expect("16 words");
                    _mm512_loadu_ps(words.as_ptr().cast())
                }
                FloatKind::F16 => {
                    let words: &[u32; 8] = words.first_chunk().expect("8 words");
                    f16s(words.as_ptr().cast())
                }
                FloatKind::BF16 => {
                    let words: &[u32; 8] = words.first_chunk().expect("8 words");
                    bf16s(words.as_ptr().cast())
                }
            }
        }
    }

    #[inline(always)]
    fn zeros(self, words: &[u32; 4]) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(words.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn column(self, codes: __m512i, e: usize) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_and_si512(byte(codes, e), _mm512_set1_epi32(0xff))) }
    }

    #[inline(always)]
    fn table(self, levels: &[f32; 16]) -> __m512 {
        self.load(levels)
    }

    #[inline(always)]
    fn level(self, table: __m512, codes: __m512i, e: usize) -> __m512 {
        // The permutation reads the low four bits of each index: bits of the other columns do no harm.
        unsafe { _mm512_permutexvar_ps(byte(codes, e), table) }
    }

    #[inline(always)]
    fn gather(self, levels: &[f32; 256], codes: __m512i, e: usize) -> __m512 {
        // A byte cannot index beyond 256.
        unsafe {
            let index = _mm512_and_si512(byte(codes, e), _mm512_set1_epi32(0xff));
            _mm512_i32gather_ps::<4>(index, levels.as_ptr().cast())
        }
    }

    #[inline(always)]
    fn pair_table(self, levels: &[u16; 32]) -> __m512i {
        unsafe { _mm512_loadu_si512(levels.as_ptr().cast()) }
    }

    #[inline(always)]
    fn pairs(self, table: __m512i, codes: __m512i, odd: bool) -> __m512i {
        // As 16-bit lanes the codes are columns 0 and 2 (1 and 3 after the shift); of each index five bits are read.
        unsafe {
            let index = if odd { _mm512_srli_epi16::<8>(codes) } else { codes };
            _mm512_permutexvar_epi16(index, table)
        }
    }

    #[inline(always)]
    fn dot_pairs(self, sums: __m512, w: __m512i, x: u32) -> __m512 {
        // SAFETY of the transmutes: 64 bytes either way, and any bits are bf16 numbers.
        unsafe {
            let x = _mm512_set1_epi32(x.cast_signed());
            _mm512_dpbf16_ps(
                sums,
                std::mem::transmute::<__m512i, __m512bh>(w),
                std::mem::transmute::<__m512i, __m512bh>(x),
            )
        }
    }

    #[inline(always)]
    fn prefetch(self, line: *const u32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
}

/// Sixteen halves as floats.
///
/// # Safety
///
/// 32 bytes are read; for methods of the token.
#[inline(always)]
unsafe fn f16s(halves: *const __m256i) -> __m512 {
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves)) }
}

/// As [`f16s`].
#[inline(always)]
unsafe fn bf16s(halves: *const __m256i) -> __m512 {
    unsafe {
        let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(halves));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
    }
}

/// Byte `e` of every word in its low bits; the other bytes are above it.
#[inline(always)]
fn byte(codes: __m512i, e: usize) -> __m512i {
    // SAFETY: only called by the methods of the token.
    unsafe {
        match e {
            0 => codes,
            1 => _mm512_srli_epi32::<8>(codes),
            2 => _mm512_srli_epi32::<16>(codes),
            _ => _mm512_srli_epi32::<24>(codes),
        }
    }
}
