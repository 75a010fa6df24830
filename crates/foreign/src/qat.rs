//! Quantization-aware training of anyone's module, in the user's own loop.

use std::collections::BTreeMap;

use burn::backend::DispatchTensor;
use burn::module::{Module, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::Tensor;
use quench_nn::{LayerInfo, Role, Weight};
use quench_quantize::{Ledger, Matrix, Recipe};
use quench_tune::{LearnedStep, Start, Trained};

use crate::decoded::attach;
use crate::multiply::{matrix, parameter};
use crate::{ForeignError, Layer, Orientation, Quantized};

/// A parameter that is rounded whenever it is read, with gradients straight through, and the scales it is rounded with.
///
/// The parameter itself is the weight before rounding, in its own units and shape: what an optimizer, a decay or a schedule does to it
/// is what it does to a dense one. See [`LearnedStep`].
#[derive(Module, Debug)]
pub struct Rounded {
    scale: Option<Param<Tensor<2>>>,
    offset: Option<Param<Tensor<2>>>,
    #[module(skip)]
    step: LearnedStep,
    #[module(skip)]
    orientation: Orientation,
    #[module(skip)]
    dims: Vec<usize>,
}

impl Reparameterization for Rounded {
    const NAME: &'static str = "quench_qat";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let weight = matrix(base.into_dispatch(), self.orientation);
        let [scale, offset] = [&self.scale, &self.offset].map(|param| param.as_ref().map(Param::val));
        let w = self.step.with(Trained { weight, scale, offset }).weight();
        Tensor::from_dispatch(parameter(w, self.orientation, &self.dims))
    }
}

/// What [`finish_qat`] must know of a module in training: the schemes of its weights.
#[derive(Clone, Debug)]
pub struct Qat {
    steps: BTreeMap<String, (Orientation, LearnedStep)>,
}

/// Prepares a module for training with rounded weights: those of all `Linear`, convolution and `Embedding` layers that `recipe`
/// quantizes, rounded to nearest at the start. The module is trained as before, in the user's own loop, on a device with autodiff.
///
/// Nothing is recorded: layers are known by the names of their types, and a parameter that is multiplied with by hand is not known
/// for a weight. No calibration takes place: every method of the recipe is plain rounding. To start from better codes see [`Quantized::prepare_qat`].
///
/// # Errors
///
/// [`ForeignError::Layer`] for a code that has no step, and whatever planning and rounding report.
pub fn prepare_qat<M: Module>(module: M, recipe: &Recipe) -> Result<(M, Qat), ForeignError> {
    let mut layers = Layers::default();
    let module = module.materialize();
    module.visit(&mut layers);
    let info = |(path, _, role, w): &(String, Orientation, Role, Tensor<2>)| LayerInfo {
        name: name(path).to_owned(),
        // Without a site, the plan rounds to nearest.
        site: String::new(),
        shape: w.dims(),
        role: *role,
        block: None,
        residual: None,
    };
    let plan = recipe.plan(&layers.found.iter().map(info).collect::<Vec<_>>())?;
    let mut packed = Vec::new();
    for (path, orientation, _, w) in layers.found {
        let Some(treatment) = plan.treatment(name(&path)) else { continue };
        let Some(target) = treatment.stages.last() else { continue };
        let w = Matrix::of(&Weight::dense(w));
        let found = treatment.method.quantize(name(&path), &w, *target, None)?;
        packed.push(Layer { path, orientation, packed: found.packed });
    }
    start(module, &packed)
}

impl<M: Module> Quantized<M> {
    /// Prepares the dense module for training from the codes that were found: every weight starts in the cell of its code, as near to
    /// its dense value as can be, so that the module begins as the quantizer left it.
    ///
    /// # Errors
    ///
    /// [`ForeignError::Layer`] for a layer that `dense` does not have, and for a code that has no step.
    pub fn prepare_qat(&self, dense: M) -> Result<(M, Qat), ForeignError> {
        start(dense.materialize(), &self.layers)
    }
}

/// Takes a module out of training: its weights as their codes.
///
/// # Errors
///
/// [`ForeignError::Layer`] if the module is not the one that was prepared, or a number in it is not finite.
pub fn finish_qat<M: Module>(module: M, qat: Qat) -> Result<Quantized<M>, ForeignError> {
    let mut tensors = Tensors::default();
    module.valid().visit(&mut tensors);
    let mut layers = Vec::with_capacity(qat.steps.len());
    for (path, (orientation, step)) in qat.steps {
        let fault = |reason: String| ForeignError::Layer { layer: path.clone(), reason };
        let mut take = |part: &str| {
            let name = if part.is_empty() { path.clone() } else { format!("{path}.{}.{part}", Rounded::NAME) };
            tensors.found.remove(&name)
        };
        let base = take("").ok_or_else(|| fault("the module has no such parameter".to_owned()))?;
        let [scale, offset] = [take("scale"), take("offset")].map(|part| part.map(Tensor::from_dispatch));
        let trained = Trained { weight: matrix(base, orientation), scale, offset };
        let packed = step.with(trained).to_packed().map_err(|error| fault(error.to_string()))?;
        layers.push(Layer { path, orientation, packed });
    }
    let module = attach(module.materialize(), &layers)?;
    Ok(Quantized { module, layers, left: Vec::new(), ledger: Ledger::default() })
}

