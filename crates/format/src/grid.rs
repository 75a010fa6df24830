//! The levels of a code prepared for loops: nearest level and level of a code without recomputing either.

use crate::{Code, trellis};

/// A code's levels, built once and asked for every weight.
///
/// Integer codes are answered by arithmetic, all others by a search over the boundaries between levels. Both answers are
/// those of [`Code::nearest`] and [`Code::level`], to the bit. A trellis has levels but no nearest code.
#[derive(Clone, Debug)]
pub struct Grid {
    code: Code,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Int {
        bits: u32,
        zero: f32,
    },
    Affine {
        bits: u32,
    },
    Table {
        /// `[2^bits]`, by code.
        levels: Box<[f32]>,
        /// The boundary above each rank but the last, then infinity up to a full chunk.
        uppers: Box<[[f32; CHUNK]]>,
        /// By rank.
        codes: Box<[u16]>,
    },
    Windows,
}

/// Boundaries compared at once, by counting: a few vector instructions, where a binary search waits for each step.
/// Up to 4 bits that is the whole search.
const CHUNK: usize = 16;

impl Grid {
    pub(crate) fn new(code: Code) -> Self {
        let kind = match code {
            Code::Int { bits } if bits.get() > 1 => Kind::Int { bits: bits.get(), zero: f32::from(code.zero_code()) },
            Code::Affine { bits } => Kind::Affine { bits: bits.get() },
            Code::Trellis(_) => Kind::Windows,
            _ => {
                let levels = code.levels();
                let codes: Box<[u16]> = (0..code.ranks()).map(|rank| code.at_rank(rank)).collect();
                // At least one infinity, so that every x falls in a chunk.
                let mut uppers = vec![[f32::INFINITY; CHUNK]; codes.len().div_ceil(CHUNK)];
                for (upper, pair) in uppers.as_flattened_mut().iter_mut().zip(codes.windows(2)) {
                    *upper = boundary(pair[0], levels[usize::from(pair[0])], levels[usize::from(pair[1])]);
                }
                Kind::Table { levels: levels.into(), uppers: uppers.into(), codes }
            }
        };
        Self { code, kind }
    }

    /// The code whose levels these are.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The code whose level is nearest to `x`; as [`Code::nearest`], with its panic.
    #[inline]
    pub fn nearest(&self, x: f32) -> u16 {
        match &self.kind {
            Kind::Int { bits, .. } => nearest_int(*bits, x),
            Kind::Affine { bits } => nearest_affine(*bits, x, 0),
            Kind::Table { uppers, codes, .. } => {
                if x.is_nan() {
                    return self.code.zero_code();
                }
                let chunk = uppers.partition_point(|chunk| x > chunk[CHUNK - 1]);
                let below: u32 = uppers[chunk].iter().map(|&upper| u32::from(x > upper)).sum();
                codes[chunk * CHUNK + below as usize]
            }
            Kind::Windows => {
                self.code.assert_scalar();
                unreachable!("windows are not scalar")
            }
        }
    }

    /// The code nearest to `x` against a zero point; as [`Code::nearest_with_zero`], with its panic.
    #[inline]
    pub fn nearest_with_zero(&self, x: f32, zero: u16) -> u16 {
        if let Kind::Affine { bits } = self.kind {
            return nearest_affine(bits, x, zero);
        }
        assert!(zero == 0, "code {} takes no zero point, found {zero}", self.code);
        self.nearest(x)
    }

    /// The number `code` stands for at scale 1; as [`Code::level`].
    ///
    /// A code with too many bits panics where the levels are a table, and means nothing where they are computed.
    #[inline]
    pub fn level(&self, code: u16) -> f32 {
        match &self.kind {
            Kind::Int { zero, .. } => f32::from(code) - zero,
            Kind::Affine { .. } => f32::from(code),
            Kind::Table { levels, .. } => levels[usize::from(code)],
            Kind::Windows => trellis::level(u32::from(code)),
        }
    }
}

/// Adding and subtracting 1.5 * 2^23 rounds an `f32` below 2^22 to an integer, ties to even, in two instructions.
///
/// `f32::round_ties_even` is a library call on plain x86-64, and cannot be vectorised there.
const ROUND_F32: f32 = 12_582_912.0;
/// The same for `f64`: 1.5 * 2^52.
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// Nearest `q` in `-2^(b-1) ..= 2^(b-1)-1`, as a code. For b > 1, where `q` and its code are even together.
#[inline]
pub(crate) fn nearest_int(bits: u32, x: f32) -> u16 {
    let half = 1_i32 << (bits - 1);
    let x = x.clamp(-half as f32, (half - 1) as f32);
    // A NaN passes through the clamp and is cast to 0.
    (((x + ROUND_F32) - ROUND_F32) as i32 + half) as u16
}

/// Nearest integer to `x + zero` in `0 ..= 2^b-1`.
#[inline]
pub(crate) fn nearest_affine(bits: u32, x: f32, zero: u16) -> u16 {
    if x.is_nan() {
        return zero.min(((1_u32 << bits) - 1) as u16);
    }
    // In f64, because 1.4999999 + 8 is 9.5 in f32, a tie that `x` never had.
    let x = (f64::from(x) + f64::from(zero)).clamp(0.0, f64::from((1_u32 << bits) - 1));
    ((x + ROUND_F64) - ROUND_F64) as u16
}

/// The largest `x` that goes to `low`, the code of the lower of two neighbouring levels.
///
/// Half-way between both levels, rounded down; where half-way is itself an `f32`, the even of both codes takes it.
pub(crate) fn boundary(low: u16, low_level: f32, high_level: f32) -> f32 {
    // Exact: neighbours differ by fewer binary orders than f64 has bits to spare over f32.
    let middle = (f64::from(low_level) + f64::from(high_level)) / 2.0;
    let nearest = middle as f32;
    if f64::from(nearest) > middle || f64::from(nearest) == middle && low % 2 == 1 {
        nearest.next_down()
    } else {
        nearest
    }
}
