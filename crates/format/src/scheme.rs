//! How a matrix is coded: the code, who shares a scale, and how the scale and the minimum are kept.

use std::num::NonZeroU32;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::{Code, bits};

/// Which weights of `[out, in]` share a scale (and a zero point).
///
/// For `w [8, 300]`: `Tensor` has 1 scale, `Row` has `[8, 1]`, `Columns(128)` has `[8, 3]`, of which the last in a row
/// serves 44 columns. Spelled `tensor`, `row`, `128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// The whole matrix.
    Tensor,
    /// One row.
    Row,
    /// This many columns of one row, counted in stored order; the last group of a row may be shorter.
    Columns(NonZeroU32),
}

impl Group {
    /// Groups along one row of `columns`: 1 for `Tensor` and `Row`, `ceil(columns / size)` for `Columns`.
    pub fn groups_per_row(self, columns: usize) -> usize {
        columns.div_ceil(self.size(columns)).max(1)
    }

    /// Columns of one full group, at least 1; never more than the row has.
    pub fn size(self, columns: usize) -> usize {
        match self {
            Self::Tensor | Self::Row => columns.max(1),
            // A u32 that does not fit in usize is larger than any row.
            Self::Columns(size) => usize::try_from(size.get()).unwrap_or(usize::MAX).min(columns.max(1)),
        }
    }

    /// Shape of the scales of a matrix `[out, in]`: `[1, 1]` for `Tensor`, else `[out, groups]`.
    pub fn scale_shape(self, shape: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Tensor => [1, 1],
            Self::Row | Self::Columns(_) => [shape[0], self.groups_per_row(shape[1])],
        }
    }
}

/// How a float is kept. Spelled `f32`, `f16`, `bf16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatKind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision: 11 significant bits, largest 65504.
    F16,
    /// The upper half of single precision: 8 significant bits.
    BF16,
}

impl FloatKind {
    /// Bits of one float.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::BF16 => 16,
        }
    }

    /// The nearest value of this kind, ties to even; infinite where `x` is beyond its range.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::BF16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// True where `x` is finite and a value of this kind.
    pub fn holds(self, x: f32) -> bool {
        x.is_finite() && self.round(x) == x
    }
}

/// How the scales are kept, or the minimums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scale {
    /// As floats. Spelled `f16`.
    Float(FloatKind),
    /// As powers of two from `2^-127` to `2^127`, 8 bits each. Spelled `e8m0`.
    ///
    /// Source: OCP Microscaling Formats v1.0; MXFP4 is `e2m1/32/e8m0`.
    PowerOfTwo,
    /// As codes with scales of their own: `scale = outer * level(code)`, rounded to `f32`. Spelled `e4m3/16:f32`.
    ///
    /// NF4's double quantization, NVFP4 and GGUF's K-quants are all this. An affine code has no zero point here: its
    /// level is the integer itself, so `uint6` are the scales 0 to 63.
    Nested {
        /// What a scale's code stands for.
        code: Code,
        /// How many scales along a row share an outer scale; `Tensor` is one outer scale for the matrix.
        group: Group,
        /// How the outer scales are kept.
        outer: FloatKind,
    },
}

impl Scale {
    /// The kind, where the scales are floats.
    pub const fn float(self) -> Option<FloatKind> {
        match self {
            Self::Float(kind) => Some(kind),
            Self::PowerOfTwo | Self::Nested { .. } => None,
        }
    }

    /// Bits of the scales `[rows, groups]` of a matrix, outer ones included.
    fn storage_bits(self, shape: [usize; 2]) -> u64 {
        match self {
            Self::Float(kind) => count(shape) * u64::from(kind.bits()),
            Self::PowerOfTwo => count(shape) * 8,
            Self::Nested { code, group, outer } => {
                count(shape) * u64::from(code.bits()) + count(group.scale_shape(shape)) * u64::from(outer.bits())
            }
        }
    }
}

/// The power of two nearest to `x`, ties to the even exponent, as [`Scale::PowerOfTwo`] keeps scales: at least `2^-127`,
/// infinite from `2^127 * 1.5`. Not a number where `x` is negative or none.
pub fn power_of_two(x: f32) -> f32 {
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    // In f64, where 2^-127 is no subnormal: the exponent is then the upper bits of the number.
    let (bits, smallest) = (f64::from(x.abs()).to_bits(), 2.0_f64.powi(-127));
    let (exponent, fraction) = ((bits >> 52) as i32 - 1023, bits << 12);
    let half = 1 << 63;
    let up = fraction > half || fraction == half && exponent % 2 != 0;
    2.0_f64.powi(exponent + i32::from(up)).max(smallest) as f32
}

