//! A source that is nowhere but in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::native::NamedTensor;
use crate::{CheckpointError, Source, TensorInfo, TensorView};

/// A file of `fixtures/dialects`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dialects").join(name)
}

/// Tensors in memory, with a configuration.
pub struct Memory {
    pub tensors: BTreeMap<String, NamedTensor>,
    pub metadata: BTreeMap<String, String>,
    pub config: Option<Value>,
}

impl Memory {
    pub fn new(tensors: Vec<NamedTensor>) -> Self {
        let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self { tensors, metadata: BTreeMap::new(), config: None }
    }

    /// A file of `fixtures/dialects`, and the `quantization_config` in its metadata.
    pub fn fixture(name: &str) -> Self {
        let bytes = fs::read(fixture(name)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let said = header.metadata().as_ref().and_then(|metadata| metadata.get("quantization_config"));
        let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| NamedTensor {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let config = said.map(|text| serde_json::from_str(text).unwrap());
        Self { config, ..Self::new(tensors.into_iter().map(tensor).collect()) }
    }

    /// The numbers of a tensor.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.tensor(name).unwrap().to_f32().unwrap()
    }

    /// The tensors whose names begin with this.
    pub fn of(&self, layer: &str) -> BTreeMap<String, NamedTensor> {
        let own = self.tensors.iter().filter(|(name, _)| name.starts_with(layer));
        own.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    }

    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut NamedTensor)) {
        change(self.tensors.get_mut(name).unwrap());
    }
}

impl Source for Memory {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.tensors.get(name)?;
        Some(TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() })
    }

    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        let tensor = &self.tensors[name];
        TensorView::owned(self.path(), name, tensor.dtype, tensor.shape.clone(), tensor.bytes.clone())
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn quantization(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}
