//! Rotary position embedding in the Hugging Face order: the first half of a head is turned against the second.

use std::f64::consts::PI;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::ModelError;
use crate::fields::Fields;

/// How positions turn the heads: base frequency, how much of a head is turned, and how long contexts stretch it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base θ: pair `i` of `rotary / 2` turns by `position · θ^(−2i / rotary)`.
    pub theta: f64,
    /// How many leading elements of a head are turned; even. The rest pass unchanged (partial rotary, Phi).
    pub rotary: usize,
    /// The change made to the frequencies for contexts longer than the model was first trained on.
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor`.
    ///
    /// Source: Chen et al. 2023, "Extending context window of large language models via positional interpolation".
    Linear {
        /// Divides every frequency.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a linear blend between.
    ///
    /// Source: the Llama 3.1 reference code, `apply_scaling`.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are low frequencies.
        low: f64,
        /// Wavelengths below `original / high` are high frequencies.
        high: f64,
        /// The context of the first training, in tokens.
        original: f64,
    },
    /// A blend by the number of turns within the original context, and attention scores scaled by `attention²`.
    ///
    /// Source: Peng et al. 2023, "YaRN: efficient context window extension of large language models".
    Yarn {
        /// Divides the low frequencies.
        factor: f64,
        /// Pairs that turn more often than this are kept.
        beta_fast: f64,
        /// Pairs that turn less often than this are divided.
        beta_slow: f64,
        /// The context of the first training, in tokens.
        original: f64,
        /// Multiplies sine and cosine.
        attention: f64,
        /// Whether the ends of the blend are rounded to whole pairs.
        truncate: bool,
    },
}

/// The scalings that are computed, in the words of the configuration.
const KNOWN: [&str; 4] = ["default", "linear", "llama3", "yarn"];

impl Rope {
    /// Reads one rotary embedding.
    ///
    /// `parameters` is the object of `rope_parameters` or `rope_scaling`; `theta` and `rotary_factor` come from
    /// outside where the older layout keeps them there.
    pub(crate) fn read(
        config: &Fields,
        parameters: Option<&Fields>,
        theta: f64,
        rotary_factor: f64,
        head_dim: usize,
    ) -> Result<Self, ModelError> {
        let theta = match parameters {
            Some(fields) => fields.optional_positive("rope_theta")?.unwrap_or(theta),
            None => theta,
        };
        let rotary_factor = match parameters {
            Some(fields) => fields.optional_positive("partial_rotary_factor")?.unwrap_or(rotary_factor),
            None => rotary_factor,
        };
        // The reference truncates the product.
        let rotary = (head_dim as f64 * rotary_factor) as usize;
        if rotary < 2 || rotary > head_dim || !rotary.is_multiple_of(2) {
            let key = if config.has("partial_rotary_factor") { "partial_rotary_factor" } else { "head_dim" };
            return Err(config.wrong(
                key,
                format!("such that an even part of a head is turned; {rotary_factor} of {head_dim} is {rotary}"),
            ));
        }
        let scaling = match parameters {
            Some(fields) => RopeScaling::read(config, fields)?,
            None => RopeScaling::Default,
        };
        Ok(Self { theta, rotary, scaling })
    }

    /// Angle per position of each pair, `rotary / 2` values, and the factor on sine and cosine.
    pub fn frequencies(&self) -> (Vec<f64>, f64) {
        let pairs = self.rotary / 2;
        let plain = (0..pairs).map(|pair| self.theta.powf(-2.0 * pair as f64 / self.rotary as f64));
        match self.scaling {
            RopeScaling::Default => (plain.collect(), 1.0),
            RopeScaling::Linear { factor } => (plain.map(|f| f / factor).collect(), 1.0),
            RopeScaling::Llama3 { factor, low, high, original } => {
                let scale = |frequency: f64| {
                    // How often the pair turns within the original context.
                    let turns = original * frequency / (2.0 * PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / factor)
                };
                (plain.map(scale).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original, attention, truncate } => {
                // The (fractional) pair that turns `turns` times within the original context.
                let pair_of =
                    |turns: f64| self.rotary as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (first, last) = (pair_of(beta_fast), pair_of(beta_slow));
                let (first, last) = if truncate { (first.floor(), last.ceil()) } else { (first, last) };
                let (first, last) = (first.max(0.0), last.min(self.rotary as f64 - 1.0));
                let width = if first == last { 0.001 } else { last - first };
                let scale = |(pair, frequency): (usize, f64)| {
                    let kept = 1.0 - ((pair as f64 - first) / width).clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / factor)
                };
                (plain.enumerate().map(scale).collect(), attention)
            }
        }
    }

    /// Cosines and sines of `count` positions from `start`; in f64 on the host, rounded once to f32.
    pub(crate) fn table(&self, start: usize, count: usize, device: &Device) -> RopeTable {
        let (frequencies, attention) = self.frequencies();
        let pairs = frequencies.len();
        let values = |function: fn(f64) -> f64| {
            let values: Vec<f32> = (start..start + count)
                .flat_map(|position| frequencies.iter().map(move |f| function(position as f64 * f)))
                .map(|value| (value * attention) as f32)
                .collect();
            Tensor::from_data(TensorData::new(values, [1, 1, count, pairs]), (device, DType::F32))
        };
        RopeTable { cos: values(f64::cos), sin: values(f64::sin), pairs }
    }
}

impl RopeScaling {
    fn read(config: &Fields, fields: &Fields) -> Result<Self, ModelError> {
        // `type` is the key of the oldest layout.
        let key = if fields.has("rope_type") { "rope_type" } else { "type" };
        let original = || -> Result<f64, ModelError> {
            let key = "original_max_position_embeddings";
            let found = match fields.optional_positive(key)? {
                Some(original) => Some(original),
                None => config.optional_positive(key)?,
            };
            found.map_or_else(|| config.positive("max_position_embeddings"), Ok)
        };
        Ok(match fields.optional_text(key)?.unwrap_or("default") {
            "default" => Self::Default,
            "linear" => Self::Linear { factor: fields.positive("factor")? },
            "llama3" => {
                let low = fields.positive("low_freq_factor")?;
                let high = fields.positive("high_freq_factor")?;
                if high <= low {
                    return Err(fields.wrong("high_freq_factor", format!("above low_freq_factor {low}")));
                }
                Self::Llama3 {
                    factor: fields.positive("factor")?,
                    low,
                    high,
                    original: fields.positive("original_max_position_embeddings")?,
                }
            }
            "yarn" => {
                let original = original()?;
                let factor = match fields.optional_positive("factor")? {
                    Some(factor) => factor,
                    None => config.positive("max_position_embeddings")? / original,
                };
                let mscale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
                let weights = (fields.optional_positive("mscale")?, fields.optional_positive("mscale_all_dim")?);
                let attention = match (fields.optional_positive("attention_factor")?, weights) {
                    (Some(attention), _) => attention,
                    (None, (Some(weight), Some(all))) => mscale(weight) / mscale(all),
                    (None, _) => mscale(1.0),
                };
                Self::Yarn {
                    factor,
                    beta_fast: fields.optional_positive("beta_fast")?.unwrap_or(32.0),
                    beta_slow: fields.optional_positive("beta_slow")?.unwrap_or(1.0),
                    original,
                    attention,
                    truncate: fields.optional_flag("truncate")?.unwrap_or(true),
                }
            }
            other => return Err(fields.unsupported(key, other, &KNOWN)),
        })
    }
}

/// Cosines and sines of consecutive positions.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    cos: Tensor<4>, // [1, 1, seq, pairs]
    sin: Tensor<4>,
    pairs: usize,
}

impl RopeTable {
    /// Turns each pair `(x_i, x_{i + pairs})` by its angle; elements past `2 · pairs` pass.
    ///
    /// - `x`: `[batch, heads, seq, head_dim]`, `seq` as the table has it
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let head_dim = x.dims()[3];
        let first = x.clone().narrow(3, 0, self.pairs);
        let second = x.clone().narrow(3, self.pairs, self.pairs);
        let mut parts = vec![
            first.clone() * self.cos.clone() - second.clone() * self.sin.clone(),
            second * self.cos.clone() + first * self.sin.clone(),
        ];
        let turned = 2 * self.pairs;
        if turned < head_dim {
            parts.push(x.narrow(3, turned, head_dim - turned));
        }
        Tensor::cat(parts, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10000.0, rotary: 8, scaling }
    }

    /// Frequencies of the reference library (`modeling_rope_utils.py`), worked out by hand from its formulas.
    #[test]
    fn frequencies_follow_the_reference() {
        let plain = [1.0, 0.1, 0.01, 0.001];
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 512.0 };
        // Wavelengths 6.3, 62.8, 628, 6283 against 128 (high) and 512 (low): kept, kept, divided, divided.
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original: 2048.0,
            attention: 1.25,
            truncate: true,
        };
        // ln(2048 / 64π) · 8 / (2 ln 10⁴) = 1.007 → 1, ln(2048 / 2π) · … = 2.513 → 3: the blend goes from pair 1 to 3.
        let cases = [
            ("default", RopeScaling::Default, plain, 1.0),
            ("linear", RopeScaling::Linear { factor: 4.0 }, [0.25, 0.025, 0.0025, 0.00025], 1.0),
            ("llama3", llama3, [1.0, 0.1, 0.00125, 0.000125], 1.0),
            ("yarn", yarn, [1.0, 0.1, 0.01 * 0.625, 0.001 * 0.25], 1.25),
        ];
        for (name, scaling, expected, expected_attention) in cases {
            let (found, attention) = rope(scaling).frequencies();
            assert_eq!(attention, expected_attention, "{name}");
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 1e-12, "{name}: {found:?}, expected {expected:?}");
            }
        }
    }

    #[test]
    fn llama3_blends_between() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 2.5 * 2.0 * PI * 10.0 };
        // Pair 1 turns 2.5 times in the original context: half way between 1 and 4.
        let (found, _) = rope(scaling).frequencies();
        assert!((found[1] - 0.1 * (0.5 + 0.5 / 8.0)).abs() < 1e-12, "{found:?}");
    }
}
