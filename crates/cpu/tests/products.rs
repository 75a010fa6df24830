//! Every product on every instruction set of this machine, against [`Packed::decode`] and sums in f64.
//!
//! Under Miri, which runs the portable code only, cases are few and small:
//!
//!     MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-tree-borrows" cargo +nightly miri test -p quench-cpu
//!
//! and for NEON, with QEMU and a cross linker installed:
//!
//!     CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
//!     CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu -cpu max" \
//!     cargo test -p quench-cpu --target aarch64-unknown-linux-gnu

use half::{bf16, f16};
use proptest::prelude::*;
use quench_cpu::{Activations, Dense, Isa, Levels, Side, Weights, decode, dense, matmul, select};
use quench_format::tiles::{Layout, Tiles};
use quench_format::{Code, FloatKind, Offsets, Packed, Scale, Scales, Scheme};

/// A matrix with what its kernels need.
struct Sample {
    packed: Packed,
    tiles: Tiles,
    levels: Option<Vec<f32>>,
    order: Option<Vec<u32>>,
    w: Vec<f32>,
    x: Vec<f32>,
    rows: usize,
}

/// Numbers that look random, the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn float(&mut self) -> f32 {
        self.next() as f32 / (1_u32 << 30) as f32 - 1.0
    }
}

impl Sample {
    fn new(scheme: &str, shape: [usize; 2], rows: usize, permuted: bool, seed: u64) -> Self {
        let scheme: Scheme = scheme.parse().unwrap_or_else(|error| panic!("{scheme}: {error}"));
        let noise = &mut Noise(seed);
        let [out, columns] = shape;
        let mut codes =
            |n: usize| (0..n).map(|_| (noise.next() as usize % scheme.code.len()) as u16).collect::<Vec<_>>();
        let all = codes(out * columns);
        let [scale_rows, groups] = scheme.group.scale_shape(shape);
        let zeros = scheme.has_zeros().then(|| codes(scale_rows * groups));
        let mut kept = |scale: Scale| match scale {
            Scale::Float(kind) => {
                Scales::Float((0..scale_rows * groups).map(|_| kind.round(noise.float() / 8.0)).collect())
            }
            Scale::PowerOfTwo => unreachable!("no such case"),
            Scale::Nested { code, group, outer } => {
                let [rows, columns] = group.scale_shape([scale_rows, groups]);
                let codes = (0..scale_rows * groups).map(|_| (noise.next() as usize % code.len()) as u16).collect();
                Scales::Nested {
                    codes,
                    outer: (0..rows * columns).map(|_| outer.round(noise.float() / 99.0)).collect(),
                }
            }
        };
        let scales = kept(scheme.scale);
        let offsets = match scheme.minimum {
            Some(minimum) => Offsets::Minimums(kept(minimum)),
            None => zeros.into(),
        };
        let order = permuted.then(|| {
            let mut order: Vec<u32> = (0..columns as u32).collect();
            order.sort_by_key(|column| column.wrapping_mul(2_654_435_761));
            order
        });
        let packed = Packed::from_codes(scheme, shape, &all, scales, offsets, order.clone()).expect("valid");
        Self {
            tiles: Tiles::new(&packed),
            levels: match scheme.code {
                Code::Int { .. } | Code::Affine { .. } => None,
                code => Some(code.levels()),
            },
            order,
            w: packed.decode(),
            packed,
            x: (0..rows * columns).map(|_| noise.float()).collect(),
            rows,
        }
    }

