//! The dialect of compressed-tensors, as llm-compressor writes it and vLLM reads it.
//!
//! | format | tensors of a layer | schemes | read | written |
//! | --- | --- | --- | --- | --- |
//! | `pack-quantized` | [`words`] | integers of 1 to 8 bits, float scales | yes | 2 to 8 bits |
//! | `nvfp4-pack-quantized` | [`fp4`] | `e2m1/16/e4m3/tensor:f32` | yes | yes |
//! | `mxfp4-pack-quantized` | [`fp4`] | `e2m1/32/e8m0` | yes | yes |
//! | `int-quantized` | [`bytes`] | integers of 1 to 8 bits, a byte for each | yes | as `pack-quantized` |
//! | `float-quantized` | [`bytes`] | `e4m3` with float scales: a tensor, row, group or block | yes | yes |
//! | `mxfp8-quantized` | [`bytes`] | `e4m3/32/e8m0` | yes | no |
//!
//! Names and types of the tensors tell the format, not the configuration: files of several formats are read alike. What the tool
//! does to the inputs of a layer is not read; tensors about it count as the layer's own, so that they do not outlive it.
//!
//! Source: vllm-project/compressed-tensors, `compressors`, `quantization/lifecycle/forward.py`.

pub mod bytes;
pub mod fp4;
pub mod words;

use quench_format::{Code, FloatKind, Group, Minifloat, Packed, Scale, Scheme};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{Dialect, Grid, Spelled, Unwritable, group_size};
use crate::native::NamedTensor;
use crate::{CheckpointError, Source};

/// The last words of a layer's tensors.
pub const TENSORS: [&str; 10] = [
    "weight_packed",
    "weight",
    "weight_scale",
    "weight_global_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
];

/// How the codes of a layer lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Integers in words of 32 bits.
    Words,
    /// Two E2M1 numbers in a byte.
    Fp4,
    /// One number in a byte.
    Bytes,
}

impl Form {
    fn of(layer: Spelled<'_>) -> Option<Self> {
        layer.info("weight_scale")?;
        let dtype = |suffix| layer.info(suffix).map(|info| info.dtype);
        match (dtype("weight_packed"), dtype("weight")) {
            (Some(Dtype::I32), _) => Some(Self::Words),
            (Some(Dtype::U8), _) => Some(Self::Fp4),
            (None, Some(Dtype::I8 | Dtype::F8_E4M3)) => Some(Self::Bytes),
            _ => None,
        }
    }
}

/// Whether `source` has `layer` in this dialect.
pub fn is_packed(source: &dyn Source, layer: &str) -> bool {
    Form::of(Spelled { source, layer }).is_some()
}

/// Reads a layer; one without zero points becomes a symmetric code.
///
/// Errors: a tensor missing, of the wrong type or shape, a number that is none, a width that shape and configuration do not tell,
/// or groups that a [`Packed`] cannot express; naming file and tensor.
pub fn read(source: &dyn Source, layer: &str) -> Result<Packed, CheckpointError> {
    let layer = Spelled { source, layer };
    match Form::of(layer) {
        Some(Form::Fp4) => fp4::read(layer),
        Some(Form::Bytes) => bytes::read(layer),
        // Where it is in no form at all, the error names what is missing for this one.
        Some(Form::Words) | None => words::read(layer),
    }
}

/// The format in which a matrix is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Words,
    NvFp4,
    MxFp4,
    Float,
}

impl Format {
    fn of(scheme: Scheme) -> Self {
        match (scheme.code, scheme.scale) {
            (Code::Float(Minifloat::E2M1), Scale::PowerOfTwo) => Self::MxFp4,
            (Code::Float(Minifloat::E2M1), _) => Self::NvFp4,
            (Code::Float(Minifloat::E4M3), _) => Self::Float,
            _ => Self::Words,
        }
    }
}

/// The tensors of `packed`.
///
/// Errors: what the dialect cannot express exactly.
pub fn tensors(layer: &str, packed: &Packed) -> Result<Vec<NamedTensor>, Unwritable> {
    match Format::of(packed.scheme()) {
        Format::Words => words::tensors(layer, packed),
        Format::NvFp4 => fp4::nvfp4(layer, packed),
        Format::MxFp4 => fp4::mxfp4(layer, packed),
        Format::Float => bytes::tensors(layer, packed),
    }
}

/// The `quantization_config` of a checkpoint whose packed layers are all on one grid.
///
/// - `dense`: the linear layers that are not packed
pub fn config(grid: Grid, dense: &[String]) -> Value {
    let (format, group) = described(grid, json!(["Linear"]));
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": dense,
        "config_groups": { "group_0": group },
        "kv_cache_scheme": null,
    })
}

