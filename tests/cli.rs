//! The binary, driven as a user drives it: exit codes, messages, and what is on disk afterwards.
#![cfg(feature = "cli")]

#[path = "support/bad_input.rs"]
mod bad_input;
#[path = "support/bench.rs"]
mod bench;
#[path = "support/data.rs"]
mod data;
#[path = "support/hub.rs"]
mod hub;
#[path = "support/kinds.rs"]
mod kinds;
#[path = "cli/meaning.rs"]
mod meaning;
#[path = "cli/planning.rs"]
mod planning;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bench::{Bench, Ended, RECIPE, TEXTS, ended, listing, quantize};
use kinds::{pairs, write_encoder, write_images, write_resnet};
use quench::checkpoint::{Folder, Source, dialect};
use serde_json::Value;
use support::Sizes;

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
    let card = fs::read_to_string(bench.at("out/README.md")).unwrap();
    for words in ["library_name: quench", "| all | ", "int4/16/f16", "group = 16", "--against DENSE"] {
        assert!(card.contains(words), "{words}:\n{card}");
    }
    assert!(!card.contains(bench.folder.path().to_str().unwrap()), "{card}");
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
fn a_model_of_the_hub_by_its_name() {
    let bench = Bench::new();
    bench.write("model/README.md", "---\nlicense: mit\n---\n# The dense one\n");
    let address = hub::serve(bench.at("model"));
    let run = |arguments: &[&str], offline: &str| {
        let mut command = bench.command(arguments);
        command.env("HF_HUB_CACHE", bench.at("cache")).env("HF_ENDPOINT", &address).env("HF_HUB_OFFLINE", offline);
        ended(command.env_remove("HF_TOKEN").env("HF_TOKEN_PATH", bench.at("no token")))
    };
    run(&["inspect", "hf:owner/name"], "1").refuses(&["hf:owner/name", "HF_HUB_OFFLINE", "no whole copy"]).unwrap();
    run(&["inspect", "hf:owner/other"], "").refuses(&["no model owner/other", "HF_TOKEN"]).unwrap();
    run(&["inspect", "hf:name"], "").refuses(&["`name` has no owner", "hf:OWNER/NAME"]).unwrap();

    let arguments = ["quantize", "hf:owner/name", "--recipe", "recipe.toml", "--device", "flex"];
    run(&[&arguments[..], &TEXTS].concat(), "").succeeds();
    let card = fs::read_to_string(bench.at("name-test/README.md")).unwrap();
    for words in ["base_model: owner/name", "license: mit", "# name, test", "--against hf:owner/name@", hub::COMMIT] {
        assert!(card.contains(words), "{words}:\n{card}");
    }
    let own = fs::read(bench.at("name-test/README.base.md")).unwrap();
    assert_eq!(own, fs::read(bench.at("model/README.md")).unwrap());

    // The copy, without the hub.
    let again = run(&["inspect", "hf:owner/name"], "1");
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.err.starts_with("note: HF_HUB_OFFLINE is set; using the copy of hf:owner/name"), "{again:?}");
    assert_eq!(again.out, bench.run(&["inspect", "model"]).succeeds().out);
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
fn a_searched_curvature_is_asked_for_planned_found_and_shown() {
    let bench = Bench::new();
    bench.write("recipe.toml", RECIPE.replace("\"int4\"", "\"slog4:mu*\"\nsearch = \"gram\""));
    let planned = bench.quantize(&[&TEXTS[..], &["--dry-run"]].concat()).succeeds().out;
    assert!(planned.contains("stages = [\"slog4:mu*/16/f16\"]") && planned.contains("search = \"gram\""), "{planned}");
    bench.write("plan.toml", &planned);
    let shown = bench.quantize(&[&TEXTS[..], &["--plan", "plan.toml", "--verbose", "--json", "r.json"]].concat());
    let shown = shown.succeeds().out;
    let inspected = bench.run(&["inspect", "out", "--verbose"]).succeeds().out;
    let report: Value = serde_json::from_slice(&fs::read(bench.at("r.json")).unwrap()).unwrap();
    for entry in report["ledger"]["entries"].as_array().unwrap() {
        let scheme = entry["scheme"].as_str().unwrap();
        assert!(scheme.starts_with("slog4:mu") && !scheme.contains('*'), "{scheme}");
        assert!(shown.contains(scheme) && inspected.contains(scheme), "{scheme}:\n{shown}{inspected}");
    }
    let brief = bench.run(&["inspect", "out"]).succeeds().out;
    assert_eq!(brief.lines().filter(|line| line.contains("mlp.up_proj")).count(), 1, "{brief}");
}

