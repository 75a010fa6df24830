//! What is written comes back, at the size that was promised, and what is wrong is refused by name.

use std::fs;
use std::path::Path;

use quench_format::{FloatKind, Scale, Scales, Scheme};
use safetensors::Dtype;

use super::head::fixed;
use super::*;
use crate::manifest::Sha256Sum;
use crate::testing::{names, packed};
use crate::{CheckpointError, Folder, Source, Writer};

/// The length of a file's JSON.
fn header(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap();
    u64::from_le_bytes(bytes[16..24].try_into().unwrap())
}

/// Bytes of a matrix by the formula of the documentation, written apart from the code.
fn formula(packed: &quench_format::Packed) -> u64 {
    let Scheme { code, group, scale, minimum } = packed.scheme();
    let count = |[a, b]: [usize; 2]| (a * b) as u64;
    let string = |count: u64, bits: u32| (count * u64::from(bits)).div_ceil(8);
    let float = |kind: FloatKind| u64::from(kind.bits() / 8);
    let scales = group.scale_shape(packed.shape());
    let kept = |scale| match scale {
        Scale::Float(kind) => count(scales) * float(kind),
        Scale::PowerOfTwo => count(scales),
        Scale::Nested { code, group, outer } => {
            string(count(scales), code.bits()) + count(group.scale_shape(scales)) * float(outer)
        }
    };
    let zeros = packed.parts().offsets.zeros().map_or(0, |zeros| string(zeros.len() as u64, code.bits()));
    let order = packed.parts().order.as_ref().map_or(0, |order| 4 * order.len() as u64);
    string(count(packed.shape()), code.bits()) + kept(scale) + minimum.map_or(0, kept) + zeros + order
}

#[test]
fn every_code_and_width_at_every_length_comes_back_and_the_size_is_exact() {
    let integers = (1..=16).flat_map(|bits| [format!("int{bits}"), format!("uint{bits}")]);
    let logs = (2..=16).map(|bits| format!("slog{bits}:mu8"));
    let codes = integers.chain(logs).chain(["nf4", "e2m1", "e4m3"].map(String::from));
    let scales = ["f32", "f16", "bf16", "int8/tensor:f32", "uint5/2:f16", "e8m0", "f16/min:uint5/2:f16"];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(LSQ_WEIGHTS);
    let (mut writer, mut expected) = (Writer::lsq(&file), Vec::new());
    for code in codes {
        for group in ["tensor", "row", "7"] {
            // Eight lengths in a row have every remainder by 8, of which the last is also two rows and reordered.
            for columns in 33..=40 {
                let scale = scales[expected.len() % scales.len()];
                let (scheme, rows) = (format!("{code}/{group}/{scale}"), 1 + usize::from(columns == 40));
                let (layer, seed) = (format!("{scheme}.{columns}"), expected.len() as u64);
                let packed = packed(&scheme, [rows, columns], columns == 40, seed);
                writer.packed(&layer, packed.clone()).unwrap();
                expected.push((layer, packed));
            }
        }
    }
    for (code, rows) in
        [("trellis1:8", 8), ("trellis2:12", 300), ("trellis3:8", 514), ("trellis3:16", 783), ("trellis4:9", 3)]
    {
        for (columns, scale) in (1..).zip(&scales[..5]) {
            let (scheme, layer) = (format!("{code}/2/{scale}"), format!("{code}.{columns}"));
            let packed = packed(&scheme, [rows, columns], columns == 4, columns as u64);
            writer.packed(&layer, packed.clone()).unwrap();
            expected.push((layer, packed));
        }
    }
    let written = writer.finish().unwrap();
    let parts: u64 = expected.iter().map(|(_, packed)| formula(packed)).sum();
    assert_eq!(written.tensor_bytes, parts);
    assert_eq!(fs::metadata(&file).unwrap().len(), HEAD_BYTES + header(&file) + parts);
    assert_eq!(names(folder.path()), [LSQ_WEIGHTS]);
    let source = Folder::open(folder.path()).unwrap();
    assert_eq!(source.manifest().layers.len(), expected.len());
    for (layer, packed) in expected {
        assert_eq!(packed_bytes(&packed), formula(&packed), "{layer}");
        let found = native::read(&source, &layer).unwrap_or_else(|error| panic!("{layer}: {error}"));
        assert_eq!(found, Some(packed), "{layer}");
    }
    source.verify().unwrap();
}

