//! The meaning of every code: which number it stands for, and which one is nearest to a number.

use serde::{Deserialize, Serialize};

use crate::log::{self, Mu};
use crate::trellis::{self, Strings};
use crate::{FormatError, Grid, Minifloat, Octaves, Trellis, geometric, grid, published};

/// The width of a code, 1 to 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Bits(u8);

impl Bits {
    /// The width, where it is 1 to 16.
    pub const fn new(bits: u8) -> Option<Self> {
        if matches!(bits, 1..=16) { Some(Self(bits)) } else { None }
    }

    /// The width as a number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

impl TryFrom<u8> for Bits {
    type Error = String;

    fn try_from(bits: u8) -> Result<Self, String> {
        Self::new(bits).ok_or_else(|| format!("a code has 1 to 16 bits, not {bits}"))
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> Self {
        bits.0
    }
}

/// NF4: sixteen quantiles of a standard normal, scaled to reach -1 and 1, with an exact zero.
///
/// Source: Dettmers et al. 2023, "QLoRA", appendix E; the numbers of bitsandbytes, `create_normal_map`.
const NORMAL4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// IQ4_NL: sixteen integers closer together near zero, of which none is zero.
///
/// Source: llama.cpp, `kvalues_iq4nl` of `ggml-common.h`.
const NONLINEAR4: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// What one code stands for. A weight is `scale * level(code)`, or `scale * (level(code) - zero)` where affine.
///
/// Of most codes each weight has one of its own; of a [`Trellis`] the codes of a column overlap ([`Code::is_scalar`]).
///
/// Spelled, printed and serialized as `int4`, `uint4`, `slog5:mu8`, `lns4:oct3.5`, `plog8`, `nf4`, `iq4nl`, `e2m1`, `e4m3`,
/// `trellis2:12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Integers `q = -2^(b-1) ..= 2^(b-1) - 1`, stored as `code = q + 2^(b-1)`.
    Int {
        /// Width `b`.
        bits: Bits,
    },
    /// Integers `0 ..= 2^b - 1`, read against an integer zero point per group, or with a minimum per group added.
    Affine {
        /// Width `b`.
        bits: Bits,
    },
    /// A sign and a magnitude even in the logarithm: `+-((1 + mu)^(k/K) - 1) / mu`, `K = 2^(b-1) - 1`,
    /// and `+-k/K` where `mu` is 0.
    ///
    /// Stored as `code = sign << (b-1) | k`. Negative zero decodes to 0 and is never encoded. Needs 2 bits or more;
    /// with one, every level is 0 and no matrix accepts the code.
    LogSigned {
        /// Width `b`.
        bits: Bits,
        /// Curvature.
        mu: Mu,
    },
    /// A sign and a magnitude in constant ratio: `+-2^(-range * (K - k) / (K - 1))` for `k = 1 ..= K = 2^(b-1) - 1`, and 0.
    ///
    /// A logarithmic number system (LNS). Stored as `code = sign << (b-1) | k`, 0 for `k = 0`; negative zero decodes to 0
    /// and is never encoded. Needs 2 bits or more; with two the levels are -1, 0 and 1.
    Geometric {
        /// Width `b`.
        bits: Bits,
        /// From the smallest magnitude to the largest.
        range: Octaves,
    },
    /// The published signed-log codec, to read and to score what others wrote: `+-log2(k) / B`, `B = b - 1`.
    ///
    /// Stored as `code = sign << B | k`, `k = 1 ..= 2^B - 1`; `k = 1` is 0, and so is `k = 0`, which is never encoded.
    /// Levels are coarsest at zero, where weights are: for new files [`Code::LogSigned`] serves better at every width.
    /// Needs 2 bits or more; with two every level is 0. Its own encoder, which is not the nearest level, is [`published`].
    PublishedLog {
        /// Width `b = B + 1`.
        bits: Bits,
    },
    /// NF4: quantiles of a standard normal, 4 bits.
    Normal4,
    /// The table of llama.cpp's IQ4_NL and IQ4_XS, 4 bits: -127 to 113, without a zero.
    Nonlinear4,
    /// A minifloat; negative zero decodes to 0 and is never encoded.
    Float(Minifloat),
    /// Windows of strings that run down the columns: neighbours share bits, so that a code is not chosen for one weight alone.
    Trellis(Trellis),
}

impl Code {
    /// The minifloat with these widths, where there is one: (2, 1) and (4, 3).
    pub const fn float(exponent: u32, mantissa: u32) -> Option<Self> {
        match (exponent, mantissa) {
            (2, 1) => Some(Self::Float(Minifloat::E2M1)),
            (4, 3) => Some(Self::Float(Minifloat::E4M3)),
            _ => None,
        }
    }

