//! The container: metadata and tensors of a GGUF file of version 3, whatever they mean.
//!
//! All numbers are little-endian; a text is its length as u64 and UTF-8 bytes.
//!
//! ```text
//! 4 bytes    "GGUF"
//! 4          version, 3 (2 has the same layout and is read too)
//! 8          number of tensors
//! 8          number of metadata entries
//!            entries: key (text), kind of value (u32), value; an array is its elements' kind (u32), their number (u64), they
//!            tensors: name (text), axes (u32), extents (u64 each, innermost first), type (u32), offset (u64)
//!            zeros up to a multiple of `general.alignment`, 32 where it is not said
//!            data: each tensor at its offset from here, a multiple of the alignment
//! ```
//!
//! Source: ggml-org/ggml, the page `gguf.md` and `gguf.cpp`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use safetensors::Dtype;

use super::blocks::BlockType;
use super::error::GgufError;
use crate::source::byte_len;

/// The first bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The version written; 2, which has the same layout, is read too.
pub const GGUF_VERSION: u32 = 3;

/// The alignment of tensors where a file does not say it.
pub const ALIGNMENT: u64 = 32;

/// The metadata key of the alignment.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// Axes that a tensor has at most.
const MOST_AXES: u32 = 4;

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Numbers of a type that safetensors has too.
    Dense(Dtype),
    /// Blocks of codes along the innermost axis.
    Blocks(BlockType),
}

/// The types of tensors by their numbers; those of `None` are known by name and not read.
const TYPES: [(u32, &str, Option<Elements>); 32] = [
    (0, "F32", Some(Elements::Dense(Dtype::F32))),
    (1, "F16", Some(Elements::Dense(Dtype::F16))),
    (2, "Q4_0", Some(Elements::Blocks(BlockType::Q4_0))),
    (3, "Q4_1", Some(Elements::Blocks(BlockType::Q4_1))),
    (6, "Q5_0", Some(Elements::Blocks(BlockType::Q5_0))),
    (7, "Q5_1", Some(Elements::Blocks(BlockType::Q5_1))),
    (8, "Q8_0", Some(Elements::Blocks(BlockType::Q8_0))),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(Elements::Blocks(BlockType::Q2_K))),
    (11, "Q3_K", Some(Elements::Blocks(BlockType::Q3_K))),
    (12, "Q4_K", Some(Elements::Blocks(BlockType::Q4_K))),
    (13, "Q5_K", Some(Elements::Blocks(BlockType::Q5_K))),
    (14, "Q6_K", Some(Elements::Blocks(BlockType::Q6_K))),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", Some(Elements::Blocks(BlockType::IQ4_NL))),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", Some(Elements::Blocks(BlockType::IQ4_XS))),
    (24, "I8", Some(Elements::Dense(Dtype::I8))),
    (25, "I16", Some(Elements::Dense(Dtype::I16))),
    (26, "I32", Some(Elements::Dense(Dtype::I32))),
    (27, "I64", Some(Elements::Dense(Dtype::I64))),
    (28, "F64", Some(Elements::Dense(Dtype::F64))),
    (29, "IQ1_M", None),
    (30, "BF16", Some(Elements::Dense(Dtype::BF16))),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", Some(Elements::Blocks(BlockType::MXFP4))),
];

/// Types that came later and are not read.
const LATER: [(u32, &str); 3] = [(40, "NVFP4"), (41, "Q1_0"), (42, "Q2_0")];

impl Elements {
    /// The type of this number. Errors: why it is not read, in words that follow the tensor's name.
    fn numbered(number: u32) -> Result<Self, String> {
        match TYPES.iter().find(|(own, ..)| *own == number) {
            Some((.., Some(elements))) => Ok(*elements),
            Some((_, name, None)) => Err(format!("has type {name}, which is not read here")),
            None => match LATER.iter().find(|(own, _)| *own == number) {
                Some((_, name)) => Err(format!("has type {name}, which is not read here")),
                None => Err(format!("has type {number}, which is none")),
            },
        }
    }

    /// Its number; `None` where no file has such elements.
    pub(super) fn number(self) -> Option<u32> {
        TYPES.iter().find(|(.., elements)| *elements == Some(self)).map(|(number, ..)| *number)
    }

    /// Bytes of a tensor, its innermost axis last; `None` where its rows fill no whole blocks or a `u64` does not count them.
    pub(super) fn bytes(self, shape: &[usize]) -> Option<u64> {
        match self {
            Self::Dense(dtype) => byte_len(dtype, shape),
            Self::Blocks(kind) => {
                let (&columns, outer) = shape.split_last()?;
                let row = kind.row_bytes(columns)? as u64;
                outer.iter().try_fold(row, |bytes, &extent| bytes.checked_mul(extent as u64))
            }
        }
    }
}

