//! [`Study`]: a small network, trained here and now, and what quantization does to what it has learned.
//!
//! Points of eight classes in 16 dimensions go through two layers into a latent space of 8 dimensions, and from there to one number
//! for each class. Noise before the activation drives latents into the corners of a cube (`docs/references.md#semantic-hashing`); a
//! penalty on the weights keeps them away from there. Both are settings, and so are the steps that latents and weights are rounded with.

mod frame;
mod layer;

use burn::optim::{AdamW, AdamWConfig, Optimizer};
use burn::tensor::activation::{log_softmax, relu, sigmoid};
use burn::tensor::{Device, Int, Tensor, TensorData};
use quench_metrics::Source;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::JobError;

pub use frame::{Frame, Place};
pub use layer::{LayerView, ModelLayers};

/// Classes of points.
const CLASSES: usize = 8;
/// Points of each class.
const EACH: usize = 24;
/// Coordinates of a point.
const INPUT: usize = 16;
/// Width of the layer between.
const HIDDEN: usize = 24;
/// Coordinates of a latent.
pub(crate) const LATENT: usize = 8;
/// How far points are from the middle of their class; those middles have coordinates of variance 1.
const SPREAD: f32 = 0.6;
/// The learning rate.
const RATE: f64 = 0.01;

/// What can be changed of a study.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StudySettings {
    /// The step δ that latents are rounded with, in units of their root mean square; 0 for none. 0 to 4.
    pub step: f64,
    /// Bits of a weight in groups of 8, 2 to 8; 32 leaves the weights as they are.
    pub bits: u8,
    /// What the neurons compute.
    pub activation: Activation,
    /// `λ` of the penalty `λ Σ w²` on all weights, 0 to 0.01.
    pub decay: f64,
    /// The standard deviation of what is added before the activation of the latents in training, 0 to 2.
    pub noise: f64,
    /// Of points, weights and noise.
    pub seed: u64,
    /// Steps of training, 1 to 2000.
    pub steps: usize,
}

impl Default for StudySettings {
    fn default() -> Self {
        Self { step: 0.5, bits: 32, activation: Activation::Tanh, decay: 0.0, noise: 0.5, seed: 1, steps: 300 }
    }
}

impl StudySettings {
    /// Whether every number is within its range.
    ///
    /// # Errors
    /// [`JobError::Setting`], naming the first that is not.
    pub fn check(&self) -> Result<(), JobError> {
        let outside = |name, range: &'static str| Err(JobError::Setting { name, range });
        match self {
            Self { step, .. } if !(0.0..=4.0).contains(step) => outside("step", "0 to 4"),
            Self { bits, .. } if !matches!(bits, 2..=8 | 32) => outside("bits", "2 to 8, or 32"),
            Self { decay, .. } if !(0.0..=0.01).contains(decay) => outside("decay", "0 to 0.01"),
            Self { noise, .. } if !(0.0..=2.0).contains(noise) => outside("noise", "0 to 2"),
            Self { steps, .. } if !(1..=2000).contains(steps) => outside("steps", "1 to 2000"),
            _ => Ok(()),
        }
    }

    /// Whether the network is trained alike with other settings, so that only its quantization differs.
    pub fn trains_as(&self, other: &Self) -> bool {
        Self { step: other.step, bits: other.bits, ..*self } == *other
    }
}

/// What a neuron computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `tanh x`: a cube.
    Tanh,
    /// `2 / (1 + exp(−x)) − 1`: the same cube, half as steep.
    Sigmoid,
    /// `max(x, 0)`: no cube.
    Relu,
    /// `x`.
    Linear,
}

impl Activation {
    fn of(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x) * 2.0 - 1.0,
            Self::Relu => relu(x),
            Self::Linear => x,
        }
    }
}

/// A network under study.
pub struct Study {
    settings: StudySettings,
    device: Device,
    /// `[points, INPUT]`.
    x: Tensor<2>,
    classes: Vec<i32>,
    network: Network,
    moments: Vec<Option<<AdamW as Optimizer>::State<2>>>,
    random: ChaCha8Rng,
    done: usize,
    loss: f32,
}

/// Matrices `[out, in]` and their biases `[1, out]`, from the input to the classes.
#[derive(Clone, Debug)]
struct Network(Vec<[Tensor<2>; 2]>);

