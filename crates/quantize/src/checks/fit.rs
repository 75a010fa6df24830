//! Sizes of known models, byte for byte, and what of them runs on a board of 4 GB.

use quench_format::Scheme;
use quench_metrics::{Check, Expected};

use crate::fit::{Load, Machine, Sizes, Weights, speedup};

/// A decoder with a gated MLP, RMS norms and no biases.
struct Model {
    hidden: u64,
    intermediate: u64,
    blocks: usize,
    heads: u64,
    kv_heads: u64,
    head: u64,
    vocabulary: u64,
    tied: bool,
}

const MISTRAL_7B: Model = Model {
    hidden: 4096,
    intermediate: 14_336,
    blocks: 32,
    heads: 32,
    kv_heads: 8,
    head: 128,
    vocabulary: 32_000,
    tied: false,
};
const LLAMA_2_7B: Model = Model { intermediate: 11_008, kv_heads: 32, ..MISTRAL_7B };
const GEMMA_7B: Model = Model {
    hidden: 3072,
    intermediate: 24_576,
    blocks: 28,
    heads: 16,
    kv_heads: 16,
    head: 256,
    vocabulary: 256_000,
    tied: true,
};

impl Model {
    fn sizes(&self) -> Sizes {
        Sizes {
            hidden: self.hidden,
            intermediate: self.intermediate,
            vocabulary: self.vocabulary,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head: self.head,
            windows: vec![None; self.blocks],
        }
    }

    /// Bytes with the matrices of the blocks in one scheme, token vectors and head in another; norms in halves.
    fn bytes(&self, blocks: &str, ends: &str) -> u64 {
        let (inner, head) = (self.heads * self.head, self.kv_heads * self.head);
        let attention = [(inner, self.hidden), (head, self.hidden), (head, self.hidden), (self.hidden, inner)];
        let feed =
            [(self.intermediate, self.hidden), (self.intermediate, self.hidden), (self.hidden, self.intermediate)];
        let matrices = attention.into_iter().chain(feed);
        let block: u64 = matrices.map(|shape| matrix(shape, blocks)).sum();
        let tables = if self.tied { 1 } else { 2 };
        let norms = 2 * self.hidden * (2 * self.blocks as u64 + 1);
        self.blocks as u64 * block + tables * matrix((self.vocabulary, self.hidden), ends) + norms
    }

    /// The same, all of them read for every token as the theory note counts.
    fn weights(&self, blocks: &str, ends: &str) -> Weights {
        let bytes = self.bytes(blocks, ends);
        Weights { bytes, streamed: bytes }
    }
}

/// Bytes of a matrix in a scheme, or in halves where that is the word.
fn matrix((rows, columns): (u64, u64), scheme: &str) -> u64 {
    match scheme.parse::<Scheme>() {
        Ok(scheme) => scheme.storage_bits([rows as usize, columns as usize]).div_ceil(8),
        Err(_) => 2 * rows * columns,
    }
}

const HALVES: &str = "halves";
const INT8: &str = "uint8/128/f16";
/// 4 bits, a scale of 16 and a zero point of 4 for 128 weights.
const INT4: &str = "uint4/128/f16";
const INT3: &str = "uint3/128/f16";

/// As `configs/devices.toml` has it.
fn jetson_nano() -> Machine {
    let (name, about) = ("jetson-nano".to_owned(), String::new());
    Machine { name, about, memory: 4 << 30, reserve: 750_000_000, bandwidth: 25.6 }
}

/// Tokens of the longest sequence that runs on a board of 4 GB, 0 where none does.
fn longest(blocks: &str, ends: &str) -> f64 {
    let load = Load { context: 1000, batch: 1, cache_bits: 16, chunk: 64 };
    let fit = MISTRAL_7B.sizes().fit(MISTRAL_7B.weights(blocks, ends), load, &jetson_nano(), 32_768);
    fit.longest.unwrap_or(0) as f64
}

/// The bound on the gain in speed over halves, for sequences of 2048 tokens.
fn bound(model: &Model, batch: u64) -> f64 {
    let cache = model.sizes().cache(Load { context: 2048, batch, cache_bits: 16, chunk: 1 });
    speedup(model.weights(HALVES, HALVES), model.weights(INT4, HALVES), cache)
}

