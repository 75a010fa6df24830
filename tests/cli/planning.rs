//! What a model will lose, and the plan that loses least: `quench predict`, `compress` and `validate`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::bench::{Bench, Ended};
use crate::data::data;
use crate::kinds::{pairs, write_encoder, write_images, write_resnet};
use crate::support;

fn json(bench: &Bench, file: &str) -> Value {
    serde_json::from_slice(&fs::read(bench.at(file)).unwrap()).unwrap()
}

/// A bench with a model of each kind, and what each of them reads.
fn every_kind() -> (Bench, [(&'static str, &'static str, &'static str); 3]) {
    let bench = Bench::new();
    bench.write("long.txt", support::text(40_000, 3));
    write_encoder(&bench.at("bert"), 3);
    bench.write("pairs.txt", pairs(80, 1));
    write_resnet(&bench.at("net"), 3);
    write_images(&bench.at("images"), 16, 5);
    (bench, [("model", "long.txt", "long.txt"), ("bert", "pairs.txt", "pairs.txt"), ("net", "images", "images")])
}

#[test]
fn real_predictions_are_near_what_is_measured() {
    let (Some(model), Some(text)) = (data("models/stories260k"), data("text/tinystories/tinystories_sample.txt"))
    else {
        return;
    };
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    let bench = Bench::new();
    bench.write(
        "rtn.toml",
        "name = \"rtn\"\n[[rules]]\nlayers = \"*\"\ncode = \"int5\"\ngroup = 32\nmethod = \"rtn\"\n",
    );
    bench.run(&["quantize", model, "-r", "rtn.toml", "-o", "out", "--device", "flex"]).succeeds();
    let arguments = ["predict", model, "out", "--calibration", text, "--device", "flex"];
    let Ended { out, .. } =
        bench.run(&[&arguments[..], &["--eval", text, "--verbose", "--json", "p.json"]].concat()).succeeds();
    for word in ["predicted KL", "95 %", "K-FAC", "measured KL", "model.layers.4.mlp.down_proj"] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    let found = &json(&bench, "p.json")["predictions"][0];
    let of = |key: &str| found[key].as_f64().unwrap_or_else(|| panic!("{key} of {found}"));
    let ratio = of("kl") / of("measured_kl");
    assert!((0.6..1.6).contains(&ratio), "{ratio}");
    assert!(found["doubt"].is_null() && found["unknown"].as_array().unwrap().is_empty(), "{found}");
    let [low, high] = ["low", "high"].map(|end| found["interval"][end].as_f64().unwrap());
    assert!(low < of("kl") && of("kl") < high, "{found}");
}

#[test]
fn every_kind_of_model_is_predicted() {
    let (bench, kinds) = every_kind();
    for (model, calibration, evaluation) in kinds {
        let out = format!("{model}-out");
        bench.run(&["quantize", model, "-r", "rtn-int8", "-o", &out, "--device", "flex"]).succeeds();
        let arguments = ["predict", model, &out, "--calibration", calibration, "--eval", evaluation];
        let more = ["--samples", "32", "--length", "32", "--batch", "8", "--device", "flex", "--json", "p.json"];
        bench.run(&[&arguments[..], &more].concat()).succeeds();
        let found = &json(&bench, "p.json")["predictions"][0];
        let (kl, measured) = (found["kl"].as_f64().unwrap(), found["measured_kl"].as_f64().unwrap());
        assert!(kl > 0.0 && (0.4..2.5).contains(&(kl / measured)), "{model}: {kl} for {measured}");
    }
}

#[test]
fn a_plan_is_within_its_bytes_and_no_worse_than_uniform_ones() {
    let (bench, kinds) = every_kind();
    for (model, calibration, evaluation) in kinds {
        let out = format!("{model}-small");
        let arguments = ["compress", model, "--target", "2.5x", "--max-kl", "9", "-o", &out, "--json", "c.json"];
        let more = ["--calibration", calibration, "--eval", evaluation, "--windows", "4", "--device", "flex"];
        let Ended { out: printed, .. } = bench.run(&[&arguments[..], &more].concat()).succeeds();
        assert!(printed.contains("the floor is kept"), "{printed}");
        let found = json(&bench, "c.json");
        let attempts = found["attempts"].as_array().unwrap();
        let best = &attempts[found["best"].as_u64().unwrap() as usize];
        let budget = found["budget"].as_u64().unwrap();
        assert_eq!(best["bytes"].as_u64().unwrap(), weights(&bench.at(&out)));
        assert!(best["bytes"].as_u64().unwrap() <= budget, "{model}: {best}");
        let fits = attempts.iter().filter(|attempt| attempt["bytes"].as_u64().unwrap() <= budget);
        let least = fits.map(|attempt| attempt["kl"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
        assert_eq!(best["kl"].as_f64().unwrap(), least, "{model}");
        assert!(attempts.iter().any(|attempt| attempt["name"].as_str().unwrap().starts_with("uniform")), "{model}");
    }
}

fn weights(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let weights = files.filter(|entry| entry.path().extension().is_some_and(|end| end == "safetensors"));
    weights.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn what_cannot_be_is_refused_with_its_certificate_and_leaves_nothing() {
    let (bench, _) = every_kind();
    let arguments =
        ["compress", "model", "--bytes", "64", "-o", "out", "--calibration", "long.txt", "--eval", "long.txt"];
    let ended = bench.run(&[&arguments[..], &["--device", "flex"]].concat());
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.out.contains("infeasible") && ended.out.contains("facts"), "{}", ended.out);
    assert!(!bench.at("out").exists());
    let ended = bench.run(&["compress", "model", "-o", "out", "--calibration", "long.txt", "--eval", "long.txt"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn known_answers_are_computed_and_compared() {
    let bench = Bench::new();
    let Ended { out, .. } = bench.run(&["validate", "allocation", "--device", "flex"]).succeeds();
    assert!(out.contains("bit allocation"), "{out}");
    let ended = bench.run(&["validate", "no such concept"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
}
