//! How a command ends: the exit code, and the one line that says why.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use quench::eval::EvalError;
use quench::hub::HubError;
use quench::job::JobError;

const BAD_INPUT: u8 = 2;
const GATE_FAILED: u8 = 3;
const INTERNAL: u8 = 101;
const INTERRUPTED: u8 = 130;

/// How a command ended that did what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well: exit code 0.
    Done,
    /// The model is saved, but misses a gate: exit code 3.
    GateFailed,
}

impl Outcome {
    /// The exit code.
    pub fn code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::GateFailed => ExitCode::from(GATE_FAILED),
        }
    }
}

/// How a command ended that did not do what it was asked to.
#[derive(Debug)]
pub enum Ended {
    /// The input or the environment does not allow it, or the user stopped it.
    Refused(anyhow::Error),
    /// Something panicked, here or in a library.
    Broken(Panic),
}

impl Ended {
    /// Prints the one line, and names the folder `partial` of an unfinished run if there is one.
    pub fn report(self, partial: Option<&Path>) -> ExitCode {
        let (code, line) = match &self {
            // The reader of a pipe that has seen enough, as in `quench inspect | head`.
            Self::Refused(error) if is_closed_pipe(error) => return ExitCode::SUCCESS,
            Self::Refused(error) => (code(error), line(error)),
            Self::Broken(panic) => (INTERNAL, panic.line()),
        };
        eprintln!("error: {line}");
        if let Self::Broken(Panic { trace: Some(trace), .. }) = &self {
            eprintln!("{trace}");
        }
        if let Some(partial) = partial.filter(|_| !line.contains("--resume") && !line.contains("--force")) {
            eprintln!(
                "note: finished blocks are kept in {}; the same command with --resume goes on from them",
                partial.display()
            );
        }
        ExitCode::from(code)
    }
}

/// How a process ended that this one started: its exit code, and what it said after `error: `.
#[derive(Debug, PartialEq, Eq)]
pub struct Elsewhere {
    code: u8,
    said: String,
}

impl Elsewhere {
    /// From the exit code and the standard error of a process that ended badly; none if it was not this program's way
    /// to end.
    pub fn new(code: Option<i32>, error: &str) -> Option<Self> {
        let said = error.trim().strip_prefix("error: ")?.to_owned();
        Some(Self { code: u8::try_from(code?).ok()?, said })
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for Elsewhere {}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(elsewhere) = error.downcast_ref::<Elsewhere>() {
        return elsewhere.code;
    }
    if let Some(EvalError::Interrupted) = error.downcast_ref() {
        return INTERRUPTED;
    }
    if let Some(HubError::Interrupted) = error.downcast_ref() {
        return INTERRUPTED;
    }
    error.downcast_ref::<JobError>().map_or(BAD_INPUT, JobError::exit_code)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// The error and its causes on one line; a cause that the line already tells is not told again.
///
/// Only a syntax error has more lines: it shows the place in the file.
fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause.trim();
        if line.is_empty() {
            line = cause.to_owned();
        } else if !line.contains(cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// A panic that was caught.
#[derive(Debug)]
pub struct Panic {
    message: String,
    place: Option<String>,
    /// With `RUST_BACKTRACE` only.
    trace: Option<String>,
}

impl Panic {
    /// What was said, and where.
    pub fn text(&self) -> String {
        let message = self.message.trim().lines().map(str::trim).collect::<Vec<_>>().join("; ");
        match &self.place {
            Some(place) => format!("{message} (at {place})"),
            None => message,
        }
    }

    fn line(&self) -> String {
        let (version, repository) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_REPOSITORY"));
        format!("internal error in quench {version}: {}; please report this line at {repository}/issues", self.text())
    }
}

/// The first panic since the last [`catch`] began. A panic may start on a thread of a library and arrive here as another
/// one that knows less.
static FIRST: Mutex<Option<Panic>> = Mutex::new(None);

/// Panics print nothing from now on: [`catch`] tells them.
pub fn silence_panics() {
    panic::set_hook(Box::new(|info| {
        let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| Panic {
            message: message(info),
            place: info.location().map(ToString::to_string),
            trace: Some(Backtrace::capture())
                .filter(|trace| trace.status() == BacktraceStatus::Captured)
                .map(|trace| trace.to_string()),
        });
    }));
}

/// Runs `action`; a panic in it, or on a thread that it waits for, is a value.
pub fn catch<T>(action: impl FnOnce() -> T) -> Result<T, Panic> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner).take();
    panic::catch_unwind(AssertUnwindSafe(action)).map_err(|payload| {
        let first = FIRST.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| Panic { message: words(&*payload), place: None, trace: None })
    })
}

fn message(info: &PanicHookInfo<'_>) -> String {
    words(info.payload())
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let inner = anyhow!("file x: no such file");
        assert_eq!(line(&inner.context("cannot read")), "cannot read: file x: no such file");
        let inner = anyhow!("no such file");
        assert_eq!(line(&inner.context("x: no such file")), "x: no such file");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed: Result<(), io::Error> = Err(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_closed_pipe(&closed.context("writing").unwrap_err()));
        assert!(!is_closed_pipe(&anyhow!("broken pipe")));
    }

    #[test]
    fn codes() {
        assert_eq!(code(&anyhow!("no")), 2);
        assert_eq!(code(&HubError::Interrupted.into()), 130);
        let interrupted = JobError::Interrupted { path: "out.partial".into() };
        assert_eq!(code(&anyhow::Error::new(interrupted).context("quantizing")), 130);
        let broken = Elsewhere::new(Some(101), "error: internal error\n").unwrap();
        assert_eq!((broken.to_string().as_str(), code(&broken.into())), ("internal error", 101));
        assert_eq!(Elsewhere::new(None, "error: "), None);
        assert_eq!(Elsewhere::new(Some(1), "Killed"), None);
    }

    #[test]
    fn a_panic_is_a_value_and_asks_to_be_reported() {
        let panic = catch(|| -> () { panic!("boom\n  and more") }).unwrap_err();
        let line = panic.line();
        assert!(line.contains("boom; and more") && line.contains("please report") && !line.contains('\n'), "{line}");
    }
}
