//! Files made to break the reader. Whatever a file holds, it is read or refused; nothing panics.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use safetensors::Dtype;

use super::tests::forge;
use super::{HEAD_BYTES, LSQ_WEIGHTS};
use crate::Writer;
use crate::attacks::{apply, change, exercise};
use crate::manifest::Sha256Sum;
use crate::testing::packed;

fn exercise_bytes(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(LSQ_WEIGHTS), bytes).unwrap();
    exercise(folder.path());
}

/// A small file with a packed layer of every part, and dense tensors.
fn good() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(LSQ_WEIGHTS);
    let mut writer = Writer::lsq(&file);
    writer.packed("l", packed("uint3/7/uint5/2:f16", [3, 20], true, 1)).unwrap();
    writer.packed("m", packed("slog5:mu8/row/f16", [2, 9], false, 2)).unwrap();
    writer.packed("n", packed("trellis3:8/row/f16", [259, 2], true, 3)).unwrap();
    writer.add("a", Dtype::F32, [2], vec![0x3c; 8]).unwrap();
    writer.add("b", Dtype::I64, [1], vec![1; 8]).unwrap();
    writer.metadata("quench.gates", "passed");
    writer.finish().unwrap();
    fs::read(file).unwrap()
}

/// The JSON and the data of a good file.
fn halves() -> (String, Vec<u8>) {
    let bytes = good();
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let data = (HEAD_BYTES + length) as usize;
    (String::from_utf8(bytes[HEAD_BYTES as usize..data].to_vec()).unwrap(), bytes[data..].to_vec())
}

/// A number that a header may hold, of which some are traps.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..70_u64, select(vec![255, 1 << 16, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 40, u64::MAX])]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..300)) {
        exercise_bytes(&bytes);
    }

    #[test]
    fn random_text_under_a_right_head(text in "\\PC{0,200}", data in vec(any::<u8>(), 0..20)) {
        exercise_bytes(&forge(&text, &data));
    }

    #[test]
    fn a_good_file_changed_anywhere(changes in vec(change(), 1..6)) {
        let mut bytes = good();
        apply(&mut bytes, &changes);
        exercise_bytes(&bytes);
    }

    #[test]
    fn a_good_file_with_its_header_changed_and_summed_again(changes in vec(change(), 1..4)) {
        let (json, data) = halves();
        let mut json = json.into_bytes();
        apply(&mut json, &changes);
        exercise_bytes(&forge(&String::from_utf8_lossy(&json), &data));
    }

    #[test]
    fn right_checksums_over_numbers_that_do_not_fit(
        scheme in select(vec!["int1", "int4", "uint3", "uint16", "slog5:mu8", "int17", "nf4", "trellis2:8", "trellis4:16"]),
        group in select(vec!["tensor", "row", "1", "7", "4294967295"]),
        scale in select(vec!["f32", "f16", "int8/tensor:f32", "uint5/2:f16", "nf4/4294967295:f32"]),
        shape in (number(), number()),
        cuts in vec(number(), 4),
        parts in select(vec![&["qweight", "scales"][..], &["qweight", "scales", "outer_scales"], &["qweight", "scales", "qzeros", "order"]]),
        data in vec(any::<u8>(), 64),
    ) {
        let mut begin = 0;
        let spelled: Vec<String> = parts.iter().zip(cuts).map(|(part, cut)| {
            let end = begin + cut % 1_000_000;
            let held = data.get(begin as usize..end as usize).unwrap_or_default();
            let entry = format!(r#"{{"part":"{part}","bytes":[{begin},{end}],"sha256":"{}"}}"#, Sha256Sum::of(held));
            begin = end;
            entry
        }).collect();
        let (rows, columns) = shape;
        let json = format!(
            r#"{{"metadata":{{}},"tensors":[],"layers":[{{"name":"l","scheme":"{scheme}/{group}/{scale}","shape":[{rows},{columns}],"parts":[{}]}}]}}"#,
            spelled.join(",")
        );
        exercise_bytes(&forge(&json, &data[..data.len().min(begin as usize)]));
    }

    #[test]
    fn right_checksums_over_other_bytes(at in any::<prop::sample::Index>(), byte: u8) {
        let (json, mut data) = halves();
        let before = data.clone();
        *at.get_mut(&mut data) = byte;
        // Every part that changed is summed again, so that its values are looked at.
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let mut json = json;
        let layers = value["layers"].as_array().unwrap().iter().map(|layer| &layer["parts"]);
        let lists: Vec<_> = layers.chain([&value["tensors"]]).collect();
        for part in lists.into_iter().flat_map(|list| list.as_array().unwrap()) {
            let place = |at: usize| part["bytes"][at].as_u64().unwrap() as usize;
            let range = place(0)..place(1);
            let (old, new) = (Sha256Sum::of(&before[range.clone()]), Sha256Sum::of(&data[range]));
            json = json.replace(&old.to_string(), &new.to_string());
        }
        exercise_bytes(&forge(&json, &data));
    }
}
