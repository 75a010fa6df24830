use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use quench_format::{Scales, Scheme};

use super::*;
use crate::attacks::{apply, change, exercise};
use crate::native::NamedTensor;
use crate::testing::{Random, forge, forge_coded, packed};
use crate::{Folder, Source, WEIGHTS, Writer};

/// A matrix of low entropy: each code is the least of three.
fn skewed(scheme: &str, shape: [usize; 2], seed: u64) -> Packed {
    let scheme: Scheme = scheme.parse().unwrap();
    let mut random = Random(seed);
    let code = |_| (0..3).map(|_| random.below(scheme.code.len()) as u16).min().unwrap();
    let codes: Vec<u16> = (0..shape[0] * shape[1]).map(code).collect();
    let [rows, groups] = scheme.group.scale_shape(shape);
    let zeros = scheme.has_zeros().then(|| vec![1; rows * groups]);
    Packed::from_codes(scheme, shape, &codes, Scales::Float(vec![0.5; rows * groups]), zeros, None).unwrap()
}

/// Layers that have streams, and some that keep their words.
fn layers() -> Vec<(&'static str, Packed, bool)> {
    vec![
        ("a", skewed("int4/128/f16", [300, 333], 1), true),
        ("b", skewed("uint3/7/f16", [40, 50], 2), true),
        ("c", skewed("int8/row/f32", [128, 256], 3), true),
        // Evenly distributed codes are no shorter, nor are a few with a table.
        ("d", packed("nf4/32/f16", [64, 64], true, 4), false),
        ("e", skewed("int8/row/f32", [2, 5], 5), false),
        ("f", skewed("int12/row/f32", [64, 64], 6), false),
        ("g", packed("trellis2:9/2/f16", [60, 30], true, 7), false),
    ]
}

fn check(source: &Folder, coding: Coding) {
    for (layer, packed, short) in layers() {
        let codes = Piece::Codes.name(layer);
        assert_eq!(source.manifest().coded.contains(&codes), short && coding == Coding::Entropy, "{layer}");
        assert_eq!(native::read(source, layer).unwrap().as_ref(), Some(&packed), "{layer}");
        let bytes: u64 =
            native::names(source, layer).unwrap().unwrap().iter().flat_map(|name| source.stored_bytes(name)).sum();
        let plain = if source.is_lsq() { crate::lsq::packed_bytes(&packed) } else { packed.storage_bits() / 8 };
        match shorter_len(&packed).filter(|_| coding == Coding::Entropy) {
            Some(stream) => {
                assert_eq!(source.stored_bytes(&codes), Some(stream as u64));
                assert_eq!(source.stream(&codes).unwrap().unwrap().bytes(), rans::encode_packed(&packed).unwrap());
                assert!(bytes < plain, "{layer}: {bytes} bytes, {plain} without");
            }
            None => assert!(bytes >= plain && source.stream(&codes).unwrap().is_none(), "{layer}: {bytes}, {plain}"),
        }
    }
    source.verify().unwrap();
}

#[test]
fn layers_come_back_from_either_container_and_every_way_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut writer = Writer::safetensors(path("words.safetensors"));
    layers().into_iter().for_each(|(layer, packed, _)| writer.packed(layer, packed).unwrap());
    writer.finish().unwrap();
    let words = Folder::open(path("words.safetensors")).unwrap();
    check(&words, Coding::Words);

    let mut writer = Writer::safetensors(path("made.safetensors")).with_coding(Coding::Entropy);
    layers().into_iter().for_each(|(layer, packed, _)| writer.packed(layer, packed).unwrap());
    let written = writer.finish().unwrap();
    let made = Folder::open(path("made.safetensors")).unwrap();
    check(&made, Coding::Entropy);
    assert_eq!(written.tensor_bytes, made.names().iter().filter_map(|name| made.stored_bytes(name)).sum::<u64>());

    let copy = |from: &Folder, name: &str, coding| {
        let writer = if name.ends_with("lsq") { Writer::lsq(path(name)) } else { Writer::safetensors(path(name)) };
        let mut writer = writer.with_coding(coding);
        layers().iter().for_each(|(layer, ..)| writer.copy_packed(from, layer).unwrap());
        writer.finish().unwrap();
        let copy = Folder::open(path(name)).unwrap();
        check(&copy, coding);
        copy
    };
    let bytes = |name: &str| fs::read(path(name)).unwrap();
    let lsq = copy(&words, "a.lsq", Coding::Entropy);
    copy(&lsq, "b.safetensors", Coding::Entropy);
    assert_eq!(bytes("b.safetensors"), bytes("made.safetensors"));
    copy(&made, "b.lsq", Coding::Entropy);
    assert_eq!(bytes("b.lsq"), bytes("a.lsq"));
    copy(&lsq, "c.safetensors", Coding::Words);
    assert_eq!(bytes("c.safetensors"), bytes("words.safetensors"));
    copy(&made, "c.lsq", Coding::Words);
    copy(&words, "d.lsq", Coding::Words);
    assert_eq!(bytes("c.lsq"), bytes("d.lsq"));
}

