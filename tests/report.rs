//! `quench report` on files that commands have written, and on a document with every section, of the library's own numbers.
//!
//! `QUENCH_REPORT=FOLDER` keeps the page of the latter there, for `tests/browser/report.py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::{Device, Tensor, TensorData};
use quench::job::document;
use quench::metrics::threshold::{Point, Rounding, Sweep, VertexCode};
use quench::metrics::topology::{Distances, Stability, persistence};
use quench::metrics::{Bootstrap, Source};
use quench::report::{Document, Map};

/// Made as the README beside it says.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/report/quantize.json")
}

fn quench(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quench"))
        .arg("report")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("it runs")
}

fn refused(folder: &Path, arguments: &[&str], expected: &str) {
    let output = quench(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(expected), "{error}");
}

/// A ring of 48 points in 6 dimensions with some noise, `[48, 6]`.
fn ring() -> Vec<f32> {
    let noise = Source::Gaussian.samples(48 * 6, 5);
    let place = |(at, noise): (usize, &f32)| {
        let angle = std::f32::consts::TAU * (at / 6) as f32 / 48.0;
        let circle = [angle.cos(), angle.sin(), 0.0, 0.0, 0.0, 0.0][at % 6];
        circle + 0.05 * noise
    };
    noise.iter().enumerate().map(place).collect()
}

/// A threshold of codes on the corners of a cube, a ring that is rounded, and where its points go.
fn computed() -> Document {
    let device = Device::flex();
    let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
    let code = VertexCode { side: 1.0, noise: 0.4 };
    let trials = 200;
    let point = |k: u32| {
        let step = 1.2 * 1.07f64.powi(k as i32);
        let metric = code.found_in_trials(0.4, 24, step, Rounding::Nearest, trials, 7 + u64::from(k));
        Point { step, metric, error: (metric * (1.0 - metric) / trials as f64).sqrt() }
    };
    let sweep = Sweep::new((0..16).map(point).collect());
    let sweep = document::sweep(["codes of 24 signs", "share found", ""], &sweep, &[0.5], None, &bootstrap);

    let (points, width, step) = (48, 6, 0.05_f32);
    let before = ring();
    let after: Vec<f32> = before.iter().map(|x| step * (x / step).round()).collect();
    let tensor = |values: &[f32]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), [points, width]), &device);
    let diagrams = |values: &[f32]| persistence(&Distances::of(tensor(values)));
    let stability = Stability::of(tensor(&before), tensor(&after), Some(f64::from(step)));
    let shape = document::shape("a ring", points, &diagrams(&before), &diagrams(&after), Some(&stability));
    let places = |values: &[f32]| values.chunks(width).map(|row| [f64::from(row[0]), f64::from(row[1])]).collect();
    let map = Map {
        title: "a ring".to_owned(),
        axes: ["first coordinate".to_owned(), "second coordinate".to_owned()],
        explained: None,
        names: Vec::new(),
        before: places(&before),
        after: places(&after),
    };
    Document {
        title: "Codes and a ring".into(),
        sweeps: vec![sweep],
        shapes: vec![shape],
        maps: vec![map],
        ..Document::default()
    }
}