#[test]
fn the_published_codec_is_scaled_or_refused() {
    let bench = Bench::new();
    bench.write("recipe.toml", RECIPE.replace("\"int4\"", "\"plog5\"\nmethod = \"rtn\"").replace("group = 16\n", ""));
    let ended = bench.quantize(&TEXTS).succeeds();
    assert!(ended.out.contains("plog5/tensor/f32"), "{}", ended.out);
    // The weights of the bench are small, so they need no scale.
    bench.quantize(&[&TEXTS[..], &["--no-scale", "--force"]].concat()).succeeds();
    bench.write("recipe.toml", RECIPE);
    bench
        .quantize(&[&TEXTS[..], &["--no-scale", "--force"]].concat())
        .refuses(&["--no-scale", "plog2..plog16"])
        .unwrap();
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
fn an_instruction_set_is_named_by_a_variable() {
    let bench = Bench::new();
    let generate = ["generate", "spark", "--max-tokens", "2", "--device", "flex"];
    ended(bench.command(&generate).env("QUENCH_ISA", "portable")).succeeds();
    ended(bench.command(&generate).env("QUENCH_ISA", "mmx")).refuses(&["QUENCH_ISA", "'mmx'", "portable"]).unwrap();
}

#[test]
fn models_are_measured_side_by_side() {
    let bench = Bench::new();
    bench.quantize(&TEXTS).succeeds();
    // Weights are all it takes.
    fs::remove_file(bench.at("out/tokenizer.json")).unwrap();
    let arguments = ["bench", "out", "--against", "model", "--prompt", "16,4", "--generate", "5", "--repetitions", "2"];
    let more = ["--activations", "int8,f32", "--device", "flex", "--threads", "1", "--json", "bench.json"];
    let out = bench.run(&[&arguments[..], &more].concat()).succeeds().out;
    for word in ["model", "out", "int8", "f32", "prompt 16", "prompt 4", "generate 5", "ratio", "on flex, 1 thread"] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    let report: Value = serde_json::from_slice(&fs::read(bench.at("bench.json")).unwrap()).unwrap();
    assert_eq!((&report["threads"], &report["device"]), (&1.into(), &"flex".into()));
    let models = report["models"].as_array().unwrap();
    let asked: Vec<_> = models.iter().map(|model| (model["name"].as_str(), model["activations"].as_str())).collect();
    assert_eq!(asked, [(Some("model"), None), (Some("out"), Some("int8")), (Some("out"), Some("f32"))]);
    for model in models {
        // Two layers, keys and values of two heads of 8 numbers, 16 tokens.
        assert_eq!(model["kv_cache_bytes"], 2 * 2 * 2 * 8 * 4 * 16);
        assert!(model["size_bytes"].as_u64().unwrap() > 0 && model["load_seconds"].as_f64().unwrap() > 0.0);
        if cfg!(target_os = "linux") {
            let [loaded, peak] = ["loaded_bytes", "peak_bytes"].map(|key| model[key].as_u64().unwrap());
            assert!(0 < loaded && loaded <= peak, "{model}");
        }
        let tests = model["tests"].as_array().unwrap();
        let named: Vec<_> = tests.iter().map(|test| (test["test"].as_str().unwrap(), &test["tokens"])).collect();
        assert_eq!(named, [("prompt", &16.into()), ("prompt", &4.into()), ("generate", &5.into())]);
        for (test, first) in tests.iter().zip(models[0]["tests"].as_array().unwrap()) {
            let number = |key: &str| test[key].as_f64().unwrap();
            assert_eq!(test["seconds"].as_array().unwrap().len(), 2);
            let (lowest, highest) = (number("lowest_tokens_per_second"), number("highest_tokens_per_second"));
            assert!(0.0 < lowest && lowest <= number("tokens_per_second") && number("tokens_per_second") <= highest);
            let ratio = number("tokens_per_second") / first["tokens_per_second"].as_f64().unwrap();
            assert!((number("ratio") - ratio).abs() < 1e-9, "{test}");
        }
    }

    let alone = bench.run(&["bench", "model", "--generate", "0", "--repetitions", "1"]).succeeds().out;
    assert!(alone.contains("prompt 255"), "the longest that fits the context of 256:\n{alone}");
    assert!(!alone.contains("generate") && !alone.contains("ratio"), "{alone}");
}

#[cfg(unix)]
#[test]
fn a_measurement_ends_with_whoever_asked_for_it() {
    let bench = Bench::with(LONG);
    let mut command = bench.command(&["bench", "--measure", "model", "--prompt", "8", "--generate", "0"]);
    command.args(["--repetitions", "1000000"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"begun\":\"loading\"}\n");
    drop(child.stdin.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(130), &b""[..]));
}

#[test]
fn a_model_is_converted_there_and_back_and_means_the_same() {
    let bench = Bench::new();
    bench.write("recipe.toml", RECIPE.replace("int4", "slog5:mu8"));
    bench.quantize(&TEXTS).succeeds();
    let convert = |from, to, container| bench.run(&["convert", from, to, "--to", container]);
    let lsq = convert("out", "lsq", "lsq").succeeds().out;
    for word in ["14 layers, bit for bit", "unchanged", "saved as lsq", "quench inspect"] {
        assert!(lsq.contains(word), "{word}:\n{lsq}");
    }
    convert("lsq", "back", "quench").succeeds();
    let dense = convert("lsq", "dense", "safetensors").succeeds().out;
    assert!(dense.contains("14 layers to dense f32"), "{dense}");

    // The way back is exact: weights, and every file beside them.
    assert!(listing(&bench.at("out")).values().eq(listing(&bench.at("back")).values()));
    let marked = |folder: &str| fs::read_to_string(bench.at(folder).join("config.json")).unwrap().contains("quench");
    assert!(marked("lsq") && !marked("dense"));
    let inspected = bench.run(&["inspect", "lsq/model.lsq"]).succeeds().out;
    for word in ["lsq", "slog5:mu8/16/f16", "model.layers.*.mlp.down_proj"] {
        assert!(inspected.contains(word), "{word}:\n{inspected}");
    }
    // It is a model like any other, and decoded it is the same one.
    let generate = |folder| {
        let words = ["--prompt", "the", "-n", "8", "--temperature", "0", "--device", "flex", "--activations", "f32"];
        bench.run(&[&["generate", folder][..], &words].concat()).succeeds().out
    };
    assert_eq!(generate("lsq"), generate("out"));
    let scored = bench
        .run(&["eval", "lsq", "--against", "dense", "--text", "evaluation.txt", "--length", "32", "--device", "flex"])
        .succeeds()
        .out;
    assert!(scored.contains("100.0"), "{scored}");

    // One file into one file.
    convert("lsq/model.lsq", "m.safetensors", "quench").succeeds();
    convert("m.safetensors", "m.lsq", "lsq").succeeds();
    assert_eq!(fs::read(bench.at("m.lsq")).unwrap(), fs::read(bench.at("lsq/model.lsq")).unwrap());
}

#[test]
fn the_tensors_of_a_pytorch_file_are_taken_and_nothing_else() {
    let bench = Bench::new();
    let fixture = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/checkpoint/fixtures").join(name);
        fs::copy(file, bench.at(name)).unwrap();
    };
    fixture("nested.th");
    fixture("object.pth");
    if cfg!(not(feature = "pytorch")) {
        bench.run(&["convert", "nested.th", "m.lsq", "--to", "lsq"]).refuses(&["nested.th", "`pytorch`"]).unwrap();
        return;
    }
    bench.run(&["convert", "nested.th", "m.lsq", "--to", "lsq"]).succeeds();
    let inspected = bench.run(&["inspect", "m.lsq"]).succeeds().out;
    assert!(inspected.contains("fc.weight") && inspected.contains("f16"), "{inspected}");
    let ended = bench.run(&["convert", "object.pth", "n.lsq", "--to", "lsq"]);
    ended.refuses(&["object.pth", "`hook`", "system"]).unwrap();
    assert!(!bench.at("n.lsq").exists());
}

