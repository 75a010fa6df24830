//! What a job says in the end.

use std::borrow::Cow;
use std::path::PathBuf;

use quench_eval::{GateResult, Measured};
use quench_models::text::Sample;
use quench_quantize::recipe::Transform;
use quench_quantize::{Ledger, Plan, Recipe};
use serde::{Deserialize, Serialize};

/// Everything that is known about a finished job; `--json` writes it as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of Quench.
    pub version: String,
    /// The dense model's folder.
    pub model: PathBuf,
    /// The result's folder.
    pub output: PathBuf,
    /// The device that the job ran on.
    pub device: String,
    /// What was asked for.
    pub recipe: Recipe,
    /// What was done.
    pub plan: Plan,
    /// What came of the plan's transforms.
    pub transforms: Vec<Transformed>,
    /// What each layer cost.
    pub ledger: Ledger,
    /// Bytes before and after.
    pub size: Size,
    /// The result beside the dense model, on the evaluation data.
    pub comparison: Option<Measured>,
    /// The cascade beside direct quantization.
    pub cascade: Option<CascadeVerdict>,
    /// The gates of the recipe.
    pub gates: Vec<GateResult>,
    /// Calibration sequences, and tokens in all.
    pub calibration: CalibrationSize,
    /// Wall time.
    pub seconds: Seconds,
}

/// What came of a transform.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transformed {
    /// Which one.
    pub transform: Transform,
    /// Whether it was done: a rotation is not if plain rounding is predicted to gain next to nothing by it.
    pub applied: bool,
    /// What plain rounding gains by it in dB: of the weights by a rotation, of the outputs, as a mean over the seams, by AWQ.
    pub gain: Option<f64>,
}

/// Sizes in bytes of tensor data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// The dense checkpoint as it was stored.
    pub dense_bytes: u64,
    /// The result.
    pub bytes: u64,
    /// `dense_bytes / bytes`.
    pub compression: f64,
    /// The same against weights of 32 bits.
    pub compression_f32: f64,
    /// Bits per weight over the quantized layers, with scales, zero points and order, and of entropy-coded ones tables and index.
    pub bits_per_weight: f64,
    /// The same once entropy-coded codes are decoded, as they are in memory.
    pub decoded_bits_per_weight: f64,
    /// Bits per parameter over the whole checkpoint.
    pub bits_per_parameter: f64,
    /// Parameters in all.
    pub parameters: u64,
}

/// How much calibration data was used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrationSize {
    /// What a sample is: `"sequence"`, `"sentence"` or `"image"`.
    pub unit: Cow<'static, str>,
    /// Samples.
    pub samples: usize,
    /// Tokens; 0 for images.
    pub tokens: usize,
    /// Tokens per language, in the order of the sources.
    pub languages: Vec<(String, usize)>,
}

impl CalibrationSize {
    /// That of texts.
    pub(crate) fn tokens(unit: &'static str, samples: &[Sample]) -> Self {
        let mut languages: Vec<(String, usize)> = Vec::new();
        for sample in samples {
            let Some(language) = &sample.language else { continue };
            match languages.iter_mut().find(|(name, _)| name == language) {
                Some((_, tokens)) => *tokens += sample.ids.len(),
                None => languages.push((language.clone(), sample.ids.len())),
            }
        }
        let tokens = samples.iter().map(|sample| sample.ids.len()).sum();
        Self { unit: unit.into(), samples: samples.len(), tokens, languages }
    }

    /// That of images.
    pub(crate) fn images(samples: usize) -> Self {
        Self { unit: "image".into(), samples, tokens: 0, languages: Vec::new() }
    }
}

/// Which of the two was better on the evaluation text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CascadeVerdict {
    /// `"cascade"`, `"direct"` or `"neither"`.
    pub winner: Cow<'static, str>,
    /// Mean KL divergence of the cascade, nats per token.
    pub kl_cascade: f64,
    /// Mean KL divergence of direct quantization.
    pub kl_direct: f64,
    /// Perplexity of the cascade.
    pub perplexity_cascade: f64,
    /// Perplexity of direct quantization.
    pub perplexity_direct: f64,
    /// The verdict in words.
    pub sentence: String,
}

/// Wall time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Reading and preparing calibration and evaluation data.
    pub data: f64,
    /// Quantizing, all stages, and direct quantization beside a cascade.
    pub quantize: f64,
    /// Comparing with the dense model.
    pub evaluate: f64,
    /// Writing the result.
    pub save: f64,
}

impl Report {
    /// Whether every gate holds.
    pub fn passed(&self) -> bool {
        self.gates.iter().all(|gate| gate.passed)
    }
}

impl CascadeVerdict {
    /// Compares the candidates `"cascade"` and `"direct"` on texts; `None` for other data, whose table has both.
    pub(crate) fn new(measured: &Measured) -> Option<Self> {
        let Measured::Texts(comparison) = measured else { return None };
        let [cascade, direct] = ["cascade", "direct"].map(|name| comparison.candidates.iter().find(|c| c.name == name));
        let (cascade, direct) = (&cascade?.total, &direct?.total);
        let (kl_cascade, kl_direct) = (cascade.kl.mean, direct.kl.mean);
        // The intervals are over sequences; where they overlap, the text is too short to tell the two apart.
        let apart = match (cascade.kl_interval, direct.kl_interval) {
            (Some(cascade), Some(direct)) => cascade.high < direct.low || direct.high < cascade.low,
            _ => false,
        };
        let (winner, name) =
            if kl_cascade < kl_direct { ("cascade", "the cascade") } else { ("direct", "direct quantization") };
        let percent = 100.0 * (kl_cascade - kl_direct).abs() / kl_direct.max(kl_cascade).max(f64::MIN_POSITIVE);
        let sentence = format!(
            "{name} has the lower mean KL divergence, {:.5} against {:.5} nats per token ({percent:.1} % less){}",
            kl_cascade.min(kl_direct),
            kl_cascade.max(kl_direct),
            if apart { "" } else { "; the 95 % intervals overlap, so this text does not tell them apart" }
        );
        Some(Self {
            winner: if kl_cascade == kl_direct { "neither" } else { winner }.into(),
            kl_cascade,
            kl_direct,
            perplexity_cascade: cascade.perplexity,
            perplexity_direct: direct.perplexity,
            sentence,
        })
    }
}
