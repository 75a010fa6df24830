//! Values of the format crate as the short texts that recipes and plans use, and TOML errors that help.

use std::fmt::Display;
use std::str::FromStr;

use quench_format::Group;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::QuantizeError;

/// Reads a value from its text.
pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr,
    T::Err: Display,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// A value that may be absent.
pub(crate) mod option {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        super::deserialize(deserializer).map(Some)
    }
}

/// A list of values.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// A group, which may be written as a number, and may be absent.
pub(crate) mod group {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(value: &Option<Group>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Group>, D::Error> {
        let text = match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) => number.to_string(),
            Ok(Written::Text(text)) => text,
            Err(_) => return Err(D::Error::custom("`group` must be \"tensor\", \"row\" or a number of columns")),
        };
        text.parse().map(Some).map_err(|error| D::Error::custom(format!("`group`: {error}")))
    }
}

/// Parses TOML; an unknown key or value becomes an error that names the nearest valid one.
pub(crate) fn from_toml<T: DeserializeOwned>(source: &str) -> Result<T, QuantizeError> {
    toml::from_str(source).map_err(|error| {
        let message = error.to_string().trim_end().to_owned();
        QuantizeError::Recipe { nearest: nearest(error.message()), message }
    })
}

/// The candidate nearest to the unknown word in serde's "unknown field `a`, expected one of `b`, `c`".
fn nearest(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let (distance, best) = quoted.map(|key| (strsim::damerau_levenshtein(unknown, key), key)).min()?;
    // Half the word or more wrong is no longer a typing mistake.
    (distance * 2 <= unknown.len().max(2)).then(|| best.to_owned())
}
