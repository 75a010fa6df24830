//! One safetensors file as it is being written: tensors in any order, each at its place, checksums last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

use safetensors::Dtype;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::header::{LENGTH_BYTES, LONGEST_HEADER, METADATA_KEY};
use crate::manifest::{Layer, MANIFEST_KEY, Sha256Sum};
use crate::source::{TensorInfo, byte_len, check_size};
use crate::{CheckpointError, Manifest};

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub name: String,
    pub info: TensorInfo,
    /// Length in bytes.
    pub len: u64,
}

impl Slot {
    /// Errors: [`CheckpointError::Size`] for a shape that does not take a whole number of bytes below 2^64.
    pub fn new(name: String, info: TensorInfo) -> Result<Self, CheckpointError> {
        match byte_len(info.dtype, &info.shape) {
            Some(len) => Ok(Self { name, info, len }),
            None => Err(CheckpointError::Size { tensor: name, expected: u64::MAX, found: 0 }),
        }
    }

    /// Errors: [`CheckpointError::Size`] if `bytes` are not as many as the slot takes.
    pub fn check(&self, bytes: &[u8]) -> Result<(), CheckpointError> {
        check_size(&self.name, self.info.dtype, &self.info.shape, bytes.len() as u64)
    }
}

/// A file of which the header is known but for its checksums, which take the same room whatever they are.
pub(crate) struct Shard<'w, W> {
    out: &'w mut W,
    /// For messages.
    target: PathBuf,
    head: Head,
    /// Where the tensors begin, in bytes from the start of the file.
    data: u64,
}

/// What the header spells.
struct Head {
    metadata: BTreeMap<String, String>,
    manifest: Manifest,
    /// In the order of the file, with begin and end counted from the start of the data.
    tensors: Vec<(Slot, [u64; 2])>,
    begin: BTreeMap<String, u64>,
}

impl<'w, W: Write + Seek> Shard<'w, W> {
    /// Lays out the file and writes a header with zeros for checksums; `coded` are the tensors that are written as streams.
    pub fn start(
        out: &'w mut W,
        target: PathBuf,
        mut slots: Vec<Slot>,
        layers: BTreeMap<String, Layer>,
        coded: BTreeSet<String>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, CheckpointError> {
        // Largest alignment first, then by name, as the safetensors crate does: then every tensor is aligned to its type.
        slots.sort_by(|a, b| b.info.dtype.cmp(&a.info.dtype).then_with(|| a.name.cmp(&b.name)));
        let sha256 = slots.iter().map(|slot| (slot.name.clone(), Sha256Sum::default())).collect();
        let mut end = 0;
        let place = |slot: Slot| {
            let begin = end;
            end += slot.len;
            (slot, [begin, end])
        };
        let tensors: Vec<_> = slots.into_iter().map(place).collect();
        let begin = tensors.iter().map(|(slot, [begin, _])| (slot.name.clone(), *begin)).collect();
        let head = Head { metadata: metadata.clone(), manifest: Manifest { layers, coded, sha256 }, tensors, begin };
        let mut shard = Self { out, target, head, data: 0 };
        shard.data = shard.write_header()?;
        Ok(shard)
    }

    /// Writes one tensor at its place.
    pub fn write(&mut self, slot: &Slot, bytes: &[u8]) -> Result<(), CheckpointError> {
        slot.check(bytes)?;
        let place = SeekFrom::Start(self.data + self.head.begin[&slot.name]);
        self.out.seek(place).and_then(|_| self.out.write_all(bytes)).map_err(|source| self.failed(source))?;
        self.head.manifest.sha256.insert(slot.name.clone(), Sha256Sum::of(bytes));
        Ok(())
    }

    /// Writes the header again, now with the checksums of what was written.
    pub fn seal(mut self) -> Result<(), CheckpointError> {
        let data = self.write_header()?;
        assert_eq!(data, self.data, "the header changed its length");
        Ok(())
    }

    /// Gives the position after the header.
    fn write_header(&mut self) -> Result<u64, CheckpointError> {
        let mut text = serde_json::to_vec(&self.head).map_err(|error| self.failed(error.into()))?;
        // The data start at a multiple of 8 bytes.
        text.resize(text.len().next_multiple_of(8), b' ');
        let bytes = text.len() as u64;
        if bytes > LONGEST_HEADER {
            return Err(CheckpointError::HeaderTooLong { file: self.target.clone(), bytes, limit: LONGEST_HEADER });
        }
        let whole = [&bytes.to_le_bytes()[..], &text].concat();
        let written = self.out.seek(SeekFrom::Start(0)).and_then(|_| self.out.write_all(&whole));
        written.map_err(|source| self.failed(source))?;
        Ok(LENGTH_BYTES + bytes)
    }

    fn failed(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Write { file: self.target.clone(), source }
    }
}

impl Serialize for Head {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry<'a> {
            dtype: Dtype,
            shape: &'a [usize],
            data_offsets: [u64; 2],
        }
        let mut metadata: BTreeMap<&str, &str> = self.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let manifest = self.manifest.to_text().map_err(serde::ser::Error::custom)?;
        metadata.insert(MANIFEST_KEY, &manifest);
        let mut map = serializer.serialize_map(Some(self.tensors.len() + 1))?;
        map.serialize_entry(METADATA_KEY, &metadata)?;
        for (slot, data_offsets) in &self.tensors {
            let TensorInfo { dtype, shape } = &slot.info;
            map.serialize_entry(&slot.name, &Entry { dtype: *dtype, shape, data_offsets: *data_offsets })?;
        }
        map.end()
    }
}
