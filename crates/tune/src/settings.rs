//! [`Settings`]: what is trained, how fast, and for how long.

use quench_nn::LayerInfo;
use quench_quantize::{Method as Quantizer, Order, Refine, ScaleSearch};
use serde::{Deserialize, Serialize};

use crate::TuneError;

/// What is trained; the rest of the network stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Method {
    /// Quantization-aware training: weights, scales, zero points, and the gains of norms.
    Qat,
    /// Adapters of low rank on packed weights, whose codes stay.
    Lora {
        /// Columns of an adapter.
        rank: usize,
        /// `α / rank`, the factor of the adapters.
        #[serde(default = "one")]
        strength: f64,
        /// Whether adapters begin with the best correction of what quantization has lost; else `B = 0`.
        #[serde(default = "yes")]
        recover: bool,
    },
    /// Gains of norms, scales, zero points and minimums; codes stay.
    Norms,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

impl Method {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Qat => "qat",
            Self::Lora { .. } => "lora",
            Self::Norms => "norms",
        }
    }
}

/// How fast each kind of tensor is trained: what AdamW changes it by in a step, at most and at the peak of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// Weights, in steps of their grid.
    pub weights: f64,
    /// Scales and minimums, in scales as they were; zero points.
    pub scales: f64,
    /// Gains of norms, as they are.
    pub gains: f64,
    /// Adapters, as they are.
    pub adapters: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self { weights: 5e-3, scales: 1e-3, gains: 1e-3, adapters: 5e-4 }
    }
}

/// A run of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is trained.
    pub method: Method,
    /// Patterns of layer names, `*` for anything; a packed layer that none matches stays as it is.
    pub targets: Vec<String>,
    /// How fast.
    pub rates: Rates,
    /// Steps.
    pub steps: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// The share of steps in which rates rise to their peak, in a line; then they fall with half a cosine.
    pub warmup: f64,
    /// Rates at the end, over those at the peak.
    pub floor: f64,
    /// Weight decay of AdamW, of weights and adapters.
    pub decay: f64,
    /// The largest norm of all gradients together; longer ones are made as long.
    pub clip: f64,
    /// Steps between two evaluations.
    pub evaluate: usize,
    /// Evaluations without a better one after which the run ends.
    pub patience: usize,
    /// Steps between two states on disk.
    pub save: usize,
    /// Classes that are kept of what the teacher says.
    pub top: usize,
    /// Of the order of the batches, and of adapters that do not recover.
    pub seed: u64,
    /// How adapters are merged.
    pub merge: Quantizer,
}

impl Default for Settings {
    fn default() -> Self {
        let refine = Refine { refit: true, descent: 10, pairs: 0 };
        Self {
            method: Method::Qat,
            targets: vec!["*".to_owned()],
            rates: Rates::default(),
            steps: 300,
            accumulate: 1,
            warmup: 0.05,
            floor: 0.05,
            decay: 0.0,
            clip: 1.0,
            evaluate: 50,
            patience: 5,
            save: 50,
            top: 64,
            seed: 0,
            merge: Quantizer::Gptq {
                search: ScaleSearch::Gram,
                order: Order::Static,
                damping: 0.01,
                block: 128,
                refine,
                restarts: 1,
                feedback: 0.0,
            },
        }
    }
}

impl Settings {
    /// # Errors
    ///
    /// [`TuneError::Setting`] for one that makes no sense.
    pub(crate) fn check(&self) -> Result<(), TuneError> {
        let wrong =
            |key, found: &dyn ToString, expected| Err(TuneError::Setting { key, found: found.to_string(), expected });
        let counts = [
            ("steps", self.steps),
            ("accumulate", self.accumulate),
            ("evaluate", self.evaluate),
            ("patience", self.patience),
            ("save", self.save),
            ("top", self.top),
        ];
        if let Some((key, found)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return wrong(key, &found, "1 or more");
        }
        let rates = [self.rates.weights, self.rates.scales, self.rates.gains, self.rates.adapters];
        if let Some(found) = rates.iter().find(|rate| !(rate.is_finite() && **rate >= 0.0)) {
            return wrong("rates", found, "not below 0");
        }
        for (key, share) in [("warmup", self.warmup), ("floor", self.floor)] {
            if !(0.0..=1.0).contains(&share) {
                return wrong(key, &share, "0 to 1");
            }
        }
        if self.clip.is_nan() || self.clip <= 0.0 {
            return wrong("clip", &self.clip, "above 0");
        }
        match self.method {
            Method::Lora { rank: 0, .. } => wrong("rank", &0, "1 or more"),
            Method::Lora { strength, .. } if !(strength.is_finite() && strength > 0.0) => {
                wrong("strength", &strength, "above 0")
            }
            _ => Ok(()),
        }
    }

    /// Whether a layer is to be trained. A table has no inputs that an adapter could be merged for, and gets none.
    pub(crate) fn names(&self, layer: &LayerInfo) -> bool {
        let is_table = layer.site.is_empty() && matches!(self.method, Method::Lora { .. });
        !is_table && self.targets.iter().any(|pattern| matches(pattern, &layer.name))
    }
}

/// Whether a name is what a pattern says, `*` standing for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => {
            let Some(tail) = name.strip_prefix(head) else { return false };
            // Every place where the rest may begin; the end of the name too.
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        let name = "model.layers.3.mlp.down_proj";
        for (pattern, expected) in [
            ("*", true),
            ("*.down_proj", true),
            ("model.*.mlp.*", true),
            ("model.layers.3.mlp.down_proj", true),
            ("*.q_proj", false),
            ("down_proj", false),
            ("model.layers.*.self_attn.*", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern}");
        }
    }

    #[test]
    fn senseless_settings_are_named() {
        let cases = [
            (Settings { steps: 0, ..Settings::default() }, "`steps` is 0"),
            (Settings { warmup: 1.5, ..Settings::default() }, "`warmup` is 1.5"),
            (Settings { clip: f64::NAN, ..Settings::default() }, "`clip` is NaN"),
            (
                Settings { method: Method::Lora { rank: 0, strength: 1.0, recover: true }, ..Settings::default() },
                "`rank` is 0",
            ),
        ];
        for (settings, expected) in cases {
            let message = settings.check().unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
        Settings::default().check().unwrap();
    }
}
