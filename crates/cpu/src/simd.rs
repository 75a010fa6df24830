//! What an instruction set must offer: operations on sixteen rows at a time.
//!
//! Every algorithm of this crate is written once over [`Simd`] and compiled once for each instruction set, inside
//! [`Simd::vectorize`]. A token that implements it exists only where the machine has the instructions, so its methods are
//! safe to call; they are `inline(always)`, because an intrinsic is an instruction only inside a function compiled for it.

use half::{bf16, f16};
use quench_format::FloatKind;
use quench_format::tiles::ROWS;

use crate::isa::Matrix;

/// A piece of work, compiled for one instruction set.
pub(crate) trait Job {
    type Output;

    /// Must be `inline(always)`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set.
pub(crate) trait Simd: Copy + Send + Sync {
    /// 64 bytes: four neighbouring columns of sixteen rows, a word for each row.
    type Codes: Copy;
    /// One `i32` for each row.
    type Sums: Copy;
    /// One `f32` for each row.
    type Floats: Copy;
    /// Sixteen floats to look up.
    type Table: Copy;

    /// What [`dot_wide`](Self::dot_wide) takes off each code: 0, or 128 where the instruction wants signed bytes.
    const BIAS: i32;
    /// Rows of the input that the registers hold beside their sums.
    const HEIGHT: usize;
    /// Tiles of the matrix that the registers hold sums of, for so many rows: 1 or 2.
    const TILES: usize = 1;

    /// Runs a job with this instruction set enabled.
    fn vectorize<J: Job>(self, job: J) -> J::Output;

    /// Runs a job that uses [`pairs`](Self::pairs) and [`dot_pairs`](Self::dot_pairs); gives it back where there are none.
    fn vectorize_pairs<J: Job>(self, job: J) -> Result<J::Output, J> {
        Err(job)
    }

    /// The unit that multiplies matrices, where there is one.
    fn matrix(self) -> Option<Matrix> {
        None
    }

    fn line(self, line: &[u32; ROWS]) -> Self::Codes;
    /// The bits of `mask` in every byte, after a shift to the right (to the left where negative, -7 to 7).
    fn field(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes;
    /// Pairs of bf16, nearest to the floats, the first of each in the low half.
    fn halves(self, low: Self::Floats, high: Self::Floats) -> Self::Codes;
    fn store_codes(self, codes: Self::Codes, to: &mut [u32; ROWS]);
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// Sixteen bytes to look up.
    fn bytes(self, table: &[u8; 16]) -> Self::Codes;
    /// `table[code]` for every code, all below 16.
    fn lookup(self, table: Self::Codes, codes: Self::Codes) -> Self::Codes;

    fn sums(self, value: i32) -> Self::Sums;
    /// `sums + codes · x`, codes below 128, `x` four signed bytes for the four columns.
    fn dot(self, sums: Self::Sums, codes: Self::Codes, x: i32) -> Self::Sums;
    /// `sums + (codes − BIAS) · x`, any codes; `x` no less than −127.
    fn dot_wide(self, sums: Self::Sums, codes: Self::Codes, x: i32) -> Self::Sums;
    /// [`dot`](Self::dot) for four steps, of codes of so many bits.
    #[inline(always)]
    fn dots<const BITS: usize>(self, mut sums: Self::Sums, codes: [Self::Codes; 4], x: [i32; 4]) -> Self::Sums {
        for s in 0..4 {
            sums = self.dot(sums, codes[s], x[s]);
        }
        sums
    }
    /// [`dot_wide`](Self::dot_wide) for four steps.
    #[inline(always)]
    fn dots_wide(self, mut sums: Self::Sums, codes: [Self::Codes; 4], x: [i32; 4]) -> Self::Sums {
        for s in 0..4 {
            sums = self.dot_wide(sums, codes[s], x[s]);
        }
        sums
    }
    fn to_floats(self, sums: Self::Sums) -> Self::Floats;

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, values: &[f32; ROWS]) -> Self::Floats;
    fn f16s(self, values: &[f16; ROWS]) -> Self::Floats;
    fn bf16s(self, values: &[bf16; ROWS]) -> Self::Floats;
    fn store(self, values: Self::Floats, to: &mut [f32; ROWS]);
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b + c`.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Sixteen scales: 16 words of f32, or 8 of halves.
    fn scales(self, kind: FloatKind, words: &[u32]) -> Self::Floats;
    /// Sixteen bytes, as floats.
    fn zeros(self, words: &[u32; 4]) -> Self::Floats;
    /// The code of column `e` of the four, as a float.
    fn column(self, codes: Self::Codes, e: usize) -> Self::Floats;
    fn table(self, levels: &[f32; 16]) -> Self::Table;
    /// `table[code]` of column `e` of the four, all codes below 16.
    fn level(self, table: Self::Table, codes: Self::Codes, e: usize) -> Self::Floats;
    /// `levels[code]` of column `e` of the four.
    fn gather(self, levels: &[f32; 256], codes: Self::Codes, e: usize) -> Self::Floats;

    /// Thirty-two bf16 to look up.
    fn pair_table(self, levels: &[u16; 32]) -> Self::Codes {
        let _ = levels;
        unreachable!("no pairs")
    }
    /// Pairs of bf16 of columns 0 and 2, or 1 and 3 where `odd`; all codes below 32.
    fn pairs(self, table: Self::Codes, codes: Self::Codes, odd: bool) -> Self::Codes {
        let _ = (table, codes, odd);
        unreachable!("no pairs")
    }
    /// `sums + w₀ · x₀ + w₁ · x₁` for pairs of bf16.
    fn dot_pairs(self, sums: Self::Floats, w: Self::Codes, x: u32) -> Self::Floats {
        let _ = (sums, w, x);
        unreachable!("no pairs")
    }

    /// Asks for a cache line that will be read soon; any address will do.
    fn prefetch(self, line: *const u32) {
        let _ = line;
    }
}
