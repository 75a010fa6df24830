//! The binary, driven as a user drives it: exit codes, messages, and what is on disk afterwards.
#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Sizes;
use tempfile::TempDir;

const SMALL: Sizes = Sizes { hidden: 32, intermediate: 48, blocks: 2 };

const RECIPE: &str = r#"
name = "test"
calibration = { samples = 4, length = 32, batch = 2 }
evaluation = { length = 32, stride = 32, windows = 2, batch = 2 }

[[rules]]
layers = "*"
code = "int4"
group = 16
"#;

/// A folder with a model, texts and a recipe, in which the binary runs.
struct Bench {
    folder: TempDir,
}

/// What a run left behind.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Bench {
    fn new() -> Self {
        Self::with(SMALL)
    }

    fn with(sizes: Sizes) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        support::write_model(&bench.at("model"), sizes, 1);
        bench.write("calibration.txt", support::text(4000, 1));
        bench.write("evaluation.txt", support::text(2000, 2));
        bench.write("recipe.toml", RECIPE);
        bench
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.at(path), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quench"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("RUST_BACKTRACE");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        ended(&mut self.command(arguments))
    }

    /// `quench quantize` of the bench's own model.
    fn quantize(&self, more: &[&str]) -> Ended {
        self.run(&quantize(more))
    }

    /// Every path below the folder, with the contents of files.
    fn listing(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        listing(self.folder.path())
    }
}

/// The arguments of `quench quantize`: the bench's own, unless `more` has others.
fn quantize<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let own = [("--recipe", "recipe.toml"), ("--output", "out"), ("--device", "flex")];
    let own = own.into_iter().filter(|(option, _)| !more.contains(option)).flat_map(|(option, value)| [option, value]);
    ["quantize", "model"].into_iter().chain(own).chain(more.iter().copied()).collect()
}

const TEXTS: [&str; 4] = ["--calibration", "calibration.txt", "--eval", "evaluation.txt"];

fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn listing(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                found.insert(path.clone(), Vec::new());
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                found.insert(path, bytes);
            }
        }
    }
    found
}

impl Ended {
    #[track_caller]
    fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.err, "", "success is silent on standard error that is no terminal");
        self
    }

    /// Exit code 2, nothing on standard output, and one error that says all of `expected`.
    fn refuses(&self, expected: &[&str]) -> Result<(), String> {
        let errors = self.err.lines().filter(|line| line.starts_with("error: ")).count();
        let missing: Vec<_> = expected.iter().filter(|word| !self.err.contains(**word)).collect();
        let sound = self.code == Some(2) && errors == 1 && self.out.is_empty() && !self.err.contains("panicked");
        if sound && missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:?} in {self:#?}")) }
    }
}

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
            |b| b.write("calibration.txt", b"Gr\xFC\xDFe aus der Provinz, sagt sie.\n"),
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
        called("eval without text", &["eval", "model"], &["--text"]),
        called("eval of nothing", &["eval", "absent", "--text", "evaluation.txt"], &["absent"]),
        called("inspect of nothing", &["inspect", "absent"], &["absent"]),
        called("inspect of no checkpoint", &["inspect", "recipe.toml"], &["recipe.toml"]),
        called("generate without prompt", &["generate", "model"], &["--prompt"]),
        called("prompt beyond the context", &["generate", "model", "--prompt", LONG_PROMPT], &["256"]),
        called("generate of nothing", &["generate", "absent", "--prompt", "x"], &["absent"]),
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

