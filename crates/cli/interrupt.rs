//! Ctrl-C while a job runs: the first one asks to stop, the second one stops.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// The exit code of a program that was interrupted, as shells count it: 128 + SIGINT.
pub const CODE: i32 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C, SIGTERM and SIGHUP set a flag that [`flow`] tells, and `then` says what stopping means; the second
/// one exits at once.
///
/// Commands that leave nothing behind do without: there the first one ends the program.
pub fn install(then: &'static str) -> anyhow::Result<()> {
    let handler = move || {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(CODE);
        }
        eprintln!("\nstopping at the next safe point: {then}; Ctrl-C again stops at once");
    };
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")
}

/// Whether to go on.
pub fn flow() -> ControlFlow<()> {
    if REQUESTED.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
