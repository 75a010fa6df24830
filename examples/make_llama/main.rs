//! Writes a Llama-shaped Hugging Face folder with random bf16 weights: a model of any size to measure on, made anywhere.
//!
//!     cargo run --example make_llama -- OUT --params 1.1b --shards 4 --seed 0
//!
//! The same arguments give the same bytes on every machine. What it generates is noise; what it costs to quantize is
//! not.

mod llama;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use llama::Shape;

const USAGE: &str = "usage: make_llama OUT [--params 1.1b|tiny] [--shards N] [--seed N]";

fn main() -> ExitCode {
    match run(env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let (mut out, mut params, mut shards, mut seed) = (None, "1.1b".to_owned(), 4, 0);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--params" => params = value()?,
            "--shards" => shards = value()?.parse().map_err(|error| format!("--shards: {error}"))?,
            "--seed" => seed = value()?.parse().map_err(|error| format!("--seed: {error}"))?,
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}").into()),
            _ => out = Some(PathBuf::from(arg)),
        }
    }
    let out = out.ok_or("no folder to write to")?;
    let shape = Shape::named(&params).ok_or_else(|| format!("no preset `{params}`; there are `1.1b` and `tiny`"))?;
    llama::write(&out, shape, shards, seed)?;
    println!("{}: {} parameters in {shards} shards", out.display(), shape.parameters());
    Ok(())
}
