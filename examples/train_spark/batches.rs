//! Token ids to learn from and to be judged on.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use crate::Result;
use crate::tokenizer::{BOS, EOS};

/// One long row of ids: `<s>`, one to three documents of one language on a line each, `</s>`, and so on, languages mixed.
pub struct Stream {
    ids: Vec<i32>,
    random: ChaCha8Rng,
}

impl Stream {
    /// The documents of all languages, each once, in an order drawn from `seed`.
    pub fn new(languages: &[Vec<String>], tokenizer: &Tokenizer, seed: u64) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut texts = Vec::new();
        for lines in languages {
            let mut rest = lines.as_slice();
            while !rest.is_empty() {
                let (text, after) = rest.split_at(random.random_range(1..=3).min(rest.len()));
                texts.push(format!("{BOS}{}{EOS}", text.join("\n")));
                rest = after;
            }
        }
        texts.shuffle(&mut random);
        Ok(Self { ids: ids(tokenizer, &texts)?, random })
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Windows at random places: ids `[batch, length]`, and the ids that follow them.
    pub fn batch(&mut self, batch: usize, length: usize, device: &Device) -> [Tensor<2, Int>; 2] {
        let starts: Vec<usize> = (0..batch).map(|_| self.random.random_range(0..self.ids.len() - length)).collect();
        [0, 1].map(|shift| {
            let rows = starts.iter().flat_map(|start| &self.ids[start + shift..start + shift + length]);
            Tensor::from_data(TensorData::new(rows.copied().collect(), [batch, length]), device)
        })
    }

    /// The perplexity on `windows` of a model that knows only how often each token occurs in this stream.
    pub fn unigram_perplexity(&self, windows: &[Vec<i32>], vocabulary: usize) -> f64 {
        // One added to each count, for tokens that never occur.
        let mut counts = vec![1.0; vocabulary];
        self.ids.iter().for_each(|&id| counts[id as usize] += 1.0);
        let total: f64 = counts.iter().sum();
        let predicted: Vec<f64> =
            windows.iter().flat_map(|window| &window[1..]).map(|&id| (counts[id as usize] / total).ln()).collect();
        (-predicted.iter().sum::<f64>() / predicted.len() as f64).exp()
    }
}

/// Non-overlapping windows of a held-out text, its documents on a line each; what is left over is dropped.
pub fn windows(lines: &[String], tokenizer: &Tokenizer, length: usize) -> Result<Vec<Vec<i32>>> {
    let ids = ids(tokenizer, &[lines.join("\n")])?;
    Ok(ids.chunks_exact(length).map(<[i32]>::to_vec).collect())
}

fn ids(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<i32>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let encodings = tokenizer.encode_batch(texts, false)?;
    Ok(encodings.iter().flat_map(|encoding| encoding.get_ids()).map(|&id| id as i32).collect())
}