    fn weights(&self) -> Weights<'_> {
        let levels = match (&self.tiles.zeros, &self.levels) {
            (Some(zeros), _) => Levels::Affine(zeros),
            (None, Some(levels)) => Levels::Table(levels),
            (None, None) if self.packed.scheme().code.is_affine() => Levels::Unsigned,
            (None, None) => Levels::Signed,
        };
        let w = Weights::new(self.tiles.layout, &self.tiles.codes, &self.tiles.scales, levels, self.order.as_deref());
        match &self.tiles.minimums {
            Some(minimums) => w.with_minimums(minimums),
            None => w,
        }
    }

    /// The product in f64, and how far a product of these numerics may be from it.
    fn expected(&self, activations: Activations) -> Vec<(f64, f64)> {
        let [_, columns] = self.packed.shape();
        let stored = |j: usize| self.order.as_ref().map_or(j, |order| order[j] as usize);
        let group = self.packed.scheme().group.size(columns);
        let scales = self.packed.scale_values();
        // The largest difference between a level and its neighbour on the grid of bytes, with a little for rounding.
        let levels = self.levels.as_deref().unwrap_or_default();
        let top = levels.iter().fold(0.0, |top: f32, level| top.max(level.abs()));
        let slack = f64::from(top / 127.0 * 0.51);
        let largest = (1_u64 << self.packed.scheme().code.bits()) as f64;
        let minimums = self.packed.minimums();
        let mut expected = Vec::new();
        for x in self.x.chunks_exact(columns) {
            for (i, w) in self.w.chunks_exact(columns).enumerate() {
                let (mut value, mut size, mut bound) = (0.0, 0.0, 0.0);
                for j in 0..columns {
                    let term = f64::from(x[stored(j)]) * f64::from(w[stored(j)]);
                    value += term;
                    size += term.abs();
                }
                let scale = |j: usize| f64::from(scales[i * columns.div_ceil(group) + j / group]).abs();
                match activations {
                    Activations::F32 => {}
                    // Both operands are rounded to 8 bits of mantissa; codes against zero points cancel after that.
                    Activations::Bf16 => {
                        let reach = |j: usize| f64::from(x[stored(j)]).abs() * scale(j);
                        let cancelled: f64 = (0..columns).map(|j| reach(j) * largest).sum();
                        bound += size * 2.1 / 256.0 + (columns + 2) as f64 * cancelled * 2f64.powi(-24);
                        bound += (0..columns).map(|j| reach(j) * f64::from(top)).sum::<f64>() / 256.0;
                    }
                    Activations::Int8 => {
                        // Half a step of the block, which is at most the group; at most 128 columns.
                        let size = group.min(128);
                        for block in (0..columns).collect::<Vec<_>>().chunks(size) {
                            let top = block.iter().fold(0.0, |top: f64, &j| top.max(f64::from(x[stored(j)]).abs()));
                            let half = top / 127.0 * 0.5001;
                            bound += block.iter().map(|&j| half * f64::from(w[stored(j)]).abs()).sum::<f64>();
                            bound += block
                                .iter()
                                .map(|&j| (f64::from(x[stored(j)]).abs() + half) * scale(j) * slack)
                                .sum::<f64>();
                        }
                    }
                }
                // What is added to a group and what is multiplied may be larger than the weight, and are summed apart.
                if let Some(minimums) = &minimums {
                    let minimum = |j: usize| f64::from(minimums[i * columns.div_ceil(group) + j / group]).abs();
                    let reach = |j: usize| scale(j) * largest.max(f64::from(top)) + minimum(j);
                    size += (0..columns).map(|j| f64::from(x[stored(j)]).abs() * reach(j)).sum::<f64>();
                }
                // The usual bound of a sum in f32.
                bound += (columns + 8) as f64 * (size + bound) * 2f64.powi(-24) + f64::from(f32::MIN_POSITIVE);
                expected.push((value, bound));
            }
        }
        expected
    }

    fn check(&self, isa: Isa, case: &str) {
        let w = self.weights();
        assert_eq!(decode(&w, isa), self.w, "{isa}: {case}: decode");
        let [out, columns] = self.packed.shape();
        let rows: Vec<usize> = (0..out).rev().chain([0]).collect();
        let expected: Vec<f32> = rows.iter().flat_map(|&row| &self.w[row * columns..][..columns]).copied().collect();
        assert_eq!(select(&w, &rows), expected, "{isa}: {case}: select");
        for activations in Activations::ALL {
            let y = matmul(&w, &self.x, self.rows, Side::Transposed, activations, isa);
            // What the matrix is not served with falls back to f32, whose bound is the smallest.
            let bound = w.activations(activations);
            for (i, (found, (value, bound))) in y.iter().zip(self.expected(bound)).enumerate() {
                let error = (f64::from(*found) - value).abs();
                assert!(error <= bound, "{isa}: {case}: {activations}: {found} at {i}, not {value} ± {bound}");
            }
            // Where a matrix unit takes over, sums are made in another order.
            let unit_from = match w.activations(activations) {
                Activations::Int8 => 13,
                Activations::Bf16 => 5,
                Activations::F32 => usize::MAX,
            };
            if isa.to_string() == "amx" && self.rows >= unit_from {
                continue;
            }
            // A row alone gives what it gives among others, bit for bit.
            let one = matmul(&w, &self.x[..columns], 1, Side::Transposed, activations, isa);
            assert_eq!(one, y[..out], "{isa}: {case}: {activations}: one row");
        }
        self.check_plain(isa, case);
    }

    /// `x · W`, with `y` of the other side as `x`.
    fn check_plain(&self, isa: Isa, case: &str) {
        let [out, columns] = self.packed.shape();
        let noise = &mut Noise(self.rows as u64);
        let dy: Vec<f32> = (0..self.rows * out).map(|_| noise.float()).collect();
        let dx = matmul(&self.weights(), &dy, self.rows, Side::Plain, Activations::Int8, isa);
        for (i, found) in dx.iter().enumerate() {
            let (row, j) = (i / columns, i % columns);
            let terms = (0..out).map(|r| f64::from(dy[row * out + r]) * f64::from(self.w[r * columns + j]));
            let (value, size) = terms.fold((0.0, 0.0), |(value, size), term| (value + term, size + term.abs()));
            let bound = (out + 8) as f64 * size * 2f64.powi(-24) + f64::from(f32::MIN_POSITIVE);
            let error = (f64::from(*found) - value).abs();
            assert!(error <= bound, "{isa}: {case}: x · W: {found} at {i}, not {value} ± {bound}");
        }
    }
}

