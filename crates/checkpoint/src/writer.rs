//! A checkpoint to write to: tensors are announced first, and produced one at a time while the files are written.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use quench_format::{Packed, rans};
use safetensors::Dtype;

use crate::entropy;
use crate::file::{AtomicFile, write_atomically};
use crate::header::METADATA_KEY;
use crate::index::{INDEX, WEIGHTS, index_text, is_shard_name, shard_name};
use crate::lsq::{LSQ_WEIGHTS, LsqShard};
use crate::manifest::{Layer, MANIFEST_KEY};
use crate::native::{self, Piece};
use crate::shard::{Shard, Slot};
use crate::source::{TensorInfo, TensorView};
use crate::{CheckpointError, Coding, Source};

/// What every safetensors file says of itself unless it was told otherwise. Python's accelerate, and with it GPTQModel,
/// refuses a file with metadata that lack it.
const LAYOUT: (&str, &str) = ("format", "pt");

/// Bytes of a tensor, at hand or to be made when its turn comes.
pub enum Bytes<'a> {
    /// In memory.
    Now(Cow<'a, [u8]>),
    /// In a file, mapped while it is copied.
    View(TensorView),
    /// Made when it is written, and dropped after.
    Later(Box<dyn FnOnce() -> Result<Vec<u8>, CheckpointError> + 'a>),
}

impl From<Vec<u8>> for Bytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Now(bytes.into())
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Now(bytes.into())
    }
}

impl From<TensorView> for Bytes<'_> {
    fn from(view: TensorView) -> Self {
        Self::View(view)
    }
}

/// Writes a checkpoint folder, `model.safetensors` or shards and an index, or one file: safetensors, or [`crate::lsq`].
///
/// Tensors are only announced by `add`, `copy` and `packed`; [`Writer::finish`] writes them one after another, so no more
/// than one need be in memory. What belongs together (the tensors of a packed layer) stays in one file. The bytes of the
/// files depend on what was announced, in which order, and on nothing else. Every file carries the metadata strings, its
/// packed layers and the checksums of its tensors (`docs/checkpoint.md`).
pub struct Writer<'a> {
    target: Target,
    units: Vec<Unit<'a>>,
    names: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
    coding: Coding,
}

/// Where a checkpoint goes.
enum Target {
    Folder { folder: PathBuf, max_shard_bytes: u64 },
    Safetensors(PathBuf),
    Lsq(PathBuf),
}

impl Target {
    fn path(&self) -> &Path {
        match self {
            Self::Folder { folder: path, .. } | Self::Safetensors(path) | Self::Lsq(path) => path,
        }
    }
}

/// What stays together in one file.
struct Unit<'a> {
    slots: Vec<Slot>,
    layer: Option<(String, Layer)>,
    /// How the codes of the layer are kept.
    coding: Coding,
    fill: Fill<'a>,
}

