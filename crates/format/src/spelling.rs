//! How codes, groups, scales and schemes are written and read: one spelling for files, recipes and tables.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Bits, Code, FloatKind, FormatError, Group, Minifloat, Mu, Octaves, Scale, Scheme, Trellis};

const CODE: &str = "int1..int16, uint1..uint16, slog2..slog16 (with :mu8 or another multiple of 0.5), \
     lns2..lns16 with :oct3.5 or another multiple of 0.25 to 32, plog2..plog16, nf4, iq4nl, e2m1, e4m3, or \
     trellis1..trellis4 with :8..:16";
const GROUP: &str = "tensor, row or a number of columns from 1 such as 128";
const FLOAT: &str = "f32, f16 or bf16";
const SCALE: &str = "f32, f16, bf16, e8m0 or nested code/group:float such as e4m3/16:f32";
const SCHEME: &str = "code/group/scale such as int4/128/f16, or with a minimum uint4/32/f16/min:f16";
/// What stands before the minimum of a scheme.
const MINIMUM: &str = "/min:";
const TRELLIS: &str = "trellis, 1 to 4 bits, a colon and 8 to 16 bits of state, such as trellis2:12";

fn unknown(what: &'static str, text: &str, expected: &'static str) -> FormatError {
    FormatError::Spelling { what, text: text.to_owned(), expected }
}

/// A number in plain digits: no sign, no leading zero, so that every value has one spelling.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int { bits } => write!(f, "int{}", bits.get()),
            Self::Affine { bits } => write!(f, "uint{}", bits.get()),
            Self::LogSigned { bits, mu } => write!(f, "slog{}:mu{}", bits.get(), mu.get()),
            Self::Geometric { bits, range } => write!(f, "lns{}:oct{}", bits.get(), range.get()),
            Self::PublishedLog { bits } => write!(f, "plog{}", bits.get()),
            Self::Normal4 => f.write_str("nf4"),
            Self::Nonlinear4 => f.write_str("iq4nl"),
            Self::Float(Minifloat::E2M1) => f.write_str("e2m1"),
            Self::Float(Minifloat::E4M3) => f.write_str("e4m3"),
            Self::Trellis(trellis) => trellis.fmt(f),
        }
    }
}

impl FromStr for Code {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bits = |text: &str| digits(text).and_then(Bits::new);
        // A digit first: `f32::from_str` also takes signs and "inf", which are not how a parameter is spelled.
        let parameter = |text: &str| -> Option<f32> {
            if text.starts_with(|c: char| c.is_ascii_digit()) { text.parse().ok() } else { None }
        };
        let code = if let Some(width) = text.strip_prefix("uint") {
            bits(width).map(|bits| Self::Affine { bits })
        } else if let Some(width) = text.strip_prefix("int") {
            bits(width).map(|bits| Self::Int { bits })
        } else if let Some(rest) = text.strip_prefix("slog") {
            let (width, mu) = match rest.split_once(":mu") {
                Some((width, mu)) => (width, parameter(mu).and_then(Mu::new)),
                None => (rest, Some(Mu::DEFAULT)),
            };
            bits(width).zip(mu).and_then(|(bits, mu)| Self::log_signed(bits, mu))
        } else if let Some(rest) = text.strip_prefix("lns") {
            let parts = rest.split_once(":oct");
            let parts = parts.and_then(|(width, range)| bits(width).zip(parameter(range).and_then(Octaves::new)));
            parts.and_then(|(bits, range)| Self::geometric(bits, range))
        } else if let Some(width) = text.strip_prefix("plog") {
            bits(width).and_then(Self::published_log)
        } else if text.starts_with("trellis") {
            text.parse().ok().map(Self::Trellis)
        } else {
            match text {
                "nf4" => Some(Self::Normal4),
                "iq4nl" => Some(Self::Nonlinear4),
                "e2m1" => Some(Self::Float(Minifloat::E2M1)),
                "e4m3" => Some(Self::Float(Minifloat::E4M3)),
                _ => None,
            }
        };
        code.ok_or_else(|| unknown("code", text, CODE))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Row => f.write_str("row"),
            Self::Columns(size) => write!(f, "{size}"),
        }
    }
}

impl FromStr for Group {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "tensor" => Ok(Self::Tensor),
            "row" => Ok(Self::Row),
            _ => digits(text).and_then(NonZeroU32::new).map(Self::Columns).ok_or_else(|| unknown("group", text, GROUP)),
        }
    }
}

impl fmt::Display for FloatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

impl FromStr for FloatKind {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::BF16),
            _ => Err(unknown("float kind", text, FLOAT)),
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(kind) => write!(f, "{kind}"),
            Self::PowerOfTwo => f.write_str("e8m0"),
            Self::Nested { code, group, outer } => write!(f, "{code}/{group}:{outer}"),
        }
    }
}

