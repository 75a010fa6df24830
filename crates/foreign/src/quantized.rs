//! [`quantize_module`]: from a module to the same module with packed weights.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use quench_format::Packed;
use quench_nn::{Model, Section};
use quench_quantize::{Event, Finished, Journal, Ledger, Plan, Recipe, run};

use crate::decoded::{attach, emptied};
use crate::{Compiled, ForeignError, Layer, Left, Recording, Sample, Tensors};

/// A module with packed weights, and what is known of them.
#[derive(Clone, Debug)]
pub struct Quantized<M> {
    /// The module, whose packed parameters are [decoded](crate::Decoded) whenever they are read: the same type, the same calls.
    pub module: M,
    /// The packed weights, in the order in which the module reads them.
    pub layers: Vec<Layer>,
    /// Parameters that cannot be quantized, and why; vectors, which are never, are not named.
    pub left: Vec<Left>,
    /// What was done to each weight, and what it cost; empty for weights that come from a file or from training.
    pub ledger: Ledger,
}

/// Quantizes anyone's module as `recipe` says: nothing is renamed, nothing rewritten.
///
/// The module is [recorded](Recording) while it computes the samples, its weights are found, their inputs observed and the weights
/// quantized in the order in which they are read, each on what the quantized ones before it give. Names of layers, for rules, are the
/// paths of their parameters without `.weight`; tables of vectors are embeddings, which a recipe keeps unless told otherwise, and no
/// layer is taken for a head. Transforms of the recipe are left out, as with every network that they do not apply to.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
/// use quench_foreign::quantize_module;
/// use quench_quantize::Recipe;
///
/// let device = Device::flex();
/// let net: Linear = LinearConfig::new(32, 8).init(&device);
/// let recipe = Recipe::from_toml("name = \"mine\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 32\n")?;
/// let x = Tensor::<2>::random([64, 32], Distribution::Normal(0.0, 1.0), &device);
/// let quantized = quantize_module(&net, [x.clone()], |net: &Linear, x| net.forward(x), &recipe)?;
///
/// let y = quantized.module.forward(x.clone()); // decodes the weight, then multiplies
/// let mut compiled = quantized.compile(|net: &Linear, x: Tensor<2>| net.forward(x));
/// let z: Tensor<2> = compiled.run(x)?; // multiplies from the codes
/// # assert!((y - z).abs().max().into_scalar::<f32>() < 0.1);
/// assert_eq!(quantized.ledger.entries[0].scheme, "int4/32/f16");
/// # }
/// # Ok::<(), quench_foreign::ForeignError>(())
/// ```
///
/// - `samples`: calibration inputs, batches of whatever `forward` takes
/// - `forward`: the module and one sample to what the module gives; it may use nothing but its arguments
///
/// # Errors
///
/// As [`Recording::new`], and whatever planning and quantization report.
///
/// # Panics
///
/// As [`Recording::new`].
pub fn quantize_module<M: Module, I: Tensors, O: Tensors>(
    module: &M,
    samples: impl IntoIterator<Item = I>,
    forward: impl Fn(&M, I) -> O,
    recipe: &Recipe,
) -> Result<Quantized<M>, ForeignError> {
    let samples: Vec<I> = samples.into_iter().collect();
    let recording = Recording::new(module, &samples, forward)?;
    let mut plan = recipe.plan(&recording.layers())?;
    plan.transforms.clear();
    finish(module, recording, samples, plan, &mut |_| ControlFlow::Continue(()))
}

/// [`quantize_module`] by a plan that was made, or edited, before; `recipe.plan(&recording.layers())` makes one.
///
/// - `observe`: called with every [`Event`]; breaking out of it ends the run
///
/// # Errors
///
/// As [`quantize_module`]; [`ForeignError::Transforms`] for a plan that changes the network first.
///
/// # Panics
///
/// As [`Recording::new`].
pub fn quantize_planned<M: Module, I: Tensors, O: Tensors>(
    module: &M,
    samples: impl IntoIterator<Item = I>,
    forward: impl Fn(&M, I) -> O,
    plan: Plan,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Quantized<M>, ForeignError> {
    let samples: Vec<I> = samples.into_iter().collect();
    let recording = Recording::new(module, &samples, forward)?;
    finish(module, recording, samples, plan, observe)
}

fn finish<M: Module, I: Tensors>(
    module: &M,
    mut recording: Recording,
    samples: Vec<I>,
    plan: Plan,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Quantized<M>, ForeignError> {
    if !plan.transforms.is_empty() {
        return Err(ForeignError::Transforms { plan: plan.recipe });
    }
    let batches: Vec<Sample> = samples.into_iter().map(Sample::new).collect();
    let mut packed = Collected::default();
    let ledger = run(&mut recording, &plan, &batches, &mut packed, observe)?;
    let layer = |found: &crate::weights::Found| {
        let packed = packed.0.remove(&found.name)?;
        Some(Layer { path: found.path.clone(), orientation: found.orientation, packed })
    };
    let layers: Vec<Layer> = recording.found().iter().filter_map(layer).collect();
    let module = attach(module.clone().materialize(), &layers)?;
    Ok(Quantized { module, layers, left: recording.left().to_vec(), ledger })
}

/// The last form of each layer.
#[derive(Default)]
struct Collected(BTreeMap<String, Packed>);

impl Journal for Collected {
    fn record(&mut self, _: usize, _: Section, layers: &[Finished]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.extend(layers.iter().map(|layer| (layer.entry.layer.clone(), layer.packed.clone())));
        Ok(())
    }
}

impl<M: Module> Quantized<M> {
    /// The module with the values that its codes stand for: plain parameters of floats, for programs that know nothing of Quench.
    pub fn decoded(&self) -> M {
        self.module.clone().materialize()
    }

    /// The module as a program whose products are made from the codes.
    ///
    /// - `forward`: as for [`quantize_module`]
    pub fn compile<F>(&self, forward: F) -> Compiled<M, F> {
        let shell = emptied(self.module.valid().materialize(), &self.layers);
        Compiled::new(shell, &self.layers, forward)
    }
}
