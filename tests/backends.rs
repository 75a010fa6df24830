//! Every operation on packed matrices, on every device compiled in, against [`Packed::decode`] and a naive f64 product.
//!
//! One table of cases serves all tests; all of it runs, and what fails is printed case by case. The metrics have a table of their own.

#[path = "backends/cases.rs"]
mod cases;
#[path = "backends/metrics.rs"]
mod metrics;
#[path = "backends/oracle.rs"]
mod oracle;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use cases::{Case, Columns, Sample, any_case, few, table};
use oracle::{F32_ROUNDOFF, close, equal, product, rounded_product};
use proptest::prelude::*;
use quench::format::{Group, Packed};
use quench::kernels::{Activations, QTensor, Side, Window};

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

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_into_vec().expect("f32")
}

/// A packed matrix whose products are in f32.
fn exact(packed: &Packed, device: &Device) -> QTensor {
    QTensor::from_packed(packed, device).with_activations(Activations::F32)
}

type Check = fn(&Device, &Case, &Sample) -> Result<(), String>;

/// Runs the checks on every device for every case; a panic is a failure of its case.
fn over(cases: &[Case], checks: &[Check]) {
    let mut failures = Vec::new();
    for (name, device) in devices() {
        for (seed, case) in (0..).zip(cases) {
            if !QTensor::is_served(case.scheme, &device) {
                continue;
            }
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
    over(&table(), &[forward, rounded, backward_side]);
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
    let w = exact(&sample.packed, device).dequantize();
    equal("decode", &values(w), &sample.w)
}

fn round_trip(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let w = exact(&sample.packed, device);
    if w.to_packed() != sample.packed {
        return Err("came back changed".into());
    }
    let facts = (w.shape(), w.scheme(), w.bits_per_weight());
    let expected = (case.shape, case.scheme, sample.packed.bits_per_weight());
    if facts == expected { Ok(()) } else { Err(format!("{facts:?} instead of {expected:?}")) }
}

fn forward(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [out, columns] = case.shape;
    let w = exact(&sample.packed, device);
    let y = w.matmul(tensor(&sample.x, [case.rows, columns], device));
    if y.dims() != [case.rows, out] {
        return Err(format!("product {:?}", y.dims()));
    }
    close("x · Wᵀ", &values(y), &product(&sample.x, &sample.w, case.shape, Side::Transposed), F32_ROUNDOFF)
}

/// With input rounded to 8 bits, or to bf16.
fn rounded(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [_, columns] = case.shape;
    for activations in [Activations::Int8, Activations::Bf16] {
        let w = exact(&sample.packed, device).with_activations(activations);
        let y = w.matmul(tensor(&sample.x, [case.rows, columns], device));
        let expected = rounded_product(sample, case.shape, activations);
        close(&format!("{activations} x · Wᵀ"), &values(y), &expected, F32_ROUNDOFF)?;
    }
    Ok(())
}

fn backward_side(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [out, columns] = case.shape;
    let w = exact(&sample.packed, device);
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
    let w = exact(&sample.packed, device);
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [out + 1]), device);
    equal("select", &values(w.select(rows)), &expected)
}