impl Network {
    fn new(random: &mut ChaCha8Rng, device: &Device) -> Self {
        let layer = |[out, input]: [usize; 2], random: &mut ChaCha8Rng| {
            let reach = (3.0 / input as f32).sqrt();
            let values: Vec<f32> = (0..out * input).map(|_| random.random_range(-reach..reach)).collect();
            [Tensor::from_data(TensorData::new(values, [out, input]), device), Tensor::zeros([1, out], device)]
        };
        Self([[HIDDEN, INPUT], [LATENT, HIDDEN], [CLASSES, LATENT]].map(|shape| layer(shape, random)).into())
    }

    /// Latents, with something added before their activation: `[points, LATENT]`.
    fn latents(&self, x: Tensor<2>, activation: Activation, noise: Option<Tensor<2>>) -> Tensor<2> {
        let [[w, b], [v, c], _] = &self.0[..] else { unreachable!("a network has three layers") };
        let hidden = activation.of(x.matmul(w.clone().transpose()) + b.clone());
        let before = hidden.matmul(v.clone().transpose()) + c.clone();
        activation.of(noise.map_or(before.clone(), |noise| before + noise))
    }

    /// Logits: `[points, CLASSES]`.
    fn classify(&self, latents: Tensor<2>) -> Tensor<2> {
        let [w, b] = &self.0[2];
        latents.matmul(w.clone().transpose()) + b.clone()
    }
}

