//! [`Projection`]: several linear maps of one input, stored as one matrix or apart.

use burn::tensor::Tensor;
use quench_nn::Tap;

use crate::ModelError;
use crate::config::{DecoderConfig, Projections};
use crate::joint::Cut;
use crate::load::{Layer, Loader};

/// The `N` maps that read one site: q, k and v, or gate and up.
#[derive(Clone)]
pub(crate) struct Projection<const N: usize> {
    site: String,
    layers: Vec<Layer>,
    widths: [usize; N],
    form: Projections,
}

impl<const N: usize> Projection<N> {
    /// The maps with these names and widths from the hidden state; `fused` names the one matrix that stacks their rows.
    pub(crate) fn new(
        loader: &Loader<'_>,
        config: &DecoderConfig,
        fused: &str,
        parts: [(&str, usize); N],
        bias: bool,
    ) -> Result<Self, ModelError> {
        let site = loader.site("input");
        let widths = parts.map(|(_, width)| width);
        let make = |name: &str, out: usize| loader.linear(name, [out, config.hidden_size], bias, &site);
        let form = config.projections;
        let layers = match form {
            Projections::Separate => parts.iter().map(|(name, width)| make(name, *width)).collect::<Result<_, _>>()?,
            Projections::Fused => vec![make(fused, widths.iter().sum())?],
        };
        Ok(Self { site, layers, widths, form })
    }

    /// `x`: `[batch, seq, hidden]` → one `[batch, seq, width]` for each width.
    pub(crate) fn forward<T: Tap>(&self, x: Tensor<3>, tap: &mut T) -> [Tensor<3>; N] {
        match self.form {
            Projections::Separate => std::array::from_fn(|part| self.layers[part].forward(x.clone(), tap)),
            Projections::Fused => {
                let all = self.layers[0].forward(x, tap);
                std::array::from_fn(|part| all.clone().narrow(2, self.widths[..part].iter().sum(), self.widths[part]))
            }
        }
    }

    /// Where its input is tapped, by whoever calls it.
    pub(crate) fn site(&self) -> &str {
        &self.site
    }

    /// What writes the output of one of the maps.
    pub(crate) fn output_cuts(&self, part: usize) -> Vec<Cut> {
        match self.form {
            Projections::Separate => self.layers[part].output_cuts(0..self.widths[part]),
            Projections::Fused => {
                let start = self.widths[..part].iter().sum();
                self.layers[0].output_cuts(start..start + self.widths[part])
            }
        }
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [Layer] {
        &mut self.layers
    }
}
