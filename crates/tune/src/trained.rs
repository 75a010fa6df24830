//! What is trained of a model, and how it is put into it.

use std::collections::BTreeMap;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use quench_format::Packed;
use quench_kernels::{Activations, QTensor};
use quench_nn::{Adapted, LayerInfo, Lora, Model, Section, Weight};
use quench_quantize::{Gram, Matrix};

use crate::lora::{recover, residual, tensor};
use crate::settings::Rates;
use crate::state::Tensors;
use crate::step::{LearnedStep, Start};
use crate::{Method, Settings, TuneError, constant, host};

/// A layer in training.
pub(crate) struct Layer {
    pub(crate) info: LayerInfo,
    pub(crate) form: Form,
}

/// How it is trained.
#[expect(clippy::large_enum_variant, reason = "some kilobytes beside matrices of megabytes")]
pub(crate) enum Form {
    Step(LearnedStep),
    Adapter { base: QTensor, down: Tensor<2>, up: Tensor<2>, strength: f64 },
}

/// A vector of the model in training, `[1, features]`.
struct Vector {
    name: String,
    section: Section,
    value: Tensor<2>,
}

/// Every trained tensor.
pub(crate) struct Trained {
    pub(crate) layers: Vec<Layer>,
    vectors: Vec<Vector>,
}

/// Which rate a tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Weight,
    Scale,
    Gain,
    Adapter,
}

impl Kind {
    pub(crate) fn rate(self, rates: &Rates) -> f64 {
        match self {
            Self::Weight => rates.weights,
            Self::Scale => rates.scales,
            Self::Gain => rates.gains,
            Self::Adapter => rates.adapters,
        }
    }

    /// Whether AdamW pulls it to zero.
    pub(crate) fn decays(self) -> bool {
        matches!(self, Self::Weight | Self::Adapter)
    }
}

/// What the forms begin from.
pub(crate) struct Origin<'a> {
    /// The dense matrix of a layer, where there is one.
    pub(crate) dense: &'a dyn Fn(&str) -> Option<Matrix>,
    /// The inputs of a layer in the quantized model, where they were summed.
    pub(crate) gram: &'a dyn Fn(&LayerInfo) -> Option<Gram>,
}

impl Trained {
    /// Opens the packed layers that the settings name, and the gains of norms where the method trains them.
    pub(crate) fn new<M: Model>(
        model: &mut M,
        packed: &BTreeMap<String, Packed>,
        settings: &Settings,
        origin: &Origin<'_>,
        device: &Device,
    ) -> Result<Self, TuneError> {
        let chosen = model.layers().into_iter().filter_map(|info| {
            let packed = packed.get(&info.name).filter(|_| settings.names(&info))?;
            Some((info, packed))
        });
        let mut layers = Vec::new();
        for (seed, (info, packed)) in (settings.seed..).zip(chosen) {
            let form = Form::new(&info, packed, settings, origin, seed, device)?;
            layers.push(Layer { info, form });
        }
        if layers.is_empty() {
            let (targets, layers) = (settings.targets.clone(), packed.keys().take(3).cloned().collect());
            return Err(TuneError::NothingToTrain { targets, layers });
        }
        let mut vectors = Vec::new();
        if !matches!(settings.method, Method::Lora { .. }) {
            for section in model.sections() {
                for gain in model.gains(section) {
                    let value = constant(gain.value.val()).unsqueeze::<2>().require_grad();
                    vectors.push(Vector { name: gain.name, section, value });
                }
            }
        }
        Ok(Self { layers, vectors })
    }

    /// Puts the weights as they are now into the model, for one pass.
    ///
    /// - `graph`: whether gradients will be asked for
    pub(crate) fn install<M: Model>(&self, model: &mut M, graph: bool) {
        let part = |x: Tensor<2>| if graph { x } else { constant(x) };
        let mut layers = self.layers.iter();
        let mut next = layers.next();
        for section in model.sections() {
            for opened in model.open(section) {
                let Some(layer) = next.filter(|layer| layer.info.name == opened.name) else { continue };
                next = layers.next();
                *opened.weight = match &layer.form {
                    // A parameter that is no leaf: the graph goes on into the form.
                    Form::Step(step) => Weight::Dense(Param::initialized(ParamId::new(), part(step.weight()))),
                    Form::Adapter { .. } => {
                        Weight::Adapted(layer.form.adapted(graph).unwrap_or_else(|| unreachable!()))
                    }
                };
            }
            let mut vectors = self.vectors.iter().filter(|vector| vector.section == section);
            for gain in model.gains(section) {
                if let Some(vector) = vectors.next() {
                    *gain.value = Param::initialized(gain.value.id, part(vector.value.clone()).squeeze_dim(0));
                }
            }
        }
        debug_assert!(next.is_none(), "layers come in the order of the walk");
    }

