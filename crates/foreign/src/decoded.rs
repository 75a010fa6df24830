//! [`Decoded`]: a parameter of anyone's module that is packed.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Shape, Tensor};
use quench_format::Packed;
use quench_nn::Weight;

use crate::multiply::parameter;
use crate::{ForeignError, Orientation};

/// A packed weight of a foreign module.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The path of the parameter, `"encoder.layers.0.mha.query.weight"`.
    pub path: String,
    /// How the parameter is the matrix.
    pub orientation: Orientation,
    /// The matrix, `[out, in]`.
    pub packed: Packed,
}

impl Layer {
    /// Its name in plans and ledgers: the path without its last `.weight`.
    pub fn name(&self) -> &str {
        self.path.strip_suffix(".weight").unwrap_or(&self.path)
    }
}

/// What a packed parameter is to Burn: codes and scales that are decoded whenever the parameter is read.
///
/// It travels with the module, from device to device and into Burn's records; `materialize` makes of it a parameter of floats.
#[derive(Module, Debug)]
pub struct Decoded {
    weight: Weight,
    #[module(skip)]
    orientation: Orientation,
    #[module(skip)]
    dims: Vec<usize>,
}

impl Decoded {
    /// The matrix, `[out, in]`.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }
}

impl Reparameterization for Decoded {
    const NAME: &'static str = "quench";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let w = Tensor::<D>::from_dispatch(parameter(self.weight.val(), self.orientation, &self.dims));
        if w.dtype() == base.dtype() { w } else { w.cast(base.dtype()) }
    }
}

/// The module with its weights packed.
///
/// # Errors
///
/// [`ForeignError::Layer`] if a layer names no parameter, or one of another shape.
pub(crate) fn attach<M: Module>(module: M, layers: &[Layer]) -> Result<M, ForeignError> {
    let mut fault = None;
    let left = layers.iter().map(|layer| (layer.path.as_str(), layer)).collect();
    let mut attach = Attach { left, fault: &mut fault };
    let module = module.apply_reparameterization(&mut attach);
    if let Some(path) = attach.left.keys().next() {
        let reason = "the module has no such parameter".to_owned();
        return Err(ForeignError::Layer { layer: (*path).to_owned(), reason });
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok(module),
    }
}

struct Attach<'a> {
    left: BTreeMap<&'a str, &'a Layer>,
    fault: &'a mut Option<ForeignError>,
}

impl Reparameterizer for &mut Attach<'_> {
    type Reparam = Decoded;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Decoded>) {
        let Some(Layer { orientation, packed, .. }) = self.left.remove(path) else { return (param, None) };
        let dims = param.lazy_shape().to_vec();
        if dims.len() < 2 || orientation.shape(&dims) != packed.shape() {
            let reason = format!("a packed matrix {:?} is no parameter {dims:?}", packed.shape());
            self.fault.get_or_insert(ForeignError::Layer { layer: path.to_owned(), reason });
            return (param, None);
        }
        let weight = Weight::packed(packed, &param.lazy_device().inner());
        (hollow(param), Some(Decoded { weight, orientation: *orientation, dims }))
    }
}

/// A parameter of the same shape whose zeros take the place of one.
pub(crate) fn hollow<const D: usize>(param: Param<Tensor<D>>) -> Param<Tensor<D>> {
    let param = param.map(|x| {
        let (shape, dtype, device) = (x.shape(), x.dtype(), x.device());
        Tensor::<D>::zeros(Shape::from(vec![1; D]), (&device, dtype)).expand(shape)
    });
    param.set_require_grad(false)
}

/// The module with nothing behind the named parameters.
pub(crate) fn emptied<M: Module>(module: M, layers: &[Layer]) -> M {
    module.map(&mut Empty { path: Vec::new(), layers })
}

struct Empty<'a> {
    path: Vec<String>,
    layers: &'a [Layer],
}

impl ModuleMapper for Empty<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        if self.layers.iter().any(|layer| layer.path == path) { hollow(param) } else { param }
    }
}
