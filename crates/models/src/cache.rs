//! [`Cache`]: the keys and values of the tokens already seen, so that decoding costs one token at a time.

use burn::tensor::Tensor;

use crate::config::DecoderConfig;

/// Keys and values per layer, `[batch, kv_heads, kept, head_dim]`; made empty, grown by [`Decoder::step`].
///
/// A layer with a sliding window keeps no more than the `window − 1` positions that the next token still sees.
///
/// [`Decoder::step`]: crate::Decoder::step
#[derive(Clone, Debug)]
pub struct Cache {
    pub(crate) layers: Vec<LayerCache>,
    seen: usize,
}

impl Cache {
    /// An empty cache for a decoder of this configuration.
    pub fn new(config: &DecoderConfig) -> Self {
        let layers = config.layers.iter().map(|layer| LayerCache { window: layer.window, kept: None }).collect();
        Self { layers, seen: 0 }
    }

    /// How many tokens went through.
    pub fn seen(&self) -> usize {
        self.seen
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.seen += tokens;
    }
}

/// The part of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    window: Option<usize>,
    kept: Option<(Tensor<4>, Tensor<4>)>,
}

/// How many of `seen` positions are kept for the next query.
pub(crate) fn kept(seen: usize, window: Option<usize>) -> usize {
    window.map_or(seen, |window| seen.min(window - 1))
}

impl LayerCache {
    /// Puts new keys and values after the kept ones, and returns all: `[batch, kv_heads, kept + new, head_dim]`.
    pub(crate) fn extend(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let (k, v) = match self.kept.take() {
            Some((old_k, old_v)) => (Tensor::cat(vec![old_k, k], 2), Tensor::cat(vec![old_v, v], 2)),
            None => (k, v),
        };
        let length = k.dims()[2];
        self.kept = match kept(length, self.window) {
            0 => None,
            all if all == length => Some((k.clone(), v.clone())),
            last => Some((k.clone().narrow(2, length - last, last), v.clone().narrow(2, length - last, last))),
        };
        (k, v)
    }
}
