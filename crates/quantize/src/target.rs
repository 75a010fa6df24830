//! What a matrix is to be coded as, where something may be left for the quantizer to find.

use std::fmt;
use std::str::FromStr;

use quench_format::{Bits, Code, FormatError, Group, Mu, Scale, Scheme};

/// A code as it is asked for: one code, or a family of which the quantizer takes the member that fits the weights best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeChoice {
    /// This code.
    Code(Code),
    /// The log-signed code of this width, its curvature `mu` searched for every matrix. Spelled `slog5:mu*`.
    AnyMu(Bits),
}

/// What follows the width of a log-signed code whose curvature is searched.
const ANY_MU: &str = ":mu*";

impl CodeChoice {
    /// The code; of a family one member, which has the width and the spelling of all.
    pub fn example(self) -> Code {
        match self {
            Self::Code(code) => code,
            Self::AnyMu(bits) => Code::LogSigned { bits, mu: Mu::DEFAULT },
        }
    }
}

impl From<Code> for CodeChoice {
    fn from(code: Code) -> Self {
        Self::Code(code)
    }
}

impl fmt::Display for CodeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::AnyMu(bits) => write!(f, "slog{}{ANY_MU}", bits.get()),
        }
    }
}

impl FromStr for CodeChoice {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let Some(family) = text.strip_suffix(ANY_MU) else { return text.parse().map(Self::Code) };
        match family.parse() {
            Ok(Code::LogSigned { bits, .. }) if !family.contains(':') => Ok(Self::AnyMu(bits)),
            _ => Err(FormatError::Spelling { what: "code", text: text.into(), expected: "slog2:mu*..slog16:mu*" }),
        }
    }
}

/// A [`Scheme`] whose code may be a [`CodeChoice`]. Spelled as one: `slog5:mu*/128/f16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// What one code is to stand for.
    pub code: CodeChoice,
    /// Which weights share a scale.
    pub group: Group,
    /// How the scale is kept.
    pub scale: Scale,
    /// How the minimum is kept, where the code is affine and groups are to have one and no zero point.
    pub minimum: Option<Scale>,
}

impl Target {
    /// The scheme with `code` in place of the choice.
    pub fn with_code(self, code: Code) -> Scheme {
        Scheme { code, group: self.group, scale: self.scale, minimum: self.minimum }
    }

    /// Whether a matrix `[out, in]` has enough rows for it; of trellis codes not every matrix has.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn check_shape(self, shape: [usize; 2]) -> Result<(), String> {
        match self.code.example().strings(shape).map(|strings| strings.least_rows()) {
            Some(least) if shape[0] < least => {
                Err(format!("{self} needs at least {least} rows, and it has {}; use a code such as int4", shape[0]))
            }
            _ => Ok(()),
        }
    }
}

impl From<Scheme> for Target {
    fn from(Scheme { code, group, scale, minimum }: Scheme) -> Self {
        Self { code: code.into(), group, scale, minimum }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let example = self.code.example();
        let whole = self.with_code(example).to_string();
        // As the scheme is spelled, but for a code that is left open.
        write!(f, "{}{}", self.code, whole.strip_prefix(&example.to_string()).unwrap_or_default())
    }
}

impl FromStr for Target {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let Some((code, rest)) = text.split_once('/').filter(|(code, _)| code.ends_with(ANY_MU)) else {
            return text.parse::<Scheme>().map(Self::from);
        };
        let code: CodeChoice = code.parse()?;
        let whole: Scheme = format!("{}/{rest}", code.example()).parse()?;
        Ok(Self { code, ..whole.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_they_are_printed() {
        for text in [
            "slog5:mu*/128/f16",
            "slog16:mu*/row/int8/16:f32",
            "slog5:mu0/tensor/f32",
            "int4/128/f16",
            "uint4/32/f16/min:f16",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("slog5".parse::<CodeChoice>().unwrap().to_string(), "slog5:mu3");
    }

    #[test]
    fn unknown_spellings_are_named() {
        for text in ["slog1:mu*", "slog17:mu*", "slog5:mu8:mu*", "int4:mu*", ":mu*", "slog:mu*", "slog5:mu**", "slog5*"]
        {
            let error = text.parse::<CodeChoice>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("unknown code `{text}`: expected ")), "{error}");
            assert!(format!("{text}/128/f16").parse::<Target>().is_err(), "{text}");
        }
        for text in ["slog5:mu*", "slog5:mu*/128", "slog5:mu*//f16", "slog5:mu*/128/f8", "int4/slog5:mu*/f16"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
