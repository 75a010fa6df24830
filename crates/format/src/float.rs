//! Minifloats: a sign, an exponent and a mantissa in 4 or 8 bits.

/// A small floating-point number, as the Open Compute Project defines it.
///
/// From the high bit: sign, exponent `e`, mantissa `m`; `(-1)^sign * 2^(e - bias) * 1.m`, and `2^(1 - bias) * 0.m` where
/// `e = 0`. Source: OCP Microscaling Formats v1.0 (E2M1), OCP 8-bit Floating Point v1.0 (E4M3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Minifloat {
    /// 4 bits, bias 1, every code a number: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    E2M1,
    /// 8 bits, bias 7, largest 448; `0x7f` and `0xff` are not numbers: they are never encoded and decode to 0.
    E4M3,
}

impl Minifloat {
    /// Exponent and mantissa widths.
    pub const fn widths(self) -> (u32, u32) {
        match self {
            Self::E2M1 => (2, 1),
            Self::E4M3 => (4, 3),
        }
    }

    /// The largest code that is a number, sign aside.
    pub(crate) const fn top(self) -> u16 {
        match self {
            Self::E2M1 => 0x7,
            Self::E4M3 => 0x7e,
        }
    }

    /// The number of `code` without its sign; 0 where it is not a number.
    pub(crate) fn magnitude(self, code: u16) -> f32 {
        if code > self.top() {
            return 0.0;
        }
        let (exponent, mantissa) = self.widths();
        let bias = (1 << (exponent - 1)) - 1;
        let (e, m) = (i32::from(code >> mantissa), code & ((1 << mantissa) - 1));
        let fraction = f32::from(m) / (1 << mantissa) as f32;
        if e == 0 { fraction * 2.0_f32.powi(1 - bias) } else { (1.0 + fraction) * 2.0_f32.powi(e - bias) }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    /// E4M3 and f16 have the same layout with a different bias: shifting by the difference is an independent decoder.
    #[test]
    fn e4m3_is_an_f16_with_fewer_bits() {
        for code in 0..=0x7e_u16 {
            let expected = f16::from_bits(code << 7).to_f32() * 256.0;
            assert_eq!(Minifloat::E4M3.magnitude(code), expected, "{code:#x}");
        }
        assert_eq!(Minifloat::E4M3.magnitude(0x7f), 0.0);
    }

    #[test]
    fn e2m1_is_printed_in_the_standard() {
        let levels: Vec<f32> = (0..8).map(|code| Minifloat::E2M1.magnitude(code)).collect();
        assert_eq!(levels, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    }
}
