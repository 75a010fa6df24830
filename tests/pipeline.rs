//! The main job from Rust: what is saved is what was measured, and an interruption changes nothing.

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use quench::checkpoint::{Coding, Folder, Source, native};
use quench::job::{Conversion, Job, JobError, Overwrite, Requantize, Step, inspect};
use quench::kernels::Activations;
use quench::models::text::TextSource;
use quench::models::{ids, open};
use quench::nn::Model;
use quench::quantize::Recipe;
use support::{Sizes, text, write_model, write_sharded_model};
use tempfile::TempDir;

const SIZES: Sizes = Sizes { hidden: 32, intermediate: 48, blocks: 3 };

const RULE: &str = "[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 20\n";
const CALIBRATION: &str =
    "[calibration]\nsamples = 6\nlength = 32\nbatch = 4\n[evaluation]\nlength = 32\nstride = 32\nwindows = 8\n";

/// A folder with a model and texts, removed with the test.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        write_model(&place.path("model"), SIZES, 7);
        fs::write(place.path("calibration.txt"), text(20_000, 1)).unwrap();
        fs::write(place.path("evaluation.txt"), text(2_000, 2)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// - `rules`: what comes after the settings, and before a line of dashes what comes before them
    fn job(&self, output: &str, rules: &str) -> Job {
        let (head, rules) = rules.split_once("---\n").unwrap_or(("", rules));
        Job {
            model: self.path("model"),
            output: self.path(output),
            recipe: Recipe::from_toml(&format!("name = \"test\"\n{head}{CALIBRATION}{rules}")).unwrap(),
            plan: None,
            device: Device::default(),
            calibration: vec![TextSource::new(self.path("calibration.txt"))],
            evaluation: vec![TextSource::new(self.path("evaluation.txt"))],
            overwrite: Overwrite::Refuse,
            resume: false,
            coding: Default::default(),
        }
    }
}

