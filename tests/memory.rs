//! What a step of training takes in memory: a packed matrix is multiplied from both sides, and no dense one is ever made.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{DType, Device, Tensor, TensorData};
use quench::format::{Packed, Scales};
use quench::kernels::{Activations, QTensor};

/// Counts what is allocated, by all threads: this file has a single test.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that a task takes at most beside what there was.
fn most(task: impl FnOnce()) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    task();
    MOST.load(Ordering::Relaxed) - before
}

#[test]
fn a_gradient_through_packed_matrices_makes_no_dense_one() {
    const SIZE: usize = 2048;
    const ROWS: usize = 4;
    let device = Device::flex().autodiff();
    let codes: Vec<u16> = (0..SIZE * SIZE).map(|i| (i * 7 % 16) as u16).collect();
    let scales = Scales::Float(vec![1.0 / 128.0; SIZE * SIZE / 64]);
    let packed = Packed::from_codes("int4/64/f16".parse().unwrap(), [SIZE; 2], &codes, scales, None, None).unwrap();
    let x = TensorData::new((0..ROWS * SIZE).map(|i| (i % 13) as f32 - 6.0).collect(), [ROWS, SIZE]);
    let dense = SIZE * SIZE * size_of::<f32>();
    for activations in Activations::ALL {
        let w = QTensor::from_packed(&packed, &device).with_activations(activations);
        let step = |multiply: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let x = Tensor::<2>::from_data(x.clone(), (&device, DType::F32)).require_grad();
            // Three layers, so that something would have to be kept for the way back.
            let y = multiply(multiply(multiply(x.clone()).tanh()).tanh());
            let gradient = x.grad(&y.sum().backward()).expect("x takes part");
            assert!(gradient.abs().sum().into_scalar::<f32>() > 0.0);
        };
        step(&|x| w.matmul(x)); // threads and their buffers
        let packed = most(|| step(&|x| w.matmul(x)));
        assert!(packed < dense / 4, "{activations}: {packed} bytes, of which a dense matrix would be {dense}");
        // What the bound is there to find.
        let decoded = most(|| step(&|x| x.matmul(w.dequantize().transpose())));
        assert!(decoded > dense, "{activations}: {decoded} bytes with matrices that are decoded");
    }
}