/// Where the bytes of a unit come from.
enum Fill<'a> {
    Bytes(Bytes<'a>),
    Packed(Vec<Piece>, Box<dyn FnOnce() -> Result<Packed, CheckpointError> + 'a>),
    Copy(&'a dyn Source),
}

/// Told what is written next, and asked whether to go on.
pub type Observe<'o> = dyn FnMut(&str) -> ControlFlow<()> + 'o;

/// What a [`Writer`] has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The files, the index last.
    pub files: Vec<PathBuf>,
    /// Bytes of all tensors, headers not counted.
    pub tensor_bytes: u64,
}

impl<'a> Writer<'a> {
    /// A writer into `folder`, which is made if absent. A file takes at most `max_shard_bytes` of tensors, unless a single
    /// tensor or packed layer is larger.
    ///
    /// Errors: [`CheckpointError::Write`].
    pub fn create(folder: impl Into<PathBuf>, max_shard_bytes: u64) -> Result<Self, CheckpointError> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(|source| CheckpointError::Write { file: folder.clone(), source })?;
        Ok(Self::to(Target::Folder { folder, max_shard_bytes }))
    }

    /// A writer of one safetensors file of any name.
    pub fn safetensors(file: impl Into<PathBuf>) -> Self {
        Self::to(Target::Safetensors(file.into()))
    }

    /// A writer of one `.lsq` file ([`crate::lsq`]); its parts come in the order in which they were announced.
    pub fn lsq(file: impl Into<PathBuf>) -> Self {
        Self::to(Target::Lsq(file.into()))
    }

    fn to(target: Target) -> Self {
        // A tensor of this name would hide the metadata.
        let names = BTreeSet::from([METADATA_KEY.to_owned()]);
        Self { target, units: Vec::new(), names, metadata: BTreeMap::new(), coding: Coding::default() }
    }

    /// The same writer, which keeps the codes of packed layers in this way. A layer whose codes would not be shorter, have more
    /// than 8 bits or share them keeps its words.
    pub fn with_coding(self, coding: Coding) -> Self {
        Self { coding, ..self }
    }

    /// A string for the metadata of every file; the last value of a key counts.
    ///
    /// Panics for the key `quench`, which is the writer's own.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let key = key.into();
        assert_ne!(key, MANIFEST_KEY, "the metadata key `{MANIFEST_KEY}` is written by the writer itself");
        self.metadata.insert(key, value.into());
    }

    /// A dense tensor; `bytes` are row-major, little-endian, and kept as they are.
    ///
    /// Errors: [`CheckpointError::DuplicateTensor`] for a name announced before, [`CheckpointError::Size`] for bytes that
    /// do not fill the shape (those made later are checked later).
    pub fn add(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
        bytes: impl Into<Bytes<'a>>,
    ) -> Result<(), CheckpointError> {
        let (name, bytes) = (name.into(), bytes.into());
        let slot = Slot::new(name, TensorInfo { dtype, shape: shape.into() })?;
        match &bytes {
            Bytes::Now(bytes) => slot.check(bytes)?,
            Bytes::View(view) => slot.check(view.bytes())?,
            Bytes::Later(_) => {}
        }
        self.announce(Unit { slots: vec![slot], layer: None, coding: Coding::Words, fill: Fill::Bytes(bytes) })
    }

    /// A dense tensor made when it is written. Errors as [`Writer::add`].
    pub fn add_later(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
        make: impl FnOnce() -> Result<Vec<u8>, CheckpointError> + 'a,
    ) -> Result<(), CheckpointError> {
        self.add(name, dtype, shape, Bytes::Later(Box::new(make)))
    }

    /// A tensor of another checkpoint, in its own type and bytes; read when it is written.
    ///
    /// Errors: [`CheckpointError::MissingTensor`], [`CheckpointError::DuplicateTensor`].
    pub fn copy(&mut self, source: &'a dyn Source, name: &str) -> Result<(), CheckpointError> {
        let Some(info) = source.info(name) else {
            return Err(CheckpointError::MissingTensor { path: source.path().to_path_buf(), tensor: name.to_owned() });
        };
        let slots = vec![Slot::new(name.to_owned(), info)?];
        self.announce(Unit { slots, layer: None, coding: Coding::Words, fill: Fill::Copy(source) })
    }

    /// A packed layer; `layer` is the name of the weight without `.weight`.
    ///
    /// Errors: [`CheckpointError::DuplicateTensor`].
    pub fn packed(&mut self, layer: impl Into<String>, packed: Packed) -> Result<(), CheckpointError> {
        let coded = Layer { scheme: packed.scheme(), shape: packed.shape() };
        let ordered = packed.parts().order.is_some();
        let stream = self.stream_len(|| Ok(entropy::shorter_len(&packed)))?;
        self.made(layer.into(), coded, ordered, stream, Box::new(move || Ok(packed)))
    }

    /// A packed layer made when it is written, with [`Coding::Entropy`] also now, since the length of a stream depends on the codes;
    /// `ordered` says whether it will have a column order.
    ///
    /// Errors: [`CheckpointError::DuplicateTensor`], and now also those of `make` if it is made now. [`Writer::finish`] panics if the
    /// matrix made has another scheme, shape or order than was announced.
    pub fn packed_later(
        &mut self,
        layer: impl Into<String>,
        coded: Layer,
        ordered: bool,
        make: impl Fn() -> Result<Packed, CheckpointError> + 'a,
    ) -> Result<(), CheckpointError> {
        let stream = self.stream_len(|| Ok(entropy::shorter_len(&make()?)))?;
        self.made(layer.into(), coded, ordered, stream, Box::new(make))
    }

    /// The length of a stream, where there is to be one.
    fn stream_len(
        &self,
        measure: impl FnOnce() -> Result<Option<usize>, CheckpointError>,
    ) -> Result<Option<usize>, CheckpointError> {
        if self.coding == Coding::Entropy { measure() } else { Ok(None) }
    }

    /// Announces a packed layer whose codes are a stream of this length, or words.
    fn made(
        &mut self,
        layer: String,
        coded: Layer,
        ordered: bool,
        stream: Option<usize>,
        make: Box<dyn FnOnce() -> Result<Packed, CheckpointError> + 'a>,
    ) -> Result<(), CheckpointError> {
        let layout = streamed(native::layout(&coded, ordered), stream);
        let (announced, name) = (coded.clone(), layer.clone());
        let make = move || {
            let packed = make()?;
            let found = (packed.scheme(), packed.shape(), packed.parts().order.is_some());
            assert_eq!(found, (announced.scheme, announced.shape, ordered), "layer `{name}` is not as announced");
            Ok(packed)
        };
        let fill = Fill::Packed(layout.iter().map(|(piece, _)| *piece).collect(), Box::new(make));
        let coding = Coding::of(stream);
        self.announce(Unit { slots: slots(&layer, layout)?, layer: Some((layer, coded)), coding, fill })
    }

    /// A packed layer of another checkpoint in our dialect, its tensors copied as they are; codes become a stream or words as this
    /// writer keeps them.
    ///
    /// Errors: [`CheckpointError::MissingTensor`] if it is not packed there, [`CheckpointError::DuplicateTensor`], and
    /// what [`native::read`] finds wrong in headers.
    pub fn copy_packed(&mut self, source: &'a dyn Source, layer: &str) -> Result<(), CheckpointError> {
        let Some(coded) = source.manifest().layers.get(layer) else {
            let (path, tensor) = (source.path().to_path_buf(), Piece::Codes.name(layer));
            return Err(CheckpointError::MissingTensor { path, tensor });
        };
        let (layout, codes) = (native::check(source, layer, coded)?, Piece::Codes.name(layer));
        let stream = source.manifest().coded.contains(&codes).then(|| source.stored_bytes(&codes)).flatten();
        if self.coding == Coding::Entropy && stream.is_none() {
            let (name, ordered) = (layer.to_owned(), layout.iter().any(|(piece, _)| *piece == Piece::Order));
            let missing = move || CheckpointError::MissingTensor { path: source.path().into(), tensor: codes.clone() };
            let make = move || native::read(source, &name)?.ok_or_else(&missing);
            return self.packed_later(layer, coded.clone(), ordered, make);
        }
        let stream = stream.filter(|_| self.coding == Coding::Entropy).map(|bytes| bytes as usize);
        let (slots, coding) = (slots(layer, streamed(layout, stream))?, Coding::of(stream));
        self.announce(Unit { slots, layer: Some((layer.to_owned(), coded.clone())), coding, fill: Fill::Copy(source) })
    }

    fn announce(&mut self, unit: Unit<'a>) -> Result<(), CheckpointError> {
        for slot in &unit.slots {
            if !self.names.insert(slot.name.clone()) {
                let (tensor, path) = (slot.name.clone(), self.target.path());
                return Err(CheckpointError::DuplicateTensor { tensor, first: path.into(), second: path.into() });
            }
        }
        self.units.push(unit);
        Ok(())
    }

    /// Writes the files under temporary names, syncs them, and only then renames them all, the index last. Weight files
    /// of an earlier checkpoint in the folder are replaced or removed.
    ///
    /// Errors: [`CheckpointError::Write`] with the file's name, for example when the disk is full; nothing has been renamed
    /// or removed then. Errors of what makes the tensors are passed on, with the same effect.
    pub fn finish(self) -> Result<Written, CheckpointError> {
        self.finish_with(&mut |_| ControlFlow::Continue(()))
    }

    /// [`Writer::finish`], with a word before each tensor or packed layer: its name, and a way to stop.
    ///
    /// Errors: [`CheckpointError::Stopped`] if told to, else as [`Writer::finish`], with the same effect.
    pub fn finish_with(self, observe: &mut Observe<'_>) -> Result<Written, CheckpointError> {
        let Self { target, units, mut metadata, .. } = self;
        if !matches!(target, Target::Lsq(_)) {
            let (key, value) = LAYOUT;
            metadata.entry(key.into()).or_insert_with(|| value.into());
        }
        let (folder, max_shard_bytes) = match target {
            Target::Folder { folder, max_shard_bytes } => (folder, max_shard_bytes),
            Target::Safetensors(path) => {
                let mut file = AtomicFile::create(&path)?;
                let tensor_bytes = units.iter().map(Unit::bytes).sum();
                write_shard(&mut file, units, &metadata, observe)?;
                file.commit()?;
                return Ok(Written { files: vec![path], tensor_bytes });
            }
            Target::Lsq(path) => {
                let mut file = AtomicFile::create(&path)?;
                let tensor_bytes = write_lsq(&mut file, units, &metadata, observe)?;
                file.commit()?;
                return Ok(Written { files: vec![path], tensor_bytes });
            }
        };
        let shards = divide(units, max_shard_bytes);
        let names: Vec<_> = (1..=shards.len()).map(|at| shard_name(at, shards.len())).collect();
        let (mut files, mut map, mut tensor_bytes) = (Vec::new(), BTreeMap::new(), 0);
        for (units, name) in shards.into_iter().zip(&names) {
            for slot in units.iter().flat_map(|unit| &unit.slots) {
                tensor_bytes += slot.len;
                map.insert(slot.name.clone(), name.clone());
            }
            let mut file = AtomicFile::create(folder.join(name))?;
            write_shard(&mut file, units, &metadata, observe)?;
            file.sync()?;
            files.push(file);
        }
        let mut written: Vec<_> = files.iter().map(|file| file.target().to_path_buf()).collect();
        // The old index goes first and the new one comes last: a folder caught in between is refused, not misread.
        remove_others(&folder, &names)?;
        files.into_iter().try_for_each(AtomicFile::commit)?;
        if names.len() > 1 {
            let index = folder.join(INDEX);
            write_atomically(&index, &index_text(&map, tensor_bytes, &index)?)?;
            written.push(index);
        }
        Ok(Written { files: written, tensor_bytes })
    }
}

