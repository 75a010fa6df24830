//! [`Rounding`]: the nearest level of a scalar code, on a device.

use burn::tensor::{Device, Int, Tensor, TensorData};
use quench_format::Code;

/// The levels of one scalar code on a device; the same answers as [`Code::nearest`].
#[derive(Clone, Debug)]
pub(crate) struct Rounding {
    kind: Kind,
    /// The lowest level and the highest.
    pub(crate) ends: [f32; 2],
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "some hundred bytes, once for each layer")]
enum Kind {
    /// All integers between the ends; an even one has an even code.
    Integers,
    /// `levels` `[2^bits]` by rank, `uppers` `[2^bits]` the largest number of each rank: infinity from the last level on.
    Table { bits: u32, levels: Tensor<1>, uppers: Tensor<1> },
}

impl Rounding {
    /// - `code`: scalar
    pub(crate) fn new(code: Code, device: &Device) -> Self {
        let mut ladder = code.ladder();
        let ends = [ladder.levels[0], ladder.levels[ladder.levels.len() - 1]];
        let kind = match code {
            Code::Int { bits } if bits.get() > 1 => Kind::Integers,
            Code::Affine { .. } => Kind::Integers,
            _ => {
                let bits = ladder.levels.len().next_power_of_two().ilog2().max(1);
                ladder.uppers.resize(1 << bits, f32::INFINITY);
                ladder.levels.resize(1 << bits, ends[1]);
                let tensor = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [1 << bits]), device);
                Kind::Table { bits, levels: tensor(ladder.levels), uppers: tensor(ladder.uppers) }
            }
        };
        Self { kind, ends }
    }

    /// The same on another device.
    pub(crate) fn beside(&self, device: &Device) -> Self {
        let moved = |x: &Tensor<1>| crate::constant(x.clone()).to_device(device);
        let kind = match &self.kind {
            Kind::Integers => Kind::Integers,
            Kind::Table { bits, levels, uppers } => {
                Kind::Table { bits: *bits, levels: moved(levels), uppers: moved(uppers) }
            }
        };
        Self { kind, ends: self.ends }
    }

    /// The level nearest to each element; a constant to autodiff.
    pub(crate) fn nearest(&self, x: Tensor<2>) -> Tensor<2> {
        let (x, [low, high]) = (x.detach(), self.ends);
        match &self.kind {
            Kind::Integers => x.clamp(low, high).round(),
            Kind::Table { bits, levels, uppers } => {
                let shape = x.dims();
                let count = shape[0] * shape[1];
                let x = x.reshape([count]);
                // How many uppers are below x, bit by bit from the highest: a binary search for all elements at once.
                let mut rank = Tensor::<1, Int>::zeros([count], &x.device());
                for bit in (0..*bits).rev() {
                    let step = 1i32 << bit;
                    let upper = uppers.clone().select(0, rank.clone() + (step - 1));
                    rank = rank + x.clone().greater(upper).int() * step;
                }
                levels.clone().select(0, rank).reshape(shape)
            }
        }
    }

    /// The nearest level with the gradient of what is within the ends: `1` there, `0` beyond.
    ///
    /// Source: Bengio et al. 2013, the straight-through estimator (`docs/references.md#straight-through`).
    pub(crate) fn through(&self, x: Tensor<2>) -> Tensor<2> {
        let [low, high] = self.ends;
        let inside = x.clamp(low, high);
        inside.clone() + (self.nearest(inside.clone()) - inside).detach()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn levels_are_those_of_the_host() {
        let device = Device::flex();
        for code in [
            "int1",
            "int2",
            "int3",
            "int4",
            "int8",
            "uint2",
            "uint4",
            "nf4",
            "iq4nl",
            "e2m1",
            "e4m3",
            "slog5:mu8",
            "slog8:mu255",
            "lns4:oct3.5",
            "plog4",
            "plog2",
        ] {
            let code: Code = code.parse().unwrap();
            let (rounding, grid) = (Rounding::new(code, &device), code.grid());
            let reach = code.ladder().levels.iter().fold(0.0f32, |a, b| a.max(b.abs())).max(1.0);
            // A fine walk over all levels and beyond, and every boundary with its neighbours.
            let mut x: Vec<f32> = (-600..=600).map(|k| k as f32 / 500.0 * reach).collect();
            x.extend(code.ladder().uppers.iter().flat_map(|x| [x.next_down(), *x, x.next_up()]));
            let found = host(rounding.nearest(Tensor::from_data(TensorData::new(x.clone(), [1, x.len()]), &device)));
            for (x, found) in x.iter().zip(found) {
                let nearest = if code.is_affine() { code.nearest_with_zero(*x, 0) } else { grid.nearest(*x) };
                assert_eq!(found, grid.level(nearest), "{code} at {x}");
            }
        }
    }
}
