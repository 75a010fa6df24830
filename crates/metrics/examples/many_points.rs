//! Times and peak memory of the metrics of geometry for 20,000 vectors of 384 numbers, the size that they must take in 2 GB.
//!
//! `cargo run --release -p quench-metrics --example many_points`

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{DType, Device, Tensor, TensorData};
use quench_metrics::{Neighbours, Pairs, Preservation, Reconstruction, Source, cka, procrustes, rsa};

const POINTS: usize = 20_000;
const WIDTH: usize = 384;

fn main() {
    let device = Device::flex();
    let random = |seed| -> Tensor<2> {
        let values = Source::Gaussian.samples(POINTS * WIDTH, seed);
        Tensor::from_data(TensorData::new(values, [POINTS, WIDTH]), (&device, DType::F32))
    };
    let x = random(1);
    let y = x.clone() + random(2) * 0.5;
    report("two sets of vectors", || ());
    report("debiased CKA", || cka(x.clone(), y.clone()));
    report("RSA of 2^21 pairs", || rsa(x.clone(), y.clone(), Pairs::default()));
    report("Procrustes", || procrustes(x.clone(), y.clone()));
    report("kNN overlap", || Neighbours::of(x.clone(), 10).overlap(&Neighbours::of(y.clone(), 10)));
    report("trustworthiness", || Preservation::of(x.clone(), y.clone(), 10));
    report("reconstruction", || Reconstruction::of(x.clone(), y.clone(), 10));
}

/// One line: what was computed, in what time, and the most memory that the process has had so far.
fn report<T>(name: &str, metric: impl FnOnce() -> T) {
    let start = Instant::now();
    black_box(metric());
    println!(
        "{name:24} {:7.2} s  {} so far",
        start.elapsed().as_secs_f64(),
        peak().unwrap_or_else(|| "unknown peak".into())
    );
}

/// The peak of the resident memory, as Linux counts it.
fn peak() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:").map(|peak| peak.trim().to_owned()))
}