/// The tensors of a layer whose codes are a stream of this length, if they are.
fn streamed(mut layout: Vec<(Piece, TensorInfo)>, stream: Option<usize>) -> Vec<(Piece, TensorInfo)> {
    if let (Some(bytes), Some((_, info))) = (stream, layout.iter_mut().find(|(piece, _)| *piece == Piece::Codes)) {
        *info = entropy::info(bytes);
    }
    layout
}

fn slots(layer: &str, layout: Vec<(Piece, TensorInfo)>) -> Result<Vec<Slot>, CheckpointError> {
    layout.into_iter().map(|(piece, info)| Slot::new(piece.name(layer), info)).collect()
}

/// Fills one file after another, in the order announced.
fn divide(units: Vec<Unit<'_>>, max_shard_bytes: u64) -> Vec<Vec<Unit<'_>>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for unit in units {
        let bytes = unit.bytes();
        if filled > 0 && filled + bytes > max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        let last = shards.len() - 1;
        shards[last].push(unit);
    }
    shards
}

fn write_shard(
    file: &mut AtomicFile,
    units: Vec<Unit<'_>>,
    metadata: &BTreeMap<String, String>,
    observe: &mut Observe<'_>,
) -> Result<(), CheckpointError> {
    let target = file.target().to_path_buf();
    let slots = units.iter().flat_map(|unit| unit.slots.iter().cloned());
    let layers = units.iter().filter_map(|unit| unit.layer.clone());
    let coded = units.iter().filter(|unit| unit.coding == Coding::Entropy).filter_map(|unit| unit.layer.as_ref());
    let coded = coded.map(|(layer, _)| Piece::Codes.name(layer)).collect();
    let mut shard = Shard::start(file, target.clone(), slots.collect(), layers.collect(), coded, metadata)?;
    for unit in units {
        unit.announce(&target, observe)?;
        unit.produce(|slot, bytes| shard.write(slot, bytes))?;
    }
    shard.seal()
}

