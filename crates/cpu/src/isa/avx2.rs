//! AVX2 with FMA and F16C, and VNNI in its 256-bit form where it is there: sixteen rows are two registers.

use std::arch::x86_64::*;

use half::{bf16, f16};
use quench_format::FloatKind;
use quench_format::tiles::ROWS;

use crate::simd::{Job, Simd};

/// Both registers, written once. A closure would not do: it is compiled without the instruction set around it.
macro_rules! both {
    ($half:ident => $value:expr) => {
        [
            {
                const $half: usize = 0;
                $value
            },
            {
                const $half: usize = 1;
                $value
            },
        ]
    };
}

/// The machine has AVX2, FMA and F16C; with `VNNI`, AVX-VNNI too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2<const VNNI: bool>(());

impl Avx2<false> {
    pub(crate) fn detect() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

impl Avx2<true> {
    pub(crate) fn detect() -> Option<Self> {
        Avx2::<false>::detect().filter(|_| is_x86_feature_detected!("avxvnni")).map(|_| Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn plain<J: Job, const VNNI: bool>(simd: Avx2<VNNI>, job: J) -> J::Output {
    job.run(simd)
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn with_vnni<J: Job, const VNNI: bool>(simd: Avx2<VNNI>, job: J) -> J::Output {
    job.run(simd)
}

// SAFETY of every block below: the intrinsics need the features that the token vouches for, and the ones that read or
// write memory get references to as many bytes as they touch.
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type Codes = [__m256i; 2];
    type Sums = [__m256i; 2];
    type Floats = [__m256; 2];
    type Table = [__m256; 2];

    const BIAS: i32 = if VNNI { 0 } else { 128 };
    const HEIGHT: usize = 4;

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) -> J::Output {
        // SAFETY: `detect` saw these features.
        unsafe { if VNNI { with_vnni(self, job) } else { plain(self, job) } }
    }

    #[inline(always)]
    fn line(self, line: &[u32; ROWS]) -> [__m256i; 2] {
        both!(H => unsafe { _mm256_loadu_si256(line.as_ptr().add(8 * H).cast()) })
    }

    #[inline(always)]
    fn field(self, codes: [__m256i; 2], right: i32, mask: u8) -> [__m256i; 2] {
        // The shift moves 16 bits at a time; what crosses between bytes falls outside the mask.
        both!(H => unsafe {
            let codes = codes[H];
            let shifted = match right {
                -7 => _mm256_slli_epi16::<7>(codes),
                -6 => _mm256_slli_epi16::<6>(codes),
                -5 => _mm256_slli_epi16::<5>(codes),
                -4 => _mm256_slli_epi16::<4>(codes),
                -3 => _mm256_slli_epi16::<3>(codes),
                -2 => _mm256_slli_epi16::<2>(codes),
                -1 => _mm256_slli_epi16::<1>(codes),
                1 => _mm256_srli_epi16::<1>(codes),
                2 => _mm256_srli_epi16::<2>(codes),
                3 => _mm256_srli_epi16::<3>(codes),
                4 => _mm256_srli_epi16::<4>(codes),
                5 => _mm256_srli_epi16::<5>(codes),
                6 => _mm256_srli_epi16::<6>(codes),
                7 => _mm256_srli_epi16::<7>(codes),
                _ => codes,
            };
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask.cast_signed()))
        })
    }

    #[inline(always)]
    fn halves(self, low: [__m256; 2], high: [__m256; 2]) -> [__m256i; 2] {
        both!(H => unsafe {
            let half = _mm256_set1_epi32(0x8000);
            let low = _mm256_srli_epi32::<16>(_mm256_add_epi32(_mm256_castps_si256(low[H]), half));
            _mm256_blend_epi16::<0xaa>(low, _mm256_add_epi32(_mm256_castps_si256(high[H]), half))
        })
    }

    #[inline(always)]
    fn store_codes(self, codes: [__m256i; 2], to: &mut [u32; ROWS]) {
        both!(H => unsafe { _mm256_storeu_si256(to.as_mut_ptr().add(8 * H).cast(), codes[H]) });
    }

    #[inline(always)]
    fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn bytes(self, table: &[u8; 16]) -> [__m256i; 2] {
        let both = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        [both, both]
    }