#[test]
fn the_main_job() {
    let bench = Bench::new();
    let arguments: Vec<&str> =
        TEXTS.into_iter().chain(["--json", "report.json", "--prompt", "the small river"]).collect();
    let Ended { out, .. } = bench.quantize(&arguments).succeeds();
    // 48 columns in groups of 16 and 32 in groups of 16; every figure of the summary has its line.
    for word in [
        "self_attn.q_proj",
        "mlp.down_proj",
        "int4/16/f16",
        "compression",
        "bits per weight",
        "perplexity",
        "KL",
        "top-1",
    ] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    for word in ["dense", "quantized", "the small river", "quench generate out", "quench inspect out"] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(bench.at("out").join(file).is_file(), "{file}");
    }
    let report: Value = serde_json::from_slice(&fs::read(bench.at("report.json")).unwrap()).unwrap();
    assert_eq!(report["recipe"]["name"], "test");
    assert_eq!(report["ledger"]["entries"].as_array().unwrap().len(), 14, "seven layers in each of two blocks");
    assert!(report["size"]["compression"].as_f64().unwrap() > 1.0);
    assert!(report["comparison"].is_object());
    let left: Vec<_> = fs::read_dir(bench.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(left.iter().all(|name| !name.contains("partial") && !name.contains("tmp")), "{left:?}");

    let inspected = bench.run(&["inspect", "out", "--json", "layers.json", "--verbose"]).succeeds().out;
    for word in ["model.layers.1.mlp.down_proj", "[32, 48]", "int4/16/f16"] {
        assert!(inspected.contains(word), "{word}:\n{inspected}");
    }
    assert!(serde_json::from_slice::<Value>(&fs::read(bench.at("layers.json")).unwrap()).is_ok());

    let scored = [
        "eval",
        "out",
        "--against",
        "model",
        "--text",
        "en=evaluation.txt",
        "xx=calibration.txt",
        "--length",
        "32",
        "--windows",
        "2",
    ];
    let scored = bench.run(&[&scored[..], &["--device", "flex", "--json", "scores.json"]].concat()).succeeds().out;
    for word in ["en", "xx", "perplexity", "KL", "agreement"] {
        assert!(scored.contains(word), "{word}:\n{scored}");
    }
    assert!(serde_json::from_slice::<Value>(&fs::read(bench.at("scores.json")).unwrap()).is_ok());

    let generate = |seed| {
        bench.run(&["generate", "out", "--prompt", "the", "-n", "8", "--seed", seed, "--device", "flex"]).succeeds().out
    };
    assert!(generate("1").starts_with("the") && generate("1").len() > 4);
    assert_eq!(generate("1"), generate("1"));
    assert_ne!(generate("1"), generate("2"));
}

#[test]
fn a_group_that_does_not_divide_a_row_is_shorter_at_the_end() {
    let bench = Bench::new();
    bench.write("recipe.toml", RECIPE.replace("group = 16", "group = 20"));
    let ended = bench.quantize(&TEXTS).succeeds();
    assert!(ended.out.contains("int4/20/f16"), "{}", ended.out);
    bench.run(&["generate", "out", "--prompt", "the", "-n", "4"]).succeeds();
}

#[test]
fn a_model_is_replaced_only_with_force() {
    let bench = Bench::new();
    bench.quantize(&TEXTS).succeeds();
    let first = bench.listing();
    bench.quantize(&TEXTS).refuses(&["out", "--force"]).unwrap();
    assert!(bench.listing() == first, "the refused run changed something");
    bench.write("recipe.toml", RECIPE.replace("int4", "int8"));
    let ended = bench.quantize(&[&TEXTS[..], &["--force"]].concat()).succeeds();
    assert!(ended.out.contains("int8/16/f16"), "{}", ended.out);
    assert!(bench.run(&["inspect", "out"]).succeeds().out.contains("int8/16/f16"));
}

#[test]
fn a_failed_gate_is_exit_code_3_and_the_model_is_saved_and_marked() {
    let bench = Bench::new();
    bench.write("recipe.toml", format!("{RECIPE}\n[gates]\nmax_kl = 1e-9\nmin_compression = 1.01\n"));
    let Ended { code, out, err } = bench.quantize(&TEXTS);
    assert_eq!((code, err.as_str()), (Some(3), ""), "{out}");
    assert!(out.contains("max_kl") && out.contains("failed"), "{out}");
    assert!(bench.at("out/model.safetensors").is_file());
    let inspected = bench.run(&["inspect", "out"]).succeeds().out;
    assert!(inspected.contains("failed") && inspected.contains("max_kl"), "{inspected}");
}

#[test]
fn a_gate_for_a_language_that_is_not_measured_fails() {
    let bench = Bench::new();
    bench.write("recipe.toml", format!("{RECIPE}\n[gates.languages.de]\nmax_kl = 100.0\n"));
    let texts = ["--calibration", "calibration.txt", "--eval", "en=evaluation.txt"];
    let Ended { code, out, .. } = bench.quantize(&texts);
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("de") && out.contains("failed"), "{out}");
}

