//! One file: from where an earlier attempt left it, to its length and its SHA-256.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::HubError;
use crate::client::{Client, Failure};
use crate::settings::Patience;

/// Bytes between two looks at whether somebody asks to stop.
const CHUNK: usize = 256 << 10;

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A file to be had.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) patience: Patience,
    pub(crate) url: &'a str,
    /// What it is called in errors, `OWNER/NAME/FILE`.
    pub(crate) title: &'a str,
    pub(crate) size: u64,
    /// Without it nothing says whether what is there already is the beginning of the file, so the file begins anew.
    pub(crate) sha256: Option<&'a str>,
    /// What the hub's no means, by its status, its code and its words.
    pub(crate) refused: &'a dyn Fn(u16, &str, String) -> HubError,
}

/// What a download is doing.
pub(crate) enum Step<'a> {
    /// So many bytes of the file are there.
    Bytes(u64),
    /// An attempt broke off.
    Again(&'a str),
}

/// Called with every step; breaking stops the download where it goes on another time.
pub(crate) type Observe<'a> = &'a mut dyn FnMut(Step<'_>) -> ControlFlow<()>;

/// Why an attempt ended.
enum Stop {
    /// The connection broke, or the server is busy.
    Broken(String),
    Failed(HubError),
}

impl Download<'_> {
    /// Fills `part` until it is the whole file, checked, and on the disk.
    ///
    /// Errors: [`HubError::Broken`] if too many attempts one after the other bring nothing; [`HubError::Length`] and
    /// [`HubError::Checksum`] for another file than the hub lists, which is removed; [`HubError::Write`]. What is there
    /// stays, but for those two.
    pub(crate) fn run(&self, part: &Path, observe: Observe<'_>) -> Result<(), HubError> {
        let failed = |source| HubError::Write { path: part.to_owned(), source };
        if self.sha256.is_none() || length(part) > self.size {
            remove(part).map_err(failed)?;
        }
        let (mut best, mut attempts, mut pause) = (length(part), 0, self.patience.pause);
        while length(part) < self.size || !part.exists() {
            let reason = match self.attempt(part, observe) {
                Ok(()) => continue,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Broken(reason)) => reason,
            };
            let have = length(part);
            if have > best {
                (best, attempts, pause) = (have, 0, self.patience.pause);
            }
            attempts += 1;
            if attempts >= self.patience.attempts {
                return Err(HubError::Broken { file: self.title.to_owned(), have, size: self.size, reason });
            }
            go_on(observe(Step::Again(&reason)))?;
            wait(pause, &mut || observe(Step::Bytes(have)))?;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        self.check(part, observe)
    }

    /// One request, from where the file ends.
    fn attempt(&self, part: &Path, observe: Observe<'_>) -> Result<(), Stop> {
        let failed = |source| Stop::Failed(HubError::Write { path: part.to_owned(), source });
        let other_length = |found| {
            // Nothing of it can be trusted, and there is nobody to tell if it cannot be removed.
            let _ = fs::remove_file(part);
            Stop::Failed(HubError::Length { file: self.title.to_owned(), expected: self.size, found })
        };
        let have = length(part);
        let mut answer = self.client.get(self.url, have).map_err(|failure| match failure {
            Failure::Unreachable(reason) => Stop::Broken(reason),
            Failure::Refused { status, code, message } => Stop::Failed((self.refused)(status, &code, message)),
            Failure::Final(error) => Stop::Failed(error),
        })?;
        let status = answer.response.status().as_u16();
        let (start, size) = answer.extent();
        if status == 416 || (start != have && start != 0) {
            remove(part).map_err(failed)?;
            return Err(Stop::Broken(format!("the server does not have byte {have}")));
        }
        if let Some(size) = size.filter(|size| *size != self.size) {
            return Err(other_length(size));
        }
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(failed)?;
        if start == 0 && have > 0 {
            // The server sends the whole file, whatever part of it was asked for.
            file.set_len(0).map_err(failed)?;
        }
        let mut written = start;
        let mut body = answer.response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK];
        let broken = loop {
            let read = match body.read(&mut chunk) {
                Ok(0) => break (written < self.size).then(|| "the connection was closed".to_owned()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Some(error.to_string()),
            };
            if written + read as u64 > self.size {
                return Err(other_length(written + read as u64));
            }
            file.write_all(&chunk[..read]).map_err(failed)?;
            written += read as u64;
            go_on(observe(Step::Bytes(written))).map_err(Stop::Failed)?;
        };
        file.sync_all().map_err(failed)?;
        broken.map_or(Ok(()), |reason| Err(Stop::Broken(reason)))
    }

    /// Compares the file's SHA-256 with that of the hub's list.
    fn check(&self, part: &Path, observe: Observe<'_>) -> Result<(), HubError> {
        let Some(expected) = self.sha256 else { return Ok(()) };
        let failed = |source| HubError::Read { path: part.to_owned(), source };
        let mut file = File::open(part).map_err(failed)?;
        let (mut sum, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk).map_err(failed)? {
                0 => break,
                read => sum.update(&chunk[..read]),
            }
            go_on(observe(Step::Bytes(self.size)))?;
        }
        let found: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found == expected {
            return Ok(());
        }
        remove(part).map_err(|source| HubError::Write { path: part.to_owned(), source })?;
        Err(HubError::Checksum { file: self.title.to_owned(), expected: expected.to_owned() })
    }
}

/// Sleeps, but wakes up to be told to stop.
pub(crate) fn wait(pause: Duration, go: &mut dyn FnMut() -> ControlFlow<()>) -> Result<(), HubError> {
    const STEP: Duration = Duration::from_millis(100);
    let mut left = pause;
    while !left.is_zero() {
        go_on(go())?;
        thread::sleep(left.min(STEP));
        left = left.saturating_sub(STEP);
    }
    Ok(())
}

pub(crate) fn go_on(flow: ControlFlow<()>) -> Result<(), HubError> {
    if flow.is_break() { Err(HubError::Interrupted) } else { Ok(()) }
}

/// Bytes of a file; 0 for one that is not there.
pub(crate) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |attributes| attributes.len())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