fn go(_: Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

fn logits(folder: &Path) -> Vec<f32> {
    let device = Device::default();
    let mut model = open(folder, &device).unwrap();
    model.load_all().unwrap();
    // As the run that quantized it computes.
    model.set_activations(Activations::F32);
    let tokens: Vec<u32> = (0..24).map(|i| 2 + (i * 37) % 250).collect();
    model.forward(ids(&[&tokens], &device), &mut ()).into_data().try_to_vec().unwrap()
}

/// Methods and schemes that differ in what they store: order, zero points, tables, nested scales, head and embedding.
const KINDS: [(&str, &str); 11] = [
    ("gptq", RULE),
    ("act-order", "[[rules]]\nlayers = \"*\"\ncode = \"int3\"\ngroup = 16\norder = \"activation\"\n"),
    ("zero points", "[[rules]]\nlayers = \"*\"\ncode = \"uint2\"\ngroup = 16\n"),
    ("table", "[[rules]]\nlayers = \"*mlp*\"\ncode = \"nf4\"\ngroup = 16\nmethod = \"rtn\"\n"),
    ("nested", "[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 8\nscale = \"int8/4:f32\"\n"),
    ("ends", "[keep]\nhead = false\nembeddings = false\n[[rules]]\nlayers = \"*\"\ncode = \"int8\"\ngroup = \"row\"\n"),
    (
        "curvature",
        "[[rules]]\nlayers = \"*\"\ncode = \"slog4:mu*\"\ncascade = [\"slog6:mu*\"]\ngroup = 16\nsearch = \"gram\"\n",
    ),
    ("published", "[[rules]]\nlayers = \"*\"\ncode = \"plog6\"\nmethod = \"rtn\"\n"),
    ("cascade", "[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ncascade = [\"int8\"]\ngroup = 16\n"),
    (
        "minimums",
        "[[rules]]\nlayers = \"*\"\ncode = \"uint4\"\ngroup = 8\nscale = \"uint6/4:f16\"\nminimum = \"uint6/4:f16\"\n",
    ),
    ("trellis", "[[rules]]\nlayers = \"*\"\ncode = \"trellis2:8\"\ngroup = 16\n"),
];

/// Scales found on the calibration data, and a network that is turned if that is predicted to help.
const TRANSFORMS: &str = "transforms = [\"rotate-mlp\", \"rotate-residual\", \"awq\"]\n---\n";

/// Two runs give the same bytes, and what is loaded computes what the quantized model computed before it was saved.
#[test]
fn saved_models_load_bit_for_bit() {
    let place = Place::new();
    for (kind, rules) in KINDS {
        let (a, b) = (format!("a {kind}"), format!("b {kind}"));
        place.job(&a, rules).run(&mut go).unwrap_or_else(|error| panic!("{kind}: {error}"));
        place.job(&b, rules).run(&mut go).unwrap();
        assert!(files(&place.path(&a)) == files(&place.path(&b)), "{kind}: two runs differ");

        // The same plan in memory, without disk in between.
        let device = Device::default();
        let mut model = open(&place.path("model"), &device).unwrap();
        let job = place.job("c", rules);
        let tokenizer = quench::models::Tokenizer::open(&job.model).unwrap();
        let samples = quench::models::text::sample(&job.calibration, &tokenizer, 6, 32, 0).unwrap();
        let batches: Vec<_> = samples
            .chunks(4)
            .map(|batch| ids(&batch.iter().map(|sample| sample.ids.as_slice()).collect::<Vec<_>>(), &device))
            .collect();
        let plan = job.plan().unwrap();
        quench::quantize::run(&mut model, &plan, &batches, &mut (), &mut |_| ControlFlow::Continue(())).unwrap();
        model.load_all().unwrap();
        let tokens: Vec<u32> = (0..24).map(|i| 2 + (i * 37) % 250).collect();
        let before: Vec<f32> = model.forward(ids(&[&tokens], &device), &mut ()).into_data().try_to_vec().unwrap();
        assert!(before == logits(&place.path(&a)), "{kind}: the loaded model computes something else");
        assert!(before.iter().all(|v| v.is_finite()));
    }
}

/// Broken off at every step in turn and resumed: the same bytes as without interruption. Without `resume`, the unfinished
/// run is not touched, and another job does not go on from it.
#[test]
fn interrupted_anywhere_and_resumed_gives_the_same_bytes() {
    let place = Place::new();
    let transformed = format!("{TRANSFORMS}{RULE}");
    for (kind, rules) in [("gptq", RULE), KINDS[6], KINDS[8], ("transformed", &transformed)] {
        place.job(kind, rules).run(&mut go).unwrap();
        let expected = files(&place.path(kind));
        let mut stop_after = 0;
        loop {
            let output = format!("{kind} {stop_after}");
            let mut steps = 0;
            let broken = place.job(&output, rules).run(&mut |_| {
                steps += 1;
                if steps > stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match broken {
                Ok(_) => break,
                Err(JobError::Interrupted { path }) => assert!(path.exists(), "{kind} {stop_after}"),
                Err(error) => panic!("{kind} {stop_after}: {error}"),
            }
            assert!(!place.path(&output).exists(), "{kind} {stop_after}: half a result was published");
            let error = place.job(&output, rules).run(&mut go).unwrap_err();
            assert!(matches!(error, JobError::Unfinished { .. }), "{error}");
            let mut other = place.job(&output, "[[rules]]\nlayers = \"*\"\ncode = \"int3\"\n");
            other.resume = true;
            let error = other.run(&mut go).unwrap_err().to_string();
            assert!(error.contains("plan differs"), "{error}");
            let mut resumed = place.job(&output, rules);
            resumed.resume = true;
            resumed.run(&mut go).unwrap_or_else(|error| panic!("{kind} {stop_after}: {error}"));
            assert!(files(&place.path(&output)) == expected, "{kind}: resumed after {stop_after} steps, other bytes");
            // Steps come in dozens; a stride that shares no factor with a section's visits every kind of place.
            stop_after += 5;
        }
        assert!(stop_after > 20, "{kind}: too few steps to interrupt");
    }
}

/// A network with loud channels in its last matrices is turned; the folder says so, computes what the dense one does, and is not
/// written for readers that would not turn.
#[test]
fn turned_networks_are_marked_and_kept_from_other_readers() {
    let place = Place::new();
    let mut weights = support::weights(SIZES, 7);
    for (name, weight) in &mut weights {
        if name.contains("down_proj") {
            weight.values.iter_mut().skip(3).step_by(16).for_each(|w| *w *= 20.0);
        }
    }
    support::write_safetensors(&place.path("model").join("model.safetensors"), &weights);
    let rule = "[[rules]]\nlayers = \"*\"\ncode = \"int16\"\ngroup = \"row\"\n";
    let report = place.job("out", &format!("{TRANSFORMS}{rule}")).run(&mut go).unwrap();
    let [turned, _, scaled] = &report.transforms[..] else { panic!("{:?}", report.transforms) };
    assert!(turned.applied && turned.gain.unwrap() > 1.0, "{turned:?}");
    assert!(scaled.gain.unwrap() >= 0.0, "{scaled:?}");
    let config = fs::read_to_string(place.path("out").join("config.json")).unwrap();
    assert!(config.contains("\"quench_turned_mlp\": true"), "{config}");
    let (dense, found) = (logits(&place.path("model")), logits(&place.path("out")));
    let largest = dense.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let error = dense.iter().zip(&found).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
    assert!(error < 0.005 * largest, "{error} of {largest}");
    for (container, ours) in [("lsq", true), ("quench", true), ("gptq", false), ("safetensors", false), ("gguf", false)]
    {
        let to = place.path(if container == "gguf" { "out.gguf" } else { container });
        let (from, container, overwrite) = (place.path("out"), container.parse().unwrap(), Overwrite::Refuse);
        match (
            Conversion { from, to, container, overwrite, coding: Coding::Words, requantize: Requantize::Refuse }
                .run(&mut go),
            ours,
        ) {
            (Ok(_), true) => {}
            (Err(JobError::Turned { .. }), false) => {}
            (other, _) => panic!("{container}: {other:?}"),
        }
    }
}

/// Entropy-coded, a model is smaller, says both rates, and is the same model; converted, it is the other file to the byte.
#[test]
fn entropy_coded_models_are_smaller_and_the_same() {
    let place = Place::new();
    // Matrices of a trained model: tables are a small part of them, and their codes are not evenly distributed.
    let rounded = "[[rules]]\nlayers = \"*\"\ncode = \"int4\"\nmethod = \"rtn\"\n";
    let job = |name: &str, coding| Job {
        model: quench::models::spark::unpack().unwrap(),
        calibration: Vec::new(),
        evaluation: Vec::new(),
        coding,
        ..place.job(name, rounded)
    };
    let words = job("words", Coding::Words).run(&mut go).unwrap();
    let coded = job("coded", Coding::Entropy).run(&mut go).unwrap();
    assert_eq!(coded.size.decoded_bits_per_weight, words.size.bits_per_weight);
    assert!(coded.size.bits_per_weight < words.size.bits_per_weight - 0.05, "{:?}", coded.size);
    assert!(coded.size.compression > words.size.compression);
    let (plain, small) = (inspect(&place.path("words")).unwrap(), inspect(&place.path("coded")).unwrap());
    assert_eq!(small.bytes, coded.size.bytes);
    assert_eq!(
        (small.bits_per_weight, small.decoded_bits_per_weight),
        (Some(coded.size.bits_per_weight), plain.bits_per_weight)
    );
    assert!(small.rows.iter().any(|row| row.entropy_coded) && plain.rows.iter().all(|row| !row.entropy_coded));
    assert!(logits(&place.path("coded")) == logits(&place.path("words")));

    let convert = |from: &str, to: &str, coding| {
        let container = if to.contains("lsq") { "lsq" } else { "quench" }.parse().unwrap();
        let (from, to) = (place.path(from), place.path(to));
        Conversion { from, to, container, overwrite: Overwrite::Refuse, coding, requantize: Requantize::Refuse }
            .run(&mut go)
            .unwrap()
    };
    let weights = |folder: &str| fs::read(place.path(folder).join("model.safetensors")).unwrap();
    convert("words", "small.lsq.folder", Coding::Entropy);
    convert("small.lsq.folder", "again", Coding::Entropy);
    convert("again", "back", Coding::Words);
    let (again, back) = (Folder::open(place.path("again")).unwrap(), Folder::open(place.path("back")).unwrap());
    assert!(!again.manifest().coded.is_empty() && back.manifest().coded.is_empty());
    for layer in back.manifest().layers.keys() {
        assert_eq!(native::read(&again, layer).unwrap(), native::read(&back, layer).unwrap(), "{layer}");
    }
    assert!(weights("again") == weights("coded") && weights("back") == weights("words"));
    assert!(weights("again").len() < weights("back").len());
    let config = fs::read_to_string(place.path("again").join("config.json")).unwrap();
    assert!(config.contains("\"format_version\": 2"), "{config}");

    let to = place.path("gptq");
    let foreign = Conversion {
        from: place.path("words"),
        to,
        container: "gptq".parse().unwrap(),
        overwrite: Overwrite::Refuse,
        coding: Coding::Entropy,
        requantize: Requantize::Refuse,
    };
    assert!(matches!(foreign.run(&mut go), Err(JobError::NoEntropyCoding { .. })));
}

/// Where the weights lie makes no difference to what is done with them.
#[test]
fn a_sharded_model_gives_the_same_checkpoint() {
    let place = Place::new();
    place.job("whole", RULE).run(&mut go).unwrap();
    let mut job = place.job("sharded", RULE);
    job.model = place.path("shards");
    write_sharded_model(&job.model, SIZES, 7);
    job.run(&mut go).unwrap();
    assert!(files(&place.path("whole")) == files(&place.path("sharded")));
}

#[test]
fn resuming_nothing_is_an_error() {
    let place = Place::new();
    let mut job = place.job("out", RULE);
    job.resume = true;
    let error = job.run(&mut go).unwrap_err();
    assert!(matches!(error, JobError::NothingToResume { .. }), "{error}");
    assert!(!place.path("out").exists() && !place.path("out.partial").exists());
}

#[test]
fn a_quantized_model_is_not_quantized_again() {
    let place = Place::new();
    place.job("once", RULE).run(&mut go).unwrap();
    let mut again = place.job("twice", RULE);
    again.model = place.path("once");
    let error = again.run(&mut go).unwrap_err().to_string();
    assert!(error.contains("already quantized"), "{error}");
}

#[test]
fn gates_without_evaluation_text_fail() {
    let place = Place::new();
    let mut job = place.job("out", &format!("{RULE}[gates]\nmax_kl = 1e9\nmin_compression = 1.0\n"));
    job.evaluation.clear();
    let report = job.run(&mut go).unwrap();
    let passed: Vec<bool> = report.gates.iter().map(|gate| gate.passed).collect();
    assert_eq!(passed, [false, true], "{:?}", report.gates);
    assert!(inspect(&place.path("out")).unwrap().gates.unwrap().starts_with("failed: max_kl"));
}

#[test]
fn sizes_are_those_of_the_file() {
    let place = Place::new();
    let report = place.job("out", RULE).run(&mut go).unwrap();
    let inspection = inspect(&place.path("out")).unwrap();
    assert_eq!(inspection.bytes, report.size.bytes);
    assert_eq!(inspection.parameters, report.size.parameters);
    assert!((inspection.bits_per_weight.unwrap() - report.size.bits_per_weight).abs() < 1e-12);
    let file = fs::metadata(place.path("out/model.safetensors")).unwrap().len();
    // The header is what the file has beyond its tensors.
    assert!(file > inspection.bytes && file < inspection.bytes + 40_000, "{file} and {}", inspection.bytes);
    // 32 columns in groups of 20: 4 bits, and two f16 scales a row.
    let row = inspection.rows.iter().find(|row| row.layer.ends_with("0.self_attn.q_proj")).unwrap();
    assert_eq!(row.bits_per_weight, 4.0 + 2.0 * 16.0 / 32.0);
}

/// Layers that make up for what those before them have lost leave less of it to be seen at the end.
#[test]
fn feedback_brings_the_outputs_nearer() {
    let place = Place::new();
    let spark = quench::models::spark::unpack().unwrap();
    let kl = |name: &str, head: &str, rule: &str| {
        let recipe = format!(
            "name = \"{name}\"\n[calibration]\nsamples = 32\nlength = 64\n{head}\n[evaluation]\nlength = 64\nstride = 64\nwindows = 12\n\
             [[rules]]\nlayers = \"*\"\ncode = \"int2\"\ngroup = 32\n{rule}\n"
        );
        let job = Job {
            model: spark.clone(),
            recipe: Recipe::from_toml(&recipe).unwrap(),
            calibration: vec![TextSource::new(spark.join("text/calibration"))],
            evaluation: vec![TextSource::new(spark.join("text/evaluation"))],
            ..place.job(name, RULE)
        };
        let report = job.run(&mut go).unwrap();
        report.comparison.unwrap().texts().unwrap().candidates[0].total.kl.mean
    };
    let alone = kl("alone", "sequential = false", "feedback = 0");
    let half = kl("half", "sequential = true", "feedback = 0.5");
    let whole = kl("whole", "sequential = true", "feedback = 1.0");
    assert!(whole < 0.95 * alone && half < alone, "KL {alone} alone, {half} with half of it, {whole} with all");
}
