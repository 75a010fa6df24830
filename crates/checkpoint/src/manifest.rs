//! What a file says about itself under the metadata key `quench`: version, packed layers, checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use quench_format::Scheme;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::CheckpointError;

/// The metadata key under which a file carries its [`Manifest`], as JSON.
pub const MANIFEST_KEY: &str = "quench";

/// The version of the dialect that is written where no codes are entropy-coded.
pub const FORMAT_VERSION: u64 = 1;

/// The version of a file with entropy-coded codes, which a reader of [`FORMAT_VERSION`] refuses for its number.
pub const CODED_VERSION: u64 = 2;

/// The packed layers of a checkpoint and the checksums of its tensors; empty for a checkpoint made elsewhere.
///
/// Each file carries the part that concerns it. [`Source::manifest`](crate::Source::manifest) is the union.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Packed layers by name: the Hugging Face name of the weight without `.weight`.
    pub layers: BTreeMap<String, Layer>,
    /// The tensors of codes that lie in the file as rANS streams ([`quench_format::rans`]).
    pub coded: BTreeSet<String>,
    /// SHA-256 of each tensor's bytes as they lie in the file, by tensor name.
    pub sha256: BTreeMap<String, Sha256Sum>,
}

/// How one packed layer is coded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Code, groups and scales.
    pub scheme: Scheme,
    /// `[out, in]`, in weights.
    pub shape: [usize; 2],
}

/// The manifest as it is spelled in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled {
    version: u64,
    layers: BTreeMap<String, Layer>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    rans: BTreeSet<String>,
    sha256: BTreeMap<String, Sha256Sum>,
    /// Checksum of this text with zeros in place of the seal: one flipped bit in a scheme would otherwise give a matrix
    /// of the right size and the wrong values.
    seal: Sha256Sum,
}

impl Spelled {
    fn sealed(mut self) -> Result<Self, serde_json::Error> {
        self.seal = Sha256Sum::default();
        self.seal = Sha256Sum::of(serde_json::to_string(&self)?.as_bytes());
        Ok(self)
    }
}

impl Manifest {
    /// The manifest of a checkpoint that has none.
    pub fn empty() -> &'static Manifest {
        static EMPTY: Manifest = Manifest { layers: BTreeMap::new(), coded: BTreeSet::new(), sha256: BTreeMap::new() };
        &EMPTY
    }

    /// Reads the JSON text found under [`MANIFEST_KEY`] in `file`.
    ///
    /// Errors: [`CheckpointError::Version`] for a version other than [`FORMAT_VERSION`] and [`CODED_VERSION`], and
    /// [`CheckpointError::Manifest`] for text that is not a manifest of that version.
    pub fn parse(file: &Path, text: &str) -> Result<Self, CheckpointError> {
        // The version is read on its own first: a later one may have other fields, and must be refused for its number.
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let wrong = |error: serde_json::Error| CheckpointError::Manifest {
            file: file.to_path_buf(),
            reason: error.to_string(),
        };
        let Version { version } = serde_json::from_str(text).map_err(wrong)?;
        if ![FORMAT_VERSION, CODED_VERSION].contains(&version) {
            return Err(CheckpointError::Version { file: file.to_path_buf(), found: version });
        }
        let found: Spelled = serde_json::from_str(text).map_err(wrong)?;
        let seal = found.seal;
        let Spelled { layers, rans: coded, sha256, seal: expected, .. } = found.sealed().map_err(wrong)?;
        let refused = |reason: String| Err(CheckpointError::Manifest { file: file.to_path_buf(), reason });
        if seal != expected {
            return refused("its own checksum does not match".to_owned());
        }
        let manifest = Self { layers, coded, sha256 };
        match manifest.version() {
            expected if expected == version => Ok(manifest),
            expected => refused(format!("it says version {version}, and what it holds is version {expected}")),
        }
    }

    /// The version of what it holds.
    fn version(&self) -> u64 {
        if self.coded.is_empty() { FORMAT_VERSION } else { CODED_VERSION }
    }

    /// The JSON text for a file; its length does not depend on the values of the checksums.
    pub(crate) fn to_text(&self) -> Result<String, serde_json::Error> {
        let Self { layers, coded: rans, sha256 } = self.clone();
        let spelled = Spelled { version: self.version(), layers, rans, sha256, seal: Sha256Sum::default() };
        serde_json::to_string(&spelled.sealed()?)
    }
}

/// A SHA-256 checksum, spelled as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Sha256Sum([u8; 32]);

impl Sha256Sum {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Sum({self})")
    }
}

impl Serialize for Sha256Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("`{text}` is not a SHA-256 of 64 lower-case hexadecimal digits"));
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(wrong()),
        };
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut sum = [0; 32];
        for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_checksum_is_spelled_and_read_back() {
        let sum = Sha256Sum::of(b"abc"); // FIPS 180-2, appendix B.1
        assert_eq!(sum.to_string(), ABC);
        assert_eq!(serde_json::from_str::<Sha256Sum>(&format!("\"{ABC}\"")).unwrap(), sum);
        for wrong in ["", "00", &ABC.to_uppercase(), &format!("{}g", &ABC[..63]), &"\u{e9}".repeat(32)] {
            assert!(serde_json::from_str::<Sha256Sum>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_version_is_refused_by_its_number_whatever_else_it_holds() {
        let error = Manifest::parse(Path::new("m.safetensors"), r#"{"version":7,"new":[1]}"#).unwrap_err();
        assert!(matches!(error, CheckpointError::Version { found: 7, .. }));
        let message = error.to_string();
        assert!(message.contains("m.safetensors") && message.contains("version 7"), "{message}");
    }

    #[test]
    fn an_unknown_field_or_a_missing_one_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"version":-1}"#,
            r#"{"version":1}"#,
            r#"{"version":1,"layers":{},"sha256":{}}"#,
            &with_seal(r#"{"version":1,"layers":{},"sha256":{},"more":1,"seal":""}"#),
            &with_seal(r#"{"version":1,"layers":{"a":{"shape":[1,1]}},"sha256":{},"seal":""}"#),
        ] {
            let error = Manifest::parse(Path::new("m.safetensors"), text).unwrap_err();
            assert!(matches!(error, CheckpointError::Manifest { .. }), "{text}: {error}");
        }
    }

    fn with_seal(text: &str) -> String {
        text.replace("\"\"", &format!("\"{}\"", Sha256Sum::default()))
    }

    #[test]
    fn no_bit_of_the_text_may_flip() {
        let mut manifest = Manifest::default();
        let scheme = "slog5:mu8/32/f16".parse().unwrap();
        manifest.layers.insert("a".into(), Layer { scheme, shape: [3, 70] });
        manifest.sha256.insert("a.qweight".into(), Sha256Sum::of(b"abc"));
        let text = manifest.to_text().unwrap();
        for bit in 0..8 * text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            assert!(Manifest::parse(Path::new("m"), &flipped).is_err(), "{flipped}");
        }
    }

    #[test]
    fn the_length_of_the_text_does_not_depend_on_the_checksums() {
        let mut manifest = Manifest::default();
        manifest.sha256.insert("a".into(), Sha256Sum::default());
        let length = manifest.to_text().unwrap().len();
        manifest.sha256.insert("a".into(), Sha256Sum::of(b"abc"));
        let text = manifest.to_text().unwrap();
        assert_eq!(text.len(), length);
        assert_eq!(Manifest::parse(Path::new("m"), &text).unwrap(), manifest);
    }
}