impl Study {
    /// A network before its training, on the CPU: it is too small for anything else.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn new(settings: StudySettings, device: &Device) -> Result<Self, JobError> {
        settings.check()?;
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        let middles = Source::Gaussian.samples(CLASSES * INPUT, settings.seed);
        let around = Source::Gaussian.samples(CLASSES * EACH * INPUT, settings.seed.wrapping_add(1));
        let value = |(at, around): (usize, &f32)| {
            let class = at / INPUT % CLASSES;
            middles[class * INPUT + at % INPUT] + SPREAD * around
        };
        let values: Vec<f32> = around.iter().enumerate().map(value).collect();
        let network = Network::new(&mut random, device);
        Ok(Self {
            settings,
            device: device.clone(),
            x: Tensor::from_data(TensorData::new(values, [CLASSES * EACH, INPUT]), device),
            classes: (0..CLASSES * EACH).map(|at| (at % CLASSES) as i32).collect(),
            moments: vec![None; 2 * network.0.len()],
            network,
            random,
            done: 0,
            loss: f32::NAN,
        })
    }

    /// Its settings.
    pub fn settings(&self) -> &StudySettings {
        &self.settings
    }

    /// Other steps of rounding; the network stays as it is.
    ///
    /// # Errors
    /// If a setting is out of its range, or the network would have to be trained anew.
    pub fn requantized(&mut self, settings: StudySettings) -> Result<(), JobError> {
        settings.check()?;
        if !settings.trains_as(&self.settings) {
            return Err(JobError::Setting { name: "settings", range: "those that the network was trained with" });
        }
        self.settings = settings;
        Ok(())
    }

    /// Whether it is trained.
    pub fn is_trained(&self) -> bool {
        self.done >= self.settings.steps
    }

    /// Trains for so many steps, at most to the end: the mean negative log-likelihood of the classes and `λ Σ w²`, by AdamW without
    /// decay of its own, on all points at once.
    pub fn train(&mut self, steps: usize) {
        let optimizer = AdamWConfig::new().with_weight_decay(0.0).build();
        let device = self.device.clone().autodiff();
        let x = self.x.clone().autodiff();
        let truth = Tensor::<1, Int>::from_ints(self.classes.as_slice(), &device).reshape([self.classes.len(), 1]);
        for _ in 0..steps.min(self.settings.steps - self.done.min(self.settings.steps)) {
            let tracked = Network(
                self.network
                    .0
                    .iter()
                    .map(|layer| layer.clone().map(|tensor| tensor.autodiff().require_grad()))
                    .collect(),
            );
            let noise = (self.settings.noise > 0.0).then(|| self.noise().autodiff());
            let logits = tracked.classify(tracked.latents(x.clone(), self.settings.activation, noise));
            let likelihood = log_softmax(logits, 1).gather(1, truth.clone()).mean().neg();
            let penalty = tracked.0.iter().map(|[w, _]| w.clone().square().sum()).reduce(|a, b| a + b);
            let loss = match penalty {
                Some(penalty) if self.settings.decay > 0.0 => likelihood.clone() + penalty * self.settings.decay,
                _ => likelihood.clone(),
            };
            let gradients = loss.backward();
            let tensors = self.network.0.iter_mut().flatten().zip(tracked.0.iter().flatten());
            for ((tensor, tracked), moments) in tensors.zip(&mut self.moments) {
                let Some(gradient) = tracked.grad(&gradients) else { continue };
                let (next, state) = optimizer.step(RATE, tensor.clone(), gradient, moments.take());
                (*tensor, *moments) = (next, state);
            }
            self.loss = likelihood.into_scalar();
            self.done += 1;
        }
    }

    /// Noise before the activation, the same on every machine.
    fn noise(&mut self) -> Tensor<2> {
        let values = Source::Gaussian.samples(self.classes.len() * LATENT, self.random.random());
        let values: Vec<f32> = values.into_iter().map(|z| z * self.settings.noise as f32).collect();
        Tensor::from_data(TensorData::new(values, [self.classes.len(), LATENT]), &self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(settings: StudySettings) -> Frame {
        let mut study = Study::new(settings, &Device::flex()).unwrap();
        study.train(usize::MAX);
        assert!(study.is_trained());
        study.frame().unwrap()
    }

    /// The theory note's table by its signs: noise makes corners, a penalty unmakes them.
    #[test]
    fn noise_makes_corners_and_a_penalty_unmakes_them() {
        let corners = |noise, decay| {
            let frame = trained(StudySettings { noise, decay, ..StudySettings::default() });
            assert!(frame.number("accuracy, dense").unwrap() > 0.95, "{:?}", frame.values);
            frame.number("coordinates near corners").unwrap()
        };
        let (free, penalized, noisy) = (corners(0.0, 0.0), corners(0.0, 0.005), corners(1.0, 0.005));
        assert!(free > penalized + 0.1 && noisy > penalized + 0.1 && noisy > 0.9, "{free} {penalized} {noisy}");
    }

    /// Corners fall off a cliff where the middle of the grid reaches them, at twice their distance: with latents of root mean square
    /// 0.85 to 1, between steps of 2 and 2.4.
    #[test]
    fn corners_have_a_cliff() {
        let frame = trained(StudySettings { noise: 1.0, ..StudySettings::default() });
        let threshold = frame.threshold.unwrap().value;
        assert!((2.0..2.4).contains(&threshold), "{threshold}");
        assert!(matches!(frame.verdict, quench_metrics::threshold::Verdict::Sharp { .. }), "{:?}", frame.verdict);
    }

    /// Without any step nothing changes; with one beyond the cube everything is one point.
    #[test]
    fn both_ends_of_the_step() {
        let none = trained(StudySettings { step: 0.0, ..StudySettings::default() });
        assert_eq!((none.number("agreement"), none.number("neighbours kept")), (Some(1.0), Some(1.0)));
        assert!(none.places.iter().all(|place| place.before == place.after));
        let all = trained(StudySettings { step: 4.0, ..StudySettings::default() });
        assert!(all.places.iter().all(|place| place.after == all.places[0].after));
        assert!(all.number("agreement").unwrap() < 0.3, "{:?}", all.values);
    }

    #[test]
    fn the_same_settings_give_the_same_frame() {
        let settings = StudySettings { steps: 20, bits: 4, ..StudySettings::default() };
        assert_eq!(trained(settings), trained(settings));
        let mut study = Study::new(settings, &Device::flex()).unwrap();
        study.train(20);
        let other = StudySettings { bits: 2, step: 1.0, ..settings };
        study.requantized(other).unwrap();
        assert_eq!(study.frame().unwrap(), trained(other));
        assert!(study.requantized(StudySettings { noise: 0.1, ..other }).is_err());
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (settings, name) in [
            (StudySettings { step: f64::NAN, ..StudySettings::default() }, "step"),
            (StudySettings { bits: 1, ..StudySettings::default() }, "bits"),
            (StudySettings { decay: 1.0, ..StudySettings::default() }, "decay"),
            (StudySettings { noise: -1.0, ..StudySettings::default() }, "noise"),
            (StudySettings { steps: 0, ..StudySettings::default() }, "steps"),
        ] {
            let error = Study::new(settings, &Device::flex()).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains(name)), "{name}");
        }
    }
}