fn check(scheme: &str, shape: [usize; 2], rows: usize, permuted: bool, seed: u64) {
    let sample = Sample::new(scheme, shape, rows, permuted, seed);
    for isa in Isa::all() {
        sample.check(isa, &format!("{scheme} {shape:?} rows {rows} permuted {permuted}"));
    }
}

/// Every width of every code with every kind of group, every height of a panel, and shapes that are multiples of nothing.
#[test]
fn every_kernel_is_the_naive_product() {
    // Miri takes a second for what takes a millisecond.
    let few = cfg!(miri);
    let groups = [("32", "f16"), ("64", "bf16"), ("16", "f32"), ("48", "f16"), ("row", "f16"), ("13", "f32")];
    for bits in 1..=16 {
        for (n, (group, kind)) in groups.iter().enumerate() {
            for code in ["int", "uint"] {
                let scheme = format!("{code}{bits}/{group}/{kind}");
                match few {
                    true if n == bits % 6 && [3, 4, 8, 11].contains(&bits) => check(&scheme, [2, 34], 1, true, 1),
                    true => {}
                    false => check(&scheme, [21, 131], [1, 2, 3, 5, 14, 33][(bits + n) % 6], bits % 2 == 1, 1),
                }
            }
        }
    }
    for code in ["nf4", "e2m1", "e4m3", "slog2:mu8", "slog3:mu8", "slog4:mu8", "slog5:mu8", "slog8:mu8", "slog11:mu8"] {
        for (group, rows) in [("32", 9), ("16", 3), ("row", 1), ("tensor", 13), ("80", 2), ("7", 4)] {
            let scheme = format!("{code}/{group}/f16");
            match few {
                true if group == "32" && ["nf4", "slog5:mu8"].contains(&code) => check(&scheme, [1, 33], 2, false, 2),
                true => {}
                false => check(&scheme, [17, 200], rows, rows == 3, 2),
            }
        }
    }
}

/// Every width of integers, and tables, with minimums kept in every way: the types of llama.cpp and others.
#[test]
fn groups_with_minimums_are_the_naive_product() {
    for bits in 1..=16 {
        let rows = [1, 2, 3, 5, 14, 33][bits % 6];
        for (n, (group, kept)) in
            [("32", "f16/min:f16"), ("16", "bf16/min:f32"), ("13", "f32/min:f16"), ("row", "f16/min:bf16")]
                .iter()
                .enumerate()
        {
            for code in ["int", "uint"] {
                let scheme = format!("{code}{bits}/{group}/{kept}");
                match cfg!(miri) {
                    true if n == bits % 4 && [4, 8, 11].contains(&bits) => check(&scheme, [2, 34], 1, true, 4),
                    true => {}
                    false => check(&scheme, [21, 131], rows, bits % 2 == 1, 4),
                }
            }
        }
    }
    if cfg!(miri) {
        return;
    }
    // Q2_K, Q4_K and Q5_K; tables; one scale and one minimum for all.
    for (scheme, shape, rows) in [
        ("uint2/16/uint4/16:f16/min:uint4/16:f16", [33, 512], 1),
        ("uint4/32/uint6/8:f16/min:uint6/8:f16", [40, 512], 12),
        ("uint5/32/uint6/8:f16/min:uint6/8:f16", [17, 256], 3),
        ("uint4/128/f16/min:f16", [40, 640], 40),
        ("nf4/32/f16/min:f16", [17, 200], 9),
        ("slog5:mu8/80/f16/min:f16", [17, 200], 2),
        ("e4m3/32/f16/min:f16", [17, 96], 5),
        ("uint4/tensor/f16/min:f16", [17, 96], 2),
    ] {
        check(scheme, shape, rows, false, 5);
    }
}

