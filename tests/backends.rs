//! Every operation on packed matrices, on every device compiled in, against [`Packed::decode`] and a naive f64 product.
//!
//! One table of cases serves all tests; all of it runs, and what fails is printed case by case.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use proptest::prelude::*;
use quench::format::{Code, Group, Packed, Scale, Scales, Scheme};
use quench::kernels::{QTensor, Side};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The devices that this build has.
#[cfg_attr(feature = "ndarray", expect(deprecated, reason = "burn-ndarray is deprecated upstream as a whole"))]
fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", Device::ndarray()),
        // Mesa's CPU driver: WGSL runs on it, Burn's SPIR-V crashes it.
        #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
        ("wgpu", Device::wgpu(burn::tensor::DeviceKind::Cpu)),
        #[cfg(feature = "cuda")]
        ("cuda", Device::cuda(0)),
    ]
}

/// How the columns are stored.
#[derive(Clone, Copy, Debug)]
enum Columns {
    Natural,
    Permuted,
}

/// A matrix `[out, in]` and the rows of a batch.
#[derive(Clone, Copy, Debug)]
struct Case {
    scheme: Scheme,
    shape: [usize; 2],
    rows: usize,
    columns: Columns,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, shape, rows, columns } = self;
        write!(f, "{scheme} {shape:?} rows {rows} {columns:?}")
    }
}

/// Every width of every code, every kind of group and scale, and shapes that are multiples of nothing.
fn table() -> Vec<Case> {
    use Columns::{Natural, Permuted};
    let mut cases = Vec::new();
    let mut add = |scheme: &str, shape, rows, columns| {
        let scheme = scheme.parse().unwrap_or_else(|error| panic!("{scheme}: {error}"));
        cases.push(Case { scheme, shape, rows, columns });
    };
    for bits in 1..=16 {
        add(&format!("int{bits}/32/f32"), [5, 96], 3, Natural);
        add(&format!("uint{bits}/13/f16"), [7, 67], 2, Permuted);
    }
    for bits in [2, 3, 4, 5, 8, 9, 12, 16] {
        add(&format!("slog{bits}:mu8/16/bf16"), [6, 50], 4, Natural);
    }
    for code in ["nf4", "e2m1", "e4m3"] {
        add(&format!("{code}/16/f16"), [9, 64], 5, Natural);
        add(&format!("{code}/row/f32"), [3, 41], 1, Permuted);
    }
    for code in ["int4", "uint3", "nf4"] {
        for group in ["tensor", "row", "1", "7", "31", "64", "100000"] {
            add(&format!("{code}/{group}/f32"), [11, 97], 6, Natural);
        }
        for scale in ["uint6/4:f16", "int8/row:f32", "e4m3/tensor:f32", "nf4/3:bf16"] {
            add(&format!("{code}/8/{scale}"), [10, 61], 3, Natural);
            add(&format!("{code}/tensor/{scale}"), [4, 19], 2, Permuted);
        }
        for shape in [[1, 1], [1, 33], [33, 1], [2, 31], [17, 129], [64, 32]] {
            add(&format!("{code}/32/f16"), shape, 1, Natural);
            add(&format!("{code}/5/f16"), shape, 7, Permuted);
        }
    }
    // Above the sizes from which backends tile and share among threads.
    add("int4/128/f16", [300, 515], 70, Natural);
    add("uint5/64/f16", [259, 384], 33, Permuted);
    // Above the size that a host product decodes at a time.
    add("int4/128/f16", [1100, 1000], 3, Permuted);
    add("uint3/100/f32", [2100, 513], 2, Natural);
    cases
}

/// What a case is tested with, drawn from a seed.
struct Sample {
    packed: Packed,
    /// `[out, in]`, by the oracle.
    w: Vec<f32>,
    /// `[rows, in]`.
    x: Vec<f32>,
    /// `[rows, out]`.
    dy: Vec<f32>,
}

