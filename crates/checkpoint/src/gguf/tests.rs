//! Files made here: models that come back, and damaged ones that are refused by name.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use quench_format::Packed;
use safetensors::Dtype;
use serde_json::{Value as Json, json};

use super::container::{Contents, Kind, Metadata, Planned, Value, header, read};
use super::{BlockType, Gguf, GgufError, Tokenizer, Writer};
use crate::testing::{names, packed};
use crate::{CheckpointError, Folder, Layer, Source, dialect};

/// A model with one block.
fn config() -> Json {
    json!({
        "model_type": "llama",
        "num_hidden_layers": 1,
        "max_position_embeddings": 128,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "vocab_size": 3,
        "tie_word_embeddings": true,
    })
}

fn tokenizer() -> Tokenizer {
    Tokenizer {
        model: "llama".to_owned(),
        pre: Some("default".to_owned()),
        tokens: ["<s>", "</s>", "▁a"].map(str::to_owned).to_vec(),
        scores: vec![0.0, -1.5, -2.0],
        types: vec![3, 3, 1],
        bos: Some(0),
        eos: Some(1),
        add_bos: Some(true),
        chat_template: Some("{{ messages }}".to_owned()),
        ..Tokenizer::default()
    }
}

/// The layers of the model, each in another type.
fn layers() -> Vec<(&'static str, Packed)> {
    let cases = [
        ("model.layers.0.self_attn.q_proj", BlockType::Q5_0, [64, 64]),
        ("model.layers.0.self_attn.k_proj", BlockType::Q4_1, [32, 64]),
        ("model.layers.0.self_attn.v_proj", BlockType::Q5_1, [32, 64]),
        ("model.layers.0.self_attn.o_proj", BlockType::MXFP4, [64, 64]),
        ("model.layers.0.mlp.gate_proj", BlockType::IQ4_NL, [256, 64]),
        ("model.layers.0.mlp.up_proj", BlockType::Q8_0, [256, 64]),
        ("model.layers.0.mlp.down_proj", BlockType::Q4_K, [64, 256]),
    ];
    let make = |(seed, (layer, kind, shape)): (usize, (&'static str, BlockType, _))| {
        (layer, packed(kind.spelling(), shape, false, seed as u64))
    };
    cases.into_iter().enumerate().map(make).collect()
}

const NORMS: [&str; 3] =
    ["model.norm.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight"];

/// BF16 bytes of the numbers 0, 1, 2, ...
fn counting(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| half::bf16::from_f32(i as f32).to_le_bytes()).collect()
}

fn writer<'a>(target: &Path, config: &Json) -> Writer<'a> {
    let mut writer = Writer::new(target, config, &tokenizer()).unwrap();
    writer.dense("model.embed_tokens.weight", Dtype::BF16, [3, 64], counting(192)).unwrap();
    NORMS.into_iter().for_each(|name| writer.dense(name, Dtype::BF16, [64], counting(64)).unwrap());
    writer
}

/// The whole model.
fn write(target: &Path, config: &Json) {
    let mut writer = writer(target, config);
    for (at, (layer, packed)) in layers().into_iter().enumerate() {
        // Both ways to announce one.
        if at % 2 == 0 {
            writer.packed(layer, &packed).unwrap();
        } else {
            let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
            writer.packed_later(layer, coded, move || Ok(packed)).unwrap();
        }
    }
    writer.finish().unwrap();
}

#[test]
fn a_model_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m.gguf");
    write(&target, &config());
    assert_eq!(names(folder.path()), ["m.gguf"]);
    let source = Folder::open(&target).unwrap();
    assert_eq!(dialect::layers(&source).len(), 7);
    for (layer, expected) in layers() {
        assert_eq!(dialect::Dialect::of(&source, layer), Some(dialect::Dialect::Gguf));
        let spelled = dialect::Dialect::Gguf.tensors(&source, layer).unwrap();
        assert_eq!(source.stored_bytes(&spelled[0]), Some(expected.storage_bits() / 8), "{layer}");
        assert_eq!(dialect::read(&source, layer).unwrap(), Some(expected), "{layer}");
    }
    // A matrix keeps its type, a vector becomes F32.
    let embedding = source.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!((embedding.dtype(), embedding.bytes()), (Dtype::BF16, &counting(192)[..]));
    for name in NORMS {
        let norm = source.tensor(name).unwrap();
        assert_eq!(norm.dtype(), Dtype::F32);
        assert!(norm.to_f32().unwrap().into_iter().eq((0..64).map(|i| i as f32)), "{name}");
    }
    assert_eq!(source.names().len(), 7 + 4);
    assert_eq!(source.metadata()["general.architecture"], "llama");

    let gguf = Gguf::open(&target).unwrap();
    assert_eq!(gguf.tokenizer().unwrap(), tokenizer());
    let found = gguf.config().unwrap();
    for (key, value) in config().as_object().unwrap() {
        assert_eq!(found[key], *value, "{key}");
    }
    assert_eq!((found["bos_token_id"].as_u64(), found["rope_scaling"].is_null()), (Some(0), true));
    // Q8_0, IQ4_NL and Q4_K have 16384 weights each, more than the others: of these the highest number.
    let file_type = gguf.contents().metadata.get("general.file_type").and_then(Value::count);
    assert_eq!(file_type, Some(25));
}