#[test]
fn a_plan_is_printed_edited_and_carried_out() {
    let bench = Bench::new();
    let before = bench.listing();
    let plan = bench.quantize(&["--dry-run"]).succeeds().out;
    assert!(bench.listing() == before, "a dry run writes nothing");
    assert!(plan.contains("model.layers.1.mlp.down_proj") && plan.contains("int4/16/f16"), "{plan}");
    bench.write("plan.toml", plan.replacen("int4/16/f16", "int8/16/f16", 1));
    let ended = bench.quantize(&[&TEXTS[..], &["--plan", "plan.toml", "--verbose"]].concat()).succeeds();
    assert_eq!(ended.out.matches("int8/16/f16").count(), 1, "{}", ended.out);
}

#[test]
fn a_cascade_is_shown_beside_direct_quantization() {
    let bench = Bench::new();
    bench.write("recipe.toml", RECIPE.replace("code = \"int4\"", "code = \"int4\"\ncascade = [\"int8\"]"));
    let out = bench.quantize(&TEXTS).succeeds().out;
    assert!(out.contains("cascade") && out.contains("direct"), "{out}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_one_error_and_the_output_does_not_appear() {
    let bench = Bench::new();
    // Writing beyond the limit fails as on a full disk, with another error code.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_quench")]);
    limited.args(quantize(&TEXTS)).current_dir(bench.folder.path()).env_remove("RUST_BACKTRACE");
    ended(&mut limited).refuses(&["out"]).unwrap();
    assert!(!bench.at("out").exists());
    let halves: Vec<_> =
        bench.listing().into_keys().filter(|path| path.extension().is_some_and(|ending| ending == "tmp")).collect();
    assert!(halves.is_empty(), "{halves:?}");

    if let Some(disk) = SmallDisk::mount(&bench.at("disk"), "48k") {
        let output = disk.folder.join("out");
        let arguments =
            quantize(&TEXTS).into_iter().map(|word| if word == "out" { output.to_str().unwrap() } else { word });
        bench.run(&arguments.collect::<Vec<_>>()).refuses(&["disk/out", "No space left"]).unwrap();
        assert!(!output.exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_for_the_report_is_an_error_and_the_model_is_saved() {
    let bench = Bench::new();
    let Ended { code, err, .. } = bench.quantize(&[&TEXTS[..], &["--json", "/dev/full"]].concat());
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("/dev/full") && err.contains("saved in out"), "{err}");
    assert!(bench.at("out/model.safetensors").is_file());
}

/// A disk of its own, where the test may make one.
#[cfg(unix)]
struct SmallDisk {
    folder: PathBuf,
}

#[cfg(unix)]
impl SmallDisk {
    fn mount(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir(folder).unwrap();
        let option = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &option, "none"]).arg(folder).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self { folder: folder.to_owned() })
    }
}

#[cfg(unix)]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.folder).output();
        assert!(unmounted.is_ok_and(|output| output.status.success()), "{} stays mounted", self.folder.display());
    }
}

#[test]
fn an_absent_device_is_one_error_that_names_what_there_is() {
    let bench = Bench::new();
    let before = bench.listing();
    let compiled =
        [("rocm", cfg!(feature = "rocm")), ("metal", cfg!(feature = "metal")), ("cuda", cfg!(feature = "cuda"))];
    for (name, _) in compiled.into_iter().filter(|(_, compiled)| !compiled) {
        let feature = format!("--features {name}");
        bench
            .quantize(&[&TEXTS[..], &["--device", name]].concat())
            .refuses(&[name, &feature, "use one of: auto"])
            .unwrap();
    }
    for name in ["wgpu:99", "vulkan:99", "cuda:99", "flex:1"] {
        bench
            .quantize(&[&TEXTS[..], &["--device", name]].concat())
            .refuses(&[name.split(':').next().unwrap()])
            .unwrap();
    }
    for wrong in ["gpu", "cuda:x", "auto:1"] {
        bench.quantize(&["--device", wrong]).refuses(&["--device", wrong]).unwrap();
    }
    assert!(bench.listing() == before);
}

