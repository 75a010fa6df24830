//! Files made to break the reader. Whatever a file holds, it is read or refused; nothing panics.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use quench_format::Scheme;
use safetensors::Dtype;

use crate::native::{self, NamedTensor};
use crate::testing::{forge, packed};
use crate::{Folder, INDEX, Layer, Source, WEIGHTS, Writer};

/// Everything that a reader may do to a checkpoint, with every result ignored.
pub fn exercise(folder: &Path) {
    let Ok(source) = Folder::open(folder) else { return };
    for name in source.names() {
        assert!(source.info(name).is_some());
        if let Ok(view) = source.tensor(name) {
            assert_eq!(source.info(name).unwrap().dtype, view.dtype());
            let _ = view.to_finite_f32();
        }
    }
    let mut writer = Writer::create(folder, u64::MAX).unwrap();
    for layer in source.manifest().layers.keys() {
        if let Ok(Some(packed)) = native::read(&source, layer) {
            assert!(packed.decode().iter().all(|weight| weight.is_finite()), "{layer}");
            writer.copy_packed(&source, layer).unwrap();
        } else {
            let _ = writer.copy_packed(&source, layer);
        }
    }
}

fn exercise_bytes(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
    exercise(folder.path());
}

/// A small checkpoint with a packed layer of every piece, and dense tensors.
fn good() -> Vec<u8> {
    let packed = [packed("uint3/7/uint5/2:f16", [3, 20], true, 1), packed("trellis2:9/2/f16", [6, 3], true, 2)];
    let layer = |at: usize| Layer { scheme: packed[at].scheme(), shape: packed[at].shape() };
    let mut tensors = native::tensors("l", &packed[0]);
    tensors.extend(native::tensors("m", &packed[1]));
    for (name, dtype) in [("a", Dtype::F32), ("b", Dtype::BF16), ("c", Dtype::F16)] {
        let bytes = vec![0x3c; 3 * dtype.bitsize() / 8];
        tensors.push(NamedTensor { name: name.into(), dtype, shape: vec![3], bytes });
    }
    forge(&[("l", layer(0)), ("m", layer(1))], &tensors)
}

/// One change to a string of bytes.
#[derive(Clone, Debug)]
pub enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Cut(Index),
    Repeat(Index, usize),
}

