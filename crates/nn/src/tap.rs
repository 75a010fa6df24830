//! [`Tap`]: one window into the forward pass.

use burn::tensor::Tensor;

/// Sees, and may replace, activations on their way through a model; `()` is the tap that does nothing.
///
/// A *site* is an input point, named once and shared by every weight that reads it: `"model.layers.0.self_attn.input"`
/// feeds `q_proj`, `k_proj` and `v_proj`; `"model.layers.0.mlp.down_proj.input"` feeds one layer. What a layer gives is tapped
/// under its own name, `"model.layers.0.mlp.down_proj.output"`. Calibration
/// statistics, activation patching and ablation are all taps. Dispatch is static, so with `()` a tap compiles away.
pub trait Tap {
    /// The activation `x` `[.., features]` at `site`; what is returned goes on in its place.
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let _ = site;
        x
    }

    /// The activation at `site`, of the given shape, computed and [tapped](Self::tap).
    ///
    /// A tap that knows already what comes of it, or for which the pass [is over](Self::is_over), may return without computing:
    /// whoever calls this has nothing but the value in mind. A pair of taps, or a reference to one, computes always.
    fn reach<const D: usize>(
        &mut self,
        site: &str,
        shape: [usize; D],
        compute: impl FnOnce(&mut Self) -> Tensor<D>,
    ) -> Tensor<D>
    where
        Self: Sized,
    {
        let _ = shape;
        let x = compute(self);
        self.tap(site, x)
    }

    /// Whether nobody looks at what would be computed from here on: a layer may then return anything of the right shape.
    fn is_over(&self) -> bool {
        false
    }

    /// Whether this tap looks at `site`: what costs something to show, the unfolded input of a convolution, is shown only
    /// to one that does.
    fn sees(&self, site: &str) -> bool {
        let _ = site;
        true
    }
}

impl Tap for () {
    fn sees(&self, _: &str) -> bool {
        false
    }
}

/// Two taps in turn: the second sees what the first returned.
impl<A: Tap, B: Tap> Tap for (A, B) {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let x = self.0.tap(site, x);
        self.1.tap(site, x)
    }

    fn sees(&self, site: &str) -> bool {
        self.0.sees(site) || self.1.sees(site)
    }
}

impl<T: Tap> Tap for &mut T {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        (**self).tap(site, x)
    }

    fn sees(&self, site: &str) -> bool {
        (**self).sees(site)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Adds a number and remembers where.
    struct Add(f32, Vec<String>);

    impl Tap for Add {
        fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
            self.1.push(site.to_owned());
            x + self.0
        }
    }

    /// Doubles.
    struct Double;

    impl Tap for Double {
        fn tap<const D: usize>(&mut self, _: &str, x: Tensor<D>) -> Tensor<D> {
            x * 2.0
        }
    }

    fn read(x: Tensor<1>) -> f32 {
        x.into_scalar()
    }

    #[test]
    fn a_pair_taps_in_turn_and_a_reference_is_a_tap() {
        let one = Tensor::<1>::ones([1], &Device::flex());
        let mut add = Add(1.0, Vec::new());
        assert_eq!(read((&mut add, Double).tap("a", one.clone())), 4.0);
        assert_eq!(read((Double, &mut add).tap("b", one.clone())), 3.0);
        assert_eq!(read(().tap("c", one)), 1.0);
        assert_eq!(add.1, ["a", "b"]);
        assert!(((), &mut add).sees("d") && !((), ()).sees("d"));
    }
}
