//! What an error in the weights costs, before the quantized model is run.

mod likelihood;
mod offsets;
mod slopes;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use quench_nn::{LayerInfo, Model, Weight};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::quantizer::Matrix;
use crate::run::check;
use crate::stats::host;
use crate::{Gram, QuantizeError};
pub use likelihood::Likelihood;
use offsets::Offsets;
pub use slopes::{Errors, Slopes};

/// Outputs up to which the Gram matrix of the gradients is kept whole; more are sketched.
const WHOLE: usize = 4096;

/// Rows of a sketch: the damage of a sketched layer has a relative standard error of about `√(2 / SKETCH)`, 6 %.
const SKETCH: usize = 512;

/// The curvature of the divergence from the dense model, layer by layer.
///
/// To second order an error `E = Ŵ − W` in the weights costs, in nats per label,
///
/// ```text
/// KL(p ‖ p̂) ≈ ½ Σ_l (P_l / T) · tr(G_l E_l A_l E_lᵀ)       A = E[x xᵀ], G = E[g gᵀ]
/// ```
///
/// with `x` what a layer reads and `g = ∂(−log p(y)) / ∂(W x)` at its `P` positions, for `T` labels `y` that are drawn from
/// the model itself: with the labels of the data this would not be the Fisher information. That the factors of different layers
/// and positions do not depend on each other is the approximation of K-FAC; [`Slopes`] do without it, for errors that are known
/// while gradients are gathered.
///
/// Source: Martens and Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate curvature"; for
/// convolutions Grosse and Martens 2016 (`docs/references.md#kfac`).
#[derive(Debug)]
pub struct Curvature {
    layers: BTreeMap<String, Factors>,
    slopes: Slopes,
    labels: usize,
}

/// What is known of one layer.
#[derive(Debug)]
struct Factors {
    /// `Σ x xᵀ` over the positions.
    input: Gram,
    output: Output,
    /// `Σ (Σ g xᵀ)²` over sequences, `[out, in]`.
    diagonal: Tensor<2>,
    /// `Σ |g|²`.
    energy: f64,
}

/// `Σ g gᵀ` over the positions.
#[derive(Debug)]
enum Output {
    /// `[out, out]`.
    Whole(Tensor<2>),
    /// `Σ_t r_t g_tᵀ` with random signs `r`, `[SKETCH, out]`: its square is the sum, but for a factor, in the mean.
    Sketch(Tensor<2>),
}