#[test]
fn devices_and_recipes_are_listed() {
    let bench = Bench::new();
    let devices = bench.run(&["devices"]).succeeds().out;
    for name in ["cuda", "rocm", "metal", "vulkan", "wgpu", "flex", "ndarray"] {
        assert!(devices.lines().any(|line| line.starts_with(name)), "{name}:\n{devices}");
    }
    let recipes = bench.run(&["recipes"]).succeeds().out;
    assert!(recipes.contains("gptq-int4-g128") && recipes.contains("Without --recipe"), "{recipes}");
    let one = bench.run(&["recipes", "rtn-int8"]).succeeds().out;
    bench.write("mine.toml", one);
    bench.quantize(&["--recipe", "mine.toml"]).succeeds();
}

#[test]
fn every_command_has_help_with_examples_and_exit_codes() {
    let bench = Bench::new();
    for command in ["quantize", "eval", "inspect", "generate", "recipes"] {
        let help = bench.run(&[command, "--help"]).succeeds().out;
        assert!(
            help.contains("Examples:") && help.contains("Exit codes:") && help.contains("130"),
            "{command}:\n{help}"
        );
    }
    assert!(bench.run(&["--help"]).succeeds().out.contains("Exit codes:"));
    bench.run(&["devices", "--help"]).succeeds();
    bench.run(&["--version"]).succeeds();
    assert_eq!(bench.run(&["quantise"]).code, Some(2));
}

/// A model that takes long enough to be interrupted.
const LONG: Sizes = Sizes { hidden: 96, intermediate: 256, blocks: 8 };

#[cfg(unix)]
#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    let bench = Bench::with(LONG);
    bench.write("recipe.toml", RECIPE.replace("samples = 4, length = 32", "samples = 32, length = 96"));
    let whole: Vec<&str> =
        quantize(&TEXTS).into_iter().map(|word| if word == "out" { "whole" } else { word }).collect();
    bench.run(&whole).succeeds();

    // Ctrl-C after the first block: exit code 130, and a hint.
    let first = start(&bench, &[]);
    wait_for_blocks(&bench, 1);
    signal(&first, "INT");
    let output = first.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("--resume") && error.contains("out.partial"), "{error}");
    assert!(!bench.at("out").exists());

    // Neither a new run nor another job goes on from it by accident.
    bench.quantize(&TEXTS).refuses(&["out.partial", "--resume", "--force"]).unwrap();
    bench.quantize(&[&TEXTS[..], &["--resume", "--seed", "5"]].concat()).refuses(&["out.partial", "--force"]).unwrap();

    // A crash in the middle of a later block.
    let blocks = journal(&bench).len();
    let second = start(&bench, &["--resume"]);
    wait_for_blocks(&bench, blocks + 2);
    signal(&second, "KILL");
    assert_eq!(second.wait_with_output().unwrap().status.code(), None, "killed");
    assert!(!bench.at("out").exists());

    bench.quantize(&[&TEXTS[..], &["--resume"]].concat()).succeeds();
    assert!(!bench.at("out.partial").exists());
    let files = |folder: &str| -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = bench.at(folder);
        let files = listing(&folder)
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "safetensors"));
        files.map(|(path, bytes)| (path.strip_prefix(&folder).unwrap().to_owned(), bytes)).collect()
    };
    assert!(!files("whole").is_empty());
    assert!(files("out") == files("whole"), "the resumed checkpoint has other bytes");
}

fn start(bench: &Bench, more: &[&str]) -> Child {
    let mut command = bench.command(&quantize(&[&TEXTS[..], more].concat()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Files of finished blocks.
fn journal(bench: &Bench) -> Vec<PathBuf> {
    let files = listing(&bench.at("out.partial")).into_keys();
    files.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).collect()
}

fn wait_for_blocks(bench: &Bench, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while journal(bench).len() < count {
        assert!(Instant::now() < deadline, "no {count} blocks within two minutes: {:?}", journal(bench));
        thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    let killed = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(killed.success(), "the run ended before it could be interrupted");
}
