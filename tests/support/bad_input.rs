//! Every way to go wrong that we know: exit code 2, one error that names the culprit, and nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bench::{Bench, RECIPE, SMALL, TEXTS, quantize};
use crate::support;

/// A way to go wrong: what is done to the bench, the arguments, and the words of the error.
struct Bad {
    name: &'static str,
    spoil: fn(&Bench),
    arguments: Vec<&'static str>,
    expected: &'static [&'static str],
}

fn spoil_weight(bench: &Bench, value: f32) {
    let mut weights = support::weights(SMALL, 1);
    weights.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().values[70] = value;
    support::write_safetensors(&bench.at("model/model.safetensors"), &weights);
}

fn spoil_config(bench: &Bench, changes: &[(&str, Value)]) {
    let mut config = support::config(SMALL);
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    bench.write("model/config.json", config.to_string());
}

fn shard(bench: &Bench) -> PathBuf {
    fs::remove_dir_all(bench.at("model")).unwrap();
    let [_, second] = support::write_sharded_model(&bench.at("model"), SMALL, 1);
    bench.at("model").join(second)
}

fn truncate(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() - 100]).unwrap();
}

/// More tokens than the model's context of 256.
const LONG_PROMPT: &str = match std::str::from_utf8(&[b'a'; 300]) {
    Ok(prompt) => prompt,
    Err(_) => "",
};