fn start<M: Module>(module: M, layers: &[Layer]) -> Result<(M, Qat), ForeignError> {
    let mut attach = Attach {
        left: layers.iter().map(|layer| (layer.path.as_str(), layer)).collect(),
        steps: BTreeMap::new(),
        fault: None,
    };
    let module = module.apply_reparameterization(&mut attach);
    let missing = attach.left.keys().next().map(|path| ForeignError::Layer {
        layer: (*path).to_owned(),
        reason: "the module has no such parameter".to_owned(),
    });
    match attach.fault.or(missing) {
        Some(fault) => Err(fault),
        None => Ok((module, Qat { steps: attach.steps })),
    }
}

struct Attach<'a> {
    left: BTreeMap<&'a str, &'a Layer>,
    steps: BTreeMap<String, (Orientation, LearnedStep)>,
    fault: Option<ForeignError>,
}

impl Reparameterizer for &mut Attach<'_> {
    type Reparam = Rounded;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Rounded>) {
        let Some(Layer { orientation, packed, .. }) = self.left.remove(path) else { return (param, None) };
        let orientation = *orientation;
        let (dims, device) = (param.lazy_shape().to_vec(), param.lazy_device());
        if dims.len() < 2 || orientation.shape(&dims) != packed.shape() {
            let reason = format!("a packed matrix {:?} is no parameter {dims:?}", packed.shape());
            self.fault.get_or_insert(ForeignError::Layer { layer: path.to_owned(), reason });
            return (param, None);
        }
        let dense = Matrix::of(&Weight::dense(matrix(param.base().without_autodiff().into_dispatch(), orientation)));
        let step = match LearnedStep::new(packed, Start::Nearest(&dense), &device.clone().inner().autodiff()) {
            Ok(step) => step,
            Err(scheme) => {
                let reason = format!("{scheme} has no step that could be learned");
                self.fault.get_or_insert(ForeignError::Layer { layer: path.to_owned(), reason });
                return (param, None);
            }
        };
        // On the device of the module, with or without autodiff as it is there.
        let here = |x: Tensor<2>| if device.is_autodiff() { Tensor::from_inner(x) } else { x };
        let Trained { weight, scale, offset } = step.trained();
        let weight = Tensor::<D>::from_dispatch(parameter(here(weight), orientation, &dims));
        let param = param.map(|old| weight.set_require_grad(old.is_require_grad()));
        let [scale, offset] = [scale, offset].map(|part| part.map(|part| Param::from_tensor(here(part))));
        self.steps.insert(path.to_owned(), (orientation, step.clone()));
        (param, Some(Rounded { scale, offset, step, orientation, dims }))
    }
}

/// The matrices of a module, by the types of its layers.
#[derive(Default)]
struct Layers {
    path: Vec<String>,
    container: Vec<String>,
    found: Vec<(String, Orientation, Role, Tensor<2>)>,
}

impl ModuleVisitor for Layers {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        self.container.push(container.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.container.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let container = self.container.last().map(String::as_str).unwrap_or_default();
        let (orientation, role) = match container.strip_prefix("Struct:").unwrap_or(container) {
            "Linear" | "ConvTranspose1d" | "ConvTranspose2d" | "ConvTranspose3d" => (Orientation::Columns, Role::Block),
            "Conv1d" | "Conv2d" | "Conv3d" => (Orientation::Rows, Role::Block),
            "Embedding" => (Orientation::Rows, Role::Embedding),
            _ => return,
        };
        if D >= 2 && self.path.last().is_some_and(|name| name == "weight") {
            let w = matrix(param.base().without_autodiff().into_dispatch(), orientation);
            self.found.push((self.path.join("."), orientation, role, w));
        }
    }
}

/// Every float tensor of a module by its path, those of reparameterizations too.
#[derive(Default)]
struct Tensors {
    path: Vec<String>,
    found: BTreeMap<String, DispatchTensor>,
}

impl ModuleVisitor for Tensors {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(self.path.join("."), param.base().into_dispatch());
    }
}

fn name(path: &str) -> &str {
    path.strip_suffix(".weight").unwrap_or(path)
}
