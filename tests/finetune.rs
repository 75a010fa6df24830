//! Fine-tuning from folder to folder: nearer to the dense model, packed as before, and the same where it was broken off.

#[path = "support/data.rs"]
mod data;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use data::data;
use quench::job::{Job, JobError, Overwrite, Step, Tuning, inspect};
use quench::models::text::TextSource;
use quench::quantize::Recipe;
use quench::quantize::recipe::Calibration;
use quench::tune::{Method, Settings, TuneError};

const STORIES: &str = "text/tinystories/tinystories_sample.txt";

/// stories260k in 2-bit integers by GPTQ, where the data is.
fn quantized(place: &Path) -> Option<[PathBuf; 3]> {
    let (model, text) = (data("models/stories260k")?, data(STORIES)?);
    let recipe = "name = \"two\"\n[calibration]\nsamples = 16\nlength = 64\nbatch = 4\n\
                  [[rules]]\nlayers = \"*\"\ncode = \"int2\"\ngroup = 32\nscale = \"f16\"\nmethod = \"gptq\"\n";
    let output = place.join("two-bits");
    let job = Job {
        model: model.clone(),
        output: output.clone(),
        recipe: Recipe::from_toml(recipe).unwrap(),
        plan: None,
        device: Device::default(),
        calibration: vec![TextSource::new(&text)],
        evaluation: Vec::new(),
        overwrite: Overwrite::Refuse,
        resume: false,
        coding: Default::default(),
    };
    job.run(&mut go).unwrap();
    Some([model, text, output])
}

fn go(_: Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn tuning([teacher, text, model]: &[PathBuf; 3], output: PathBuf, method: Method) -> Tuning {
    Tuning {
        model: model.clone(),
        teacher: teacher.clone(),
        output,
        data: vec![TextSource::new(text)],
        reading: Calibration { samples: 20, length: 64, batch: 4, ..Calibration::default() },
        held_out: 1,
        settings: Settings { method, steps: 12, evaluate: 4, save: 5, ..Settings::default() },
        device: Device::default(),
        overwrite: Overwrite::Refuse,
        resume: false,
    }
}

#[test]
fn a_tuned_folder_is_nearer_to_its_original_and_as_small() {
    let place = tempfile::tempdir().unwrap();
    let Some(folders) = quantized(place.path()) else { return };
    let bytes = |folder: &Path| fs::metadata(folder.join("model.safetensors")).unwrap().len();
    for method in [Method::Norms, Method::Qat, Method::Lora { rank: 4, strength: 1.0, recover: true }] {
        let output = place.path().join(method.name());
        let report = tuning(&folders, output.clone(), method.clone()).run(&mut go).unwrap();
        let (first, last) = (report.points[0].kl, report.best.kl);
        println!("{}: {first:.4} to {last:.4}, stored {:.4}", method.name(), report.kl);
        assert!(last < 0.985 * first, "{}: {first} to {last}", method.name());
        if report.merged.is_empty() {
            assert!((report.kl / last - 1.0).abs() < 1e-3, "{} {last}", report.kl);
        }
        // Packed as before: the same schemes, and but for headers the same size.
        let bits = |folder: &Path| inspect(folder).unwrap().bits_per_weight;
        assert_eq!(bits(&output), bits(&folders[2]));
        assert!(bits(&output).is_some());
        let (before, after) = (bytes(&folders[2]) as f64, bytes(&output) as f64);
        assert!((after / before - 1.0).abs() < 0.02, "{before} {after}");
        assert!(output.join("tuning.json").exists() && output.join("tokenizer.json").exists());
        // Another run finds the divergence that this one left.
        let again = Tuning {
            model: output,
            settings: Settings { method: Method::Norms, steps: 1, ..Settings::default() },
            ..tuning(&folders, place.path().join(format!("{}-again", method.name())), Method::Norms)
        };
        let found = again.run(&mut go).unwrap().points[0].kl;
        assert!((found / report.kl - 1.0).abs() < 1e-3, "{found}, not {}", report.kl);
    }
}

#[test]
fn a_run_that_was_broken_off_is_gone_on_from() {
    let place = tempfile::tempdir().unwrap();
    let Some(folders) = quantized(place.path()) else { return };
    let whole = tuning(&folders, place.path().join("whole"), Method::Qat);
    let expected = whole.run(&mut go).unwrap();
    let mut broken = Tuning { output: place.path().join("broken"), ..whole.clone() };
    let mut steps = 0;
    let stopped = broken.run(&mut |step| match step {
        Step::Phase { name: "qat", .. } => {
            steps = 1;
            ControlFlow::Continue(())
        }
        Step::Progress { done: 7, .. } if steps == 1 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(JobError::Tune(TuneError::Interrupted { step: 7 }))), "{stopped:?}");
    assert!(!broken.output.exists());
    assert!(matches!(broken.run(&mut go), Err(JobError::Unfinished { .. })));
    broken.resume = true;
    let found = broken.run(&mut go).unwrap();
    assert_eq!((found.losses, found.points), (expected.losses, expected.points));
    let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights(&broken.output), weights(&whole.output));
}
