//! The packed product beside Burn's dense product and Burn's own quantized product, on the same weights.
//!
//!     cargo bench --bench kernels
//!
//! Each case is checked before it is timed.

use std::hint::black_box;

use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{Device, Distribution, Tensor};
use divan::{AllocProfiler, Bencher};
use quench::format::Scheme;
use quench::kernels::QTensor;
use quench::quantize::{Matrix, Method, ScaleSearch};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// `[out, in]` of the weight.
const SIZE: usize = 2048;
/// Rows of the input.
const ROWS: [usize; 3] = [1, 16, 256];

fn main() {
    divan::main();
}

fn weight(device: &Device) -> Tensor<2> {
    Tensor::random([SIZE, SIZE], Distribution::Normal(0.0, 0.05), device)
}

fn input(rows: usize, device: &Device) -> Tensor<2> {
    Tensor::random([rows, SIZE], Distribution::Normal(0.0, 1.0), device)
}

/// The relative difference of a product from the dense one: what four bits cost, and no more.
fn check(y: Tensor<2>, x: Tensor<2>, w: Tensor<2>) {
    let dense = x.matmul(w.transpose());
    let error =
        (y - dense.clone()).powi_scalar(2).sum().into_scalar::<f32>() / dense.powi_scalar(2).sum().into_scalar::<f32>();
    assert!(error.sqrt() < 0.2, "relative error {}", error.sqrt());
}

#[divan::bench(args = ROWS)]
fn dense_f32(bencher: Bencher, rows: usize) {
    let device = Device::default();
    let (w, x) = (weight(&device), input(rows, &device));
    bencher.bench_local(|| black_box(x.clone().matmul(w.clone().transpose()).into_data()));
}

#[divan::bench(args = ROWS)]
fn quench_int4_g128(bencher: Bencher, rows: usize) {
    let device = Device::default();
    let (w, x) = (weight(&device), input(rows, &device));
    let scheme: Scheme = "int4/128/f16".parse().expect("a valid scheme");
    let values = w.clone().into_data().try_to_vec().expect("f32 weights");
    let matrix = Matrix { rows: SIZE, columns: SIZE, values };
    let quantized =
        Method::Rtn { search: ScaleSearch::Mse }.quantize("bench", &matrix, scheme, None).expect("finite weights");
    let packed = QTensor::from_packed(&quantized.packed, &device);
    check(packed.matmul(x.clone()), x.clone(), w);
    bencher.bench_local(|| black_box(packed.matmul(x.clone()).into_data()));
}

/// Burn's own: 4 bits in blocks of 32, the largest power of two in common use there.
#[divan::bench(args = ROWS)]
fn burn_q4_block32(bencher: Bencher, rows: usize) {
    let device = Device::default();
    let (w, x) = (weight(&device), input(rows, &device));
    let scheme = QuantScheme::default()
        .with_value(QuantValue::Q4F)
        .with_store(QuantStore::Native)
        .per_block([32], ScaleDtype::F32);
    let packed = w.clone().quantize_dynamic(&scheme);
    check(x.clone().matmul(packed.clone().transpose()), x.clone(), w);
    bencher.bench_local(|| black_box(x.clone().matmul(packed.clone().transpose()).into_data()));
}