#[test]
fn a_conversion_that_cannot_be_is_one_error_and_leaves_nothing() {
    let bench = Bench::new();
    bench.run(&["convert", "model", "m.lsq", "--to", "lsq"]).succeeds();
    let bytes = fs::read(bench.at("m.lsq")).unwrap();
    bench.write("cut.lsq", &bytes[..bytes.len() - 1]);
    let mut newer = bytes.clone();
    newer[8] = 3;
    bench.write("newer.lsq", newer);
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    bench.write("damaged.lsq", damaged);
    bench.write("none.lsq", "not a checkpoint at all");
    let before = bench.listing();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["cut.lsq", "out", "--to", "lsq"], &["cut.lsq", "truncated"]),
        (&["newer.lsq", "out", "--to", "lsq"], &["newer.lsq", "version 3"]),
        (&["damaged.lsq", "out", "--to", "quench"], &["damaged.lsq", "SHA-256"]),
        (&["none.lsq", "out", "--to", "quench"], &["none.lsq", "not an .lsq file"]),
        (&["absent", "out", "--to", "lsq"], &["absent"]),
        (&["model", "m.lsq", "--to", "lsq"], &["m.lsq", "--force"]),
        (&["model", "model", "--to", "lsq"], &["model", "input itself"]),
        (&["model", "out.lsq", "--to", "quench"], &["out.lsq", ".safetensors"]),
        (&["model", "out", "--to", "onnx"], &["onnx", "lsq, quench, safetensors", "gguf"]),
    ];
    for (arguments, expected) in cases {
        let ended = bench.run(&[&["convert"][..], arguments].concat());
        ended.refuses(expected).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert!(bench.listing() == before, "{arguments:?} left something");
    }
    bench.run(&["convert", "model", "m.lsq", "--to", "lsq", "--force"]).succeeds();
    assert_eq!(fs::read(bench.at("m.lsq")).unwrap(), bytes);
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
fn a_model_is_fitted_to_machines() {
    let bench = Bench::new();
    let all = bench.run(&["fit", "model", "--context", "16", "--json", "fit.json"]).succeeds().out;
    for word in ["jetson-nano", "rtx-4090", "macbook-air-m2", "phone-8gb", "| yes", "weights", "cache", "activations"] {
        assert!(all.contains(word), "{word}:\n{all}");
    }
    let report: Value = serde_json::from_slice(&fs::read(bench.at("fit.json")).unwrap()).unwrap();
    let dense = report["weights"]["bytes"].as_u64().unwrap();
    bench.write("recipe.toml", RECIPE);
    let one = [
        "fit",
        "model",
        "--device",
        "jetson-nano",
        "--context",
        "16",
        "--recipe",
        "recipe.toml",
        "--json",
        "small.json",
    ];
    let one = bench.run(&one).succeeds().out;
    assert!(one.contains("jetson-nano") && !one.contains("rtx-4090"), "{one}");
    let report: Value = serde_json::from_slice(&fs::read(bench.at("small.json")).unwrap()).unwrap();
    let planned = report["weights"]["bytes"].as_u64().unwrap();
    assert!(planned < dense);
    // What the recipe would make is what it makes, to the byte.
    bench.quantize(&TEXTS).succeeds();
    bench.run(&["fit", "out", "--context", "16", "--json", "made.json"]).succeeds();
    let report: Value = serde_json::from_slice(&fs::read(bench.at("made.json")).unwrap()).unwrap();
    assert_eq!(report["weights"]["bytes"].as_u64(), Some(planned));
    assert_eq!(
        report["machines"].as_array().unwrap().len(),
        all.lines().filter(|line| line.starts_with("| ")).count() - 1
    );
    let unknown = bench.run(&["fit", "model", "--device", "jetson-nono"]);
    assert!(unknown.code == Some(2) && unknown.err.contains("jetson-nano"), "{}", unknown.err);
}