#[test]
fn a_thousand_codes_of_five_bits_are_625_bytes_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.lsq");
    let matrix = packed("slog5:mu8/tensor/f32", [10, 100], false, 1);
    let mut writer = Writer::lsq(&file);
    writer.packed("l", matrix.clone()).unwrap();
    assert_eq!(writer.finish().unwrap().tensor_bytes, 625 + 4);
    assert_eq!(fs::metadata(&file).unwrap().len(), HEAD_BYTES + header(&file) + 625 + 4);
    let source = Folder::open(&file).unwrap();
    assert_eq!(source.stored_bytes("l.qweight"), Some(625));
    // The first codes, read by hand.
    let (bytes, codes) = (fs::read(&file).unwrap(), matrix.codes());
    let data = &bytes[(HEAD_BYTES + header(&file)) as usize..];
    assert_eq!(u16::from(data[0] >> 3), codes[0]);
    assert_eq!(u16::from(data[0] & 7) << 2 | u16::from(data[1] >> 6), codes[1]);
    let Scales::Float(scales) = &matrix.parts().scales else { panic!("float scales") };
    assert_eq!(data[625..], scales[0].to_le_bytes());
}

#[test]
fn the_example_of_the_documentation_is_these_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.lsq");
    let scheme = "int5/row/f32".parse().unwrap();
    let scales = Scales::Float(vec![1.0]);
    let matrix = quench_format::Packed::from_codes(scheme, [1, 3], &[16, 7, 10], scales, None, None).unwrap();
    let mut writer = Writer::lsq(&file);
    writer.packed("l", matrix).unwrap();
    writer.metadata("format", "pt");
    writer.finish().unwrap();
    let data = [0x81, 0xd4, 0x00, 0x00, 0x80, 0x3f];
    let (codes, scales) = (Sha256Sum::of(&data[..2]), Sha256Sum::of(&data[2..]));
    let json = [
        r#"{"metadata":{"format":"pt"},"tensors":[],"layers":[{"name":"l","scheme":"int5/row/f32","shape":[1,3],"parts":["#,
        &format!(r#"{{"part":"qweight","bytes":[0,2],"sha256":"{codes}"}},"#),
        &format!(r#"{{"part":"scales","bytes":[2,6],"sha256":"{scales}"}}]}}]}}"#),
    ]
    .concat();
    let mut expected = vec![0x89, 0x4c, 0x53, 0x51, 0x0d, 0x0a, 0x1a, 0x0a, 1, 0, 0, 0, 0, 0, 0, 0];
    expected.extend((json.len() as u64).to_le_bytes());
    expected.extend(Sha256Sum::of(json.as_bytes()).bytes());
    expected.extend(json.bytes());
    expected.extend(data);
    assert_eq!(fs::read(&file).unwrap(), expected);
}

#[test]
fn whatever_is_no_packed_layer_passes_through_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to, back) = (folder.path().join("a.safetensors"), folder.path().join("b.lsq"), folder.path().join("c"));
    let dtypes = [Dtype::F64, Dtype::F32, Dtype::BF16, Dtype::I64, Dtype::BOOL, Dtype::U8, Dtype::F8_E5M2, Dtype::F4];
    let mut writer = Writer::safetensors(&from);
    for (at, dtype) in dtypes.into_iter().enumerate() {
        let bytes: Vec<u8> = (0..2 * dtype.bitsize()).map(|byte| (byte * 31 + at) as u8).collect();
        writer.add(dtype.to_string(), dtype, [4, 2, 2], bytes).unwrap();
    }
    writer.add("empty", Dtype::F32, [0, 3], vec![]).unwrap();
    writer.add("scalar", Dtype::F32, [], 1.5_f32.to_le_bytes().to_vec()).unwrap();
    let matrix = packed("uint3/7/uint5/2:f16", [3, 20], true, 1);
    writer.packed("l", matrix.clone()).unwrap();
    writer.metadata("quench.recipe", "name = \"x\"\n");
    writer.finish().unwrap();

    let copy = |source: &Folder, mut writer: Writer<'_>| {
        let mut writer_of = |source: &'_ Folder| {
            for name in source.names() {
                if !name.starts_with("l.") {
                    let (info, view) = (source.info(name).unwrap(), source.tensor(name).unwrap());
                    writer.add(name, info.dtype, info.shape, view).unwrap();
                }
            }
            for (key, value) in source.metadata() {
                writer.metadata(key, value);
            }
        };
        writer_of(source);
        writer.packed("l", native::read(source, "l").unwrap().unwrap()).unwrap();
        writer.finish().unwrap();
    };
    let original = Folder::open(&from).unwrap();
    copy(&original, Writer::lsq(&to));
    let lsq = Folder::open(&to).unwrap();
    copy(&lsq, Writer::create(&back, u64::MAX).unwrap());
    for source in [lsq, Folder::open(&back).unwrap()] {
        assert_eq!(source.names(), original.names());
        for name in original.names() {
            assert_eq!(source.info(name), original.info(name));
            assert_eq!(source.tensor(name).unwrap().bytes(), original.tensor(name).unwrap().bytes(), "{name}");
        }
        assert_eq!(source.metadata(), original.metadata());
        assert_eq!(native::read(&source, "l").unwrap().as_ref(), Some(&matrix));
    }
    // There and back again is the same file, manifest included.
    assert_eq!(Folder::open(&back).unwrap().manifest(), original.manifest());
}