impl Sample {
    fn new(case: &Case, seed: u64) -> Self {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let Case { scheme, shape: shape @ [out, columns], rows, .. } = *case;
        let codes = any_codes(rng, scheme.code, out * columns);
        let [scale_rows, groups] = scheme.group.scale_shape(shape);
        let scales = match scheme.scale {
            Scale::Float(kind) => {
                Scales::Float(floats(rng, scale_rows * groups).iter().map(|&s| kind.round(s)).collect())
            }
            Scale::Nested { code, group, outer } => {
                let [outer_rows, outers] = group.scale_shape([scale_rows, groups]);
                Scales::Nested {
                    codes: any_codes(rng, code, scale_rows * groups),
                    outer: floats(rng, outer_rows * outers).iter().map(|&s| outer.round(s)).collect(),
                }
            }
        };
        let zeros = scheme.code.is_affine().then(|| any_codes(rng, scheme.code, scale_rows * groups));
        let order = match case.columns {
            Columns::Natural => None,
            Columns::Permuted => {
                let mut order: Vec<u32> = (0..columns as u32).collect();
                order.shuffle(rng);
                Some(order)
            }
        };
        let packed = Packed::from_codes(scheme, shape, &codes, scales, zeros, order)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        Self { w: packed.decode(), packed, x: floats(rng, rows * columns), dy: floats(rng, rows * out) }
    }
}

fn any_codes(rng: &mut ChaCha8Rng, code: Code, n: usize) -> Vec<u16> {
    (0..n).map(|_| rng.random_range(0..code.len()) as u16).collect()
}

fn floats(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A product in f64 and how far a float product of the same operands may be from it.
struct Product {
    values: Vec<f64>,
    /// `k · |x| · |w|`, to be multiplied by the unit roundoff: the usual bound for any order of a sum of `k` products.
    bound: Vec<f64>,
}

/// `x · Wᵀ` or `x · W`, one element at a time.
fn product(x: &[f32], w: &[f32], shape: [usize; 2], side: Side) -> Product {
    let [k, n] = side.columns(shape);
    let weight = |j: usize, k: usize| match side {
        Side::Transposed => w[j * shape[1] + k],
        Side::Plain => w[k * shape[1] + j],
    };
    let (mut values, mut bound) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(k) {
        for j in 0..n {
            let terms = || row.iter().enumerate().map(|(k, &x)| f64::from(x) * f64::from(weight(j, k)));
            values.push(terms().sum());
            bound.push((k + 2) as f64 * terms().map(f64::abs).sum::<f64>());
        }
    }
    Product { values, bound }
}

const F32_ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// `found` within `roundoff · bound` of the product, everywhere.
fn close(what: &str, found: &[f32], expected: &Product, roundoff: f64) -> Result<(), String> {
    if found.len() != expected.values.len() {
        return Err(format!("{what}: {} values instead of {}", found.len(), expected.values.len()));
    }
    let each = found.iter().zip(&expected.values).zip(&expected.bound).enumerate();
    for (index, ((&found, &expected), &bound)) in each {
        let allowed = roundoff * bound + f64::from(f32::MIN_POSITIVE);
        let error = (f64::from(found) - expected).abs();
        if error.is_nan() || error > allowed {
            return Err(format!("{what}: {found:e} at {index} instead of {expected:e} ± {allowed:e}"));
        }
    }
    Ok(())
}

/// `found` equal to `expected`, everywhere; 0 and -0 are equal.
fn equal(what: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} values instead of {}", found.len(), expected.len()));
    }
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        Some(index) => Err(format!("{what}: {:e} at {index} instead of {:e}", found[index], expected[index])),
        None => Ok(()),
    }
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_into_vec().expect("f32")
}

type Check = fn(&Device, &Case, &Sample) -> Result<(), String>;

