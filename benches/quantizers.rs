//! The quantizers on one layer, with the share of each part.
//!
//!     cargo bench --bench quantizers
//!
//! The peers' seconds for a whole model stand in `docs/results.md`; they are Python programs and run apart.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use divan::Bencher;
use quench::format::Scheme;
use quench::quantize::{Gram, Matrix, Method, Order, Refine, ScaleSearch};

/// `[out, in]`.
const SIZES: [usize; 2] = [512, 1024];

fn main() {
    divan::main();
}

fn matrix(size: usize) -> Matrix {
    let w = Tensor::<2>::random([size, size], Distribution::Normal(0.0, 0.05), &Device::default());
    Matrix { rows: size, columns: size, values: w.into_data().try_to_vec().expect("f32 weights") }
}

fn gram(size: usize) -> Gram {
    let x = Tensor::<2>::random([2 * size, size], Distribution::Normal(0.0, 1.0), &Device::default());
    Gram::new(x.clone().transpose().matmul(x), 2 * size)
}

fn scheme() -> Scheme {
    "int4/128/f16".parse().expect("a valid scheme")
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn rtn_absmax(bencher: Bencher, size: usize) {
    let (w, method) = (matrix(size), Method::rtn(ScaleSearch::AbsMax));
    bencher.bench_local(|| black_box(method.quantize("bench", &w, scheme(), None)));
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn rtn_mse(bencher: Bencher, size: usize) {
    let (w, method) = (matrix(size), Method::rtn(ScaleSearch::Mse));
    bencher.bench_local(|| black_box(method.quantize("bench", &w, scheme(), None)));
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn gptq_static_order(bencher: Bencher, size: usize) {
    let (w, g) = (matrix(size), gram(size));
    let method = Method::Gptq {
        search: ScaleSearch::Mse,
        order: Order::Static,
        damping: 0.01,
        block: 128,
        refine: Refine::default(),
        restarts: 0,
        feedback: 0.0,
    };
    let loss = |method: Method| method.quantize("bench", &w, scheme(), Some(&g)).expect("a good problem").output_loss;
    assert!(loss(method) <= loss(Method::rtn(ScaleSearch::Mse)), "GPTQ lost to rounding");
    bencher.bench_local(|| black_box(method.quantize("bench", &w, scheme(), Some(&g))));
}