/// Gives the bytes of all tensors.
fn write_lsq(
    file: &mut AtomicFile,
    units: Vec<Unit<'_>>,
    metadata: &BTreeMap<String, String>,
    observe: &mut Observe<'_>,
) -> Result<u64, CheckpointError> {
    let target = file.target().to_path_buf();
    let laid = units.iter().map(|unit| (&unit.slots[..], unit.layer.as_ref(), unit.coding));
    let mut shard = LsqShard::start(file, target.clone(), laid, metadata)?;
    for unit in units {
        unit.announce(&target, observe)?;
        unit.produce(|slot, bytes| shard.write(slot, bytes))?;
    }
    shard.seal()
}

impl Unit<'_> {
    fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.len).sum()
    }

    /// Says what comes next.
    fn announce(&self, target: &Path, observe: &mut Observe<'_>) -> Result<(), CheckpointError> {
        let name = self.layer.as_ref().map_or_else(|| self.slots[0].name.as_str(), |(layer, _)| layer);
        match observe(name) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CheckpointError::Stopped { file: target.to_path_buf() }),
        }
    }

    /// Hands each tensor's bytes to `write`, one tensor or packed layer in memory at a time.
    fn produce(
        self,
        mut write: impl FnMut(&Slot, &[u8]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let slots = &self.slots;
        match self.fill {
            Fill::Bytes(Bytes::Now(bytes)) => write(&slots[0], &bytes),
            Fill::Bytes(Bytes::View(view)) => write(&slots[0], view.bytes()),
            Fill::Bytes(Bytes::Later(make)) => write(&slots[0], &make()?),
            Fill::Packed(pieces, make) => {
                let packed = make()?;
                let bytes = |piece| match (piece, self.coding) {
                    (Piece::Codes, Coding::Entropy) => rans::encode_packed(&packed).unwrap_or_default(),
                    _ => piece.bytes(&packed),
                };
                pieces.into_iter().zip(slots).try_for_each(|(piece, slot)| write(slot, &bytes(piece)))
            }
            Fill::Copy(source) => slots.iter().try_for_each(|slot| {
                let stream = if self.coding == Coding::Entropy { source.stream(&slot.name)? } else { None };
                write(slot, stream.map_or_else(|| source.tensor(&slot.name), Ok)?.bytes())
            }),
        }
    }
}