impl Curvature {
    /// Passes batches through a dense model, and gradients back.
    ///
    /// - `model`: all of its sections loaded, on a device with autodiff
    /// - `batches`: of several sequences each
    /// - `likelihood`: what the model says, given what it computes
    /// - `errors`: whose [slopes](Self::slopes) are wanted
    /// - `seed`: of the labels that are drawn
    /// - `observe`: called with the number of batches done; breaking out of it stops
    ///
    /// # Errors
    ///
    /// [`QuantizeError::Interrupted`] if `observe` broke off.
    pub fn gather<M: Model>(
        model: &mut M,
        batches: &[M::Input],
        likelihood: Likelihood<M::Input>,
        errors: &Errors,
        seed: u64,
        observe: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, QuantizeError> {
        let (read, tables): (Vec<LayerInfo>, Vec<LayerInfo>) =
            model.layers().into_iter().partition(|layer| !layer.site.is_empty());
        let tables = only_tables_learn(model, &tables);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut found = Self { layers: BTreeMap::new(), slopes: Slopes::default(), labels: 0 };
        for (index, batch) in batches.iter().enumerate() {
            let mut offsets = Offsets::at(&read);
            let output = likelihood.parameters(batch, model.forward(batch.clone(), &mut offsets));
            let [sequences, labels, width] = output.dims();
            let output = output.reshape([sequences * labels, width]);
            let gradient = Tensor::from_inner(likelihood.surprise(output.clone().inner(), &mut random));
            let grads = (output * gradient).sum().backward();
            found.labels += sequences * labels;
            for layer in &read {
                let (Some(x), Some(offset)) = (offsets.inputs.get(&layer.site), offsets.outputs.get(&layer.output()))
                else {
                    continue;
                };
                let Some(g) = offset.grad(&grads) else { continue };
                found.add(&layer.name, x.clone(), g, sequences, errors, &mut random);
            }
            for (name, table) in &tables {
                if let Some(gradient) = table.grad(&grads) {
                    found.slopes.add(name, &gradient, errors);
                }
            }
            found.slopes.end_batch(sequences);
            check(observe(index + 1))?;
        }
        Ok(found)
    }

    /// - `x`: `[positions, in]`, `g`: `[positions, out]`, of so many sequences one after the other
    fn add(
        &mut self,
        layer: &str,
        x: Tensor<2>,
        g: Tensor<2>,
        sequences: usize,
        errors: &Errors,
        random: &mut ChaCha8Rng,
    ) {
        let ([positions, _], [_, out]) = (x.dims(), g.dims());
        let input = Gram::of(x.clone());
        let output = if out <= WHOLE {
            Output::Whole(g.clone().transpose().matmul(g.clone()))
        } else {
            let signs = (0..SKETCH * positions).map(|_| if random.random::<bool>() { 1.0 } else { -1.0 }).collect();
            let signs = Tensor::<2>::from_data(TensorData::new::<f32, _>(signs, [SKETCH, positions]), &g.device());
            Output::Sketch(signs.matmul(g.clone()))
        };
        let energy = host(g.clone().square().sum())[0].into();
        let span = positions / sequences;
        let mut of = |sequence: usize| {
            let span = sequence * span..(sequence + 1) * span;
            let gradient = g.clone().slice([span.clone()]).transpose().matmul(x.clone().slice([span]));
            self.slopes.add(layer, &gradient, errors);
            gradient.square()
        };
        let diagonal = (1..sequences).fold(of(0), |sum, sequence| sum + of(sequence));
        let new = Factors { input, output, diagonal, energy };
        let factors = match self.layers.remove(layer) {
            None => new,
            Some(old) => Factors {
                input: old.input.plus(new.input),
                output: match (old.output, new.output) {
                    (Output::Whole(a), Output::Whole(b)) => Output::Whole(a + b),
                    (Output::Sketch(a), Output::Sketch(b)) => Output::Sketch(a + b),
                    _ => unreachable!("a layer has one number of outputs"),
                },
                diagonal: old.diagonal + new.diagonal,
                energy: old.energy + new.energy,
            },
        };
        self.layers.insert(layer.to_owned(), factors);
    }

    /// Labels that were drawn, tokens or images.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// `½ Σ_s d_s² / T`, in nats per label, of [slopes](Slopes).
    pub fn damage_along(&self, slopes: &[f64]) -> f64 {
        0.5 * slopes.iter().map(|slope| slope * slope).sum::<f64>() / self.labels as f64
    }

    /// How likely the labels become along the errors that were given.
    pub fn slopes(&self) -> &Slopes {
        &self.slopes
    }

    /// The layers that gradients reached.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// The inputs of a layer in the dense model.
    pub fn gram(&self, layer: &str) -> Option<&Gram> {
        Some(&self.layers.get(layer)?.input)
    }

    /// `½ (P / T) tr(G E A Eᵀ)`, in nats per label: what an error `E` `[out, in]` in this layer alone costs by K-FAC. `None` if no
    /// gradient reached the layer.
    ///
    /// # Panics
    ///
    /// If the error has not the shape of the layer.
    pub fn damage(&self, layer: &str, error: &Matrix) -> Option<f64> {
        let Factors { input, output, .. } = self.layers.get(layer)?;
        let positions = input.count() as f64;
        let e = on(error, &input.device());
        let moved = e.clone().matmul(input.sum()); // E Σ x xᵀ
        let sum = match output {
            Output::Whole(g) => host((moved.matmul(e.transpose()) * g.clone()).sum())[0],
            Output::Sketch(r) => host((r.clone().matmul(moved) * r.clone().matmul(e)).sum())[0] / SKETCH as f32,
        };
        // One of the two sums becomes a mean by P, the other by T.
        Some(0.5 * f64::from(sum) / positions / self.labels as f64)
    }

    /// `½ Σ F_ij E_ij²`, in nats per label: the same by the diagonal of the Fisher information, `F_ij = E[(∂(−log p) / ∂W_ij)²]`.
    ///
    /// Right for errors that do not depend on each other, as those of rounding; GPTQ hides errors where this cannot see that
    /// they do not matter. `None` if no gradient reached the layer.
    ///
    /// # Panics
    ///
    /// If the error has not the shape of the layer.
    pub fn diagonal_damage(&self, layer: &str, error: &Matrix) -> Option<f64> {
        let Factors { diagonal, .. } = self.layers.get(layer)?;
        let e = on(error, &diagonal.device());
        Some(0.5 * f64::from(host((diagonal.clone() * e.square()).sum())[0]) / self.labels as f64)
    }

    /// `tr F` of a layer per label: `δ² tr F / 24` is what uniform noise of a step `δ` in each of its weights costs.
    pub fn trace(&self, layer: &str) -> Option<f64> {
        let Factors { diagonal, .. } = self.layers.get(layer)?;
        Some(f64::from(host(diagonal.clone().sum())[0]) / self.labels as f64)
    }

    /// `tr(A) tr(G) P / T`, the same by K-FAC.
    pub fn factored_trace(&self, layer: &str) -> Option<f64> {
        let Factors { input, energy, .. } = self.layers.get(layer)?;
        let inputs: f64 = input.diagonal().into_iter().map(f64::from).sum();
        Some(inputs * energy / input.count() as f64 / self.labels as f64)
    }
}

fn on(error: &Matrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(error.values.clone(), [error.rows, error.columns]), device)
}