#[test]
fn every_command_has_help_with_examples_and_exit_codes() {
    let bench = Bench::new();
    for command in ["quantize", "eval", "inspect", "convert", "generate", "fit", "bench", "recipes"] {
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

#[test]
fn an_image_classifier_is_quantized_and_measured() {
    let bench = Bench::new();
    write_resnet(&bench.at("net"), 3);
    write_images(&bench.at("images"), 4, 5);
    bench.write("net.toml", format!("{RECIPE}\n[gates]\nmin_agreement = 0.0\nmax_accuracy_drop = 1.0\n"));
    let arguments = ["quantize", "net", "-r", "net.toml", "-o", "out", "-c", "images", "--eval", "images"];
    let Ended { out, .. } = bench.run(&[&arguments[..], &["--device", "flex", "--json", "r.json"]].concat()).succeeds();
    for word in ["layer1.*.conv1", "conv1", "linear", "int4/16/f16", "4 images", "top-1", "agreement", "KL", "passed"] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    assert!(out.contains("quench eval out") && !out.contains("quench generate"), "{out}");
    let report: Value = serde_json::from_slice(&fs::read(bench.at("r.json")).unwrap()).unwrap();
    assert_eq!(report["ledger"]["entries"].as_array().unwrap().len(), 18);
    assert_eq!(report["calibration"]["unit"], "image");

    let measured =
        bench.run(&["eval", "out", "--against", "net", "--data", "images", "--device", "flex"]).succeeds().out;
    assert!(measured.contains("top-1") && measured.contains("agreement"), "{measured}");
    let alone = bench.run(&["eval", "net", "--data", "images", "--device", "flex"]).succeeds().out;
    assert!(alone.contains("top-1") && !alone.contains("agreement"), "{alone}");

    // The same in the other container.
    bench.run(&["convert", "out", "lsq", "--to", "lsq"]).succeeds();
    let packed = bench.run(&["eval", "lsq", "--against", "net", "--data", "images", "--device", "flex"]).succeeds().out;
    assert_eq!(packed.replace("lsq", "out"), measured);
}

#[test]
fn a_sentence_encoder_is_quantized_and_measured() {
    let bench = Bench::new();
    write_encoder(&bench.at("bert"), 3);
    bench.write("pairs.txt", pairs(40, 1));
    fs::create_dir(bench.at("probe")).unwrap();
    for (name, seed) in [("train.tsv", 2), ("dev.tsv", 3)] {
        let rows = pairs(30, seed);
        let rows = rows.lines().enumerate().map(|(index, row)| format!("{}\t{}\n", row.replace('\t', " "), index % 2));
        bench.write(&format!("probe/{name}"), format!("sentence\tlabel\n{}", rows.collect::<String>()));
    }
    let arguments = ["quantize", "bert", "-r", "recipe.toml", "-o", "out", "-c", "calibration.txt"];
    let more = ["--eval", "words=pairs.txt", "probe", "--device", "flex", "--json", "r.json"];
    let Ended { out, .. } = bench.run(&[&arguments[..], &more].concat()).succeeds();
    for word in ["encoder.layer.*.output.dense", "int4/16/f16", "sentences", "Spearman", "words", "accuracy", "probe"] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    let report: Value = serde_json::from_slice(&fs::read(bench.at("r.json")).unwrap()).unwrap();
    assert_eq!(report["ledger"]["entries"].as_array().unwrap().len(), 12);
    let measured =
        bench.run(&["eval", "out", "--against", "bert", "--data", "pairs.txt", "--device", "flex"]).succeeds().out;
    assert!(measured.contains("Spearman") && measured.contains("neighbours"), "{measured}");
}

#[test]
fn data_of_another_kind_of_model_is_one_error() {
    let bench = Bench::new();
    write_resnet(&bench.at("net"), 3);
    write_encoder(&bench.at("bert"), 3);
    write_images(&bench.at("images"), 1, 5);
    write_images(&bench.at("more"), 1, 5);
    fs::create_dir(bench.at("more/violet")).unwrap();
    fs::copy(bench.at("images/red/0.png"), bench.at("more/violet/0.png")).unwrap();
    fs::create_dir(bench.at("none")).unwrap();
    bench.write("images/green/broken.png", "no image");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["eval", "net", "--data", "none"], &["none", "class"]),
        (&["eval", "net", "--data", "images", "more"], &["more", "one folder"]),
        (&["eval", "net", "--data", "more"], &["violet", "red"]),
        (&["eval", "net", "--data", "images"], &["broken.png"]),
        (&["eval", "net", "--data", "evaluation.txt"], &["evaluation.txt"]),
        (&["eval", "net", "--against", "bert", "--data", "images"], &["image classifier", "sentence encoder"]),
        (&["eval", "bert", "--data", "evaluation.txt"], &["evaluation.txt", "line 1"]),
        (&["quantize", "net", "-r", "recipe.toml", "--eval", "more", "-o", "x"], &["images", "--calibration"]),
    ];
    for (arguments, words) in cases {
        bench.run(&[arguments, &["--device", "flex"]].concat()).refuses(words).unwrap();
    }
    bench.run(&["quantize", "net", "--prompt", "x", "-o", "x"]).refuses(&["--prompt", "image classifier"]).unwrap();
    bench.run(&["generate", "net", "--prompt", "x"]).refuses(&["resnet_cifar"]).unwrap();
}

