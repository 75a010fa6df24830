//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::CheckpointError;

/// A file written under a temporary name beside its own, synced to disk, and then renamed; removed if dropped before.
///
/// The temporary name is the file's own with `.tmp` after it, so that what a killed process left is overwritten by the
/// next instead of gathering.
#[derive(Debug)]
pub struct AtomicFile {
    file: Option<File>,
    temporary: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Opens the temporary file beside `target`.
    ///
    /// Errors: [`CheckpointError::Write`].
    pub fn create(target: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let target = target.into();
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary = target.with_file_name(name);
        match File::create(&temporary) {
            Ok(file) => Ok(Self { file: Some(file), temporary, target }),
            Err(source) => Err(CheckpointError::Write { file: target, source }),
        }
    }

    /// The name that the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Waits until the bytes written so far are on the disk; a disk that is full is found out here at the latest.
    ///
    /// Errors: [`CheckpointError::Write`].
    pub fn sync(&mut self) -> Result<(), CheckpointError> {
        self.open().and_then(|file| file.sync_all()).map_err(|source| self.failed(source))
    }

    /// Syncs the file and gives it its own name, replacing what had it.
    ///
    /// Errors: [`CheckpointError::Write`]; what had the name still has it.
    pub fn commit(mut self) -> Result<(), CheckpointError> {
        self.sync()?;
        // Closed first, since Windows does not rename an open file.
        self.file = None;
        let renamed = fs::rename(&self.temporary, &self.target);
        if renamed.is_err() {
            let _ = fs::remove_file(&self.temporary);
        }
        renamed.map_err(|source| self.failed(source))?;
        sync_folder(self.target.parent().unwrap_or(Path::new("")))
    }

    fn open(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// An error of this file under the name that its user knows.
    pub(crate) fn failed(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Write { file: self.target.clone(), source }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.open()?.seek(position)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // Open still means neither renamed nor removed. There is nobody to tell of a failure here.
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `bytes` to `target` whole or not at all, replacing what was there.
///
/// Errors: [`CheckpointError::Write`]; what was there still is.
pub fn write_atomically(target: impl Into<PathBuf>, bytes: &[u8]) -> Result<(), CheckpointError> {
    let mut file = AtomicFile::create(target)?;
    file.write_all(bytes).map_err(|source| file.failed(source))?;
    file.commit()
}

/// Makes renames in `folder` outlast a power failure; the empty path is the current folder.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), CheckpointError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Windows has no such operation, and does not open folders as files.
    if cfg!(unix) {
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            // Some network file systems have no such operation either.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {}
            synced => synced.map_err(|source| CheckpointError::Write { file: folder.to_path_buf(), source })?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::names;

    #[test]
    fn a_file_appears_whole_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["config.json"]);
    }

    #[test]
    fn a_file_that_is_given_up_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, "old").unwrap();
        AtomicFile::create(&path).unwrap().write_all(b"half of the ne").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["config.json"]);
    }

    #[test]
    fn what_a_killed_process_left_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(folder.path().join("a.tmp"), "left by a process that was killed").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_target_that_cannot_be_replaced_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"new").unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        fs::write(&path, "old").unwrap();
        // Every write to /dev/full fails with ENOSPC.
        std::os::unix::fs::symlink("/dev/full", folder.path().join("plan.toml.tmp")).unwrap();
        let error = write_atomically(&path, b"new").unwrap_err();
        assert!(matches!(&error, CheckpointError::Write { file, source }
            if *file == path && source.kind() == io::ErrorKind::StorageFull));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["plan.toml"]);
    }
}