#[test]
fn a_file_says_its_version_and_only_one_with_streams_is_of_the_second() {
    let folder = tempfile::tempdir().unwrap();
    for (coding, manifest, lsq) in
        [(Coding::Words, "{\\\"version\\\":1,", 1), (Coding::Entropy, "{\\\"version\\\":2,", 2)]
    {
        let file = folder.path().join(WEIGHTS);
        let mut writer = Writer::safetensors(&file).with_coding(coding);
        writer.packed("a", skewed("int4/row/f16", [64, 64], 1)).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        assert!(text.contains(manifest), "{text}");
        let file = folder.path().join("model.lsq");
        let mut writer = Writer::lsq(&file).with_coding(coding);
        writer.packed("a", skewed("int4/row/f16", [64, 64], 1)).unwrap();
        writer.finish().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        assert_eq!(bytes[8..12], u32::to_le_bytes(lsq));
        // The other version is not that of what the file holds.
        bytes[8] = 3 - bytes[8];
        fs::write(&file, bytes).unwrap();
        let error = Folder::open_file(&file).unwrap_err().to_string();
        assert!(error.contains("version"), "{error}");
    }
}

/// A layer `l` and its tensors, the codes as a stream.
fn streamed() -> (Packed, Layer, Vec<NamedTensor>) {
    let packed = skewed("int4/row/f32", [40, 50], 1);
    let layer = Layer { scheme: packed.scheme(), shape: packed.shape() };
    let mut tensors = native::tensors("l", &packed);
    let stream = rans::encode_packed(&packed).unwrap();
    tensors[0] = NamedTensor { name: "l.qweight".into(), dtype: Dtype::U8, shape: vec![stream.len()], bytes: stream };
    (packed, layer, tensors)
}

fn read(bytes: &[u8]) -> Result<Option<Packed>, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
    exercise(folder.path());
    native::read(&Folder::open(folder.path())?, "l")
}

#[test]
fn what_contradicts_itself_is_refused_with_the_tensors_name() {
    let (packed, layer, tensors) = streamed();
    let coded = ["l.qweight"];
    assert_eq!(read(&forge_coded(&[("l", layer.clone())], &coded, &tensors)).unwrap(), Some(packed.clone()));
    type Change = fn(&mut Layer, &mut Vec<NamedTensor>);
    let cases: [(&str, &[&str], Change); 9] = [
        ("`l.scales` is said to be", &["l.scales"], |_, _| {}),
        ("`m.qweight` is said to be", &["m.qweight"], |_, _| {}),
        ("1 to 8 bits", &coded, |layer, _| layer.scheme = "int9/row/f32".parse().unwrap()),
        ("1 to 8 bits", &coded, |layer, _| layer.shape = [usize::MAX, 2]),
        ("no tensor `l.qweight`", &coded, |_, tensors| drop(tensors.remove(0))),
        ("type I8, expected U8", &coded, |_, tensors| tensors[0].dtype = Dtype::I8),
        ("expected [", &coded, |_, tensors| tensors[0].shape.push(1)),
        ("20 bytes, at least", &coded, |_, tensors| {
            tensors[0].shape = vec![20];
            tensors[0].bytes.truncate(20);
        }),
        // As many weights as no stream of this length has, and a shape that would take 2^62 bytes.
        ("at least", &coded, |layer, tensors| {
            layer.shape = [1 << 31, 1 << 31];
            tensors[1].shape = vec![1 << 31, 1];
            tensors[1].bytes.clear();
            tensors[1].shape[0] = 0;
        }),
    ];
    for (what, coded, change) in cases {
        let (mut layer, mut tensors) = (layer.clone(), tensors.clone());
        change(&mut layer, &mut tensors);
        let bytes = forge_coded(&[("l", layer)], coded, &tensors);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
        let error = Folder::open(folder.path()).and_then(|source| source.tensor("l.qweight").map(drop)).unwrap_err();
        assert!(
            error.to_string().contains(what) && error.to_string().contains(folder.path().to_str().unwrap()),
            "{what}: {error}"
        );
    }
    // A stream without a word about it is a tensor of another type.
    let error = read(&forge(&[("l", layer)], &tensors)).unwrap_err().to_string();
    assert!(error.contains("type U8, expected I32"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn well_sealed_streams_with_other_numbers_in_them(changes in vec((any::<Index>(), any::<u8>()), 1..4), cut in 0..3_usize) {
        let (_, layer, mut tensors) = streamed();
        let stream = &mut tensors[0].bytes;
        changes.iter().for_each(|(at, byte)| *at.get_mut(stream) = *byte);
        stream.truncate(stream.len() - cut);
        tensors[0].shape = vec![stream.len()];
        if let Ok(Some(packed)) = read(&forge_coded(&[("l", layer.clone())], &["l.qweight"], &tensors)) {
            prop_assert!(packed.shape() == layer.shape && packed.decode().iter().all(|weight| weight.is_finite()));
        }
    }

    #[test]
    fn a_coded_file_changed_anywhere(changes in vec(change(), 1..5), lsq in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(if lsq { "model.lsq" } else { WEIGHTS });
        let writer = if lsq { Writer::lsq(&file) } else { Writer::safetensors(&file) };
        let mut writer = writer.with_coding(Coding::Entropy);
        writer.packed("l", skewed("int4/row/f32", [40, 50], 1)).unwrap();
        writer.finish().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        apply(&mut bytes, &changes);
        fs::write(&file, bytes).unwrap();
        exercise(folder.path());
    }
}