#[test]
fn packed_layers_go_to_other_tools_and_come_back() {
    let bench = Bench::new();
    bench.quantize(&TEXTS).succeeds();
    let score = |folder: &str| {
        let arguments = ["eval", folder, "--against", "model", "--data", "evaluation.txt", "--length", "32"];
        let table = bench.run(&[&arguments[..], &["--device", "flex"]].concat()).succeeds().out;
        // Without the rules, which are as wide as the name of the folder.
        let words = table.split_whitespace().filter(|word| !word.contains("---"));
        words.collect::<Vec<_>>().join(" ").replace(folder, "out")
    };
    let own = score("out");
    for dialect in ["gptq", "awq", "compressed-tensors"] {
        let written = bench.run(&["convert", "out", dialect, "--to", dialect]).succeeds().out;
        assert!(written.contains("14 layers"), "{written}");
        let inspected = bench.run(&["inspect", dialect]).succeeds().out;
        let scheme = if dialect == "awq" { " uint4/16/f16" } else { " int4/16/f16" };
        assert!(inspected.contains(dialect) && inspected.contains(scheme), "{inspected}");
        let config: Value = serde_json::from_slice(&fs::read(bench.at(dialect).join("config.json")).unwrap()).unwrap();
        assert_eq!(config["quantization_config"]["quant_method"], dialect);
        bench.run(&["convert", dialect, "back", "--to", "quench", "--force"]).succeeds();
        let config: Value = serde_json::from_slice(&fs::read(bench.at("back/config.json")).unwrap()).unwrap();
        assert_eq!(config["quantization_config"]["quant_method"], "quench");
        if dialect != "awq" {
            // That has zero points in every layer, with which sums are rounded in another way.
            assert_eq!((score(dialect), score("back")), (own.clone(), own.clone()), "{dialect}");
        }
        let again = ["quantize", dialect, "-r", "recipe.toml", "-o", "x", "-c", "calibration.txt"];
        bench.run(&again).refuses(&["already quantized", "down_proj"]).unwrap();
    }
    bench.write("recipe.toml", RECIPE.replace("int4", "nf4"));
    bench.quantize(&[&TEXTS[..], &["--force"]].concat()).succeeds();
    let before = bench.listing();
    let refused = bench.run(&["convert", "out", "x", "--to", "gptq"]);
    let lost = "model.layers.*.mlp.down_proj (2), nf4/16/f16 -> int4/16/f16: relative error ";
    refused.refuses(&["gptq has integers", "not nf4", lost, "--requantize CODE/GROUP/SCALE"]).unwrap();
    assert!(bench.listing() == before);
}

