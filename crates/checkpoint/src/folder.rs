//! A checkpoint folder in the Hugging Face layout, one file or sharded, or with an `.lsq` or a PyTorch file, or a single file,
//! which may be a GGUF file too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use memmap2::MmapOptions;
use serde_json::Value;

use crate::dialect::decoded::Decoded;
use crate::entropy;
use crate::gguf;
use crate::header::{Container, Header, Range, is_pickled};
use crate::index::{INDEX, PICKLED_INDEX, PICKLED_WEIGHTS, WEIGHTS, read_index};
use crate::lsq::{self, LSQ_WEIGHTS, LsqError, Stored};
use crate::manifest::Sha256Sum;
use crate::source::{Source, TensorInfo, TensorView};
use crate::{CheckpointError, Manifest};

/// Metadata keys that begin so are ours, and must be the same in all shards.
const OWN_KEYS: &str = "quench";

/// An open checkpoint folder (or file). Headers are read when it is opened, tensors when they are asked for.
///
/// A tensor with a checksum on record ([`Manifest::sha256`]) is checked the first time that it is read. Layers whose codes no
/// `Packed` holds are shown as the dense tensors that they decode to: see [`crate::dialect::decoded`].
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: Vec<Header>,
    tensors: BTreeMap<String, Place>,
    /// What is shown in place of some of those.
    decoded: Decoded,
    metadata: BTreeMap<String, String>,
    manifest: Manifest,
    /// Read when it is first asked for.
    quantization: OnceLock<Option<Value>>,
}

/// Where a tensor is.
#[derive(Debug)]
struct Place {
    /// Which of the files.
    file: usize,
    range: Range,
    /// Set once its checksum was found right.
    verified: OnceLock<()>,
}

