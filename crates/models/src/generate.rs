//! Continuing a prompt, token by token.

use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Cache, Decoder, ModelError};

/// How the next token is drawn; the same values and seed draw the same tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token always.
    pub temperature: f32,
    /// Draws among this many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Draws among the likeliest tokens that together reach this probability, above 0 and at most 1.
    ///
    /// Source: Holtzman et al. 2020, "The curious case of neural text degeneration".
    pub top_p: Option<f32>,
    /// Seeds the generator, ChaCha8.
    pub seed: u64,
    /// The most tokens drawn.
    pub max_tokens: usize,
}

impl Default for Sampling {
    /// Greedy, 128 tokens.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, seed: 0, max_tokens: 128 }
    }
}

impl Sampling {
    fn check(&self) -> Result<(), ModelError> {
        let wrong = |name, expected, found: String| Err(ModelError::Sampling { name, expected, found });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong("temperature", "0 or more", self.temperature.to_string());
        }
        if self.top_k == Some(0) {
            return wrong("top_k", "1 or more", "0".to_owned());
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => wrong("top_p", "above 0 and at most 1", p.to_string()),
            _ => Ok(()),
        }
    }

    /// Draws a token: softmax of `logits / temperature`, cut to `top_k`, then to `top_p`, then renormalised.
    fn draw(&self, logits: &[f32], rng: &mut ChaCha8Rng) -> Result<u32, ModelError> {
        if let Some((token, value)) = logits.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(ModelError::Logit { token, value: *value });
        }
        // Ties go to the smaller id, so that the order is total.
        let likelier = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
        if self.temperature == 0.0 {
            let likeliest = (0..logits.len()).min_by(likelier);
            return Ok(likeliest.unwrap_or(0) as u32);
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        if let Some(k) = self.top_k.filter(|&k| k < order.len()) {
            order.select_nth_unstable_by(k, likelier);
            order.truncate(k);
        }
        order.sort_unstable_by(likelier);
        let largest = f64::from(logits[order[0]]);
        let mut weights: Vec<f64> =
            order.iter().map(|&id| ((f64::from(logits[id]) - largest) / f64::from(self.temperature)).exp()).collect();
        if let Some(p) = self.top_p {
            let enough = f64::from(p) * weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let below = weights.iter().take_while(|&&weight| {
                sum += weight;
                sum < enough
            });
            // The token that crosses the bound is in.
            let count = below.count() + 1;
            weights.truncate(count);
        }
        let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave nothing chosen: then it was the last.
        Ok(order[chosen.unwrap_or(weights.len() - 1)] as u32)
    }
}

