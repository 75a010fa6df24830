use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use quench_format::{Code, Minifloat, bits};

use super::memory::Memory;
use super::*;
use crate::native::NamedTensor;
use crate::testing::packed;

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
    assert!(written > 90, "{written}");
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
        (Dialect::Compressed, "e2m1/row/f16", [32, 64], "e2m1/16/e4m3/tensor:f32"),
        (Dialect::Compressed, "e2m1/32/e4m3/tensor:f32", [32, 64], "groups of 16"),
        (Dialect::Compressed, "e2m1/32/e8m0", [32, 48], "full groups of 32"),
        (Dialect::Compressed, "e2m1/row/e8m0", [32, 64], "groups of 32"),
        (Dialect::Compressed, "e4m3/32/e8m0", [32, 64], "float scales"),
        (Dialect::Compressed, "e4m3/32/f16", [32, 48], "full groups"),
        (Dialect::Compressed, "e4m3/32/f16/min:f16", [32, 64], "minimums"),
        (Dialect::Compressed, "nf4/32/f16", [32, 64], "not nf4"),
        (Dialect::Bitsandbytes, "nf4/64/f32", [32, 64], "only read"),
    ];
    for (dialect, scheme, shape, words) in cases {
        let refused = dialect.write("l", &packed(scheme, shape, false, 1)).unwrap_err().to_string();
        assert!(refused.contains(words) && refused.starts_with(&dialect.to_string()), "{refused}");
    }
    let ordered = Dialect::Compressed.write("l", &packed("e2m1/32/e8m0", [32, 64], true, 1)).unwrap_err();
    assert!(ordered.to_string().contains("order"), "{ordered}");
    let ordered = Dialect::Awq.write("l", &packed("int4/16/f16", [32, 64], true, 1)).unwrap_err();
    assert!(ordered.to_string().contains("order"), "{ordered}");
}

/// An order of columns within groups is none to a file, and one across groups is refused where readers do not know of it; files that
/// older tools wrote are read.
#[test]
fn an_order_of_columns_is_written_where_it_is_read() {
    let scheme = "int4/16/f16".parse().unwrap();
    let codes: Vec<u16> = (0..8 * 64).map(|i| (i * 7 % 16) as u16).collect();
    let scales: Vec<f32> = (0..8 * 4).map(|i| 0.5 + i as f32).collect();
    let within: Vec<u32> = (0..64).map(|at| at ^ 5).collect();
    let across: Vec<u32> = (0..64).map(|at| at * 5 % 64).collect();
    let of = |order: &[u32]| {
        Packed::from_codes(scheme, [8, 64], &codes, Scales::Float(scales.clone()), None, Some(order.to_vec())).unwrap()
    };
    for dialect in [Dialect::Gptq, Dialect::Awq, Dialect::Compressed] {
        let source = Memory::new(dialect.write("l", &of(&within)).unwrap());
        let after = read(&source, "l").unwrap().unwrap();
        assert_eq!((after.decode(), after.parts().order.is_none()), (of(&within).decode(), true), "{dialect}");
    }
    for dialect in [Dialect::Awq, Dialect::Compressed] {
        let refused = dialect.write("l", &of(&across)).unwrap_err().to_string();
        assert!(refused.contains("no order of columns"), "{refused}");
    }
    let source = Memory::new(of_older_tools(&of(&across)));
    assert_eq!(read(&source, "l").unwrap().unwrap().decode(), of(&across).decode());
}

/// What compressed-tensors 0.18 wrote of a matrix with an order: codes in the columns' own order, and the group of each column.
fn of_older_tools(packed: &Packed) -> Vec<NamedTensor> {
    let (codes, members) = natural(packed);
    let (parts, [rows, columns]) = (packed.parts().clone(), packed.shape());
    let plain =
        Packed::from_codes(packed.scheme(), [rows, columns], &codes, parts.scales, parts.offsets, None).unwrap();
    let mut tensors = Dialect::Compressed.write("l", &plain).unwrap();
    let (name, bytes) = ("l.weight_g_idx".to_owned(), word_bytes(members.unwrap()));
    tensors.push(NamedTensor { name, dtype: Dtype::I32, shape: vec![columns], bytes });
    tensors
}

