//! Layers in the dialects of other tools, made to break their readers: each is one error that names the tensor, or is read.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::memory::Memory;
use super::*;
use crate::attacks::{apply, change};
use crate::testing::forge;
use crate::{Folder, WEIGHTS};

/// Every fixture, and its layers.
const FILES: [(&str, &[&str]); 20] = [
    ("nvfp4", &["l"]),
    ("mxfp4", &["l"]),
    ("mxfp8", &["l"]),
    ("int8_channel", &["l"]),
    ("int8_tensor", &["l"]),
    ("int8_group", &["l"]),
    ("int4_group", &["l"]),
    ("fp8_channel", &["l"]),
    ("fp8_tensor", &["l"]),
    ("fp8_block", &["l"]),
    ("nf4", &["l"]),
    ("nf4_double", &["l"]),
    ("nf4_rows", &["l"]),
    ("nf4_ragged", &["l"]),
    ("fp4", &["l"]),
    ("planes3", &["l"]),
    ("planes5", &["l"]),
    ("planes6", &["l"]),
    ("planes7", &["l"]),
    ("exl3", &["2.3inst", "3.mcg", "5.mul1"]),
];

fn source(file: &str) -> Memory {
    let mut source = Memory::fixture(&format!("{file}.safetensors"));
    if file.starts_with("planes") {
        source.config = Some(json!({ "checkpoint_format": "gptq_p" }));
    }
    source
}

/// The weights of a layer in whichever way it is read; packed ones are finite.
fn weights(source: &dyn Source, layer: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
    if bitsandbytes::is_packed(source, layer) && bitsandbytes::decoded_shape(source, layer).is_some() {
        return bitsandbytes::decode(source, layer).map(Some);
    }
    if let Some(packed) = read(source, layer)? {
        let weights = packed.decode();
        assert!(weights.iter().all(|weight| weight.is_finite()), "{layer}");
        return Ok(Some(weights));
    }
    if exl3::is_there(source, layer) {
        return exl3::decode(source, layer).map(Some);
    }
    Ok(None)
}

/// Gives a tensor another type or shape, with bytes that fill it.
fn reshape(tensor: &mut NamedTensor, dtype: Dtype, shape: &[usize]) {
    let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
    tensor.bytes = tensor.bytes.iter().copied().chain(std::iter::repeat(0)).take(len).collect();
    (tensor.dtype, tensor.shape) = (dtype, shape.to_vec());
}

fn text(tensor: &mut NamedTensor, text: &str) {
    (tensor.shape, tensor.bytes) = (vec![text.len()], text.as_bytes().to_vec());
}

