//! Checkpoints through the facade: written, published and read back; read by the letter of `docs/checkpoint.md`; and other
//! programs' checkpoints, byte for byte.

use std::fs;
use std::path::PathBuf;

use quench::checkpoint::{CheckpointError, Coding, Dtype, Folder, INDEX, Source, Staging, Writer, native};
use quench::format::{Packed, Scales};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const LAYER: &str = "model.layers.0.mlp.up_proj";

/// `[2, 9]`, 3-bit integers against zero points, four columns to a group, columns in reverse.
fn matrix() -> Packed {
    let codes = [0, 1, 2, 3, 4, 5, 6, 7, 0, 7, 6, 5, 4, 3, 2, 1, 0, 7];
    let scales = Scales::Float(vec![0.5, 0.25, 1.0, 2.0, -0.125, 0.0]);
    let zeros = Some(vec![4, 0, 7, 1, 2, 3]);
    let order = Some((0..9).rev().collect());
    let scheme = "uint3/4/f16".parse().unwrap();
    Packed::from_codes(scheme, [2, 9], &codes, scales, zeros, order).unwrap()
}

#[test]
fn a_published_checkpoint_is_read_as_it_was_written() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let staging = Staging::create(&out, false).unwrap();
    let mut writer = Writer::create(staging.model(), 60).unwrap();
    writer.packed(LAYER, matrix()).unwrap();
    writer.add("model.norm.weight", Dtype::BF16, [2], vec![0x80, 0x3f, 0, 0x40]).unwrap();
    writer.metadata("quench.gates", "failed: max_kl");
    writer.finish().unwrap();
    assert!(!out.exists());
    staging.publish().unwrap();

    assert!(out.join(INDEX).exists());
    let source = Folder::open(&out).unwrap();
    assert_eq!(native::read(&source, LAYER).unwrap(), Some(matrix()));
    assert_eq!(source.tensor("model.norm.weight").unwrap().to_finite_f32().unwrap(), [1.0, 2.0]);
    assert_eq!(source.metadata()["quench.gates"], "failed: max_kl");

    let shard = out.join("model-00002-of-00002.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let error = Folder::open(&out).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Truncated { file, .. } if file.ends_with("model-00002-of-00002.safetensors"))
    );
    fs::remove_file(&shard).unwrap();
    assert!(matches!(Folder::open(&out), Err(CheckpointError::MissingShard { missing: 1, shards: 2, .. })));
}

/// What somebody would write who has the specification and not our code.
#[test]
fn the_specification_is_enough_to_read_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(folder.path(), u64::MAX).unwrap();
    writer.packed(LAYER, matrix()).unwrap();
    writer.finish().unwrap();

    let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let manifest: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["quench"]).unwrap();
    assert_eq!(manifest["version"], json!(1));
    let layer = json!({"scheme": {"code": "uint3", "group": 4, "scale": "f16"}, "shape": [2, 9]});
    assert_eq!(manifest["layers"][LAYER], layer);

    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |suffix: &str, shape: &[usize]| -> Vec<u32> {
        let tensor = file.tensor(&format!("{LAYER}.{suffix}")).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::I32, shape), "{suffix}");
        tensor.data().chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    // Every row of 9 or 3 codes of 3 bits fits one word.
    let (codes, zeros, order) = (words("qweight", &[2, 1]), words("qzeros", &[2, 1]), words("order", &[9]));
    let field = |word: u32, at: usize| (word >> (3 * at)) & 7;
    let scales = file.tensor(&format!("{LAYER}.scales")).unwrap();
    assert_eq!((scales.dtype(), scales.shape()), (Dtype::F16, &[2, 3][..]));
    let scale = |at: usize| half::f16::from_le_bytes([scales.data()[2 * at], scales.data()[2 * at + 1]]).to_f32();

    let mut w = [0.0; 18];
    for row in 0..2 {
        for stored in 0..9 {
            let group = stored / 4;
            let level = field(codes[row], stored) as f32 - field(zeros[row], group) as f32;
            w[9 * row + order[stored] as usize] = scale(3 * row + group) * level;
        }
    }
    assert_eq!(matrix().decode(), w);
}

