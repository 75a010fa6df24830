//! A learned step whose trained numbers somebody else keeps: the parameters of a foreign module, in the user's own loop.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Latent, LearnedStep, Offset, spacing};
use crate::constant;

/// What training changes of a matrix.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The weight that is rounded, `[out, in]`, in its own units and the original order of columns.
    pub weight: Tensor<2>,
    /// Scales over those at the start, `[rows, groups]`; absent where they cannot be trained.
    pub scale: Option<Tensor<2>>,
    /// Zero points, or minimums in units of the start scale, `[rows, groups]`; absent where there are none to train.
    pub offset: Option<Tensor<2>>,
}

impl LearnedStep {
    /// What it has now, without a graph.
    pub fn trained(&self) -> Trained {
        let weight = match &self.latent {
            Latent::Free(u) => self.free(u) * self.spread(self.unit.clone()),
            Latent::Levels(levels) => levels.clone() * self.spread(self.unit.clone()),
        };
        let weight = match &self.restored {
            Some(restored) => weight.select(1, restored.clone()),
            None => weight,
        };
        let offset = match &self.offset {
            Offset::Zeros(x) | Offset::Minimums(x) => Some(constant(x.clone())),
            Offset::None | Offset::Fixed(_) => None,
        };
        Trained { weight: constant(weight), scale: self.ratio.clone().map(constant), offset }
    }

    /// The same step with other numbers, whose gradients are those of the tensors given; all else moves to their device and is a
    /// constant. An absent tensor leaves what there is.
    ///
    /// # Panics
    ///
    /// If a tensor has another shape than [`trained`](Self::trained) gives.
    pub fn with(&self, Trained { weight, scale, offset }: Trained) -> Self {
        let (_, shape @ [_, columns]) = self.form();
        assert_eq!(weight.dims(), shape, "a weight of another shape than the packed one");
        let device = weight.device().inner();
        let beside = |x: &Tensor<2>| constant(x.clone()).to_device(&device);
        let mut step = Self {
            packed: self.packed.clone(),
            rounding: self.rounding.beside(&device),
            unit: beside(&self.unit),
            latent: Latent::Levels(weight.clone()),
            ratio: self.ratio.as_ref().map(|old| scale.unwrap_or_else(|| beside(old))),
            offset: match &self.offset {
                Offset::None => Offset::None,
                Offset::Zeros(old) => Offset::Zeros(offset.unwrap_or_else(|| beside(old))),
                Offset::Minimums(old) => Offset::Minimums(offset.unwrap_or_else(|| beside(old))),
                Offset::Fixed(old) => Offset::Fixed(beside(old)),
            },
            restored: self.restored.clone().map(|restored| restored.without_autodiff().to_device(&device)),
        };
        let stored = match &self.packed.parts().order {
            Some(order) => weight.select(1, indices(order, columns, &device)),
            None => weight,
        };
        let unit = step.spread(step.unit.clone()).mul_scalar(spacing(self.packed.scheme().code));
        step.latent = Latent::Free(stored / unit);
        step
    }
}

fn indices(order: &[u32], columns: usize, device: &Device) -> Tensor<1, Int> {
    let order: Vec<i32> = order.iter().map(|column| *column as i32).collect();
    Tensor::from_data(TensorData::new(order, [columns]), device)
}
