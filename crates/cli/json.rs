//! `--json FILE`: written beside, then renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use quench::checkpoint::write_atomically;
use serde::Serialize;

/// A file that JSON will be written to, checked before the work begins.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
}

impl Target {
    /// Checks that `path` can be written: hours later is too late to say that its folder does not exist.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            bail!("--json {}: this is a folder; name a file", path.display());
        }
        let folder = folder_of(path);
        if !folder.is_dir() {
            bail!("--json {}: the folder {} does not exist", path.display(), folder.display());
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Writes `value`. A reader of the file sees the old one or the new one, never a half.
    pub fn write(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(value).context("the report cannot be written as JSON")?;
        text.push(b'\n');
        self.replace(&text).with_context(|| format!("cannot write --json {}", self.path.display()))
    }

    fn replace(&self, text: &[u8]) -> anyhow::Result<()> {
        // A pipe or a device, such as /dev/stdout, is written to and not replaced.
        if fs::metadata(&self.path).is_ok_and(|about| !about.is_file()) {
            return Ok(File::options().write(true).open(&self.path)?.write_all(text)?);
        }
        Ok(write_atomically(&self.path, text)?)
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        fs::write(&path, "old").unwrap();
        Target::new(&path).unwrap().write(&[1, 2]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[\n  1,\n  2\n]\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_said_before() {
        let folder = tempfile::tempdir().unwrap();
        let error = Target::new(folder.path()).unwrap_err().to_string();
        assert!(error.contains("name a file"), "{error}");
        let error = Target::new(&folder.path().join("no/report.json")).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error_and_stays_a_device() {
        let error = Target::new(Path::new("/dev/full")).unwrap().write(&[1]).unwrap_err();
        assert!(format!("{error:#}").contains("/dev/full"), "{error:#}");
        assert!(!Path::new("/dev/full").is_file());
    }
}