/// The same for codes at the length of their entropy.
#[test]
fn the_specification_is_enough_to_decode_a_stream() {
    // 4-bit codes, most of them 8, in two blocks.
    let codes: Vec<u16> =
        (0..70_000_u32).map(|i| if i.wrapping_mul(2_654_435_761) >> 29 == 0 { i % 16 } else { 8 } as u16).collect();
    let scales = Scales::Float(vec![1.0; 70]);
    let packed = Packed::from_codes("int4/row/f32".parse().unwrap(), [70, 1000], &codes, scales, None, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(folder.path(), u64::MAX).unwrap().with_coding(Coding::Entropy);
    writer.packed(LAYER, packed).unwrap();
    writer.finish().unwrap();

    let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let manifest: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["quench"]).unwrap();
    assert_eq!(manifest["version"], json!(2));
    assert_eq!(manifest["rans"], json!([format!("{LAYER}.qweight")]));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(&format!("{LAYER}.qweight")).unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::U8, &[tensor.data().len()][..]));
    assert!(tensor.data().len() < 70_000 / 2 / 2);

    let stream = tensor.data();
    let number =
        |at: usize, bytes: usize| stream[at..at + bytes].iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let (first, last) = (stream[0] as usize, stream[1] as usize);
    let frequencies: Vec<u64> = (0..=last - first).map(|code| number(2 + 2 * code, 2)).collect();
    let mut at = 2 + 2 * frequencies.len() + 2 * 4;
    let mut decoded = Vec::new();
    for block in 0..2 {
        let end = at + number(2 + 2 * frequencies.len() + 4 * block, 4) as usize;
        let mut states = [0, 4, 8, 12].map(|state| number(at + state, 4));
        at += 16;
        for i in 0..(70_000 - 65_536 * block).min(65_536) {
            let x = &mut states[i % 4];
            let (slot, mut code, mut start) = (*x % 16_384, 0, 0);
            while slot >= start + frequencies[code] {
                start += frequencies[code];
                code += 1;
            }
            *x = frequencies[code] * (*x / 16_384) + slot - start;
            if *x < 65_536 {
                *x = 65_536 * *x + number(at, 2);
                at += 2;
            }
            decoded.push((first + code) as u16);
        }
        assert_eq!((states, at), ([65_536; 4], end));
    }
    assert!(decoded == codes);
}

/// Read from `QUENCH_DATA` (default `../shared/data`); without it this passes with a printed line, or fails if
/// `QUENCH_REQUIRE_DATA` is set.
#[test]
fn other_programs_checkpoints_are_read_byte_for_byte() {
    let data = PathBuf::from(std::env::var("QUENCH_DATA").unwrap_or_else(|_| "../shared/data".into()));
    if !data.exists() {
        assert!(std::env::var_os("QUENCH_REQUIRE_DATA").is_none(), "no data at {}", data.display());
        println!("skipped: no data at {}", data.display());
        return;
    }
    for name in ["models/stories260k", "models/ref-llama", "models/resnet20-cifar10", "golden/gemma", "golden/phi3"] {
        let source = Folder::open(data.join(name)).unwrap();
        let bytes = fs::read(data.join(name).join("model.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(source.names().len(), expected.len(), "{name}");
        for (tensor, view) in expected.iter() {
            let found = source.tensor(tensor).unwrap();
            assert_eq!((found.dtype(), found.shape()), (view.dtype(), view.shape()), "{name} {tensor}");
            assert!(found.bytes() == view.data(), "{name} {tensor}");
        }
    }
}

#[test]
fn inspection_counts_the_bytes_of_the_file_and_a_bias_apart_from_its_layer() {
    let folder = tempfile::tempdir().unwrap();
    let (scheme, scales) = ("int5/row/f32".parse().unwrap(), Scales::Float(vec![1.0; 10]));
    let packed = Packed::from_codes(scheme, [10, 100], &[3; 1000], scales, None, None).unwrap();
    // Codes and scales: in words, 16 to a row, and packed to the last bit.
    for (name, dialect, bytes) in [("m.safetensors", "quench", 640 + 40), ("m.lsq", "lsq", 625 + 40)] {
        let file = folder.path().join(name);
        let mut writer = if dialect == "lsq" { Writer::lsq(&file) } else { Writer::safetensors(&file) };
        writer.packed("l", packed.clone()).unwrap();
        writer.add("l.bias", Dtype::F32, [10], vec![0; 40]).unwrap();
        writer.finish().unwrap();
        let found = quench::job::inspect(&file).unwrap();
        assert_eq!((found.dialect.as_str(), found.bytes), (dialect, bytes + 40));
        let rows: Vec<_> = found.rows.iter().map(|row| (row.layer.as_str(), row.bytes, row.packed)).collect();
        assert_eq!(rows, [("l", bytes, true), ("l.bias", 40, false)]);
        assert_eq!((found.bits_per_weight, found.decoded_bits_per_weight), (Some(8.0 * bytes as f64 / 1000.0), None));

        // One code alone takes no words: two bytes, its frequency, the length of a block, and four states.
        let mut writer = if dialect == "lsq" { Writer::lsq(&file) } else { Writer::safetensors(&file) };
        writer = writer.with_coding(Coding::Entropy);
        writer.packed("l", packed.clone()).unwrap();
        writer.finish().unwrap();
        let found = quench::job::inspect(&file).unwrap();
        assert_eq!((found.bytes, found.bits_per_weight), (24 + 40, Some(8.0 * 64.0 / 1000.0)));
        assert_eq!(found.decoded_bits_per_weight, Some(8.0 * 680.0 / 1000.0));
    }
}
