//! Plain Rust: what every machine can run, what Miri checks, and what the other instruction sets are compared with.

use half::{bf16, f16};
use quench_format::FloatKind;
use quench_format::tiles::{ROWS, scale};

use crate::simd::{Job, Simd};

/// No instruction set in particular.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Simd for Portable {
    type Codes = [u32; ROWS];
    type Sums = [i32; ROWS];
    type Floats = [f32; ROWS];
    type Table = [f32; 16];

    const BIAS: i32 = 0;
    const HEIGHT: usize = 1;

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) -> J::Output {
        job.run(self)
    }

    #[inline(always)]
    fn line(self, line: &[u32; ROWS]) -> [u32; ROWS] {
        *line
    }

    #[inline(always)]
    fn field(self, codes: [u32; ROWS], right: i32, mask: u8) -> [u32; ROWS] {
        let mask = u32::from(mask) * 0x0101_0101;
        codes.map(|word| if right < 0 { word << -right } else { word >> right } & mask)
    }

    #[inline(always)]
    fn halves(self, low: [f32; ROWS], high: [f32; ROWS]) -> [u32; ROWS] {
        let rounded = |x: f32| x.to_bits().wrapping_add(0x8000);
        std::array::from_fn(|r| rounded(low[r]) >> 16 | rounded(high[r]) & 0xffff_0000)
    }

    #[inline(always)]
    fn store_codes(self, codes: [u32; ROWS], to: &mut [u32; ROWS]) {
        *to = codes;
    }

    #[inline(always)]
    fn or(self, a: [u32; ROWS], b: [u32; ROWS]) -> [u32; ROWS] {
        std::array::from_fn(|r| a[r] | b[r])
    }

    #[inline(always)]
    fn bytes(self, table: &[u8; 16]) -> [u32; ROWS] {
        table.map(u32::from)
    }

    #[inline(always)]
    fn lookup(self, table: [u32; ROWS], codes: [u32; ROWS]) -> [u32; ROWS] {
        codes.map(|word| {
            let byte = |e: u32| table[(word >> (8 * e) & 15) as usize] << (8 * e);
            byte(0) | byte(1) | byte(2) | byte(3)
        })
    }

    #[inline(always)]
    fn sums(self, value: i32) -> [i32; ROWS] {
        [value; ROWS]
    }

    #[inline(always)]
    fn dot(self, sums: [i32; ROWS], codes: [u32; ROWS], x: i32) -> [i32; ROWS] {
        let x = x.to_le_bytes().map(|x| i32::from(x.cast_signed()));
        std::array::from_fn(|r| {
            let u = codes[r].to_le_bytes().map(i32::from);
            sums[r] + u[0] * x[0] + u[1] * x[1] + u[2] * x[2] + u[3] * x[3]
        })
    }

    #[inline(always)]
    fn dot_wide(self, sums: [i32; ROWS], codes: [u32; ROWS], x: i32) -> [i32; ROWS] {
        self.dot(sums, codes, x)
    }

    #[inline(always)]
    fn to_floats(self, sums: [i32; ROWS]) -> [f32; ROWS] {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; ROWS] {
        [value; ROWS]
    }

    #[inline(always)]
    fn load(self, values: &[f32; ROWS]) -> [f32; ROWS] {
        *values
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
    fn store(self, values: [f32; ROWS], to: &mut [f32; ROWS]) {
        *to = values;
    }

    #[inline(always)]
    fn add(self, a: [f32; ROWS], b: [f32; ROWS]) -> [f32; ROWS] {
        std::array::from_fn(|r| a[r] + b[r])
    }

    #[inline(always)]
    fn sub(self, a: [f32; ROWS], b: [f32; ROWS]) -> [f32; ROWS] {
        std::array::from_fn(|r| a[r] - b[r])
    }

    #[inline(always)]
    fn mul(self, a: [f32; ROWS], b: [f32; ROWS]) -> [f32; ROWS] {
        std::array::from_fn(|r| a[r] * b[r])
    }

    // Two roundings: a fused one is a library call where the machine has no such instruction.
    #[inline(always)]
    fn mul_add(self, a: [f32; ROWS], b: [f32; ROWS], c: [f32; ROWS]) -> [f32; ROWS] {
        std::array::from_fn(|r| a[r] * b[r] + c[r])
    }

    #[inline(always)]
    fn scales(self, kind: FloatKind, words: &[u32]) -> [f32; ROWS] {
        std::array::from_fn(|r| scale(kind, words, r))
    }

    #[inline(always)]
    fn zeros(self, words: &[u32; 4]) -> [f32; ROWS] {
        std::array::from_fn(|r| f32::from(words[r / 4].to_le_bytes()[r % 4]))
    }

    #[inline(always)]
    fn column(self, codes: [u32; ROWS], e: usize) -> [f32; ROWS] {
        codes.map(|word| f32::from(word.to_le_bytes()[e]))
    }

    #[inline(always)]
    fn table(self, levels: &[f32; 16]) -> [f32; 16] {
        *levels
    }

    #[inline(always)]
    fn level(self, table: [f32; 16], codes: [u32; ROWS], e: usize) -> [f32; ROWS] {
        codes.map(|word| table[usize::from(word.to_le_bytes()[e] & 15)])
    }

    #[inline(always)]
    fn gather(self, levels: &[f32; 256], codes: [u32; ROWS], e: usize) -> [f32; ROWS] {
        codes.map(|word| levels[usize::from(word.to_le_bytes()[e])])
    }
}