#[test]
fn a_checkpoint_of_another_dialect_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let (native, target) = (folder.path().join("native"), folder.path().join("m.gguf"));
    fs::create_dir(&native).unwrap();
    let mut checkpoint = crate::Writer::create(&native, u64::MAX).unwrap();
    checkpoint.add("model.embed_tokens.weight", Dtype::BF16, [3, 64], counting(192)).unwrap();
    checkpoint.add("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, [8], vec![0; 32]).unwrap();
    for name in NORMS {
        checkpoint.add(name, Dtype::BF16, [64], counting(64)).unwrap();
    }
    for (layer, packed) in layers() {
        checkpoint.packed(layer, packed).unwrap();
    }
    checkpoint.finish().unwrap();
    let source = Folder::open(&native).unwrap();
    let mut writer = Writer::new(&target, &config(), &tokenizer()).unwrap();
    writer.copy_all(&source).unwrap();
    writer.finish().unwrap();
    let copy = Folder::open(&target).unwrap();
    assert_eq!(copy.names().len(), 7 + 4);
    for (layer, expected) in layers() {
        assert_eq!(dialect::read(&copy, layer).unwrap(), Some(expected), "{layer}");
    }
    // One layer that no type holds: nothing is written.
    let mut checkpoint = crate::Writer::create(&native, u64::MAX).unwrap();
    checkpoint.packed("model.layers.0.mlp.up_proj", packed("int4/row/f32", [256, 64], false, 1)).unwrap();
    checkpoint.finish().unwrap();
    let source = Folder::open(&native).unwrap();
    let mut writer = Writer::new(folder.path().join("other.gguf"), &config(), &tokenizer()).unwrap();
    let error = writer.copy_all(&source).unwrap_err();
    assert!(matches!(&error, CheckpointError::Unwritable { layer, .. } if layer.ends_with("up_proj")), "{error}");
    assert_eq!(names(folder.path()), ["m.gguf", "native"]);
}

/// Rows of dense matrices and biases change places too; in the file they lie as llama.cpp wants them.
#[test]
fn dense_heads_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m.gguf");
    let mut dense = writer(&target, &config());
    let [query, bias] = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.bias"];
    for (layer, packed) in layers() {
        match layer {
            "model.layers.0.self_attn.q_proj" => dense.dense(query, Dtype::F16, [64, 64], counting(64 * 64)).unwrap(),
            _ => dense.packed(layer, &packed).unwrap(),
        }
    }
    dense.dense(bias, Dtype::BF16, [32], counting(32)).unwrap();
    dense.metadata("general.alignment", 128_u32);
    dense.finish().unwrap();
    let source = Folder::open(&target).unwrap();
    assert_eq!(source.tensor(query).unwrap().bytes(), counting(64 * 64));
    assert!(source.tensor(bias).unwrap().to_f32().unwrap().into_iter().eq((0..32).map(|i| i as f32)));
    let gguf = Gguf::open(&target).unwrap();
    assert_eq!(gguf.config().unwrap()["attention_bias"], false);
    let entry = gguf.contents().tensors.iter().find(|entry| entry.name == "blk.0.attn_k.bias").unwrap();
    assert_eq!(entry.begin % 128, 0);
    let bytes = fs::read(&target).unwrap();
    let stored: Vec<f32> =
        bytes[entry.begin as usize..][..16].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    // Two heads of 16 rows: 0 beside 8, 1 beside 9.
    assert_eq!(stored, [0.0, 8.0, 1.0, 9.0]);
}

