//! How far each layer of a quantized model has gone from the dense one.

use std::collections::HashMap;

use burn::tensor::Tensor;
use quench_metrics::Distortion;
use quench_nn::{LayerInfo, Model, Section, Tap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The output of one layer of a candidate against that of the dense model.
///
/// Each layer reads what reaches it in its own model, so the error is that of all layers so far; but for the output loss,
/// which is of this one alone. Outputs are `x · Wᵀ`, without bias, over all positions of the batches that were recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerError {
    /// The Hugging Face name without `.weight`.
    pub layer: String,
    /// `||y - y_dense|| / ||y_dense||`.
    pub relative_error: f64,
    /// `10 log10(||y_dense||² / ||y - y_dense||²)` in decibels; infinite for equal outputs, `null` in JSON.
    #[serde(serialize_with = "infinite_as_null", deserialize_with = "null_as_infinite")]
    pub snr_db: f64,
    /// `tr(E G Eᵀ) / tr(W G Wᵀ)`, `E = Ŵ − W`, `G = Σ x xᵀ` over the inputs of the dense model: the part of the output's
    /// energy that the codes of this layer alone make an error.
    pub output_loss: f64,
}

/// What reached each site of one model in one section, on one batch.
#[derive(Debug, Default)]
pub(crate) struct Inputs(HashMap<String, Tensor<2>>);

impl Tap for Inputs {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let dims = x.dims();
        let rows = dims[..D - 1].iter().product();
        self.0.insert(site.to_owned(), x.clone().reshape([rows, dims[D - 1]])); // [rows, in]
        x
    }
}

/// The distortions of all layers of one candidate, added up over the recorded batches.
#[derive(Debug)]
pub(crate) struct LayerErrors(Vec<Errors>);

#[derive(Debug)]
struct Errors {
    layer: String,
    /// On the inputs of its own model.
    own: Distortion,
    /// On those of the dense model.
    alone: Distortion,
}

impl LayerErrors {
    /// Nothing measured yet, for all layers that read a site.
    pub(crate) fn new(layers: &[LayerInfo]) -> Self {
        let reading = layers.iter().filter(|layer| !layer.site.is_empty());
        Self(
            reading
                .map(|layer| Errors {
                    layer: layer.name.clone(),
                    own: Distortion::default(),
                    alone: Distortion::default(),
                })
                .collect(),
        )
    }

    /// Adds the outputs of the layers of `section`, each on the inputs of its own model.
    pub(crate) fn add<M: Model>(&mut self, section: Section, dense: (&mut M, &Inputs), candidate: (&mut M, &Inputs)) {
        let parts = dense.0.open(section).into_iter().zip(candidate.0.open(section));
        for (dense_part, candidate_part) in parts {
            let inputs = (dense.1.0.get(&dense_part.site), candidate.1.0.get(&candidate_part.site));
            let sum = self.0.iter_mut().find(|errors| errors.layer == dense_part.name);
            if let ((Some(x), Some(x_candidate)), Some(sum)) = (inputs, sum) {
                let y = dense_part.weight.matmul(x.clone()); // [rows, out]
                sum.alone.add(y.clone(), candidate_part.weight.matmul(x.clone()));
                sum.own.add(y, candidate_part.weight.matmul(x_candidate.clone()));
            }
        }
    }

    /// The errors of the layers that were measured, in the order of the walk.
    pub(crate) fn finish(self) -> Vec<LayerError> {
        let measured = self.0.into_iter().filter(|errors| errors.own != Distortion::default());
        measured
            .map(|Errors { layer, own, alone }| LayerError {
                layer,
                relative_error: own.relative_error(),
                snr_db: own.snr_db(),
                output_loss: alone.relative_error().powi(2),
            })
            .collect()
    }
}

/// JSON has no infinity.
fn infinite_as_null<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(serializer)
}

fn null_as_infinite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_round_trip() {
        for snr_db in [12.5, f64::INFINITY] {
            let error = LayerError { layer: "lm_head".into(), relative_error: 0.25, snr_db, output_loss: 0.01 };
            let text = serde_json::to_string(&error).unwrap();
            assert_eq!(serde_json::from_str::<LayerError>(&text).unwrap(), error, "{text}");
        }
    }
}