fn gradients(device: &Device, case: &Case, sample: &Sample) -> Result<(), String> {
    let [out, columns] = case.shape;
    let device = &device.clone().autodiff();
    let w = exact(&sample.packed, device);
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
    let w = exact(&sample.packed, device);
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

#[test]
fn x_of_any_rank_and_empty_batches() {
    over(
        &few(),
        &[|device, case, sample| {
            let ([out, columns], rows) = (case.shape, case.rows);
            let w = exact(&sample.packed, device);
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

/// A convolution is the product of its matrix with what the window sees, here by loops.
#[test]
fn convolutions_are_products_of_what_the_window_sees() {
    const IMAGE: [usize; 4] = [2, 3, 7, 6];
    const OUT: usize = 5;
    let [batch, channels, height, width] = IMAGE;
    let windows = [
        Window::square(1),
        Window { padding: [1, 1], ..Window::square(3) },
        Window { kernel: [3, 2], stride: [2, 1], padding: [1, 0], dilation: [1, 2] },
    ];
    for (name, device) in devices() {
        for (window, scheme) in windows.iter().flat_map(|window| ["slog5/16/f16", "int4/32/f16"].map(|s| (window, s))) {
            let [kh, kw] = window.kernel;
            let columns = channels * kh * kw;
            let scheme = scheme.parse().unwrap();
            let case = Case { scheme, shape: [OUT, columns], rows: 1, columns: Columns::Natural };
            let packed = Sample::new(&case, 9).packed;
            let x: Vec<f32> = (0..IMAGE.iter().product()).map(|i: usize| (i as f32 * 0.37).sin()).collect();
            let [lines, places] = window.output([height, width]);
            let mut rows = Vec::new();
            for (image, line, place) in
                (0..batch).flat_map(|b| (0..lines).flat_map(move |l| (0..places).map(move |p| (b, l, p))))
            {
                for (channel, i, j) in
                    (0..channels).flat_map(|c| (0..kh).flat_map(move |i| (0..kw).map(move |j| (c, i, j))))
                {
                    let at = |axis: usize, to: usize, k: usize| {
                        (to * window.stride[axis] + k * window.dilation[axis]).checked_sub(window.padding[axis])
                    };
                    let pixel = at(0, line, i).zip(at(1, place, j)).filter(|(y, x)| *y < height && *x < width);
                    rows.push(pixel.map_or(0.0, |(y, x_)| x[((image * channels + channel) * height + y) * width + x_]));
                }
            }
            let expected = product(&rows, &packed.decode(), [OUT, columns], Side::Transposed);
            let y = exact(&packed, &device).convolve(tensor(&x, IMAGE, &device), None, window);
            assert_eq!(y.dims(), [batch, OUT, lines, places], "{name} {window:?}");
            let y = values(y.permute([0, 2, 3, 1]));
            close("convolution", &y, &expected, F32_ROUNDOFF)
                .unwrap_or_else(|e| panic!("{name} {window:?} {scheme}: {e}"));
        }
    }
}

#[test]
fn values_that_are_no_numbers_spread_as_in_the_dense_product() {
    over(
        &few(),
        &[|device, case, sample| {
            let [_, columns] = case.shape;
            let w = exact(&sample.packed, device);
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
                let w = exact(&sample.packed, device);
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
            let w = exact(&sample.packed, device).to_device(&device.clone().autodiff()).train();
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

            let off = exact(&sample.packed, device);
            let x = tensor(&sample.x, shape, autodiff).require_grad();
            let y = off.matmul(x.clone());
            close("off the graph", &values(y.clone()), &forward, F32_ROUNDOFF)?;
            let dx = x.grad(&y.sum().backward()).expect("x takes part");
            let ones = vec![1.0; case.rows * case.shape[0]];
            close("gradient", &values(dx), &product(&ones, &sample.w, case.shape, Side::Plain), F32_ROUNDOFF)?;

            let on = exact(&sample.packed, autodiff);
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

proptest! {
    // Each case runs everything on every device.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_scheme_and_shape(case in any_case()) {
        over(&[case], &[decode, round_trip, forward, rounded, backward_side, select, gradients, strided]);
    }
}

/// The host serves everything that has tiles, and every device what has no minimums.
#[test]
fn what_is_served_where() {
    for (name, device) in devices() {
        for device in [device.clone(), device.autodiff()] {
            let served = |scheme: &str| QTensor::is_served(scheme.parse().unwrap(), &device);
            let host = ["flex", "ndarray"].contains(&name);
            assert_eq!((served("uint4/32/f16/min:f16"), served("nf4/64/f16")), (host, true), "{name}");
            assert!(!served("trellis2:12/128/f16"), "{name}");
        }
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
