//! One `.lsq` file as it is being written: parts one after another, the header again when the checksums are known.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::entropy;
use crate::header::LONGEST_HEADER;
use crate::lsq::head::{Spelled, SpelledCoding, SpelledLayer, SpelledPart, SpelledTensor};
use crate::lsq::{HEAD_BYTES, LsqError, Stored, stream};
use crate::manifest::Sha256Sum;
use crate::native::{self, Piece};
use crate::shard::Slot;
use crate::{CheckpointError, Coding, Layer};

/// A file of which the header is known but for its checksums, which take the same room whatever they are.
pub(crate) struct LsqShard<'w, W> {
    out: &'w mut W,
    /// For messages.
    target: PathBuf,
    head: Spelled,
    places: BTreeMap<String, Place>,
    /// Where the parts begin, in bytes from the start of the file.
    data: u64,
}

/// Where a part goes, and where the header speaks of it.
struct Place {
    begin: u64,
    stored: Stored,
    entry: Entry,
}

#[derive(Clone, Copy)]
enum Entry {
    Tensor(usize),
    Part(usize, usize),
}

impl<'w, W: Write + Seek> LsqShard<'w, W> {
    /// Lays out the file in the order of `units`, each a dense tensor or the parts of a layer and how its codes are kept, and writes a header with
    /// zeros for checksums.
    pub fn start<'u>(
        out: &'w mut W,
        target: PathBuf,
        units: impl Iterator<Item = (&'u [Slot], Option<&'u (String, Layer)>, Coding)>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, CheckpointError> {
        let head = Spelled { metadata: metadata.clone(), tensors: Vec::new(), layers: Vec::new() };
        let mut shard = Self { out, target, head, places: BTreeMap::new(), data: 0 };
        let mut end = 0;
        for (slots, layer, coding) in units {
            match layer {
                None => slots.iter().for_each(|slot| shard.lay_dense(slot, &mut end)),
                Some((name, coded)) => shard.lay_layer(slots, name, coded, coding, &mut end),
            }
        }
        shard.data = shard.write_header()?;
        Ok(shard)
    }

    fn lay_dense(&mut self, slot: &Slot, end: &mut u64) {
        let (begin, entry) = (*end, Entry::Tensor(self.head.tensors.len()));
        *end += slot.len;
        self.places.insert(slot.name.clone(), Place { begin, stored: Stored::Plain, entry });
        self.head.tensors.push(SpelledTensor {
            name: slot.name.clone(),
            dtype: slot.info.dtype.to_string(),
            shape: slot.info.shape.clone(),
            bytes: [begin, *end],
            sha256: Sha256Sum::default(),
        });
    }

    fn lay_layer(&mut self, slots: &[Slot], name: &str, coded: &Layer, coding: Coding, end: &mut u64) {
        let ordered = slots.iter().any(|slot| slot.name == Piece::Order.name(name));
        let mut parts = Vec::new();
        for (slot, (piece, info)) in slots.iter().zip(native::layout(coded, ordered)) {
            let stream = entropy::stored(coded).filter(|_| coding == Coding::Entropy && piece == Piece::Codes);
            let (begin, stored) = (*end, stream.unwrap_or_else(|| Stored::of(piece, coded)));
            *end += match stored {
                Stored::Rans { .. } => slot.len,
                // The native spelling of the part was counted before, and is no shorter.
                _ => stored.len(&info).unwrap_or(slot.len),
            };
            let entry = Entry::Part(self.head.layers.len(), parts.len());
            self.places.insert(slot.name.clone(), Place { begin, stored, entry });
            let (part, sha256) = (piece.suffix().to_owned(), Sha256Sum::default());
            let coding = stream.map(|_| SpelledCoding::Rans);
            parts.push(SpelledPart { part, coding, bytes: [begin, *end], sha256 });
        }
        let (name, scheme) = (name.to_owned(), coded.scheme.to_string());
        self.head.layers.push(SpelledLayer { name, scheme, shape: coded.shape, parts });
    }

    /// Writes one tensor at its place, given as the native dialect spells it, or as a stream.
    pub fn write(&mut self, slot: &Slot, bytes: &[u8]) -> Result<(), CheckpointError> {
        slot.check(bytes)?;
        let Place { begin, stored, entry } = &self.places[&slot.name];
        let packed = match *stored {
            Stored::Plain | Stored::Rans { .. } | Stored::Rotary { .. } => None,
            Stored::Stream(rows) => Some(stream::from_words(bytes, rows)),
        };
        let bytes = packed.as_deref().unwrap_or(bytes);
        let sum = Sha256Sum::of(bytes);
        match *entry {
            Entry::Tensor(at) => self.head.tensors[at].sha256 = sum,
            Entry::Part(layer, at) => self.head.layers[layer].parts[at].sha256 = sum,
        }
        let place = SeekFrom::Start(self.data + begin);
        self.out.seek(place).and_then(|_| self.out.write_all(bytes)).map_err(|source| self.failed(source))
    }

    /// Writes the header again, now with the checksums of what was written; gives the bytes of all parts.
    pub fn seal(mut self) -> Result<u64, CheckpointError> {
        let data = self.write_header()?;
        assert_eq!(data, self.data, "the header changed its length");
        let dense = self.head.tensors.iter().map(|tensor| tensor.bytes);
        let packed = self.head.layers.iter().flat_map(|layer| layer.parts.iter().map(|part| part.bytes));
        Ok(dense.chain(packed).map(|[_, end]| end).max().unwrap_or(0))
    }

    /// Gives the position after the header.
    fn write_header(&mut self) -> Result<u64, CheckpointError> {
        let whole = self.head.to_bytes().map_err(|error| self.failed(error.into()))?;
        let bytes = whole.len() as u64 - HEAD_BYTES;
        if bytes > LONGEST_HEADER {
            return Err(CheckpointError::Lsq { file: self.target.clone(), source: LsqError::HeaderTooLong { bytes } });
        }
        let written = self.out.seek(SeekFrom::Start(0)).and_then(|_| self.out.write_all(&whole));
        written.map_err(|source| self.failed(source))?;
        Ok(whole.len() as u64)
    }

    fn failed(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Write { file: self.target.clone(), source }
    }
}