impl FromStr for Scale {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        if text == "e8m0" {
            return Ok(Self::PowerOfTwo);
        }
        let Some((code, rest)) = text.split_once('/') else {
            return text.parse().map(Self::Float).map_err(|_| unknown("scale", text, SCALE));
        };
        let Some((group, outer)) = rest.split_once(':') else {
            return Err(unknown("scale", text, SCALE));
        };
        let code: Code = code.parse()?;
        if !code.is_scalar() {
            return Err(unknown("scale", text, SCALE));
        }
        Ok(Self::Nested { code, group: group.parse()?, outer: outer.parse()? })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.code, self.group, self.scale)?;
        self.minimum.map_or(Ok(()), |minimum| write!(f, "{MINIMUM}{minimum}"))
    }
}

impl FromStr for Scheme {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut words = text.splitn(3, '/');
        let (Some(code), Some(group), Some(scale)) = (words.next(), words.next(), words.next()) else {
            return Err(unknown("scheme", text, SCHEME));
        };
        let (scale, minimum) = match scale.split_once(MINIMUM) {
            Some((scale, minimum)) => (scale, Some(minimum.parse()?)),
            None => (scale, None),
        };
        Ok(Self { code: code.parse()?, group: group.parse()?, scale: scale.parse()?, minimum })
    }
}

impl fmt::Display for Trellis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trellis{}:{}", self.bits(), self.state())
    }
}

impl FromStr for Trellis {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parts = text.strip_prefix("trellis").and_then(|rest| rest.split_once(':'));
        let widths = parts.and_then(|(bits, state)| digits(bits).zip(digits(state)));
        widths.and_then(|(bits, state)| Self::new(bits, state)).ok_or_else(|| unknown("trellis", text, TRELLIS))
    }
}

/// Serialized as it is spelled.
macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Code, FloatKind, Scale, Trellis);

/// Serialized as `"tensor"`, `"row"`, or the number of columns.
impl Serialize for Group {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Columns(size) => serializer.serialize_u32(size.get()),
            Self::Tensor | Self::Row => serializer.collect_str(self),
        }
    }
}