/// True where [`Scale::PowerOfTwo`] keeps `x` as it is.
pub(crate) fn is_power_of_two(x: f32) -> bool {
    x.is_finite() && power_of_two(x) == x
}

fn count([rows, columns]: [usize; 2]) -> u64 {
    rows as u64 * columns as u64
}

/// How a matrix `[out, in]` is coded: four choices, each free of the others.
///
/// Spelled `int4/128/f16`, nested `nf4/64/int8/256:f32`, with a minimum `uint4/32/uint6/8:f16/min:uint6/8:f16`; serialized as
/// such words under their field names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// What one code stands for.
    pub code: Code,
    /// Which weights share a scale.
    pub group: Group,
    /// How the scale is kept.
    pub scale: Scale,
    /// How the minimum of a group is kept, which is added to all its weights; where there is none, an affine code has an
    /// integer zero point for each group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Scale>,
}

impl Scheme {
    /// A scheme without minimums.
    pub const fn new(code: Code, group: Group, scale: Scale) -> Self {
        Self { code, group, scale, minimum: None }
    }

    /// True where the matrix has an integer zero point for each group: an affine code without minimums.
    pub const fn has_zeros(self) -> bool {
        self.code.is_affine() && self.minimum.is_none()
    }

    /// True where products are made from the codes: where [`crate::tiles`] arrange them for it, which is with every code but the
    /// trellis. A matrix of another scheme is decoded when it is put on a device. Not every device serves all that have minimums:
    /// `quench_kernels::QTensor::is_served`.
    pub const fn has_kernel(self) -> bool {
        self.code.is_scalar()
    }

    /// Bits that a matrix of this shape takes, column order not counted.
    ///
    /// ```text
    /// 32 * out * words_per_row  +  scales  +  zeros or minimums
    /// ```
    ///
    /// where codes are packed in rows, and for a trellis 32 times the words of all strings ([`crate::trellis::Strings::words`]);
    /// with each scale at its kind's bits (nested: its code's bits, plus the outer scales at theirs), each zero point at
    /// the code's bits, and minimums as scales are.
    pub fn storage_bits(self, shape: [usize; 2]) -> u64 {
        let scales = self.group.scale_shape(shape);
        let words = match self.code.strings(shape) {
            Some(strings) => strings.words() as u64,
            None => shape[0] as u64 * bits::words_per_row(shape[1], self.code.bits()) as u64,
        };
        let zero_bits = if self.has_zeros() { count(scales) * u64::from(self.code.bits()) } else { 0 };
        let minimum_bits = self.minimum.map_or(0, |minimum| minimum.storage_bits(scales));
        u64::from(u32::BITS) * words + self.scale.storage_bits(scales) + zero_bits + minimum_bits
    }