/// Runs the checks on every device for every case; a panic is a failure of its case.
fn over(cases: &[Case], checks: &[Check]) {
    let mut failures = Vec::new();
    for (name, device) in devices() {
        for (seed, case) in (0..).zip(cases) {
            let sample = Sample::new(case, seed);
            for check in checks {
                let outcome = catch_unwind(AssertUnwindSafe(|| check(&device, case, &sample)));
                if let Err(message) = outcome.unwrap_or_else(|panic| Err(text(&*panic))) {
                    failures.push(format!("{name}: {case}: {message}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn text(panic: &dyn Any) -> String {
    let message = panic.downcast_ref::<String>().cloned();
    message.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}

#[test]
fn decodes_as_the_format_says() {
    over(&table(), &[decode, round_trip]);
}

#[test]
fn multiplies_from_both_sides() {
    over(&table(), &[forward, backward_side]);
}

#[test]
fn selects_rows() {
    over(&table(), &[select]);
}

#[test]
fn gradients_are_those_of_the_dense_matrix() {
    over(&table(), &[gradients]);
}

#[test]
fn strided_inputs_are_read_in_order() {
    over(&table(), &[strided]);
}

fn decode(device: &Device, _: &Case, sample: &Sample) -> Result<(), String> {
    let w = QTensor::from_packed(&sample.packed, device).dequantize();
    equal("decode", &values(w), &sample.w)
}

fn round_trip(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let w = QTensor::from_packed(&sample.packed, device);
    if w.to_packed() != sample.packed {
        return Err("came back changed".into());
    }
    let facts = (w.shape(), w.scheme(), w.bits_per_weight());
    let expected = (case.shape, case.scheme, sample.packed.bits_per_weight());
    if facts == expected { Ok(()) } else { Err(format!("{facts:?} instead of {expected:?}")) }
}

fn forward(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [out, columns] = case.shape;
    let w = QTensor::from_packed(&sample.packed, device);
    let y = w.matmul(tensor(&sample.x, [case.rows, columns], device));
    if y.dims() != [case.rows, out] {
        return Err(format!("product {:?}", y.dims()));
    }
    close("x · Wᵀ", &values(y), &product(&sample.x, &sample.w, case.shape, Side::Transposed), F32_ROUNDOFF)
}

fn backward_side(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [out, columns] = case.shape;
    let w = QTensor::from_packed(&sample.packed, device);
    let dx = w.matmul_from(tensor(&sample.dy, [case.rows, out], device), Side::Plain);
    if dx.dims() != [case.rows, columns] {
        return Err(format!("product {:?}", dx.dims()));
    }
    close("x · W", &values(dx), &product(&sample.dy, &sample.w, case.shape, Side::Plain), F32_ROUNDOFF)
}

fn select(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [out, columns] = case.shape;
    // Every row, backwards, and the first one again.
    let rows: Vec<i32> = (0..out as i32).rev().chain([0]).collect();
    let expected: Vec<f32> =
        rows.iter().flat_map(|&row| &sample.w[row as usize * columns..][..columns]).copied().collect();
    let w = QTensor::from_packed(&sample.packed, device);
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [out + 1]), device);
    equal("select", &values(w.select(rows)), &expected)
}

fn gradients(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [out, columns] = case.shape;
    let device = &device.clone().autodiff();
    let w = QTensor::from_packed(&sample.packed, device);
    let dense = tensor(&sample.w, case.shape, device);
    for side in [Side::Transposed, Side::Plain] {
        let (x, dy) = match side {
            Side::Transposed => (&sample.x, &sample.dy),
            Side::Plain => (&sample.dy, &sample.x),
        };
        let [k, n] = side.columns([out, columns]);
        let gradient = |multiply: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let x = tensor(x, [case.rows, k], device).require_grad();
            let loss = (multiply(x.clone()) * tensor(dy, [case.rows, n], device)).sum();
            values(x.grad(&loss.backward()).expect("x takes part"))
        };
        let packed = gradient(&|x| w.matmul_from(x, side));
        let by_hand = gradient(&|x| match side {
            Side::Transposed => x.matmul(dense.clone().transpose()),
            Side::Plain => x.matmul(dense.clone()),
        });
        let expected = product(dy, &sample.w, case.shape, side.flip());
        close("gradient", &packed, &expected, F32_ROUNDOFF)?;
        close("dense gradient", &by_hand, &expected, F32_ROUNDOFF)?;
    }
    Ok(())
}

fn strided(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let ([out, columns], rows) = (case.shape, case.rows);
    let w = QTensor::from_packed(&sample.packed, device);
    let across: Vec<f32> = (0..columns * rows).map(|i| sample.x[i % rows * columns + i / rows]).collect();
    let expected = product(&sample.x, &sample.w, case.shape, Side::Transposed);

    let turned = tensor(&across, [columns, rows], device).transpose(); // [rows, in]
    close("transposed x", &values(w.matmul(turned)), &expected, F32_ROUNDOFF)?;

    // Every other column of a matrix with gaps.
    let gaps: Vec<f32> = sample.x.iter().flat_map(|&x| [x, f32::NAN]).collect();
    let x = tensor(&gaps, [rows, columns, 2], device).slice([0..rows, 0..columns, 0..1]).reshape([rows, columns]);
    close("sliced x", &values(w.matmul(x)), &expected, F32_ROUNDOFF)?;

    let ids: Vec<i32> = (0..out as i32).flat_map(|row| [row, -1]).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [out, 2]), device).slice([0..out, 0..1]).reshape([out]);
    equal("sliced rows", &values(w.select(ids)), &sample.w)
}

/// A few cases for what does not depend on the scheme.
fn few() -> Vec<Case> {
    table().into_iter().step_by(11).collect()
}

#[test]
fn x_of_any_rank_and_empty_batches() {
    over(
        &few(),
        &[|device, case, sample| {
            let ([out, columns], rows) = (case.shape, case.rows);
            let w = QTensor::from_packed(&sample.packed, device);
            let flat = values(w.matmul(tensor(&sample.x, [rows, columns], device)));

            let one = w.matmul(tensor(&sample.x[..columns], [columns], device));
            close(
                "rank 1",
                &values(one),
                &product(&sample.x[..columns], &sample.w, case.shape, Side::Transposed),
                F32_ROUNDOFF,
            )?;
            let three = w.matmul(tensor(&sample.x, [rows, 1, columns], device));
            assert_eq!(three.dims(), [rows, 1, out]);
            equal("rank 3", &values(three), &flat)?;
            let four = w.matmul(tensor(&sample.x, [1, rows, 1, columns], device));
            assert_eq!(four.dims(), [1, rows, 1, out]);
            equal("rank 4", &values(four), &flat)?;

            assert_eq!(w.matmul(tensor(&[], [0, columns], device)).dims(), [0, out]);
            assert_eq!(w.matmul(tensor(&[], [2, 0, columns], device)).dims(), [2, 0, out]);
            let nothing = w.matmul(tensor(&[], [0, 3, columns], device)).into_data();
            assert_eq!((nothing.shape().as_slice(), nothing.num_elements()), ([0, 3, out].as_slice(), 0));
            let none = Tensor::<1, Int>::from_data(TensorData::new(Vec::<i32>::new(), [0]), device);
            assert_eq!(w.select(none).dims(), [0, columns]);
            Ok(())
        }],
    );
}

#[test]
fn values_that_are_no_numbers_spread_as_in_the_dense_product() {
    over(
        &few(),
        &[|device, case, sample| {
            let [_, columns] = case.shape;
            let w = QTensor::from_packed(&sample.packed, device);
            let mut x = sample.x[..columns].repeat(4);
            x[columns / 2] = f32::NAN;
            x[columns + columns / 3] = f32::INFINITY;
            x[2 * columns] = f32::NEG_INFINITY;
            x[3 * columns] = f32::INFINITY;
            x[4 * columns - 1] = f32::NEG_INFINITY;
            let x = tensor(&x, [4, columns], device);
            let expected = values(x.clone().matmul(tensor(&sample.w, case.shape, device).transpose()));
            for (index, (found, expected)) in values(w.matmul(x)).iter().zip(&expected).enumerate() {
                let same = match expected.is_finite() {
                    true => found.is_finite(),
                    false => found == expected || (found.is_nan() && expected.is_nan()),
                };
                if !same {
                    return Err(format!("{found} at {index} where the dense product has {expected}"));
                }
            }
            Ok(())
        }],
    );
}

#[test]
fn half_precisions_where_the_device_has_them() {
    over(
        &few(),
        &[|device, case, sample| {
            for (dtype, roundoff) in [(DType::F16, 1.0 / 2048.0), (DType::BF16, 1.0 / 256.0)] {
                if !device.supports_dtype(dtype) {
                    continue;
                }
                let w = QTensor::from_packed(&sample.packed, device);
                // The operands are rounded first, in the oracle too; small enough that f16 does not overflow.
                let scale = 1.0 / sample.w.iter().fold(1.0, |top: f32, w| top.max(w.abs()));
                let x: Vec<f32> = sample.x.iter().map(|x| x * scale).collect();
                let x = tensor(&x, [case.rows, case.shape[1]], device).cast(dtype);
                let dense = tensor(&sample.w, case.shape, device).cast(dtype);
                if values(dense.clone()).iter().any(|w| w.is_infinite()) {
                    continue;
                }
                let expected = product(&values(x.clone()), &values(dense), case.shape, Side::Transposed);
                let y = w.matmul(x);
                assert_eq!(y.dtype(), dtype);
                // Products below the normal range of f16 lose bits that a relative bound does not see.
                let mut expected = expected;
                expected.bound.iter_mut().for_each(|bound| *bound += case.shape[1] as f64 * 2f64.powi(-14));
                close(&format!("{dtype:?}"), &values(y), &expected, roundoff)?;
            }
            Ok(())
        }],
    );
}

#[test]
fn moves_with_its_module_and_takes_no_gradient() {
    over(
        &few(),
        &[|device, _, sample| {
            let w = QTensor::from_packed(&sample.packed, device).to_device(&device.clone().autodiff()).train();
            equal("decode in training", &values(w.dequantize()), &sample.w)?;
            assert!(!w.dequantize().is_require_grad());
            let w = w.valid().clone().to_device(device);
            equal("decode in validation", &values(w.dequantize()), &sample.w)?;
            if w.to_packed() == sample.packed { Ok(()) } else { Err("came back changed".into()) }
        }],
    );
}

#[test]
fn weights_need_not_be_on_the_graph_nor_inputs() {
    over(
        &few(),
        &[|device, case, sample| {
            let autodiff = &device.clone().autodiff();
            let shape = [case.rows, case.shape[1]];
            let forward = product(&sample.x, &sample.w, case.shape, Side::Transposed);

            let off = QTensor::from_packed(&sample.packed, device);
            let x = tensor(&sample.x, shape, autodiff).require_grad();
            let y = off.matmul(x.clone());
            close("off the graph", &values(y.clone()), &forward, F32_ROUNDOFF)?;
            let dx = x.grad(&y.sum().backward()).expect("x takes part");
            let ones = vec![1.0; case.rows * case.shape[0]];
            close("gradient", &values(dx), &product(&ones, &sample.w, case.shape, Side::Plain), F32_ROUNDOFF)?;

            let on = QTensor::from_packed(&sample.packed, autodiff);
            let y = on.matmul(tensor(&sample.x, shape, device));
            close("only weights on the graph", &values(y), &forward, F32_ROUNDOFF)?;
            let y = on.matmul(tensor(&sample.x, shape, autodiff));
            assert!(!y.is_require_grad());
            close("no gradient asked for", &values(y), &forward, F32_ROUNDOFF)
        }],
    );
}

#[test]
fn a_wrong_shape_names_both() {
    let case = few()[0];
    for (name, device) in devices() {
        let w = QTensor::from_packed(&Sample::new(&case, 0).packed, &device);
        let x = tensor(&[0.0; 3], [1, 3], &device);
        let panic = catch_unwind(AssertUnwindSafe(|| w.matmul(x))).expect_err("a wrong shape is refused");
        let message = text(&*panic);
        assert!(message.contains("[1, 3]") && message.contains(&format!("{:?}", case.shape)), "{name}: {message}");
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let code = prop_oneof![
        (1..=16u32).prop_map(|bits| format!("int{bits}")),
        (1..=16u32).prop_map(|bits| format!("uint{bits}")),
        (2..=16u32, 1..64u32).prop_map(|(bits, mu)| format!("slog{bits}:mu{mu}")),
        prop::sample::select(vec!["nf4", "e2m1", "e4m3"]).prop_map(String::from),
    ];
    let group =
        || prop_oneof![Just("tensor".to_owned()), Just("row".to_owned()), (1..140u32).prop_map(|n| n.to_string())];
    let kind = || prop::sample::select(vec!["f32", "f16", "bf16"]);
    let nested = (prop::sample::select(vec!["int8", "uint6", "nf4", "e4m3"]), group(), kind());
    let scale = prop_oneof![
        3 => kind().prop_map(String::from),
        1 => nested.prop_map(|(code, group, kind)| format!("{code}/{group}:{kind}")),
    ];
    let columns = prop_oneof![Just(Columns::Natural), Just(Columns::Permuted)];
    (code, group(), scale, [1..40usize, 1..200], 1..9usize, columns).prop_map(
        |(code, group, scale, [out, columns], rows, order)| Case {
            scheme: format!("{code}/{group}/{scale}").parse().expect("a scheme"),
            shape: [out, columns],
            rows,
            columns: order,
        },
    )
}

proptest! {
    // Each case runs everything on every device.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_scheme_and_shape(case in any_case()) {
        over(&[case], &[decode, round_trip, forward, backward_side, select, gradients, strided]);
    }
}

/// The table names what it is meant to: a group that does not divide a row, and one wider than it.
#[test]
fn the_table_has_short_and_wide_groups() {
    let width = |case: &Case| match case.scheme.group {
        Group::Columns(n) => Some((n.get() as usize, case.shape[1])),
        Group::Tensor | Group::Row => None,
    };
    assert!(table().iter().filter_map(width).any(|(group, columns)| group < columns && columns % group != 0));
    assert!(table().iter().filter_map(width).any(|(group, columns)| group > columns));
}