#[test]
fn scaled_frequencies_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m.gguf");
    let linear = json!({ "rope_type": "linear", "factor": 4.0 });
    let llama3 = json!({
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    for (scaling, tensors) in [(&linear, 11), (&llama3, 12)] {
        let mut scaled = config();
        scaled["rope_scaling"] = scaling.clone();
        write(&target, &scaled);
        let gguf = Gguf::open(&target).unwrap();
        assert_eq!(gguf.contents().tensors.len(), tensors);
        assert_eq!(gguf.config().unwrap()["rope_scaling"], *scaling);
        // The table of factors is none of Hugging Face.
        assert_eq!(Folder::open(&target).unwrap().names().len(), 11);
    }
    // Some other table.
    let mut other = config();
    other["rope_scaling"] = llama3;
    other["rope_scaling"]["low_freq_factor"] = json!(0.5);
    write(&target, &other);
    let error = Gguf::open(&target).unwrap().config().unwrap_err().to_string();
    assert!(error.contains("`rope_freqs.weight`"), "{error}");
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m.gguf");
    let refused = |error: CheckpointError, words: &[&str]| {
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let layer = "model.layers.0.mlp.up_proj";
    let mut one = writer(&target, &config());
    let coarse = packed("int4/128/f16", [256, 256], false, 1);
    refused(one.packed(layer, &coarse).unwrap_err(), &[layer, "int4/128/f16", "int4/32/f16 (Q4_0)"]);
    let odd = packed("int4/32/f16", [256, 40], false, 1);
    refused(one.packed(layer, &odd).unwrap_err(), &[layer, "32 columns", "40"]);
    let heads = packed("int4/32/f16", [60, 64], false, 1);
    refused(one.packed("model.layers.0.self_attn.q_proj", &heads).unwrap_err(), &["q_proj", "4 heads"]);
    refused(one.dense("model.norm.bias.x", Dtype::F32, [1], vec![0; 4]).unwrap_err(), &["m.gguf", "model.norm.bias.x"]);
    refused(one.dense("model.norm.weight", Dtype::F32, [64], vec![0; 256]).unwrap_err(), &["twice"]);
    refused(one.dense("model.norm.bias", Dtype::I64, [1], vec![0; 8]).unwrap_err(), &["I64"]);
    refused(one.finish().unwrap_err(), &["m.gguf", "model.layers.0.self_attn.q_proj.weight", "missing"]);

    // What is given later is another matrix than was announced.
    let mut late = writer(&target, &config());
    for (name, packed) in layers() {
        let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
        let other = crate::testing::packed("int4/32/f16", [32, 32], false, 1);
        late.packed_later(name, coded, move || Ok(if name == layer { other } else { packed })).unwrap();
    }
    refused(late.finish().unwrap_err(), &[layer, "int8/32/f16"]);
    assert!(names(folder.path()).is_empty());

    for (key, value) in [
        ("model_type", json!("bert")),
        ("hidden_size", json!(0)),
        ("hidden_act", json!("gelu")),
        ("rms_norm_eps", Json::Null),
        ("rope_scaling", json!({ "rope_type": "yarn" })),
        ("rope_scaling", json!({ "type": "linear" })),
    ] {
        let mut wrong = config();
        wrong[key] = value;
        let error = Writer::new(&target, &wrong, &tokenizer()).err().unwrap();
        refused(error, &["m.gguf", "config.json"]);
    }
}

/// A header of one tensor `[2, 32]` in Q8_0 and one of F32, and the data.
fn file(change: impl FnOnce(&mut Metadata, &mut Vec<Planned>)) -> Vec<u8> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "llama");
    metadata.set("llama.attention.head_count", 2_u32);
    metadata.set("texts", &["a".to_owned(), String::new()][..]);
    metadata.set("numbers", &[1, -2, 3][..]);
    metadata.set("flag", true);
    let tensor =
        |name: &str, number, shape: &[usize], bytes| Planned { name: name.into(), number, shape: shape.into(), bytes };
    let mut tensors = vec![tensor("output.weight", 8, &[2, 32], 68), tensor("output_norm.weight", 0, &[3], 12)];
    change(&mut metadata, &mut tensors);
    let (mut bytes, offsets) = header(&metadata, &tensors).unwrap();
    let data = offsets.last().map_or(0, |last| last + tensors.last().unwrap().bytes);
    bytes.resize(bytes.len() + data as usize, 0);
    bytes
}