    /// [`Scheme::storage_bits`] over the number of weights; not a number where there are none.
    ///
    /// Exact for every matrix below 2^53 bits, which is a petabyte.
    pub fn bits_per_weight(self, shape: [usize; 2]) -> f64 {
        self.storage_bits(shape) as f64 / (shape[0] as f64 * shape[1] as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(scheme: &str, shape: [usize; 2]) -> f64 {
        scheme.parse::<Scheme>().unwrap().bits_per_weight(shape)
    }

    #[test]
    fn known_bits_per_weight() {
        let cases = [
            ("int4/128/f16", [512, 4096], 4.125),
            ("uint4/128/f16", [512, 4096], 4.15625),
            ("int8/128/f16", [64, 1024], 8.125),
            ("int4/32/f16", [64, 1024], 4.5),
            ("nf4/64/f16", [64, 1024], 4.25),
            // NF4 with double quantization: 4 + 8/64 + 32/(64 * 256).
            ("nf4/64/int8/256:f32", [2, 64 * 256], 4.0 + 8.0 / 64.0 + 32.0 / 16384.0),
            // NVFP4: 4 + 8/16, and one f32 for the matrix.
            ("e2m1/16/e4m3/tensor:f32", [1024, 1024], 4.5 + 32.0 / 1048576.0),
            ("int8/row/f32", [16, 64], 8.5),
            ("int8/tensor/f32", [16, 64], 8.0 + 32.0 / 1024.0),
            ("uint8/tensor/f16", [4, 8], 8.0 + 24.0 / 32.0),
            // What llama.cpp says of its types: Q4_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS, MXFP4.
            ("uint4/32/f16/min:f16", [64, 1024], 5.0),
            ("uint2/16/uint4/16:f16/min:uint4/16:f16", [64, 1024], 2.625),
            ("int3/16/int6/16:f16", [64, 1024], 3.4375),
            ("uint4/32/uint6/8:f16/min:uint6/8:f16", [64, 1024], 4.5),
            ("uint5/32/uint6/8:f16/min:uint6/8:f16", [64, 1024], 5.5),
            ("int6/16/int8/16:f16", [64, 1024], 6.5625),
            ("iq4nl/32/int6/8:f16", [64, 1024], 4.25),
            ("e2m1/32/e8m0", [64, 1024], 4.25),
            // Columns of 256 rows fill their words; of 300 rows, 600 bits are 19 words.
            ("trellis2:12/128/f16", [512, 4096], 2.125),
            ("trellis2:16/row/f16", [256, 1024], 2.0 + 16.0 / 1024.0),
            ("trellis2:12/tensor/f32", [300, 8], 19.0 * 32.0 / 300.0 + 32.0 / 2400.0),
            // A row of 5 columns: 15 bits in a 32-bit word; groups of 2, 2 and 1.
            ("int3/2/bf16", [3, 5], (32.0 + 48.0) / 5.0),
        ];
        for (scheme, shape, expected) in cases {
            assert_eq!(bits(scheme, shape), expected, "{scheme} {shape:?}");
        }
        // Theory note, section 3, test 6: ratios to f32 of 3.938 and 7.758.
        assert!((32.0 / bits("int8/128/f16", [64, 1024]) - 3.938).abs() < 5e-4);
        assert!((32.0 / bits("int4/128/f16", [64, 1024]) - 7.758).abs() < 5e-4);
    }

    #[test]
    fn the_last_group_may_be_short() {
        let columns = |size| Group::Columns(NonZeroU32::new(size).unwrap());
        let cases = [
            (Group::Tensor, [1, 1], 300),
            (Group::Row, [8, 1], 300),
            (columns(128), [8, 3], 128),
            (columns(300), [8, 1], 300),
            (columns(4000), [8, 1], 300),
            (columns(1), [8, 300], 1),
        ];
        for (group, shape, size) in cases {
            assert_eq!(group.scale_shape([8, 300]), shape, "{group}");
            assert_eq!(group.size(300), size, "{group}");
        }
        assert_eq!(Group::Tensor.groups_per_row(300), 1);
    }

    #[test]
    fn powers_of_two_round_to_the_nearest() {
        for exponent in -127..=127 {
            let power = 2.0_f32.powi(exponent);
            assert!(is_power_of_two(power), "2^{exponent}");
            assert_eq!(power_of_two(power * 1.49), power, "2^{exponent}");
            assert!(!is_power_of_two(-power));
        }
        // Ties to the even exponent.
        assert_eq!((power_of_two(1.5), power_of_two(3.0), power_of_two(0.75)), (1.0, 4.0, 1.0));
        assert_eq!((power_of_two(0.0), power_of_two(f32::MAX)), (2.0_f32.powi(-127), f32::INFINITY));
        assert!(power_of_two(-1.0).is_nan() && power_of_two(f32::NAN).is_nan());
        assert!(!is_power_of_two(0.0) && !is_power_of_two(f32::INFINITY) && !is_power_of_two(2.0_f32.powi(-128)));
    }

    #[test]
    fn floats_round_to_even_and_know_their_own() {
        assert_eq!(FloatKind::F16.round(1.0 + 2.0_f32.powi(-11)), 1.0);
        assert_eq!(FloatKind::F16.round(1.0 + 3.0 * 2.0_f32.powi(-11)), 1.0 + 2.0_f32.powi(-9));
        assert_eq!(FloatKind::BF16.round(1.0 + 2.0_f32.powi(-8)), 1.0);
        assert_eq!(FloatKind::F16.round(65520.0), f32::INFINITY);
        assert_eq!(FloatKind::F32.round(0.1), 0.1);
        assert!(FloatKind::F16.holds(65504.0) && !FloatKind::F16.holds(65505.0));
        assert!(FloatKind::F16.holds(2.0_f32.powi(-24)) && !FloatKind::F16.holds(2.0_f32.powi(-25)));
        for kind in [FloatKind::F32, FloatKind::F16, FloatKind::BF16] {
            assert!(!kind.holds(f32::INFINITY) && !kind.holds(f32::NAN), "{kind}");
        }
    }
}