impl Folder {
    /// Opens `path`: a folder with `model.safetensors`, or with `model.safetensors.index.json` and its shards, or with
    /// `model.lsq`, or with `pytorch_model.bin`, or with its index and shards, or with one file in `.pt`, `.pth` or `.th`; or
    /// a single file of these kinds, or a GGUF file. Only headers are read.
    ///
    /// Where a folder has several, the first of these is taken, as `transformers` does. PyTorch files need the feature
    /// `pytorch`. Their weights are the file's own dictionary, or the one under `state_dict`, `model_state_dict` or `model`;
    /// where all names begin with `module.`, that is removed.
    ///
    /// Errors: a missing, truncated or over-long file, a header that is none, an index that disagrees with its shards, a
    /// tensor that occurs twice, shards of two checkpoints, an unknown version of Quench's dialect, a pickle with an object
    /// other than tensors, dictionaries, lists, numbers and texts; each names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let attributes =
            fs::metadata(path).map_err(|source| CheckpointError::Read { file: path.to_path_buf(), source })?;
        if attributes.is_file() {
            return Self::open_file(path);
        }
        let known = [WEIGHTS, INDEX, LSQ_WEIGHTS, PICKLED_WEIGHTS, PICKLED_INDEX];
        match known.into_iter().find(|name| path.join(name).exists()) {
            Some(index @ (INDEX | PICKLED_INDEX)) => Self::open_sharded(path, &path.join(index)),
            Some(weights) => Self::gather(path, vec![Header::open(path.join(weights))?]),
            None => Self::gather(path, vec![Header::open(the_pickled_file(path)?)?]),
        }
    }

    /// Opens one file of any name: PyTorch's by its ending (`.pth`, `.th`, `.pt`, `.bin`), else safetensors, `.lsq` or GGUF. Errors
    /// as [`Folder::open`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        Self::gather(path, vec![Header::open(path.to_path_buf())?])
    }

    fn open_sharded(path: &Path, index: &Path) -> Result<Self, CheckpointError> {
        let shard_of = read_index(index)?;
        let shards: BTreeSet<&String> = shard_of.values().collect();
        let missing: Vec<_> = shards.iter().filter(|shard| !path.join(shard).exists()).collect();
        if let Some(first) = missing.first() {
            return Err(CheckpointError::MissingShard {
                file: path.join(first),
                index: index.to_path_buf(),
                missing: missing.len(),
                shards: shards.len(),
            });
        }
        let files = shards.iter().map(|shard| Header::open(path.join(shard))).collect::<Result<Vec<_>, _>>()?;
        let of_name: BTreeMap<&String, &Header> = shards.iter().copied().zip(&files).collect();
        for (tensor, shard) in &shard_of {
            if !of_name[shard].tensors.contains_key(tensor) {
                return Err(CheckpointError::IndexDisagrees {
                    index: index.to_path_buf(),
                    tensor: tensor.clone(),
                    shard: path.join(shard),
                });
            }
        }
        // A shard may hold tensors that the index leaves out: they are read too, as `transformers` does.
        Self::gather(path, files)
    }

    /// Joins the files, each already checked on its own.
    fn gather(path: &Path, mut files: Vec<Header>) -> Result<Self, CheckpointError> {
        let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
        let mut tensors = BTreeMap::<String, Place>::new();
        let mut metadata = BTreeMap::<String, (usize, String)>::new();
        let mut manifest = Manifest::default();
        let mut layers = BTreeMap::new();
        // What is joined is moved, not copied: of a small network's file, names and checksums are a good part.
        for (at, file) in files.iter_mut().enumerate() {
            let first = |earlier: usize| paths[earlier].to_path_buf();
            let second = || paths[at].to_path_buf();
            for (name, range) in mem::take(&mut file.tensors) {
                if let Some(Place { file, .. }) = tensors.get(&name) {
                    let (tensor, first) = (name, first(*file));
                    return Err(CheckpointError::DuplicateTensor { tensor, first, second: second() });
                }
                tensors.insert(name, Place { file: at, range, verified: OnceLock::new() });
            }
            for (key, value) in mem::take(&mut file.metadata) {
                let (earlier, kept) = metadata.entry(key.clone()).or_insert_with(|| (at, value.clone()));
                if *kept != value && key.starts_with(OWN_KEYS) {
                    let first = first(*earlier);
                    return Err(CheckpointError::MetadataDisagrees { key, first, second: second() });
                }
            }
            let Manifest { layers: own, coded, sha256 } = mem::take(&mut file.manifest);
            for (layer, coded) in own {
                if let Some(earlier) = layers.insert(layer.clone(), at) {
                    let key = format!("layer {layer}");
                    return Err(CheckpointError::MetadataDisagrees { key, first: first(earlier), second: second() });
                }
                manifest.layers.insert(layer, coded);
            }
            manifest.coded.extend(coded);
            manifest.sha256.extend(sha256);
        }
        let metadata = metadata.into_iter().map(|(key, (_, value))| (key, value)).collect();
        let (path, decoded) = (path.to_path_buf(), Decoded::default());
        let mut folder = Self { path, files, tensors, decoded, metadata, manifest, quantization: OnceLock::new() };
        folder.decoded = Decoded::find(&Own(&folder))?;
        Ok(folder)
    }

    /// The files of this checkpoint, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| &*file.path)
    }

    /// Whether the tensors lie in an `.lsq` file.
    pub fn is_lsq(&self) -> bool {
        self.files.iter().any(|file| matches!(file.container, Container::Lsq))
    }

    /// Reads every tensor once, so that each checksum on record is checked.
    ///
    /// Errors: [`CheckpointError::Damaged`] for the first that is not right.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        self.tensors.keys().try_for_each(|name| self.own_tensor(name).map(drop))
    }

    fn missing(&self, name: &str) -> CheckpointError {
        CheckpointError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() }
    }

    /// A tensor of the files themselves, its bytes as they lie there, found right by its checksum.
    fn stored(&self, name: &str) -> Result<TensorView, CheckpointError> {
        let Some(Place { file, range, verified }) = self.tensors.get(name) else {
            return Err(self.missing(name));
        };
        let header = &self.files[*file];
        #[cfg(feature = "pytorch")]
        if let Container::Pytorch(tensors) = &header.container {
            return crate::pytorch::view(&header.path, name, &range.info, &tensors[name]);
        }
        let Header { path, file, .. } = header;
        let view = if range.len == 0 {
            // Nothing can be mapped at the end of a file.
            TensorView::owned(path, name, range.info.dtype, range.info.shape.clone(), Vec::new())?
        } else {
            let unreadable = |source| CheckpointError::Read { file: path.to_path_buf(), source };
            let (expected, found) = (range.begin + range.len, file.metadata().map_err(unreadable)?.len());
            // Touching a page past the end would kill the process, so a file cut after it was opened is caught here.
            if found < expected {
                return Err(CheckpointError::Truncated { file: path.to_path_buf(), expected, found });
            }
            let mut options = MmapOptions::new();
            let options = options.offset(range.begin).len(range.len as usize);
            // SAFETY: the map is read-only and lies inside the file. The one thing that can go wrong is another process
            // changing the file meanwhile; our own writer never does, it replaces files by renaming.
            let map = unsafe { options.map(file) }.map_err(unreadable)?;
            TensorView::mapped(path.clone(), name, range.info.clone(), map)
        };
        if let (None, Some(expected)) = (verified.get(), self.manifest.sha256.get(name)) {
            if Sha256Sum::of(view.bytes()) != *expected {
                return Err(CheckpointError::Damaged { file: path.to_path_buf(), tensor: name.to_owned() });
            }
            verified.get_or_init(|| ());
        }
        Ok(view)
    }

    /// A tensor of the files themselves, as its type and shape say.
    fn own_tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        let view = self.stored(name)?;
        let Some(Place { range, .. }) = self.tensors.get(name) else {
            return Err(self.missing(name));
        };
        let (file, tensor) = (view.file().to_path_buf(), name.to_owned());
        let bytes = match range.stored {
            Stored::Plain => return Ok(view),
            Stored::Rotary { heads } => gguf::rows_of_model(view.bytes(), range.info.shape[0], heads),
            Stored::Rans { code, shape } => match entropy::decode(view.bytes(), code, shape) {
                Ok(words) => words,
                Err(source) => return Err(CheckpointError::Coded { file, tensor, source }),
            },
            Stored::Stream(rows) => match lsq::to_words(view.bytes(), rows) {
                Some(words) => words,
                None => {
                    let reason = "the bits after its last code are not zero".to_owned();
                    return Err(CheckpointError::Lsq { file, source: LsqError::Tensor { tensor, reason } });
                }
            },
        };
        TensorView::owned(&file, name, range.info.dtype, range.info.shape.clone(), bytes)
    }
}