/// Continues `prompt` until a token of `stop` (not returned), `sampling.max_tokens`, the model's longest context, or
/// `on_token` breaks; returns the new tokens.
///
/// - `on_token`: sees each new token as soon as it is drawn
///
/// # Errors
///
/// If the prompt is empty, longer than the model's context, or has an id outside of the vocabulary; if a sampling value
/// is out of range; if the model computes a logit that is not finite.
///
/// # Panics
///
/// If a weight cannot be read; call [`Model::load_all`](quench_nn::Model::load_all) first to have that as an error.
pub fn generate(
    decoder: &Decoder,
    prompt: &[u32],
    sampling: &Sampling,
    stop: &[u32],
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, ModelError> {
    sampling.check()?;
    let config = decoder.config();
    if prompt.is_empty() {
        return Err(ModelError::Prompt("is empty: give it at least one token".to_owned()));
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
        return Err(ModelError::Prompt(format!("has the token {id}, the vocabulary ends at {}", config.vocab_size)));
    }
    let room = match config.max_positions.checked_sub(prompt.len()) {
        Some(room) => room,
        None => {
            let message = format!("has {} tokens, the model's context ends at {}", prompt.len(), config.max_positions);
            return Err(ModelError::Prompt(message));
        }
    };
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut cache = Cache::new(config);
    let mut tokens = Vec::new();
    let mut next = prompt.to_vec();
    while tokens.len() < sampling.max_tokens.min(room) {
        let logits = decoder.step_last(ids(&[&next], decoder.device()), &mut cache); // [1, vocab]
        let logits: Vec<f32> = logits.into_data_as::<f32>().try_into_vec().unwrap_or_else(|error| panic!("{error:?}"));
        let token = sampling.draw(&logits, &mut rng)?;
        if stop.contains(&token) {
            break;
        }
        tokens.push(token);
        next = vec![token];
        if on_token(token).is_break() {
            break;
        }
    }
    Ok(tokens)
}

/// Token ids as a tensor `[batch, seq]`.
///
/// # Panics
///
/// If the sequences differ in length.
pub fn ids(sequences: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let length = sequences.first().map_or(0, |sequence| sequence.len());
    for sequence in sequences {
        assert_eq!(sequence.len(), length, "the sequences of a batch have one length");
    }
    let values: Vec<i32> = sequences.iter().flat_map(|sequence| sequence.iter().map(|&id| id as i32)).collect();
    Tensor::from_data(TensorData::new(values, [sequences.len(), length]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: &Sampling, logits: &[f32]) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut counts = vec![0; logits.len()];
        for _ in 0..10_000 {
            counts[sampling.draw(logits, &mut rng).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_distribution() {
        // Probabilities 0.5, 0.3, 0.2.
        let logits = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln()];
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        let cases = [
            ("greedy", Sampling::default(), [0.0, 1.0, 0.0]),
            ("all", warm.clone(), [0.2, 0.5, 0.3]),
            ("two", Sampling { top_k: Some(2), ..warm.clone() }, [0.0, 0.625, 0.375]),
            ("more than there are", Sampling { top_k: Some(9), ..warm.clone() }, [0.2, 0.5, 0.3]),
            ("nucleus of two", Sampling { top_p: Some(0.7), ..warm.clone() }, [0.0, 0.625, 0.375]),
            ("nucleus of one", Sampling { top_p: Some(0.01), ..warm.clone() }, [0.0, 1.0, 0.0]),
            ("cold", Sampling { temperature: 0.5, ..warm.clone() }, [0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38]),
        ];
        for (name, sampling, expected) in cases {
            let counts = counts(&sampling, &logits);
            for (count, p) in counts.iter().zip(expected) {
                // Four standard deviations of a count.
                let bound = 4.0 * (10_000.0f64 * p * (1.0 - p)).sqrt() + 1e-9;
                assert!((*count as f64 - 10_000.0 * p).abs() <= bound, "{name}: {counts:?}, expected {expected:?}");
            }
        }
    }

    #[test]
    fn one_seed_draws_the_same() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(counts(&sampling, &[0.0, 0.1, 0.2]), counts(&sampling, &[0.0, 0.1, 0.2]));
    }

    #[test]
    fn ties_go_to_the_smaller_id() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        assert_eq!(Sampling::default().draw(&[1.0, 2.0, 2.0], &mut rng).unwrap(), 1);
    }

    #[test]
    fn bad_values_are_named() {
        let cases = [
            ("temperature", Sampling { temperature: f32::NAN, ..Sampling::default() }),
            ("temperature", Sampling { temperature: -1.0, ..Sampling::default() }),
            ("top_k", Sampling { top_k: Some(0), ..Sampling::default() }),
            ("top_p", Sampling { top_p: Some(0.0), ..Sampling::default() }),
            ("top_p", Sampling { top_p: Some(1.5), ..Sampling::default() }),
        ];
        for (name, sampling) in cases {
            let message = sampling.check().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn a_logit_that_is_not_finite_is_an_error() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let error = Sampling::default().draw(&[1.0, f32::NAN], &mut rng).unwrap_err();
        assert!(matches!(error, ModelError::Logit { token: 1, .. }));
    }
}
