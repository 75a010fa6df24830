//! [`compare`] and [`perplexity`]: the two evaluations.

use std::cell::Cell;
use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor};
use quench_metrics::Bootstrap;
use quench_nn::{LayerInfo, Model, Role};
use serde::{Deserialize, Serialize};

use crate::batch::{Batches, name_of};
use crate::layers::LayerErrors;
use crate::score::{WindowValues, candidate_scores, model_score};
use crate::walk::{Walk, Walker};
use crate::{CandidateScore, Comparison, EvalError, ModelScore, Protocol, Text};

/// How the dense model is called in errors.
pub(crate) const DENSE: &str = "dense model";

/// How an evaluation is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Which tokens are scored.
    pub protocol: Protocol,
    /// The beginning-of-sequence token, needed if the protocol asks for it.
    pub bos: Option<u32>,
    /// Windows that a model reads at once. Logits take `batch · length · vocab · 4` bytes, twice.
    pub batch: usize,
    /// Tokens whose hidden states are held at once, `4 · hidden` bytes each and for each model; weights are read once
    /// for every so many tokens.
    pub tokens_per_pass: usize,
    /// Batches on which the outputs of single layers are compared, spread evenly over all; 0 for none.
    pub layer_batches: usize,
    /// How intervals are drawn.
    pub bootstrap: Bootstrap,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: Protocol::default(),
            bos: None,
            batch: 8,
            tokens_per_pass: 32_768,
            layer_batches: 2,
            bootstrap: Bootstrap::default(),
        }
    }
}

/// A model to be compared with the dense one.
#[derive(Debug)]
pub struct Candidate<'a, M> {
    /// Its name in the report.
    pub name: String,
    /// The model, of the dense model's architecture.
    pub model: &'a mut M,
}

/// Scores the dense model and every candidate on the same tokens, and each candidate against the dense model.
///
/// All models go forward together, section by section: a section is loaded, all batches of a pass go through it, and
/// it is released. In memory are one dense section, whatever of the candidates is packed, and the hidden states of one
/// pass. Afterwards all sections are released: [`Model::load`] them again before a forward pass of your own.
///
/// - `texts`: scored together, and per language where they name one
/// - `progress`: called with the steps done and the steps in all; a step is one batch through one section of one model.
///   Breaking stops the evaluation
///
/// # Errors
///
/// If the protocol is impossible, a text has no token to score or one outside the vocabulary, a candidate is of another
/// architecture, a section cannot be read, or logits are not finite; [`EvalError::Interrupted`] if `progress` broke off.
pub fn compare<M: Model<Input = Tensor<2, Int>>>(
    dense: &mut M,
    candidates: &mut [Candidate<'_, M>],
    texts: &[Text],
    options: &Options,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Comparison, EvalError> {
    let layers = dense.layers();
    for candidate in candidates.iter() {
        same_architecture(&*dense, &layers, candidate)?;
    }
    options.protocol.check(options.bos)?;
    let vocab = layers.iter().find(|layer| layer.role == Role::Embedding).map(|layer| layer.shape[0]);
    let batches = Batches::new(texts, &options.protocol, options.bos, options.batch, vocab)?;

    let candidates: Vec<_> = candidates
        .iter_mut()
        .map(|candidate| Walker { name: candidate.name.clone(), model: &mut *candidate.model })
        .collect();
    let mut walk = Walk {
        dense: Walker { name: DENSE.into(), model: dense },
        layers: candidates.iter().map(|_| LayerErrors::new(&layers)).collect(),
        candidates,
        values: vec![WindowValues::default(); batches.text_of.len()],
        names: batches.text_of.iter().map(|text| name_of(&texts[*text], *text)).collect(),
        device,
    };
    let recorded = spread(options.layer_batches, batches.batches.len());
    let total = walk.steps_per_batch() * batches.batches.len();
    let (mut done, stopped) = (0, Cell::new(false));
    let mut step = || {
        done += 1;
        if progress(done, total).is_break() {
            stopped.set(true);
        }
    };
    let mut first = 0;
    for pass in batches.passes(options.tokens_per_pass) {
        walk.pass(pass, &recorded[first..first + pass.len()], &mut step, &stopped)?;
        first += pass.len();
    }

    let Walk { candidates, layers, values, .. } = walk;
    let score = |(index, (walker, layers)): (usize, (Walker<'_, M>, LayerErrors))| {
        let (total, languages) = candidate_scores(index, &values, &batches.text_of, texts, &options.bootstrap);
        CandidateScore { name: walker.name, total, languages, layers: layers.finish() }
    };
    Ok(Comparison {
        dense: model_score(&values, &batches.text_of, texts, &options.bootstrap),
        candidates: candidates.into_iter().zip(layers).enumerate().map(score).collect(),
    })
}

/// Scores one model alone; as [`compare`] without candidates.
///
/// # Errors
///
/// As [`compare`].
pub fn perplexity<M: Model<Input = Tensor<2, Int>>>(
    model: &mut M,
    texts: &[Text],
    options: &Options,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<ModelScore, EvalError> {
    Ok(compare(model, &mut [], texts, options, device, progress)?.dense)
}

fn same_architecture<M: Model>(dense: &M, layers: &[LayerInfo], candidate: &Candidate<'_, M>) -> Result<(), EvalError> {
    let other = candidate.model.layers();
    let reason = if candidate.model.blocks() != dense.blocks() {
        format!("it has {} blocks, the dense model {}", candidate.model.blocks(), dense.blocks())
    } else if let Some((found, expected)) = other.iter().zip(layers).find(|(found, expected)| found != expected) {
        format!(
            "it has {} {:?} where the dense model has {} {:?}",
            found.name, found.shape, expected.name, expected.shape
        )
    } else if other.len() != layers.len() {
        format!("it has {} layers, the dense model {}", other.len(), layers.len())
    } else {
        return Ok(());
    };
    Err(EvalError::Mismatch { candidate: candidate.name.clone(), reason })
}

/// `count` of `n` places, spread evenly.
fn spread(count: usize, n: usize) -> Vec<bool> {
    let count = count.min(n);
    let mut places = vec![false; n];
    for index in 0..count {
        places[index * n / count] = true;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_even() {
        for (count, n, expected) in [
            (0, 4, vec![]),
            (1, 4, vec![0]),
            (2, 4, vec![0, 2]),
            (3, 7, vec![0, 2, 4]),
            (9, 3, vec![0, 1, 2]),
            (2, 0, vec![]),
        ] {
            let places: Vec<usize> =
                spread(count, n).iter().enumerate().filter(|(_, on)| **on).map(|(i, _)| i).collect();
            assert_eq!(places, expected, "{count} of {n}");
        }
    }

    #[test]
    fn options_from_json() {
        let options: Options = serde_json::from_str(r#"{"batch": 4}"#).unwrap();
        assert_eq!(options, Options { batch: 4, ..Options::default() });
        assert!(serde_json::from_str::<Options>(r#"{"batches": 4}"#).is_err());
    }
}
