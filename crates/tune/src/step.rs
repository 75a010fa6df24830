//! [`LearnedStep`]: a weight that is rounded while it is trained, its step trained with it.

use burn::tensor::{DType, Device, Tensor, TensorData};
use quench_format::{Code, FloatKind, FormatError, Group, Offsets, Packed, Scale, Scales, Scheme};
use quench_quantize::Matrix;

use crate::host;
use crate::rounding::Rounding;

mod parts;

pub use parts::Trained;

/// Where the trained weight of a [`LearnedStep`] begins.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// The codes stay as they are: only scales, zero points and minimums are trained.
    Codes,
    /// In the middle of the cells: the decoded weights.
    Decoded,
    /// At the dense weights: what a quantizer found beyond plain rounding is given up.
    Dense(&'a Matrix),
    /// In the cell of its code, as near to the dense weight as can be: the network starts as the quantizer left it, and
    /// weights that rounding was undecided about are near to where they change.
    Nearest(&'a Matrix),
}

/// A matrix `Ŵ = s · (round(w / s + z) − z)` in its scheme, differentiable in `w`, `s` and `z`.
///
/// With `v = w / s + z`, `q` the level nearest to `v`, and inside meaning that `v` is between the lowest level and the highest:
///
/// ```text
/// ∂Ŵ/∂w = 1 inside, 0 outside
/// ∂Ŵ/∂s = q − v inside, q − z outside        times 1 / √(N · Q), N weights to a scale, Q the highest level
/// ∂Ŵ/∂z = 0 inside, −s outside               as ∂Ŵ/∂s
/// ```
///
/// With minimums `Ŵ = s · round((w − m) / s) + m`, and `∂Ŵ/∂m = 0` inside, `1` outside. Every scalar code has a step in this
/// sense. Scales are rounded as the scheme keeps them, straight-through; those that are codes themselves stay as they are.
///
/// Weights are kept in steps of the grid, and scales and minimums in scales, as they were at the start, so that one learning rate means the
/// same in every layer and for every code: a thousandth of a step.
///
/// Source: Esser et al. 2020, "Learned step size quantization"; zero points: Bhalgat et al. 2020, "LSQ+" (`docs/references.md#lsq`).
#[derive(Clone, Debug)]
pub struct LearnedStep {
    packed: Packed,
    rounding: Rounding,
    /// The scales at the start, `[rows, groups]`, none of them 0.
    unit: Tensor<2>,
    latent: Latent,
    /// Scales over those at the start, `[rows, groups]`; absent where they cannot be trained.
    pub(crate) ratio: Option<Tensor<2>>,
    pub(crate) offset: Offset,
    /// Where the stored columns belong, inverted: original column `i` is stored at `restored[i]`.
    restored: Option<Tensor<1, burn::tensor::Int>>,
}

/// What is rounded.
#[derive(Clone, Debug)]
enum Latent {
    /// Weights, `[out, in]` in stored order, in steps: units of the start scale times the mean distance of levels.
    Free(Tensor<2>),
    /// Levels that stay, `[out, in]`.
    Levels(Tensor<2>),
}

/// What groups have beside their scale, `[rows, groups]`.
#[derive(Clone, Debug)]
pub(crate) enum Offset {
    None,
    /// Zero points, as real numbers that are rounded.
    Zeros(Tensor<2>),
    /// Minimums, in units of the start scale.
    Minimums(Tensor<2>),
    /// Minimums that stay.
    Fixed(Tensor<2>),
}

/// The least that a scale may shrink to: a fiftieth of what it was.
const LEAST_RATIO: f32 = 0.02;
/// The least part of the way from its level to the end of its cell that a weight starts from the end.
///
/// With 0.02 a third of the weights of a 2-bit GPTQ start at an end, and the first steps of Adam, all of the same length whatever the gradient, flip
/// them at random: on stories260k no later step of a short run was as good as the start.
const MARGIN: f32 = 0.5;
/// What stands for a scale of 0, and is 0 in all but name: the smallest half.
const NO_SCALE: f32 = 5.960_464_5e-8;

impl LearnedStep {
    /// A trainable form of `packed`, on a device with autodiff; at first, but for [`Start::Dense`], it decodes to the same.
    ///
    /// # Errors
    ///
    /// The scheme, if the code is not scalar.
    ///
    /// # Panics
    ///
    /// If the dense matrix has another shape.
    pub fn new(packed: &Packed, start: Start<'_>, device: &Device) -> Result<Self, Scheme> {
        let (scheme, [out, columns]) = (packed.scheme(), packed.shape());
        if !scheme.code.is_scalar() {
            return Err(scheme);
        }
        let [rows, groups] = scheme.group.scale_shape([out, columns]);
        let groups_of = |mut values: Vec<f32>| {
            values.truncate(rows * groups);
            values
        };
        let tensor = |values: Vec<f32>, shape| Tensor::<2>::from_data(TensorData::new(values, shape), device);
        let unit: Vec<f32> = groups_of(packed.scale_values());
        let unit: Vec<f32> = unit.into_iter().map(|s| if s == 0.0 { NO_SCALE } else { s }).collect();
        let minimums = packed.minimums().map(groups_of);
        let zeros = packed.zero_values().map(groups_of);
        let offset = match (&minimums, &zeros, scheme.minimum) {
            (Some(m), _, Some(Scale::Float(_))) => {
                let relative = m.iter().zip(&unit).map(|(m, s)| m / s).collect();
                Offset::Minimums(tensor(relative, [rows, groups]).require_grad())
            }
            (Some(m), ..) => Offset::Fixed(tensor(m.clone(), [rows, groups])),
            (None, Some(z), _) => Offset::Zeros(tensor(z.clone(), [rows, groups]).require_grad()),
            (None, None, _) => Offset::None,
        };
        let values = Start::values(start, packed, &unit, zeros.as_deref(), minimums.as_deref());
        let latent = match start {
            Start::Codes => Latent::Levels(tensor(values, [out, columns])),
            _ => Latent::Free(tensor(values, [out, columns]).require_grad()),
        };
        let ratio = scheme.scale.float().map(|_| Tensor::ones([rows, groups], device).require_grad());
        let restored = packed.parts().order.as_ref().map(|order| {
            let mut inverse = vec![0i32; columns];
            order.iter().enumerate().for_each(|(at, column)| inverse[*column as usize] = at as i32);
            Tensor::from_data(TensorData::new(inverse, [columns]), device)
        });
        let (packed, unit) = (packed.clone(), tensor(unit, [rows, groups]));
        Ok(Self { packed, rounding: Rounding::new(scheme.code, device), unit, latent, ratio, offset, restored })
    }

    /// `Ŵ`, `[out, in]`, columns in their original order.
    pub fn weight(&self) -> Tensor<2> {
        let scale = self.scale();
        let (zero, minimum) = self.offsets();
        let s = self.spread(scale.clone());
        let mut w = match &self.latent {
            Latent::Levels(levels) => levels.clone(),
            Latent::Free(u) => {
                let v = match &minimum {
                    Some(m) => (self.free(u) * self.spread(self.unit.clone()) - self.spread(m.clone())) / s.clone(),
                    None => self.free(u) * self.spread(self.unit.clone() / scale),
                };
                self.rounding.through(match &zero {
                    Some(z) => v + self.spread(z.clone()),
                    None => v,
                })
            }
        };
        if let Some(z) = zero {
            w = w - self.spread(z);
        }
        w = w * s;
        if let Some(m) = minimum {
            w = w + self.spread(m);
        }
        match &self.restored {
            Some(restored) => w.select(1, restored.clone()),
            None => w,
        }
    }

    /// The matrix as it would be stored: what [`weight`](Self::weight) is, but for the rounding of its last operations.
    ///
    /// # Errors
    ///
    /// If it is no valid matrix, a scale not finite for example.
    pub fn to_packed(&self) -> Result<Packed, FormatError> {
        let (scheme, shape, parts) = (self.packed.scheme(), self.packed.shape(), self.packed.parts());
        let scales = match (&self.ratio, scheme.scale) {
            (Some(_), Scale::Float(kind)) => Scales::Float(kept(kind, host(self.scale()))),
            _ => parts.scales.clone(),
        };
        let offsets = match (&self.offset, scheme.minimum) {
            (Offset::Zeros(z), _) => {
                let [low, high] = self.rounding.ends;
                let zeros = host(z.clone()).into_iter().map(|z| z.clamp(low, high).round_ties_even() as u16);
                Offsets::Zeros(zeros.collect())
            }
            (Offset::Minimums(_), Some(Scale::Float(kind))) => {
                let minimums = self.offsets().1.map(host).unwrap_or_default();
                Offsets::Minimums(Scales::Float(kept(kind, minimums)))
            }
            _ => parts.offsets.clone(),
        };
        let codes = match &self.latent {
            Latent::Levels(_) => self.packed.codes(),
            Latent::Free(u) => {
                let (zero, minimum) = self.offsets();
                let unit = self.free(u) * self.spread(self.unit.clone());
                let v = match minimum {
                    Some(m) => (unit - self.spread(m)) / self.spread(self.scale()),
                    None => self.free(u) * self.spread(self.unit.clone() / self.scale()),
                };
                let v = zero.map_or(v.clone(), |z| v + self.spread(z));
                let grid = scheme.code.grid();
                host(self.rounding.nearest(v)).into_iter().map(|level| code_of(&grid, scheme.code, level)).collect()
            }
        };
        Packed::from_codes(scheme, shape, &codes, scales, offsets, parts.order.clone())
    }

    /// Weights in units of the start scale.
    fn free(&self, u: &Tensor<2>) -> Tensor<2> {
        u.clone().mul_scalar(spacing(self.packed.scheme().code))
    }

    /// The scheme and shape `[out, in]`, which training does not change.
    pub fn form(&self) -> (Scheme, [usize; 2]) {
        (self.packed.scheme(), self.packed.shape())
    }

    /// The trained tensors: the weight, the scales, and what is beside them.
    pub(crate) fn tensors(&mut self) -> Vec<(&'static str, &mut Tensor<2>)> {
        let mut found = Vec::new();
        if let Latent::Free(u) = &mut self.latent {
            found.push(("latent", u));
        }
        found.extend(self.ratio.as_mut().map(|ratio| ("scale", ratio)));
        match &mut self.offset {
            Offset::Zeros(zeros) => found.push(("zero", zeros)),
            Offset::Minimums(minimums) => found.push(("minimum", minimums)),
            Offset::None | Offset::Fixed(_) => {}
        }
        found
    }

    /// `1 / √(N · Q)`.
    pub(crate) fn gradient_scale(&self) -> f64 {
        let (scheme, [out, columns]) = self.form();
        let sharing = match scheme.group {
            Group::Tensor => out * columns,
            group => group.size(columns),
        };
        1.0 / (sharing as f64 * f64::from(scheme.code.max_level())).sqrt()
    }

    /// `x`, whose gradient is made smaller by the [published factor](Self::gradient_scale).
    fn slowed(&self, x: Tensor<2>) -> Tensor<2> {
        let slow = x.clone().mul_scalar(self.gradient_scale());
        slow.clone() + (x - slow).detach()
    }

    /// Scales as they will be stored, `[rows, groups]`.
    fn scale(&self) -> Tensor<2> {
        match (&self.ratio, self.packed.scheme().scale) {
            (Some(ratio), Scale::Float(kind)) => {
                rounded(kind, self.slowed(ratio.clone().clamp_min(LEAST_RATIO)) * self.unit.clone())
            }
            _ => self.unit.clone(),
        }
    }

    /// Zero points and minimums as they will be stored.
    fn offsets(&self) -> (Option<Tensor<2>>, Option<Tensor<2>>) {
        match (&self.offset, self.packed.scheme().minimum) {
            (Offset::Zeros(z), _) => {
                let [low, high] = self.rounding.ends;
                let z = self.slowed(z.clone()).clamp(low, high);
                (Some(z.clone() + (z.clone().detach().round() - z.detach())), None)
            }
            (Offset::Minimums(m), Some(Scale::Float(kind))) => {
                (None, Some(rounded(kind, self.slowed(m.clone()) * self.unit.clone())))
            }
            (Offset::Fixed(m) | Offset::Minimums(m), _) => (None, Some(m.clone())),
            (Offset::None, _) => (None, None),
        }
    }

    /// One value for each group as one for each weight: `[rows, groups]` → `[out, in]`, in stored order.
    fn spread(&self, x: Tensor<2>) -> Tensor<2> {
        let (scheme, [out, columns]) = self.form();
        let (size, [rows, groups]) = (scheme.group.size(columns), x.dims());
        let x = x.reshape([rows, groups, 1]).expand([out, groups, size]).reshape([out, groups * size]);
        // The last group of a row may be shorter.
        x.narrow(1, 0, columns)
    }
}

impl Start<'_> {
    /// Weights in steps, or levels, `[out, in]` in stored order.
    fn values(self, packed: &Packed, unit: &[f32], zeros: Option<&[f32]>, minimums: Option<&[f32]>) -> Vec<f32> {
        let (scheme, shape @ [_, columns]) = (packed.scheme(), packed.shape());
        let (group, groups) = (scheme.group.size(columns), scheme.group.groups_per_row(columns));
        let (ladder, spacing) = (scheme.code.ladder(), spacing(scheme.code));
        if let Self::Dense(w) | Self::Nearest(w) = self {
            assert_eq!([w.rows, w.columns], shape, "a dense weight of another shape than the packed one");
        }
        let order = packed.parts().order.as_deref();
        let of = |(at, code): (usize, u16)| {
            let (row, column) = (at / columns, at % columns);
            let g = if scheme.group == Group::Tensor { 0 } else { row * groups + column / group };
            let zero = zeros.map_or(0.0, |zeros| zeros[g]);
            let minimum = minimums.map_or(0.0, |minimums| minimums[g]);
            let level = scheme.code.level(code);
            let dense = |w: &Matrix| {
                let column = order.map_or(column, |order| order[column] as usize);
                (w.row(row)[column] - minimum) / unit[g] + zero
            };
            let v = match self {
                Self::Codes => return level,
                Self::Decoded => level,
                Self::Dense(w) => dense(w),
                Self::Nearest(w) => {
                    let rank = ladder.rank(level);
                    // Beyond the ends there is no gradient that could bring a weight back.
                    let towards = |end: Option<&f32>| end.map_or(level, |end| level + (1.0 - MARGIN) * (end - level));
                    let low = towards(rank.checked_sub(1).map(|below| &ladder.uppers[below]));
                    dense(w).clamp(low, towards(ladder.uppers.get(rank)).max(low))
                }
            };
            (v - zero + minimum / unit[g]) / spacing
        };
        packed.codes().into_iter().enumerate().map(of).collect()
    }
}