    /// The trained tensors with their names and kinds, in an order that does not change.
    pub(crate) fn tensors(&mut self) -> Vec<(String, Kind, &mut Tensor<2>)> {
        let mut found = Vec::new();
        for layer in &mut self.layers {
            let name = |part: &str| format!("{}.{part}", layer.info.name);
            match &mut layer.form {
                Form::Step(step) => found.extend(step.tensors().into_iter().map(|(part, tensor)| {
                    let kind = if part == "latent" { Kind::Weight } else { Kind::Scale };
                    (name(part), kind, tensor)
                })),
                Form::Adapter { down, up, .. } => {
                    found.push((name("down"), Kind::Adapter, down));
                    found.push((name("up"), Kind::Adapter, up));
                }
            }
        }
        found.extend(self.vectors.iter_mut().map(|vector| (vector.name.clone(), Kind::Gain, &mut vector.value)));
        found
    }

    /// All values, to be kept.
    pub(crate) fn snapshot(&mut self) -> Tensors {
        let mut kept = Tensors::default();
        for (name, _, tensor) in self.tensors() {
            kept.put(name, tensor.dims(), host(tensor.clone()));
        }
        kept
    }

    /// Values as they were kept.
    pub(crate) fn restore(
        &mut self,
        kept: &mut Tensors,
        path: &std::path::Path,
        device: &Device,
    ) -> Result<(), TuneError> {
        for (name, _, tensor) in self.tensors() {
            let (shape, values) = kept.take(&name, path)?;
            if shape != tensor.dims() {
                return Err(TuneError::OtherRun { path: path.to_owned(), what: "layers" });
            }
            *tensor = Tensor::from_data(TensorData::new(values, shape), device).require_grad();
        }
        Ok(())
    }

    /// The trained vectors by their names.
    pub(crate) fn vectors(&self) -> BTreeMap<String, Vec<f32>> {
        self.vectors.iter().map(|vector| (vector.name.clone(), host(vector.value.clone()))).collect()
    }
}

impl Form {
    fn new(
        info: &LayerInfo,
        packed: &Packed,
        settings: &Settings,
        origin: &Origin<'_>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, TuneError> {
        let (name, scheme) = (info.name.clone(), packed.scheme());
        let unsupported = |instead| {
            let (layer, method) = (name.clone(), settings.method.name());
            TuneError::Unsupported { layer, scheme, method, instead }
        };
        let dense = (origin.dense)(&info.name);
        match settings.method {
            Method::Qat | Method::Norms => {
                let start = match (&settings.method, &dense) {
                    (Method::Norms, _) => Start::Codes,
                    (_, Some(dense)) => Start::Nearest(dense),
                    (_, None) => Start::Decoded,
                };
                let step = LearnedStep::new(packed, start, device);
                step.map(Self::Step).map_err(|_| unsupported("its codes share bits; take a scalar code such as int2"))
            }
            Method::Lora { rank, strength, recover: recovers } => {
                if !QTensor::is_served(scheme, device) {
                    return Err(unsupported(
                        "products are not made from its codes on this device; take a scalar code without minimums, such as int2",
                    ));
                }
                let [out, columns] = packed.shape();
                let rank = rank.min(out).min(columns);
                let gram = if recovers { (origin.gram)(info) } else { None };
                let found = gram.zip(dense).and_then(|(gram, dense)| {
                    // As GPTQ damps.
                    recover(&residual(&dense, packed), &gram, rank, 0.01)
                });
                let (down, up) = match found {
                    Some(found) => (tensor(&found.down, device), tensor(&found.up, device).div_scalar(strength)),
                    // As published: A from a normal distribution, B = 0.
                    None => (normal(seed, [rank, columns], device), Tensor::zeros([out, rank], device)),
                };
                let base = QTensor::from_packed(packed, device).with_activations(Activations::F32);
                Ok(Self::Adapter { base, down: down.require_grad(), up: up.require_grad(), strength })
            }
        }
    }

    /// The layer as it is put into the model, where it is one with an adapter.
    pub(crate) fn adapted(&self, graph: bool) -> Option<Adapted> {
        let Self::Adapter { base, down, up, strength } = self else { return None };
        let [down, up] = [down, up].map(|x| if graph { x.clone() } else { constant(x.clone()) });
        Some(Adapted::new(base.clone(), Lora::new(down, up, *strength)))
    }
}

/// Normal numbers of variance `1 / in`, the same for the same seed on every device.
fn normal(seed: u64, [rank, columns]: [usize; 2], device: &Device) -> Tensor<2> {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let deviation = (columns as f64).sqrt().recip();
    // Box and Muller.
    let mut one = || {
        let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
        (deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    let values = (0..rank * columns).map(|_| one()).collect();
    Tensor::from_data(TensorData::new::<f32, _>(values, [rank, columns]), device)
}
