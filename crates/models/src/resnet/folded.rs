//! The checkpoint of a residual network as if its batch norms had been folded before it was saved.

use quench_checkpoint::{Edit, Edited};

use super::ResNet;
use super::convolution::EPS;
use crate::ModelError;

/// The tensors of a network's source, each batch norm folded into the convolution before it.
///
/// ```text
/// s = γ / √(v + ε)        W ← s ⊙ W        b ← β − s · m
/// ```
///
/// A convolution `conv1` with the norm `bn1` has `conv1.weight` and `conv1.bias` in f32 here, and no tensor of `bn1`. A
/// configuration that goes with these tensors says `"folded": true`.
///
/// # Errors
///
/// [`ModelError::Packed`] if the source has a packed layer: norms are folded before quantization; and whatever is wrong with
/// the norms.
///
/// Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
/// inference", section 3.2.
pub(super) fn folded(network: &ResNet) -> Result<Edited, ModelError> {
    let source = network.source();
    if let Some(layer) = source.manifest().layers.keys().next() {
        return Err(ModelError::Packed { path: source.path().to_owned(), layer: layer.clone() });
    }
    let mut folded = Edited::new(source.clone());
    for (convolution, norm) in network.norms() {
        let vector = |part: &str| source.tensor(&format!("{norm}.{part}"))?.to_finite_f32();
        let (gain, shift) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let scale: Vec<f64> =
            gain.iter().zip(&variance).map(|(&gain, &v)| f64::from(gain) / (f64::from(v) + EPS).sqrt()).collect();
        let terms = shift.iter().zip(&mean).zip(&scale);
        let bias = terms.map(|((&shift, &mean), s)| (f64::from(shift) - s * f64::from(mean)) as f32).collect();
        folded.edit(&format!("{convolution}.weight"), Edit::Scale { axis: 0, by: scale.into() })?;
        folded.put(&format!("{convolution}.bias"), &[shift.len()], bias)?;
        // All of it, also the `num_batches_tracked` of newer files.
        folded.leave_out(&format!("{norm}."));
    }
    Ok(folded)
}
