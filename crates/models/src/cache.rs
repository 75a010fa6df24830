//! [`Cache`]: the keys and values of the tokens already seen, so that decoding costs one token at a time.

use std::ops::Range;

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
        let layers = config.layers.iter().map(|layer| LayerCache::new(layer.window)).collect();
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

/// Positions that a layer makes room for at a time: the buffer is copied once in so many tokens.
const ROOM: usize = 256;

/// The part of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    window: Option<usize>,
    /// Keys and values, `[batch, kv_heads, room, head_dim]`.
    buffers: Option<(Tensor<4>, Tensor<4>)>,
    /// The positions of the buffers that are in use.
    used: Range<usize>,
}

/// How many of `seen` positions are kept for the next query.
pub(crate) fn kept(seen: usize, window: Option<usize>) -> usize {
    window.map_or(seen, |window| seen.min(window - 1))
}

impl LayerCache {
    fn new(window: Option<usize>) -> Self {
        Self { window, buffers: None, used: 0..0 }
    }

    /// Puts new keys and values after the kept ones, and returns all: `[batch, kv_heads, kept + new, head_dim]`.
    pub(crate) fn extend(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let new = k.dims()[2];
        let (mut all_k, mut all_v) = match self.buffers.take() {
            Some((k, v)) if self.used.end + new <= k.dims()[2] => (k, v),
            old => {
                let (used, kept) = (self.used.clone(), self.used.len());
                let roomy = |x: &Tensor<4>, old: Option<Tensor<4>>| {
                    let [batch, heads, _, width] = x.dims();
                    let room = (kept + new).next_multiple_of(ROOM);
                    let buffer = Tensor::zeros([batch, heads, room, width], (&x.device(), x.dtype()));
                    match old {
                        Some(old) => put(buffer, 0, old.narrow(2, used.start, kept)),
                        None => buffer,
                    }
                };
                self.used = 0..kept;
                let (old_k, old_v) = old.unzip();
                (roomy(&k, old_k), roomy(&v, old_v))
            }
        };
        // The buffers are nobody else's here, so that they are written in place.
        all_k = put(all_k, self.used.end, k);
        all_v = put(all_v, self.used.end, v);
        self.used.end += new;
        let (start, length) = (self.used.start, self.used.len());
        let seen = (all_k.clone().narrow(2, start, length), all_v.clone().narrow(2, start, length));
        self.buffers = Some((all_k, all_v));
        self.used.start = self.used.end - kept(length, self.window);
        seen
    }
}

/// Writes `x` into `buffer`, from position `first`.
fn put(buffer: Tensor<4>, first: usize, x: Tensor<4>) -> Tensor<4> {
    let [batch, heads, length, width] = x.dims();
    buffer.slice_assign([0..batch, 0..heads, first..first + length, 0..width], x)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int};

    use super::*;

    /// Keys `first..first + count`, one number each.
    fn keys(first: usize, count: usize) -> Tensor<4> {
        let range = first as i64..(first + count) as i64;
        Tensor::<1, Int>::arange(range, &Device::flex()).float().reshape([1, 1, count, 1])
    }

    #[test]
    fn what_was_put_in_comes_back_in_order() {
        for window in [None, Some(1), Some(7), Some(300)] {
            let mut cache = LayerCache::new(window);
            let mut seen = 0;
            // Longer than the room, one by one over its end, and in pieces.
            for count in [1, 2, 250, 1, 1, 1, 1, 1, 300, 1, 600, 5].into_iter().chain([1; 300]) {
                let first = seen - kept(seen, window);
                let (k, v) = cache.extend(keys(seen, count), keys(seen, count) + 0.5);
                seen += count;
                let expected = (first..seen).map(|key| key as f32);
                assert_eq!(k.into_data().try_to_vec::<f32>().unwrap(), expected.clone().collect::<Vec<_>>());
                let expected: Vec<f32> = expected.map(|key| key + 0.5).collect();
                assert_eq!(v.into_data().try_to_vec::<f32>().unwrap(), expected);
            }
        }
    }
}