#[test]
fn each_damage_is_one_error_that_names_the_tensor() {
    type Damage = fn(&mut NamedTensor);
    let state = "weight.quant_state.bitsandbytes__nf4";
    let cases: Vec<(&str, &str, &str, Damage, &str)> = vec![
        ("nvfp4", "l", "weight_packed", |t| reshape(t, Dtype::U8, &[16, 23]), "do not divide 46 columns"),
        ("nvfp4", "l", "weight_packed", |t| reshape(t, Dtype::U8, &[15, 32]), "16 rows of scales for 15"),
        ("nvfp4", "l", "weight_packed", |t| reshape(t, Dtype::U8, &[512]), "a matrix of U8"),
        ("nvfp4", "l", "weight_packed", |t| reshape(t, Dtype::U8, &[usize::MAX, 0]), "a matrix of U8"),
        ("nvfp4", "l", "weight_scale", |t| reshape(t, Dtype::F8_E4M3, &[0, usize::MAX]), "a matrix of F8_E4M3"),
        ("nvfp4", "l", "weight_scale", |t| reshape(t, Dtype::F16, &[16, 4]), "F8_E4M3, F8_E8M0 or U8"),
        ("nvfp4", "l", "weight_scale", |t| t.bytes[5] = 0xff, "element 5 is not a number"),
        ("nvfp4", "l", "weight_global_scale", |t| t.bytes.fill(0), "divided by 0"),
        ("nvfp4", "l", "weight_global_scale", |t| t.bytes.fill(0xff), "divided by NaN"),
        ("nvfp4", "l", "weight_global_scale", |t| t.bytes = 1.0e-45_f32.to_le_bytes().into(), "divided by 1e-45"),
        ("nvfp4", "l", "weight_global_scale", |t| reshape(t, Dtype::F32, &[2]), "one element of F32"),
        ("mxfp4", "l", "weight_scale", |t| t.bytes[3] = 0xff, "scales[3]"),
        ("mxfp4", "l", "weight_scale", |t| t.bytes[3] = 0xfe, "overflows"),
        ("int8_channel", "l", "weight", |t| reshape(t, Dtype::I8, &[0, 1 << 60]), "a matrix of I8"),
        ("int8_channel", "l", "weight_scale", |t| reshape(t, Dtype::BF16, &[15, 1]), "[16, 1]"),
        ("int8_channel", "l", "weight_scale", |t| reshape(t, Dtype::I16, &[16, 1]), "F32, F16, BF16"),
        ("int8_group", "l", "weight_zero_point", |t| reshape(t, Dtype::I32, &[16, 2]), "I8 [16, 2]"),
        ("int4_group", "l", "weight", |t| t.bytes[7] = 8, "element 7 is 8"),
        ("fp8_channel", "l", "weight", |t| t.bytes[9] = 0x7f, "element 9 is not a number"),
        ("fp8_block", "l", "weight_scale", |t| reshape(t, Dtype::BF16, &[3, 2]), "for blocks of 6 by 24"),
        ("nf4", "l", "weight", |t| reshape(t, Dtype::U8, &[511, 1]), "511 bytes are no codes"),
        ("nf4", "l", "weight.absmax", |t| reshape(t, Dtype::F32, &[15]), "F32 [16]"),
        ("nf4", "l", "weight.absmax", |t| t.bytes.fill(0xff), "scales[0]"),
        ("nf4", "l", "weight.quant_map", |t| t.bytes[4] ^= 1, "not the levels of NF4"),
        ("nf4", "l", state, |t| text(t, "{"), "EOF"),
        ("nf4", "l", state, |t| text(t, &"[".repeat(100_000)), "expected value"),
        (
            "nf4",
            "l",
            state,
            |t| text(t, r#"{"quant_type":"nf4","blocksize":0,"dtype":"float32","shape":[16,64]}"#),
            "l.weight",
        ),
        (
            "nf4",
            "l",
            state,
            |t| {
                let shape = format!("[{},{}]", 1_u64 << 62, 1_u64 << 62);
                text(t, &format!(r#"{{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":{shape}}}"#));
            },
            "l.weight",
        ),
        (
            "nf4",
            "l",
            state,
            |t| text(t, r#"{"quant_type":"nf4","blocksize":64,"dtype":"","shape":[0,64]}"#),
            "l.weight",
        ),
        ("nf4", "l", state, |t| text(t, r#"{"quant_type":"af4","blocksize":64,"dtype":"","shape":[16,64]}"#), "af4"),
        (
            "nf4",
            "l",
            state,
            |t| text(t, r#"{"quant_type":"nf4","blocksize":64,"dtype":"","shape":[1024]}"#),
            "length 1",
        ),
        ("nf4", "l", state, |t| text(t, r#"{"quant_type":"nf4","offset":64}"#), "unknown field `offset`"),
        ("nf4_double", "l", "weight.nested_absmax", |t| reshape(t, Dtype::F32, &[1]), "F32 [2]"),
        ("nf4_double", "l", "weight.nested_quant_map", |t| reshape(t, Dtype::F32, &[255]), "F32 [256]"),
        (
            "nf4_double",
            "l",
            state,
            |t| text(t, r#"{"quant_type":"nf4","blocksize":32,"dtype":"","shape":[72,128],"nested_offset":1}"#),
            "`nested_blocksize` and `nested_offset`",
        ),
        ("planes5", "l", "qweight", |t| reshape(t, Dtype::I32, &[11, 32]), "l.qzeros"),
        ("planes5", "l", "qzeros", |t| reshape(t, Dtype::I32, &[2, 9]), "9 words of zero points for 32 outputs"),
        ("planes6", "l", "scales", |t| reshape(t, Dtype::F16, &[0, 32]), "a matrix of F16"),
        ("planes6", "l", "g_idx", |t| reshape(t, Dtype::I32, &[63]), "I32 [64]"),
        ("exl3", "3.mcg", "trellis", |t| reshape(t, Dtype::I16, &[16, 8, 40]), "16 bits"),
        ("exl3", "3.mcg", "trellis", |t| reshape(t, Dtype::I16, &[16, 8, 144]), "1 to 8 bits"),
        ("exl3", "3.mcg", "trellis", |t| reshape(t, Dtype::I16, &[16, 7, 48]), "both sides by 128"),
        ("exl3", "3.mcg", "trellis", |t| reshape(t, Dtype::I16, &[0, 8, 48]), "both sides by 128"),
        ("exl3", "3.mcg", "trellis", |t| reshape(t, Dtype::U16, &[16, 8, 48]), "I16"),
        ("exl3", "3.mcg", "suh", |t| reshape(t, Dtype::F16, &[255]), "F16 [256]"),
        ("exl3", "3.mcg", "svh", |t| t.bytes[..2].fill(0xff), "NaN"),
        ("exl3", "3.mcg", "mcg", |t| t.bytes[0] ^= 1, "multiplier"),
        ("exl3", "3.mcg", "mcg", |t| reshape(t, Dtype::I32, &[2]), "one element of I32"),
        ("exl3", "2.3inst", "su", |t| reshape(t, Dtype::I16, &[15]), "I16 [16]"),
    ];
    for (file, layer, suffix, damage, words) in cases {
        let mut source = source(file);
        source.change(&format!("{layer}.{suffix}"), damage);
        let found = weights(&source, layer).map(drop);
        let message = found.expect_err(&format!("{file} {suffix}: {words}")).to_string();
        let at = message.split('`').nth(1).unwrap_or_default();
        assert!(at.starts_with(&format!("{layer}.")) && message.contains(words), "{file} {suffix}: {message}");
    }
}

/// A layer that lacks a tensor is none, or the error names what is missing.
#[test]
fn a_missing_tensor_is_named() {
    for (file, layers) in FILES {
        for layer in layers {
            for missing in source(file).of(&format!("{layer}.")).into_keys() {
                if missing.ends_with("expected") || missing.ends_with("g_idx") || missing.ends_with("zero_point") {
                    continue;
                }
                let mut source = source(file);
                source.tensors.remove(&missing);
                match weights(&source, layer) {
                    Ok(None) => {}
                    // The marker says which codebook, and without one it is another.
                    Ok(Some(_)) => assert!(missing.ends_with("mcg") || missing.ends_with("mul1"), "{file} {missing}"),
                    Err(error) => assert!(error.to_string().contains(&missing), "{file} {missing}: {error}"),
                }
            }
        }
    }
}

/// Everything a reader may do to a file of any dialect.
fn exercise(bytes: &[u8], config: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
    fs::write(folder.path().join("quantize_config.json"), config).unwrap();
    let Ok(source) = Folder::open(folder.path()) else { return };
    for layer in layers(&source) {
        let _ = weights(&source, &layer);
    }
    for name in source.names() {
        assert!(source.info(name).is_some());
        if let Ok(view) = source.tensor(name) {
            let _ = view.to_finite_f32();
        }
    }
}

fn file(name: &str) -> (Vec<u8>, Vec<u8>) {
    let source = source(name);
    let tensors: Vec<_> =
        source.tensors.values().filter(|tensor| !tensor.name.ends_with("expected")).cloned().collect();
    (forge(&[], &tensors), source.config.unwrap_or_default().to_string().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn good_files_with_headers_and_configurations_changed(
        (name, _) in select(FILES.to_vec()),
        in_header in vec(change(), 0..4),
        in_config in vec(change(), 0..3),
    ) {
        let (bytes, mut config) = file(name);
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = bytes[8..end].to_vec();
        apply(&mut header, &in_header);
        apply(&mut config, &in_config);
        exercise(&[&(header.len() as u64).to_le_bytes()[..], &header, &bytes[end..]].concat(), &config);
    }

    #[test]
    fn good_files_with_numbers_changed(
        (name, _) in select(FILES.to_vec()),
        changes in vec((any::<Index>(), any::<u8>()), 1..8),
    ) {
        let (mut bytes, config) = file(name);
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, byte) in changes {
            *at.get_mut(&mut bytes[end..]) = byte;
        }
        exercise(&bytes, &config);
    }

    #[test]
    fn layers_with_one_tensor_of_any_type_and_shape(
        (name, layers) in select(FILES.to_vec()),
        at in any::<Index>(),
        shape in vec(0usize..130, 0..4),
        dtype in select(vec![Dtype::I32, Dtype::F16, Dtype::F32, Dtype::U8, Dtype::I8, Dtype::I16, Dtype::F8_E4M3]),
        drop in any::<bool>(),
    ) {
        let mut source = source(name);
        let names: Vec<String> = source.tensors.keys().cloned().collect();
        let victim = at.get(&names);
        source.change(victim, |tensor| reshape(tensor, dtype, &shape));
        if drop {
            source.tensors.remove(victim);
        }
        for layer in layers {
            let _ = weights(&source, layer);
        }
    }
}