/// The mean distance of neighbouring levels.
fn spacing(code: Code) -> f32 {
    let levels = code.ladder().levels;
    let (low, high) = (levels[0], levels[levels.len() - 1]);
    // A code whose levels are all 0 has no steps.
    if high > low { (high - low) / (levels.len() - 1) as f32 } else { 1.0 }
}

/// The code of a level that the device gave.
fn code_of(grid: &quench_format::Grid, code: Code, level: f32) -> u16 {
    if code.is_affine() { grid.nearest_with_zero(level, 0) } else { grid.nearest(level) }
}

/// What is stored of values that were already rounded on a device, which may have rounded otherwise in the last bit.
fn kept(kind: FloatKind, values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|value| kind.round(value)).collect()
}

/// `x` as floats of this kind, with the gradient of `x`.
fn rounded(kind: FloatKind, x: Tensor<2>) -> Tensor<2> {
    let fixed = x.clone().detach();
    let (dtype, device) = match kind {
        FloatKind::F32 => return x,
        FloatKind::F16 => (DType::F16, x.device()),
        FloatKind::BF16 => (DType::BF16, x.device()),
    };
    let near = if device.supports_dtype(dtype) {
        fixed.clone().cast(dtype).cast(DType::F32)
    } else {
        let shape = x.dims();
        Tensor::from_data(TensorData::new(kept(kind, host(fixed.clone())), shape), &device)
    };
    x + (near - fixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{matrix, on, rounded as rtn};

    const SCHEMES: [&str; 12] = [
        "int2/8/f16",
        "int3/row/f32",
        "int1/5/f16",
        "int4/tensor/f32",
        "uint2/8/f16",
        "uint4/7/bf16",
        "nf4/8/f16",
        "e2m1/4/e8m0",
        "slog5:mu8/8/f16",
        "iq4nl/8/int6/2:f16",
        "uint4/8/f16/min:f16",
        "uint2/4/uint4/4:f16/min:uint4/4:f16",
    ];

    fn device() -> Device {
        Device::flex().autodiff()
    }

    fn near(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let reach = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() <= 2e-6 * reach, "{what} at {at}: {found}, not {expected}");
        }
    }

    /// A matrix with columns in another order, and with an empty group.
    fn packed(scheme: &str) -> (Packed, Matrix) {
        let mut w = matrix(6, 20, 3, 1.0);
        w.values[20..40].fill(0.0);
        let found = rtn(&w, scheme);
        if scheme != "int2/8/f16" {
            return (found, w);
        }
        let order: Vec<u32> = (0..20).map(|column| column * 7 % 20).collect();
        let parts = found.parts();
        let scheme = scheme.parse().unwrap();
        let turned =
            Packed::from_codes(scheme, [6, 20], &found.codes(), parts.scales.clone(), None, Some(order.clone()));
        let mut values = vec![0.0; 120];
        (0..120).for_each(|at| values[at / 20 * 20 + order[at % 20] as usize] = w.values[at]);
        (turned.unwrap(), Matrix { values, ..w })
    }

    /// Whatever it starts from, a step is at first what the file was, and gives that file back; but for the dense start.
    #[test]
    fn it_begins_as_the_packed_matrix() {
        for scheme in SCHEMES {
            let (packed, w) = packed(scheme);
            for start in [Start::Codes, Start::Decoded, Start::Nearest(&w)] {
                let step = LearnedStep::new(&packed, start, &device()).unwrap();
                near(&host(step.weight()), &packed.decode(), &format!("{scheme} {start:?}"));
                let back = step.to_packed().unwrap();
                near(&back.decode(), &packed.decode(), scheme);
                assert_eq!(back.codes(), packed.codes(), "{scheme} {start:?}");
            }
            // From the dense weights it is plain rounding on the same grid.
            let step = LearnedStep::new(&packed, Start::Dense(&w), &device()).unwrap();
            near(&host(step.weight()), &step.to_packed().unwrap().decode(), scheme);
        }
    }

    /// Whoever keeps the numbers elsewhere has the same step: values, codes and gradients, in the units of the weights.
    #[test]
    fn its_parts_make_it_again() {
        for scheme in SCHEMES {
            let (packed, w) = packed(scheme);
            let step = LearnedStep::new(&packed, Start::Nearest(&w), &device()).unwrap();
            let Trained { weight, scale, offset } = step.trained();
            let train = |x: Tensor<2>| Tensor::from_inner(x).require_grad();
            let [weight, scale, offset] = [Some(weight), scale, offset].map(|x| x.map(train));
            let weight = weight.unwrap();
            let again = step.with(Trained { weight: weight.clone(), scale: scale.clone(), offset });
            near(&host(again.weight()), &host(step.weight()), scheme);
            assert_eq!(again.to_packed().unwrap().codes(), packed.codes(), "{scheme}");
            // Straight through: the weight's gradient is that of the matrix, or nothing beyond the ends.
            let towards = on(&matrix(6, 20, 9, 1.0), &device());
            let grads = (again.weight() * towards.clone()).sum().backward();
            let found = host(weight.grad(&grads).unwrap());
            let inside = host(towards).into_iter().zip(found).filter(|(g, found)| {
                let straight = (found - g).abs() < 1e-3 * g.abs().max(0.01);
                assert!(*found == 0.0 || straight, "{scheme}: {found}, not {g}");
                straight
            });
            let inside = inside.count();
            assert!(inside > 80, "{scheme}: {inside} of 120");
            assert!(scale.is_none_or(|scale| scale.grad(&grads).is_some()), "{scheme}");
        }
    }

    #[test]
    fn a_trellis_has_no_step() {
        let scheme: Scheme = "trellis2:8/tensor/f32".parse().unwrap();
        let packed = Packed::from_codes(scheme, [4, 2], &[0; 8], Scales::Float(vec![0.5]), None, None).unwrap();
        assert_eq!(LearnedStep::new(&packed, Start::Decoded, &device()).unwrap_err(), scheme);
    }

    /// What is trained moves by noise, so that some weights change their codes and some leave the grid.
    fn moved(scheme: &str, start: Start<'_>, packed: &Packed) -> LearnedStep {
        let mut step = LearnedStep::new(packed, start, &device()).unwrap();
        for (seed, (name, x)) in (10..).zip(step.tensors()) {
            let [rows, columns] = x.dims();
            let amount = if name == "latent" { 1.3 } else { 0.2 };
            let noise = on(&matrix(rows, columns, seed, amount), &device());
            *x = (crate::constant(x.clone()) + noise).require_grad();
        }
        let _ = scheme;
        step
    }

    #[test]
    fn what_is_stored_is_what_was_trained() {
        for scheme in SCHEMES {
            let (packed, w) = packed(scheme);
            for start in [Start::Codes, Start::Nearest(&w)] {
                let step = moved(scheme, start, &packed);
                let stored = step.to_packed().unwrap();
                near(&host(step.weight()), &stored.decode(), &format!("{scheme} {start:?}"));
                assert_eq!(stored.scheme(), packed.scheme());
                assert_eq!(stored.codes() == packed.codes(), matches!(start, Start::Codes), "{scheme}");
            }
        }
    }

    /// Straight through means: the gradient of the smooth function in which what rounding added stays what it is. Against central
    /// differences of that function, in f64 on the host, for every trained number.
    #[test]
    fn gradients_are_those_of_the_smooth_surrogate() {
        for scheme in
            ["int2/8/f32", "uint2/8/f32", "nf4/8/f32", "slog5:mu8/row/f32", "int3/tensor/f32", "uint4/8/f32/min:f32"]
        {
            let w = matrix(3, 20, 3, 1.0);
            let packed = rtn(&w, scheme);
            let mut step = moved(scheme, Start::Nearest(&w), &packed);
            let towards = matrix(3, 20, 9, 1.0);
            let grads = (step.weight() * on(&towards, &device())).sum().backward();
            let slow = step.gradient_scale();
            let unit: Vec<f64> = host(step.unit.clone()).into_iter().map(f64::from).collect();
            let [low, high] = step.rounding.ends.map(f64::from);
            let (form, [_, groups]) = (step.form(), step.unit.dims());
            let size = form.0.group.size(20);
            let spacing = f64::from(spacing(form.0.code));
            let has_minimums = form.0.minimum.is_some();
            let mut names = Vec::new();
            let mut values: Vec<Vec<f64>> = Vec::new();
            let mut found: Vec<Vec<f32>> = Vec::new();
            for (name, x) in step.tensors() {
                names.push(name);
                values.push(host(x.clone()).into_iter().map(f64::from).collect());
                found.push(host(x.grad(&grads).unwrap_or_else(|| panic!("{scheme}: no gradient for {name}"))));
            }
            let at = |name: &str| names.iter().position(|found| *found == name);
            let group = |row: usize, column: usize| match form.0.group {
                Group::Tensor => 0,
                _ => row * groups + column / size,
            };
            // The sum of `towards · Ŵ`; `fixed` is what rounding added at the point of the gradient: to each weight, and to each zero.
            let ladder = form.0.code.ladder();
            type Added = (Vec<f64>, Vec<f64>);
            let smooth = |values: &[Vec<f64>], fixed: Option<&Added>| -> (f64, Added) {
                let ratio = &values[at("scale").unwrap()];
                let mut added = (Vec::new(), Vec::new());
                let mut sum = 0.0;
                for row in 0..3 {
                    for column in 0..20 {
                        let (i, g) = (row * 20 + column, group(row, column));
                        let s = ratio[g] * unit[g];
                        let zero = at("zero").map_or(0.0, |at| values[at][g].clamp(low, high));
                        let zero_off = fixed.map_or(zero.round_ties_even() - zero, |fixed| fixed.1[i]);
                        let z = zero + zero_off;
                        let m = at("minimum").map_or(0.0, |at| values[at][g] * unit[g]);
                        let v = ((values[0][i] * spacing * unit[g] - m) / s + z).clamp(low, high);
                        let off = fixed
                            .map_or_else(|| f64::from(ladder.levels[ladder.rank(v as f32)]) - v, |fixed| fixed.0[i]);
                        sum += f64::from(towards.values[i]) * (s * (v + off - z) + m);
                        added.0.push(off);
                        added.1.push(zero_off);
                    }
                }
                (sum, added)
            };
            let (_, added) = smooth(&values, None);
            assert_eq!(has_minimums, at("minimum").is_some());
            for tensor in 0..values.len() {
                let factor = if names[tensor] == "latent" { 1.0 } else { slow };
                for i in 0..values[tensor].len() {
                    const H: f64 = 1e-6;
                    let mut there = |by: f64| {
                        values[tensor][i] += by;
                        let sum = smooth(&values, Some(&added)).0;
                        values[tensor][i] -= by;
                        sum
                    };
                    let expected = factor * (there(H) - there(-H)) / (2.0 * H);
                    let found = f64::from(found[tensor][i]);
                    let within = 2e-4 * expected.abs().max(0.1);
                    assert!(
                        (found - expected).abs() < within,
                        "{scheme} {} {i}: {found}, not {expected}",
                        names[tensor]
                    );
                }
            }
        }
    }
}