/// The grid of most layers is the rule, and the others are named: in the words that each tool has for it.
#[test]
fn a_configuration_names_what_is_not_like_the_others() {
    let grid = |scheme: &str| Grid { scheme: scheme.parse().unwrap(), ordered: false };
    let (most, other) = (grid("int4/128/f16"), grid("int8/32/f16"));
    let layers = [("m.0.up", other), ("m.0.down", most), ("m.1.down", most), ("m.1.up", other), ("m.2.down", most)];
    let gptq = Dialect::Gptq.config_of(&layers, &[]).unwrap();
    assert_eq!((&gptq["bits"], &gptq["group_size"], &gptq["sym"]), (&4.into(), &128.into(), &true.into()));
    let named = json!({ "bits": 8, "group_size": 32, "sym": true, "desc_act": false });
    assert_eq!(gptq["dynamic"], json!({ "+:m\\.0\\.up$": named, "+:m\\.1\\.up$": named }));
    let compressed = Dialect::Compressed.config_of(&layers, &["head".to_owned()]).unwrap();
    let groups = &compressed["config_groups"];
    assert_eq!((&compressed["format"], &compressed["ignore"]), (&"pack-quantized".into(), &json!(["head"])));
    assert_eq!(
        (&groups["group_0"]["targets"], &groups["group_0"]["weights"]["num_bits"]),
        (&json!(["Linear"]), &4.into())
    );
    let (targets, bits) = (&groups["group_1"]["targets"], &groups["group_1"]["weights"]["num_bits"]);
    assert_eq!((targets, bits), (&json!(["m.0.up", "m.1.up"]), &8.into()));
    let mixed = [("a", most), ("b", grid("e2m1/32/e8m0"))];
    assert_eq!(Dialect::Compressed.config_of(&mixed, &[]).unwrap()["format"], "mixed-precision");

    let refused = |dialect: Dialect, layers: &[(&str, Grid)]| dialect.config_of(layers, &[]).unwrap_err().to_string();
    let zeros = refused(Dialect::Gptq, &[("a", most), ("b", grid("uint4/128/f16"))]);
    assert!(zeros.contains("b has zero points"), "{zeros}");
    let sizes = refused(Dialect::Awq, &[("a", most), ("b", grid("int4/64/f16"))]);
    assert!(sizes.contains("b has 64 where others have 128"), "{sizes}");
    let with_head = Dialect::Gptq.config_of(&[("a", most), ("lm_head", most)], &[]).unwrap();
    assert_eq!((&gptq["lm_head"], &with_head["lm_head"]), (&false.into(), &true.into()));
    // One grid is the configuration that there was.
    for dialect in [Dialect::Gptq, Dialect::Awq, Dialect::Compressed] {
        assert_eq!(dialect.config_of(&[("a", most), ("b", most)], &[]), Ok(dialect.config(most, &[])));
    }
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
        source.config = Some(Dialect::Compressed.config(&before, &[]));
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

/// A matrix whose codes and scale codes of E4M3 are numbers, and whose outer scale is the reciprocal of one.
fn of_numbers(scheme: &str, shape: [usize; 2], seed: u64) -> Packed {
    let packed = packed(scheme, shape, false, seed);
    let numbers = |codes: Vec<u16>, code: Code| match code.bits() {
        8 => codes.into_iter().map(|code| if code & 0x7f == 0x7f { code - 1 } else { code }).collect(),
        _ => codes,
    };
    let codes = numbers(packed.codes(), packed.scheme().code);
    let scales = match packed.parts().scales.clone() {
        Scales::Nested { codes, outer } => Scales::Nested {
            codes: numbers(codes, Code::Float(Minifloat::E4M3)),
            outer: outer.into_iter().map(compressed::fp4::writable).collect(),
        },
        floats => floats,
    };
    Packed::from_codes(packed.scheme(), shape, &codes, scales, None, None).unwrap()
}

/// Blocks of several rows, by hand: 3 rows in blocks of 2 by 2, and a block at the end that is neither as tall nor as wide.
#[test]
fn scales_of_blocks_are_those_of_their_rows() {
    let tensor =
        |name: &str, dtype, shape: Vec<usize>, bytes| NamedTensor { name: format!("l.{name}"), dtype, shape, bytes };
    let scales = [1.0_f32, 2.0, 4.0, 8.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let mut source = Memory::new(vec![
        tensor("weight", Dtype::F8_E4M3, vec![3, 3], vec![0x38; 9]),
        tensor("weight_scale", Dtype::F32, vec![2, 2], scales),
    ]);
    source.config = Some(json!({ "config_groups": { "group_0": { "weights": { "block_structure": [2, 2] } } } }));
    let packed = read(&source, "l").unwrap().unwrap();
    assert_eq!(packed.scheme().to_string(), "e4m3/2/f32");
    assert_eq!(packed.decode(), [1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 4.0, 4.0, 8.0]);
    source.config = None;
    assert!(read(&source, "l").unwrap_err().to_string().contains("`l.weight_scale`"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What compressed-tensors keeps as floats is read again as it was.
    #[test]
    fn floats_come_back_as_they_were(
        scheme in select(vec![
            "e2m1/16/e4m3/tensor:f32", "e2m1/32/e8m0", "e4m3/tensor/f32", "e4m3/row/bf16", "e4m3/16/f16", "e4m3/32/f32",
        ]),
        rows in 2usize..9,
        groups in 2usize..5,
        seed in any::<u64>(),
    ) {
        let before = of_numbers(scheme, [rows, 32 * groups], seed);
        let mut source = Memory::new(Dialect::Compressed.write("l", &before).unwrap());
        for config in [None, Some(Dialect::Compressed.config(&before, &[]))] {
            source.config = config;
            prop_assert_eq!(Dialect::of(&source, "l"), Some(Dialect::Compressed));
            prop_assert_eq!(read(&source, "l").unwrap().unwrap(), before.clone());
        }
    }

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
        let mut tensors = match dialect {
            Dialect::Compressed => of_older_tools(&before),
            _ => dialect.write("l", &before).unwrap(),
        };
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
