//! The command line: from arguments to a command to an exit code.
//!
//! Each subcommand is a file of its name. Results go to standard output; progress and the one line of an error go to
//! standard error.

mod args;
mod bench;
mod compress;
mod convert;
mod device;
mod devices;
mod download;
mod eval;
mod explore;
mod failure;
mod finetune;
mod fit;
mod format;
mod generate;
mod inspect;
mod interrupt;
mod json;
mod layers;
mod measure;
mod model;
mod picture;
mod plot;
mod predict;
mod progress;
mod quantize;
mod recipes;
mod report;
mod rivals;
mod snr;
mod summary;
mod table;
mod texts;
mod threshold;
mod timing;
mod validate;

use std::process::ExitCode;

use clap::Parser;
use quench::kernels::Isa;

use crate::args::{Args, Command};
use crate::failure::{Ended, Outcome};

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    failure::silence_panics();
    let unfinished = match &command {
        Command::Quantize(arguments) => quantize::Unfinished::before(arguments),
        _ => None,
    };
    let ended = match failure::catch(|| run(&command)) {
        Ok(Ok(outcome)) => return outcome.code(),
        Ok(Err(error)) => Ended::Refused(error),
        Err(panic) => Ended::Broken(panic),
    };
    ended.report(unfinished.as_ref().and_then(quantize::Unfinished::left))
}

fn run(command: &Command) -> anyhow::Result<Outcome> {
    // A wrong name is the user's mistake, and not an error in the middle of a product.
    Isa::from_environment().map_err(anyhow::Error::msg)?;
    match command {
        Command::Quantize(arguments) => quantize::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Validate(arguments) => validate::run(arguments),
        Command::Compress(arguments) => compress::run(arguments),
        Command::Predict(arguments) => predict::run(arguments),
        Command::Measure(arguments) => measure::run(arguments),
        Command::Threshold(arguments) => threshold::run(arguments),
        Command::Explore(arguments) => explore::run(arguments),
        Command::Report(arguments) => report::run(arguments),
        Command::Finetune(arguments) => finetune::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Bench(arguments) if arguments.measure => timing::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Snr(arguments) => snr::run(arguments),
        Command::Fit(arguments) => fit::run(arguments),
        Command::Recipes(arguments) => recipes::run(arguments),
        Command::Devices => devices::run(),
    }
}