/// The weights of all packed layers as they decode, by name.
fn decoded(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let source = Folder::open(folder).unwrap();
    let read = |layer: String| {
        let packed = dialect::read(&source, &layer).unwrap().unwrap();
        (layer, packed.decode())
    };
    dialect::layers(&source).into_iter().map(read).collect()
}

/// `‖Ŵ' − Ŵ‖ / ‖Ŵ‖`, of all layers whose name has `part` in it.
fn distance(before: &BTreeMap<String, Vec<f32>>, after: &BTreeMap<String, Vec<f32>>, part: &str) -> f64 {
    let square = |value: f32| f64::from(value).powi(2);
    let (mut error, mut norm) = (0.0, 0.0);
    for (layer, before) in before.iter().filter(|(layer, _)| layer.contains(part)) {
        error += before.iter().zip(&after[layer]).map(|(a, b)| square(a - b)).sum::<f64>();
        norm += before.iter().map(|a| square(*a)).sum::<f64>();
    }
    (error / norm).sqrt()
}

#[test]
fn layers_that_do_not_fit_are_rounded_where_that_is_asked_for() {
    let bench = Bench::new();
    let made = |recipe: &str| {
        bench.write("recipe.toml", recipe);
        bench.quantize(&[&TEXTS[..], &["--force"]].concat()).succeeds();
        decoded(&bench.at("out"))
    };
    let run = |to: &str, more: &[&str]| {
        bench.run(&[&["convert", "out", "x", "--force", "--json", "x.json", "--to", to][..], more].concat())
    };
    let report = || serde_json::from_slice::<Value>(&fs::read(bench.at("x.json")).unwrap()).unwrap();

    // Other levels: what is said to be lost is what is lost, and twice the bits lose much less.
    let before = made(&RECIPE.replace("int4", "nf4"));
    let out = run("gptq", &["--requantize"]).succeeds().out;
    for word in ["14 layers onto another grid", "nf4/16/f16 -> int4/16/f16", "worst", "model.layers."] {
        assert!(out.contains(word), "{word}:\n{out}");
    }
    assert!(!out.contains("bit for bit"), "{out}");
    let (after, said) = (decoded(&bench.at("x")), report());
    assert_eq!((&said["packed"], &said["requantized"]), (&0.into(), &14.into()));
    let losses = said["losses"].as_array().unwrap();
    assert_eq!(losses.len(), 7, "{losses:?}");
    for loss in losses {
        let kind = loss["kind"].as_str().unwrap().rsplit('.').next().unwrap();
        let (said, worst) = (loss["error"].as_f64().unwrap(), loss["worst"].as_f64().unwrap());
        let found = distance(&before, &after, kind);
        assert!((said - found).abs() < 1e-9 && said > 0.01 && said < 0.12 && worst >= said, "{loss} {found}");
        let found = distance(&before, &after, loss["worst_layer"].as_str().unwrap());
        assert!((worst - found).abs() < 1e-9, "{loss} {found}");
    }
    run("gptq", &["--requantize", "int8/16/f16"]).succeeds();
    assert!(distance(&before, &decoded(&bench.at("x")), "") < 0.01);
    run("gptq", &["--requantize", "e4m3/16/f16"]).refuses(&["e4m3", "gptq has integers", "--to safetensors"]).unwrap();
    run("gptq", &["--requantize", "int4"]).refuses(&["--requantize", "int4"]).unwrap();
    // What holds everything rounds nothing.
    let out = run("quench", &["--requantize"]).succeeds().out;
    assert!(out.contains("14 layers, bit for bit") && !out.contains("another grid"), "{out}");

    // Three bits have a place among four: the weights stay what they are, and still the codes are others.
    let before = made(&RECIPE.replace("int4", "int3"));
    run("awq", &[]).refuses(&["4 bits", "int3/16/f16 -> uint4/16/f16: the same weights", "--requantize"]).unwrap();
    run("awq", &["--requantize"]).succeeds();
    assert!(decoded(&bench.at("x")) == before);

    // An order of columns, which compressed-tensors does not read any more, and GPTQ does.
    let ordered = RECIPE.replace("group = 16", "group = 16\norder = \"activation\"");
    let before = made(&ordered);
    run("gptq", &[]).succeeds();
    assert!(decoded(&bench.at("x")) == before);
    run("compressed-tensors", &[]).refuses(&["no order of columns since version 0.19", "relative error"]).unwrap();
    run("compressed-tensors", &["--requantize"]).succeeds();
    let error = distance(&before, &decoded(&bench.at("x")), "");
    assert!(error > 0.01 && error < 0.12, "{error}");

    // An embedding is dense in the files of others, whatever it was.
    let before = made(&RECIPE.replace("[[rules]]", "[keep]\nembeddings = false\n[[rules]]"));
    assert_eq!(before.len(), 15);
    let out = run("gptq", &[]).succeeds().out;
    assert!(out.contains("14 layers, bit for bit") && out.contains("1 layer to dense f32"), "{out}");
    let source = Folder::open(bench.at("x")).unwrap();
    let table = source.tensor("model.embed_tokens.weight").unwrap().to_f32().unwrap();
    assert_eq!(table, before["model.embed_tokens"]);

    // Layers of two kinds: those that fit stay, and the configuration names the others.
    let other = "[[rules]]\nlayers = \"*down_proj\"\ncode = \"slog5\"\ngroup = 16\n";
    let before = made(&RECIPE.replace("[[rules]]", &format!("{other}[[rules]]")));
    let out = run("gptq", &["--requantize"]).succeeds().out;
    assert!(out.contains("12 layers, bit for bit") && out.contains("slog5:mu3/16/f16 -> int8/16/f16"), "{out}");
    let after = decoded(&bench.at("x"));
    assert!(distance(&before, &after, "up_proj") == 0.0 && distance(&before, &after, "down_proj") < 0.01);
    let config: Value = serde_json::from_slice(&fs::read(bench.at("x/config.json")).unwrap()).unwrap();
    let quantization = &config["quantization_config"];
    assert_eq!((&quantization["bits"], quantization["dynamic"].as_object().unwrap().len()), (&4.into(), 2));
}

