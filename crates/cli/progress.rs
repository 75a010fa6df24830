//! Progress on standard error: one bar per phase, with rate and ETA.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use quench::job::Step;

/// Steps of the bar per unit of work: batches and layers move it within a block.
const FINE: u64 = 1000;

/// The bar of the current phase; nothing at all if standard error is no terminal, or with `--quiet`.
#[derive(Debug)]
pub struct Progress {
    visible: bool,
    bar: Option<ProgressBar>,
    counts_bytes: bool,
    done: u64,
    what: String,
}

impl Progress {
    /// No bar yet.
    pub fn new(quiet: bool) -> Self {
        Self {
            visible: !quiet && io::stderr().is_terminal(),
            bar: None,
            counts_bytes: false,
            done: 0,
            what: String::new(),
        }
    }

    /// Begins a phase of `total` steps; the bar of the one before stays as it ended.
    pub fn phase(&mut self, name: &str, total: usize) {
        self.end();
        (self.counts_bytes, self.done, self.what) = (false, 0, String::new());
        if self.visible {
            let bar = ProgressBar::with_draw_target(Some(total as u64 * FINE), ProgressDrawTarget::stderr());
            bar.set_style(style(UNDER_WAY));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(std::time::Duration::from_millis(500));
            self.bar = Some(bar);
        }
    }

    /// Shows what a job says of itself.
    pub fn follow(&mut self, step: &Step<'_>) {
        match step {
            Step::Phase { name, total } => self.phase(name, *total),
            Step::Progress { done, what, .. } => self.step(*done, what),
            Step::Batches { done, of } => self.batches(*done, *of),
            Step::Layer(entry) => self.detail(entry.layer.rsplit('.').next().unwrap_or(&entry.layer)),
            Step::Resumed { sections } => self.detail(&format!("{sections} sections from the interrupted run")),
        }
    }

    /// Begins a phase of `bytes` bytes.
    pub fn transfer(&mut self, name: &str, bytes: u64) {
        self.end();
        (self.counts_bytes, self.done, self.what) = (true, 0, String::new());
        if self.visible {
            let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
            bar.set_style(style(BYTES_UNDER_WAY));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(std::time::Duration::from_millis(500));
            self.bar = Some(bar);
        }
    }

    /// `done` bytes are there, `what` is under way.
    pub fn transferred(&mut self, done: u64, what: &str) {
        self.show(done, what);
        if self.done == 0
            && let Some(bar) = &self.bar
        {
            // What was there before says nothing about the rate.
            bar.reset_eta();
        }
        self.done = done;
    }

    /// `done` steps are behind, `what` is under way.
    pub fn step(&mut self, done: usize, what: &str) {
        self.done = done as u64 * FINE;
        what.clone_into(&mut self.what);
        self.show(self.done, what);
    }

    /// Within the step: `done` of `of` batches have passed. They are taken for half of the step.
    pub fn batches(&mut self, done: usize, of: usize) {
        let within = FINE / 2 * done as u64 / of.max(1) as u64;
        self.show(self.done + within, &message(&self.what, &format!("batch {done}/{of}")));
    }

    /// Within the step: something smaller is finished, and named.
    pub fn detail(&mut self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message(&self.what, detail));
        }
    }

    /// Ends the current phase; its line stays, with the time that it took.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.set_style(style(if self.counts_bytes { BYTES_ENDED } else { ENDED }));
            bar.finish();
        }
    }

    fn show(&self, position: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message.to_owned());
        }
    }
}

impl Drop for Progress {
    /// An error or a panic leaves the bar where it was, and the cursor below it.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }
}

const UNDER_WAY: &str = "{prefix:>17} [{bar:20}] {steps} {rate} ETA {left} {wide_msg}";
const ENDED: &str = "{prefix:>17} [{bar:20}] {steps} in {elapsed}";

/// The same where bytes are counted.
const BYTES_UNDER_WAY: &str =
    "{prefix:>17} [{bar:20}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {left} {wide_msg}";
const BYTES_ENDED: &str = "{prefix:>17} [{bar:20}] {decimal_total_bytes} in {elapsed}";

fn style(template: &str) -> ProgressStyle {
    // What is written here is memory of indicatif's, and does not fail.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
        .with_key("steps", |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{}/{}", state.pos() / FINE, state.len().unwrap_or_default() / FINE);
        })
        .with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            let _ = out.write_str(&rate(state.per_sec() / FINE as f64));
        })
        .with_key("left", |state: &ProgressState, out: &mut dyn Write| {
            // Before the first step there is nothing to estimate from.
            let left = if state.pos() == 0 { "-".to_owned() } else { format!("{:#}", HumanDuration(state.eta())) };
            let _ = out.write_str(&left);
        })
}

fn message(what: &str, detail: &str) -> String {
    if what.is_empty() { detail.to_owned() } else { format!("{what}, {detail}") }
}

/// Steps per second, or seconds per step where that is the larger number.
fn rate(per_second: f64) -> String {
    if per_second >= 1.0 {
        format!("{per_second:.1}/s")
    } else if per_second > 0.0 {
        format!("{:.1} s each", 1.0 / per_second)
    } else {
        "-".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!([2.5, 0.5, 0.0].map(rate), ["2.5/s", "2.0 s each", "-"]);
    }

    #[test]
    fn the_template_is_valid() {
        for template in [UNDER_WAY, ENDED, BYTES_UNDER_WAY, BYTES_ENDED] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn quiet_means_no_bar() {
        let mut progress = Progress::new(true);
        progress.phase("quantize", 3);
        progress.step(1, "block 0");
        progress.batches(1, 2);
        progress.detail("layer");
        progress.transfer("download", 10);
        progress.transferred(10, "config.json");
        progress.end();
        assert!(progress.bar.is_none());
    }
}
