//! One model, measured in a process of its own, so that its peak memory is nobody else's.
//!
//! The process that shows the figures starts this one with `--measure`, reads [`Event`]s from its standard output, one
//! JSON object a line, and keeps its standard input open: when that ends, whoever asked is gone.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::thread;
use std::time::Instant;

use anyhow::bail;
use quench::models::generate::{Sampling, generate};
use quench::models::open;
use quench::nn::Model;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::args::Bench;
use crate::failure::Outcome;
use crate::{interrupt, model};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "test", content = "tokens")]
pub enum Test {
    /// A prompt of so many tokens goes in, in one pass, and one token comes out.
    Prompt(usize),
    /// So many tokens come out, one by one, after a single token.
    Generate(usize),
}

impl Test {
    /// The tokens that are counted.
    pub fn tokens(self) -> usize {
        match self {
            Self::Prompt(tokens) | Self::Generate(tokens) => tokens,
        }
    }

    /// The tests asked for: prompts, then generations; a length of 0 asks for nothing.
    pub fn all(prompts: &[usize], generations: &[usize]) -> Vec<Self> {
        let prompts = prompts.iter().copied().map(Self::Prompt);
        let generations = generations.iter().copied().map(Self::Generate);
        prompts.chain(generations).filter(|test| test.tokens() > 0).collect()
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt(tokens) => write!(f, "prompt {tokens}"),
            Self::Generate(tokens) => write!(f, "generate {tokens}"),
        }
    }
}

/// What this process tells the one that asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Something is under way.
    Begun(String),
    /// All is measured.
    Measured(Measured),
}

/// The figures of one model.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What was computed on.
    pub device: String,
    /// From opening the folder to all weights in memory.
    pub load_seconds: f64,
    /// Resident memory of the process with all weights loaded; none where the system does not tell.
    pub loaded_bytes: Option<u64>,
    /// The most resident memory that the process ever had; none where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// The time of each timed run, in the order of [`Test::all`].
    pub seconds: Vec<Vec<f64>>,
}

/// How many [`Event::Begun`] there are: loading, and the runs of each test.
pub fn steps(tests: usize, repetitions: usize) -> usize {
    1 + tests * (1 + repetitions)
}

/// Measures the one model of `arguments`, all of whose options are spelled out.
pub fn run(arguments: &Bench) -> anyhow::Result<Outcome> {
    let ([path], [activations]) = (&arguments.models[..], &arguments.activations[..]) else {
        bail!("--measure takes one MODEL and one of --activations; leave --measure out to compare several");
    };
    thread::spawn(|| {
        // Whether it ends well or not: nobody listens any more.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(interrupt::CODE);
    });
    tell(&Event::Begun("loading".to_owned()))?;
    let folder = model::folder(path, true)?;
    let (name, device) = arguments.device.resolve_named()?;
    let clock = Instant::now();
    let mut decoder = open(&folder, &device)?;
    decoder.load_all()?;
    decoder.set_activations(*activations);
    let load_seconds = clock.elapsed().as_secs_f64();
    let loaded_bytes = resident("VmRSS");

    let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
    let mut time = |test: Test| -> anyhow::Result<f64> {
        let (prompt, max_tokens) = match test {
            Test::Prompt(tokens) => (tokens, 1),
            Test::Generate(tokens) => (1, tokens),
        };
        let prompt: Vec<u32> =
            (0..prompt).map(|_| random.random_range(0..decoder.config().vocab_size as u32)).collect();
        let sampling = Sampling { max_tokens, ..Sampling::default() };
        let clock = Instant::now();
        generate(&decoder, &prompt, &sampling, &[], |_| ControlFlow::Continue(()))?;
        Ok(clock.elapsed().as_secs_f64())
    };
    let mut seconds = Vec::new();
    for test in Test::all(&arguments.prompt, &arguments.generate) {
        tell(&Event::Begun(format!("{test}, warm-up")))?;
        time(match test {
            Test::Prompt(_) => test,
            // Every pass is like the first one.
            Test::Generate(tokens) => Test::Generate(tokens.min(4)),
        })?;
        let mut runs = Vec::new();
        for run in 1..=arguments.repetitions {
            tell(&Event::Begun(format!("{test}, run {run} of {}", arguments.repetitions)))?;
            runs.push(time(test)?);
        }
        seconds.push(runs);
    }
    let peak_bytes = resident("VmHWM");
    tell(&Event::Measured(Measured { device: name, load_seconds, loaded_bytes, peak_bytes, seconds }))?;
    Ok(Outcome::Done)
}

fn tell(event: &Event) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(event)?)?;
    Ok(out.flush()?)
}

/// A size of this process, as Linux tells it: `VmRSS`, now, or `VmHWM`, the most there ever was.
fn resident(name: &str) -> Option<u64> {
    size(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// The line `VmHWM:     1234 kB`, in bytes.
fn size(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_the_status() {
        let status = "Name:\tquench\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(size(status, "VmHWM"), Some(2 << 20));
        assert_eq!(size(status, "VmRSS"), Some(1 << 20));
        assert_eq!(size(status, "VmH"), None);
        assert_eq!(size("VmHWM: much\n", "VmHWM"), None);
    }

    #[test]
    fn a_length_of_nothing_is_no_test() {
        assert_eq!(Test::all(&[0, 8], &[4]), [Test::Prompt(8), Test::Generate(4)]);
        assert_eq!(Test::all(&[0], &[0]), []);
    }

    #[test]
    fn events_come_back_as_they_were_told() {
        let told = serde_json::to_string(&Event::Begun("loading".to_owned())).unwrap();
        assert_eq!(told, r#"{"begun":"loading"}"#);
        assert!(matches!(serde_json::from_str(&told), Ok(Event::Begun(what)) if what == "loading"));
    }
}