#[test]
fn a_gguf_file_is_written_and_is_a_model() {
    let bench = Bench::new();
    bench.write(
        "blocks.toml",
        "name = \"blocks\"\n[evaluation]\nlength = 32\nstride = 32\nwindows = 1\n\
         [[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 32\nmethod = \"rtn\"\n",
    );
    bench.run(&["quantize", "spark", "-r", "blocks.toml", "-o", "blocks", "--device", "flex"]).succeeds();
    let convert = |from, to, container| bench.run(&["convert", from, to, "--to", container]);
    let written = convert("blocks", "blocks.gguf", "gguf").succeeds().out;
    assert!(written.contains("bit for bit") && written.contains("saved as gguf"), "{written}");
    let inspected = bench.run(&["inspect", "blocks.gguf"]).succeeds().out;
    for word in ["gguf", "int4/32/f16", "model.layers.*.mlp.down_proj"] {
        assert!(inspected.contains(word), "{word}:\n{inspected}");
    }
    // It is a model as it is, says the same, and is the same after a detour.
    let generate = |model| {
        let words = ["--prompt", "The cat", "-n", "8", "--temperature", "0", "--device", "flex"];
        bench.run(&[&["generate", model][..], &words].concat()).succeeds().out
    };
    assert_eq!(generate("blocks.gguf"), generate("blocks"));
    convert("blocks.gguf", "back", "quench").succeeds();
    assert_eq!(generate("back"), generate("blocks"));
    convert("back", "again.gguf", "gguf").succeeds();
    assert_eq!(fs::read(bench.at("again.gguf")).unwrap(), fs::read(bench.at("blocks.gguf")).unwrap());

    convert("blocks", "folder", "gguf").refuses(&["folder", ".gguf"]).unwrap();
    convert("out.safetensors", "x.gguf", "gguf").refuses(&["out.safetensors"]).unwrap();
    let whole = fs::read(bench.at("blocks.gguf")).unwrap();
    fs::write(bench.at("cut.gguf"), &whole[..whole.len() - 1]).unwrap();
    bench.run(&["generate", "cut.gguf", "--prompt", "x"]).refuses(&["cut.gguf"]).unwrap();
}