impl fmt::Display for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(dtype) => write!(f, "{dtype}"),
            Self::Blocks(kind) => write!(f, "{kind}"),
        }
    }
}

/// What the elements of an array of numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl Kind {
    const NUMBERED: [(u32, Self); 11] = [
        (0, Self::U8),
        (1, Self::I8),
        (2, Self::U16),
        (3, Self::I16),
        (4, Self::U32),
        (5, Self::I32),
        (6, Self::F32),
        (7, Self::Bool),
        (10, Self::U64),
        (11, Self::I64),
        (12, Self::F64),
    ];

    fn numbered(number: u32) -> Option<Self> {
        Self::NUMBERED.iter().find(|(own, _)| *own == number).map(|(_, kind)| *kind)
    }

    fn number(self) -> u32 {
        Self::NUMBERED.iter().find(|(_, kind)| *kind == self).map_or(0, |(number, _)| *number)
    }

    /// Bytes of one number.
    const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// The value of a metadata entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Numbers and truth values: one, or an array of them, little-endian.
    Numbers {
        /// What each is.
        kind: Kind,
        /// Whether they are an array; else there is exactly one.
        array: bool,
        /// The numbers.
        bytes: Vec<u8>,
    },
    /// A text.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
}

impl Value {
    fn one(kind: Kind, bytes: &[u8]) -> Self {
        Self::Numbers { kind, array: false, bytes: bytes.to_vec() }
    }

    /// The value as a number, where it is one that `f64` holds: all but wide integers.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Numbers { array: false, kind, bytes } => numbers(*kind, bytes).next(),
            _ => None,
        }
    }

    /// The value as an integer that is not negative.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Numbers { kind: Kind::F32 | Kind::F64 | Kind::Bool, .. } => None,
            Self::Numbers { kind: Kind::U64, array: false, bytes } => {
                Some(u64::from_le_bytes(bytes.as_slice().try_into().ok()?))
            }
            _ => self.number().filter(|number| *number >= 0.0).map(|number| number as u64),
        }
    }

    /// The value as a truth value.
    pub fn flag(&self) -> Option<bool> {
        match self {
            Self::Numbers { kind: Kind::Bool, array: false, bytes } => Some(bytes.first() == Some(&1)),
            _ => None,
        }
    }

    /// The value as a text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as an array of texts.
    pub fn texts(&self) -> Option<&[String]> {
        match self {
            Self::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// The value as an array of numbers, each as an `f64`.
    pub fn list(&self) -> Option<Vec<f64>> {
        match self {
            Self::Numbers { array: true, kind, bytes } => Some(numbers(*kind, bytes).collect()),
            _ => None,
        }
    }
}

/// Little-endian numbers; integers above 2^53 are rounded.
fn numbers(kind: Kind, bytes: &[u8]) -> impl Iterator<Item = f64> {
    let number = move |bytes: &[u8]| {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        // The sign bit of a narrower integer is brought to the top and back.
        let spare = 64 - 8 * bytes.len() as u32;
        let signed = (unsigned << spare) as i64 >> spare;
        match kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 | Kind::Bool => unsigned as f64,
            Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => signed as f64,
            Kind::F32 => f64::from(f32::from_bits(unsigned as u32)),
            Kind::F64 => f64::from_bits(unsigned),
        }
    };
    bytes.chunks_exact(kind.bytes()).map(number)
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::one(Kind::U32, &value.to_le_bytes())
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self::one(Kind::F32, &value.to_le_bytes())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::one(Kind::Bool, &[u8::from(value)])
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&[String]> for Value {
    fn from(value: &[String]) -> Self {
        Self::Texts(value.to_vec())
    }
}

impl From<&[i32]> for Value {
    fn from(value: &[i32]) -> Self {
        let bytes = value.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self::Numbers { kind: Kind::I32, array: true, bytes }
    }
}

impl From<&[f32]> for Value {
    fn from(value: &[f32]) -> Self {
        let bytes = value.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self::Numbers { kind: Kind::F32, array: true, bytes }
    }
}

/// The metadata of a file: values by key, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    places: BTreeMap<String, usize>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.places.get(key).map(|&at| &self.entries[at].1)
    }

    /// Sets a key: in its place where there is one, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.places.get(&key) {
            Some(&at) => self.entries[at].1 = value,
            None => {
                self.places.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the file.
    pub name: String,
    /// Type of its elements.
    pub elements: Elements,
    /// Extent of each axis in weights, outermost first: the reverse of the file.
    pub shape: Vec<usize>,
    /// Where its bytes begin in the file.
    pub begin: u64,
    /// How many they are.
    pub bytes: u64,
}

/// What the header of a file says; every tensor lies inside the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// Values by key.
    pub metadata: Metadata,
    /// Tensors in the order of the file.
    pub tensors: Vec<Entry>,
}

