//! `quench threshold` and `quench measure`: answers, reports, and what they refuse.

use std::fs;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::bench::{Bench, SMALL};
use crate::kinds::{pairs, write_encoder, write_images, write_resnet};
use crate::support::{self, Sizes};

fn json_of(bench: &Bench, file: &str) -> Value {
    serde_json::from_slice(&fs::read(bench.at(file)).unwrap()).unwrap()
}

/// The arguments of a small sweep, and more.
fn threshold<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let own = ["threshold", "model", "--samples", "6", "--length", "24", "--batch", "3", "--device", "flex"];
    own.into_iter().chain(more.iter().copied()).collect()
}

/// Random weights give logits that respond linearly to small errors: the prediction is the measurement, the power is 2, and nothing
/// is sharp.
#[test]
fn a_sweep_finds_what_was_predicted() {
    let bench = Bench::new();
    let out = bench
        .run(&threshold(&["--data", "calibration.txt", "--kl", "0.01", "--offsets", "4", "--json", "sweep.json"]))
        .succeeds()
        .out;
    for word in ["step of KL = 0.01", "predicted / measured", "tr F", "15 layers"] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    let found = json_of(&bench, "sweep.json");
    let swept = &found["models"][0];
    let number = |key: &str| swept[key]["value"].as_f64().unwrap();
    let ratio = number("predicted") / number("tolerance");
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
    assert!((1.8..2.2).contains(&number("exponent")), "{}", number("exponent"));
    assert_eq!(swept["kl"]["points"].as_array().unwrap().len(), 16);
    assert_eq!((swept["sequences"].as_u64(), swept["labels"].as_u64()), (Some(6), Some(144)));
    assert_eq!(swept["predicted"]["evidence"], "predicted");
    assert_ne!(found["verdict"]["kind"], "transition", "one model shows none");

    let said = bench.run(&["report", "sweep.json", "--output", "page.html"]).succeeds().out;
    let line = said.lines().find(|line| line.starts_with("| Threshold")).unwrap();
    assert!(line.contains(" 2 "), "the divergence and the agreement: {line}");
    let page = fs::read_to_string(bench.at("page.html")).unwrap();
    for word in ["linear response, δ² trace / 24 (predicted)", "Fisher trace", "agreement over the step"] {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn some_layers_and_a_given_range() {
    let bench = Bench::new();
    let more = ["--data", "calibration.txt", "--layers", "*.1.mlp.*", "--from", "0.01", "--to", "0.16", "--steps", "5"];
    bench.run(&threshold(&[&more[..], &["--json", "sweep.json"]].concat())).succeeds();
    let swept = &json_of(&bench, "sweep.json")["models"][0];
    assert_eq!(swept["layers"].as_array().unwrap().len(), 3);
    assert_eq!(swept["weights"], 3 * SMALL.hidden * SMALL.intermediate);
    let steps: Vec<f64> =
        swept["kl"]["points"].as_array().unwrap().iter().map(|point| point["step"].as_f64().unwrap()).collect();
    assert!(steps.iter().zip([0.01, 0.02, 0.04, 0.08, 0.16]).all(|(a, b)| (a - b).abs() < 1e-9), "{steps:?}");
}

/// Sweeps of several models need their sizes, and a network without classes has no divergence.
#[test]
fn sweeps_that_say_nothing_are_refused() {
    let bench = Bench::new();
    support::write_model(&bench.at("wide"), Sizes { hidden: 64, ..SMALL }, 2);
    write_encoder(&bench.at("encoder"), 1);
    bench.write("short.txt", "a");
    let data = ["--data", "calibration.txt"];
    let both =
        bench.run(&threshold(&[&["wide"][..], &data, &["--steps", "5", "--json", "two.json"]].concat())).succeeds();
    assert!(
        json_of(&bench, "two.json")["models"][1]["weights"].as_u64()
            > json_of(&bench, "two.json")["models"][0]["weights"].as_u64()
    );
    assert!(both.out.contains("model") && both.out.contains("wide"), "{}", both.out);
    for (arguments, expected) in [
        (threshold(&[&["model"][..], &data].concat()), &["both have", "different sizes"][..]),
        (threshold(&[]), &["--data"]),
        (threshold(&[&data[..], &["--layers", "*nothing*"]].concat()), &["*nothing*", "no layer"]),
        (threshold(&[&data[..], &["--kl", "0"]].concat()), &["limit", "above 0"]),
        (threshold(&[&data[..], &["--from", "2", "--to", "1"]].concat()), &["from 2 to 1"]),
        (threshold(&["--data", "short.txt"]), &["0 samples of 24 tokens", "add text"]),
        (vec!["threshold", "encoder", "--data", "calibration.txt"], &["vectors and no distribution"]),
    ] {
        bench.run(&arguments).refuses(expected).unwrap();
    }
    let one = bench.run(&[
        "threshold",
        "model",
        "--data",
        "calibration.txt",
        "--samples",
        "1",
        "--length",
        "16",
        "--steps",
        "5",
    ]);
    one.refuses(&["inconclusive", "1 sequences", "at least 2"]).unwrap();
}

fn write_vectors(bench: &Bench, file: &str, rows: usize, value: impl Fn(usize, usize) -> f32) {
    let values: Vec<u8> = (0..rows * 4).flat_map(|at| value(at / 4, at % 4).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![rows, 4], &values).unwrap();
    fs::write(bench.at(file), safetensors::serialize([("vectors", view)], None).unwrap()).unwrap();
}

/// Numbers without a pattern.
fn noise(row: usize, column: usize) -> f32 {
    let mixed = (row as u64 * 4 + column as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

/// A quantized model is near its original, the same one is the same, and each site has its shape and its map in the report.
#[test]
fn a_model_beside_its_original() {
    let bench = Bench::new();
    bench.quantize(&["--calibration", "calibration.txt", "--quiet"]).succeeds();
    let measure = |other: &'static str, more: &[&'static str]| {
        let own = [
            "measure",
            "model",
            other,
            "--data",
            "evaluation.txt",
            "--samples",
            "8",
            "--length",
            "24",
            "--points",
            "64",
        ];
        bench.run(&own.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let same = measure("model", &["--json", "same.json", "--floor", "coherence=0.999"]).succeeds().out;
    assert!(same.contains("coherence 1.0000") && same.contains("kept"), "{same}");
    let out =
        measure("out", &["--verbose", "--json", "measured.json", "--metrics", "kl,agreement,cka", "--floor", "knn=0"])
            .succeeds()
            .out;
    for word in [
        "exp-kl",
        "Jensen-Shannon",
        "flipped",
        "residual.mlp",
        "near corners",
        "bottleneck",
        "(certified)",
        "knn-overlap >= 0",
    ] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    let found = json_of(&bench, "measured.json");
    let lowest = found["coherence"]["score"].as_f64().unwrap();
    assert!(lowest > 0.3 && lowest < 1.0, "{lowest}");
    // Neighbours were measured for their floor, but do not count.
    assert_ne!(found["coherence"]["metric"], "knn-overlap");
    let site = &found["sites"][1];
    assert_eq!((site["vectors"].as_u64(), &site["widths"]), (Some(64), &json!([32, 32])));
    for distance in site["shape"]["distances"].as_array().unwrap() {
        let bound = site["shape"]["bound"]["value"].as_f64().unwrap();
        assert!(distance["value"].as_f64().unwrap() <= bound, "the certificate holds: {site}");
    }
    assert_eq!(site["shape"]["bound"]["evidence"], "certified");

    let said = bench.run(&["report", "measured.json", "--output", "page.html"]).succeeds().out;
    for section in ["| Shape", "| Map"] {
        assert!(said.lines().any(|line| line.starts_with(section) && line.contains(" 2 ")), "{section}:\n{said}");
    }
    let missed = measure("out", &["--floor", "cka=1", "--metrics", "cka"]);
    assert_eq!((missed.code, missed.out.contains("missed")), (Some(3), true), "{missed:?}");
}

#[test]
fn encoders_and_classifiers_have_sites_of_their_own() {
    let bench = Bench::new();
    write_encoder(&bench.at("encoder"), 1);
    write_encoder(&bench.at("other"), 2);
    write_resnet(&bench.at("resnet"), 1);
    write_images(&bench.at("images"), 8, 1);
    bench.write("pairs.tsv", pairs(20, 1));
    let out =
        bench.run(&["measure", "encoder", "other", "--data", "calibration.txt", "--metrics", "cka,knn"]).succeeds().out;
    assert!(out.contains("sentence vectors") && out.contains("coherence"), "{out}");
    let out = bench.run(&["measure", "resnet", "resnet", "--data", "images", "--k", "3"]).succeeds().out;
    assert!(out.contains("predictions") && out.contains("coherence"), "{out}");
    let refused = |arguments: &[&str], expected: &[&str]| bench.run(arguments).refuses(expected).unwrap();
    refused(&["measure", "encoder", "model", "--data", "calibration.txt"], &["encoder", "model"]);
    refused(
        &["measure", "encoder", "other", "--data", "calibration.txt", "--metrics", "kl"],
        &["exp-kl", "vectors only"],
    );
    refused(
        &["measure", "encoder", "other", "--data", "calibration.txt", "--floor", "agreement=0.9"],
        &["agreement", "vectors only"],
    );
}

/// Every kind of bad vectors: refused with its reason, or measured with what is missing said.
#[test]
fn vectors_that_cannot_be_compared() {
    let bench = Bench::new();
    write_vectors(&bench, "a.safetensors", 40, noise);
    write_vectors(&bench, "b.safetensors", 40, |row, column| noise(row, column) + 0.01 * noise(row + 1000, column));
    write_vectors(&bench, "fewer.safetensors", 39, noise);
    write_vectors(&bench, "few.safetensors", 8, noise);
    write_vectors(&bench, "flat.safetensors", 40, |_, _| 1.0);
    write_vectors(&bench, "twins.safetensors", 40, |row, column| noise(row / 2, column));
    write_vectors(&bench, "nan.safetensors", 40, |row, column| if row == 7 { f32::NAN } else { noise(row, column) });
    let refused = |arguments: &[&str], expected: &[&str]| bench.run(arguments).refuses(expected).unwrap();
    refused(&["measure", "a.safetensors", "fewer.safetensors"], &["40 vectors", "39", "row by row"]);
    refused(&["measure", "a.safetensors", "nan.safetensors"], &["nan.safetensors", "not finite"]);
    refused(&["measure", "a.safetensors", "calibration.txt"], &["calibration.txt", ".npy"]);
    refused(&["measure", "a.safetensors", "b.safetensors", "--metrics", "exp-kl"], &["exp-kl", "vectors only"]);
    let misspelled = bench.run(&["measure", "a.safetensors", "b.safetensors", "--floor", "ckaa=0.9"]);
    assert!(
        misspelled.code == Some(2) && misspelled.err.contains("cka") && misspelled.err.contains("reconstruction"),
        "{misspelled:?}"
    );

    let near = bench.run(&["measure", "a.safetensors", "b.safetensors", "--floor", "cka=0.9"]).succeeds().out;
    assert!(near.contains("kept") && near.contains("intrinsic dimension"), "{near}");
    let few = bench.run(&[
        "measure",
        "few.safetensors",
        "few.safetensors",
        "--floor",
        "knn-overlap=0.5",
        "--json",
        "few.json",
    ]);
    assert_eq!(few.code, Some(3), "{few:?}");
    for word in
        ["inconclusive: 8 samples, and at least 12 are needed", "at least 16 are needed", "about 12 samples would tell"]
    {
        assert!(few.out.contains(word), "{word}:\n{}", few.out);
    }
    assert_eq!(json_of(&bench, "few.json")["floors"][0]["held"]["verdict"], "inconclusive");
    let flat =
        bench.run(&["measure", "a.safetensors", "flat.safetensors", "--metrics", "cka,rsa,procrustes"]).succeeds().out;
    for word in ["inconclusive: one side does not vary", "the approximation does not vary", "coherence inconclusive"] {
        assert!(flat.contains(word), "{word}:\n{flat}");
    }
    let twins = bench.run(&["measure", "twins.safetensors", "twins.safetensors"]).succeeds().out;
    assert!(twins.contains("20 of 40 vectors of the reference equal another one"), "{twins}");
}
