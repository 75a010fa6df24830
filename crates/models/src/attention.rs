//! Causal self-attention with grouped queries, rotary positions, windows and soft caps.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use quench_nn::{Gain, LayerInfo, Part, Tap};

use crate::ModelError;
use crate::cache::LayerCache;
use crate::config::{AttentionBias, DecoderConfig, LayerConfig};
use crate::context::Context;
use crate::family;
use crate::joint::Joint;
use crate::load::{Layer, Loader};
use crate::norm::Norm;
use crate::projection::Projection;

/// Scores held at a time, 64 MB of f32.
const SCORES: usize = 1 << 24;

/// `y = W_o · softmax(s · q kᵀ + mask) v`, head by head; `heads / kv_heads` query heads share a key head.
///
/// Source: Vaswani et al. 2017; grouped queries: Ainslie et al. 2023, "GQA".
#[derive(Clone)]
pub(crate) struct Attention {
    input: Projection<3>,
    output_site: String,
    output: Layer,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    cap: Option<f64>,
    layer: LayerConfig,
}

impl Attention {
    /// The attention of one layer; `loader` is at its part of the block.
    pub(crate) fn new(loader: &Loader<'_>, config: &DecoderConfig, layer: LayerConfig) -> Result<Self, ModelError> {
        let names = family::names(config.family);
        let output_site = loader.site(&format!("{}.input", names.attention_output));
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (q, kv) = (config.heads * head_dim, config.kv_heads * head_dim);
        let bias = config.attention_bias != AttentionBias::None;
        let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let input = Projection::new(loader, config, names.qkv, parts, bias)?;
        let bias = config.attention_bias == AttentionBias::All;
        let output = loader.linear(names.attention_output, [hidden, q], bias, &output_site)?;
        let norm = |name: &str| -> Result<Option<Norm>, ModelError> {
            config.qk_norm.then(|| Norm::new(loader, name, head_dim, config)).transpose()
        };
        Ok(Self {
            query_norm: norm("q_norm")?,
            key_norm: norm("k_norm")?,
            input,
            output_site,
            output,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim,
            scale: config.attention_scale,
            cap: config.attention_cap,
            layer,
        })
    }