/// Read from `"tensor"`, `"row"`, `"128"` or the number 128.
impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct GroupVisitor;

        impl Visitor<'_> for GroupVisitor {
            type Value = Group;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(GROUP)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Group, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, size: u64) -> Result<Group, E> {
                self.visit_str(&size.to_string())
            }

            fn visit_i64<E: Error>(self, size: i64) -> Result<Group, E> {
                self.visit_str(&size.to_string())
            }
        }

        deserializer.deserialize_any(GroupVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::code::tests::{any_code, trellis};

    fn any_group() -> impl Strategy<Value = Group> {
        prop_oneof![
            Just(Group::Tensor),
            Just(Group::Row),
            (1..=u32::MAX).prop_map(|size| Group::Columns(NonZeroU32::new(size).unwrap())),
        ]
    }

    fn any_scheme() -> impl Strategy<Value = Scheme> {
        let float = prop::sample::select(vec![FloatKind::F32, FloatKind::F16, FloatKind::BF16]);
        let nested = (any_code(), any_group(), float.clone());
        let scale = prop_oneof![
            Just(Scale::PowerOfTwo),
            float.prop_map(Scale::Float),
            nested.prop_map(|(code, group, outer)| Scale::Nested { code, group, outer }),
        ];
        let trellis = (1_u32..=4, 8_u32..=16).prop_map(|(bits, state)| trellis(bits, state));
        let code = prop_oneof![6 => any_code(), 1 => trellis];
        (code, any_group(), scale.clone(), prop::option::of(scale)).prop_map(|(code, group, scale, minimum)| Scheme {
            code,
            group,
            scale,
            minimum,
        })
    }

    #[test]
    fn schemes_read_as_they_are_printed() {
        for text in [
            "int4/128/f16",
            "uint16/tensor/f32",
            "slog5:mu0.5/row/bf16",
            "slog5:mu0/row/bf16",
            "nf4/64/int8/256:f32",
            "e2m1/16/e4m3/tensor:f32",
            "int4/32/slog8:mu255/row:f16",
            "lns4:oct3.5/128/f16",
            "plog16/tensor/f32",
            "iq4nl/32/int6/8:f16",
            "e2m1/32/e8m0",
            "uint4/32/f16/min:f16",
            "uint4/32/uint6/8:f16/min:uint6/8:f16",
            "trellis2:12/128/f16",
            "trellis3:16/row/int8/16:f32",
        ] {
            assert_eq!(text.parse::<Scheme>().unwrap().to_string(), text);
        }
        assert_eq!("slog5".parse::<Code>().unwrap().to_string(), "slog5:mu3");
    }

    #[test]
    fn unknown_spellings_are_named() {
        for text in [
            "",
            "int",
            "int0",
            "int17",
            "int04",
            "int+4",
            "Int4",
            "slog1",
            "slog5:mu",
            "slog5:mu0.3",
            "slog5:mu+8",
            "slog5:muinf",
            "slog5:8",
            "lns4",
            "lns4:oct",
            "lns4:oct0",
            "lns4:oct3.3",
            "lns4:oct+3",
            "lns4:oct33",
            "lns1:oct3",
            "plog1",
            "plog17",
            "plog8:mu3",
            "e5m2",
            "fp4",
            "int4 ",
            "uint",
            "trellis2",
            "trellis5:12",
            "trellis2:012",
        ] {
            let error = text.parse::<Code>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("unknown code `{text}`: expected int1..int16")), "{error}");
        }
        for text in ["", "0", "-1", "+1", "01", "4294967296", "rows", "1.5"] {
            assert!(text.parse::<Group>().is_err(), "{text}");
        }
        for text in ["", "f8", "int8", "int8/16", "int8/16:", "int8/16:f8", "/16:f32", "int8:f32", "trellis2:8/16:f32"]
        {
            assert!(text.parse::<Scale>().is_err(), "{text}");
        }
        for text in [
            "",
            "int4",
            "int4/128",
            "int4/128/",
            "int4//f16",
            "int4/128/f16/f16",
            "int4/128/f16/min:",
            "int4/128/f16/min:f16/min:f16",
        ] {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    #[test]
    fn trellises_read_as_they_are_printed() {
        for bits in 1..=4 {
            for state in 8..=16 {
                let trellis = Trellis::new(bits, state).unwrap();
                assert_eq!(trellis.to_string(), format!("trellis{bits}:{state}"));
                assert_eq!(trellis.to_string().parse(), Ok(trellis));
                assert_eq!(
                    serde_json::from_str::<Trellis>(&serde_json::to_string(&trellis).unwrap()).unwrap(),
                    trellis
                );
            }
        }
        for text in [
            "",
            "trellis",
            "trellis2",
            "trellis2:",
            "trellis0:12",
            "trellis5:12",
            "trellis2:7",
            "trellis2:17",
            "trellis2:012",
        ] {
            let error = text.parse::<Trellis>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("unknown trellis `{text}`: expected trellis, 1 to 4 bits, a colon")),
                "{error}"
            );
        }
        assert_eq!("trellis2:12".parse(), Ok(trellis(2, 12)));
    }

    #[test]
    fn json_is_readable() {
        let scheme: Scheme = "int4/128/int8/16:f32".parse().unwrap();
        let json = r#"{"code":"int4","group":128,"scale":"int8/16:f32"}"#;
        assert_eq!(serde_json::to_string(&scheme).unwrap(), json);
        assert_eq!(serde_json::from_str::<Scheme>(json).unwrap(), scheme);
        assert_eq!(serde_json::from_str::<Group>(r#""128""#).unwrap(), scheme.group);
        let minimum: Scheme = "uint4/32/f16/min:f16".parse().unwrap();
        let json = r#"{"code":"uint4","group":32,"scale":"f16","minimum":"f16"}"#;
        assert_eq!(serde_json::to_string(&minimum).unwrap(), json);
        assert_eq!(serde_json::from_str::<Scheme>(json).unwrap(), minimum);
        let bad = [
            r#"{"code":"int4","group":0,"scale":"f16"}"#,
            r#"{"code":"int4","group":-4,"scale":"f16"}"#,
            r#"{"code":"int4","group":1.5,"scale":"f16"}"#,
            r#"{"code":"int99","group":4,"scale":"f16"}"#,
            r#"{"code":"int4","group":4,"scale":"f16","zeros":true}"#,
            r#"{"code":"int4","group":4}"#,
        ];
        for json in bad {
            assert!(serde_json::from_str::<Scheme>(json).is_err(), "{json}");
        }
        assert_eq!(serde_json::to_string(&Bits::new(5).unwrap()).unwrap(), "5");
        assert_eq!(serde_json::from_str::<Mu>("0.5").unwrap().get(), 0.5);
        assert_eq!(serde_json::from_str::<Octaves>("3.25").unwrap().get(), 3.25);
        assert!(serde_json::from_str::<Octaves>("3.3").is_err());
        assert!(serde_json::from_str::<Bits>("17").is_err() && serde_json::from_str::<Mu>("0.3").is_err());
    }

    proptest! {
        #[test]
        fn every_scheme_survives_text_and_json(scheme in any_scheme()) {
            prop_assert_eq!(scheme.to_string().parse::<Scheme>(), Ok(scheme));
            let json = serde_json::to_string(&scheme).unwrap();
            prop_assert_eq!(serde_json::from_str::<Scheme>(&json).unwrap(), scheme);
        }

        #[test]
        fn no_text_is_a_panic(text in "[a-z0-9/:.+-]{0,24}") {
            if let Ok(scheme) = text.parse::<Scheme>() {
                prop_assert_eq!(scheme.to_string().parse::<Scheme>(), Ok(scheme));
            }
        }
    }
}
