//! Rotated and rescaled weights compute what the network computed.

use std::collections::BTreeMap;

use burn::tensor::Device;
use quench::models::{Decoder, Family, Norms, ids, open};
use quench::nn::Model;

use crate::{data, error, first_device, values};

/// Far above what rounding the changed weights to f32 does.
const TOLERANCE: f64 = 1e-5;

fn logits(decoder: &mut Decoder, device: &Device) -> Vec<f32> {
    decoder.load_all().unwrap();
    let vocabulary = decoder.config().vocab_size as u32;
    let sequences: Vec<Vec<u32>> =
        (0..2).map(|row| (0..24).map(|i| (i * i * 7 + i * 13 + row * 5) % vocabulary).collect()).collect();
    let rows: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    values(decoder.forward(ids(&rows, device), &mut ()))
}

/// Checks that a change that was made leaves the logits of a fresh decoder as they are.
fn unchanged(folder: &str, name: &str, change: impl FnOnce(&mut Decoder) -> bool) {
    let (_, device) = first_device();
    let Some(folder) = data(folder) else { return };
    let mut decoder = open(&folder, &device).unwrap();
    let expected = logits(&mut decoder, &device);
    let mut decoder = open(&folder, &device).unwrap();
    if change(&mut decoder) {
        let error = error(&logits(&mut decoder, &device), &expected);
        println!("{} {name}: {error:.1e}", folder.display());
        assert!(error < TOLERANCE, "{} {name}: {error:.1e}", folder.display());
    }
}

const FOLDERS: [&str; 12] = [
    "models/ref-llama",
    "models/stories260k",
    "golden/gemma",
    "golden/gemma2",
    "golden/gemma3",
    "golden/gpt2",
    "golden/llama",
    "golden/llama3-rope",
    "golden/mistral",
    "golden/phi3",
    "golden/qwen2",
    "golden/qwen3",
];

#[test]
fn turned_networks_compute_the_same() {
    for folder in FOLDERS {
        unchanged(folder, "residual", |decoder| {
            let fits = decoder.config().family != Family::Gpt2 && decoder.config().norms == Norms::Before;
            assert_eq!(decoder.turn_residual().unwrap(), fits);
            fits
        });
        unchanged(folder, "heads", |decoder| decoder.turn_heads().unwrap());
        unchanged(folder, "mlp", |decoder| decoder.turn_mlp().unwrap());
        unchanged(folder, "all", |decoder| {
            decoder.turn_residual().unwrap();
            decoder.turn_heads().unwrap() && decoder.turn_mlp().unwrap()
        });
    }
}

#[test]
fn rescaled_networks_compute_the_same() {
    let factors = |decoder: &Decoder| -> BTreeMap<String, Vec<f32>> {
        let seams = decoder.seams().into_iter();
        seams
            .map(|seam| (seam.site.clone(), (0..seam.written()).map(|j| 0.25 + (j % 11) as f32 / 3.0).collect()))
            .collect()
    };
    for folder in FOLDERS {
        unchanged(folder, "scales", |decoder| {
            let factors = factors(decoder);
            // The two norms, the values, and the gated layer.
            let seams = if decoder.config().family == Family::Gpt2 { 3 } else { 4 };
            assert_eq!(factors.len(), seams * decoder.blocks());
            decoder.rescale(&factors).unwrap();
            true
        });
        unchanged(folder, "turned, then scaled", |decoder| {
            decoder.turn_residual().unwrap();
            decoder.turn_mlp().unwrap();
            let factors = factors(decoder);
            decoder.rescale(&factors).unwrap();
            true
        });
    }
}
