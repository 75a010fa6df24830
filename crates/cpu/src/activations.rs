//! The precision of the input of a product.

use std::fmt;
use std::str::FromStr;

/// In which precision a product reads its input. Spelled `int8`, `bf16`, `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Rounded to 8 bits on the fly, multiplied as integers: the fastest.
    ///
    /// A block of up to 128 columns of a row, within one group, has the scale `a = max|x| / 127`, so that each element is
    /// off by at most `a / 2`, and the product `y[i] = Σ x[j] · w[i, j]` by at most
    ///
    /// ```text
    /// |error| ≤ Σ over blocks  (a / 2) · Σ |w[i, j]|  +  Σ |x[j]| · |scale| · t
    /// ```
    ///
    /// where `t = 0` for integer codes and, for tables, the largest difference between a level and its neighbour on the
    /// grid of `max|level| / 127`. Serves integers of 2 to 6 and 8 bits and tables of up to 16 levels, in groups of a multiple
    /// of 16 columns; the rest is multiplied as with `F32`. A unit that multiplies matrices of bf16, where there is one,
    /// takes over from 13 rows, for any code of up to 8 bits: it rounds input and weights to 8 significant bits, which is
    /// within the same bound and usually closer.
    #[default]
    Int8,
    /// Rounded to bf16 (8 significant bits), summed in f32, where the machine multiplies bf16 and the code has 4 to 32
    /// levels, in groups of a multiple of 32 columns; levels are rounded to bf16 too (integers are exact). As with `F32`
    /// elsewhere, but for the unit, which serves any code of up to 8 bits from 5 rows.
    Bf16,
    /// As they are: `y` differs from the product with the decoded matrix by the rounding of f32 sums.
    F32,
}

impl Activations {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Bf16, Self::F32];
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        })
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|activations| activations.to_string() == name);
        found.ok_or_else(|| format!("activations are int8, bf16 or f32, not '{name}'"))
    }
}
