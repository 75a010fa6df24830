//! NEON with the dot product of Armv8.2 (`sdot`): sixteen rows are four registers.
//!
//! No machine of this kind was at hand: it is compiled for `aarch64-unknown-linux-gnu` and tested under QEMU.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use half::{bf16, f16};
use quench_format::FloatKind;
use quench_format::tiles::{ROWS, scale};

use crate::simd::{Job, Simd};

/// All four registers, written once. A closure would not do: it is compiled without the instruction set around it.
macro_rules! all {
    ($quarter:ident => $value:expr) => {
        [
            {
                const $quarter: usize = 0;
                $value
            },
            {
                const $quarter: usize = 1;
                $value
            },
            {
                const $quarter: usize = 2;
                $value
            },
            {
                const $quarter: usize = 3;
                $value
            },
        ]
    };
}

/// The machine has NEON and the dot product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn detect() -> Option<Self> {
        (is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")).then_some(Self(()))
    }
}

#[target_feature(enable = "neon,dotprod")]
fn with_dot<J: Job>(simd: Neon, job: J) -> J::Output {
    job.run(simd)
}

// SAFETY of every block below: the intrinsics need the features that the token vouches for, and the ones that read or
// write memory get references to as many bytes as they touch.
impl Simd for Neon {
    type Codes = [uint8x16_t; 4];
    type Sums = [int32x4_t; 4];
    type Floats = [float32x4_t; 4];
    type Table = [f32; 16];

