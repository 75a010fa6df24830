//! A quantized module as one safetensors file, packed layers in our dialect, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, Reparameterization};
use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use quench_checkpoint::{Dtype, Folder, Source, Writer, native};
use quench_quantize::Ledger;

use crate::decoded::{Decoded, attach};
use crate::{ForeignError, Layer, Orientation, Quantized};

/// Metadata key of where a packed layer belongs: its orientation and the path of its parameter.
const PARAMETER: &str = "quench.parameter.";

impl<M: Module> Quantized<M> {
    /// Writes the module as one safetensors file: packed layers in the dialect of `docs/checkpoint.md`, and every other parameter under
    /// its path. The file appears whole or not at all.
    ///
    /// # Errors
    ///
    /// [`ForeignError::Checkpoint`] if it cannot be written, [`ForeignError::Layer`] for a parameter of a type that safetensors lacks.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<(), ForeignError> {
        let packed: BTreeSet<&str> = self.layers.iter().map(|layer| layer.path.as_str()).collect();
        let mut dense = Read::default();
        self.module.valid().visit(&mut dense);
        let mut writer = Writer::safetensors(file.as_ref());
        for (path, data) in dense.found {
            let state = packed.iter().any(|packed| path.strip_prefix(*packed).is_some_and(is_state));
            if !packed.contains(path.as_str()) && !state {
                let (dtype, bytes) = spelled(&path, &data)?;
                writer.add(path, dtype, data.shape().to_vec(), bytes)?;
            }
        }
        for layer in &self.layers {
            writer.metadata(format!("{PARAMETER}{}", layer.name()), format!("{} {}", layer.orientation, layer.path));
            writer.packed(layer.name(), layer.packed.clone())?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Reads what [`save`](Self::save) wrote into a module of the same type, on the module's device.
    ///
    /// # Errors
    ///
    /// [`ForeignError::Checkpoint`] for a file that cannot be read or is damaged, [`ForeignError::Parameter`] for a parameter that it
    /// lacks, or has in another shape, and [`ForeignError::Layer`] for a packed layer that the module lacks.
    pub fn load(module: M, file: impl AsRef<Path>) -> Result<Self, ForeignError> {
        let file = file.as_ref();
        let source = Folder::open_file(file)?;
        let mut layers = Vec::new();
        for (key, value) in source.metadata() {
            let Some(name) = key.strip_prefix(PARAMETER) else { continue };
            let (orientation, path) = match value.split_once(' ') {
                Some(("rows", path)) => (Orientation::Rows, path),
                Some(("columns", path)) => (Orientation::Columns, path),
                _ => {
                    let reason = format!("{value:?} is neither rows nor columns of a parameter");
                    return Err(ForeignError::Layer { layer: name.to_owned(), reason });
                }
            };
            let Some(packed) = native::read(&source, name)? else {
                let reason = format!("{} says where it belongs and does not have it", file.display());
                return Err(ForeignError::Layer { layer: name.to_owned(), reason });
            };
            layers.push(Layer { path: path.to_owned(), orientation, packed });
        }
        let packed = layers.iter().map(|layer| layer.path.as_str()).collect();
        let mut fill = Fill { path: Vec::new(), source: &source, file, packed, fault: None };
        let module = module.materialize().map(&mut fill);
        if let Some(fault) = fill.fault {
            return Err(fault);
        }
        let module = attach(module, &layers)?;
        Ok(Self { module, layers, left: Vec::new(), ledger: Ledger::default() })
    }
}

/// Whether the rest of a path leads into the codes and scales behind a parameter.
fn is_state(rest: &str) -> bool {
    rest.strip_prefix('.').and_then(|rest| rest.strip_prefix(Decoded::NAME)).is_some_and(|rest| rest.starts_with('.'))
}

/// Every tensor of a module by its path.
#[derive(Default)]
struct Read {
    path: Vec<String>,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Read {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(self.path.join("."), param.base().into_data());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.found.insert(self.path.join("."), param.base().into_data());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.found.insert(self.path.join("."), param.base().into_data());
    }
}

const DTYPES: [(DType, Dtype); 12] = [
    (DType::F64, Dtype::F64),
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::I16, Dtype::I16),
    (DType::I8, Dtype::I8),
    (DType::U64, Dtype::U64),
    (DType::U32, Dtype::U32),
    (DType::U16, Dtype::U16),
    (DType::U8, Dtype::U8),
];

fn spelled(path: &str, data: &TensorData) -> Result<(Dtype, Vec<u8>), ForeignError> {
    if data.dtype().is_bool() {
        return Ok((Dtype::BOOL, data.iter::<bool>().map(u8::from).collect()));
    }
    let fault = || ForeignError::Layer {
        layer: path.to_owned(),
        reason: format!("safetensors has no {:?}; materialize the module first", data.dtype()),
    };
    let (_, dtype) = DTYPES.iter().find(|(dtype, _)| *dtype == data.dtype()).ok_or_else(fault)?;
    Ok((*dtype, data.as_bytes().to_vec()))
}

/// Puts the tensors of a file into a module.
struct Fill<'a> {
    path: Vec<String>,
    source: &'a dyn Source,
    file: &'a Path,
    packed: BTreeSet<&'a str>,
    fault: Option<ForeignError>,
}

impl Fill<'_> {
    /// The tensor for the parameter here; nothing for a packed one.
    fn data(&mut self, shape: &[usize]) -> Option<TensorData> {
        let path = self.path.join(".");
        if self.packed.contains(path.as_str()) {
            return None;
        }
        match self.read(&path, shape) {
            Ok(data) => Some(data),
            Err(fault) => {
                self.fault.get_or_insert(fault);
                None
            }
        }
    }

    fn read(&self, path: &str, shape: &[usize]) -> Result<TensorData, ForeignError> {
        let fault = |reason: String| ForeignError::Parameter {
            file: PathBuf::from(self.file),
            parameter: path.to_owned(),
            reason,
        };
        if self.source.info(path).is_none() {
            return Err(fault("is not in it".to_owned()));
        }
        let view = self.source.tensor(path)?;
        if view.shape() != shape {
            return Err(fault(format!("is {:?}, and {shape:?} in the module", view.shape())));
        }
        if view.dtype() == Dtype::BOOL {
            return Ok(TensorData::new(view.bytes().iter().map(|byte| *byte != 0).collect::<Vec<_>>(), shape.to_vec()));
        }
        let (dtype, _) = DTYPES
            .iter()
            .find(|(_, dtype)| *dtype == view.dtype())
            .ok_or_else(|| fault(format!("is of type {:?}", view.dtype())))?;
        Ok(TensorData::from_bytes_vec(view.bytes().to_vec(), shape.to_vec(), *dtype))
    }
}

impl ModuleMapper for Fill<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.data(&param.lazy_shape()) {
            None => param,
            Some(data) => param.map(|old| {
                let dtype = data.dtype();
                Tensor::from_data(data, (&old.device(), dtype)).set_require_grad(old.is_require_grad())
            }),
        }
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        match self.data(&param.lazy_shape()) {
            None => param,
            Some(data) => param.map(|old| {
                let dtype = data.dtype();
                Tensor::from_data(data, (&old.device(), dtype))
            }),
        }
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        match self.data(&param.lazy_shape()) {
            None => param,
            Some(data) => param.map(|old| Tensor::from_data(data, &old.device())),
        }
    }
}
