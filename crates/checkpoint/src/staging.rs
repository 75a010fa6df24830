//! An output folder that appears whole or not at all.
//!
//! ```text
//! OUT.partial/model/   what will be OUT
//! OUT.partial/work/    what is needed to go on after an interruption; never published
//! OUT.partial/lock     held while a process is at work
//! OUT.replaced/        the old OUT, for the moment between the two renames of a forced replacement
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::CheckpointError;
use crate::file::sync_folder;
use crate::index::{INDEX, WEIGHTS};
use crate::lsq::LSQ_WEIGHTS;

/// Work on an output folder in a folder beside it, and publication by renaming.
///
/// Dropped before [`Staging::publish`], it removes its folder, unless [`Staging::keep`] was called; a process that is
/// killed leaves it. In both cases [`Staging::resume`] goes on from there.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    partial: PathBuf,
    replace: bool,
    keep: bool,
    // Held for its lock.
    lock: Option<File>,
}

impl Staging {
    /// Begins anew beside `target`. With `force`, a checkpoint or an empty folder at `target` will be replaced, and what an
    /// interrupted run left is thrown away now.
    ///
    /// Errors, without `force`: [`CheckpointError::TargetExists`] for a target that exists,
    /// [`CheckpointError::Interrupted`] for the work of an earlier run. In any case: [`CheckpointError::NotReplaceable`] for
    /// a target that is a file, or a folder of anything but a checkpoint (it may be somebody's home), [`CheckpointError::Busy`] while another process is at work,
    /// [`CheckpointError::Unnameable`] for a path such as `/`, and [`CheckpointError::Write`].
    pub fn create(target: impl AsRef<Path>, force: bool) -> Result<Self, CheckpointError> {
        let (target, partial) = Self::places(target.as_ref(), force)?;
        if partial.exists() {
            // Asked first whether somebody is at work there, force or not.
            let lock = take_lock(&partial, &target)?;
            if !force {
                return Err(CheckpointError::Interrupted { folder: partial });
            }
            drop(lock);
            remove(&partial)?;
        }
        Self::occupy(target, partial, force)
    }

    /// Goes on from what an interrupted run left beside `target`, or begins anew if there is nothing. Errors as
    /// [`Staging::create`], but for [`CheckpointError::Interrupted`].
    pub fn resume(target: impl AsRef<Path>, force: bool) -> Result<Self, CheckpointError> {
        let (target, partial) = Self::places(target.as_ref(), force)?;
        // What is found is never removed on the way out, since it cost somebody's time.
        let found = partial.exists();
        let mut staging = Self::occupy(target, partial, force)?;
        staging.keep = found;
        Ok(staging)
    }

    /// The folder to write the checkpoint into.
    pub fn model(&self) -> PathBuf {
        self.partial.join("model")
    }

    /// The folder for whatever [`Staging::resume`] will need; it is not published.
    pub fn work(&self) -> PathBuf {
        self.partial.join("work")
    }

    /// The output folder, absolute.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// From now on, what is here is worth going on from: it stays if the run fails.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Removes everything.
    ///
    /// Errors: [`CheckpointError::Write`].
    pub fn discard(mut self) -> Result<(), CheckpointError> {
        self.keep = true;
        self.lock = None;
        remove(&self.partial)
    }

    /// Renames [`Staging::model`] to the target, and removes the rest; gives the target.
    ///
    /// With `force`, an existing folder is first renamed to `OUT.replaced`, and removed when the new one is in place.
    ///
    /// Errors: [`CheckpointError::TargetExists`] if something came to be there in the meantime, [`CheckpointError::Write`].
    /// The old folder is then as it was, and the new one still beside it.
    pub fn publish(mut self) -> Result<PathBuf, CheckpointError> {
        // If it fails from here on, a finished model is too much to throw away.
        self.keep = true;
        let failed = |source| CheckpointError::Write { file: self.target.clone(), source };
        sync_folder(&self.model())?;
        let replaced = beside(&self.target, "replaced")?;
        let old = match occupant(&self.target)? {
            Occupant::Nothing => false,
            Occupant::Replaceable if self.replace => {
                if replaced.exists() {
                    remove(&replaced)?;
                }
                fs::rename(&self.target, &replaced).map_err(failed)?;
                true
            }
            Occupant::Replaceable => return Err(CheckpointError::TargetExists { folder: self.target.clone() }),
            Occupant::Other => {
                return Err(CheckpointError::NotReplaceable { folder: self.target.clone() });
            }
        };
        if let Err(error) = fs::rename(self.model(), &self.target) {
            if old {
                fs::rename(&replaced, &self.target).map_err(failed)?;
            }
            return Err(failed(error));
        }
        sync_folder(self.target.parent().unwrap_or(Path::new("")))?;
        self.lock = None;
        remove(&self.partial)?;
        if old {
            remove(&replaced)?;
        }
        Ok(std::mem::take(&mut self.target))
    }

