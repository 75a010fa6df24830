//! What a layer reads, and what the gradient says of its output.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use quench_nn::{LayerInfo, Tap};

use crate::stats::rows;

/// A tap that keeps inputs, and adds to every output a zero whose gradient is asked for.
pub(super) struct Offsets {
    /// By site, `[positions, in]`, without graph.
    pub(super) inputs: BTreeMap<String, Tensor<2>>,
    /// By site, `[positions, out]`.
    pub(super) outputs: BTreeMap<String, Tensor<2>>,
    wanted: [Vec<String>; 2],
}

impl Offsets {
    pub(super) fn at(layers: &[LayerInfo]) -> Self {
        let wanted =
            [layers.iter().map(|layer| layer.site.clone()).collect(), layers.iter().map(LayerInfo::output).collect()];
        Self { inputs: BTreeMap::new(), outputs: BTreeMap::new(), wanted }
    }
}

impl Tap for Offsets {
    fn sees(&self, site: &str) -> bool {
        self.wanted.iter().flatten().any(|wanted| wanted == site)
    }

    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let [inputs, outputs] = &self.wanted;
        if inputs.iter().any(|wanted| wanted == site) {
            self.inputs.insert(site.to_owned(), rows(x.clone().inner()));
        }
        if !outputs.iter().any(|wanted| wanted == site) {
            return x;
        }
        let shape = x.dims();
        let offset = rows(x.zeros_like()).require_grad();
        self.outputs.insert(site.to_owned(), offset.clone());
        x + offset.reshape(shape)
    }
}
