//! PyTorch files (`.pth`, `.th`, `.pt`, `.bin`): tensors by name, and nothing else.
//!
//! A pickle is a program. `pytorch-reader`, which is also what `burn-store` reads with, does not run it: it follows the few
//! calls that make a tensor, and keeps of any other only the name. Here a file with such a call is refused as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType, PickleValue, PytorchError, PytorchReader, Tensor};
use safetensors::Dtype;

use crate::header::{Container, Header, Range};
use crate::lsq::Stored;
use crate::source::{TensorInfo, TensorView};
use crate::{CheckpointError, Manifest};

/// Where training scripts keep the weights if other things lie beside them.
const KEYS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// What `DataParallel` puts before every name.
const PARALLEL: &str = "module.";

/// The type of a tensor in a pickle.
const TENSOR: &str = "torch.Tensor";

/// What stands for a header: the names, types and shapes of the tensors that `torch.save` wrote into `file`.
///
/// The weights are the file's own dictionary, or the one under `state_dict`, `model_state_dict` or `model`; whatever is beside
/// them is left out. Where all names begin with `module.`, that is removed.
///
/// Errors: [`CheckpointError::Read`], and [`CheckpointError::Pickle`] for a file that is none, that holds an object other than
/// tensors, dictionaries, lists, numbers and texts, or no tensor at all.
pub(crate) fn read(path: PathBuf, file: File) -> Result<Header, CheckpointError> {
    let refused = |reason: String| CheckpointError::Pickle { file: path.clone(), reason };
    let failed = |error| match error {
        PytorchError::Io(source) if is_of_the_system(&source) => CheckpointError::Read { file: path.clone(), source },
        error => refused(error.to_string()),
    };
    let whole = PytorchReader::read_pickle_data(&path, None).map_err(failed)?;
    if let Some((place, kind)) = object(&whole, "") {
        return Err(refused(format!("`{place}` is an object of type {kind}, only tensors expected")));
    }
    let PickleValue::Dict(entries) = &whole else {
        return Err(refused("it is no dictionary of tensors".to_owned()));
    };
    // Looked for first: there may be tensors beside it, such as the accuracy.
    let reader = match KEYS.into_iter().find(|key| entries.get(*key).is_some_and(holds_tensors)) {
        Some(key) => PytorchReader::with_top_level_key(&path, key),
        None => PytorchReader::new(&path),
    };
    let found = reader.map_err(failed)?.into_tensors();
    if found.is_empty() {
        return Err(refused("it holds no tensors".to_owned()));
    }
    let prefix = if found.keys().all(|name| name.starts_with(PARALLEL)) { PARALLEL.len() } else { 0 };
    let tensors: BTreeMap<String, Tensor> =
        found.into_iter().map(|(name, tensor)| (name[prefix..].to_owned(), tensor)).collect();
    let range = |tensor: &Tensor| {
        let info = TensorInfo { dtype: dtype(tensor.dtype()), shape: tensor.shape().to_vec() };
        Range { info, begin: 0, len: tensor.byte_len() as u64, stored: Stored::Plain }
    };
    Ok(Header {
        tensors: tensors.iter().map(|(name, tensor)| (name.clone(), range(tensor))).collect(),
        container: Container::Pytorch(tensors),
        path: path.into(),
        file,
        metadata: BTreeMap::new(),
        manifest: Manifest::default(),
    })
}

