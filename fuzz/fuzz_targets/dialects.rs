//! Tensors by the names of every dialect, of any types and shapes, and any configuration: layers are read or refused, and whatever
//! is read decodes to finite weights.
//!
//! The bytes are a program for building a file whose header is always right, since a fuzzer finds few of those by itself:
//!
//! ```text
//! 1 byte                    tensors that follow, at most 10
//! for each: 1 byte          which name
//!           1 byte          type, and number of axes
//!           1 byte an axis  extent: small ones as they are, some for much larger ones
//! 1 byte                    which configuration; or the next 64 bytes are it
//! the rest                  the tensors' bytes, over and over
//! ```
#![no_main]

use std::fmt::Write as _;
use std::fs;

use libfuzzer_sys::fuzz_target;
use quench_checkpoint::{Folder, Source, WEIGHTS, dialect};

/// What tensors of layers are called, in every dialect.
const SUFFIXES: [&str; 30] = [
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_global_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "input_scale",
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    "weight.quant_state.bitsandbytes__nf4",
    "weight.quant_state.bitsandbytes__fp4",
    "trellis",
    "suh",
    "svh",
    "su",
    "sv",
    "mcg",
    "mul1",
    "q4_k",
    "q8_0",
    "mxfp4",
    "order",
    "outer_scales",
];

const DTYPES: [(&str, usize); 11] = [
    ("I32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("F32", 4),
    ("I64", 8),
    ("U8", 1),
    ("I8", 1),
    ("F8_E4M3", 1),
    ("F8_E8M0", 1),
    ("I16", 2),
    ("U32", 4),
];

const CONFIGS: [&str; 6] = [
    "",
    r#"{"checkpoint_format":"gptq_v2","group_size":3}"#,
    r#"{"checkpoint_format":"gptq_p"}"#,
    r#"{"config_groups":{"g":{"weights":{"num_bits":4,"group_size":16,"block_structure":[2,3]}}}}"#,
    r#"{"config_groups":{"g":{"weights":{"num_bits":3,"block_structure":[18446744073709551615,1]}}}}"#,
    r#"{"config_groups":{"g":{"weights":{"num_bits":4294967299}},"h":null}}"#,
];

/// Bytes of JSON for a state of bitsandbytes, in place of what the input would give it.
const STATES: [&str; 4] = [
    r#"{"quant_type":"nf4","blocksize":4,"dtype":"","shape":[4,4]}"#,
    r#"{"quant_type":"nf4","blocksize":3,"dtype":"","shape":[3,5],"nested_blocksize":2,"nested_offset":0.5}"#,
    r#"{"quant_type":"fp4","blocksize":64,"dtype":"","shape":[2,8],"nested_dtype":"","nested_offset":1e300}"#,
    r#"{"quant_type":"nf4","blocksize":18446744073709551615,"dtype":"","shape":[4294967296,4294967296]}"#,
];

/// Bytes of a tensor above which the input is not tried.
const LARGEST: usize = 1 << 16;

struct Input<'a>(std::slice::Iter<'a, u8>);

impl Input<'_> {
    fn byte(&mut self) -> usize {
        self.0.next().copied().map_or(0, usize::from)
    }

    /// An extent; where it is large, another of the same tensor had better be 0.
    fn extent(&mut self) -> usize {
        match self.byte() {
            byte @ 0..=200 => byte,
            byte @ 201..=240 => (byte - 200) * 16,
            byte => {
                [256, 1024, 1 << 20, 1 << 31, 1 << 32, 1 << 40, 1 << 60, usize::MAX / 2, usize::MAX][(byte - 241) % 9]
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input.iter());
    let mut tensors: Vec<(&str, &str, Vec<usize>, usize)> = Vec::new();
    for _ in 0..input.byte() % 11 {
        let suffix = SUFFIXES[input.byte() % SUFFIXES.len()];
        let kind = input.byte();
        let (dtype, size) = DTYPES[kind % DTYPES.len()];
        let shape: Vec<usize> = (0..kind / DTYPES.len() % 5).map(|_| input.extent()).collect();
        let elements =
            if shape.contains(&0) { Some(0) } else { shape.iter().try_fold(1_usize, |n, &e| n.checked_mul(e)) };
        let Some(bytes) = elements.and_then(|n| n.checked_mul(size)).filter(|bytes| *bytes <= LARGEST) else { return };
        if tensors.iter().all(|(known, ..)| *known != suffix) {
            tensors.push((suffix, dtype, shape, bytes));
        }
    }
    let config = match input.byte() {
        which if which < 128 => CONFIGS[which % CONFIGS.len()].as_bytes().to_vec(),
        _ => input.0.by_ref().take(64).copied().collect(),
    };
    let (mut header, mut data) = (String::from("{"), Vec::new());
    let rest = input.0.as_slice();
    for (suffix, dtype, shape, bytes) in tensors {
        let begin = data.len();
        let first = rest.first().copied().map_or(0, usize::from);
        let (shape, dtype) = match suffix.contains("quant_state") && first % 8 < STATES.len() {
            true => {
                data.extend_from_slice(STATES[first % 8].as_bytes());
                (vec![data.len() - begin], "U8")
            }
            false => {
                data.extend(rest.iter().chain(&[0]).cycle().skip(begin % (rest.len() + 1)).take(bytes));
                (shape, dtype)
            }
        };
        let comma = if header.len() > 1 { "," } else { "" };
        let end = data.len();
        let _ = write!(
            header,
            r#"{comma}"l.{suffix}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        );
    }
    header.push('}');
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();

    let Ok(folder) = tempfile::tempdir() else { return };
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).is_ok();
    if !write(WEIGHTS, &file) || !write("quantize_config.json", &config) {
        return;
    }
    let Ok(source) = Folder::open(folder.path()) else { return };
    let _ = dialect::read(&source, "l");
    for layer in dialect::layers(&source) {
        if let Ok(Some(packed)) = dialect::read(&source, &layer) {
            assert!(packed.decode().iter().all(|weight| weight.is_finite()), "{layer}");
            for other in [dialect::Dialect::Gptq, dialect::Dialect::Awq, dialect::Dialect::Compressed] {
                let _ = other.write(&layer, &packed);
            }
        }
    }
    for name in source.names() {
        assert!(source.info(name).is_some());
        if let Ok(view) = source.tensor(name) {
            let _ = view.to_finite_f32();
        }
    }
});
