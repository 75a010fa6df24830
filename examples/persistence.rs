//! Persistence diagrams of the points in a file, as JSON, with the seconds that they took.
//!
//!     cargo run --release --example persistence -- POINTS WIDTH [ROUNDS]
//!
//! - `POINTS`: numbers of 32 bits, little endian, `WIDTH` for each point, and nothing else
//! - `ROUNDS`: how often the diagrams are computed; the seconds are those of the quickest round (default 1)

use std::error::Error;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use quench::metrics::topology::{Distances, persistence};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, width, rounds @ ..] = &arguments[..] else {
        return Err("usage: persistence POINTS WIDTH [ROUNDS]".into());
    };
    let width: usize = width.parse()?;
    let rounds: usize = rounds.first().map_or(Ok(1), |rounds| rounds.parse())?;
    let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if width == 0 || values.is_empty() || bytes.len() % (4 * width) != 0 {
        return Err(format!("{path} has {} bytes, which are no points of {width} numbers", bytes.len()).into());
    }
    let points = values.len() / width;
    let x = Tensor::<2>::from_data(TensorData::new(values, [points, width]), &Device::default());

    let (of_distances, distances) = quickest(rounds, || Distances::of(x.clone()));
    let (of_diagrams, diagrams) = quickest(rounds, || persistence(&distances));
    let seconds = json!({ "distances": of_distances, "diagrams": of_diagrams });
    println!("{}", json!({ "points": points, "width": width, "seconds": seconds, "diagrams": diagrams }));
    Ok(())
}

/// The seconds of the quickest of some rounds, at least one, and what the last one found.
fn quickest<T>(rounds: usize, work: impl Fn() -> T) -> (f64, T) {
    let timed = || {
        let start = Instant::now();
        let found = work();
        (start.elapsed().as_secs_f64(), found)
    };
    (1..rounds).fold(timed(), |(best, _), _| {
        let (seconds, found) = timed();
        (best.min(seconds), found)
    })
}