fn bad_inputs() -> Vec<Bad> {
    let bad = |name, spoil: fn(&Bench), expected| Bad { name, spoil, arguments: quantize(&TEXTS), expected };
    let called = |name, arguments: &[&'static str], expected| Bad {
        name,
        spoil: |_| {},
        arguments: arguments.to_vec(),
        expected,
    };
    vec![
        bad("missing shard", |b| fs::remove_file(shard(b)).unwrap(), &["model-00002-of-00002.safetensors"]),
        bad("truncated shard", |b| truncate(&shard(b)), &["model-00002-of-00002.safetensors"]),
        bad("truncated file", |b| truncate(&b.at("model/model.safetensors")), &["model.safetensors"]),
        bad("missing weights", |b| fs::remove_file(b.at("model/model.safetensors")).unwrap(), &["model.safetensors"]),
        bad("no checkpoint at all", |b| b.write("model/model.safetensors", "not a checkpoint"), &["model.safetensors"]),
        bad("NaN weight", |b| spoil_weight(b, f32::NAN), &["model.layers.1.mlp.up_proj", "NaN"]),
        bad("infinite weight", |b| spoil_weight(b, f32::INFINITY), &["model.layers.1.mlp.up_proj", "inf"]),
        bad(
            "unknown architecture",
            |b| spoil_config(b, &[("model_type", "mamba".into()), ("architectures", json!(["MambaForCausalLM"]))]),
            &["config.json", "mamba", "llama", "mistral", "gemma"],
        ),
        bad(
            "config of another size",
            |b| spoil_config(b, &[("hidden_size", 64.into())]),
            &["model.embed_tokens", "64", "32"],
        ),
        bad("config that is no JSON", |b| b.write("model/config.json", "{"), &["config.json"]),
        bad("missing config", |b| fs::remove_file(b.at("model/config.json")).unwrap(), &["config.json"]),
        bad("missing tokenizer", |b| fs::remove_file(b.at("model/tokenizer.json")).unwrap(), &["tokenizer.json"]),
        bad("damaged tokenizer", |b| b.write("model/tokenizer.json", "{}"), &["tokenizer.json"]),
        bad(
            "tokenizer that does not match",
            |b| b.write("model/tokenizer.json", support::tokenizer(42).to_string()),
            &["tokenizer", "300", "258"],
        ),
        bad("empty calibration file", |b| b.write("calibration.txt", ""), &["calibration.txt", "empty"]),
        bad("binary calibration file", |b| b.write("calibration.txt", [0u8, 159, 146, 150, 0]), &["calibration.txt"]),
        bad(
            "Latin-1 calibration file",
            |b| b.write("calibration.txt", b"Gr\xFC\xDFe aus der Provinz.\n"),
            &["calibration.txt", "UTF-8"],
        ),
        bad(
            "calibration text that is too short",
            |b| b.write("calibration.txt", "short"),
            &["calibration text", "32 tokens"],
        ),
        bad("missing calibration file", |b| fs::remove_file(b.at("calibration.txt")).unwrap(), &["calibration.txt"]),
        bad("empty evaluation file", |b| b.write("evaluation.txt", ""), &["evaluation.txt", "empty"]),
        bad(
            "rule that matches no layer",
            |b| b.write("recipe.toml", RECIPE.replace("\"*\"", "\"*.attention.*\"")),
            &["*.attention.*", "matches no layer", "model.layers.0"],
        ),
        bad(
            "unknown key",
            |b| b.write("recipe.toml", RECIPE.replace("group", "gruop")),
            &["recipe.toml", "gruop", "did you mean `group`"],
        ),
        bad("recipe that is no TOML", |b| b.write("recipe.toml", "name = "), &["recipe.toml"]),
        bad("output folder that exists", |b| fs::create_dir(b.at("out")).unwrap(), &["out", "--force"]),
        bad("output in place of a file", |b| b.write("out", "precious"), &["out"]),
        called(
            "output over the model",
            &["quantize", "model", "--output", "model", "--force", "--device", "flex", "--recipe", "rtn-int8"],
            &["model"],
        ),
        called("missing model", &["quantize", "absent", "--device", "flex"], &["absent"]),
        called("a file as model", &["quantize", "recipe.toml", "--device", "flex"], &["recipe.toml"]),
        called("no calibration", &["quantize", "model", "--device", "flex"], &["--calibration"]),
        called(
            "unknown recipe",
            &["quantize", "model", "--recipe", "gptq-int4-g182"],
            &["gptq-int4-g182", "gptq-int4-g128"],
        ),
        called("model after the texts", &["quantize", "--calibration", "calibration.txt", "model"], &["MODEL"]),
        called("absent plan", &["quantize", "model", "--plan", "no.toml"], &["no.toml"]),
        called("nowhere for the report", &["quantize", "model", "--json", "no/report.json"], &["no/report.json"]),
        called("report in place of a folder", &["quantize", "model", "--json", "model"], &["--json", "model"]),
        called(
            "nothing to resume",
            &["quantize", "model", "--recipe", "rtn-int8", "--device", "flex", "--resume"],
            &["--resume"],
        ),
        called("eval without text", &["eval", "model"], &["--data"]),
        called(
            "windows beyond the context",
            &["eval", "model", "--text", "evaluation.txt", "--length", "512"],
            &["512", "--length 256"],
        ),
        called("eval of nothing", &["eval", "absent", "--text", "evaluation.txt"], &["absent"]),
        called("inspect of nothing", &["inspect", "absent"], &["absent"]),
        called("inspect of no checkpoint", &["inspect", "recipe.toml"], &["recipe.toml"]),
        called("generate without prompt", &["generate", "model"], &["--prompt"]),
        called("prompt beyond the context", &["generate", "model", "--prompt", LONG_PROMPT], &["256"]),
        called("generate of nothing", &["generate", "absent", "--prompt", "x"], &["absent"]),
        called(
            "measuring beyond the context",
            &["bench", "model", "--prompt", "8,256"],
            &["--prompt 256", "model", "--prompt 255"],
        ),
        called(
            "measuring nothing",
            &["bench", "model", "--prompt", "0", "--generate", "0"],
            &["--prompt", "--generate"],
        ),
        called("bench of nothing", &["bench", "model", "absent"], &["absent"]),
        called("bench on an absent device", &["bench", "model", "--device", "flex:7"], &["flex:7"]),
        Bad {
            name: "bench of a model that cannot be read",
            spoil: |b| spoil_weight(b, f32::NAN),
            arguments: vec!["bench", "model", "--prompt", "8", "--generate", "0", "--device", "flex"],
            expected: &["model.layers.1.mlp.up_proj", "NaN"],
        },
        called("print of an unknown recipe", &["recipes", "rtn-int9"], &["rtn-int9", "rtn-int8"]),
    ]
}

#[test]
fn bad_input_is_one_error_and_leaves_nothing() {
    let mut failures = Vec::new();
    for Bad { name, spoil, arguments, expected } in bad_inputs() {
        let bench = Bench::new();
        spoil(&bench);
        let before = bench.listing();
        let ended = bench.run(&arguments);
        if let Err(reason) = ended.refuses(expected) {
            failures.push(format!("{name}: {reason}"));
        }
        let after = bench.listing();
        if after != before {
            let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
            failures.push(format!("{name}: left {new:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