#[test]
#[cfg_attr(miri, ignore = "large")]
fn threads_and_panels_share_the_work_without_a_trace() {
    for scheme in ["int4/32/f16", "uint4/128/f16", "nf4/64/f16", "int8/32/f16", "uint4/32/f16/min:f16"] {
        for (shape, rows) in [([530, 640], 1), ([530, 640], 40), ([1000, 333], 129)] {
            let sample = Sample::new(scheme, shape, rows, false, 3);
            for isa in Isa::all() {
                for activations in Activations::ALL {
                    for side in [Side::Transposed, Side::Plain] {
                        let x = match side {
                            Side::Transposed => sample.x.clone(),
                            Side::Plain => (0..rows * shape[0]).map(|i| (i % 97) as f32 - 48.0).collect(),
                        };
                        let product = || matmul(&sample.weights(), &x, rows, side, activations, isa);
                        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads");
                        let alone = pool(1).install(product);
                        assert_eq!(product(), alone, "{isa} {scheme} {shape:?} {activations} helped");
                        for threads in [2, 5] {
                            assert_eq!(
                                pool(threads).install(product),
                                alone,
                                "{isa} {scheme} {shape:?} {activations} {threads}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_dense_matrix_times_few_rows() {
    for (shape, rows) in [([1, 1], 1), ([5, 33], 3), ([130, 257], 8), ([700, 500], 16), ([9, 16], 0)] {
        if cfg!(miri) && shape[0] > 100 {
            continue;
        }
        let (noise, [out, columns]) = (&mut Noise(6), shape);
        let mut floats = |n: usize| (0..n).map(|_| noise.float()).collect::<Vec<_>>();
        let (w, x) = (floats(out * columns), floats(rows * columns));
        for isa in Isa::all() {
            let y = dense(Dense::F32(&w), shape, &x, rows, isa);
            for (i, found) in y.iter().enumerate() {
                let (x, w) = (&x[i / out * columns..][..columns], &w[i % out * columns..][..columns]);
                let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (value, size) = terms.fold((0.0, 0.0), |(value, size), term| (value + term, size + term.abs()));
                let bound = (columns + 2) as f64 * size * 2f64.powi(-24);
                assert!(
                    (f64::from(*found) - value).abs() <= bound,
                    "{isa} {shape:?} {rows}: {found} at {i}, not {value}"
                );
            }
            if rows > 0 {
                assert_eq!(dense(Dense::F32(&w), shape, &x[..columns], 1, isa), y[..out], "{isa} {shape:?}: one row");
            }
            // Halves are read as the floats that they are.
            let (f16s, bf16s): (Vec<_>, Vec<_>) = w.iter().map(|&w| (f16::from_f32(w), bf16::from_f32(w))).unzip();
            let floats = |halves: &mut dyn Iterator<Item = f32>| {
                let w: Vec<f32> = halves.collect();
                dense(Dense::F32(&w), shape, &x, rows, isa)
            };
            let expected = floats(&mut f16s.iter().map(|half| half.to_f32()));
            assert_eq!(dense(Dense::F16(&f16s), shape, &x, rows, isa), expected, "{isa} {shape:?}: f16");
            let expected = floats(&mut bf16s.iter().map(|half| half.to_f32()));
            assert_eq!(dense(Dense::BF16(&bf16s), shape, &x, rows, isa), expected, "{isa} {shape:?}: bf16");
        }
    }
}

/// A matrix of more elements than an `i32` counts, all zero but for the last row: codes of 1 bit, −1 and 0.
#[test]
#[cfg_attr(miri, ignore = "large")]
fn more_than_2_31_elements() {
    let layout = Layout { shape: [(1 << 16) + 16, 1 << 15], bits: 1, group: 1 << 15, scale: FloatKind::F32 };
    let [out, columns] = layout.shape;
    assert!(out * columns > 1 << 31);
    // Row 15 of the last tile: code 0, which is −1; all others have code 1, which is 0.
    let mut codes = vec![u32::MAX; layout.tiles() * layout.code_words()];
    let last = codes.len() - layout.code_words();
    codes[last..].iter_mut().skip(15).step_by(16).for_each(|word| *word = 0);
    let scales = vec![0.5_f32.to_bits(); layout.tiles() * layout.scale_words()];
    let w = Weights::new(layout, &codes, &scales, Levels::Signed, None);
    let rows = select(&w, &[out - 2, out - 1]);
    assert_eq!((rows[0], rows[columns - 1], rows[columns], rows[2 * columns - 1]), (0.0, 0.0, -0.5, -0.5));
    let x: Vec<f32> = (0..columns).map(|j| (j % 5) as f32).collect();
    let y = matmul(&w, &x, 1, Side::Transposed, Activations::F32, Isa::chosen());
    assert!(y[..out - 1].iter().all(|&y| y == 0.0));
    assert_eq!(y[out - 1], -0.5 * x.iter().sum::<f32>());
}

#[test]
fn what_is_no_number_spreads() {
    let sample = Sample::new("int4/32/f16", [20, 64], 3, false, 4);
    let mut x = sample.x.clone();
    x[3] = f32::NAN;
    x[64 + 60] = f32::INFINITY;
    for isa in Isa::all() {
        for activations in Activations::ALL {
            let y = matmul(&sample.weights(), &x, 3, Side::Transposed, activations, isa);
            assert!(y[..20].iter().all(|y| y.is_nan()), "{isa} {activations}");
            for (found, w) in y[20..40].iter().zip(sample.w.chunks_exact(64)) {
                let expected = f32::INFINITY * w[60];
                assert!(
                    *found == expected || found.is_nan() && expected.is_nan(),
                    "{isa} {activations}: {found} {expected}"
                );
            }
            assert!(y[40..].iter().all(|y| y.is_finite()), "{isa} {activations}");
        }
    }
}

#[test]
fn zeros_and_the_smallest_numbers_are_no_trouble() {
    let sample = Sample::new("int4/32/f16", [20, 64], 1, false, 5);
    for x in [0.0, f32::MIN_POSITIVE, 1e-40, 1e-37, f32::MAX / 1e6] {
        for isa in Isa::all() {
            for activations in Activations::ALL {
                let y = matmul(&sample.weights(), &[x; 64], 1, Side::Transposed, activations, isa);
                for (found, w) in y.iter().zip(sample.w.chunks_exact(64)) {
                    let expected: f64 = w.iter().map(|w| f64::from(*w) * f64::from(x)).sum();
                    let size: f64 = w.iter().map(|w| (f64::from(*w) * f64::from(x)).abs()).sum();
                    assert!(
                        (f64::from(*found) - expected).abs() <= size / 100.0 + 1e-34,
                        "{isa} {activations} {x}: {found} {expected}"
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn whatever_the_scheme_and_shape(
        code in prop_oneof![
            (1..=16_u32, any::<bool>()).prop_map(|(bits, affine)| format!("{}int{bits}", if affine { "u" } else { "" })),
            (2..=16_u32, 1..64_u32).prop_map(|(bits, mu)| format!("slog{bits}:mu{mu}")),
            prop::sample::select(vec!["nf4", "e2m1", "e4m3"]).prop_map(String::from),
        ],
        group in prop_oneof![Just("row".to_owned()), Just("tensor".to_owned()), (1..12_u32).prop_map(|n| (16 * n).to_string()), (1..140_u32).prop_map(|n| n.to_string())],
        kind in prop::sample::select(vec!["f32", "f16", "bf16"]),
        out in 1..40_usize, columns in 1..300_usize, rows in 1..30_usize, permuted in any::<bool>(), seed in any::<u64>(),
    ) {
        check(&format!("{code}/{group}/{kind}"), [out, columns], rows, permuted, seed);
    }
}
