//! [`Compiled`]: a quantized module whose products are made from the codes.

use std::collections::BTreeMap;

use burn::backend::TensorMetadata;
use burn::module::Module;
use burn::tensor::Device;
use quench_format::Packed;
use quench_kernels::Activations;
use quench_nn::Weight;

use crate::recording::checked;
use crate::tensors::shapes;
use crate::{ForeignError, Layer, Recording, Sample, Tensors};

/// A module as a recorded program: the products of its packed weights are made from their codes, by the kernels of the device.
///
/// A program has the shapes of what it was recorded with. An input of other shapes is recorded when it comes, once; weights are
/// shared by all recordings.
#[derive(Debug)]
pub struct Compiled<M, F> {
    /// The module without its packed weights.
    shell: M,
    forward: F,
    packed: BTreeMap<String, Packed>,
    activations: Activations,
    /// By the paths of their parameters; empty until the device is known.
    weights: BTreeMap<String, Weight>,
    recordings: Vec<Recording>,
}

impl<M, F> Compiled<M, F> {
    pub(crate) fn new(shell: M, layers: &[Layer], forward: F) -> Self {
        let packed = layers.iter().map(|layer| (layer.path.clone(), layer.packed.clone())).collect();
        Self {
            shell,
            forward,
            packed,
            activations: Activations::default(),
            weights: BTreeMap::new(),
            recordings: Vec::new(),
        }
    }

    /// The same program, whose packed products read their input in this precision where the device gives the choice.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self.recordings.clear();
        self.weights.clear();
        self
    }

    /// How many shapes it has been recorded for.
    pub fn recordings(&self) -> usize {
        self.recordings.len()
    }

    /// What the module gives for `input`.
    ///
    /// # Errors
    ///
    /// As [`Recording::new`], when the shapes of `input` are new.
    ///
    /// # Panics
    ///
    /// As [`Recording::new`], or if the input is on another device than the first was.
    pub fn run<I: Tensors, O: Tensors>(&mut self, input: I) -> Result<O, ForeignError>
    where
        M: Module,
        F: Fn(&M, I) -> O,
    {
        let shapes = shapes(&checked(input.clone())?);
        let known = self.recordings.iter().position(|recording| recording.graph(&shapes).is_some());
        let at = match known {
            Some(at) => at,
            None => {
                let recording = self.record(&input)?;
                self.recordings.push(recording);
                self.recordings.len() - 1
            }
        };
        Ok(self.recordings[at].compute(Sample::new(input)))
    }

    fn record<I: Tensors, O: Tensors>(&mut self, input: &I) -> Result<Recording, ForeignError>
    where
        M: Module,
        F: Fn(&M, I) -> O,
    {
        let mut recording = Recording::new(&self.shell, std::slice::from_ref(input), &self.forward)?;
        let device = input.clone().into_values().first().map(|value| Device::new(value.device())).unwrap_or_default();
        for (path, weight) in recording.weights_mut() {
            let shared = self.weights.entry(path.to_owned()).or_insert_with(|| match self.packed.get(path) {
                Some(packed) => {
                    let mut weight = Weight::packed(packed, &device);
                    weight.set_activations(self.activations);
                    weight
                }
                None => weight.clone(),
            });
            *weight = shared.clone();
        }
        Ok(recording)
    }
}
