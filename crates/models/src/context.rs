//! [`Context`]: what all blocks share in one pass, the rotary tables and the masks.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::cache::kept;
use crate::config::DecoderConfig;
use crate::rope::RopeTable;

/// Added to the score of what a query must not see: its exponential is exactly 0 in f32. Finite, because shading
/// languages may assume that infinities do not happen.
pub(crate) const HIDDEN: f32 = -1e30;

/// Rotary tables and masks of one run of positions; made once in `start`, shared by reference.
#[derive(Debug)]
pub(crate) struct Context {
    pub count: usize,
    ropes: Vec<RopeTable>,
    /// By distinct window; absent where every query sees every key.
    masks: Vec<(Option<usize>, Option<Tensor<2>>)>,
}

impl Context {
    /// `count` positions from `start`; those before it are in a cache.
    pub(crate) fn new(config: &DecoderConfig, start: usize, count: usize, device: &Device) -> Self {
        let mut masks: Vec<(Option<usize>, Option<Tensor<2>>)> = Vec::new();
        for layer in &config.layers {
            if !masks.iter().any(|(window, _)| *window == layer.window) {
                masks.push((layer.window, mask(start, count, layer.window, device)));
            }
        }
        let ropes = config.ropes.iter().map(|rope| rope.table(start, count, device)).collect();
        Self { count, ropes, masks }
    }

    pub(crate) fn rope(&self, index: usize) -> &RopeTable {
        &self.ropes[index]
    }

    /// `[count, kept + count]`, to be added to the scores of layers with this window.
    pub(crate) fn mask(&self, window: Option<usize>) -> Option<&Tensor<2>> {
        self.masks.iter().find(|(of, _)| *of == window).and_then(|(_, mask)| mask.as_ref())
    }
}

/// Query `i` sees key `j` if `0 ≤ i − j < window`.
fn mask(start: usize, count: usize, window: Option<usize>, device: &Device) -> Option<Tensor<2>> {
    let first = start - kept(start, window);
    let keys = start + count - first;
    let hidden = |query: usize, key: usize| key > query || window.is_some_and(|window| query - key >= window);
    if count == 1 && !hidden(start, first) {
        return None;
    }
    let values: Vec<f32> = (start..start + count)
        .flat_map(|query| (first..start + count).map(move |key| if hidden(query, key) { HIDDEN } else { 0.0 }))
        .collect();
    Some(Tensor::from_data(TensorData::new(values, [count, keys]), (device, DType::F32)))
}
