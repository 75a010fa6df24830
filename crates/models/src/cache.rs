//! [`Cache`]: the keys and values of the tokens already seen, so that decoding costs one token at a time.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::config::DecoderConfig;

/// Keys and values per layer; made empty, grown by [`Decoder::step`].
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
    /// Keys `[batch, kv_heads, head_dim, room]` and values `[batch, kv_heads, room, head_dim]`: as products read them.
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

    /// Puts new keys and values after the kept ones, and returns all.
    ///
    /// - `k`, `v`: `[batch, kv_heads, new, head_dim]`
    /// - returns `[batch, kv_heads, head_dim, kept + new]` and `[batch, kv_heads, kept + new, head_dim]`
    pub(crate) fn extend(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let (k, new) = (k.swap_dims(2, 3), v.dims()[2]);
        let (all_k, all_v) = match self.buffers.take() {
            Some((k, v)) if self.used.end + new <= v.dims()[2] => (k, v),
            old => {
                let kept = self.used.clone();
                self.used = 0..kept.len();
                let room = (kept.len() + new).next_multiple_of(ROOM);
                let (old_k, old_v) = old.unzip();
                (buffer(&k, 3, room, old_k, &kept), buffer(&v, 2, room, old_v, &kept))
            }
        };
        // The buffers are nobody else's here, so that they are written in place.
        let (all_k, all_v) = (put(all_k, 3, self.used.end, k), put(all_v, 2, self.used.end, v));
        self.used.end += new;
        let (start, length) = (self.used.start, self.used.len());
        let seen = (all_k.clone().narrow(3, start, length), all_v.clone().narrow(2, start, length));
        self.buffers = Some((all_k, all_v));
        self.used.start = self.used.end - kept(length, self.window);
        seen
    }
}

/// Room for so many positions, along `dim`, of what is like `x`; the `kept` ones of `old` come first.
fn buffer(x: &Tensor<4>, dim: usize, room: usize, old: Option<Tensor<4>>, kept: &Range<usize>) -> Tensor<4> {
    let mut shape = x.dims();
    shape[dim] = room;
    let empty = Tensor::zeros(shape, (&x.device(), x.dtype()));
    match old {
        Some(old) if !kept.is_empty() => put(empty, dim, 0, old.narrow(dim, kept.start, kept.len())),
        _ => empty,
    }
}

/// Writes `x` into `buffer`, from position `first` along `dim`.
fn put(buffer: Tensor<4>, dim: usize, first: usize, x: Tensor<4>) -> Tensor<4> {
    let mut ranges = x.dims().map(|extent| 0..extent);
    ranges[dim] = first..first + x.dims()[dim];
    buffer.slice_assign(ranges, x)
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
                assert_eq!(k.dims(), [1, 1, 1, seen - first]);
                assert_eq!(k.into_data().try_to_vec::<f32>().unwrap(), expected.clone().collect::<Vec<_>>());
                let expected: Vec<f32> = expected.map(|key| key + 0.5).collect();
                assert_eq!(v.into_data().try_to_vec::<f32>().unwrap(), expected);
            }
        }
    }
}
