//! Whether a decoder of a given size runs on a given machine: memory and the fastest that its bandwidth allows.
//!
//! ```text
//! memory ≥ weights + cache + activations + reserve
//! cache        2 · batch · kv_heads · head · bits / 8 · Σ over blocks of min(context, window)
//! activations  rows = batch · min(chunk, context):
//!              4 rows · (2 hidden + max((heads + 2 kv_heads) head + heads · min(context, largest window) , 2 intermediate))
//!              + 4 batch · vocabulary
//! ```
//!
//! Activations are those of a plain implementation in 32 bits, which keeps the scores of a chunk of the prompt: an estimate from above.

use serde::{Deserialize, Serialize};

/// What of a decoder decides how much memory it takes beside its weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Width of the hidden state.
    pub hidden: u64,
    /// Width of the gated or hidden layer of a block.
    pub intermediate: u64,
    /// Tokens that there are.
    pub vocabulary: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head: u64,
    /// For each block, how many tokens a query sees; all where `None`.
    pub windows: Vec<Option<u64>>,
}

/// Bytes of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// In memory.
    pub bytes: u64,
    /// Of those, read for every token: all but a table of token vectors that is no head.
    pub streamed: u64,
}

/// What is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Tokens of a sequence, prompt and answer.
    pub context: u64,
    /// Sequences at a time.
    pub batch: u64,
    /// Bits of a number in the cache of keys and values.
    pub cache_bits: u64,
    /// Tokens of the prompt that run through the model together.
    pub chunk: u64,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// A word for it.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Bytes of memory that a processor with this bandwidth has.
    pub memory: u64,
    /// Of those, bytes that the system and the runtime need.
    pub reserve: u64,
    /// Bytes that it reads in a second, in GB/s (1e9 bytes), at the most.
    pub bandwidth: f64,
}

/// Whether a decoder runs on a machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of keys and values.
    pub cache: u64,
    /// Bytes of activations.
    pub activations: u64,
    /// Bytes that are left of the machine's memory; negative where they are missing.
    pub left: i128,
    /// Tokens of the longest sequences that fit, as many at a time; `None` where not even one token does.
    pub longest: Option<u64>,
    /// Tokens a second in all sequences together that no implementation exceeds, since weights and cache must be read for each step.
    pub tokens_per_second: f64,
}

impl Fit {
    /// Whether it runs.
    pub fn fits(&self) -> bool {
        self.left >= 0
    }
}

impl Sizes {
    /// Bytes of keys and values.
    pub fn cache(&self, load: Load) -> u64 {
        let tokens: u64 = self.windows.iter().map(|window| window.unwrap_or(u64::MAX).min(load.context)).sum();
        (2 * load.batch * self.kv_heads * self.head * tokens * load.cache_bits).div_ceil(8)
    }

    /// Bytes of activations.
    pub fn activations(&self, load: Load) -> u64 {
        let widest = self.windows.iter().map(|window| window.unwrap_or(u64::MAX).min(load.context)).max().unwrap_or(0);
        let attention = (self.heads + 2 * self.kv_heads) * self.head + self.heads * widest;
        let rows = load.batch * load.chunk.min(load.context);
        4 * (rows * (2 * self.hidden + attention.max(2 * self.intermediate)) + load.batch * self.vocabulary)
    }

    /// What a load takes on a machine. Contexts beyond `most` are not looked at.
    pub fn fit(&self, weights: Weights, load: Load, machine: &Machine, most: u64) -> Fit {
        let (cache, activations) = (self.cache(load), self.activations(load));
        let left = |load: Load| {
            let needed = [weights.bytes, self.cache(load), self.activations(load), machine.reserve];
            i128::from(machine.memory) - needed.into_iter().map(i128::from).sum::<i128>()
        };
        let runs = |context: u64| left(Load { context, ..load }) >= 0;
        // Everything grows with the context: the last that fits is found by halving.
        let longest = runs(1).then(|| {
            let (mut fits, mut beyond) = (1, most.max(1) + 1);
            while beyond - fits > 1 {
                let middle = fits + (beyond - fits) / 2;
                *(if runs(middle) { &mut fits } else { &mut beyond }) = middle;
            }
            fits
        });
        let tokens_per_second = load.batch as f64 * 1e9 * machine.bandwidth / (weights.streamed + cache) as f64;
        Fit { weights: weights.bytes, cache, activations, left: left(load), longest, tokens_per_second }
    }
}

/// How much faster a step can be with `small` weights than with `large` ones, since memory is read and no more:
/// `(large + cache) / (small + cache)`.
pub fn speedup(large: Weights, small: Weights, cache: u64) -> f64 {
    (large.streamed + cache) as f64 / (small.streamed + cache) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        let windows = vec![None, Some(10)];
        Sizes { hidden: 8, intermediate: 32, vocabulary: 100, heads: 4, kv_heads: 2, head: 2, windows }
    }

    const LOAD: Load = Load { context: 100, batch: 3, cache_bits: 16, chunk: 7 };

    #[test]
    fn bytes_are_those_of_the_formulas() {
        // Two of 2 heads of 2 numbers of 2 bytes, for 100 tokens in one block and 10 in the other, three times.
        assert_eq!(sizes().cache(LOAD), 2 * 2 * 2 * 2 * 110 * 3);
        // The scores, 4 heads of 100 tokens and 8 heads of queries, keys and values, are more than 2 · 32.
        assert_eq!(sizes().activations(LOAD), 4 * (21 * (16 + 16 + 400) + 300));
        let short = Load { context: 5, ..LOAD };
        assert_eq!(sizes().activations(short), 4 * (15 * (16 + 64) + 300));
    }

    #[test]
    fn the_longest_context_is_the_last_that_fits() {
        let weights = Weights { bytes: 1_000, streamed: 900 };
        let machine = |memory| Machine { name: "m".into(), about: String::new(), memory, reserve: 500, bandwidth: 2.0 };
        let needed = 1_500 + sizes().cache(LOAD) + sizes().activations(LOAD);
        let exact = sizes().fit(weights, LOAD, &machine(needed), 1_000_000);
        assert_eq!((exact.left, exact.longest, exact.fits()), (0, Some(100), true));
        let short = sizes().fit(weights, LOAD, &machine(needed - 1), 1_000_000);
        assert_eq!((short.left, short.longest, short.fits()), (-1, Some(99), false));
        assert_eq!(sizes().fit(weights, LOAD, &machine(needed), 50).longest, Some(50));
        assert_eq!(sizes().fit(weights, LOAD, &machine(1_600), 50).longest, None);
        assert_eq!(exact.tokens_per_second, 3.0 * 2e9 / (900.0 + sizes().cache(LOAD) as f64));
    }
}