    /// The absolute target and the folder beside it, after a look at what is there.
    fn places(target: &Path, force: bool) -> Result<(PathBuf, PathBuf), CheckpointError> {
        let failed = |source| CheckpointError::Write { file: target.to_path_buf(), source };
        // A link is followed, so that the folder it leads to is replaced and not the link; `.` becomes a name.
        let absolute = match fs::canonicalize(target) {
            Ok(real) => real,
            Err(_) => std::path::absolute(target).map_err(failed)?,
        };
        let (partial, replaced) = (beside(&absolute, "partial")?, beside(&absolute, "replaced")?);
        let mut found = occupant(&absolute)?;
        if matches!(found, Occupant::Nothing) && replaced.exists() {
            // A process was killed between the two renames of `publish`: the old checkpoint goes back to its place.
            fs::rename(&replaced, &absolute).map_err(failed)?;
            found = occupant(&absolute)?;
        }
        match found {
            Occupant::Nothing => Ok((absolute, partial)),
            Occupant::Replaceable if force => Ok((absolute, partial)),
            Occupant::Replaceable => Err(CheckpointError::TargetExists { folder: absolute }),
            Occupant::Other => Err(CheckpointError::NotReplaceable { folder: absolute }),
        }
    }

    /// Makes the folders and takes the lock.
    fn occupy(target: PathBuf, partial: PathBuf, replace: bool) -> Result<Self, CheckpointError> {
        let make = |folder: PathBuf| {
            fs::create_dir_all(&folder).map_err(|source| CheckpointError::Write { file: folder, source })
        };
        make(partial.clone())?;
        let lock = Some(take_lock(&partial, &target)?);
        let staging = Self { target, partial, replace, keep: false, lock };
        make(staging.model())?;
        make(staging.work())?;
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Windows does not remove a file that is open.
        self.lock = None;
        if !self.keep {
            // There is nobody to tell of a failure here; the next run finds what is left and says so.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// What is at a path that is to become an output folder.
enum Occupant {
    Nothing,
    /// A checkpoint, or an empty folder.
    Replaceable,
    /// A file, or a folder with something in it that is no checkpoint.
    Other,
}

fn occupant(path: &Path) -> Result<Occupant, CheckpointError> {
    let failed = |source| CheckpointError::Read { file: path.to_path_buf(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nothing),
        Err(error) => return Err(failed(error)),
        Ok(attributes) if !attributes.is_dir() => return Ok(Occupant::Other),
        Ok(_) => {}
    }
    let empty = fs::read_dir(path).map_err(failed)?.next().is_none();
    let weights = [WEIGHTS, INDEX, LSQ_WEIGHTS].into_iter().any(|name| path.join(name).exists());
    Ok(match empty || weights {
        true => Occupant::Replaceable,
        false => Occupant::Other,
    })
}

/// `OUT.suffix`, beside `OUT` and so on the same disk.
fn beside(target: &Path, suffix: &str) -> Result<PathBuf, CheckpointError> {
    let Some(name) = target.file_name() else {
        return Err(CheckpointError::Unnameable { folder: target.to_path_buf() });
    };
    let mut name = name.to_os_string();
    name.push(".");
    name.push(suffix);
    Ok(target.with_file_name(name))
}

fn take_lock(partial: &Path, target: &Path) -> Result<File, CheckpointError> {
    let path = partial.join("lock");
    let file = File::create(&path).map_err(|source| CheckpointError::Write { file: path, source })?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(CheckpointError::Busy { folder: target.to_path_buf() }),
        // A file system without locks, as some over a network are, is no reason not to write to it.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn remove(folder: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CheckpointError::Write { file: folder.to_path_buf(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::names;

    /// An empty folder, and `out` in it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().canonicalize().unwrap().join("out");
        (folder, out)
    }

    fn checkpoint(folder: &Path, text: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(WEIGHTS), text).unwrap();
    }

    fn publish(staging: Staging, text: &str) -> Result<PathBuf, CheckpointError> {
        checkpoint(&staging.model(), text);
        fs::write(staging.work().join("state"), "block 3").unwrap();
        staging.publish()
    }

    fn weights(folder: &Path) -> String {
        fs::read_to_string(folder.join(WEIGHTS)).unwrap()
    }

    #[test]
    fn a_folder_appears_whole_and_leaves_nothing_beside() {
        let (folder, out) = place();
        let out = out.join("deep/model");
        let staging = Staging::create(out.join(""), false).unwrap();
        assert_eq!(staging.target(), out);
        assert!(!out.exists());
        assert_eq!(publish(staging, "new").unwrap(), out);
        assert_eq!(names(&out), [WEIGHTS]);
        assert_eq!(names(out.parent().unwrap()), ["model"]);
        drop(folder);
    }

    #[test]
    fn a_folder_that_exists_needs_force() {
        let (_folder, out) = place();
        fs::create_dir(&out).unwrap();
        assert!(matches!(Staging::create(&out, false), Err(CheckpointError::TargetExists { .. })));
        publish(Staging::create(&out, true).unwrap(), "first").unwrap();

        for open in [Staging::create, Staging::resume] {
            let error = open(&out, false).unwrap_err();
            assert!(matches!(error, CheckpointError::TargetExists { .. }));
            let message = error.to_string();
            assert!(message.contains(out.to_str().unwrap()) && message.contains("--force"), "{message}");
        }
        fs::write(out.join("old.txt"), "").unwrap();
        publish(Staging::create(&out, true).unwrap(), "second").unwrap();
        assert_eq!(names(&out), [WEIGHTS]);
        assert_eq!(weights(&out), "second");
        assert_eq!(names(out.parent().unwrap()), ["out"]);
    }

    #[test]
    fn what_is_no_checkpoint_is_never_replaced() {
        let (folder, out) = place();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("thesis.txt"), "").unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for (target, force) in [(&out, true), (&out, false), (&file, true), (&file, false)] {
            let error = Staging::create(target, force).unwrap_err();
            assert!(matches!(error, CheckpointError::NotReplaceable { .. }), "{error}");
        }
        assert!(matches!(Staging::create("/", true), Err(CheckpointError::Unnameable { .. })));
        assert_eq!(names(folder.path()), ["file", "out"]);
    }

