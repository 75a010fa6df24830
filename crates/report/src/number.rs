//! [`Number`]: a value with how it came about.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a number came about. Numbers of different evidence never share a column or a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// By running what it is about, or by counting.
    Measured,
    /// By a formula that is known to be near.
    Predicted,
    /// By a theorem whose premises were computed.
    Certified,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Predicted => "predicted",
            Self::Certified => "certified",
        })
    }
}

/// Where a true value probably is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Lower bound.
    #[serde(with = "null_as_nan")]
    pub low: f64,
    /// Upper bound.
    #[serde(with = "null_as_nan")]
    pub high: f64,
    /// Its confidence, 0.95 for most.
    pub level: f64,
}

/// A value with how it came about; the unit is that of the field which it stands in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Number {
    /// The value; `null` in JSON where there is none, such as a ratio of zeros.
    #[serde(with = "null_as_nan")]
    pub value: f64,
    /// How it came about.
    pub evidence: Evidence,
    /// Where the true value probably is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// How it was estimated, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub estimator: String,
    /// Of how many samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// What was drawn, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What the estimator gives where there is nothing to be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<f64>,
}

impl Number {
    /// A value of which nothing else is known.
    pub fn new(value: f64, evidence: Evidence) -> Self {
        Self { value, evidence, interval: None, estimator: String::new(), n: None, seed: None, null: None }
    }

    /// The number with an interval.
    pub fn between(self, low: f64, high: f64, level: f64) -> Self {
        Self { interval: Some(Interval { low, high, level }), ..self }
    }

    /// The number with how it was estimated, of how many samples.
    pub fn by(self, estimator: impl Into<String>, n: u64) -> Self {
        Self { estimator: estimator.into(), n: Some(n), ..self }
    }

    /// The bounds of its interval, if both are finite.
    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        self.interval.map(|interval| (interval.low, interval.high)).filter(|(l, h)| l.is_finite() && h.is_finite())
    }
}

/// JSON has neither NaN nor infinity.
pub(crate) mod null_as_nan {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

/// A number as people read it, four significant digits: `44.48`, `0.01234`, `1.235e-7`; whole numbers below a billion in full, and a dash
/// for what is not finite.
pub fn rounded(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value.fract() == 0.0 && value.abs() < 1e9 {
        return format!("{:.0}", value + 0.0); // -0 + 0 is 0
    }
    let scientific = format!("{value:.3e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    match exponent {
        -4..=3 => format!("{value:.*}", (3 - exponent) as usize),
        4..=9 => format!("{value:.0}"),
        _ => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits() {
        for (value, text) in [
            (44.4812, "44.48"),
            (0.0123456, "0.01235"),
            (0.0, "0"),
            (-0.0, "0"),
            (-7.0, "-7"),
            (9.9999, "10.00"),
            (11_540_992.0, "11540992"),
            (123_456.7, "123457"),
            (1.2346e-7, "1.235e-7"),
            (-0.5, "-0.5000"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
        ] {
            assert_eq!(rounded(value), text, "{value}");
        }
    }

    #[test]
    fn what_is_no_number_is_null() {
        let number = Number::new(f64::NAN, Evidence::Measured).by("a ratio", 0);
        let text = serde_json::to_string(&number).unwrap();
        assert_eq!(text, r#"{"value":null,"evidence":"measured","estimator":"a ratio","n":0}"#);
        assert!(serde_json::from_str::<Number>(&text).unwrap().value.is_nan());
    }
}