#[test]
fn the_same_model_gives_the_same_bytes_and_copies_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("1.lsq"), folder.path().join("2.lsq"));
    let mut writer = Writer::lsq(&one);
    for (at, scheme) in ["int3/7/f16", "slog5:mu8/row/bf16", "uint12/tensor/int8/tensor:f32"].into_iter().enumerate() {
        writer.packed(format!("l{at}"), packed(scheme, [3, 21], at == 1, at as u64)).unwrap();
        writer.add(format!("d{at}"), Dtype::U8, [at], vec![7; at]).unwrap();
    }
    writer.finish().unwrap();
    let source = Folder::open(&one).unwrap();
    let mut writer = Writer::lsq(&two);
    for at in 0..3 {
        writer.copy_packed(&source, &format!("l{at}")).unwrap();
        writer.copy(&source, &format!("d{at}")).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
}

#[test]
fn a_file_without_anything_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.lsq");
    Writer::lsq(&file).finish().unwrap();
    assert!(Folder::open(&file).unwrap().names().is_empty());
    assert_eq!(fs::metadata(&file).unwrap().len(), HEAD_BYTES + header(&file));
}

#[test]
fn a_run_that_fails_or_is_stopped_leaves_the_file_as_it_was() {
    use std::ops::ControlFlow::{Break, Continue};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.lsq");
    fs::write(&file, "old").unwrap();
    let writer = |count: usize| {
        let mut writer = Writer::lsq(&file);
        writer.add("a", Dtype::U8, [2], vec![1, 2]).unwrap();
        writer.add_later("b", Dtype::U8, [2], move || Ok(vec![0; count])).unwrap();
        writer
    };
    assert!(matches!(writer(3).finish(), Err(CheckpointError::Size { found: 3, .. })));
    let stopped = writer(2).finish_with(&mut |name| if name == "b" { Break(()) } else { Continue(()) });
    assert!(matches!(stopped, Err(CheckpointError::Stopped { file: named }) if named == file));
    assert_eq!((fs::read(&file).unwrap(), names(folder.path())), (b"old".to_vec(), vec!["m.lsq".to_owned()]));
    writer(2).finish().unwrap();
    assert_eq!(Folder::open(&file).unwrap().tensor("b").unwrap().bytes(), [0, 0]);
}

/// A file with this JSON, rightly summed, and these data.
pub fn forge(json: &str, data: &[u8]) -> Vec<u8> {
    [&fixed(LSQ_VERSION, json.as_bytes())[..], json.as_bytes(), data].concat()
}

/// Opens a file of these bytes and gives its error, which names the file.
fn error(bytes: &[u8]) -> CheckpointError {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.lsq");
    fs::write(&file, bytes).unwrap();
    let opened = Folder::open(&file);
    let error = opened.map(|source| source.names().join(" ")).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(file.to_str().unwrap()), "{message}");
    error
}

