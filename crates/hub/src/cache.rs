//! [`Cache`]: where models of the hub lie on this machine.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{HubError, Reference};

/// The folder of downloads, in the layout that `huggingface_hub` has for all programs:
///
/// ```text
/// .locks/models--OWNER--NAME/ETAG.lock   held by whoever downloads
/// models--OWNER--NAME/
///   blobs/ETAG                           contents; of weights the ETag is their SHA-256
///   refs/REVISION                        the commit that a branch or tag stood at
///   snapshots/COMMIT/FILE                a link to the contents
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

/// What the folders of models begin with.
const MODELS: &str = "models--";

impl Cache {
    /// The cache in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the files of the repository `OWNER/NAME` at `commit` lie.
    pub fn snapshot(&self, repository: &str, commit: &str) -> PathBuf {
        self.of(repository).join("snapshots").join(commit)
    }

    /// Which model `path` is a copy of, where it is a snapshot in a cache, or a file in one; the revision is the commit.
    pub fn reference(path: &Path) -> Option<Reference> {
        let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap_or_default()).collect();
        let at = parts.iter().rposition(|part| *part == "snapshots")?;
        let repository = parts[at.checked_sub(1)?].strip_prefix(MODELS)?.replacen("--", "/", 1);
        let commit = parts.get(at + 1).filter(|commit| is_commit(commit))?;
        let file = parts.get(at + 2..).filter(|rest| !rest.is_empty()).map(|rest| rest.join("/"));
        Reference::at(&repository, commit, file).ok()
    }

    /// The commit that `revision` stood at when it was last asked for, or is.
    pub(crate) fn commit(&self, repository: &str, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let found = fs::read_to_string(self.of(repository).join("refs").join(revision)).ok()?;
        Some(found.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers the commit of a branch or tag.
    pub(crate) fn remember(&self, repository: &str, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(repository, revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.of(repository).join("refs").join(revision);
        let temporary = path.with_added_extension("tmp");
        let write = || {
            make_parent(&path)?;
            let mut file = fs::File::create(&temporary)?;
            file.write_all(commit.as_bytes())?;
            drop(file);
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| HubError::Write { path: path.clone(), source })
    }

    /// Where the contents with this ETag lie.
    pub(crate) fn blob(&self, repository: &str, etag: &str) -> PathBuf {
        self.of(repository).join("blobs").join(etag)
    }

    /// The file whose lock is held while those contents are downloaded.
    pub(crate) fn lock(&self, repository: &str, etag: &str) -> PathBuf {
        self.folder.join(".locks").join(folder_name(repository)).join(format!("{etag}.lock"))
    }

    /// Gives contents their name in a snapshot.
    pub(crate) fn link(&self, repository: &str, commit: &str, file: &str, etag: &str) -> Result<PathBuf, HubError> {
        let path = self.snapshot(repository, commit).join(file);
        let blob = self.blob(repository, etag);
        let link = || {
            make_parent(&path)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => place(&blob, etag, file, &path),
            }
        };
        match link() {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            Err(source) => Err(HubError::Write { path, source }),
            Ok(()) => Ok(path),
        }
    }

    fn of(&self, repository: &str) -> PathBuf {
        self.folder.join(folder_name(repository))
    }
}

/// A relative link, so that the cache may be moved.
#[cfg(unix)]
fn place(_blob: &Path, etag: &str, file: &str, path: &Path) -> io::Result<()> {
    let up = "../".repeat(2 + file.matches('/').count());
    std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), path)
}

/// Links of this kind need no rights on Windows; where there are none, a copy.
#[cfg(not(unix))]
fn place(blob: &Path, _etag: &str, _file: &str, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop))
}

pub(crate) fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn folder_name(repository: &str) -> String {
    format!("{MODELS}{}", repository.replace('/', "--"))
}

/// Whether a revision is a commit, by its whole hash.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_snapshot_says_what_it_is() {
        let cache = Cache::new("/somewhere/hub");
        let folder = cache.snapshot("a/b.c", COMMIT);
        assert_eq!(folder, Path::new("/somewhere/hub/models--a--b.c/snapshots").join(COMMIT));
        assert_eq!(Cache::reference(&folder).unwrap().to_string(), format!("hf:a/b.c@{COMMIT}"));
        let file = folder.join("q4/x.gguf");
        assert_eq!(Cache::reference(&file).unwrap().to_string(), format!("hf:a/b.c@{COMMIT}/q4/x.gguf"));
        for other in ["models/a", "/x/snapshots/y", "models--gpt2/snapshots/main", "models--a--b/snapshots", ""] {
            assert_eq!(Cache::reference(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn branches_are_remembered_and_contents_linked() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        assert_eq!(cache.commit("a/b", "main"), None);
        assert_eq!(cache.commit("a/b", COMMIT).as_deref(), Some(COMMIT));
        cache.remember("a/b", "refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.commit("a/b", "refs/pr/1").as_deref(), Some(COMMIT));
        cache.remember("a/b", COMMIT, COMMIT).unwrap();
        assert!(!folder.path().join("models--a--b/refs").join(COMMIT).exists());

        let blob = cache.blob("a/b", "e1");
        make_parent(&blob).unwrap();
        fs::write(&blob, "contents").unwrap();
        for (file, times) in [("config.json", 1), ("1_Pooling/config.json", 2)] {
            for _ in 0..times {
                let path = cache.link("a/b", COMMIT, file, "e1").unwrap();
                assert_eq!(fs::read_to_string(path).unwrap(), "contents", "{file}");
            }
        }
    }
}
