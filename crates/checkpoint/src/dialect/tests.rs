use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use quench_format::bits;

use super::*;
use crate::native::NamedTensor;
use crate::testing::packed;

/// Tensors in memory, with a configuration.
struct Memory {
    tensors: BTreeMap<String, NamedTensor>,
    metadata: BTreeMap<String, String>,
    config: Option<Value>,
}

impl Memory {
    fn new(tensors: Vec<NamedTensor>) -> Self {
        let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self { tensors, metadata: BTreeMap::new(), config: None }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut NamedTensor)) {
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

/// What is written is read again as it was, in every dialect that takes it.
#[test]
fn matrices_come_back_as_they_were() {
    let mut written = 0;
    for dialect in [Dialect::Gptq, Dialect::Awq, Dialect::Compressed] {
        for code in ["int2", "int3", "int4", "int5", "int8", "uint2", "uint3", "uint4", "uint6", "uint8"] {
            for (group, columns) in [("row", 64), ("32", 96), ("32", 112), ("16", 128)] {
                for ordered in [false, true] {
                    let before = packed(&format!("{code}/{group}/f16"), [32, columns], ordered, 7);
                    // One group has no order to speak of.
                    let ordered = ordered && group != "row";
                    let Ok(tensors) = dialect.write("l", &before) else { continue };
                    let mut source = Memory::new(tensors);
                    source.config = Some(dialect.config(&before, &[]));
                    assert_eq!(Dialect::of(&source, "l"), Some(dialect), "{dialect} {code}/{group} {columns}");
                    assert_eq!(layers(&source), ["l"]);
                    let after = read(&source, "l").unwrap().unwrap();
                    let what = format!("{dialect} {code}/{group} [32, {columns}] ordered: {ordered}");
                    assert_eq!(after.decode(), before.decode(), "{what}");
                    assert_eq!(after.parts().order.is_some(), ordered, "{what}");
                    assert_eq!(after.scheme().group, before.scheme().group, "{what}");
                    written += 1;
                }
            }
        }
    }
    assert!(written > 100, "{written}");
}

#[test]
fn what_cannot_be_said_exactly_is_refused() {
    let cases = [
        (Dialect::Gptq, "nf4/row/f16", [32, 64], "not nf4"),
        (Dialect::Gptq, "int5/row/f16", [32, 64], "not int5"),
        (Dialect::Gptq, "int4/row/f32", [32, 64], "f16"),
        (Dialect::Gptq, "int4/row/f16", [32, 60], "60 inputs"),
        (Dialect::Gptq, "int4/row/f16", [30, 64], "30 outputs"),
        (Dialect::Gptq, "int4/32/int8/2:f16", [32, 64], "scales that are halves"),
        (Dialect::Gptq, "uint4/32/f16/min:f16", [32, 64], "no minimums"),
        (Dialect::Compressed, "uint4/32/f16/min:f16", [32, 64], "no minimums"),
        (Dialect::Awq, "int8/row/f16", [32, 64], "4 bits"),
        (Dialect::Awq, "int4/48/f16", [32, 64], "full groups"),
        (Dialect::Compressed, "e2m1/row/f16", [32, 64], "not e2m1"),
    ];
    for (dialect, scheme, shape, words) in cases {
        let refused = dialect.write("l", &packed(scheme, shape, false, 1)).unwrap_err().to_string();
        assert!(refused.contains(words) && refused.starts_with(&dialect.to_string()), "{refused}");
    }
    let ordered = Dialect::Awq.write("l", &packed("int4/16/f16", [32, 64], true, 1)).unwrap_err();
    assert!(ordered.to_string().contains("order"), "{ordered}");
}

/// Both versions of a symmetric layer are told by their zero points, whatever the file says of itself.
#[test]
fn the_version_of_a_symmetric_layer_is_in_its_zeros() {
    for code in ["int2", "int4", "int8", "int3"] {
        let before = packed(&format!("{code}/32/f16"), [32, 64], false, 3);
        let mut source = Memory::new(gptq::tensors("l", &before).unwrap());
        let width = before.scheme().code.bits();
        for label in [None, Some("gptq"), Some("gptq_v2")] {
            source.config = label.map(|label| json!({ "checkpoint_format": label }));
            assert_eq!(gptq::read(&source, "l").unwrap(), before, "{code} {label:?}");
        }
        let second = bits::pack(&[1 << (width - 1); 2 * 32], 32, width);
        source.change("l.qzeros", |zeros| zeros.bytes = word_bytes(second.clone()));
        for label in [None, Some("gptq"), Some("gptq_v2")] {
            source.config = label.map(|label| json!({ "checkpoint_format": label }));
            assert_eq!(gptq::read(&source, "l").unwrap(), before, "{code} {label:?}");
        }
    }
}

/// Without a symmetric pattern the label decides, and version 1 borrows over the fields of a word.
#[test]
fn zeros_of_version_1_are_one_less_in_whole_words() {
    let mut zeros = vec![8u16; 32];
    (zeros[0], zeros[5], zeros[31]) = (0, 15, 3);
    let codes: Vec<u16> = (0..32 * 32).map(|i| i as u16 % 16).collect();
    let scheme = "uint4/row/f16".parse().unwrap();
    let before =
        Packed::from_codes(scheme, [32, 32], &codes, Scales::Float(vec![0.5; 32]), Some(zeros.clone()), None).unwrap();
    let mut source = Memory::new(gptq::tensors("l", &before).unwrap());
    let words = bits::pack(&zeros, 32, 4);
    assert_eq!(words[0], 0x88f8_8880);
    assert_eq!(source.tensors["l.qzeros"].bytes, word_bytes(words.clone()), "version 2 is written");
    assert_eq!(Dialect::Gptq.config(&before, &[])["checkpoint_format"], "gptq_v2");
    source.config = Some(json!({ "checkpoint_format": "gptq_v2" }));
    assert_eq!(gptq::read(&source, "l").unwrap(), before);
    source.config = Some(json!({ "checkpoint_format": "gptq" }));
    let first: Vec<u32> = words.iter().map(|word| word.wrapping_sub(0x1111_1111)).collect();
    source.change("l.qzeros", |tensor| tensor.bytes = word_bytes(first));
    assert_eq!(gptq::read(&source, "l").unwrap(), before);
}

/// A word of AWQ by hand: nibbles from the lowest are outputs 0, 2, 4, 6, 1, 3, 5, 7.
#[test]
fn nibbles_of_awq_are_interleaved() {
    let tensor =
        |name: &str, dtype, shape: Vec<usize>, bytes| NamedTensor { name: format!("l.{name}"), dtype, shape, bytes };
    let scales: Vec<u8> = (0..8).flat_map(|_| half::f16::ONE.to_le_bytes()).collect();
    let source = Memory::new(vec![
        tensor("qweight", Dtype::I32, vec![1, 1], word_bytes([0x7531_6420])),
        tensor("qzeros", Dtype::I32, vec![1, 1], word_bytes([0])),
        tensor("scales", Dtype::F16, vec![1, 8], scales),
    ]);
    assert_eq!(read(&source, "l").unwrap().unwrap().decode(), [0., 1., 2., 3., 4., 5., 6., 7.]);
}

/// Words with padding, as compressed-tensors wrote 3, 5, 6 and 7 bits until May 2026.
#[test]
fn both_packings_of_compressed_tensors_are_read() {
    for width in [2u32, 3, 4, 5, 6, 7, 8] {
        let before = packed(&format!("int{width}/16/f16"), [4, 96], false, 5);
        let mut source = Memory::new(compressed::tensors("l", &before).unwrap());
        // Without it, 24 words of 96 codes could have 7 bits or 8.
        source.config = Some(compressed::config(&before, &[]));
        assert_eq!(read(&source, "l").unwrap().unwrap(), before, "{width} bits, dense");
        let fields = (32 / width) as usize;
        let words: Vec<u32> = (before.codes().chunks(96))
            .flat_map(|row| row.chunks(fields))
            .map(|codes| codes.iter().rev().fold(0, |word, &code| word << width | u32::from(code)))
            .collect();
        source.change("l.weight_packed", |tensor| {
            tensor.shape = vec![4, words.len() / 4];
            tensor.bytes = word_bytes(words);
        });
        assert_eq!(read(&source, "l").unwrap().unwrap(), before, "{width} bits, whole");
    }
}

#[test]
fn damaged_layers_are_one_error_that_names_the_tensor() {
    type Change = fn(&mut NamedTensor);
    let short: Change = |tensor| {
        tensor.shape[0] -= 1;
        tensor.bytes.truncate(tensor.shape.iter().product::<usize>() * 4);
    };
    let cases: [(Dialect, &str, Change, &str); 6] = [
        (Dialect::Gptq, "g_idx", short, "[64]"),
        (Dialect::Gptq, "g_idx", |tensor| tensor.bytes[0] = 9, "group 9"),
        (Dialect::Gptq, "g_idx", |tensor| tensor.bytes[0] = 1, "one size"),
        (Dialect::Gptq, "qzeros", |tensor| (tensor.shape, tensor.bytes) = (vec![2, 3], vec![0; 24]), "3 words"),
        (Dialect::Awq, "scales", |tensor| tensor.dtype = Dtype::I16, "F16"),
        (Dialect::Compressed, "weight_shape", |tensor| tensor.bytes = vec![255; 16], "two extents"),
    ];
    for (dialect, suffix, change, words) in cases {
        let before = packed("uint4/32/f16", [32, 64], false, 2);
        let mut source = Memory::new(dialect.write("l", &before).unwrap());
        source.change(&format!("l.{suffix}"), change);
        let message = read(&source, "l").unwrap_err().to_string();
        assert!(message.contains(&format!("l.{suffix}")) && message.contains(words), "{dialect}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever shapes and types the tensors of a layer have, it is read or refused.
    #[test]
    fn strange_layers_are_read_or_refused(
        dialect in select(vec![Dialect::Gptq, Dialect::Awq, Dialect::Compressed]),
        at in 0usize..5,
        shape in proptest::collection::vec(0usize..70, 0..4),
        dtype in select(vec![Dtype::I32, Dtype::F16, Dtype::F32, Dtype::I64]),
        fill in any::<u8>(),
        drop in any::<bool>(),
    ) {
        let before = packed("uint4/32/f16", [32, 64], dialect != Dialect::Awq, 2);
        let mut tensors = dialect.write("l", &before).unwrap();
        let at = at % tensors.len();
        let count: usize = shape.iter().product();
        tensors[at].bytes = vec![fill; count * dtype.bitsize() / 8];
        (tensors[at].shape, tensors[at].dtype) = (shape, dtype);
        if drop {
            tensors.remove(at);
        }
        let source = Memory::new(tensors);
        if let Ok(Some(packed)) = read(&source, "l") {
            prop_assert!(packed.decode().iter().all(|weight| weight.is_finite()));
        }
    }
}
