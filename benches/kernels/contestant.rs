//! What is measured, and our own and Burn's products.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use quench::format::{Packed, Scales, Scheme};
use quench::kernels::{Activations, QTensor, dense_matmul};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The product that all contestants make: `y = x · Wᵀ`.
pub struct Problem {
    /// `[n, k]` of `w`.
    pub shape: [usize; 2],
    /// `[n, k]`, uniform.
    pub w: Vec<f32>,
    /// `[most rows, k]`, uniform; fewer rows are the first ones.
    pub x: Vec<f32>,
    /// Rows of `w` that results are checked on.
    pub checked: Vec<usize>,
    /// Bytes that the copies of a weight take together.
    pub footprint: usize,
    /// How many threads a product may use.
    pub threads: usize,
}

impl Problem {
    /// Weights and inputs from a fixed seed.
    pub fn new([n, k]: [usize; 2], rows: usize, footprint: usize, threads: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(7);
        let mut uniform = |len, reach: f32| (0..len).map(|_| random.random_range(-reach..reach)).collect();
        let (w, x) = (uniform(n * k, 0.1), uniform(rows * k, 1.0));
        // The first, the last and every kind of place within tiles between them.
        let checked = (0..31).map(|i| i * (n / 31) + i % (n / 31)).chain([n - 1]).collect();
        Self { shape: [n, k], w, x, checked, footprint, threads }
    }

    /// How many copies of so many bytes make up the footprint.
    fn copies(&self, bytes: usize) -> usize {
        self.footprint.div_ceil(bytes)
    }

    fn x(&self, rows: usize, device: &Device) -> Tensor<2> {
        let k = self.shape[1];
        Tensor::from_data(TensorData::new(self.x[..rows * k].to_vec(), [rows, k]), device)
    }

    /// The relative error of `y` `[rows, n]` on the checked columns and some rows, against the product in f64 with `w`: the
    /// checked rows of the weight.
    pub fn error(&self, y: &[f32], rows: usize, w: &[Vec<f32>]) -> f64 {
        let [n, k] = self.shape;
        let (mut error, mut total) = (0.0, 0.0);
        for row in (0..rows).step_by(rows.div_ceil(5)).chain([rows - 1]) {
            let x = &self.x[row * k..][..k];
            for (&column, w) in self.checked.iter().zip(w) {
                let exact: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                error += (f64::from(y[row * n + column]) - exact).powi(2);
                total += exact.powi(2);
            }
        }
        (error / total).sqrt()
    }
}

/// A weight in somebody's format, with somebody's product.
pub trait Contestant: Send {
    /// Bytes of weight that a product with one row reads.
    fn bytes(&self) -> usize;

    /// How many copies of the weight there are, to go round.
    fn copies(&self) -> usize;

    /// One product with the first `rows` rows of the input; what is timed.
    fn run(&mut self, copy: usize, rows: usize);

    /// The same product, `[rows, n]`.
    fn result(&mut self, copy: usize, rows: usize) -> Vec<f32>;

    /// The checked rows of the dense weight, where it is not that of the problem.
    fn weight(&self) -> Option<&[Vec<f32>]> {
        None
    }

    /// Sends threads to sleep that wait in a loop.
    fn rest(&mut self) {}
}

/// Our schemes, with the precisions in which a product reads its input.
pub const OURS: [(&str, &[Activations]); 11] = [
    ("int4/32/f16", &Activations::ALL),
    ("int4/128/f16", &[Activations::Int8]),
    ("int8/32/f16", &[Activations::Int8]),
    ("nf4/32/f16", &Activations::ALL),
    ("e2m1/32/f16", &[Activations::Int8]),
    ("slog4/32/f16", &[Activations::Int8]),
    ("uint4/128/f16", &[Activations::Int8]),
    ("int2/32/f16", &[Activations::Int8]),
    ("int3/32/f16", &[Activations::Int8]),
    ("int5/32/f16", &[Activations::Int8]),
    ("int6/32/f16", &[Activations::Int8]),
];

/// Our packed product, on Burn's default CPU backend.
pub struct Ours {
    bytes: usize,
    copies: Vec<QTensor>,
    weight: Vec<Vec<f32>>,
    inputs: Inputs,
}

impl Ours {
    /// Random codes; no quantizer runs.
    pub fn new(scheme: Scheme, activations: Activations, problem: &Arc<Problem>) -> Self {
        let [n, k] = problem.shape;
        let mut random = SmallRng::seed_from_u64(11);
        let last = (scheme.code.len() - 1) as u16; // a power of two less one
        let codes: Vec<u16> = (0..n * k).map(|_| random.random::<u16>() & last).collect();
        let groups = n * scheme.group.groups_per_row(k);
        let scales = (0..groups).map(|_| f16::from_f32(random.random_range(0.005..0.02)).to_f32()).collect();
        let zeros = scheme.code.is_affine().then(|| (0..groups).map(|_| random.random::<u16>() & last).collect());
        let packed = Packed::from_codes(scheme, [n, k], &codes, Scales::Float(scales), zeros, None)
            .expect("random codes are valid ones");
        drop(codes);

        let bytes = packed.storage_bits().div_ceil(8) as usize;
        let decoded = packed.decode();
        let weight = problem.checked.iter().map(|&row| decoded[row * k..][..k].to_vec()).collect();
        let device = Device::flex();
        let upload = || QTensor::from_packed(&packed, &device).with_activations(activations);
        let mut ours = Self { bytes, copies: vec![upload()], weight, inputs: Inputs::new(problem, device.clone()) };
        // Who is slow is not waiting for memory, and need not go round much of it.
        let start = Instant::now();
        ours.run(0, 1);
        let copies = if start.elapsed().as_millis() < 20 { problem.copies(bytes) } else { 2 };
        ours.copies.extend((1..copies).map(|_| upload()));
        ours
    }

