//! Persistent homology of random clouds: distances, diagrams, and the distance between diagrams.
//!
//!     cargo bench --bench persistence
//!
//! Beside Ripser: `benches/peers/persistence.py`.

use std::hint::black_box;

use burn::tensor::{Device, Tensor, TensorData};
use divan::Bencher;
use quench::metrics::Source;
use quench::metrics::topology::{Diagram, Distances, bottleneck, persistence, wasserstein};

/// `[points, width]`.
const CLOUDS: [[usize; 2]; 5] = [[100, 64], [200, 64], [400, 3], [400, 64], [800, 64]];

fn main() {
    // A loop of four corners, before anything is timed.
    let square = Distances::from_condensed(4, vec![1.0, 1.5, 1.0, 1.0, 1.5, 1.0]);
    assert_eq!(persistence(&square)[1].pairs, [(1.0, 1.5)], "a square has one loop");
    divan::main();
}

fn cloud([points, width]: [usize; 2], seed: u64) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(Source::Gaussian.samples(points * width, seed), [points, width]),
        &Device::default(),
    )
}

fn loops(size: [usize; 2], seed: u64) -> Diagram {
    let [_, loops] = persistence(&Distances::of(cloud(size, seed)));
    loops
}

#[divan::bench(args = CLOUDS)]
fn distances(bencher: Bencher, size: [usize; 2]) {
    let x = cloud(size, 1);
    bencher.bench_local(|| black_box(Distances::of(x.clone())));
}

#[divan::bench(args = CLOUDS)]
fn diagrams(bencher: Bencher, size: [usize; 2]) {
    let distances = Distances::of(cloud(size, 1));
    bencher.bench_local(|| black_box(persistence(&distances)));
}

#[divan::bench(args = CLOUDS)]
fn bottleneck_of_loops(bencher: Bencher, size: [usize; 2]) {
    let (a, b) = (loops(size, 1), loops(size, 2));
    bencher.bench_local(|| black_box(bottleneck(&a, &b)));
}

#[divan::bench(args = [[100, 64], [400, 3]])]
fn wasserstein_of_loops(bencher: Bencher, size: [usize; 2]) {
    let (a, b) = (loops(size, 1), loops(size, 2));
    bencher.bench_local(|| black_box(wasserstein(&a, &b, 2.0)));
}