/// Bytes still to be read.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64, what: impl FnOnce() -> String) -> Result<&'a [u8], GgufError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(count).ok().and_then(|count| rest.get(..count)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(GgufError::Truncated { what: what(), expected: count, found: rest.len() as u64 }),
        }
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        let bytes = self.take(4, || what.to_owned())?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        let bytes = self.take(8, || what.to_owned())?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn text(&mut self, what: &str) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        let bytes = self.take(length, || what.to_owned())?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|error| GgufError::Text { what: what.to_owned(), at: error.valid_up_to() })
    }

    /// Errors where `count` things of at least `least` bytes each cannot be in what is left.
    fn room(&self, count: u64, least: u64, what: impl FnOnce() -> String) -> Result<(), GgufError> {
        let found = (self.bytes.len() - self.at) as u64;
        match count.checked_mul(least) {
            Some(expected) if expected <= found => Ok(()),
            expected => Err(GgufError::Truncated { what: what(), expected: expected.unwrap_or(u64::MAX), found }),
        }
    }
}

/// Reads the header of a file, given all its bytes.
///
/// Nothing is allocated for a count before the file has been found long enough for it.
///
/// Errors: each names what is wrong, with the key or the tensor where there is one.
pub fn read(bytes: &[u8]) -> Result<Contents, GgufError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let magic = cursor.take(4, || "the first bytes".to_owned())?;
    if magic != MAGIC {
        return Err(GgufError::Magic { found: [magic[0], magic[1], magic[2], magic[3]] });
    }
    let version = cursor.u32("the version")?;
    if !matches!(version, 2 | GGUF_VERSION) {
        return Err(GgufError::Version { found: version });
    }
    let tensors = cursor.u64("the number of tensors")?;
    let entries = cursor.u64("the number of metadata entries")?;
    // The least that an entry takes: lengths of key, kind and one byte; of a tensor: of name, axes, type and offset.
    cursor.room(entries, 13, || format!("the metadata, {entries} entries"))?;
    let mut metadata = Metadata::default();
    for _ in 0..entries {
        let key = cursor.text("a metadata key")?;
        let value = value(&mut cursor, &key)?;
        if metadata.get(&key).is_some() {
            return Err(GgufError::Key { key, reason: "occurs twice".to_owned() });
        }
        metadata.set(key, value);
    }
    let alignment = alignment(&metadata)?;
    cursor.room(tensors, 24, || format!("the list of {tensors} tensors"))?;
    let listed = (0..tensors).map(|_| entry(&mut cursor, alignment)).collect::<Result<Vec<_>, _>>()?;
    let data = (cursor.at as u64).next_multiple_of(alignment);
    let tensors = place(listed, data, bytes.len() as u64)?;
    Ok(Contents { metadata, tensors })
}

fn value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let what = format!("the value of `{key}`");
    let wrong = |reason: String| GgufError::Key { key: key.to_owned(), reason };
    let number = cursor.u32(&what)?;
    let (array, number, count) = match number {
        ARRAY => (true, cursor.u32(&what)?, cursor.u64(&what)?),
        _ => (false, number, 1),
    };
    match (number, array) {
        (TEXT, false) => return cursor.text(&what).map(Value::Text),
        (TEXT, true) => {
            cursor.room(count, 8, || what.clone())?;
            return (0..count).map(|_| cursor.text(&what)).collect::<Result<_, _>>().map(Value::Texts);
        }
        (ARRAY, true) => return Err(wrong("is an array of arrays, which no reader takes".to_owned())),
        _ => {}
    }
    let kind = Kind::numbered(number).ok_or_else(|| wrong(format!("has a value of kind {number}, which is none")))?;
    cursor.room(count, kind.bytes() as u64, || what.clone())?;
    let bytes = cursor.take(count * kind.bytes() as u64, || what.clone())?.to_vec();
    match bytes.iter().find(|&&byte| kind == Kind::Bool && byte > 1) {
        Some(byte) => Err(wrong(format!("is a truth value of {byte}, expected 0 or 1"))),
        None => Ok(Value::Numbers { kind, array, bytes }),
    }
}

/// What the places of tensors are multiples of. Errors: a value that is no power of two.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(ALIGNMENT) };
    match value.count() {
        Some(alignment) if alignment.is_power_of_two() && u32::try_from(alignment).is_ok() => Ok(alignment),
        _ => {
            let reason = format!("is {}, expected a power of two below 2^32", shown(value));
            Err(GgufError::Key { key: ALIGNMENT_KEY.to_owned(), reason })
        }
    }
}

/// A value for messages.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Numbers { array: false, .. } => value.number().map_or_else(String::new, |number| number.to_string()),
        Value::Numbers { kind, bytes, .. } => format!("an array of {} {kind:?}", bytes.len() / kind.bytes()),
        Value::Text(text) => format!("the text `{}`", text.chars().take(40).collect::<String>()),
        Value::Texts(texts) => format!("an array of {} texts", texts.len()),
    }
}

