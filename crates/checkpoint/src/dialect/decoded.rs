//! Matrices whose codes no `Packed` holds: a source hands them over decoded, as dense `<layer>.weight` of F32.
//!
//! | which | why |
//! | --- | --- |
//! | [`exl3`] | weights share bits, and are transformed |
//! | [`bitsandbytes`] in FP4 | its levels are those of no code |
//! | `bitsandbytes` with blocks over the ends of rows | groups are of one row, or of whole rows |
//!
//! [`Folder`](crate::Folder) shows such a layer as one dense tensor in place of those that spell it: what reads models, converts or
//! inspects knows nothing of it. [`Source::stored_bytes`] of it are those of its own tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;

use super::{bitsandbytes, exl3};
use crate::source::{TensorInfo, TensorView};
use crate::{CheckpointError, Source};

/// The layers of a source that are handed over decoded.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// By the name of the dense tensor that stands for it.
    layers: BTreeMap<String, Layer>,
    /// The tensors that spell them, which are not shown.
    parts: BTreeSet<String>,
}

#[derive(Debug)]
struct Layer {
    name: String,
    kind: Kind,
    /// `[out, in]`.
    shape: [usize; 2],
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Exl3,
    Bitsandbytes,
}

impl Decoded {
    /// Finds such layers by the names, types and shapes of their tensors, and by the state that bitsandbytes keeps with each.
    ///
    /// Errors: a trellis of a shape that is none.
    pub fn find(source: &dyn Source) -> Result<Self, CheckpointError> {
        let mut found = Self::default();
        for name in source.names() {
            if let Some(layer) = name.strip_suffix(".trellis")
                && exl3::is_there(source, layer)
                && !source.manifest().layers.contains_key(layer)
            {
                let (shape, _) = exl3::shape(source, layer)?;
                found.add(source, layer, Kind::Exl3, shape, &exl3::TENSORS);
            } else if let Some(layer) = name.strip_suffix(".weight.absmax")
                && bitsandbytes::is_packed(source, layer)
                && let Some(shape) = bitsandbytes::decoded_shape(source, layer)
            {
                found.add(source, layer, Kind::Bitsandbytes, shape, &bitsandbytes::TENSORS);
            }
        }
        Ok(found)
    }

    fn add(&mut self, source: &dyn Source, layer: &str, kind: Kind, shape: [usize; 2], suffixes: &[&str]) {
        let parts = suffixes.iter().map(|suffix| format!("{layer}.{suffix}"));
        let parts: Vec<String> = parts.filter(|part| source.info(part).is_some()).collect();
        let bytes = parts.iter().filter_map(|part| source.stored_bytes(part)).sum();
        self.parts.extend(parts);
        self.layers.insert(format!("{layer}.weight"), Layer { name: layer.to_owned(), kind, shape, bytes });
    }

    /// Whether the tensor is one that spells a layer, and not shown.
    pub fn hides(&self, name: &str) -> bool {
        self.parts.contains(name)
    }

    /// The names of the dense tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// Type and shape of a dense tensor.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        self.layers.get(name).map(|layer| TensorInfo { dtype: Dtype::F32, shape: layer.shape.to_vec() })
    }

    /// Bytes of the tensors that a dense one stands for.
    pub fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.layers.get(name).map(|layer| layer.bytes)
    }

    /// The dense tensor of that name, from the source in which its layer was found; `None` where there is none.
    ///
    /// Errors: as those of the dialects.
    pub fn tensor(&self, source: &dyn Source, name: &str) -> Option<Result<TensorView, CheckpointError>> {
        let layer = self.layers.get(name)?;
        let weights = match layer.kind {
            Kind::Exl3 => exl3::decode(source, &layer.name),
            Kind::Bitsandbytes => bitsandbytes::decode(source, &layer.name),
        };
        let view = |weights: Vec<f32>, path: &Path| {
            let bytes = weights.into_iter().flat_map(f32::to_le_bytes).collect();
            TensorView::owned(path, name, Dtype::F32, layer.shape.to_vec(), bytes)
        };
        Some(weights.and_then(|weights| view(weights, source.path())))
    }
}