    fn product(&mut self, copy: usize, rows: usize) -> Tensor<2> {
        self.copies[copy].matmul(self.inputs.of(rows))
    }
}

impl Contestant for Ours {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn run(&mut self, copy: usize, rows: usize) {
        black_box(self.product(copy, rows));
    }

    fn result(&mut self, copy: usize, rows: usize) -> Vec<f32> {
        floats(self.product(copy, rows))
    }

    fn weight(&self) -> Option<&[Vec<f32>]> {
        Some(&self.weight)
    }
}

/// How a weight is held for Burn's products, and for ours with a dense one.
#[derive(Clone, Copy, Debug)]
pub enum Burn {
    /// `[n, k]`, with our product for what stays dense.
    Ours,
    /// `[n, k]`, transposed for the product: what a checkpoint holds.
    Transposed,
    /// `[k, n]`: what a `Linear` of Burn holds.
    Straight,
    /// As `Transposed`, in 4 bits by blocks of 32, Burn's own quantization.
    QuantizedTransposed,
    /// As `Straight`, in 4 bits by blocks of 32.
    QuantizedStraight,
}

impl Burn {
    /// All, with their names and bits.
    pub const ALL: [(Self, &str, u32); 5] = [
        (Self::Ours, "quench/f32", 32),
        (Self::Transposed, "burn/f32 x@Wt", 32),
        (Self::Straight, "burn/f32 x@W", 32),
        (Self::QuantizedTransposed, "burn/q4f b32 x@Wt", 4),
        (Self::QuantizedStraight, "burn/q4f b32 x@W", 4),
    ];

    fn is_transposed(self) -> bool {
        matches!(self, Self::Ours | Self::Transposed | Self::QuantizedTransposed)
    }

    fn is_quantized(self) -> bool {
        matches!(self, Self::QuantizedTransposed | Self::QuantizedStraight)
    }
}

/// A product of Burn's default CPU backend, or ours with a dense weight on it.
pub struct Burns {
    kind: Burn,
    bytes: usize,
    copies: Vec<Tensor<2>>,
    inputs: Inputs,
}

impl Burns {
    /// The weight of `problem` as `kind`.
    pub fn new(kind: Burn, problem: &Arc<Problem>) -> Self {
        let ([n, k], device) = (problem.shape, Device::flex());
        let w = if kind.is_transposed() {
            TensorData::new(problem.w.clone(), [n, k])
        } else {
            let straight = (0..k).flat_map(|j| problem.w[j..].iter().step_by(k).copied()).collect();
            TensorData::new(straight, [k, n])
        };
        let upload = || Tensor::<2>::from_data(w.clone(), &device);
        let (bytes, copies) = if kind.is_quantized() {
            let scheme = QuantScheme::default()
                .with_value(QuantValue::Q4F)
                .with_store(QuantStore::Native)
                .per_block([32], ScaleDtype::F32);
            // Its product takes so long that caches do not matter. Flex keeps a byte for each code.
            (n * k + n * k / 32 * 4, vec![upload().quantize_dynamic(&scheme)])
        } else {
            let bytes = n * k * 4;
            (bytes, (0..problem.copies(bytes)).map(|_| upload()).collect())
        };
        Self { kind, bytes, copies, inputs: Inputs::new(problem, device) }
    }

    fn product(&mut self, copy: usize, rows: usize) -> Tensor<2> {
        let (w, x) = (self.copies[copy].clone(), self.inputs.of(rows));
        match self.kind {
            Burn::Ours => dense_matmul(x, w),
            kind if kind.is_transposed() => x.matmul(w.transpose()),
            _ => x.matmul(w),
        }
    }
}

impl Contestant for Burns {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn run(&mut self, copy: usize, rows: usize) {
        black_box(self.product(copy, rows));
    }

    fn result(&mut self, copy: usize, rows: usize) -> Vec<f32> {
        floats(self.product(copy, rows))
    }
}

/// The inputs as tensors, made once for each number of rows.
struct Inputs {
    problem: Arc<Problem>,
    device: Device,
    tensors: Vec<(usize, Tensor<2>)>,
}

impl Inputs {
    fn new(problem: &Arc<Problem>, device: Device) -> Self {
        Self { problem: problem.clone(), device, tensors: Vec::new() }
    }

    fn of(&mut self, rows: usize) -> Tensor<2> {
        if let Some((_, x)) = self.tensors.iter().find(|(found, _)| *found == rows) {
            return x.clone();
        }
        let x = self.problem.x(rows, &self.device);
        self.tensors.push((rows, x.clone()));
        x
    }
}

fn floats(y: Tensor<2>) -> Vec<f32> {
    y.into_data().try_into_vec().expect("a product of f32 is f32")
}