pub fn change() -> impl Strategy<Value = Change> {
    // Bytes that mean something in JSON are worth more than others.
    let byte = || prop_oneof![any::<u8>(), select(b"{}[]\",:0123456789-\\eu \n".to_vec())];
    let at = any::<Index>;
    prop_oneof![
        (at(), byte()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), vec(byte(), 1..20)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1..40_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        at().prop_map(Change::Cut),
        (at(), 1..200_usize).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

pub fn apply(bytes: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        if bytes.is_empty() {
            return;
        }
        match change {
            Change::Set(at, byte) => *at.get_mut(bytes) = *byte,
            Change::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
            Change::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(at, count) => {
                let at = at.index(bytes.len());
                bytes.drain(at..bytes.len().min(at + count));
            }
            Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Change::Repeat(at, count) => {
                let at = at.index(bytes.len());
                let part = bytes[at..bytes.len().min(at + count)].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![0..5_usize, select(vec![20, 33, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 40, usize::MAX / 2, usize::MAX])]
}

fn scheme() -> impl Strategy<Value = Scheme> {
    let codes = ["int1", "int4", "uint3", "uint16", "slog5:mu8", "nf4", "e2m1", "e4m3", "trellis1:8", "trellis3:16"];
    let groups = ["tensor", "row", "1", "7", "4294967295"];
    let scales = [
        "f32",
        "f16",
        "bf16",
        "e8m0",
        "int8/tensor:f32",
        "uint5/2:f16",
        "e4m3/row:bf16",
        "nf4/4294967295:f32",
        "f16/min:f16",
    ];
    let spelling = (select(codes.to_vec()), select(groups.to_vec()), select(scales.to_vec()));
    spelling.prop_map(|(code, group, scale)| format!("{code}/{group}/{scale}").parse().unwrap())
}

fn tensor(name: &'static str) -> impl Strategy<Value = Option<NamedTensor>> {
    let dtypes = vec![Dtype::I32, Dtype::I32, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::U8];
    let shapes = prop_oneof![vec(0..8_usize, 0..4), select(vec![vec![3, 2], vec![3, 1], vec![1, 1], vec![20]])];
    let tensor = (select(dtypes), shapes, vec(any::<u8>(), 64)).prop_map(move |(dtype, shape, seed)| {
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        NamedTensor { name: name.into(), dtype, shape, bytes: seed.into_iter().cycle().take(len).collect() }
    });
    proptest::option::weighted(0.9, tensor)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..300)) {
        exercise_bytes(&bytes);
    }

    #[test]
    fn random_text_under_a_right_length(text in "\\PC{0,200}", data in vec(any::<u8>(), 0..20)) {
        exercise_bytes(&[&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &data].concat());
    }

    #[test]
    fn a_good_file_changed_anywhere(changes in vec(change(), 1..6)) {
        let mut bytes = good();
        apply(&mut bytes, &changes);
        exercise_bytes(&bytes);
    }

    #[test]
    fn a_good_file_with_its_header_changed_and_the_length_put_right(changes in vec(change(), 1..6)) {
        let bytes = good();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = bytes[8..end].to_vec();
        apply(&mut header, &changes);
        exercise_bytes(&[&(header.len() as u64).to_le_bytes()[..], &header, &bytes[end..]].concat());
    }

    #[test]
    fn right_checksums_over_parts_that_do_not_fit(
        scheme in scheme(),
        shape in prop_oneof![[extent(), extent()], Just([3, 20])],
        codes in tensor("l.qweight"),
        scales in tensor("l.scales"),
        outer in tensor("l.outer_scales"),
        zeros in tensor("l.qzeros"),
        order in tensor("l.order"),
    ) {
        let tensors: Vec<_> = [codes, scales, outer, zeros, order].into_iter().flatten().collect();
        exercise_bytes(&forge(&[("l", Layer { scheme, shape })], &tensors));
    }

    #[test]
    fn right_tensors_with_other_numbers_in_them(tensor in 0..5_usize, changes in vec((any::<Index>(), any::<u8>()), 1..4)) {
        let packed = packed("uint3/7/uint5/2:f16", [3, 20], true, 1);
        let layer = Layer { scheme: packed.scheme(), shape: packed.shape() };
        let mut tensors = native::tensors("l", &packed);
        for (at, byte) in changes {
            *at.get_mut(&mut tensors[tensor].bytes) = byte;
        }
        exercise_bytes(&forge(&[("l", layer)], &tensors));
    }

    #[test]
    fn right_strings_with_other_numbers_in_them(tensor in 0..3_usize, changes in vec((any::<Index>(), any::<u8>()), 1..4)) {
        let packed = packed("trellis3:11/2/f16", [300, 3], true, 1);
        let layer = Layer { scheme: packed.scheme(), shape: packed.shape() };
        let mut tensors = native::tensors("l", &packed);
        for (at, byte) in changes {
            *at.get_mut(&mut tensors[tensor].bytes) = byte;
        }
        exercise_bytes(&forge(&[("l", layer)], &tensors));
    }

    #[test]
    fn a_changed_index(changes in vec(change(), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let mut index = br#"{"metadata":{"total_size":0},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#.to_vec();
        apply(&mut index, &changes);
        fs::write(folder.path().join(INDEX), index).unwrap();
        for (file, tensor) in [("one.safetensors", "a"), ("two.safetensors", "b")] {
            let tensor = NamedTensor { name: tensor.into(), dtype: Dtype::U8, shape: vec![1], bytes: vec![0] };
            fs::write(folder.path().join(file), forge(&[], &[tensor])).unwrap();
        }
        exercise(folder.path());
    }
}