    /// `x`: `[batch, seq, hidden]` → the same.
    pub(crate) fn forward<T: Tap>(
        &self,
        x: Tensor<3>,
        context: &Context,
        cache: Option<&mut LayerCache>,
        tap: &mut T,
    ) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let x = tap.tap(self.input.site(), x);
        let y = tap
            .reach(&self.output_site, [batch, seq, self.heads * self.head_dim], |tap| self.mix(x, context, cache, tap));
        self.output.forward(y, tap)
    }

    /// What the heads make of their input: `[batch, seq, hidden]` → `[batch, seq, heads · head_dim]`.
    fn mix<T: Tap>(&self, x: Tensor<3>, context: &Context, cache: Option<&mut LayerCache>, tap: &mut T) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let [q, k, v] = self.input.forward(x, tap);
        // [batch, seq, heads · head_dim] → [batch, heads, seq, head_dim]
        let split = |x: Tensor<3>, heads: usize| x.reshape([batch, seq, heads, self.head_dim]).swap_dims(1, 2);
        let (q, k, v) = (split(q, self.heads), split(k, self.kv_heads), split(v, self.kv_heads));
        let turned = |x: Tensor<4>| match self.layer.rope {
            Some(rope) => context.rope(rope).apply(x),
            None => x,
        };
        let q = turned(normed(&self.query_norm, q));
        let k = turned(normed(&self.key_norm, k));
        let (k, v) = match cache {
            Some(cache) => cache.extend(k, v),
            None => (k.swap_dims(2, 3), v),
        };
        self.attend(q, k, v, context.mask(self.layer.window))
    }

    /// - `q`: `[batch, heads, seq, head_dim]`
    /// - `k`: `[batch, kv_heads, head_dim, keys]`, `v`: `[batch, kv_heads, keys, head_dim]`
    /// - `mask`: `[seq, keys]`
    /// - returns `[batch, seq, heads · head_dim]`
    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<&Tensor<2>>) -> Tensor<3> {
        let [batch, heads, seq, head_dim] = q.dims();
        let keys = v.dims()[2];
        // A quarter of the queries at a time: those of the first need only a quarter of the keys, and so on; in all, five eighths
        // of the scores. Fewer than 64 are not worth the calls.
        let rows = (SCORES / (batch * heads * keys)).clamp(1, seq.div_ceil(4).max(64)).min(seq);
        let q = q.mul_scalar(self.scale);
        let y = if rows == seq {
            self.attend_rows(q, k, v, mask.cloned())
        } else {
            let parts = (0..seq).step_by(rows).map(|first| {
                let rows = rows.min(seq - first);
                // The last of these queries sees no key after its own.
                let visible = keys - seq + first + rows;
                let mask = mask.map(|mask| mask.clone().slice([first..first + rows, 0..visible]));
                let (k, v) = (k.clone().narrow(3, 0, visible), v.clone().narrow(2, 0, visible));
                self.attend_rows(q.clone().narrow(2, first, rows), k, v, mask)
            });
            Tensor::cat(parts.collect(), 2)
        };
        y.swap_dims(1, 2).reshape([batch, seq, heads * head_dim])
    }

    /// Some of the queries, already scaled: `[batch, heads, rows, head_dim]` → the same.
    fn attend_rows(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<Tensor<2>>) -> Tensor<4> {
        let [batch, heads, rows, head_dim] = q.dims();
        let keys = v.dims()[2];
        // The query heads of a key head stand side by side: they become rows of one product, and keys and values need
        // no copies.
        let stacked = heads / self.kv_heads * rows;
        let scores = q.reshape([batch, self.kv_heads, stacked, head_dim]).matmul(k);
        let mut scores = scores.reshape([batch, heads, rows, keys]);
        if let Some(cap) = self.cap {
            scores = capped(scores, cap);
        }
        if let Some(mask) = mask {
            scores = scores + mask.unsqueeze();
        }
        let weights = softmax(scores, 3).reshape([batch, self.kv_heads, stacked, keys]);
        weights.matmul(v).reshape([batch, heads, rows, head_dim])
    }

    /// Where channels may be scaled: what the norm before gives, and the values of each head.
    pub(crate) fn joints(&self, before: &Norm) -> [Joint; 2] {
        let input = Joint::new(self.input.site(), before.cuts(), self.input.layers());
        let [_, _, values] = [0, 1, 2].map(|part| self.input.output_cuts(part));
        let sharing = self.heads / self.kv_heads;
        let of = |channel: usize| channel / self.head_dim / sharing * self.head_dim + channel % self.head_dim;
        let source = (0..self.heads * self.head_dim).map(of).collect();
        let output = Joint::new(&self.output_site, values, std::slice::from_ref(&self.output));
        [input, Joint { source, ..output }]
    }

    /// Channels of one head.
    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// What writes to the residual stream.
    pub(crate) fn output(&self) -> &Layer {
        &self.output
    }

    /// [`output`](Self::output), to be changed.
    pub(crate) fn output_mut(&mut self) -> &mut Layer {
        &mut self.output
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        self.input.layers_mut().iter_mut().chain([&mut self.output])
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &LayerInfo> {
        self.input.layers().iter().chain([&self.output]).map(|layer| &layer.info)
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        for norm in [&mut self.query_norm, &mut self.key_norm].into_iter().flatten() {
            norm.load()?;
        }
        self.layers_mut().try_for_each(Layer::load)
    }

    pub(crate) fn release(&mut self) {
        self.layers_mut().for_each(Layer::release);
    }

    /// The gains of the norms of queries and keys, where there are any.
    pub(crate) fn gains(&mut self) -> impl Iterator<Item = Gain<'_>> {
        [&mut self.query_norm, &mut self.key_norm].into_iter().flatten().flat_map(Norm::gains)
    }

    pub(crate) fn open(&mut self) -> impl Iterator<Item = Part<'_>> {
        self.layers_mut().map(Layer::open)
    }
}

fn normed(norm: &Option<Norm>, x: Tensor<4>) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

/// `cap · tanh(x / cap)`: bounded by `cap`, and near `x` where `x` is small.
pub(crate) fn capped<const D: usize>(x: Tensor<D>, cap: f64) -> Tensor<D> {
    x.div_scalar(cap).tanh().mul_scalar(cap)
}
