//! [`Tap`]: one window into the forward pass.

use burn::tensor::Tensor;

/// Sees, and may replace, activations on their way through a model; `()` is the tap that does nothing.
///
/// A *site* is an input point, named once and shared by every weight that reads it: `"model.layers.0.self_attn.input"`
/// feeds `q_proj`, `k_proj` and `v_proj`; `"model.layers.0.mlp.down_proj.input"` feeds one layer. Calibration
/// statistics, activation patching and ablation are all taps. Dispatch is static, so with `()` a tap compiles away.
pub trait Tap {
    /// The activation `x` `[.., features]` at `site`; what is returned goes on in its place.
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let _ = site;
        x
    }
}

impl Tap for () {}

/// Two taps in turn: the second sees what the first returned.
impl<A: Tap, B: Tap> Tap for (A, B) {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let x = self.0.tap(site, x);
        self.1.tap(site, x)
    }
}

impl<T: Tap> Tap for &mut T {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        (**self).tap(site, x)
    }
}