/// Removes the weight files of an earlier checkpoint that the new one does not replace, and its index.
fn remove_others(folder: &Path, names: &[String]) -> Result<(), CheckpointError> {
    let failed = |file: &Path, source| CheckpointError::Write { file: file.to_path_buf(), source };
    for entry in fs::read_dir(folder).map_err(|source| failed(folder, source))? {
        let entry = entry.map_err(|source| failed(folder, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let weights = [WEIGHTS, INDEX, LSQ_WEIGHTS].contains(&name.as_str()) || is_shard_name(&name);
        if weights && !names.contains(&name) {
            fs::remove_file(entry.path()).map_err(|source| failed(&entry.path(), source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::Folder;
    use crate::testing::{forge, names, packed};

    /// A tensor of `count` bytes `value`.
    fn add(writer: &mut Writer<'_>, name: &str, count: usize, value: u8) {
        writer.add(name, Dtype::U8, [count], vec![value; count]).unwrap();
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn written(folder: &Path) -> Vec<(String, Vec<u8>)> {
        names(folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
    }

    #[test]
    fn one_file_where_it_fits_and_shards_where_it_does_not() {
        let cases: [(u64, &[&str]); 3] = [
            (12, &["model.safetensors"]),
            (8, &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]),
            // A tensor above the limit has a file of its own.
            (
                3,
                &[
                    "model-00001-of-00003.safetensors",
                    "model-00002-of-00003.safetensors",
                    "model-00003-of-00003.safetensors",
                    INDEX,
                ],
            ),
        ];
        for (limit, expected) in cases {
            let folder = folder();
            let mut writer = Writer::create(folder.path(), limit).unwrap();
            for (at, name) in ["c", "a", "b"].into_iter().enumerate() {
                add(&mut writer, name, 4, at as u8);
            }
            let report = writer.finish().unwrap();
            assert_eq!(names(folder.path()), expected);
            assert_eq!(report.files, expected.iter().map(|name| folder.path().join(name)).collect::<Vec<_>>());
            assert_eq!(report.tensor_bytes, 12);
            let source = Folder::open(folder.path()).unwrap();
            for (at, name) in ["c", "a", "b"].into_iter().enumerate() {
                assert_eq!(source.tensor(name).unwrap().bytes(), [at as u8; 4], "{name}");
            }
        }
    }

    #[test]
    fn the_index_is_the_one_that_transformers_writes() {
        let folder = folder();
        let mut writer = Writer::create(folder.path(), 2).unwrap();
        add(&mut writer, "b", 2, 0);
        add(&mut writer, "a", 1, 0);
        writer.finish().unwrap();
        let expected = r#"{
  "metadata": {
    "total_size": 3
  },
  "weight_map": {
    "a": "model-00002-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors"
  }
}
"#;
        assert_eq!(fs::read_to_string(folder.path().join(INDEX)).unwrap(), expected);
    }

    #[test]
    fn the_file_is_laid_out_as_by_the_safetensors_crate() {
        let tensors = [
            ("z", Dtype::F32, vec![3], vec![1; 12]),
            ("y", Dtype::U8, vec![3], vec![2; 3]),
            ("x", Dtype::F16, vec![1, 1], vec![3; 2]),
            ("a", Dtype::F16, vec![0], vec![]),
            ("w", Dtype::I64, vec![], vec![4; 8]),
        ];
        let folder = folder();
        let mut writer = Writer::create(folder.path(), 100).unwrap();
        for (name, dtype, shape, bytes) in &tensors {
            writer.add(*name, *dtype, shape.clone(), &bytes[..]).unwrap();
        }
        writer.finish().unwrap();
        let ours = fs::read(folder.path().join(WEIGHTS)).unwrap();
        let view = |(name, dtype, shape, bytes): &'_ (&'static str, Dtype, Vec<usize>, Vec<u8>)| {
            (*name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes.clone().leak()).unwrap())
        };
        let theirs = safetensors::serialize(tensors.iter().map(view), None).unwrap();
        let parse = |bytes: &[u8]| {
            let (header, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
            assert_eq!(header % 8, 0);
            let places: Vec<_> = metadata
                .offset_keys()
                .into_iter()
                .map(|name| (format!("{:?}", metadata.info(&name).unwrap()), name))
                .collect();
            (places, bytes[8 + header..].to_vec())
        };
        assert_eq!(parse(&ours), parse(&theirs));
    }

    #[test]
    fn the_same_tensors_give_the_same_bytes() {
        let write = |limit| {
            let folder = folder();
            let mut writer = Writer::create(folder.path(), limit).unwrap();
            for (key, value) in [("format", "pt"), ("quench.plan", "{\"a\": 1}\n"), ("quench.gates", "failed: kl")] {
                writer.metadata(key, value);
            }
            for at in 0..20 {
                writer.packed(format!("l{at}"), packed("uint3/7/uint5/2:f16", [3, 20], true, at)).unwrap();
                add(&mut writer, &format!("d{at}"), 3, at as u8);
            }
            writer.finish().unwrap();
            let source = Folder::open(folder.path()).unwrap();
            assert_eq!(source.metadata()["quench.plan"], "{\"a\": 1}\n");
            assert_eq!(source.metadata()["quench.gates"], "failed: kl");
            assert_eq!(source.metadata().len(), 3);
            written(folder.path())
        };
        for limit in [u64::MAX, 300] {
            assert_eq!(write(limit), write(limit));
        }
    }

    #[test]
    fn every_safetensors_file_says_that_its_tensors_lie_as_in_pytorch() {
        let format = |file: &Path| {
            let bytes = fs::read(file).unwrap();
            let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
            header.metadata().as_ref().unwrap()["format"].clone()
        };
        let folder = folder();
        let mut shards = Writer::create(folder.path(), 100).unwrap();
        (0..3).for_each(|at| add(&mut shards, &format!("t{at}"), 60, 0));
        let files = shards.finish().unwrap().files;
        assert_eq!(
            files.iter().filter(|file| !file.ends_with(INDEX)).map(|file| format(file)).collect::<Vec<_>>(),
            ["pt"; 3]
        );

        let file = folder.path().join("one.safetensors");
        for (told, expected) in [(None, "pt"), (Some("mlx"), "mlx")] {
            let mut writer = Writer::safetensors(&file);
            told.into_iter().for_each(|value| writer.metadata("format", value));
            add(&mut writer, "t", 4, 0);
            writer.finish().unwrap();
            assert_eq!(format(&file), expected);
        }
    }

    #[test]
    fn the_tensors_of_a_layer_stay_in_one_file() {
        let folder = folder();
        let mut writer = Writer::create(folder.path(), 150).unwrap();
        for at in 0..5 {
            writer.packed(format!("l{at}"), packed("uint3/7/uint5/2:f16", [3, 20], true, at)).unwrap();
        }
        assert_eq!(writer.finish().unwrap().files.len(), 6);
        for at in 1..=5 {
            let file = Folder::open_file(folder.path().join(shard_name(at, 5))).unwrap();
            let layer = format!("l{}", at - 1);
            // Each file stands on its own: it carries the layers that it holds and no others.
            assert_eq!(file.manifest().layers.keys().collect::<Vec<_>>(), [&layer]);
            assert!(native::read(&file, &layer).unwrap().is_some());
        }
    }

    #[test]
    fn tensors_are_made_one_at_a_time_when_their_turn_comes() {
        let log = RefCell::new(Vec::new());
        let matrix = packed("int4/row/f16", [2, 2], false, 1);
        let folder = folder();
        let mut writer = Writer::create(folder.path(), 4).unwrap();
        for name in ["b", "a"] {
            let make = || {
                log.borrow_mut().push(name.to_owned());
                Ok(vec![0; 4])
            };
            writer.add_later(name, Dtype::U8, [4], make).unwrap();
        }
        let coded = Layer { scheme: matrix.scheme(), shape: [2, 2] };
        let make = || {
            log.borrow_mut().push("packed".to_owned());
            Ok(matrix.clone())
        };
        writer.packed_later("l", coded, false, make).unwrap();
        assert!(log.borrow().is_empty());
        writer.finish().unwrap();
        assert_eq!(*log.borrow(), ["b", "a", "packed"]);
        assert_eq!(native::read(&Folder::open(folder.path()).unwrap(), "l").unwrap(), Some(matrix));
    }

    #[test]
    fn copies_keep_type_and_bytes() {
        let (from, to) = (folder(), folder());
        let dtypes = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::BOOL, Dtype::F8_E4M3, Dtype::F4];
        let mut writer = Writer::create(from.path(), 30).unwrap();
        for (at, dtype) in dtypes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..2 * dtype.bitsize()).map(|byte| (byte * 31 + at) as u8).collect();
            writer.add(dtype.to_string(), dtype, [4, 4], bytes).unwrap();
        }
        let matrix = packed("uint3/7/uint5/2:f16", [3, 20], true, 1);
        writer.packed("l", matrix.clone()).unwrap();
        writer.finish().unwrap();

        let source = Folder::open(from.path()).unwrap();
        let mut writer = Writer::create(to.path(), 1000).unwrap();
        writer.copy_packed(&source, "l").unwrap();
        for dtype in dtypes {
            writer.copy(&source, &dtype.to_string()).unwrap();
        }
        writer.finish().unwrap();
        let copy = Folder::open(to.path()).unwrap();
        assert_eq!(copy.names(), source.names());
        for name in source.names() {
            assert_eq!(copy.info(name), source.info(name));
            assert_eq!(copy.tensor(name).unwrap().bytes(), source.tensor(name).unwrap().bytes(), "{name}");
        }
        assert_eq!(native::read(&copy, "l").unwrap(), Some(matrix));
        assert_eq!(copy.manifest(), source.manifest());
    }

    #[test]
    fn a_checkpoint_can_be_rewritten_in_its_own_folder() {
        let folder = folder();
        let mut writer = Writer::create(folder.path(), 2).unwrap();
        for name in ["a", "b", "c"] {
            add(&mut writer, name, 2, name.as_bytes()[0]);
        }
        writer.finish().unwrap();
        fs::write(folder.path().join("model-card-00001.safetensors"), "").unwrap();
        let source = Folder::open(folder.path()).unwrap();
        let mut writer = Writer::create(folder.path(), 100).unwrap();
        for name in source.names() {
            writer.copy(&source, name).unwrap();
        }
        writer.finish().unwrap();
        // The shards and the index are gone, and nothing else is.
        assert_eq!(names(folder.path()), ["model-card-00001.safetensors", WEIGHTS]);
        assert_eq!(Folder::open(folder.path()).unwrap().tensor("b").unwrap().bytes(), b"bb");
        assert_eq!(source.tensor("b").unwrap().bytes(), b"bb");
    }

    #[test]
    fn mistakes_are_refused_when_announced() {
        let folder = folder();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join(WEIGHTS), forge(&[], &[])).unwrap();
        let source = Folder::open(source).unwrap();
        let mut writer = Writer::create(folder.path(), 100).unwrap();
        add(&mut writer, "l.scales", 2, 0);
        use CheckpointError as E;
        let again = writer.add("l.scales", Dtype::U8, [1], vec![0]).unwrap_err();
        assert!(matches!(again, E::DuplicateTensor { tensor, .. } if tensor == "l.scales"));
        let piece = writer.packed("l", packed("int4/row/f16", [1, 1], false, 1)).unwrap_err();
        assert!(matches!(piece, E::DuplicateTensor { tensor, .. } if tensor == "l.scales"));
        let reserved = writer.add("__metadata__", Dtype::U8, [1], vec![0]).unwrap_err();
        assert!(matches!(reserved, E::DuplicateTensor { .. }));
        let short = writer.add("s", Dtype::F32, [2], vec![0; 7]).unwrap_err();
        assert!(matches!(short, E::Size { expected: 8, found: 7, .. }));
        assert!(matches!(writer.copy(&source, "gone"), Err(E::MissingTensor { .. })));
        assert!(matches!(writer.copy_packed(&source, "gone"), Err(E::MissingTensor { .. })));
    }

    /// A folder with a checkpoint of two tensors, to be replaced by one that fails.
    fn with_old() -> (tempfile::TempDir, Vec<(String, Vec<u8>)>) {
        let folder = folder();
        let mut writer = Writer::create(folder.path(), 2).unwrap();
        for name in ["old.a", "old.b"] {
            add(&mut writer, name, 2, 1);
        }
        writer.finish().unwrap();
        let old = written(folder.path());
        (folder, old)
    }

    #[test]
    fn a_tensor_that_cannot_be_made_leaves_the_folder_as_it_was() {
        type Make = fn() -> Result<Vec<u8>, CheckpointError>;
        let failures: [Make; 2] = [
            || Err(CheckpointError::MissingTensor { path: "m".into(), tensor: "t".into() }),
            // Bytes made later are checked later.
            || Ok(vec![0; 3]),
        ];
        for make in failures {
            let (folder, old) = with_old();
            let mut writer = Writer::create(folder.path(), 2).unwrap();
            for name in ["a", "b", "c"] {
                add(&mut writer, name, 2, 1);
            }
            writer.add_later("d", Dtype::U8, [2], make).unwrap();
            let error = writer.finish().unwrap_err();
            assert!(matches!(error, CheckpointError::MissingTensor { .. } | CheckpointError::Size { found: 3, .. }));
            assert_eq!(written(folder.path()), old);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_leaves_the_folder_as_it_was() {
        let (folder, old) = with_old();
        // Every write to /dev/full fails with ENOSPC. The first of the new shards is written, the second is not.
        let full = "model-00002-of-00003.safetensors";
        std::os::unix::fs::symlink("/dev/full", folder.path().join(format!("{full}.tmp"))).unwrap();
        let mut writer = Writer::create(folder.path(), 2).unwrap();
        for name in ["a", "b", "c"] {
            add(&mut writer, name, 2, 1);
        }
        let error = writer.finish().unwrap_err();
        let message = error.to_string();
        assert!(message.contains(full) && message.contains("No space left"), "{message}");
        assert_eq!(written(folder.path()), old);
    }
}