fn plain() -> Vec<u8> {
    file(|_, _| {})
}

/// The plain file with the bytes `from`, which it has once, in place of which `to` stands.
fn replaced(from: &[u8], to: &[u8]) -> Vec<u8> {
    let bytes = plain();
    let places: Vec<_> = bytes.windows(from.len()).enumerate().filter(|(_, window)| *window == from).collect();
    let [(at, _)] = places[..] else { panic!("{from:?} is there {} times", places.len()) };
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

fn sized(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn a_header_comes_back_as_it_was() {
    let Contents { metadata, tensors } = read(&plain()).unwrap();
    assert_eq!(metadata.get("texts").and_then(Value::texts).unwrap(), ["a", ""]);
    assert_eq!(metadata.get("numbers").and_then(Value::list).unwrap(), [1.0, -2.0, 3.0]);
    assert_eq!(metadata.get("flag").and_then(Value::flag), Some(true));
    assert_eq!((tensors[0].shape.as_slice(), tensors[0].bytes), (&[2, 32][..], 68));
    assert_eq!(tensors[1].begin, tensors[0].begin + 96);
    let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["general.architecture", "llama.attention.head_count", "texts", "numbers", "flag"]);
    // The other alignment, and version 2.
    let wide = read(&file(|metadata, _| metadata.set("general.alignment", 256_u32))).unwrap();
    assert!(wide.tensors.iter().all(|tensor| tensor.begin % 256 == 0));
    let mut second = plain();
    second[4] = 2;
    assert!(read(&second).is_ok());
}

#[test]
fn numbers_of_every_kind_are_read() {
    let number = |kind, bytes: &[u8]| Value::Numbers { kind, array: false, bytes: bytes.to_vec() };
    let cases = [
        (number(Kind::U8, &[200]), Some(200.0), Some(200)),
        (number(Kind::I8, &[200]), Some(-56.0), None),
        (number(Kind::U16, &[1, 2]), Some(513.0), Some(513)),
        (number(Kind::I16, &[0, 0x80]), Some(-32768.0), None),
        (number(Kind::I32, &[5, 0, 0, 0]), Some(5.0), Some(5)),
        (number(Kind::U64, &[255; 8]), Some(u64::MAX as f64), Some(u64::MAX)),
        (number(Kind::I64, &[255; 8]), Some(-1.0), None),
        (number(Kind::F64, &0.5_f64.to_le_bytes()), Some(0.5), None),
        (Value::from(0.25_f32), Some(0.25), None),
        (Value::from("3"), None, None),
    ];
    for (value, found, count) in cases {
        assert_eq!((value.number(), value.count()), (found, count), "{value:?}");
        let mut metadata = Metadata::default();
        metadata.set("k", value);
        let (bytes, _) = header(&metadata, &[]).unwrap();
        assert_eq!(read(&bytes).unwrap().metadata, metadata);
    }
}

#[test]
fn damaged_files_are_refused_by_name() {
    let number = |from: u32, to: u32| [from.to_le_bytes().to_vec(), to.to_le_bytes().to_vec()];
    let huge = u64::MAX.to_le_bytes();
    // `numbers` is a list of I32; what follows its key is the kind of an array, of its elements, and their number.
    let [array, int] = number(9, 5);
    let numbers = [sized("numbers"), array.clone(), int].concat();
    let flag = [sized("flag"), 7_u32.to_le_bytes().to_vec()].concat();
    let norm = |axes: u32, extents: &[u64], kind: u32, offset: u64| {
        let extents: Vec<u8> = extents.iter().flat_map(|extent| extent.to_le_bytes()).collect();
        [
            sized("output_norm.weight"),
            axes.to_le_bytes().to_vec(),
            extents,
            kind.to_le_bytes().to_vec(),
            offset.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let with = |other: Vec<u8>| replaced(&norm(1, &[3], 0, 96), &other);
    let tensor = "`output_norm.weight`";
    let cases: Vec<(&str, Vec<u8>, Vec<&str>)> = vec![
        ("an empty file", Vec::new(), vec!["truncated", "first bytes"]),
        ("another file", b"GGML\x03\0\0\0".to_vec(), vec!["first bytes"]),
        ("version 1", replaced(b"GGUF\x03", b"GGUF\x01"), vec!["version 1,"]),
        ("big-endian", replaced(b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), vec!["big-endian"]),
        (
            "more tensors than bytes",
            [&plain()[..8], &huge, &plain()[16..]].concat(),
            vec!["18446744073709551615 tensors"],
        ),
        (
            "more entries than bytes",
            [&plain()[..16], &huge, &plain()[24..]].concat(),
            vec!["18446744073709551615 entries"],
        ),
        ("a long key", [&plain()[..24], &huge, &plain()[32..]].concat(), vec!["a metadata key"]),
        ("a key that is no text", replaced(b"numbers", b"num\xffers"), vec!["a metadata key", "byte 3"]),
        ("a text that is none", replaced(b"llama\x1a", b"ll\xffma\x1a"), vec!["`general.architecture`", "UTF-8"]),
        (
            "a kind that is none",
            replaced(&numbers, &[sized("numbers"), array.clone(), 13_u32.to_le_bytes().to_vec()].concat()),
            vec!["`numbers`", "kind 13"],
        ),
        (
            "arrays in an array",
            replaced(&numbers, &[sized("numbers"), array.clone(), array].concat()),
            vec!["`numbers`", "array of arrays"],
        ),
        (
            "a long array",
            replaced(&[numbers.clone(), 3_u64.to_le_bytes().to_vec()].concat(), &[numbers, huge.to_vec()].concat()),
            vec!["`numbers`"],
        ),
        (
            "neither true nor false",
            replaced(&[flag.clone(), vec![1]].concat(), &[flag, vec![2]].concat()),
            vec!["`flag`", "2"],
        ),
        ("a key twice", replaced(b"\x05\0\0\0\0\0\0\0texts", b"\x04\0\0\0\0\0\0\0flag"), vec!["`flag`", "twice"]),
        (
            "a tensor twice",
            replaced(&sized("output_norm.weight"), &sized("output.weight")),
            vec!["`output.weight`", "twice"],
        ),
        ("a name that is no text", replaced(b"output_norm", b"output\xffnorm"), vec!["name of a tensor"]),
        ("five axes", with(norm(5, &[1; 5], 0, 96)), vec![tensor, "5 axes"]),
        ("an empty axis", with(norm(1, &[0], 0, 96)), vec![tensor, "axis of 0"]),
        ("a type that is none", with(norm(1, &[3], 4, 96)), vec![tensor, "type 4"]),
        ("a type that is not read", with(norm(1, &[3], 16, 96)), vec![tensor, "IQ2_XXS"]),
        ("a later type", with(norm(1, &[3], 40, 96)), vec![tensor, "NVFP4"]),
        ("half a block", with(norm(1, &[48], 8, 96)), vec![tensor, "[48]", "blocks of 32"]),
        ("a shape beyond counting", with(norm(2, &[1 << 40, 1 << 40], 0, 96)), vec![tensor, "1099511627776"]),
        ("between two places", with(norm(1, &[3], 0, 95)), vec![tensor, "byte 95"]),
        ("inside another", with(norm(1, &[3], 0, 64)), vec![tensor, "inside tensor `output.weight`"]),
        ("beyond the file", with(norm(1, &[3], 0, 128)), vec![tensor, "truncated"]),
        ("beyond any file", with(norm(1, &[3], 0, u64::MAX - 31)), vec![tensor, "beyond any file"]),
        ("cut short", plain()[..plain().len() - 1].to_vec(), vec![tensor, "truncated"]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    for (what, bytes, words) in cases {
        fs::write(&path, &bytes).unwrap();
        let error = Gguf::open(&path).unwrap_err().to_string();
        assert!(error.contains("damaged.gguf"), "{what}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{what}: {error}");
    }
    for alignment in [0, 24] {
        let good = file(|metadata, _| metadata.set("general.alignment", 64_u32));
        let [from, to] = [64_u32, alignment].map(|number| {
            [sized("general.alignment"), 4_u32.to_le_bytes().to_vec(), number.to_le_bytes().to_vec()].concat()
        });
        let at = good.windows(from.len()).position(|window| window == from).unwrap();
        let bytes = [&good[..at], &to, &good[at + from.len()..]].concat();
        let error = read(&bytes).unwrap_err();
        assert!(matches!(&error, GgufError::Key { key, .. } if key == "general.alignment"), "{error}");
    }
}

#[test]
fn files_of_other_models_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.gguf");
    type Change = fn(&mut Metadata, &mut Vec<Planned>);
    let cases: [(Change, &str); 7] = [
        (|metadata, _| metadata.set("general.architecture", "mamba"), "`mamba`"),
        (|metadata, _| metadata.set("general.architecture", 3_u32), "`general.architecture`"),
        (|metadata, _| metadata.set("llama.attention.head_count", &[1, 2][..]), "`llama.attention.head_count`"),
        (|metadata, _| metadata.set("split.count", 3_u32), "3 shards"),
        (|_, tensors| tensors[1].name = "blk.0.ffn_gate_exps.weight".into(), "`blk.0.ffn_gate_exps.weight`"),
        (|_, tensors| tensors[1].name = "blk.0.attn_q.weight".into(), "2 heads"),
        (|_, tensors| tensors[0].shape = vec![64], "a matrix expected"),
    ];
    for (change, words) in cases {
        fs::write(&path, file(change)).unwrap();
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("other.gguf"), "{error}");
    }
    fs::write(&path, plain()).unwrap();
    assert_eq!(Folder::open(&path).unwrap().names(), ["lm_head.q8_0", "model.norm.weight"]);
    let error = Gguf::open(&path).unwrap().config().unwrap_err().to_string();
    assert!(error.contains("`llama.block_count` is missing"), "{error}");
    let error = Gguf::open(&path).unwrap().tokenizer().unwrap_err().to_string();
    assert!(error.contains("`tokenizer.ggml.tokens` is missing"), "{error}");
    // A scale that is not a number is found when the layer is read.
    let mut damaged = plain();
    let at = damaged.len() - 96 - 12 + 1;
    damaged[at] = 0xff;
    fs::write(&path, damaged).unwrap();
    let error = dialect::read(&Folder::open(&path).unwrap(), "lm_head").unwrap_err().to_string();
    assert!(error.contains("`lm_head.q8_0`") && error.contains("scales[0]"), "{error}");
}

#[test]
fn a_tokenizer_that_is_none_is_refused_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let cases: [(&str, Value); 7] = [
        ("tokenizer.ggml.model", Value::from(1_u32)),
        ("tokenizer.ggml.tokens", Value::from("a")),
        ("tokenizer.ggml.scores", Value::from(&[1.0_f32][..])),
        ("tokenizer.ggml.token_type", Value::from(&[1.0_f32, 1.0, 1.0][..])),
        ("tokenizer.ggml.bos_token_id", Value::from("a")),
        ("tokenizer.ggml.add_bos_token", Value::from(1_u32)),
        ("tokenizer.chat_template", Value::from(1_u32)),
    ];
    for (key, value) in cases {
        let bytes = file(|metadata, _| {
            tokenizer().write(metadata);
            metadata.set(key, value);
        });
        fs::write(&path, bytes).unwrap();
        let error = Gguf::open(&path).unwrap().tokenizer().unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")) && error.contains("m.gguf"), "{error}");
    }
}

/// Opens a file of any bytes and reads all that is in it; nothing panics, and whatever is read is finite.
fn exercise(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.gguf");
    fs::write(&path, bytes).unwrap();
    if let Ok(gguf) = Gguf::open(&path) {
        let _ = (gguf.config(), gguf.tokenizer());
    }
    let Ok(source) = Folder::open(&path) else { return };
    for layer in dialect::layers(&source) {
        if let Ok(Some(packed)) = dialect::read(&source, &layer) {
            assert!(packed.decode().into_iter().all(f32::is_finite), "{layer}");
        }
    }
    for name in source.names() {
        let _ = source.tensor(name).map(|view| view.to_finite_f32());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn changed_bytes_are_read_or_refused(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in 0..4_usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        write(&path, &config());
        let mut bytes = fs::read(&path).unwrap();
        // Two in three changes in the header, which is the smaller part.
        let head = bytes.len() / 20;
        for (at, (place, byte)) in changes.into_iter().enumerate() {
            let end = if at % 3 == 2 { bytes.len() } else { head };
            *place.get_mut(&mut bytes[..end]) = byte;
        }
        bytes.truncate(bytes.len() - cut * 7);
        exercise(&bytes);
    }

    #[test]
    fn any_bytes_after_the_magic_are_refused_or_read(bytes in vec(any::<u8>(), 0..200), counts in any::<bool>()) {
        let start: &[u8] = if counts { b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0" } else { b"GGUF\x03\0\0\0" };
        exercise(&[start, &bytes].concat());
    }
}