    #[test]
    fn a_target_that_comes_up_meanwhile_is_not_overwritten() {
        let (_folder, out) = place();
        let staging = Staging::create(&out, false).unwrap();
        checkpoint(&out, "somebody else's");
        assert!(matches!(publish(staging, "ours"), Err(CheckpointError::TargetExists { .. })));
        assert_eq!(weights(&out), "somebody else's");
        assert_eq!(weights(&out.with_file_name("out.partial").join("model")), "ours");
    }

    #[test]
    fn a_failed_run_leaves_nothing_unless_it_is_worth_keeping() {
        let (folder, out) = place();
        drop(Staging::create(&out, false).unwrap());
        assert!(names(folder.path()).is_empty());

        let mut staging = Staging::create(&out, false).unwrap();
        fs::write(staging.work().join("state"), "block 3").unwrap();
        staging.keep();
        drop(staging);
        assert_eq!(names(folder.path()), ["out.partial"]);

        let error = Staging::create(&out, false).unwrap_err();
        assert!(matches!(error, CheckpointError::Interrupted { .. }));
        let message = error.to_string();
        assert!(message.contains("--resume") && message.contains("--force"), "{message}");

        // What was found stays, even if resuming fails at once.
        drop(Staging::resume(&out, false).unwrap());
        let staging = Staging::resume(&out, false).unwrap();
        assert_eq!(fs::read(staging.work().join("state")).unwrap(), b"block 3");
        publish(staging, "resumed").unwrap();
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn force_begins_anew_and_discard_leaves_nothing() {
        let (folder, out) = place();
        let mut staging = Staging::create(&out, false).unwrap();
        fs::write(staging.work().join("state"), "block 3").unwrap();
        staging.keep();
        drop(staging);
        let staging = Staging::create(&out, true).unwrap();
        assert!(names(&staging.work()).is_empty());
        staging.discard().unwrap();
        assert!(names(folder.path()).is_empty());
        // Nothing to resume is no error.
        drop(Staging::resume(&out, false).unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn two_processes_do_not_share_an_output() {
        let (_folder, out) = place();
        let first = Staging::create(&out, false).unwrap();
        fs::write(first.work().join("state"), "block 3").unwrap();
        for error in [
            Staging::create(&out, false).unwrap_err(),
            Staging::create(&out, true).unwrap_err(),
            Staging::resume(&out, false).unwrap_err(),
        ] {
            assert!(matches!(error, CheckpointError::Busy { .. }), "{error}");
        }
        assert_eq!(names(&first.work()), ["state"]);
    }

    #[test]
    fn a_kill_between_the_two_renames_is_undone() {
        let (folder, out) = place();
        checkpoint(&out.with_file_name("out.replaced"), "old");
        let error = Staging::create(&out, false).unwrap_err();
        assert!(matches!(error, CheckpointError::TargetExists { .. }));
        assert_eq!(weights(&out), "old");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed() {
        let (folder, out) = place();
        checkpoint(&out, "old");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&out, &link).unwrap();
        assert_eq!(publish(Staging::create(&link, true).unwrap(), "new").unwrap(), out);
        assert_eq!(weights(&link), "new");
        assert_eq!(names(folder.path()), ["link", "out"]);
    }
}
