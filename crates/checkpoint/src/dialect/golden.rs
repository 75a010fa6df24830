//! Layers that other tools made, and what those tools say of them: `fixtures/dialects`, each file beside the script that made it.

use std::collections::BTreeMap;
use std::fs;

use quench_format::Scales;
use sha2::{Digest as _, Sha256};

use super::memory::{Memory, fixture};
use super::*;
use crate::Folder;
use crate::testing::Random;

/// What compressed-tensors compressed: the same weights to the last bit, and the same bytes when it is written again.
#[test]
fn compressed_tensors_compressed_these() {
    let cases = [
        ("mxfp4", "e2m1/32/e8m0", true),
        ("mxfp8", "e4m3/32/e8m0", false),
        ("int8_channel", "int8/row/bf16", false),
        ("int8_tensor", "int8/tensor/bf16", false),
        ("int8_group", "uint8/32/bf16", false),
        ("int4_group", "int4/16/bf16", false),
        ("fp8_channel", "e4m3/row/bf16", true),
        ("fp8_tensor", "e4m3/tensor/bf16", true),
        ("fp8_block", "e4m3/24/bf16", false),
    ];
    for (name, scheme, written) in cases {
        let source = Memory::fixture(&format!("{name}.safetensors"));
        assert_eq!(layers(&source), ["l"], "{name}");
        assert_eq!(Dialect::of(&source, "l"), Some(Dialect::Compressed), "{name}");
        let packed = read(&source, "l").unwrap().unwrap();
        assert_eq!(packed.scheme().to_string(), scheme, "{name}");
        assert_eq!(packed.decode(), source.floats("expected"), "{name}");
        if written {
            let again = Memory::new(Dialect::Compressed.write("l", &packed).unwrap());
            assert_eq!(again.tensors, source.of("l."), "{name}");
        }
    }
}

/// What is said of them in the configuration is what the tool says.
#[test]
fn compressed_tensors_says_this_of_them() {
    for name in ["nvfp4", "mxfp4", "fp8_channel", "fp8_tensor"] {
        let source = Memory::fixture(&format!("{name}.safetensors"));
        let packed = read(&source, "l").unwrap().unwrap();
        let (ours, theirs) = (Dialect::Compressed.config(&packed, &[]), source.config.unwrap());
        for key in ["quant_method", "format", "quantization_status"] {
            assert_eq!(ours[key], theirs[key], "{name} {key}");
        }
        let weights = |config: &Value| config["config_groups"]["group_0"]["weights"].clone();
        assert_eq!(weights(&ours), weights(&theirs), "{name}");
    }
}

/// The tool divides each scale by the global one; here it is multiplied by the reciprocal, which is rounded.
#[test]
fn compressed_tensors_divided_these() {
    let source = Memory::fixture("nvfp4.safetensors");
    let packed = read(&source, "l").unwrap().unwrap();
    assert_eq!(packed.scheme().to_string(), "e2m1/16/e4m3/tensor:f32");
    let Scales::Nested { outer, .. } = &packed.parts().scales else { panic!("nested") };
    assert_eq!(outer[..], [1.0 / source.floats("l.weight_global_scale")[0]]);
    for (weight, expected) in packed.decode().into_iter().zip(source.floats("expected")) {
        // Two roundings here, of the reciprocal and the scale; one there; and one of the product in both.
        assert!((weight - expected).abs() <= 2.0 * f32::EPSILON * expected.abs(), "{weight:e} {expected:e}");
    }
    let again = Memory::new(Dialect::Compressed.write("l", &packed).unwrap());
    assert_eq!(again.tensors, source.of("l."));
}

/// What bitsandbytes quantized: its scales and its weights, to the last bit.
#[test]
fn bitsandbytes_quantized_these() {
    for (name, scheme) in [("nf4", "nf4/row/f32"), ("nf4_double", "nf4/32/f32"), ("nf4_rows", "nf4/row/f32")] {
        let source = Memory::fixture(&format!("{name}.safetensors"));
        assert_eq!((layers(&source), Dialect::of(&source, "l")), (vec!["l".to_owned()], Some(Dialect::Bitsandbytes)));
        let packed = read(&source, "l").unwrap().unwrap();
        assert_eq!(packed.scheme().to_string(), scheme);
        assert_eq!(packed.decode(), source.floats("expected"), "{name}");
        assert_eq!(bitsandbytes::decode(&source, "l").unwrap(), source.floats("expected"), "{name}");
        let absmax = if name == "nf4" { "l.weight.absmax" } else { "absmax" };
        let mut absmax = source.floats(absmax);
        if name == "nf4_rows" {
            absmax = absmax.into_iter().flat_map(|scale| [scale, scale]).collect();
        }
        assert_eq!(packed.scale_values(), absmax, "{name}");
    }
}

