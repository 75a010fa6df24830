//! A folder with everything that the binary needs, and what its runs leave behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{self, Sizes};

/// The sizes of the bench's own model.
pub const SMALL: Sizes = Sizes { hidden: 32, intermediate: 48, blocks: 2 };

/// The bench's own recipe: little to do.
pub const RECIPE: &str = r#"
name = "test"
calibration = { samples = 4, length = 32, batch = 2 }
evaluation = { length = 32, stride = 32, windows = 2, batch = 2 }

[[rules]]
layers = "*"
code = "int4"
group = 16
"#;

/// A folder with a model, texts and a recipe, in which the binary runs.
pub struct Bench {
    pub folder: TempDir,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(SMALL)
    }

    pub fn with(sizes: Sizes) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        support::write_model(&bench.at("model"), sizes, 1);
        bench.write("calibration.txt", support::text(4000, 1));
        bench.write("evaluation.txt", support::text(2000, 2));
        bench.write("recipe.toml", RECIPE);
        bench
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.at(path), text).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quench"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("RUST_BACKTRACE");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        ended(&mut self.command(arguments))
    }

    /// `quench quantize` of the bench's own model.
    pub fn quantize(&self, more: &[&str]) -> Ended {
        self.run(&quantize(more))
    }

    /// Every path below the folder, with the contents of files.
    pub fn listing(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        listing(self.folder.path())
    }
}

/// The arguments of `quench quantize`: the bench's own, unless `more` has others.
pub fn quantize<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let own = [("--recipe", "recipe.toml"), ("--output", "out"), ("--device", "flex")];
    let own = own.into_iter().filter(|(option, _)| !more.contains(option)).flat_map(|(option, value)| [option, value]);
    ["quantize", "model"].into_iter().chain(own).chain(more.iter().copied()).collect()
}

/// Arguments that name the bench's own texts.
pub const TEXTS: [&str; 4] = ["--calibration", "calibration.txt", "--eval", "evaluation.txt"];

/// Runs a command to its end.
pub fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Every path below `folder`, with the contents of files.
pub fn listing(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.err, "", "success is silent on standard error that is no terminal");
        self
    }

    /// Exit code 2, nothing on standard output, and one error that says all of `expected`.
    pub fn refuses(&self, expected: &[&str]) -> Result<(), String> {
        let errors = self.err.lines().filter(|line| line.starts_with("error: ")).count();
        let missing: Vec<_> = expected.iter().filter(|word| !self.err.contains(**word)).collect();
        let sound = self.code == Some(2) && errors == 1 && self.out.is_empty() && !self.err.contains("panicked");
        if sound && missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:?} in {self:#?}")) }
    }
}
