//! What is seen of a study at one moment.

use burn::tensor::{Tensor, TensorData};
use quench_metrics::hypercubicity::{Cube, Hypercubicity};
use quench_metrics::threshold::{Point, Rounding, Sweep, Verdict, verdict};
use quench_metrics::{
    Bootstrap, Latent, LatentOptions, Neighbours, Plane, Value, agreement, cka, kl_per_token, participation_ratio,
    relative_error,
};
use quench_quantize::{Matrix, Method, ScaleSearch, Target};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Activation, EACH, Network, Study, StudySettings};
use crate::JobError;
use crate::contrast::Named;

/// Neighbours of a latent.
const K: usize = 8;
/// Steps of the sweep, and where it begins and ends, in units of the root mean square of the latents.
const SWEEP: usize = 20;
const RANGE: [f64; 2] = [0.1, 8.0];
/// The share of the half-width of the cube that is near its ends.
const NEAR: f64 = 0.2;
/// The agreement whose step is the threshold.
const HALF: f64 = 0.5;

/// A study at one moment: every number is of the library's functions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The settings.
    pub settings: StudySettings,
    /// Steps of training so far.
    pub done: usize,
    /// The last loss without its penalty; `None` before training.
    pub loss: Option<f32>,
    /// What was measured, with names and units.
    pub values: Vec<Named>,
    /// Where the latents are, in the plane of those that are not rounded.
    pub places: Vec<Place>,
    /// The share of their variance that the plane shows; `None` if nothing varies.
    pub explained: Option<f64>,
    /// The agreement with the network as it is, over the step of the latents.
    pub sweep: Sweep,
    /// The step at which half of the answers have changed; `None` if that is beyond the sweep.
    pub threshold: Option<Value>,
    /// What the sweep is evidence of.
    pub verdict: Verdict,
}

/// One latent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Its class.
    pub class: i32,
    /// Where it is without quantization.
    pub before: [f64; 2],
    /// Where it is with it.
    pub after: [f64; 2],
    /// Whether all of its coordinates are near the ends of the cube, without quantization.
    pub corner: bool,
    /// The share of its neighbours that it keeps.
    pub kept: f32,
    /// Its neighbours without quantization.
    pub neighbours: Vec<u32>,
    /// Its neighbours with it.
    pub new_neighbours: Vec<u32>,
}

impl Frame {
    /// A value by its name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|named| named.name == name).map(|named| named.value.value)
    }
}

impl Study {
    /// What is to be seen now.
    ///
    /// # Errors
    /// If the weights have become so large that they cannot be quantized.
    pub fn frame(&self) -> Result<Frame, JobError> {
        let Self { settings, x, .. } = self;
        let activation = settings.activation;
        let dense = self.network.latents(x.clone(), activation, None);
        let (network, losses) = self.quantized()?;
        let moved = network.latents(x.clone(), activation, None);
        let scale = f64::from(dense.clone().square().mean().into_scalar::<f32>()).sqrt();
        let rounded = rounded(&moved, settings.step * scale);
        let logits = self.network.classify(dense.clone());
        let after = network.classify(rounded.clone());

        let cube = match activation {
            Activation::Tanh | Activation::Sigmoid => Cube::Bounded { low: -1.0, high: 1.0 },
            Activation::Relu | Activation::Linear => Cube::Fitted,
        };
        let corners = Hypercubicity::of(dense.clone(), cube, NEAR, settings.seed);
        let neighbours = [Neighbours::of(dense.clone(), K), Neighbours::of(rounded.clone(), K)];
        let kept = neighbours[0].overlap(&neighbours[1]);
        let n = self.classes.len();
        let share = |values: &[bool]| values.iter().filter(|value| **value).count() as f64 / values.len() as f64;
        let mean = |values: &[f32]| values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
        let mut values = Vec::new();
        let mut add = |name: &str, unit: &str, value: Value| {
            values.push(Named { name: name.to_owned(), unit: unit.to_owned(), value });
        };
        let accuracy = |logits: &Tensor<2>| Value::measured(share(&self.right(logits)), "share of right answers", n);
        add("accuracy, dense", "", accuracy(&logits));
        add("accuracy, quantized", "", accuracy(&after));
        add("agreement", "", Value::measured(share(&agreement(logits.clone(), after.clone())), "top-1 agreement", n));
        let kl = kl_per_token(logits, after);
        add("KL divergence", "nats", Value::measured(mean(&kl), "mean over points", n));
        let chance = neighbours[0].chance();
        add("neighbours kept", "", Value::measured(mean(&kept), "overlap of 8 neighbours", n).with_null(chance));
        if let Some(value) = cka(dense.clone(), rounded.clone()) {
            add("CKA", "", Value::measured(value, "debiased linear CKA", n).with_null(0.0));
        }
        add("coordinates near corners", "share", corners.h_coord.clone());
        add("points near corners", "share", Value::measured(corners.h_corner, "all coordinates near an end", n));
        add("signal after 1 bit", "dB", Value::measured(corners.one_bit_db, "two means for each coordinate", n));
        add("bimodality", "", Value::measured(corners.bimodality, "Sarle's coefficient", n).with_null(1.0 / 3.0));
        if let Some(ratio) = participation_ratio(dense.clone()) {
            add("dimensions that carry the variance", "", Value::measured(ratio, "participation ratio", n));
        }
        if let Some(latent) = Latent::fit(dense.clone(), LatentOptions::default()) {
            let own = latent.escape_rate(dense.clone(), quick()).value;
            add("outside of the latent space", "share", latent.escape_rate(rounded.clone(), quick()).with_null(own));
        }
        for (name, loss) in ["first", "second", "third"].into_iter().zip(losses) {
            add(&format!("relative error of the {name} matrix"), "", Value::measured(loss, "‖Ŵ − W‖ / ‖W‖", 1));
        }

        let sweep = self.sweep(&network, &moved, scale);
        let plane = Plane::of(dense.clone());
        let places = |x: &Tensor<2>| plane.as_ref().map_or_else(|| vec![[0.0; 2]; n], |plane| plane.places(x.clone()));
        let (before, behind) = (places(&dense), places(&rounded));
        let near = in_corner(&dense, cube);
        let lists = neighbours.each_ref().map(|found| found.lists().map(<[u32]>::to_vec).collect::<Vec<_>>());
        let [old, new] = lists;
        let places = (0..n).map(|at| Place {
            class: self.classes[at],
            before: before[at],
            after: behind[at],
            corner: near[at],
            kept: kept[at],
            neighbours: old[at].clone(),
            new_neighbours: new[at].clone(),
        });
        Ok(Frame {
            settings: *settings,
            done: self.done,
            loss: self.loss.is_finite().then_some(self.loss),
            values,
            places: places.collect(),
            explained: plane.as_ref().map(|plane| plane.explained),
            threshold: sweep.crossing(HALF, &quick()),
            verdict: verdict(std::slice::from_ref(&sweep), &quick()),
            sweep,
        })
    }