    const BIAS: i32 = 128;
    const HEIGHT: usize = 4;

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) -> J::Output {
        // SAFETY: `detect` saw these features.
        unsafe { with_dot(self, job) }
    }

    #[inline(always)]
    fn line(self, line: &[u32; ROWS]) -> [uint8x16_t; 4] {
        all!(Q => unsafe { vld1q_u8(line.as_ptr().add(4 * Q).cast()) })
    }

    #[inline(always)]
    fn field(self, codes: [uint8x16_t; 4], right: i32, mask: u8) -> [uint8x16_t; 4] {
        // A shift by a negative number is one to the right.
        all!(Q => unsafe { vandq_u8(vshlq_u8(codes[Q], vdupq_n_s8(-right as i8)), vdupq_n_u8(mask)) })
    }

    #[inline(always)]
    fn halves(self, low: [float32x4_t; 4], high: [float32x4_t; 4]) -> [uint8x16_t; 4] {
        all!(Q => unsafe {
            let half = vdupq_n_u32(0x8000);
            let low = vshrq_n_u32::<16>(vaddq_u32(vreinterpretq_u32_f32(low[Q]), half));
            let high = vandq_u32(vaddq_u32(vreinterpretq_u32_f32(high[Q]), half), vdupq_n_u32(0xffff_0000));
            vreinterpretq_u8_u32(vorrq_u32(low, high))
        })
    }

    #[inline(always)]
    fn store_codes(self, codes: [uint8x16_t; 4], to: &mut [u32; ROWS]) {
        all!(Q => unsafe { vst1q_u8(to.as_mut_ptr().add(4 * Q).cast(), codes[Q]) });
    }

    #[inline(always)]
    fn or(self, a: [uint8x16_t; 4], b: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        all!(Q => unsafe { vorrq_u8(a[Q], b[Q]) })
    }

    #[inline(always)]
    fn bytes(self, table: &[u8; 16]) -> [uint8x16_t; 4] {
        all!(_Q => unsafe { vld1q_u8(table.as_ptr()) })
    }

    #[inline(always)]
    fn lookup(self, table: [uint8x16_t; 4], codes: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        all!(Q => unsafe { vqtbl1q_u8(table[0], codes[Q]) })
    }

    #[inline(always)]
    fn sums(self, value: i32) -> [int32x4_t; 4] {
        all!(_Q => unsafe { vdupq_n_s32(value) })
    }

    #[inline(always)]
    fn dot(self, sums: [int32x4_t; 4], codes: [uint8x16_t; 4], x: i32) -> [int32x4_t; 4] {
        // Its intrinsic is not stable yet.
        all!(Q => unsafe {
            let mut sums = sums[Q];
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {codes:v}.16b, {x:v}.16b",
                sums = inout(vreg) sums,
                codes = in(vreg) codes[Q],
                x = in(vreg) vdupq_n_s32(x),
                options(pure, nomem, nostack),
            );
            sums
        })
    }

    #[inline(always)]
    fn dot_wide(self, sums: [int32x4_t; 4], codes: [uint8x16_t; 4], x: i32) -> [int32x4_t; 4] {
        self.dot(sums, all!(Q => unsafe { veorq_u8(codes[Q], vdupq_n_u8(0x80)) }), x)
    }

    #[inline(always)]
    fn to_floats(self, sums: [int32x4_t; 4]) -> [float32x4_t; 4] {
        all!(Q => unsafe { vcvtq_f32_s32(sums[Q]) })
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [float32x4_t; 4] {
        all!(_Q => unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32; ROWS]) -> [float32x4_t; 4] {
        all!(Q => unsafe { vld1q_f32(values.as_ptr().add(4 * Q)) })
    }

    #[inline(always)]
    fn f16s(self, values: &[f16; ROWS]) -> Self::Floats {
        self.load(&values.map(f16::to_f32))
    }

    #[inline(always)]
    fn bf16s(self, values: &[bf16; ROWS]) -> Self::Floats {
        self.load(&values.map(bf16::to_f32))
    }

    #[inline(always)]
    fn store(self, values: [float32x4_t; 4], to: &mut [f32; ROWS]) {
        all!(Q => unsafe { vst1q_f32(to.as_mut_ptr().add(4 * Q), values[Q]) });
    }

    #[inline(always)]
    fn add(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        all!(Q => unsafe { vaddq_f32(a[Q], b[Q]) })
    }

    #[inline(always)]
    fn sub(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        all!(Q => unsafe { vsubq_f32(a[Q], b[Q]) })
    }

    #[inline(always)]
    fn mul(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        all!(Q => unsafe { vmulq_f32(a[Q], b[Q]) })
    }

    #[inline(always)]
    fn mul_add(self, a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        all!(Q => unsafe { vfmaq_f32(c[Q], a[Q], b[Q]) })
    }

    #[inline(always)]
    fn scales(self, kind: FloatKind, words: &[u32]) -> [float32x4_t; 4] {
        self.load(&std::array::from_fn(|r| scale(kind, words, r)))
    }

    #[inline(always)]
    fn zeros(self, words: &[u32; 4]) -> [float32x4_t; 4] {
        self.load(&std::array::from_fn(|r| f32::from(words[r / 4].to_le_bytes()[r % 4])))
    }

    #[inline(always)]
    fn column(self, codes: [uint8x16_t; 4], e: usize) -> [float32x4_t; 4] {
        all!(Q => unsafe {
            let words = vshlq_u32(vreinterpretq_u32_u8(codes[Q]), vdupq_n_s32(-8 * e as i32));
            vcvtq_f32_u32(vandq_u32(words, vdupq_n_u32(0xff)))
        })
    }

    #[inline(always)]
    fn table(self, levels: &[f32; 16]) -> [f32; 16] {
        *levels
    }

    #[inline(always)]
    fn level(self, table: [f32; 16], codes: [uint8x16_t; 4], e: usize) -> [float32x4_t; 4] {
        let mut bytes = [0_u8; 64];
        all!(Q => unsafe { vst1q_u8(bytes.as_mut_ptr().add(16 * Q), codes[Q]) });
        self.load(&std::array::from_fn(|r| table[usize::from(bytes[4 * r + e] & 15)]))
    }

    #[inline(always)]
    fn gather(self, levels: &[f32; 256], codes: [uint8x16_t; 4], e: usize) -> [float32x4_t; 4] {
        let mut bytes = [0_u8; 64];
        all!(Q => unsafe { vst1q_u8(bytes.as_mut_ptr().add(16 * Q), codes[Q]) });
        self.load(&std::array::from_fn(|r| levels[usize::from(bytes[4 * r + e])]))
    }
}