#[test]
fn a_job_becomes_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = fixture();
    let output = quench(folder.path(), &[path.to_str().unwrap(), "--figures", "figures"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // What there is, and what would fill the rest.
    assert!(said.contains("| Summary "), "{said}");
    let prediction = said.lines().find(|line| line.contains("| Prediction against")).expect("the section is named");
    assert!(prediction.contains("| 0 ") || prediction.contains(" 0 |"), "{prediction}");
    assert!(prediction.contains("quench predict --json"), "{prediction}");

    let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
    let document = Document::from_json(&fs::read_to_string(folder.path().join("report.json")).unwrap()).unwrap();
    let source: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let run = &document.runs[0];
    assert_eq!(run.size.unwrap().bytes, source["size"]["bytes"].as_u64().unwrap());
    let total = &source["comparison"]["candidates"][0]["total"];
    let kl = run.measures.iter().find(|measure| measure.name == "mean KL divergence").unwrap();
    assert_eq!(kl.number.value, total["kl"]["mean"].as_f64().unwrap());
    let interval = kl.number.interval.unwrap();
    assert_eq!(Some(interval.low), total["kl_interval"]["low"].as_f64());
    assert_eq!(Some(interval.high), total["kl_interval"]["high"].as_f64());
    assert!(html.contains(&format!("<data value=\"{:?}\">", kl.number.value)));
    let languages: Vec<&str> = document.languages[0].rows.iter().map(|row| row.language.as_str()).collect();
    assert_eq!(languages, ["de", "en"]);
    let layer = &document.layers[0].rows[0];
    let entry = &source["ledger"]["entries"][0];
    assert_eq!(layer.layer, entry["layer"].as_str().unwrap());
    assert_eq!(layer.weight_snr_db, entry["weight_snr_db"].as_f64());
    // Shannon at 2 bits: 12.04 dB.
    let (_, bound) = document.rates[0].bounds[0].points.iter().find(|(rate, _)| *rate == 2.0).unwrap();
    assert!((bound - 20.0 * 4f64.log10()).abs() < 1e-9, "{bound}");

    let figures: Vec<PathBuf> =
        fs::read_dir(folder.path().join("figures")).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(figures.len(), 2 * document.figures().len());
    for figure in figures {
        let bytes = fs::read(&figure).unwrap();
        let svg = figure.extension().is_some_and(|extension| extension == "svg");
        assert!(bytes.starts_with(if svg { b"<svg" } else { b"\x89PNG" }), "{}", figure.display());
    }
}

#[test]
fn jobs_together_make_an_explorer() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture()).unwrap();
    // The same job under another name and, as far as its plan and ledger say, in groups of 64.
    let other = text.replace("int4/128/f16", "int4/64/f16").replace("models/spark\"", "models/spark-64\"");
    assert_ne!(text, other);
    fs::write(folder.path().join("a.json"), &text).unwrap();
    fs::write(folder.path().join("b.json"), &other).unwrap();
    fs::write(folder.path().join("config.json"), "{\"hidden_size\": 64}").unwrap();
    for _ in 0..2 {
        // The second time the folder has the numbers of the first.
        let output = quench(folder.path(), &[".", "--title", "a & b"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json = fs::read_to_string(folder.path().join("report.json")).unwrap();
        let document = Document::from_json(&json).unwrap();
        assert_eq!((document.runs.len(), document.inputs.len()), (2, 2));
        assert_eq!(document.explorers.len(), 1);
        let at: Vec<&[f64]> = document.explorers[0].rows.iter().map(|row| &row.at[..]).collect();
        assert_eq!(at, [[4.0, 64.0], [4.0, 128.0]]);
        assert!(fs::read_to_string(folder.path().join("report.html")).unwrap().contains("<h1>a &amp; b</h1>"));
    }
}

#[test]
fn measures_of_the_library_become_sections() {
    let document = computed();
    let (sweep, shape) = (&document.sweeps[0], &document.shapes[0]);
    assert_eq!((sweep.points.len(), sweep.monotone.len()), (16, 16));
    assert!(sweep.points[0].metric > 0.95 && sweep.points[15].metric < 0.2, "{:?}", sweep.points);
    let (first, crossing) = (&sweep.points[0], &sweep.crossings[0].step);
    assert!(first.step < crossing.value && crossing.value < sweep.points[15].step, "{crossing:?}");
    // The loop of the ring lives, and the theorem knows.
    let (before, after, bound) = (&shape.before[1].pairs[0], &shape.after[1].pairs[0], shape.bound.as_ref().unwrap());
    assert!(before.1 - before.0 > 1.0 && after.1 - after.0 > 1.0 && before.1 - before.0 > 2.0 * bound.value);
    assert!(shape.distances.iter().all(|distance| distance.value <= bound.value), "{shape:?}");

    let folder = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("QUENCH_REPORT").map_or(folder.path().to_owned(), PathBuf::from);
    let path = folder.join("computed.json");
    fs::write(&path, document.json()).unwrap();
    let output = quench(&folder, &["computed.json", fixture().to_str().unwrap(), "--output", "all.html"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = fs::read_to_string(folder.join("all.html")).unwrap();
    for heading in [
        "Summary",
        "Explorer",
        "Rate and distortion",
        "Threshold",
        "Languages",
        "Layers",
        "Shape",
        "Map of the vectors",
    ] {
        assert!(html.contains(&format!(">{heading}</h2>")), "{heading}");
    }
    assert!(html.contains("badge certified"));
}

#[test]
fn what_is_no_report_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("config.json", "{\"hidden_size\": 64}");
    write("half.json", "{\"ledger\": {}, \"recipe\"");
    write("job.json", "{\"ledger\": {}, \"recipe\": {}, \"plan\": {}}");
    write("empty.json", "{\"runs\": []}");
    fs::create_dir(folder.path().join("none")).unwrap();
    fs::create_dir(folder.path().join("some")).unwrap();
    write("some/config.json", "{}");
    for (input, expected) in [
        ("config.json", "this is no file of `quench quantize`"),
        ("half.json", "this is no JSON"),
        ("job.json", "it looks like a file of `quench quantize`, but cannot be read as one"),
        ("empty.json", "no section has data"),
        ("none", "there is no JSON file in this folder"),
        ("some", "no section has data"),
        ("missing.json", "cannot read missing.json"),
    ] {
        refused(folder.path(), &[input], expected);
    }
    refused(folder.path(), &["empty.json", "--output", "empty.html"], "its numbers would overwrite empty.json");
    refused(folder.path(), &["empty.json", "--output", "no/report.html"], "not the name of an HTML file in a folder");
    assert!(!folder.path().join("report.html").exists() && !folder.path().join("report.json").exists());
}
