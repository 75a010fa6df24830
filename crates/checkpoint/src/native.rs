//! Our own dialect: a packed matrix as named tensors, with its scheme and checksums in the manifest.
//!
//! A layer is the Hugging Face name of a weight without `.weight`. For a layer `[out, in]` with `g` groups a row:
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.qweight` | I32 | `[out, words(in, b)]` | the codes, `b` bits each |
//! | `<layer>.qweight` | I32 | `[n]` | of a trellis code: the strings of all columns, as [`Strings`] lays them out |
//! | `<layer>.scales` | F32, F16, BF16, F8_E8M0 | `[out, g]`, or `[1, 1]` for one group in all | scales that are floats or powers of two |
//! | `<layer>.scales` | I32 | `[out, words(g, bs)]`, or `[1, 1]` | nested: the scales' codes, `bs` bits each |
//! | `<layer>.outer_scales` | F32, F16, BF16 | `[out, outer groups]`, or `[1, 1]` | nested: the scales of those |
//! | `<layer>.qzeros` | I32 | `[out, words(g, b)]`, or `[1, 1]` | affine codes without minimums: the zero points, `b` bits each |
//! | `<layer>.mins`, `<layer>.outer_mins` | as `scales`, `outer_scales` | as those | minimums, where the scheme has them |
//! | `<layer>.order` | I32 | `[in]` | where columns are reordered: stored column `j` is original column `order[j]` |
//!
//! `words(n, b) = ceil(n * b / 32)`, `n` the number that the strings take; bits are packed as [`quench_format::bits`] says. I32 holds the bit pattern of a `u32`,
//! since PyTorch has few operations on unsigned words. `docs/checkpoint.md` is the full specification.

use half::{bf16, f16};
#[cfg(doc)]
use quench_format::trellis::Strings;
use quench_format::{FloatKind, FormatError, Offsets, Packed, Parts, Scale, Scales, Scheme, bits};
use safetensors::Dtype;

use crate::source::{TensorInfo, TensorView, words};
use crate::{CheckpointError, Source};

pub use crate::manifest::{FORMAT_VERSION, Layer};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Extent of each axis, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major and little-endian.
    pub bytes: Vec<u8>,
}

/// One tensor of a packed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Codes,
    Scales,
    OuterScales,
    Zeros,
    Minimums,
    OuterMinimums,
    Order,
}

impl Piece {
    /// The last word of the tensor's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Codes => "qweight",
            Self::Scales => "scales",
            Self::OuterScales => "outer_scales",
            Self::Zeros => "qzeros",
            Self::Minimums => "mins",
            Self::OuterMinimums => "outer_mins",
            Self::Order => "order",
        }
    }

    /// The tensor's full name.
    pub fn name(self, layer: &str) -> String {
        format!("{layer}.{}", self.suffix())
    }

    /// The tensor's bytes; empty if the matrix has no such part.
    pub fn bytes(self, packed: &Packed) -> Vec<u8> {
        let (scheme, parts) = (packed.scheme(), packed.parts());
        let groups = scheme.group.scale_shape(packed.shape())[1];
        let minimums = scheme.minimum.zip(parts.offsets.minimums());
        match self {
            Self::Codes => word_bytes(&parts.codes),
            Self::Scales => scale_bytes(scheme.scale, &parts.scales, groups),
            Self::OuterScales => outer_bytes(scheme.scale, &parts.scales),
            Self::Zeros => {
                let zeros = parts.offsets.zeros().unwrap_or_default();
                word_bytes(&bits::pack(zeros, groups, scheme.code.bits()))
            }
            Self::Minimums => minimums.map(|(kept, minimums)| scale_bytes(kept, minimums, groups)).unwrap_or_default(),
            Self::OuterMinimums => minimums.map(|(kept, minimums)| outer_bytes(kept, minimums)).unwrap_or_default(),
            Self::Order => word_bytes(parts.order.as_deref().unwrap_or_default()),
        }
    }

    /// The part that a refusal is about.
    fn at_fault(error: &FormatError) -> Self {
        use FormatError as E;
        match error {
            E::Length { part, .. }
            | E::CodeRange { part, .. }
            | E::ScaleValue { part, .. }
            | E::ScaleForm { part, .. } => match *part {
                "scales" | "scale codes" => Self::Scales,
                "outer scales" => Self::OuterScales,
                "zeros" => Self::Zeros,
                "minimums" | "minimum codes" => Self::Minimums,
                "outer minimums" => Self::OuterMinimums,
                "order" => Self::Order,
                _ => Self::Codes,
            },
            E::ScaleOverflow { .. } => Self::Scales,
            E::Minimums { .. } => Self::Minimums,
            E::ZerosMissing { .. } | E::ZerosUnexpected { .. } | E::ZeroRange { .. } => Self::Zeros,
            E::Order { .. } => Self::Order,
            _ => Self::Codes,
        }
    }
}

/// The tensors of a layer with their types and shapes; `layer.shape` has been through [`check_shape`].
pub(crate) fn layout(layer: &Layer, ordered: bool) -> Vec<(Piece, TensorInfo)> {
    let Layer { scheme: Scheme { code, group, scale, minimum }, shape } = *layer;
    let words = |[rows, columns]: [usize; 2], bits| TensorInfo {
        dtype: Dtype::I32,
        shape: vec![rows, bits::words_per_row(columns, bits)],
    };
    let scales = group.scale_shape(shape);
    let codes = match code.strings(shape) {
        Some(strings) => TensorInfo { dtype: Dtype::I32, shape: vec![strings.words()] },
        None => words(shape, code.bits()),
    };
    let mut pieces = vec![(Piece::Codes, codes)];
    let mut kept = |scale, [inner, outermost]: [Piece; 2]| match scale {
        Scale::Float(kind) => pieces.push((inner, TensorInfo { dtype: dtype(kind), shape: scales.to_vec() })),
        Scale::PowerOfTwo => pieces.push((inner, TensorInfo { dtype: Dtype::F8_E8M0, shape: scales.to_vec() })),
        Scale::Nested { code, group, outer } => {
            pieces.push((inner, words(scales, code.bits())));
            let shape = group.scale_shape(scales).to_vec();
            pieces.push((outermost, TensorInfo { dtype: dtype(outer), shape }));
        }
    };
    kept(scale, [Piece::Scales, Piece::OuterScales]);
    if let Some(minimum) = minimum {
        kept(minimum, [Piece::Minimums, Piece::OuterMinimums]);
    }
    if layer.scheme.has_zeros() {
        pieces.push((Piece::Zeros, words(scales, code.bits())));
    }
    if ordered {
        pieces.push((Piece::Order, TensorInfo { dtype: Dtype::I32, shape: vec![shape[1]] }));
    }
    pieces
}

/// True if the checkpoint holds `layer` packed in this dialect.
pub fn is_packed(source: &dyn Source, layer: &str) -> bool {
    source.manifest().layers.contains_key(layer)
}

/// The names of the tensors that spell a packed layer; `None` if the checkpoint does not hold it packed in this dialect.
///
/// Errors: as [`read`], as far as headers tell.
pub fn names(source: &dyn Source, layer: &str) -> Result<Option<Vec<String>>, CheckpointError> {
    let Some(coded) = source.manifest().layers.get(layer) else { return Ok(None) };
    let pieces = check(source, layer, coded)?;
    Ok(Some(pieces.into_iter().map(|(piece, _)| piece.name(layer)).collect()))
}

/// Reads a packed layer; `None` if the checkpoint does not hold it packed in this dialect.
///
/// Errors, each with the tensor's name: a tensor missing, of the wrong type or shape, damaged (by its checksum) or without
/// a checksum, and parts that [`Packed::new`] refuses.
pub fn read(source: &dyn Source, layer: &str) -> Result<Option<Packed>, CheckpointError> {
    let Some(coded) = source.manifest().layers.get(layer) else { return Ok(None) };
    let pieces = check(source, layer, coded)?;
    let Layer { scheme, shape } = *coded;
    let view = |piece: Piece| source.tensor(&piece.name(layer));

    let codes = to_words(&view(Piece::Codes)?);
    let [_, groups] = scheme.group.scale_shape(shape);
    let kept = |scale, [inner, outermost]: [Piece; 2]| -> Result<Scales, CheckpointError> {
        Ok(match scale {
            Scale::Float(_) => Scales::Float(view(inner)?.to_f32()?),
            Scale::PowerOfTwo => Scales::Float(view(inner)?.bytes().iter().map(|&byte| power(byte)).collect()),
            Scale::Nested { code, .. } => {
                Scales::Nested { codes: unpack(&view(inner)?, groups, code.bits())?, outer: view(outermost)?.to_f32()? }
            }
        })
    };
    let scales = kept(scheme.scale, [Piece::Scales, Piece::OuterScales])?;
    let has = |piece| pieces.iter().any(|(present, _)| *present == piece);
    let offsets = match scheme.minimum {
        Some(minimum) => Offsets::Minimums(kept(minimum, [Piece::Minimums, Piece::OuterMinimums])?),
        None if has(Piece::Zeros) => Offsets::Zeros(unpack(&view(Piece::Zeros)?, groups, scheme.code.bits())?),
        None => Offsets::None,
    };
    let order = match has(Piece::Order) {
        true => Some(to_words(&view(Piece::Order)?)),
        false => None,
    };
    let parts = Parts { codes, scales, offsets, order };
    match Packed::new(scheme, shape, parts) {
        Ok(packed) => Ok(Some(packed)),
        Err(error) => {
            let tensor = Piece::at_fault(&error).name(layer);
            let file = view(Piece::at_fault(&error)).map_or_else(|_| source.path().into(), |view| view.file().into());
            Err(CheckpointError::Packed { file, tensor, source: error })
        }
    }
}

/// The tensors that spell `packed`, in the order of the table above.
pub fn tensors(layer: &str, packed: &Packed) -> Vec<NamedTensor> {
    let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
    let tensor = |(piece, TensorInfo { dtype, shape }): (Piece, _)| NamedTensor {
        name: piece.name(layer),
        dtype,
        shape,
        bytes: piece.bytes(packed),
    };
    layout(&coded, packed.parts().order.is_some()).into_iter().map(tensor).collect()
}

/// Checks what headers say of a layer, reading none of it, and gives its tensors.
pub(crate) fn check(
    source: &dyn Source,
    layer: &str,
    coded: &Layer,
) -> Result<Vec<(Piece, TensorInfo)>, CheckpointError> {
    let refused = |reason| CheckpointError::Manifest { file: source.path().to_path_buf(), reason };
    let [rows, columns] = coded.shape;
    // Anything larger is no file of ours, and might overflow below.
    if rows == 0 || columns == 0 || u32::try_from(rows.max(columns)).is_err() {
        return Err(refused(format!("layer `{layer}` cannot have the shape {:?}", coded.shape)));
    }
    let ordered = source.info(&Piece::Order.name(layer)).is_some();
    let pieces = layout(coded, ordered);
    for (piece, expected) in &pieces {
        let tensor = piece.name(layer);
        let path = || source.path().to_path_buf();
        let Some(found) = source.info(&tensor) else {
            return Err(CheckpointError::MissingTensor { path: path(), tensor });
        };
        if found.dtype != expected.dtype {
            let expected = expected.dtype.to_string();
            return Err(CheckpointError::Dtype { file: path(), tensor, expected, found: found.dtype });
        }
        if found.shape != expected.shape {
            let expected = expected.shape.clone();
            return Err(CheckpointError::Shape { file: path(), tensor, expected, found: found.shape });
        }
        if !source.manifest().sha256.contains_key(&tensor) {
            return Err(refused(format!("packed tensor `{tensor}` has no checksum")));
        }
    }
    Ok(pieces)
}

fn to_words(view: &TensorView) -> Vec<u32> {
    words(view.bytes(), u32::from_le_bytes).collect()
}

/// Codes of `bits` bits, `columns` to a row; the bits that belong to none must be zero, as they are in [`Packed`].
fn unpack(view: &TensorView, columns: usize, bits: u32) -> Result<Vec<u16>, CheckpointError> {
    let words = to_words(view);
    let codes = bits::unpack(&words, columns, bits);
    let again = bits::pack(&codes, columns, bits);
    match words.iter().zip(&again).position(|(found, expected)| found != expected) {
        None => Ok(codes),
        Some(at) => Err(CheckpointError::Packed {
            file: view.file().to_path_buf(),
            tensor: view.name().to_owned(),
            source: FormatError::Padding { row: at / bits::words_per_row(columns, bits) },
        }),
    }
}

fn word_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Scales or minimums, or the codes of nested ones, `groups` to a row.
fn scale_bytes(kept: Scale, scales: &Scales, groups: usize) -> Vec<u8> {
    match (kept, scales) {
        (Scale::Float(kind), Scales::Float(values)) => float_bytes(kind, values),
        (Scale::PowerOfTwo, Scales::Float(values)) => values.iter().map(|&value| exponent(value)).collect(),
        (Scale::Nested { code, .. }, Scales::Nested { codes, .. }) => {
            word_bytes(&bits::pack(codes, groups, code.bits()))
        }
        // A `Packed` has scales of the form that its scheme names.
        _ => Vec::new(),
    }
}

fn outer_bytes(kept: Scale, scales: &Scales) -> Vec<u8> {
    match (kept, scales) {
        (Scale::Nested { outer: kind, .. }, Scales::Nested { outer, .. }) => float_bytes(kind, outer),
        _ => Vec::new(),
    }
}

/// The number of an E8M0 byte, `2^(byte - 127)`; 255 is not a number.
pub(crate) fn power(byte: u8) -> f32 {
    if byte == u8::MAX { f32::NAN } else { 2.0_f32.powi(i32::from(byte) - 127) }
}

/// The E8M0 byte of a power of two from `2^-127` to `2^127`.
pub(crate) fn exponent(power: f32) -> u8 {
    // 2^-127 is the one subnormal: its exponent field is 0, and so is its byte.
    (power.to_bits() >> 23) as u8
}

fn dtype(kind: FloatKind) -> Dtype {
    match kind {
        FloatKind::F32 => Dtype::F32,
        FloatKind::F16 => Dtype::F16,
        FloatKind::BF16 => Dtype::BF16,
    }
}

/// Exact: the scales of a `Packed` are values of their kind.
fn float_bytes(kind: FloatKind, values: &[f32]) -> Vec<u8> {
    match kind {
        FloatKind::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        FloatKind::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        FloatKind::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::testing::{forge, packed};
    use crate::{Folder, Writer};

    fn every_code() -> Vec<String> {
        let integers = (1..=16).flat_map(|bits| [format!("int{bits}"), format!("uint{bits}")]);
        let logs = (2..=16).flat_map(|bits| [format!("slog{bits}"), format!("slog{bits}:mu8")]);
        integers.chain(logs).chain(["nf4", "iq4nl", "e2m1", "e4m3"].map(String::from)).collect()
    }

    /// Some of these round to the same name; a scheme is spelled in one way only.
    const SCALES: [&str; 9] = [
        "f32",
        "f16",
        "bf16",
        "e8m0",
        "int8/tensor:f32",
        "uint5/2:f16",
        "e4m3/row:bf16",
        "f16/min:uint6/8:f16",
        "uint6/8:f16/min:f32",
    ];

    #[test]
    fn every_scheme_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path(), 200_000).unwrap();
        let mut expected = Vec::new();
        for code in every_code() {
            for group in ["tensor", "row", "1", "7", "32", "128"] {
                for scale in SCALES {
                    let scheme = format!("{code}/{group}/{scale}");
                    for (shape, ordered) in [([1, 1], false), ([3, 70], true), ([2, 33], false)] {
                        let layer = format!("{scheme}.{}", shape[1]);
                        let packed = packed(&scheme, shape, ordered, expected.len() as u64);
                        writer.packed(&layer, packed.clone()).unwrap();
                        expected.push((layer, packed));
                    }
                }
            }
        }
        let written = writer.finish().unwrap();
        assert!(written.files.len() > 3);
        let source = Folder::open(folder.path()).unwrap();
        assert_eq!(source.manifest().layers.len(), expected.len());
        for (layer, packed) in expected {
            assert!(is_packed(&source, &layer));
            let found = read(&source, &layer).unwrap_or_else(|error| panic!("{layer}: {error}"));
            assert_eq!(found, Some(packed), "{layer}");
        }
        source.verify().unwrap();
    }

    #[test]
    fn strings_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path(), u64::MAX).unwrap();
        let mut expected = Vec::new();
        for code in ["trellis1:8", "trellis2:12", "trellis3:9", "trellis4:16"] {
            for group in ["tensor", "row", "7"] {
                for scale in ["f16", "e8m0", "int8/2:f32", "f16/min:f16"] {
                    for (shape, ordered) in [([8, 3], false), ([255, 2], true), ([300, 40], true), ([777, 9], false)] {
                        let packed = packed(&format!("{code}/{group}/{scale}"), shape, ordered, expected.len() as u64);
                        let layer = format!("l{}", expected.len());
                        writer.packed(&layer, packed.clone()).unwrap();
                        expected.push((layer, packed));
                    }
                }
            }
        }
        writer.finish().unwrap();
        let source = Folder::open(folder.path()).unwrap();
        for (layer, packed) in expected {
            let scheme = packed.scheme();
            assert_eq!(read(&source, &layer).unwrap(), Some(packed), "{scheme}");
        }
    }

    #[test]
    fn strings_that_are_none_are_refused() {
        type Change = fn(&mut NamedTensor);
        let cases: [(&str, usize, Change); 4] = [
            ("shape [2, 16], expected [32]", 256, |codes| codes.shape = vec![2, 16]),
            ("shape [31], expected [32]", 256, |codes| {
                codes.shape = vec![31];
                codes.bytes.truncate(124);
            }),
            ("padding of stored column 1", 257, |codes| *codes.bytes.last_mut().unwrap() = 4),
            ("5 rows are too few for trellis2:12", 5, |_| {}),
        ];
        for (what, rows, change) in cases {
            // Of 5 rows there is no matrix; they take as many words as 6 do.
            let whole = packed("trellis2:12/tensor/f32", [rows.max(6), 2], false, 1);
            let mut tensors = tensors("a", &whole);
            change(&mut tensors[0]);
            let coded = Layer { scheme: whole.scheme(), shape: [rows, 2] };
            let (_folder, _, source) = open(&forge(&[("a", coded)], &tensors));
            let error = read(&source.unwrap(), "a").unwrap_err().to_string();
            assert!(error.contains("`a.qweight`") && error.contains(what), "{what}: {error}");
        }
    }

    /// A layer with every piece a layer can have.
    const RICH: &str = "uint3/7/uint5/2:f16";

    /// The file in `folder` made to hold `bytes`, and opened.
    fn reopen(folder: &tempfile::TempDir, bytes: &[u8]) -> (PathBuf, Result<Folder, CheckpointError>) {
        let file = folder.path().join("model.safetensors");
        fs::write(&file, bytes).unwrap();
        let source = Folder::open(folder.path());
        (file, source)
    }

    fn open(bytes: &[u8]) -> (tempfile::TempDir, PathBuf, Result<Folder, CheckpointError>) {
        let folder = tempfile::tempdir().unwrap();
        let (file, source) = reopen(&folder, bytes);
        (folder, file, source)
    }

    #[test]
    fn one_flipped_bit_is_refused_with_the_tensors_name() {
        let packed = packed(RICH, [3, 20], true, 1);
        let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
        let tensors = tensors("a.b", &packed);
        assert_eq!(tensors.len(), 5);
        let bytes = forge(&[("a.b", coded)], &tensors);
        let data = bytes.len() - tensors.iter().map(|tensor| tensor.bytes.len()).sum::<usize>();
        let mut seen = std::collections::BTreeSet::new();
        let folder = tempfile::tempdir().unwrap();
        for bit in 8 * data..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (file, source) = reopen(&folder, &flipped);
            let error = read(&source.unwrap(), "a.b").unwrap_err();
            let message = error.to_string();
            let CheckpointError::Damaged { file: named, tensor } = error else { panic!("bit {bit}: {message}") };
            assert_eq!(named, file);
            assert!(message.contains(&tensor), "{message}");
            seen.insert(tensor);
        }
        let mut names: Vec<_> = tensors.into_iter().map(|tensor| tensor.name).collect();
        names.sort();
        assert!(seen.iter().eq(&names), "{seen:?}");
    }

    #[test]
    fn no_flipped_bit_of_the_header_gives_another_matrix() {
        let packed = packed("slog5:mu8/7/f16", [3, 20], true, 1);
        let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
        let bytes = forge(&[("a.b", coded)], &tensors("a.b", &packed));
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let folder = tempfile::tempdir().unwrap();
        // Every bit of the manifest itself is tried in manifest.rs, without a file.
        for bit in (0..header).map(|byte| 8 * byte + byte % 8) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (_, source) = reopen(&folder, &flipped);
            match source.and_then(|source| read(&source, "a.b")) {
                // Padding may become another kind of white space, and metadata another key: then it is a foreign file.
                Ok(None) => {}
                Ok(Some(found)) => assert_eq!(found, packed, "bit {bit}"),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_layer_that_does_not_fit_is_refused_with_the_tensors_name() {
        type Change = fn(&mut Vec<NamedTensor>);
        fn of<'a>(tensors: &'a mut [NamedTensor], name: &str) -> &'a mut NamedTensor {
            tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
        }
        // In a word of 32 bits, 7 codes of 3 bits or 3 of 5 leave the upper bits free.
        let cases: [(&str, &str, Change); 13] = [
            ("a.qweight", "no tensor", |t| t.retain(|tensor| tensor.name != "a.qweight")),
            ("a.qweight", "type U32, expected I32", |t| of(t, "a.qweight").dtype = Dtype::U32),
            ("a.qweight", "shape [2, 3], expected [3, 2]", |t| of(t, "a.qweight").shape = vec![2, 3]),
            ("a.qweight", "padding after row 0", |t| of(t, "a.qweight").bytes[7] = 0x80),
            ("a.scales", "no tensor", |t| t.retain(|tensor| tensor.name != "a.scales")),
            ("a.scales", "padding after row 1", |t| of(t, "a.scales").bytes[7] = 0x80),
            ("a.outer_scales", "expected F16", |t| of(t, "a.outer_scales").dtype = Dtype::BF16),
            ("a.outer_scales", "shape [6], expected [3, 2]", |t| of(t, "a.outer_scales").shape = vec![6]),
            ("a.outer_scales", "NaN", |t| of(t, "a.outer_scales").bytes[..2].fill(0xff)),
            ("a.qzeros", "no tensor", |t| t.retain(|tensor| tensor.name != "a.qzeros")),
            ("a.qzeros", "padding after row 2", |t| of(t, "a.qzeros").bytes[11] = 0x80),
            ("a.order", "permutation", |t| of(t, "a.order").bytes.fill(0)),
            ("a.order", "shape [19], expected [20]", |t| {
                let order = of(t, "a.order");
                order.shape = vec![19];
                order.bytes.truncate(76);
            }),
        ];
        let packed = packed(RICH, [3, 20], true, 1);
        let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
        for (tensor, what, change) in cases {
            let mut tensors = tensors("a", &packed);
            change(&mut tensors);
            let (_folder, file, source) = open(&forge(&[("a", coded.clone())], &tensors));
            let error = read(&source.unwrap(), "a").unwrap_err().to_string();
            assert!(error.contains(&format!("`{tensor}`")) && error.contains(what), "{tensor}, {what}: {error}");
            assert!(error.contains(file.parent().unwrap().to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn an_impossible_shape_is_refused_before_anything_is_read() {
        let schemes = ["uint3/tensor/f16", "trellis4:16/tensor/f16"].map(|scheme| scheme.parse().unwrap());
        for (shape, scheme) in
            [[0, 20], [3, 0], [usize::MAX, 2], [2, usize::MAX], [1 << 40, 1 << 40], [1 << 31, 1 << 31]]
                .into_iter()
                .flat_map(|shape| schemes.map(|scheme| (shape, scheme)))
        {
            let (_folder, _, source) = open(&forge(&[("a", Layer { scheme, shape })], &[]));
            let source = source.unwrap();
            assert!(read(&source, "a").is_err(), "{shape:?}");
        }
    }

    #[test]
    fn a_layer_that_is_not_there_is_none() {
        let packed = packed(RICH, [3, 20], false, 1);
        // The tensors alone, as another dialect with the same names might have them.
        let (_folder, _, source) = open(&forge(&[], &tensors("a", &packed)));
        let source = source.unwrap();
        assert!(!is_packed(&source, "a"));
        assert_eq!(read(&source, "a").unwrap(), None);
    }

    #[test]
    fn the_layout_is_the_one_in_the_documentation() {
        let packed = packed(RICH, [3, 20], true, 1);
        let found: Vec<_> = tensors("a", &packed).into_iter().map(|t| (t.name, t.dtype, t.shape)).collect();
        let expected = [
            ("a.qweight", Dtype::I32, vec![3, 2]),
            ("a.scales", Dtype::I32, vec![3, 1]),
            ("a.outer_scales", Dtype::F16, vec![3, 2]),
            ("a.qzeros", Dtype::I32, vec![3, 1]),
            ("a.order", Dtype::I32, vec![20]),
        ];
        assert_eq!(found, expected.map(|(name, dtype, shape)| (name.to_owned(), dtype, shape)));
        let scales = Scales::Float(vec![1.0]);
        let packed =
            Packed::from_codes("int4/tensor/f16".parse().unwrap(), [1, 3], &[1, 2, 15], scales, None, None).unwrap();
        let found: Vec<_> = tensors("a", &packed).into_iter().map(|t| (t.shape, t.bytes)).collect();
        assert_eq!(found, [(vec![1, 1], vec![0x21, 0x0f, 0, 0]), (vec![1, 1], vec![0x00, 0x3c])]);
    }
}