    #[inline(always)]
    fn lookup(self, table: [__m256i; 2], codes: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_shuffle_epi8(table[0], codes[0]), _mm256_shuffle_epi8(table[1], codes[1])] }
    }

    #[inline(always)]
    fn sums(self, value: i32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    fn dot(self, sums: [__m256i; 2], codes: [__m256i; 2], x: i32) -> [__m256i; 2] {
        both!(H => unsafe {
            let x = _mm256_set1_epi32(x);
            if VNNI {
                _mm256_dpbusd_avx_epi32(sums[H], codes[H], x)
            } else {
                // Two products of at most 127 · 127 fit in 16 bits.
                let pairs = _mm256_maddubs_epi16(codes[H], x);
                _mm256_add_epi32(sums[H], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        })
    }

    #[inline(always)]
    fn dots<const BITS: usize>(self, mut sums: [__m256i; 2], codes: [[__m256i; 2]; 4], x: [i32; 4]) -> [__m256i; 2] {
        // Of 5 bits, four times two products of at most 31 · 127 still fit in 16 bits.
        if VNNI || BITS > 5 {
            for s in 0..4 {
                sums = self.dot(sums, codes[s], x[s]);
            }
            return sums;
        }
        both!(H => unsafe {
            let mut pairs = _mm256_maddubs_epi16(codes[0][H], _mm256_set1_epi32(x[0]));
            for s in 1..4 {
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes[s][H], _mm256_set1_epi32(x[s])));
            }
            _mm256_add_epi32(sums[H], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    #[inline(always)]
    fn dot_wide(self, sums: [__m256i; 2], codes: [__m256i; 2], x: i32) -> [__m256i; 2] {
        if VNNI {
            return self.dot(sums, codes, x);
        }
        both!(H => unsafe {
            // |w| · (x with the sign of w): 128 · 127 twice still fits in 16 bits, where 255 · 127 would not.
            let w = _mm256_xor_si256(codes[H], _mm256_set1_epi8(-128));
            let x = _mm256_sign_epi8(_mm256_set1_epi32(x), w);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), x);
            _mm256_add_epi32(sums[H], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    #[inline(always)]
    fn to_floats(self, sums: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])] }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; ROWS]) -> [__m256; 2] {
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn f16s(self, values: &[f16; ROWS]) -> [__m256; 2] {
        unsafe { f16s(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn bf16s(self, values: &[bf16; ROWS]) -> [__m256; 2] {
        unsafe { bf16s(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, values: [__m256; 2], to: &mut [f32; ROWS]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), values[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), values[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn scales(self, kind: FloatKind, words: &[u32]) -> [__m256; 2] {
        unsafe {
            match kind {
                FloatKind::F32 => {
                    let words: &[u32; 16] = words.first_chunk().expect("16 words");
                    [_mm256_loadu_ps(words.as_ptr().cast()), _mm256_loadu_ps(words.as_ptr().add(8).cast())]
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
    fn zeros(self, words: &[u32; 4]) -> [__m256; 2] {
        both!(H => unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(words.as_ptr().add(2 * H).cast())))
        })
    }

    #[inline(always)]
    fn column(self, codes: [__m256i; 2], e: usize) -> [__m256; 2] {
        both!(H => unsafe { _mm256_cvtepi32_ps(_mm256_and_si256(byte(codes[H], e), _mm256_set1_epi32(0xff))) })
    }

    #[inline(always)]
    fn table(self, levels: &[f32; 16]) -> [__m256; 2] {
        self.load(levels)
    }

    #[inline(always)]
    fn level(self, table: [__m256; 2], codes: [__m256i; 2], e: usize) -> [__m256; 2] {
        both!(H => unsafe {
            // Each permutation reads three bits of the index; the fourth, moved to the sign, chooses between them.
            let index = byte(codes[H], e);
            let (low, high) = (_mm256_permutevar8x32_ps(table[0], index), _mm256_permutevar8x32_ps(table[1], index));
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
        })
    }

    #[inline(always)]
    fn gather(self, levels: &[f32; 256], codes: [__m256i; 2], e: usize) -> [__m256; 2] {
        // A byte cannot index beyond 256.
        both!(H => unsafe {
            let index = _mm256_and_si256(byte(codes[H], e), _mm256_set1_epi32(0xff));
            _mm256_i32gather_ps::<4>(levels.as_ptr(), index)
        })
    }

    #[inline(always)]
    fn prefetch(self, line: *const u32) {
        // SAFETY: a prefetch touches no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
}

/// Byte `e` of every word in its low bits; the other bytes are above it.
#[inline(always)]
fn byte(codes: __m256i, e: usize) -> __m256i {
    // SAFETY: only called by the methods of the token.
    unsafe {
        match e {
            0 => codes,
            1 => _mm256_srli_epi32::<8>(codes),
            2 => _mm256_srli_epi32::<16>(codes),
            _ => _mm256_srli_epi32::<24>(codes),
        }
    }
}

/// Sixteen halves as floats.
///
/// # Safety
///
/// 32 bytes are read; for methods of the token.
#[inline(always)]
unsafe fn f16s(halves: *const __m128i) -> [__m256; 2] {
    unsafe { both!(H => _mm256_cvtph_ps(_mm_loadu_si128(halves.add(H)))) }
}

/// As [`f16s`].
#[inline(always)]
unsafe fn bf16s(halves: *const __m128i) -> [__m256; 2] {
    unsafe {
        both!(H => {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves.add(H)));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        })
    }
}