    /// The log-signed code of this width, where it has 2 bits or more.
    pub const fn log_signed(bits: Bits, mu: Mu) -> Option<Self> {
        if bits.get() >= 2 { Some(Self::LogSigned { bits, mu }) } else { None }
    }

    /// The geometric code of this width, where it has 2 bits or more.
    pub const fn geometric(bits: Bits, range: Octaves) -> Option<Self> {
        if bits.get() >= 2 { Some(Self::Geometric { bits, range }) } else { None }
    }

    /// The published signed-log code of this width, where it has 2 bits or more.
    pub const fn published_log(bits: Bits) -> Option<Self> {
        if bits.get() >= 2 { Some(Self::PublishedLog { bits }) } else { None }
    }

    /// Bits that each weight takes where it is stored, 1 to 16: for a trellis those of its own, `K`.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Trellis(trellis) => trellis.bits(),
            Self::Int { bits }
            | Self::Affine { bits }
            | Self::LogSigned { bits, .. }
            | Self::Geometric { bits, .. }
            | Self::PublishedLog { bits } => bits.get(),
            Self::Normal4 | Self::Nonlinear4 => 4,
            Self::Float(float) => {
                let (exponent, mantissa) = float.widths();
                1 + exponent + mantissa
            }
        }
    }

    /// Bits of a code as a number, 1 to 16: those that are stored, or for a trellis those of a window, `L`.
    pub const fn width(self) -> u32 {
        match self {
            Self::Trellis(trellis) => trellis.state(),
            _ => self.bits(),
        }
    }

    /// How many codes there are, `2^width`. Never zero, so there is no `is_empty`.
    #[expect(clippy::len_without_is_empty, reason = "a code is never empty")]
    pub const fn len(self) -> usize {
        1 << self.width()
    }

    /// True where the code of a weight may be chosen whatever those of its neighbours are; false for a trellis, whose codes only
    /// an encoder of whole sequences finds ([`Trellis::encoder`]).
    pub const fn is_scalar(self) -> bool {
        !matches!(self, Self::Trellis(_))
    }

    /// Where the strings of a matrix `[out, in]` lie, for a trellis; others are packed in rows ([`crate::bits`]).
    pub const fn strings(self, shape: [usize; 2]) -> Option<Strings> {
        match self {
            Self::Trellis(trellis) => Some(Strings::new(trellis, shape)),
            _ => None,
        }
    }

    /// The number `code` stands for at scale 1. Every kernel and every file is tested against this function.
    ///
    /// For [`Code::Affine`] it is the integer itself, zero point not taken off. In a loop use [`Grid::level`].
    ///
    /// Panics where `code` has more than [`Code::width`] bits.
    pub fn level(self, code: u16) -> f32 {
        assert!(usize::from(code) < self.len(), "code {code} does not fit in {} bits", self.width());
        match self {
            Self::Int { .. } => f32::from(code) - f32::from(self.zero_code()),
            Self::Affine { .. } => f32::from(code),
            Self::LogSigned { mu, .. } => self.signed(code, |k| log::magnitude(k, self.top(), mu)),
            Self::Geometric { range, .. } => self.signed(code, |k| geometric::magnitude(k, self.top(), range)),
            Self::PublishedLog { bits } => self.signed(code, |k| published::magnitude(k, bits.get() - 1)),
            Self::Normal4 => NORMAL4[usize::from(code)],
            Self::Nonlinear4 => NONLINEAR4[usize::from(code)],
            Self::Float(float) => self.signed(code, |k| float.magnitude(k)),
            Self::Trellis(_) => trellis::level(u32::from(code)),
        }
    }

    /// The code whose level is nearest to `x`; a tie goes to the even code, not-a-number to the code of 0.
    ///
    /// `x` beyond the levels takes the outermost one. In a loop use [`Grid::nearest`], which gives the same codes.
    ///
    /// Panics where the code is not [scalar](Code::is_scalar): its neighbours have a say.
    pub fn nearest(self, x: f32) -> u16 {
        self.assert_scalar();
        match self {
            Self::Int { bits } if bits.get() > 1 => grid::nearest_int(bits.get(), x),
            Self::Affine { bits } => grid::nearest_affine(bits.get(), x, 0),
            _ if x.is_nan() => self.zero_code(),
            _ => {
                // The lowest rank whose upper boundary is not below x.
                let (mut low, mut high) = (0, self.ranks() - 1);
                while low < high {
                    let middle = (low + high) / 2;
                    let (code, next) = (self.at_rank(middle), self.at_rank(middle + 1));
                    if x > grid::boundary(code, self.level(code), self.level(next)) {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                self.at_rank(low)
            }
        }
    }

    /// The code nearest to `x` against a zero point: the integer nearest to `x + zero`, kept in range.
    ///
    /// The sum is exact, so a tie is a tie of `x`. For a code that is not affine `zero` must be 0, or it panics.
    pub fn nearest_with_zero(self, x: f32, zero: u16) -> u16 {
        match self {
            Self::Affine { bits } => grid::nearest_affine(bits.get(), x, zero),
            _ => {
                assert!(zero == 0, "code {self} takes no zero point, found {zero}");
                self.nearest(x)
            }
        }
    }

    /// All levels in code order: the lookup table a kernel may use, `[2^width]`.
    pub fn levels(self) -> Vec<f32> {
        (0..self.len()).map(|code| self.level(code as u16)).collect()
    }

    /// The levels prepared for loops over weights: built once per code.
    pub fn grid(self) -> Grid {
        Grid::new(self)
    }

    /// True where the code is read against a zero point.
    pub const fn is_affine(self) -> bool {
        matches!(self, Self::Affine { .. })
    }

    /// The largest magnitude that both signs reach: what an absmax scale divides by.
    ///
    /// `Int`: `2^(b-1) - 1`, so that `-2^(b-1)` is never needed (1 where b = 1, which has -1 and 0 only);
    /// `Affine`: `2^b - 1`, the whole range; `LogSigned`, `Geometric`, `Normal4`: 1; `PublishedLog`: `log2(2^B - 1) / B`
    /// (1 where b = 2, which has 0 only); `Nonlinear4`: 113; `E2M1`: 6; `E4M3`: 448; `Trellis`: 3.01 to 3.28, which is no guide to
    /// its scale ([`Trellis::gain`]).
    pub fn max_level(self) -> f32 {
        match self {
            Self::Int { bits } => ((1_u32 << (bits.get() - 1)) - 1).max(1) as f32,
            Self::Affine { .. } => (self.len() - 1) as f32,
            Self::LogSigned { .. } | Self::Geometric { .. } | Self::Normal4 => 1.0,
            Self::Nonlinear4 => NONLINEAR4[15],
            Self::PublishedLog { bits } if bits.get() <= 2 => 1.0,
            Self::PublishedLog { bits } => published::magnitude(self.top(), bits.get() - 1),
            Self::Float(float) => float.magnitude(float.top()),
            Self::Trellis(_) => self.levels().into_iter().fold(0.0, f32::max),
        }
    }

    /// The code that stands for 0 (for [`Code::Affine`], for the integer 0, zero point not taken off; for [`Code::Nonlinear4`],
    /// which has no 0, for 1; for [`Code::Trellis`], of which not all have one, for -0.007).
    pub const fn zero_code(self) -> u16 {
        match self {
            Self::Int { bits } => 1 << (bits.get() - 1),
            Self::Normal4 => 7,
            Self::Nonlinear4 => 8,
            Self::PublishedLog { .. } => 1,
            // The smallest level of the windows below 2^8, which all of them have.
            Self::Trellis(_) => 102,
            Self::Affine { .. } | Self::LogSigned { .. } | Self::Geometric { .. } | Self::Float(_) => 0,
        }
    }

    /// The largest |level - zero| that any code and zero point can give.
    pub(crate) fn reach(self) -> f32 {
        match self {
            Self::Int { bits } => (1_u32 << (bits.get() - 1)) as f32,
            Self::Nonlinear4 => -NONLINEAR4[0],
            Self::Trellis(_) => -trellis::level(0),
            _ => self.max_level(),
        }
    }

    pub(crate) fn assert_scalar(self) {
        assert!(self.is_scalar(), "no nearest code of {self}: its neighbours share bits");
    }

    pub(crate) fn check(self) -> Result<(), FormatError> {
        match self {
            Self::LogSigned { bits, .. } | Self::Geometric { bits, .. } | Self::PublishedLog { bits }
                if bits.get() < 2 =>
            {
                Err(FormatError::NoMagnitude { code: self })
            }
            _ => Ok(()),
        }
    }

    /// How many levels can be encoded one by one: all but negative zero and what is not a number, and none of a trellis.
    pub(crate) fn ranks(self) -> usize {
        match self {
            Self::Trellis(_) => 0,
            Self::Int { .. } | Self::Affine { .. } | Self::Normal4 | Self::Nonlinear4 => self.len(),
            Self::LogSigned { .. } | Self::Geometric { .. } | Self::PublishedLog { .. } | Self::Float(_) => {
                2 * self.magnitudes() + 1
            }
        }
    }

    /// The code of the `rank`-th smallest level that can be encoded.
    pub(crate) fn at_rank(self, rank: usize) -> u16 {
        match self {
            Self::Int { .. } | Self::Affine { .. } | Self::Normal4 | Self::Nonlinear4 | Self::Trellis(_) => rank as u16,
            Self::LogSigned { .. } | Self::Geometric { .. } | Self::PublishedLog { .. } | Self::Float(_) => {
                let (top, count) = (usize::from(self.top()), self.magnitudes());
                if rank < count { self.sign() | (top - rank) as u16 } else { self.zero_code() + (rank - count) as u16 }
            }
        }
    }

    /// The magnitudes above zero of a sign-magnitude code: `k = zero_code + 1 ..= top`.
    fn magnitudes(self) -> usize {
        usize::from(self.top().saturating_sub(self.zero_code()))
    }

    /// The largest magnitude code of a sign-magnitude code.
    const fn top(self) -> u16 {
        match self {
            Self::Float(float) => float.top(),
            _ => self.sign() - 1,
        }
    }

    /// The sign bit of a sign-magnitude code.
    const fn sign(self) -> u16 {
        1 << (self.bits() - 1)
    }

    fn signed(self, code: u16, magnitude: impl Fn(u16) -> f32) -> f32 {
        let level = magnitude(code & (self.sign() - 1));
        // Not `-level` where it is 0: the table has one zero, so that equal levels are equal bits.
        if code & self.sign() != 0 && level != 0.0 { -level } else { level }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn int(bits: u8) -> Code {
        Code::Int { bits: Bits::new(bits).unwrap() }
    }

    pub(crate) fn affine(bits: u8) -> Code {
        Code::Affine { bits: Bits::new(bits).unwrap() }
    }

    pub(crate) fn slog(bits: u8, mu: f32) -> Code {
        Code::LogSigned { bits: Bits::new(bits).unwrap(), mu: Mu::new(mu).unwrap() }
    }

    pub(crate) fn lns(bits: u8, octaves: f32) -> Code {
        Code::Geometric { bits: Bits::new(bits).unwrap(), range: Octaves::new(octaves).unwrap() }
    }

    pub(crate) fn plog(bits: u8) -> Code {
        Code::PublishedLog { bits: Bits::new(bits).unwrap() }
    }

    /// Every kind of scalar code at every width, those with a parameter at several values of it.
    pub(crate) fn every_code() -> Vec<Code> {
        let mut codes =
            vec![Code::Normal4, Code::Nonlinear4, Code::Float(Minifloat::E2M1), Code::Float(Minifloat::E4M3)];
        for bits in 1..=16 {
            codes.extend([int(bits), affine(bits)]);
            if bits > 1 {
                codes.extend([0.0, 0.5, 3.0, 255.0, 32767.5].map(|mu| slog(bits, mu)));
                codes.extend([0.25, 3.5, 10.0, 31.75, 32.0].map(|octaves| lns(bits, octaves)));
                codes.push(plog(bits));
            }
        }
        codes
    }

    pub(crate) fn any_code() -> impl Strategy<Value = Code> {
        prop::sample::select(every_code())
    }

    pub(crate) fn trellis(bits: u32, state: u32) -> Code {
        Code::Trellis(Trellis::new(bits, state).unwrap())
    }

    /// The definition: try all codes.
    ///
    /// Distances in f64 are exact wherever two of them are close, once `x` is brought near the levels.
    fn brute_force(code: Code, levels: &[f32], x: f32) -> u16 {
        let x = x.clamp(-2.0 * code.reach(), 2.0 * code.reach());
        let distance = |c: u16| (f64::from(levels[usize::from(c)]) - f64::from(x)).abs();
        let candidates = (0..code.len()).map(|c| c as u16).filter(|&c| encodable(code, levels, c));
        candidates.min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2)))).unwrap()
    }

    /// True where the encoder may give `value`: neither negative zero nor not-a-number.
    fn encodable(code: Code, levels: &[f32], value: u16) -> bool {
        levels[usize::from(value)] != 0.0 || value == code.zero_code()
    }

    #[test]
    fn known_levels() {
        assert_eq!(int(1).levels(), [-1.0, 0.0]);
        assert_eq!(int(3).levels(), [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(affine(2).levels(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(slog(2, 8.0).levels(), [0.0, 1.0, 0.0, -1.0]);
        // (1 + 8)^(k/3): 9^(1/3) = 2.080084, 9^(2/3) = 4.326749.
        let (one, two) = (0.135_010_48, 0.415_843_58);
        assert_eq!(slog(3, 8.0).levels(), [0.0, one, two, 1.0, 0.0, -one, -two, -1.0]);
        assert_eq!(lns(2, 4.0).levels(), [0.0, 1.0, 0.0, -1.0]);
        assert_eq!(lns(3, 4.0).levels(), [0.0, 0.0625, 0.25, 1.0, 0.0, -0.0625, -0.25, -1.0]);
        assert_eq!(plog(2).levels(), [0.0; 4]);
        assert_eq!(plog(3).levels(), [0.0, 0.0, 0.5, 0.792_481_24, 0.0, 0.0, -0.5, -0.792_481_24]);
        assert_eq!(plog(5).level(16 | 8), -0.75);
        let e2m1 = Code::Float(Minifloat::E2M1).levels();
        assert_eq!(e2m1[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(e2m1[8..], [0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]);
        let e4m3 = Code::Float(Minifloat::E4M3);
        let known = [(0x00, 0.0), (0x01, 0.001_953_125), (0x07, 0.013_671_875), (0x08, 0.015_625), (0x38, 1.0)];
        for (code, level) in known.into_iter().chain([(0x7e, 448.0), (0x7f, 0.0), (0xff, 0.0), (0xc0, -2.0)]) {
            assert_eq!(e4m3.level(code), level, "{code:#x}");
        }
        assert_eq!(e4m3.max_level(), 448.0);
        // As printed in ggml-common.h.
        let printed = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
        assert_eq!(Code::Nonlinear4.levels(), printed.map(|level| level as f32));
    }

    #[test]
    fn nf4_has_the_values_of_the_paper() {
        // QLoRA, appendix E, as printed there.
        let printed = [
            -1.0,
            -0.6961928009986877,
            -0.5250730514526367,
            -0.39491748809814453,
            -0.28444138169288635,
            -0.18477343022823334,
            -0.09105003625154495,
            0.0,
            0.07958029955625534,
            0.16093020141124725,
            0.24611230194568634,
            0.33791524171829224,
            0.44070982933044434,
            0.5626170039176941,
            0.7229568362236023,
            1.0,
        ];
        let levels: Vec<f64> = Code::Normal4.levels().into_iter().map(f64::from).collect();
        assert_eq!(levels, printed);
    }

    #[test]
    fn known_nearest() {
        let e2m1 = Code::Float(Minifloat::E2M1);
        let e4m3 = Code::Float(Minifloat::E4M3);
        let cases = [
            (int(4), 0.5, 8), // ties to the even code, and code 8 is 0
            (int(4), 1.5, 10),
            (int(4), -0.5, 8),
            (int(4), 7.9, 15),
            (int(4), -100.0, 0),
            (int(1), -0.5, 0), // here the even code is -1
            (int(1), -0.49, 1),
            (affine(4), 2.5, 2),
            (affine(4), -3.0, 0),
            (affine(16), 1e9, 65535),
            (e2m1, 0.25, 0),
            (e2m1, 0.75, 2),
            (e2m1, 5.0, 6),
            (e2m1, -5.01, 15),
            (e2m1, -0.1, 0), // never negative zero
            (e4m3, 1e9, 0x7e),
            (e4m3, -449.0, 0xfe),
            (e4m3, f32::INFINITY, 0x7e),
            (e4m3, f32::NEG_INFINITY, 0xfe),
            (slog(4, 8.0), -1e-9, 0),
            (lns(3, 4.0), 0.031_25, 0), // a tie between 0 and the smallest magnitude
            (lns(3, 4.0), -0.032, 5),
            (lns(3, 4.0), -9.0, 7),
            (plog(3), 0.25, 2), // a tie: of the codes 1 and 2, the even one
            (plog(3), -0.2, 1), // zero is k = 1, and has no sign
            (plog(3), -9.0, 7),
            (plog(2), 1.0, 1),
            (Code::Normal4, 0.01, 7),
            (Code::Normal4, -2.0, 0),
            (Code::Nonlinear4, 0.0, 8),
            (Code::Nonlinear4, -4.5, 8), // a tie between -10 and 1
            (Code::Nonlinear4, -115.6, 0),
        ];
        for (code, x, expected) in cases {
            assert_eq!(code.nearest(x), expected, "{code} at {x}");
        }
    }

    #[test]
    fn against_a_zero_point() {
        let code = affine(4);
        assert_eq!(code.nearest_with_zero(-2.0, 8), 6);
        assert_eq!(code.nearest_with_zero(-20.0, 8), 0);
        assert_eq!(code.nearest_with_zero(20.0, 8), 15);
        assert_eq!(code.nearest_with_zero(f32::NAN, 8), 8);
        assert_eq!(code.nearest_with_zero(0.5, 9), 10);
        // One f32 below a tie; in f32 the sum would be the tie 9.5 and go to 10.
        assert_eq!(code.nearest_with_zero(1.5_f32.next_down(), 8), 9);
        assert_eq!(int(4).nearest_with_zero(1.2, 0), 9);
    }

    #[test]
    #[should_panic(expected = "code nf4 takes no zero point, found 3")]
    fn a_zero_point_for_a_code_without_is_a_panic() {
        Code::Normal4.nearest_with_zero(0.0, 3);
    }

    #[test]
    #[should_panic(expected = "code 16 does not fit in 4 bits")]
    fn the_level_of_no_code_is_a_panic() {
        int(4).level(16);
    }

    #[test]
    fn every_code_keeps_its_promises() {
        for code in every_code() {
            let levels = code.levels();
            assert_eq!(levels.len(), code.len(), "{code}");
            let zero = if code == Code::Nonlinear4 { 1.0 } else { 0.0 };
            assert_eq!(code.level(code.zero_code()), zero, "{code}");
            assert_eq!(code.nearest(f32::NAN), code.zero_code(), "{code}");
            assert!(levels.iter().all(|level| level.is_finite() && level.abs() <= code.reach()), "{code}");
            assert!(levels.iter().all(|level| level.to_bits() != (-0.0_f32).to_bits()), "{code}");
            assert!(code.check().is_ok());
            // Ranks list every level that can be encoded once, rising, codes alternating even and odd.
            let ranked: Vec<u16> = (0..code.ranks()).map(|rank| code.at_rank(rank)).collect();
            assert!(ranked.is_sorted_by(|&a, &b| levels[usize::from(a)] < levels[usize::from(b)]), "{code}");
            assert!(ranked.windows(2).all(|pair| pair[0] % 2 != pair[1] % 2), "{code}");
            let encodable = (0..code.len()).filter(|&c| encodable(code, &levels, c as u16)).count();
            assert_eq!(ranked.len(), encodable, "{code}");
            let largest = levels.iter().copied().fold(0.0, f32::max);
            if code != int(1) && code != plog(2) {
                assert_eq!(code.max_level(), largest, "{code}");
            }
            let grid = code.grid();
            assert_eq!(grid.code(), code);
            for &c in &ranked {
                let level = levels[usize::from(c)];
                assert_eq!(code.nearest(level), c, "{code}");
                assert_eq!(grid.nearest(level), c, "{code}");
                assert_eq!(grid.level(c), level, "{code}");
            }
        }
    }

    #[test]
    fn widths() {
        for bits in 1..=16 {
            assert_eq!(Bits::new(bits).map(Bits::get), Some(u32::from(bits)));
        }
        assert_eq!((Bits::new(0), Bits::new(17)), (None, None));
        assert_eq!(Code::float(2, 1).map(Code::bits), Some(4));
        assert_eq!(Code::float(4, 3).map(Code::bits), Some(8));
        assert_eq!(Code::float(5, 2), None);
        assert_eq!(Code::log_signed(Bits::new(1).unwrap(), Mu::DEFAULT), None);
        assert_eq!(slog(1, 3.0).levels(), [0.0, 0.0]);
        assert_eq!(slog(1, 3.0).nearest(5.0), 0);
        for code in [slog(1, 3.0), lns(1, 3.0), plog(1)] {
            assert_eq!(code.levels(), [0.0, 0.0]);
            assert_eq!(code.check(), Err(FormatError::NoMagnitude { code }));
        }
        let one = Bits::new(1).unwrap();
        assert_eq!((Code::geometric(one, Octaves::new(4.0).unwrap()), Code::published_log(one)), (None, None));
    }

    #[test]
    fn a_trellis_has_more_codes_than_its_weights_have_bits() {
        for bits in 1..=4 {
            for state in 8..=16 {
                let code = trellis(bits, state);
                assert_eq!((code.bits(), code.width(), code.len()), (bits, state, 1 << state));
                assert!(!code.is_scalar() && !code.is_affine() && code.check().is_ok());
                let (levels, grid) = (code.levels(), code.grid());
                assert!(levels.iter().enumerate().all(|(window, level)| grid.level(window as u16) == *level));
                assert!(levels.iter().all(|level| level.abs() <= code.reach()));
                assert!((3.01..3.29).contains(&code.max_level()) && code.reach() == -levels[0], "{}", code.max_level());
                assert!((-0.007..-0.006).contains(&code.level(code.zero_code())));
            }
        }
    }

    #[test]
    #[should_panic(expected = "no nearest code of trellis2:12: its neighbours share bits")]
    fn the_nearest_code_of_a_trellis_is_a_panic() {
        trellis(2, 12).nearest(0.5);
    }

    #[test]
    #[should_panic(expected = "no nearest code of trellis2:12: its neighbours share bits")]
    fn the_nearest_code_on_the_grid_of_a_trellis_is_a_panic() {
        trellis(2, 12).grid().nearest(0.5);
    }

    /// Numbers around the levels of a code: on them, half-way between, one ulp beside, and anywhere.
    fn near_levels(code: Code) -> impl Strategy<Value = f32> {
        let levels = code.levels();
        let n = levels.len();
        let reach = code.reach();
        (0..n, 0..n.max(2) - 1, -2_i32..=2, prop::num::f32::ANY, 0..4).prop_map(move |(i, j, ulps, any, kind)| {
            let x = match kind {
                0 => levels[i],
                1 => ((f64::from(levels[j]) + f64::from(levels[j + 1])) / 2.0) as f32,
                2 => any,
                _ => any % (reach * 1.5),
            };
            (0..ulps.abs()).fold(x, |x, _| if ulps < 0 { x.next_down() } else { x.next_up() })
        })
    }

    fn small_code() -> impl Strategy<Value = Code> {
        any_code().prop_filter("brute force over few levels", |code| code.bits() <= 10)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn nearest_is_brute_force((code, x) in small_code().prop_flat_map(|code| (Just(code), near_levels(code)))) {
            let expected = if x.is_nan() { code.zero_code() } else { brute_force(code, &code.levels(), x) };
            prop_assert_eq!(code.nearest(x), expected, "{} at {:e}", code, x);
            prop_assert_eq!(code.grid().nearest(x), expected, "{} at {:e}", code, x);
            prop_assert_eq!(code.grid().nearest_with_zero(x, 0), expected);
        }

        #[test]
        fn nearest_to_a_zero_point_is_brute_force(bits in 1_u8..=8, zero in 0_u16..256, x in -300.0_f32..300.0, tie in any::<bool>()) {
            let code = affine(bits);
            let zero = zero % code.len() as u16;
            let x = if tie { x.floor() + 0.5 } else { x };
            let distance = |c: usize| (c as f64 - f64::from(zero) - f64::from(x)).abs();
            let expected = (0..code.len()).min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2))));
            prop_assert_eq!(Some(usize::from(code.nearest_with_zero(x, zero))), expected);
            prop_assert_eq!(code.grid().nearest_with_zero(x, zero), code.nearest_with_zero(x, zero));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Beyond 10 bits the brute force is slow: fewer cases.
        #[test]
        fn nearest_is_brute_force_for_wide_codes((code, x) in any_code().prop_flat_map(|code| (Just(code), near_levels(code)))) {
            let expected = if x.is_nan() { code.zero_code() } else { brute_force(code, &code.levels(), x) };
            prop_assert_eq!(code.nearest(x), expected, "{} at {:e}", code, x);
            prop_assert_eq!(code.grid().nearest(x), expected, "{} at {:e}", code, x);
        }
    }
}