/// Takes all weights but those of `tables` out of the graph, and returns those.
fn only_tables_learn<M: Model>(model: &mut M, tables: &[LayerInfo]) -> Vec<(String, Tensor<2>)> {
    let mut found = Vec::new();
    for section in model.sections() {
        for part in model.open(section) {
            let w = Tensor::from_inner(part.weight.val().inner());
            let learns = tables.iter().any(|table| table.name == part.name);
            let w = if learns { w.require_grad() } else { w };
            if learns {
                found.push((part.name, w.clone()));
            }
            *part.weight = Weight::Dense(Param::initialized(ParamId::new(), w));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use quench_nn::{LoadError, Part, Role, Section, Tap};

    use super::*;

    const INPUTS: usize = 6;
    const CLASSES: usize = 5;

    /// `softmax(W x)`: `[batch, in]` → logits `[batch, 1, classes]`.
    struct Regression(Weight);

    impl Model for Regression {
        type Input = Tensor<2>;
        type Carry = Tensor<2>;

        fn layers(&self) -> Vec<LayerInfo> {
            let shape = [CLASSES, INPUTS];
            let site = "head.input".to_owned();
            vec![LayerInfo { name: "head".to_owned(), site, shape, role: Role::Head, block: None, residual: None }]
        }

        fn blocks(&self) -> usize {
            0
        }

        fn load(&mut self, _: Section) -> Result<(), LoadError> {
            Ok(())
        }

        fn release(&mut self, _: Section) {}

        fn start<T: Tap>(&self, input: Tensor<2>, _: &mut T) -> Tensor<2> {
            input
        }

        fn block<T: Tap>(&self, _: usize, carry: Tensor<2>, _: &mut T) -> Tensor<2> {
            carry
        }

        fn finish<T: Tap>(&self, carry: Tensor<2>, tap: &mut T) -> Tensor<3> {
            let x = tap.tap("head.input", carry);
            tap.tap("head.output", self.0.matmul(x)).unsqueeze_dim(1)
        }

        fn open(&mut self, _: Section) -> Vec<Part<'_>> {
            vec![Part { name: "head".to_owned(), site: "head.input".to_owned(), weight: &mut self.0 }]
        }
    }

    fn matrix(rows: usize, columns: usize, seed: u64, scale: f32) -> Matrix {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..rows * columns).map(|_| scale * (random.random::<f32>() - 0.5)).collect();
        Matrix { rows, columns, values }
    }

    /// Mean KL over the inputs, in f64.
    fn kl(x: &Matrix, w: &Matrix, moved: &Matrix) -> f64 {
        let softmax = |w: &Matrix, x: &[f32]| -> Vec<f64> {
            let of = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>().exp();
            let all: Vec<f64> = (0..w.rows).map(|row| of(w.row(row))).collect();
            let sum: f64 = all.iter().sum();
            all.into_iter().map(|p| p / sum).collect()
        };
        let one = |row| -> f64 {
            let (p, q) = (softmax(w, x.row(row)), softmax(moved, x.row(row)));
            p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum()
        };
        (0..x.rows).map(one).sum::<f64>() / x.rows as f64
    }

    /// Predicted by both ways, and exact; `W` has weights of up to `scale / 2`.
    fn compare(scale: f32) -> [f64; 3] {
        let device = Device::flex().autodiff();
        let x = matrix(20_000, INPUTS, 1, 4.0);
        let (w, e) = (matrix(CLASSES, INPUTS, 2, scale), matrix(CLASSES, INPUTS, 3, 0.1));
        let mut model = Regression(Weight::dense(on(&w, &device)));
        // A sequence is one input here, as the diagonal wants it: batches of one row would be many, so few rows serve it.
        let whole =
            Curvature::gather(&mut model, &[on(&x, &device)], Likelihood::Classes, &Errors::default(), 0, &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((whole.labels(), whole.layers().collect::<Vec<_>>()), (20_000, vec!["head"]));
        let mut moved = w.clone();
        moved.values.iter_mut().zip(&e.values).for_each(|(w, e)| *w += e);
        let damages = [whole.damage("head", &e), whole.diagonal_damage("head", &e)];
        let [kfac, diagonal] = damages.map(Option::unwrap);
        [kfac, diagonal, kl(&x, &w, &moved)]
    }

    #[test]
    fn the_divergence_of_a_softmax_regression_is_foreseen() {
        // Where all classes are likely alike, the gradient does not depend on the input, and K-FAC is exact.
        let [kfac, _, exact] = compare(0.0);
        assert!(exact < 0.01 && (kfac / exact - 1.0).abs() < 0.02, "{kfac} for {exact}");
        // Elsewhere it is not, and still near.
        let [kfac, _, exact] = compare(1.0);
        assert!((0.85..1.18).contains(&(kfac / exact)), "{kfac} for {exact}");
    }

    #[test]
    fn traces_and_damages_agree() {
        let device = Device::flex().autodiff();
        let x = matrix(400, INPUTS, 1, 4.0);
        let mut model = Regression(Weight::dense(on(&matrix(CLASSES, INPUTS, 2, 0.0), &device)));
        let found =
            Curvature::gather(&mut model, &[on(&x, &device)], Likelihood::Classes, &Errors::default(), 0, &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
        // Independent errors of unit variance cost half of the trace in the mean, whichever way it is computed.
        let mean = |damage: fn(&Curvature, &str, &Matrix) -> Option<f64>| -> f64 {
            let sign = |seed| {
                let mut e = matrix(CLASSES, INPUTS, seed, 1.0);
                e.values.iter_mut().for_each(|e| *e = e.signum());
                e
            };
            (0..2000).map(|seed| damage(&found, "head", &sign(seed)).unwrap()).sum::<f64>() / 2000.0
        };
        let (trace, factored) = (found.trace("head").unwrap(), found.factored_trace("head").unwrap());
        assert!((mean(Curvature::diagonal_damage) / (0.5 * trace) - 1.0).abs() < 1e-3);
        assert!((mean(Curvature::damage) / (0.5 * factored) - 1.0).abs() < 0.03);
        assert!((factored / trace - 1.0).abs() < 0.05, "{factored} and {trace}");
        assert!(found.damage("tail", &matrix(1, 1, 0, 1.0)).is_none());
    }

    #[test]
    fn a_sketch_has_the_damage_of_the_whole_in_the_mean() {
        let (g, x) = (matrix(300, 40, 1, 1.0), matrix(300, 8, 2, 1.0));
        let e = matrix(40, 8, 3, 0.1);
        let device = Device::flex();
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let mut whole = Curvature { layers: BTreeMap::new(), slopes: Slopes::default(), labels: 300 };
        whole.add("l", on(&x, &device), on(&g, &device), 1, &Errors::default(), &mut random);
        let exact = whole.damage("l", &e).unwrap();
        let factors = whole.layers.remove("l").unwrap();
        let signs: Vec<f32> = (0..SKETCH * 300).map(|_| if random.random::<bool>() { 1.0 } else { -1.0 }).collect();
        let signs = Tensor::<2>::from_data(TensorData::new(signs, [SKETCH, 300]), &device);
        let output = Output::Sketch(signs.matmul(on(&g, &device)));
        whole.layers.insert("l".to_owned(), Factors { output, ..factors });
        let sketched = whole.damage("l", &e).unwrap();
        assert!((sketched / exact - 1.0).abs() < 0.2, "{sketched} for {exact}");
    }
}