/// A dense tensor of bytes in a header.
fn dense(name: &str, [begin, end]: [u64; 2], data: &[u8]) -> String {
    let sum = Sha256Sum::of(&data[begin as usize..end as usize]);
    let shape = end - begin;
    format!(r#"{{"name":"{name}","dtype":"U8","shape":[{shape}],"bytes":[{begin},{end}],"sha256":"{sum}"}}"#)
}

fn json(tensors: &[String], layers: &str) -> String {
    format!(r#"{{"metadata":{{}},"tensors":[{}],"layers":[{layers}]}}"#, tensors.join(","))
}

#[test]
fn the_head_is_checked() {
    use CheckpointError as E;
    let good = forge(&json(&[dense("a", [0, 4], &[1, 2, 3, 4])], ""), &[1, 2, 3, 4]);
    let set = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        match error(&changed) {
            E::Lsq { source, .. } => source,
            other => panic!("{other}"),
        }
    };
    for len in 0..good.len() {
        let cut = error(&good[..len]);
        assert!(matches!(&cut, E::Truncated { found, .. } if *found == len as u64), "{len}: {cut}");
    }
    assert!(matches!(error(&[&good[..], &[0]].concat()), E::TooLong { .. }));
    assert!(matches!(error(b"version https://git-lfs.github.com/spec/v1\n"), E::LfsPointer { .. }));
    assert!(matches!(set(0, b"PK"), LsqError::Magic { .. }));
    let newer = set(8, &[3]);
    assert_eq!(newer, LsqError::Version { found: 3 });
    assert!(newer.to_string().contains("version 3") && newer.to_string().contains("a newer one"));
    assert!(matches!(set(12, &[1]), LsqError::Header { .. }));
    assert_eq!(set(16, &u64::MAX.to_le_bytes()), LsqError::HeaderTooLong { bytes: u64::MAX });
    assert_eq!(set(24, &[0; 4]), LsqError::HeaderDamaged);
    assert_eq!(set(60, b"M"), LsqError::HeaderDamaged);
}

#[test]
fn impossible_headers_are_refused_with_the_tensors_name() {
    let data = [7; 32];
    let lay = |scheme: &str, shape: &str, parts: &str| {
        json(&[], &format!(r#"{{"name":"l","scheme":"{scheme}","shape":{shape},"parts":[{parts}]}}"#))
    };
    let part = |name: &str, begin: u64, end: u64| {
        format!(r#"{{"part":"{name}","bytes":[{begin},{end}],"sha256":"{}"}}"#, Sha256Sum::default())
    };
    let two = |a, b| json(&[dense("a", a, &data), dense("b", b, &data)], "");
    let typed = |dtype: &str, shape: &str| {
        let sum = Sha256Sum::default();
        let tensor = format!(r#"{{"name":"a","dtype":"{dtype}","shape":{shape},"bytes":[0,32],"sha256":"{sum}"}}"#);
        json(&[tensor], "")
    };
    let parts = [part("qweight", 0, 28), part("scales", 28, 32)].join(",");
    let repeated = [part("qweight", 0, 28), part("qweight", 28, 32)].join(",");
    let cases = [
        ("an impossible width", lay("int17/tensor/f32", "[2,14]", &parts), "`l` is not valid: unknown code `int17`"),
        (
            "a width of zero",
            lay("slog0:mu8/tensor/f32", "[2,14]", &parts),
            "`l` is not valid: unknown code `slog0:mu8`",
        ),
        (
            "a longer matrix",
            lay("int8/tensor/f32", "[2,15]", &parts),
            "`l.qweight` is not valid: it lies in bytes 0 to 28",
        ),
        ("no rows", lay("int8/tensor/f32", "[0,14]", &parts), "`l` is not valid: it has the shape [0, 14]"),
        ("too many rows", lay("int8/tensor/f32", "[4294967296,1]", &parts), "the shape [4294967296, 1]"),
        ("shape times width", lay("int16/tensor/f32", "[4294967295,4294967295]", &parts), "`l.qweight` is not valid"),
        ("a part missing", lay("int8/tensor/f32", "[2,14]", &part("qweight", 0, 28)), "a part `scales`, found none"),
        ("a part twice", lay("int8/tensor/f32", "[2,14]", &repeated), "part `qweight` is repeated"),
        ("a part of another code", lay("int8/tensor/f32", "[1,28]", &part("qzeros", 0, 1)), "part `qzeros`"),
        (
            "an overlap",
            two([0, 20], [16, 32]),
            "`b` begins at byte 16 of the data, inside tensor `a`, which ends at 20",
        ),
        ("a gap", two([0, 10], [12, 32]), "`b` is not valid: it begins at byte 12 of the data, 10 expected"),
        ("a gap at the front", json(&[dense("a", [1, 32], &data)], ""), "`a` is not valid: it begins at byte 1"),
        ("an unknown type", typed("F33", "[8]"), "`a` is not valid: unknown type `F33`"),
        ("a shape that overflows", typed("F32", "[18446744073709551615,8]"), "`a` is not valid: shape"),
        ("a reserved key", r#"{"metadata":{"quench":""},"tensors":[],"layers":[]}"#.to_owned(), "key `quench`"),
        ("an unknown field", r#"{"metadata":{},"tensors":[],"layers":[],"more":1}"#.to_owned(), "`more`"),
        ("no JSON", "\u{0}".to_owned(), "header is not valid"),
    ];
    for (case, json, expected) in cases {
        let error = error(&forge(&json, &data));
        let message = error.to_string();
        assert!(matches!(error, CheckpointError::Lsq { .. }) && message.contains(expected), "{case}: {message}");
    }
    let names = json(&[dense("a", [0, 16], &data), dense("a", [16, 32], &data)], "");
    assert!(matches!(error(&forge(&names, &data)), CheckpointError::DuplicateTensor { tensor, .. } if tensor == "a"));
}

#[test]
fn any_flipped_bit_of_the_data_is_refused_with_the_tensors_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.lsq");
    let mut writer = Writer::lsq(&file);
    writer.packed("l", packed("uint3/7/uint5/2:f16", [3, 21], true, 1)).unwrap();
    writer.finish().unwrap();
    let bytes = fs::read(&file).unwrap();
    for at in (HEAD_BYTES + header(&file)) as usize..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&file, flipped).unwrap();
        let error = native::read(&Folder::open(&file).unwrap(), "l").unwrap_err();
        assert!(matches!(&error, CheckpointError::Damaged { tensor, .. } if tensor.starts_with("l.")), "{error}");
    }
}

#[test]
fn bits_after_the_last_code_are_refused_even_with_a_right_checksum() {
    let codes = [0b1010_0001_u8, 0, 0, 0, 0, 0];
    let part = |name: &str, [begin, end]: [usize; 2]| {
        let sum = Sha256Sum::of(&codes[begin..end]);
        format!(r#"{{"part":"{name}","bytes":[{begin},{end}],"sha256":"{sum}"}}"#)
    };
    let parts = [part("qweight", [0, 2]), part("scales", [2, 6])].join(",");
    for (columns, refused) in [(4, false), (5, false)] {
        // Three bits each: 12 bits of 16, and 15 of 16.
        let json =
            json(&[], &format!(r#"{{"name":"l","scheme":"int3/row/f32","shape":[1,{columns}],"parts":[{parts}]}}"#));
        assert_eq!(read_forged(&forge(&json, &codes)).is_err(), refused, "{columns}");
    }
    let mut wrong = codes;
    wrong[1] = 1;
    let sums = json(&[], &format!(r#"{{"name":"l","scheme":"int3/row/f32","shape":[1,5],"parts":[{parts}]}}"#))
        .replace(&Sha256Sum::of(&codes[..2]).to_string(), &Sha256Sum::of(&wrong[..2]).to_string());
    let message = read_forged(&forge(&sums, &wrong)).unwrap_err().to_string();
    assert!(message.contains("`l.qweight`") && message.contains("bits after its last code"), "{message}");
}

fn read_forged(bytes: &[u8]) -> Result<(), CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.lsq");
    fs::write(&file, bytes).unwrap();
    native::read(&Folder::open(&file)?, "l").map(drop)
}
