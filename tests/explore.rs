//! `quench explore` over HTTP: what is on the wire are the library's numbers.
#![cfg(all(feature = "cli", feature = "flex"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use burn::tensor::Device;
use quench::job::{Activation, ModelLayers, Study, StudySettings};
use quench::models::spark;
use quench::quantize::ScaleSearch;
use serde_json::{Value, json};

/// Longer than any answer takes on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, while it serves.
struct Explorer {
    child: Child,
    /// `127.0.0.1:PORT`.
    address: String,
}

impl Drop for Explorer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Explorer {
    fn start(model: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_quench"))
            .arg("explore")
            .args(model)
            .args(["--port", "0", "--no-open", "--device", "flex"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        assert!(address.starts_with("127.0.0.1:"), "loopback unless asked: {line}");
        Self { child, address }
    }

    /// HTTP 1.0, whose answers end with the connection and are in one piece.
    fn send(&self, request: &str, host: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// The status and the body.
    fn ask(&self, request: &str, host: &str, body: &str) -> (u16, String) {
        let mut answer = String::new();
        self.send(request, host, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> u64 {
        let (status, answer) = self.ask(&format!("POST {path}"), &self.address, &body.to_string());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["version"].as_u64().unwrap()
    }

    /// The events of one name, as they come.
    fn events(&self, name: &str) -> impl Iterator<Item = Value> + use<> {
        let name = format!("event: {name}");
        let mut lines = BufReader::new(self.send("GET /events", &self.address, "")).lines().map(Result::unwrap);
        std::iter::from_fn(move || {
            lines.find(|line| *line == name)?;
            let data = lines.next()?;
            Some(serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
        })
    }

    /// The first frame of an order, or a later one, with its training done.
    fn trained(&self, version: u64) -> Value {
        let done = |answer: &Value| answer["value"]["done"] == answer["value"]["settings"]["steps"];
        let fits = |answer: &Value| answer["version"].as_u64() >= Some(version) && done(answer);
        self.events("frame").find(fits).unwrap()["value"].clone()
    }
}

/// What the library says of settings, through JSON as the wire has it.
fn frame(settings: StudySettings) -> Value {
    let mut study = Study::new(settings, &Device::flex()).unwrap();
    study.train(usize::MAX);
    serde_json::from_str(&serde_json::to_string(&study.frame().unwrap()).unwrap()).unwrap()
}

#[test]
fn every_setting_on_the_wire_is_of_the_library() {
    let explorer = Explorer::start(&[]);
    let first = explorer.trained(0);
    let settings = StudySettings::default();
    assert_eq!(first, frame(settings));
    for settings in [
        StudySettings { step: 1.7, ..settings },
        StudySettings { step: 1.7, bits: 3, ..settings },
        StudySettings { activation: Activation::Relu, steps: 60, ..settings },
        StudySettings { decay: 0.004, steps: 60, ..settings },
        StudySettings { noise: 1.5, steps: 60, ..settings },
    ] {
        let version = explorer.post("/settings", &serde_json::to_value(settings).unwrap());
        let found = explorer.trained(version);
        assert_eq!(found, frame(settings), "{settings:?}");
        assert_ne!(found["values"], first["values"], "{settings:?} changes something");
    }
}

#[test]
fn only_this_machine_and_only_what_makes_sense() {
    let explorer = Explorer::start(&[]);
    let (status, page) = explorer.ask("GET /", &explorer.address, "");
    assert_eq!(status, 200);
    assert!(page.contains("EventSource") && !page.contains("/* script */"), "the page is whole");
    assert_eq!(explorer.ask("GET /", "rebound.example.com", "").0, 403);
    assert_eq!(explorer.ask("GET /model", &explorer.address, ""), (200, "null".to_owned()));
    for (settings, word) in
        [(json!({ "bits": 1 }), "bits"), (json!({ "noise": 9.0 }), "noise"), (json!({ "nose": 1.0 }), "nose")]
    {
        let (status, answer) = explorer.ask("POST /settings", &explorer.address, &settings.to_string());
        assert!((400..500).contains(&status) && answer.contains(word), "{status} {answer}");
    }
    let version = explorer.post("/layer", &json!({ "layer": "x", "scheme": "int4/row/f16", "search": "mse" }));
    let answer = explorer.events("layer").find(|answer| answer["version"] == version).unwrap();
    assert!(answer["error"].as_str().unwrap().contains("none was given"), "{answer}");
}

#[test]
fn a_layer_is_rounded_as_the_library_does() {
    let explorer = Explorer::start(&["spark"]);
    let (_, about) = explorer.ask("GET /model", &explorer.address, "");
    let about: Value = serde_json::from_str(&about).unwrap();
    let mut layers = ModelLayers::open(&spark::unpack().unwrap(), &Device::flex()).unwrap();
    assert_eq!(about["layers"].as_array().unwrap().len(), layers.names().count());
    let name = layers.names().nth(3).unwrap().0.to_owned();
    for (scheme, search) in [
        ("int4/32/f16", ScaleSearch::AbsMax),
        ("slog3:mu8/16/f16", ScaleSearch::Mse),
        ("nf4/row/f16", ScaleSearch::Mse),
    ] {
        let version = explorer.post("/layer", &json!({ "layer": name, "scheme": scheme, "search": search }));
        let answer = explorer.events("layer").find(|answer| answer["version"] == version).unwrap();
        let view = layers.view(&name, scheme, search).unwrap();
        let expected: Value = serde_json::from_str(&serde_json::to_string(&view).unwrap()).unwrap();
        assert_eq!(answer["value"], expected, "{scheme}");
        assert!(view.relative_error > 0.0 && view.before.iter().sum::<u64>() == view.after.iter().sum::<u64>());
    }
    for scheme in ["int99/row/f16", "int4/31/f16"] {
        let version = explorer.post("/layer", &json!({ "layer": name, "scheme": scheme, "search": "absmax" }));
        let answer = explorer.events("layer").find(|answer| answer["version"] == version).unwrap();
        let said = layers.view(&name, scheme, ScaleSearch::AbsMax).err().map(|error| error.to_string());
        assert_eq!(answer["error"].as_str().map(str::to_owned), said, "{scheme}");
    }
}