    /// The network with its weights as `int<bits>/8/f16`, and what each matrix has lost.
    fn quantized(&self) -> Result<(Network, Vec<f64>), JobError> {
        let mut network = self.network.clone();
        let mut losses = Vec::new();
        for [w, _] in &mut network.0 {
            let [rows, columns] = w.dims();
            if self.settings.bits == 32 {
                losses.push(0.0);
                continue;
            }
            let matrix = Matrix { rows, columns, values: host(w.clone()) };
            let target = format!("int{}/8/f16", self.settings.bits);
            let target: Target = target.parse()?;
            let packed = Method::rtn(ScaleSearch::AbsMax).quantize("study", &matrix, target, None)?.packed;
            let after = Tensor::from_data(TensorData::new(packed.decode(), [rows, columns]), &self.device);
            losses.push(relative_error(w.clone(), after.clone()));
            *w = after;
        }
        Ok((network, losses))
    }

    /// Agreement with the network as it is over steps of the latents; its errors are over points in groups.
    fn sweep(&self, network: &Network, latents: &Tensor<2>, scale: f64) -> Sweep {
        let reference = network.classify(latents.clone());
        let point = |k: usize| {
            let step = RANGE[0] * (RANGE[1] / RANGE[0]).powf(k as f64 / (SWEEP - 1) as f64);
            let same = agreement(reference.clone(), network.classify(rounded(latents, step * scale)));
            let groups = same
                .chunks(same.len() / EACH)
                .map(|group| group.iter().filter(|same| **same).count() as f64 / group.len() as f64);
            Point::crossed(step, &[groups.collect()])
        };
        Sweep::new((0..SWEEP).map(point).collect())
    }

    fn right(&self, logits: &Tensor<2>) -> Vec<bool> {
        let [_, classes] = logits.dims();
        let likeliest = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        let rows = host(logits.clone());
        rows.chunks(classes).zip(&self.classes).map(|(row, class)| likeliest(row) == Some(*class as usize)).collect()
    }
}

/// Each number as the nearest multiple of a step; as it is without one.
fn rounded(x: &Tensor<2>, step: f64) -> Tensor<2> {
    if step <= 0.0 {
        return x.clone();
    }
    // The nearest multiple draws nothing.
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let values: Vec<f32> =
        host(x.clone()).into_iter().map(|x| Rounding::Nearest.apply(f64::from(x), step, &mut random) as f32).collect();
    Tensor::from_data(TensorData::new(values, x.dims()), &x.device())
}

/// Which points have all coordinates near the ends of the cube, as [`Hypercubicity`] counts them: the box of one point alone is that
/// of all where it is given, and fitted to all where it is not.
fn in_corner(x: &Tensor<2>, cube: Cube) -> Vec<bool> {
    let Cube::Bounded { low, high } = cube else { return vec![false; x.dims()[0]] };
    let (centre, half) = (f64::midpoint(low, high), (high - low) / 2.0);
    let near = |x: &f32| (f64::from(*x) - centre).abs() >= half - NEAR * half;
    host(x.clone()).chunks(x.dims()[1]).map(|row| row.iter().all(near)).collect()
}

fn quick() -> Bootstrap {
    Bootstrap { resamples: 100, ..Bootstrap::default() }
}

fn host(x: Tensor<2>) -> Vec<f32> {
    let data = x.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_else(|error| unreachable!("a float tensor converts to f32: {error:?}"))
}