/// The tensors of the files themselves, nothing shown in place of any.
struct Own<'a>(&'a Folder);

impl Source for Own<'_> {
    fn names(&self) -> Vec<&str> {
        self.0.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.0.tensors.get(name).map(|place| place.range.info.clone())
    }

    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        self.0.own_tensor(name)
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.0.tensors.get(name).map(|place| place.range.len)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Source for Folder {
    fn names(&self) -> Vec<&str> {
        let own = self.tensors.keys().map(String::as_str).filter(|name| !self.decoded.hides(name));
        let mut names: Vec<_> = own.chain(self.decoded.names()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let own = || if self.decoded.hides(name) { None } else { Own(self).info(name) };
        self.decoded.info(name).or_else(own)
    }

    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        match self.decoded.tensor(&Own(self), name) {
            Some(decoded) => decoded,
            None if self.decoded.hides(name) => Err(self.missing(name)),
            None => self.own_tensor(name),
        }
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        let own = || if self.decoded.hides(name) { None } else { Own(self).stored_bytes(name) };
        self.decoded.stored_bytes(name).or_else(own)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn stream(&self, name: &str) -> Result<Option<TensorView>, CheckpointError> {
        self.manifest.coded.contains(name).then(|| self.stored(name)).transpose()
    }

    fn quantization(&self) -> Option<&Value> {
        self.quantization.get_or_init(|| quantization(&self.path)).as_ref()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// What the configurations beside the weights say of their quantization. One that cannot be read says nothing here: whoever
/// needs the rest of it reports that.
fn quantization(folder: &Path) -> Option<Value> {
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(folder.join(name)).ok()?).ok();
    let own = || read("config.json")?.get_mut("quantization_config").map(Value::take);
    own().filter(Value::is_object).or_else(|| read("quantize_config.json")).filter(Value::is_object)
}

/// The only file of a folder that has the ending of a PyTorch file.
fn the_pickled_file(folder: &Path) -> Result<PathBuf, CheckpointError> {
    let unreadable = |source| CheckpointError::Read { file: folder.to_path_buf(), source };
    let entries = fs::read_dir(folder).map_err(unreadable)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    // What else a training leaves in `.bin`, its arguments for example, is no model.
    let is_model = |path: &PathBuf| is_pickled(path) && path.extension().is_some_and(|ending| ending != "bin");
    let mut files = paths.map_err(unreadable)?.into_iter().filter(is_model).collect::<Vec<_>>();
    files.sort();
    match files.len() {
        0 => Err(CheckpointError::NoCheckpoint { folder: folder.to_path_buf() }),
        1 => Ok(files.remove(0)),
        count => Err(CheckpointError::SeveralPickled { count, first: files.remove(0) }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use safetensors::Dtype;

    use super::*;
    use crate::native::NamedTensor;
    use crate::testing::forge;

    /// A tensor of two bytes.
    fn tensor(name: &str, bytes: [u8; 2]) -> NamedTensor {
        NamedTensor { name: name.into(), dtype: Dtype::U8, shape: vec![2], bytes: bytes.into() }
    }

    /// Writes `files`, each of the given bytes.
    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    /// A file as other programs write them, with these metadata and tensors of two bytes.
    fn foreign(metadata: &str, names: &[&str]) -> Vec<u8> {
        let tensor = |(at, name): (usize, &&str)| {
            let (begin, end) = (2 * at, 2 * at + 2);
            format!(r#","{name}":{{"dtype":"BF16","shape":[1],"data_offsets":[{begin},{end}]}}"#)
        };
        let tensors: String = names.iter().enumerate().map(tensor).collect();
        let header = format!(r#"{{"__metadata__":{metadata}{tensors}}}"#);
        let data = vec![0; 2 * names.len()];
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
    }

    const INDEX_OF_TWO: &[u8] =
        br#"{"metadata":{"total_size":4},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;

    fn error(folder: &tempfile::TempDir) -> CheckpointError {
        let error = Folder::open(folder.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
        error
    }

    #[test]
    fn one_file_is_read() {
        let folder = folder(&[(WEIGHTS, &forge(&[], &[tensor("b", [3, 4]), tensor("a", [1, 2])]))]);
        for source in [Folder::open(folder.path()), Folder::open_file(folder.path().join(WEIGHTS))] {
            let source = source.unwrap();
            assert_eq!(source.names(), ["a", "b"]);
            assert_eq!(source.info("b"), Some(TensorInfo { dtype: Dtype::U8, shape: vec![2] }));
            assert_eq!(source.info("c"), None);
            let view = source.tensor("b").unwrap();
            assert_eq!((view.bytes(), view.shape(), view.dtype()), (&[3, 4][..], &[2][..], Dtype::U8));
            let error = source.tensor("c").unwrap_err().to_string();
            assert!(error.contains("`c`") && error.contains(source.path().to_str().unwrap()), "{error}");
        }
        // A path to a file is as good.
        assert_eq!(Folder::open(folder.path().join(WEIGHTS)).unwrap().names(), ["a", "b"]);
    }

    #[test]
    fn shards_are_joined() {
        let (one, two) = (foreign(r#"{"format":"pt","x":"1"}"#, &["a"]), foreign(r#"{"x":"2","y":"3"}"#, &["b", "c"]));
        let folder = folder(&[(INDEX, INDEX_OF_TWO), ("one.safetensors", &one), ("two.safetensors", &two)]);
        let source = Folder::open(folder.path()).unwrap();
        // Tensor c is in a shard and not in the index.
        assert_eq!(source.names(), ["a", "b", "c"]);
        assert_eq!(source.tensor("b").unwrap().file(), folder.path().join("two.safetensors"));
        // Foreign strings that differ are no error; the first counts.
        let metadata: Vec<_> = source.metadata().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(metadata, [("format", "pt"), ("x", "1"), ("y", "3")]);
        assert_eq!(source.manifest(), Manifest::empty());
        assert_eq!(source.files().count(), 2);
    }

    #[test]
    fn empty_tensors_and_scalars_are_tensors() {
        let header = r#"{"e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &1.5_f32.to_le_bytes()].concat();
        let source = folder(&[(WEIGHTS, &bytes)]);
        let source = Folder::open(source.path()).unwrap();
        assert!(source.tensor("e").unwrap().to_finite_f32().unwrap().is_empty());
        assert_eq!(source.tensor("s").unwrap().to_finite_f32().unwrap(), [1.5]);
        let empty = folder(&[(WEIGHTS, &forge(&[], &[]))]);
        assert!(Folder::open(empty.path()).unwrap().names().is_empty());
    }

    #[test]
    fn a_folder_without_weights_says_what_was_expected() {
        assert!(matches!(error(&folder(&[])), CheckpointError::NoCheckpoint { .. }));
        // Arguments of a training are no weights.
        assert!(matches!(error(&folder(&[("training_args.bin", b"")])), CheckpointError::NoCheckpoint { .. }));
        let several = error(&folder(&[("b.pth", b""), ("a.th", b"")])).to_string();
        assert!(several.contains("a.th") && several.contains("2 PyTorch files"), "{several}");
        let absent = tempfile::tempdir().unwrap().path().join("absent");
        let error = Folder::open(&absent).unwrap_err();
        assert!(matches!(error, CheckpointError::Read { file, .. } if file == absent));
    }

    #[test]
    fn missing_and_truncated_shards_are_named() {
        let (one, two) = (forge(&[], &[tensor("a", [1, 2])]), forge(&[], &[tensor("b", [3, 4])]));
        let missing = error(&folder(&[(INDEX, INDEX_OF_TWO), ("one.safetensors", &one)]));
        assert!(matches!(&missing, CheckpointError::MissingShard { missing: 1, shards: 2, .. }));
        assert!(missing.to_string().contains("two.safetensors"), "{missing}");
        for len in 0..two.len() {
            let cut = folder(&[(INDEX, INDEX_OF_TWO), ("one.safetensors", &one), ("two.safetensors", &two[..len])]);
            let cut = error(&cut);
            let CheckpointError::Truncated { file, found, .. } = &cut else { panic!("{len}: {cut}") };
            assert!(file.ends_with("two.safetensors") && *found == len as u64, "{cut}");
        }
    }

    #[test]
    fn an_index_that_disagrees_with_its_shards_is_refused() {
        let (one, two) = (forge(&[], &[tensor("a", [1, 2])]), forge(&[], &[tensor("c", [3, 4])]));
        let lacks = error(&folder(&[(INDEX, INDEX_OF_TWO), ("one.safetensors", &one), ("two.safetensors", &two)]));
        assert!(matches!(&lacks, CheckpointError::IndexDisagrees { tensor, .. } if tensor == "b"), "{lacks}");

        let two = forge(&[], &[tensor("a", [1, 2]), tensor("b", [3, 4])]);
        let twice = error(&folder(&[(INDEX, INDEX_OF_TWO), ("one.safetensors", &one), ("two.safetensors", &two)]));
        assert!(matches!(&twice, CheckpointError::DuplicateTensor { tensor, .. } if tensor == "a"), "{twice}");
        assert!(twice.to_string().contains("two.safetensors"), "{twice}");
    }

    #[test]
    fn an_index_that_is_none_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"weight_map":{}}"#,
            r#"{"weight_map":{"a":1}}"#,
            r#"{"weight_map":{"a":""}}"#,
            r#"{"weight_map":{"a":"."}}"#,
            r#"{"weight_map":{"a":"../secret.safetensors"}}"#,
            r#"{"weight_map":{"a":"/etc/passwd"}}"#,
            r#"{"weight_map":{"a":"sub/one.safetensors"}}"#,
        ] {
            let error = error(&folder(&[(INDEX, text.as_bytes())]));
            assert!(matches!(error, CheckpointError::Index { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn shards_of_two_checkpoints_are_not_mixed() {
        let shards = |one: Vec<u8>, two: Vec<u8>| {
            error(&folder(&[(INDEX, INDEX_OF_TWO), ("one.safetensors", &one), ("two.safetensors", &two)]))
        };
        let plans = shards(foreign(r#"{"quench.plan":"1"}"#, &["a"]), foreign(r#"{"quench.plan":"2"}"#, &["b"]));
        assert!(matches!(&plans, CheckpointError::MetadataDisagrees { key, .. } if key == "quench.plan"), "{plans}");

        let layer = crate::Layer { scheme: "int4/row/f16".parse().unwrap(), shape: [1, 1] };
        let file = |name| forge(&[("layer", layer.clone())], &[tensor(name, [1, 2])]);
        let layers = shards(file("a"), file("b"));
        assert!(matches!(&layers, CheckpointError::MetadataDisagrees { key, .. } if key == "layer layer"), "{layers}");
    }

    #[test]
    fn a_damaged_dense_tensor_is_refused_every_time_and_the_others_are_read() {
        let mut bytes = forge(&[], &[tensor("a", [1, 2]), tensor("b", [3, 4])]);
        *bytes.last_mut().unwrap() ^= 0x10;
        let folder = folder(&[(WEIGHTS, &bytes)]);
        let source = Folder::open(folder.path()).unwrap();
        for _ in 0..2 {
            assert_eq!(source.tensor("a").unwrap().bytes(), [1, 2]);
            let error = source.tensor("b").unwrap_err();
            assert!(matches!(error, CheckpointError::Damaged { tensor, .. } if tensor == "b"));
        }
        assert!(matches!(source.verify(), Err(CheckpointError::Damaged { .. })));
    }

    #[test]
    fn a_file_cut_after_it_was_opened_is_refused() {
        let folder = folder(&[(WEIGHTS, &forge(&[], &[tensor("a", [1, 2]), tensor("b", [3, 4])]))]);
        let source = Folder::open(folder.path()).unwrap();
        let file = OpenOptions::new().write(true).open(folder.path().join(WEIGHTS)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 2).unwrap();
        assert_eq!(source.tensor("a").unwrap().bytes(), [1, 2]);
        assert!(matches!(source.tensor("b"), Err(CheckpointError::Truncated { .. })));
    }

    /// The maps of a file in this process: their lengths in bytes.
    #[cfg(target_os = "linux")]
    fn maps(file: &Path) -> Vec<u64> {
        let file = file.canonicalize().unwrap();
        let length = |line: &str| {
            let (range, rest) = line.split_once(' ')?;
            let (begin, end) = range.split_once('-')?;
            rest.ends_with(file.to_str()?)
                .then_some(u64::from_str_radix(end, 16).ok()? - u64::from_str_radix(begin, 16).ok()?)
        };
        fs::read_to_string("/proc/self/maps").unwrap().lines().filter_map(length).collect()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_view_maps_its_own_bytes_and_no_others() {
        const MIB: usize = 1 << 20;
        let big =
            |name: &str| NamedTensor { name: name.into(), dtype: Dtype::U8, shape: vec![MIB], bytes: vec![7; MIB] };
        let folder = folder(&[(WEIGHTS, &forge(&[], &[big("a"), big("b"), big("c")]))]);
        let (source, file) = (Folder::open(folder.path()).unwrap(), folder.path().join(WEIGHTS));
        assert!(maps(&file).is_empty(), "opening reads headers only");
        for name in source.names() {
            let view = source.tensor(name).unwrap();
            assert!(view.bytes().iter().all(|&byte| byte == 7));
            let mapped: u64 = maps(&file).iter().sum();
            // Whole pages, of at most 64 KiB on any Linux.
            assert!((MIB as u64..=MIB as u64 + 2 * 65536).contains(&mapped), "{mapped} bytes mapped for {name}");
        }
        assert!(maps(&file).is_empty(), "every view is unmapped when dropped");
    }
}
