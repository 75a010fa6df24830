//! The decoder against the reference library and against naive arithmetic; and what it says of folders that make no
//! model.
//!
//! The data is read from `QUENCH_DATA` (default `../shared/data`); without it those tests pass with a printed line, or
//! fail if `QUENCH_REQUIRE_DATA` is set.

#[path = "support/data.rs"]
mod shared;

use burn::tensor::{Device, Tensor};
use shared::data;

mod golden {
    mod encoder;
    mod folders;
    mod gpt2;
    mod naive;
    mod reference;
    mod resnet;
    mod symmetry;
    mod tiny;
}

/// The devices that this build has.
fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", ndarray()),
        // Mesa's CPU driver: WGSL runs on it, Burn's SPIR-V crashes it.
        #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
        ("wgpu", Device::wgpu(burn::tensor::DeviceKind::Cpu)),
        #[cfg(feature = "cuda")]
        ("cuda", Device::cuda(0)),
    ]
}

/// Deprecated in Burn, and the reference here.
#[cfg(feature = "ndarray")]
#[expect(deprecated)]
fn ndarray() -> Device {
    Device::ndarray()
}

/// The first device alone: the others are held to it by the logits.
fn first_device() -> (&'static str, Device) {
    devices().into_iter().next().expect("a backend is compiled in")
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_to_vec().unwrap()
}

/// Largest difference over largest expected value.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let difference = found.iter().zip(expected).fold(0f32, |largest, (a, b)| {
        assert!(a.is_finite(), "{a}");
        largest.max((a - b).abs())
    });
    f64::from(difference) / f64::from(largest)
}
