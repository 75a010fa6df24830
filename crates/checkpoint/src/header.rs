//! The header of one safetensors file, checked against the file's length; that of an `.lsq` file is in [`crate::lsq`], that of
//! a GGUF file in [`crate::gguf`], and what stands for one in a PyTorch file in `crate::pytorch`.
//!
//! ```text
//! 8 bytes    n, little-endian
//! n bytes    JSON: {"__metadata__": {key: text}, name: {"dtype", "shape", "data_offsets": [begin, end]}, ...}
//! the rest   the tensors, one after another without gaps
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Metadata;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use crate::entropy;
use crate::gguf;
use crate::lsq::{self, Stored};
use crate::manifest::MANIFEST_KEY;
use crate::source::TensorInfo;
use crate::{CheckpointError, Manifest};

/// The longest header that safetensors readers accept, in bytes.
pub(crate) const LONGEST_HEADER: u64 = 100_000_000;

/// Bytes that state the header's length.
pub(crate) const LENGTH_BYTES: u64 = 8;

/// The key of the metadata strings in a header.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// An open file and what its header says; every range lies inside the file.
#[derive(Debug)]
pub(crate) struct Header {
    pub path: Arc<Path>,
    pub file: File,
    pub container: Container,
    pub tensors: BTreeMap<String, Range>,
    pub metadata: BTreeMap<String, String>,
    pub manifest: Manifest,
}

/// What kind of file it is.
#[derive(Debug)]
pub(crate) enum Container {
    Safetensors,
    Lsq,
    Gguf,
    /// The tensors by their names, read by the reader that found them.
    #[cfg(feature = "pytorch")]
    Pytorch(BTreeMap<String, pytorch_reader::Tensor>),
}

/// The endings of pickled checkpoints.
pub(crate) const PICKLED: [&str; 4] = ["bin", "pt", "pth", "th"];

/// Whether the name of a file is that of a pickled checkpoint.
pub(crate) fn is_pickled(path: &Path) -> bool {
    path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| PICKLED.contains(&ending))
}

/// Where a tensor lies in its file.
#[derive(Debug)]
pub(crate) struct Range {
    pub info: TensorInfo,
    /// Bytes from the start of the file; 0 in a PyTorch file, whose reader knows.
    pub begin: u64,
    /// Length in bytes.
    pub len: u64,
    /// How the bytes spell what `info` says.
    pub stored: Stored,
}

impl Header {
    /// Opens `path` and reads its header: that of a PyTorch file by its ending, that of an `.lsq` file by its name or its first
    /// bytes, that of a GGUF file by those, else that of a safetensors file.
    pub fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        let unreadable = |source| CheckpointError::Read { file: path.clone(), source };
        let mut file = File::open(&path).map_err(unreadable)?;
        let attributes = file.metadata().map_err(unreadable)?;
        if attributes.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        if is_pickled(&path) {
            #[cfg(feature = "pytorch")]
            return crate::pytorch::read(path, file);
            #[cfg(not(feature = "pytorch"))]
            return Err(CheckpointError::Pickled { file: path });
        }
        let found = attributes.len();
        if is_lsq(&mut file, &path).map_err(unreadable)? {
            return lsq::read(&path, file, found);
        }
        if begins(&mut file, &gguf::MAGIC).map_err(unreadable)? {
            return gguf::read_header(&path, file);
        }
        let text = read_text(&mut file, &path, found)?;

        let wrong = |reason: String| CheckpointError::Header { file: path.clone(), reason };
        let parsed: Metadata = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        check_unique(&text, &path)?;

        let data = LENGTH_BYTES + text.len() as u64;
        let end = data.checked_add(parsed.data_len() as u64).ok_or_else(|| wrong("its offsets overflow".into()))?;
        check_length(&path, end, found)?;

        let mut metadata: BTreeMap<_, _> = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
        let manifest = match metadata.remove(MANIFEST_KEY) {
            Some(text) => Manifest::parse(&path, &text)?,
            None => Manifest::default(),
        };
        let mut tensors: BTreeMap<_, _> = parsed
            .tensors()
            .into_iter()
            .map(|(name, tensor)| {
                let (begin, end) = tensor.data_offsets;
                let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
                let len = (end - begin) as u64;
                (name, Range { info, begin: data + begin as u64, len, stored: Stored::Plain })
            })
            .collect();
        if let Some(name) = manifest.sha256.keys().find(|name| !tensors.contains_key(*name)) {
            let reason = format!("it has a checksum for tensor `{name}`, which the file does not hold");
            return Err(CheckpointError::Manifest { file: path, reason });
        }
        entropy::place(&path, &manifest, &mut tensors)?;
        Ok(Self { path: path.into(), file, container: Container::Safetensors, tensors, metadata, manifest })
    }
}

/// Whether an `.lsq` file is meant; the file is at its start again.
fn is_lsq(file: &mut File, path: &Path) -> io::Result<bool> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("lsq")) {
        return Ok(true);
    }
    begins(file, &lsq::MAGIC)
}

/// Whether a file begins with these bytes, as no safetensors file does, whose header would be far above its limit; the file is
/// at its start again.
fn begins(file: &mut File, magic: &[u8]) -> io::Result<bool> {
    let mut found = Vec::new();
    file.by_ref().take(magic.len() as u64).read_to_end(&mut found)?;
    file.rewind()?;
    Ok(found == magic)
}

