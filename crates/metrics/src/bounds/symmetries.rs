//! Parameters that say nothing: the symmetries of a transformer change its weights and not what it computes.

use crate::{Check, Expected};

/// The sizes of a decoder whose symmetries are counted: RMS norms, RoPE, a gated MLP, as in Llama.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symmetries {
    /// Channels of the residual stream.
    pub hidden: u64,
    /// Blocks.
    pub blocks: u64,
    /// Heads that have values and keys of their own, in each block.
    pub heads: u64,
    /// Channels of a head.
    pub head: u64,
    /// Units of the MLP of a block.
    pub units: u64,
    /// Parameters in all.
    pub parameters: u64,
}

impl Symmetries {
    /// Dimensions of `O(d)` on the residual stream: `d (d − 1) / 2`, as RMS norms see its length alone.
    pub fn residual(&self) -> f64 {
        (self.hidden * (self.hidden - 1)) as f64 / 2.0
    }

    /// Dimensions of `GL(head)` between values and output: `head²` for each head.
    pub fn values(&self) -> f64 {
        (self.blocks * self.heads * self.head * self.head) as f64
    }

    /// Dimensions between queries and keys: RoPE leaves one complex number for each of its `head / 2` planes.
    pub fn keys(&self) -> f64 {
        (self.blocks * self.heads * self.head) as f64
    }

    /// Dimensions of the scales of the units: one positive number for each.
    pub fn scales(&self) -> f64 {
        (self.blocks * self.units) as f64
    }

    /// The largest part of the parameters that all symmetries together can save without a loss.
    pub fn saving(&self) -> f64 {
        (self.residual() + self.values() + self.keys() + self.scales()) / self.parameters as f64
    }

    /// Bits that the order of the units says, `blocks · log2(units!)`, which a compressor may leave out.
    pub fn order_bits(&self) -> f64 {
        self.blocks as f64 * (1..=self.units).map(|unit| (unit as f64).log2()).sum::<f64>()
    }
}

const LLAMA_2_7B: Symmetries =
    Symmetries { hidden: 4096, blocks: 32, heads: 32, head: 128, units: 11_008, parameters: 6_738_415_616 };

fn percent(dimensions: f64) -> f64 {
    100.0 * dimensions / LLAMA_2_7B.parameters as f64
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        concept: "symmetries",
        quantity: "what they save at most of Llama-2-7B, %",
        expected: Expected::Near { value: 0.38, within: 0.005 },
        measure: |_| 100.0 * LLAMA_2_7B.saving(),
    },
    Check {
        concept: "symmetries",
        quantity: "the residual stream's part of it, %",
        expected: Expected::Near { value: 0.124, within: 5e-4 },
        measure: |_| percent(LLAMA_2_7B.residual()),
    },
    Check {
        concept: "symmetries",
        quantity: "values and outputs, %",
        expected: Expected::Near { value: 0.249, within: 5e-4 },
        measure: |_| percent(LLAMA_2_7B.values()),
    },
    Check {
        concept: "symmetries",
        quantity: "queries and keys, %",
        expected: Expected::Near { value: 0.002, within: 5e-4 },
        measure: |_| percent(LLAMA_2_7B.keys()),
    },
    Check {
        concept: "symmetries",
        quantity: "scales of units, %",
        expected: Expected::Near { value: 0.005, within: 5e-4 },
        measure: |_| percent(LLAMA_2_7B.scales()),
    },
    Check {
        concept: "symmetries",
        quantity: "the order of units, bits a weight",
        expected: Expected::Near { value: 0.0006, within: 5e-5 },
        measure: |_| LLAMA_2_7B.order_bits() / LLAMA_2_7B.parameters as f64,
    },
];