/// Adds the layers that are on other grids to a configuration: by their names, which go before the rule for all linear layers.
///
/// Source: vllm-project/compressed-tensors, `utils/match.py`, `match_targets`; `config/format.py`.
pub(super) fn except(config: &mut Value, others: &[(&str, Grid)]) {
    let mut grids: Vec<(Grid, Vec<&str>)> = Vec::new();
    for (layer, grid) in others {
        match grids.iter_mut().find(|(known, _)| known == grid) {
            Some((_, layers)) => layers.push(layer),
            None => grids.push((*grid, vec![layer])),
        }
    }
    for (index, (grid, layers)) in grids.into_iter().enumerate() {
        let (format, group) = described(grid, json!(layers));
        if config["format"] != format {
            config["format"] = "mixed-precision".into();
        }
        config["config_groups"][format!("group_{}", index + 1)] = group;
    }
}

/// The format of the layers on a grid, and the group of a configuration that describes them.
fn described(Grid { scheme, .. }: Grid, targets: Value) -> (&'static str, Value) {
    let size = group_size(scheme);
    let shared = match scheme.group {
        Group::Tensor => "tensor",
        Group::Row => "channel",
        Group::Columns(_) => "group",
    };
    let floats = |bits: u32, strategy: &str, size: Option<usize>| {
        json!({
            "num_bits": bits,
            "type": "float",
            "symmetric": true,
            "group_size": size,
            "strategy": strategy,
            "dynamic": false,
        })
    };
    let with_scales = |mut weights: Value, dtype: &str| {
        weights["scale_dtype"] = dtype.into();
        weights
    };
    let (format, weights) = match Format::of(scheme) {
        Format::NvFp4 => {
            let weights = floats(4, "tensor_group", Some(fp4::NVFP4_GROUP));
            ("nvfp4-pack-quantized", with_scales(weights, "torch.float8_e4m3fn"))
        }
        Format::MxFp4 => {
            let weights = floats(4, "group", Some(fp4::MXFP4_GROUP));
            ("mxfp4-pack-quantized", with_scales(weights, "torch.uint8"))
        }
        Format::Float => ("float-quantized", floats(8, shared, usize::try_from(size).ok())),
        Format::Words => {
            let weights = json!({
                "num_bits": scheme.code.bits(),
                "type": "int",
                "symmetric": !scheme.code.is_affine(),
                // One scale for the matrix is written for every row.
                "strategy": if size > 0 { "group" } else { "channel" },
                "group_size": (size > 0).then_some(size),
                "actorder": null,
                "dynamic": false,
            });
            ("pack-quantized", weights)
        }
    };
    let group = json!({
        "targets": targets,
        "weights": weights,
        "input_activations": null,
        "output_activations": null,
        "format": format,
    });
    (format, group)
}

/// Refuses codes of E4M3 that are no numbers, and stand for 0 in a [`Packed`].
fn numbers(bytes: &[u8]) -> Result<(), Unwritable> {
    match bytes.iter().any(|byte| byte & 0x7f == 0x7f) {
        false => Ok(()),
        true => Err(Unwritable::new(
            Dialect::Compressed,
            "reads the codes 7f and ff of e4m3 as no numbers, and here they are 0",
        )),
    }
}

/// A tensor of a layer.
fn tensor(layer: &str, suffix: &str, dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> NamedTensor {
    NamedTensor { name: format!("{layer}.{suffix}"), dtype, shape, bytes }
}

/// Exact scales of their kind as the bytes of a tensor, and its type.
fn scale_bytes(kind: FloatKind, scales: &[f32]) -> (Dtype, Vec<u8>) {
    match kind {
        FloatKind::F32 => (Dtype::F32, scales.iter().flat_map(|scale| scale.to_le_bytes()).collect()),
        FloatKind::F16 => (Dtype::F16, scales.iter().flat_map(|&s| half::f16::from_f32(s).to_le_bytes()).collect()),
        FloatKind::BF16 => (Dtype::BF16, scales.iter().flat_map(|&s| half::bf16::from_f32(s).to_le_bytes()).collect()),
    }
}

/// A setting of the weights in the configuration, of the first group of layers that has it.
fn said<'a>(source: &'a dyn Source, key: &str) -> Option<&'a Value> {
    let groups = source.quantization()?.get("config_groups")?.as_object()?;
    groups.values().find_map(|group| group.get("weights")?.get(key).filter(|value| !value.is_null()))
}

/// The `num_bits` of the configuration, where all of its groups have the same.
fn said_width(source: &dyn Source) -> Option<u32> {
    let groups = source.quantization()?.get("config_groups")?.as_object()?;
    let mut widths = groups.values().map(|group| group["weights"]["num_bits"].as_u64());
    let first = widths.next()??;
    widths.all(|width| width == Some(first)).then(|| u32::try_from(first).ok())?
}
