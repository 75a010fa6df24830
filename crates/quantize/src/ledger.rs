//! What was done to each layer, and what it cost.

use serde::{Deserialize, Serialize};

/// One layer in one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The layer.
    pub layer: String,
    /// The stage, from 0.
    pub stage: usize,
    /// The scheme, as text.
    pub scheme: String,
    /// The quantizer.
    pub method: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Bits per weight with scales, zero points and order.
    pub bits_per_weight: f64,
    /// Signal-to-noise ratio of the weights against the stage's input weights, in dB: `10 log₁₀(Σ w² / Σ (ŵ − w)²)`;
    /// nothing where there is no error at all.
    pub weight_snr_db: Option<f64>,
    /// `tr(E G Eᵀ) / tr(W G Wᵀ)` on the calibration inputs, where they were seen; of the weights as feedback has moved them.
    pub output_loss: Option<f64>,
    /// The damping that the Gram matrix needed.
    pub damping: Option<f64>,
    /// Rows in which plain rounding was better than the quantizer's result and was kept.
    pub rounded_rows: usize,
}

impl Entry {
    /// Signal-to-noise ratio of the layer's output on the calibration inputs, in dB.
    pub fn output_snr_db(&self) -> Option<f64> {
        self.output_loss.filter(|loss| *loss > 0.0).map(|loss| -10.0 * loss.log10())
    }
}

/// Every layer in the order it was quantized; later stages follow earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The rows.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// The last entry of a layer.
    pub fn last(&self, layer: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.layer == layer)
    }
}