/// Where blocks or levels are those of no scheme, the layer is refused by name, and a folder shows it decoded.
#[test]
fn what_has_no_scheme_is_decoded() {
    for (name, words) in [("nf4_ragged", "NF4 in blocks of 64 weights over rows of 40"), ("fp4", "FP4 in blocks of 64")]
    {
        let file = format!("{name}.safetensors");
        let source = Memory::fixture(&file);
        let error = read(&source, "l").unwrap_err().to_string();
        assert!(error.contains("`l.weight`") && error.contains(words), "{error}");
        let folder = Folder::open_file(fixture(&file)).unwrap();
        assert_eq!((folder.names(), layers(&folder)), (vec!["absmax", "expected", "l.weight"], vec![]));
        let parts: u64 = source.of("l.").values().map(|tensor| tensor.bytes.len() as u64).sum();
        assert_eq!(folder.stored_bytes("l.weight"), Some(parts));
        let weights = folder.tensor("l.weight").unwrap();
        assert_eq!(weights.shape(), folder.info("expected").unwrap().shape);
        assert_eq!(weights.to_finite_f32().unwrap(), source.floats("expected"), "{name}");
        assert!(folder.info("l.weight.absmax").is_none() && folder.tensor("l.weight.absmax").is_err());
        folder.verify().unwrap();
    }
}

/// What the packer of GPTQModel packed in planes.
#[test]
fn gptqmodel_packed_these_in_planes() {
    for width in [3, 5, 6, 7] {
        let mut source = Memory::fixture(&format!("planes{width}.safetensors"));
        source.config = Some(json!({ "quant_method": "gptq", "checkpoint_format": "gptq_p", "bits": width }));
        assert_eq!(Dialect::of(&source, "l"), Some(Dialect::Gptq));
        let packed = read(&source, "l").unwrap().unwrap();
        assert_eq!(packed.scheme().to_string(), format!("uint{width}/32/f16"));
        assert_eq!(packed.decode(), source.floats("expected"), "{width} bits");
        // At these widths it is the only format there is.
        source.config = None;
        assert_eq!(read(&source, "l").unwrap().unwrap() == packed, width != 3);
    }
}

/// Whole layers of EXL3, transforms and factors included: the weights that its own source gives in f64, rounded to f32.
#[test]
fn exllamav3_decodes_these() {
    let file = "exl3.safetensors";
    let (source, folder) = (Memory::fixture(file), Folder::open_file(fixture(file)).unwrap());
    for layer in ["2.3inst", "3.mcg", "5.mul1"] {
        let (expected, shape) = (source.floats(&format!("{layer}.expected")), folder.info(&format!("{layer}.weight")));
        assert_eq!(shape.unwrap(), TensorInfo { dtype: Dtype::F32, shape: vec![128, 256] });
        let weights = folder.tensor(&format!("{layer}.weight")).unwrap().to_finite_f32().unwrap();
        let sixteenth: Vec<f32> = weights.chunks_exact(256).step_by(16).flatten().copied().collect();
        let largest = expected.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        for (weight, expected) in sixteenth.into_iter().zip(expected) {
            // The tool's matrices are products with 1/√128, which f64 rounds.
            assert!(
                (weight - expected).abs() <= f32::EPSILON * expected.abs() + 1e-12 * largest,
                "{weight:e} {expected:e}"
            );
        }
        let shown: Vec<&str> = folder.names().into_iter().filter(|name| name.starts_with(layer)).collect();
        assert_eq!(shown, [format!("{layer}.expected"), format!("{layer}.weight")]);
    }
    assert_eq!(layers(&folder), Vec::<String>::new());
}

/// Tiles of every width and codebook, bit for bit, as the source for the GPU decodes them.
#[test]
fn tiles_of_exl3_are_decoded_bit_for_bit() {
    let sums: BTreeMap<String, String> = serde_json::from_slice(&fs::read(fixture("exl3.json")).unwrap()).unwrap();
    assert_eq!(sums.len(), 24);
    for bits in 1..=8 {
        for (book, name) in ["3inst", "mcg", "mul1"].into_iter().enumerate() {
            let mut random = Random((100 * bits + book) as u64);
            let steps = (0..64 * 16 * bits / 4).flat_map(|_| random.step().to_le_bytes());
            let bytes: Vec<u8> = steps.collect();
            let halves = exl3::tiles_alone(&bytes, book, bits, [128, 128]);
            let bytes: Vec<u8> = halves.into_iter().flat_map(half::f16::to_le_bytes).collect();
            let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(sum, sums[&format!("{bits}.{name}")], "{bits} bits, {name}");
        }
    }
}