/// The JSON text, at most [`LONGEST_HEADER`] bytes and never more than the file has.
fn read_text(file: &mut File, path: &Path, found: u64) -> Result<Vec<u8>, CheckpointError> {
    let unreadable = |source| CheckpointError::Read { file: path.to_path_buf(), source };
    if found < LENGTH_BYTES {
        return Err(CheckpointError::Truncated { file: path.to_path_buf(), expected: LENGTH_BYTES, found });
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(unreadable)?;
    if &length == b"version " {
        return Err(CheckpointError::LfsPointer { file: path.to_path_buf() });
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        let reason = format!("its first 8 bytes give a header of {length} bytes, above the limit of {LONGEST_HEADER}");
        return Err(CheckpointError::Header { file: path.to_path_buf(), reason });
    }
    if LENGTH_BYTES + length > found {
        return Err(CheckpointError::Truncated { file: path.to_path_buf(), expected: LENGTH_BYTES + length, found });
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).map_err(unreadable)?;
    // Shorter only if somebody cut the file after its length was asked for.
    check_length(path, length, text.len() as u64)?;
    Ok(text)
}

/// Errors where a file has `found` bytes and should have `expected`.
pub(crate) fn check_length(path: &Path, expected: u64, found: u64) -> Result<(), CheckpointError> {
    let file = path.to_path_buf();
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(CheckpointError::Truncated { file, expected, found }),
        std::cmp::Ordering::Greater => Err(CheckpointError::TooLong { file, expected, found }),
        std::cmp::Ordering::Equal => Ok(()),
    }
}

/// Errors if a tensor occurs twice: the parser above keeps the last and says nothing.
fn check_unique(text: &[u8], path: &Path) -> Result<(), CheckpointError> {
    struct Repeated;
    impl<'de> Visitor<'de> for Repeated {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut seen, mut repeated) = (BTreeSet::new(), None);
            while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
                if let Some(name) = seen.replace(name) {
                    repeated = Some(name);
                }
            }
            Ok(repeated)
        }
    }
    let repeated = serde_json::Deserializer::from_slice(text)
        .deserialize_map(Repeated)
        .map_err(|error| CheckpointError::Header { file: path.to_path_buf(), reason: error.to_string() })?;
    match repeated {
        None => Ok(()),
        Some(tensor) => {
            Err(CheckpointError::DuplicateTensor { tensor, first: path.to_path_buf(), second: path.to_path_buf() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a file of these bytes and gives its error.
    fn error(bytes: &[u8]) -> CheckpointError {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let error = Header::open(path.clone()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        error
    }

    fn file(json: &str, data: &[u8]) -> Vec<u8> {
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), data].concat()
    }

    #[test]
    fn broken_headers_are_named() {
        use CheckpointError as E;
        let one = |fields: &str| format!("{{\"w\":{{{fields}}}}}");
        let good = one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#);
        assert!(matches!(error(b""), E::Truncated { expected: 8, found: 0, .. }));
        assert!(matches!(error(b"1234567"), E::Truncated { expected: 8, found: 7, .. }));
        assert!(matches!(error(b"version https://git-lfs.github.com/spec/v1\n"), E::LfsPointer { .. }));
        assert!(matches!(error(&[0xff; 64]), E::Header { .. }));
        assert!(matches!(error(&file("{}", b"")[..9]), E::Truncated { expected: 10, found: 9, .. }));
        assert!(matches!(error(&file(&good, &[0; 7])), E::Truncated { .. }));
        assert!(matches!(error(&file(&good, &[0; 9])), E::TooLong { .. }));
        for json in [
            "",
            "[]",
            "{",
            "\u{0}\u{1}",
            &one(r#""dtype":"F33","shape":[2],"data_offsets":[0,8]"#),
            &one(r#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#),
            &one(r#""dtype":"F32","shape":[-2],"data_offsets":[0,8]"#),
            &one(r#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#),
            &one(r#""dtype":"F32","shape":[2],"data_offsets":[1,9]"#),
            &one(r#""dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]"#),
            &one(r#""dtype":"F4","shape":[3],"data_offsets":[0,1]"#),
            r#"{"__metadata__":{"a":1}}"#,
        ] {
            let error = error(&file(json, &[0; 8]));
            assert!(matches!(error, E::Header { .. }), "{json}: {error}");
        }
        let invalid = [&8_u64.to_le_bytes()[..], &[0xc3; 8]].concat();
        assert!(matches!(error(&invalid), E::Header { .. }));
    }

    #[test]
    fn a_name_may_not_occur_twice_in_one_file() {
        let tensor = r#""w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        let error = error(&file(&format!("{{{tensor},{tensor}}}"), &[0; 8]));
        assert!(matches!(error, CheckpointError::DuplicateTensor { tensor, .. } if tensor == "w"));
    }

    #[test]
    fn a_checksum_of_nothing_is_refused() {
        let mut manifest = Manifest::default();
        manifest.sha256.insert("gone".into(), Default::default());
        let text = serde_json::to_string(&manifest.to_text().unwrap()).unwrap();
        let error = error(&file(&format!(r#"{{"__metadata__":{{"quench":{text}}}}}"#), b""));
        assert!(matches!(&error, CheckpointError::Manifest { reason, .. } if reason.contains("`gone`")), "{error}");
    }

    #[test]
    fn a_folder_or_an_absent_file_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_path_buf(), folder.path().join("absent")] {
            assert!(matches!(Header::open(path), Err(CheckpointError::Read { .. })));
        }
    }
}