/// One of the tensors that [`read`] found, read from its file.
pub(crate) fn view(path: &Path, name: &str, info: &TensorInfo, tensor: &Tensor) -> Result<TensorView, CheckpointError> {
    let mut bytes = tensor.read().map_err(|source| match is_of_the_system(&source) {
        true => CheckpointError::Read { file: path.to_path_buf(), source },
        false => CheckpointError::Pickle { file: path.to_path_buf(), reason: source.to_string() },
    })?;
    // The reader gives the numbers as the machine has them.
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(tensor.dtype().size()).for_each(<[u8]>::reverse);
    }
    TensorView::owned(path, name, info.dtype, info.shape.clone(), bytes)
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
    use crate::{Folder, Source};

    /// The files of `fixtures/pickles.py`, which says what is in them.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
    }

    #[test]
    fn tensors_are_read_by_name_in_their_own_types() {
        let source = Folder::open(fixture("state.pth")).unwrap();
        assert_eq!(source.names(), ["fc.steps", "fc.weight"]);
        assert_eq!(source.info("fc.weight"), Some(TensorInfo { dtype: Dtype::F32, shape: vec![2, 3] }));
        assert_eq!(source.tensor("fc.weight").unwrap().to_finite_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let steps = source.tensor("fc.steps").unwrap();
        assert_eq!((steps.dtype(), steps.shape(), steps.bytes()), (Dtype::I64, &[][..], &7_i64.to_le_bytes()[..]));
        assert!(matches!(source.tensor("gone"), Err(CheckpointError::MissingTensor { .. })));
    }

    #[test]
    fn the_weights_are_found_beside_other_things_and_under_parallel_names() {
        let source = Folder::open(fixture("nested.th")).unwrap();
        assert_eq!(source.names(), ["fc.weight"]);
        assert_eq!(source.tensor("fc.weight").unwrap().to_finite_f32().unwrap(), [1.0, -2.0, 0.5, 0.0]);
        assert_eq!((source.stored_bytes("fc.weight"), source.is_lsq()), (Some(8), false));

        // As PyTorch saved until 1.5, with the accuracy as a tensor.
        let source = Folder::open(fixture("legacy.th")).unwrap();
        assert_eq!(source.names(), ["conv1.weight", "linear.weight"]);
        assert_eq!(source.tensor("conv1.weight").unwrap().to_finite_f32().unwrap(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(source.tensor("linear.weight").unwrap().to_finite_f32().unwrap(), [-1.0, 0.5]);
    }

    #[test]
    fn a_folder_has_its_weights_in_one_pytorch_file_or_in_shards() {
        /// The files, each with the fixture that it is; and the names of its tensors.
        type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);
        let cases: [Case; 3] = [
            (&[("best.th", "nested.th")], &["fc.weight"]),
            (&[("pytorch_model.bin", "state.pth"), ("optimizer.pt", "plain.pth")], &["fc.steps", "fc.weight"]),
            (
                &[("a.bin", "state.pth"), ("b.bin", "legacy.th")],
                &["conv1.weight", "fc.steps", "fc.weight", "linear.weight"],
            ),
        ];
        let index = br#"{"weight_map":{"fc.weight":"a.bin","fc.steps":"a.bin","conv1.weight":"b.bin"}}"#;
        for (files, names) in cases {
            let folder = tempfile::tempdir().unwrap();
            for (name, from) in files {
                fs::copy(fixture(from), folder.path().join(name)).unwrap();
            }
            if files[0].0 == "a.bin" {
                fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
            }
            let source = Folder::open(folder.path()).unwrap();
            assert_eq!(source.names(), names);
            source.verify().unwrap();
        }
    }

    #[test]
    fn anything_but_tensors_is_refused_by_its_place_and_type() {
        for (name, expected) in
            [("object.pth", &["`hook`", "system", "only tensors expected"][..]), ("plain.pth", &["holds no tensors"])]
        {
            let error = Folder::open(fixture(name)).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, CheckpointError::Pickle { .. }), "{message}");
            assert!(message.contains(name) && expected.iter().all(|word| message.contains(word)), "{message}");
        }
        assert!(matches!(Folder::open(fixture("absent.pth")), Err(CheckpointError::Read { .. })));
    }

    #[test]
    fn damaged_files_are_refused_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let (file, good) = (folder.path().join("m.pth"), fs::read(fixture("state.pth")).unwrap());
        let exercise = |bytes: &[u8]| -> Result<(), CheckpointError> {
            fs::write(&file, bytes).unwrap();
            let source = Folder::open(&file)?;
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