/// One tensor of the list, its place counted from the start of the data.
fn entry(cursor: &mut Cursor<'_>, alignment: u64) -> Result<Entry, GgufError> {
    let name = cursor.text("the name of a tensor")?;
    let what = format!("what it says of tensor `{name}`");
    let wrong = |reason: String| GgufError::Tensor { tensor: name.clone(), reason };
    let axes = cursor.u32(&what)?;
    if axes > MOST_AXES {
        return Err(wrong(format!("has {axes} axes, at most {MOST_AXES} expected")));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let extent = cursor.u64(&what)?;
        match usize::try_from(extent) {
            Ok(extent) if extent > 0 => shape.insert(0, extent),
            _ => return Err(wrong(format!("has an axis of {extent}, which is none"))),
        }
    }
    let elements = Elements::numbered(cursor.u32(&what)?).map_err(wrong)?;
    let begin = cursor.u64(&what)?;
    let Some(bytes) = elements.bytes(&shape) else {
        let blocks = match elements {
            Elements::Blocks(kind) => format!(" in blocks of {}", kind.weights()),
            Elements::Dense(_) => String::new(),
        };
        return Err(wrong(format!("has the shape {shape:?}, which {elements}{blocks} does not fill")));
    };
    if !begin.is_multiple_of(alignment) {
        return Err(wrong(format!("begins at byte {begin} of the data, a multiple of {alignment} expected")));
    }
    Ok(Entry { name, elements, shape, begin, bytes })
}

/// Puts the tensors where they lie in a file of `found` bytes whose data begin at `data`.
fn place(mut tensors: Vec<Entry>, data: u64, found: u64) -> Result<Vec<Entry>, GgufError> {
    let mut names = BTreeSet::new();
    for entry in &mut tensors {
        let wrong = |reason: String| GgufError::Tensor { tensor: entry.name.clone(), reason };
        if !names.insert(entry.name.clone()) {
            return Err(wrong("occurs twice".to_owned()));
        }
        let begin = data.checked_add(entry.begin);
        let end = begin.and_then(|begin| begin.checked_add(entry.bytes));
        let (Some(begin), Some(end)) = (begin, end) else {
            return Err(wrong(format!("begins at byte {} of the data, beyond any file", entry.begin)));
        };
        if end > found {
            let what = format!("tensor `{}`", entry.name);
            return Err(GgufError::Truncated { what, expected: end, found });
        }
        entry.begin = begin;
    }
    let mut by_place: Vec<&Entry> = tensors.iter().collect();
    by_place.sort_by_key(|entry| (entry.begin, entry.bytes));
    for pair in by_place.windows(2) {
        if pair[0].begin + pair[0].bytes > pair[1].begin {
            let reason = format!("begins at byte {} of the file, inside tensor `{}`", pair[1].begin, pair[0].name);
            return Err(GgufError::Tensor { tensor: pair[1].name.clone(), reason });
        }
    }
    Ok(tensors)
}

/// A tensor to be written, its bytes not yet at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub name: String,
    /// The number of its type.
    pub number: u32,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub bytes: u64,
}

/// The bytes of a file before its data, and the offset of each tensor from the start of the data.
pub(super) fn header(metadata: &Metadata, tensors: &[Planned]) -> Result<(Vec<u8>, Vec<u64>), GgufError> {
    let alignment = alignment(metadata)?;
    let mut bytes = [&MAGIC[..], &GGUF_VERSION.to_le_bytes()].concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.entries.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        push_text(&mut bytes, key);
        push_value(&mut bytes, value);
    }
    let (mut offset, mut offsets) = (0_u64, Vec::with_capacity(tensors.len()));
    for tensor in tensors {
        push_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&extent| bytes.extend((extent as u64).to_le_bytes()));
        bytes.extend(tensor.number.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offsets.push(offset);
        offset = (offset + tensor.bytes).next_multiple_of(alignment);
    }
    bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
    Ok((bytes, offsets))
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn push_value(bytes: &mut Vec<u8>, value: &Value) {
    let mut array = |kind: u32, count: usize| {
        bytes.extend(ARRAY.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::Numbers { kind, array: false, bytes: numbers } => {
            bytes.extend(kind.number().to_le_bytes());
            bytes.extend(numbers);
        }
        Value::Numbers { kind, array: true, bytes: numbers } => {
            array(kind.number(), numbers.len() / kind.bytes());
            bytes.extend(numbers);
        }
        Value::Text(text) => {
            bytes.extend(TEXT.to_le_bytes());
            push_text(bytes, text);
        }
        Value::Texts(texts) => {
            array(TEXT, texts.len());
            texts.iter().for_each(|text| push_text(bytes, text));
        }
    }
}