const GB: f64 = 1e9;

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "size",
        quantity: "Mistral-7B in int4, groups of 128 with zero points, ends in halves, GB",
        expected: Expected::Near { value: 4.15, within: 0.005 },
        measure: |_| MISTRAL_7B.bytes(INT4, HALVES) as f64 / GB,
    },
    Check {
        concept: "size",
        quantity: "how many times smaller that is than halves",
        expected: Expected::Near { value: 3.49, within: 0.005 },
        measure: |_| MISTRAL_7B.bytes(HALVES, HALVES) as f64 / MISTRAL_7B.bytes(INT4, HALVES) as f64,
    },
    Check {
        concept: "size",
        quantity: "Mistral-7B in int4, ends in int8, GB",
        expected: Expected::Near { value: 3.89, within: 0.005 },
        measure: |_| MISTRAL_7B.bytes(INT4, INT8) as f64 / GB,
    },
    Check {
        concept: "size",
        quantity: "how many times smaller that is than halves",
        expected: Expected::Near { value: 3.72, within: 0.005 },
        measure: |_| MISTRAL_7B.bytes(HALVES, HALVES) as f64 / MISTRAL_7B.bytes(INT4, INT8) as f64,
    },
    Check {
        concept: "size",
        quantity: "Mistral-7B in int3, ends in int8, GB",
        // The note has 3.02, with zero points of 4 bits; ours have the 3 bits of a code.
        expected: Expected::Near { value: 3.02, within: 0.01 },
        measure: |_| MISTRAL_7B.bytes(INT3, INT8) as f64 / GB,
    },
    Check {
        concept: "size",
        quantity: "Mistral-7B in int3, ends in halves, GB",
        expected: Expected::Near { value: 3.28, within: 0.01 },
        measure: |_| MISTRAL_7B.bytes(INT3, HALVES) as f64 / GB,
    },
    Check {
        concept: "size",
        quantity: "Gemma-7B in halves, GB",
        expected: Expected::Near { value: 17.1, within: 0.05 },
        measure: |_| GEMMA_7B.bytes(HALVES, HALVES) as f64 / GB,
    },
    Check {
        concept: "size",
        quantity: "cache of 1000 tokens of Mistral-7B, MB",
        expected: Expected::Near { value: 131.0, within: 0.5 },
        measure: |_| MISTRAL_7B.sizes().cache(Load { context: 1000, batch: 1, cache_bits: 16, chunk: 1 }) as f64 / 1e6,
    },
    Check {
        concept: "machines",
        quantity: "tokens of Mistral-7B in int4 on a Jetson Nano of 4 GB",
        expected: Expected::Near { value: 0.0, within: 0.0 },
        measure: |_| longest(INT4, HALVES),
    },
    Check {
        concept: "machines",
        quantity: "the same with ends in int8",
        expected: Expected::Near { value: 0.0, within: 0.0 },
        measure: |_| longest(INT4, INT8),
    },
    Check {
        concept: "machines",
        quantity: "tokens in int3, ends in int8: it runs, and not with every context",
        expected: Expected::Between(1000.0, 8000.0),
        measure: |_| longest(INT3, INT8),
    },
    Check {
        concept: "machines",
        quantity: "bound on the speed of Mistral-7B in int4 over halves, 2048 tokens",
        expected: Expected::Near { value: 3.34, within: 0.005 },
        measure: |_| bound(&MISTRAL_7B, 1),
    },
    Check {
        concept: "machines",
        quantity: "the same for 32 sequences",
        expected: Expected::Near { value: 1.81, within: 0.005 },
        measure: |_| bound(&MISTRAL_7B, 32),
    },
    Check {
        concept: "machines",
        quantity: "bound on the speed of Llama-2-7B in int4 over halves, 2048 tokens",
        expected: Expected::Near { value: 2.93, within: 0.005 },
        measure: |_| bound(&LLAMA_2_7B, 1),
    },
    Check {
        concept: "machines",
        quantity: "the same for 32 sequences",
        expected: Expected::Near { value: 1.25, within: 0.005 },
        measure: |_| bound(&LLAMA_2_7B, 32),
    },
];
