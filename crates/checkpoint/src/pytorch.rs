//! PyTorch files (`.pth`, `.th`, `.pt`, `.bin`) as a [`Source`]: tensors by name, and nothing else.
//!
//! A pickle is a program. `pytorch-reader`, which is also what `burn-store` reads with, does not run it: it follows the few
//! calls that make a tensor, and keeps of any other only the name. Here a file with such a call is refused as a whole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType, PickleValue, PytorchError, PytorchReader, Tensor};
use safetensors::Dtype;

use crate::CheckpointError;
use crate::source::{Source, TensorInfo, TensorView};

/// Where training scripts keep the weights if other things lie beside them.
const KEYS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// What `DataParallel` puts before every name.
const PARALLEL: &str = "module.";

/// The type of a tensor in a pickle.
const TENSOR: &str = "torch.Tensor";

/// An open PyTorch file. Its tensors are read when they are asked for.
///
/// The weights are the file's own dictionary, or the one under `state_dict`, `model_state_dict` or `model`; numbers and texts
/// beside them are left out. Where all names begin with `module.`, that is removed.
#[derive(Debug)]
pub struct Pytorch {
    path: PathBuf,
    tensors: BTreeMap<String, (TensorInfo, Tensor)>,
    metadata: BTreeMap<String, String>,
}

impl Pytorch {
    /// Opens a file that `torch.save` wrote.
    ///
    /// Errors: [`CheckpointError::Read`], and [`CheckpointError::Pickle`] for a file that is none, that holds an object other
    /// than tensors, dictionaries, lists, numbers and texts, or no tensor at all.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let refused = |reason: String| CheckpointError::Pickle { file: path.to_path_buf(), reason };
        let failed = |error| match error {
            PytorchError::Io(source) if is_of_the_system(&source) => {
                CheckpointError::Read { file: path.to_path_buf(), source }
            }
            error => refused(error.to_string()),
        };
        let whole = PytorchReader::read_pickle_data(path, None).map_err(failed)?;
        if let Some((place, kind)) = object(&whole, "") {
            return Err(refused(format!("`{place}` is an object of type {kind}, only tensors expected")));
        }
        let PickleValue::Dict(entries) = &whole else {
            return Err(refused("it is no dictionary of tensors".to_owned()));
        };
        let key = match entries.values().any(is_tensor) {
            true => None,
            false => KEYS.into_iter().find(|key| entries.get(*key).is_some_and(holds_tensors)),
        };
        let reader = match key {
            Some(key) => PytorchReader::with_top_level_key(path, key),
            None => PytorchReader::new(path),
        };
        let found = reader.map_err(failed)?.into_tensors();
        if found.is_empty() {
            return Err(refused("it holds no tensors".to_owned()));
        }
        let parallel = found.keys().all(|name| name.starts_with(PARALLEL));
        let tensor = |(name, tensor): (String, Tensor)| {
            let name = if parallel { name[PARALLEL.len()..].to_owned() } else { name };
            let info = TensorInfo { dtype: dtype(tensor.dtype()), shape: tensor.shape().to_vec() };
            (name, (info, tensor))
        };
        let tensors = found.into_iter().map(tensor).collect();
        Ok(Self { path: path.to_path_buf(), tensors, metadata: BTreeMap::new() })
    }
}

impl Source for Pytorch {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|(info, _)| info.clone())
    }

    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        let Some((TensorInfo { dtype, shape }, tensor)) = self.tensors.get(name) else {
            return Err(CheckpointError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() });
        };
        let mut bytes = tensor.read().map_err(|source| match is_of_the_system(&source) {
            true => CheckpointError::Read { file: self.path.clone(), source },
            false => CheckpointError::Pickle { file: self.path.clone(), reason: source.to_string() },
        })?;
        // The reader gives the numbers as the machine has them.
        if cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(tensor.dtype().size()).for_each(<[u8]>::reverse);
        }
        TensorView::owned(&self.path, name, *dtype, shape.clone(), bytes)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Where the first object is that is neither a tensor nor plain data, and its type; by name, so that it is the same one in
/// every run.
fn object(value: &PickleValue, place: &str) -> Option<(String, String)> {
    match value {
        PickleValue::Unsupported(kind) if kind != TENSOR => Some((place.to_owned(), kind.clone())),
        PickleValue::Dict(entries) => {
            let sorted: BTreeMap<_, _> = entries.iter().collect();
            let below = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
            sorted.into_iter().find_map(|(key, value)| object(value, &below(key)))
        }
        PickleValue::List(values) => values.iter().find_map(|value| object(value, place)),
        _ => None,
    }
}

fn is_tensor(value: &PickleValue) -> bool {
    matches!(value, PickleValue::Unsupported(kind) if kind == TENSOR)
}

fn holds_tensors(value: &PickleValue) -> bool {
    matches!(value, PickleValue::Dict(entries) if entries.values().any(is_tensor))
}

/// Whether the system could not read, rather than the file being wrong.
fn is_of_the_system(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::open;

    /// The files of `fixtures/pickles.py`, which says what is in them.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
    }

    #[test]
    fn tensors_are_read_by_name_in_their_own_types() {
        let source = open(fixture("state.pth")).unwrap();
        assert_eq!(source.names(), ["fc.steps", "fc.weight"]);
        assert_eq!(source.info("fc.weight"), Some(TensorInfo { dtype: Dtype::F32, shape: vec![2, 3] }));
        assert_eq!(source.tensor("fc.weight").unwrap().to_finite_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let steps = source.tensor("fc.steps").unwrap();
        assert_eq!((steps.dtype(), steps.shape(), steps.bytes()), (Dtype::I64, &[][..], &7_i64.to_le_bytes()[..]));
        assert!(matches!(source.tensor("gone"), Err(CheckpointError::MissingTensor { .. })));
    }

    #[test]
    fn the_weights_are_found_beside_other_things_and_under_parallel_names() {
        let source = open(fixture("nested.th")).unwrap();
        assert_eq!(source.names(), ["fc.weight"]);
        assert_eq!(source.tensor("fc.weight").unwrap().to_finite_f32().unwrap(), [1.0, -2.0, 0.5, 0.0]);
    }

    #[test]
    fn anything_but_tensors_is_refused_by_its_place_and_type() {
        for (name, expected) in
            [("object.pth", &["`hook`", "system", "only tensors expected"][..]), ("plain.pth", &["holds no tensors"])]
        {
            let error = Pytorch::open(fixture(name)).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, CheckpointError::Pickle { .. }), "{message}");
            assert!(message.contains(name) && expected.iter().all(|word| message.contains(word)), "{message}");
        }
        assert!(matches!(Pytorch::open(fixture("absent.pth")), Err(CheckpointError::Read { .. })));
    }

    #[test]
    fn damaged_files_are_refused_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let (file, good) = (folder.path().join("m.pth"), fs::read(fixture("state.pth")).unwrap());
        let exercise = |bytes: &[u8]| -> Result<(), CheckpointError> {
            fs::write(&file, bytes).unwrap();
            let source = Pytorch::open(&file)?;
            source.names().into_iter().try_for_each(|name| source.tensor(name).map(drop))
        };
        assert!(exercise(&good).is_ok());
        for len in (0..good.len()).step_by(7) {
            assert!(exercise(&good[..len]).is_err(), "{len}");
        }
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 0x41;
            // Some bytes mean nothing, such as the times of an archive's entries.
            let _ = exercise(&changed);
        }
    }
}
