//! The shape of the house: who may depend on whom, what lies at the top, and that every name that points into
//! `configs` and `docs` points at something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use quench::quantize::Recipe;
use serde_json::Value;

/// A crate, and the workspace crates that it may know. The picture is in `docs/architecture.md`.
const EDGES: [(&str, &[&str]); 15] = [
    ("format", &[]),
    ("hub", &[]),
    ("metrics", &[]),
    ("report", &[]),
    ("checkpoint", &["format"]),
    ("cpu", &["format"]),
    ("kernels", &["cpu", "format"]),
    ("nn", &["kernels", "format"]),
    ("models", &["nn", "checkpoint", "kernels", "format"]),
    ("quantize", &["nn", "kernels", "format", "metrics"]),
    ("tune", &["quantize", "metrics", "nn", "kernels", "format"]),
    ("foreign", &["tune", "quantize", "nn", "kernels", "checkpoint", "format"]),
    ("eval", &["models", "quantize", "metrics", "nn"]),
    (
        "job",
        &["eval", "tune", "quantize", "models", "metrics", "nn", "kernels", "checkpoint", "hub", "format", "report"],
    ),
    (
        ROOT,
        &[
            "job",
            "eval",
            "foreign",
            "tune",
            "quantize",
            "models",
            "metrics",
            "nn",
            "kernels",
            "checkpoint",
            "hub",
            "format",
            "report",
        ],
    ),
];

/// The root package: library facade and command line.
const ROOT: &str = "quench";

/// Crates that know bytes or text, and no tensors.
const WITHOUT_BURN: [&str; 4] = ["format", "hub", "checkpoint", "report"];

/// What belongs to the command line alone; a library reports typed errors and prints nothing.
const CLI_ONLY: [&str; 8] = ["anyhow", "axum", "clap", "comfy-table", "ctrlc", "indicatif", "plotters", "tokio"];

/// What lies at the top of the repository, beside dot files and `Cargo.lock`.
const TOP: [&str; 11] = [
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "configs",
    "crates",
    "docs",
    "examples",
    "fuzz",
    "tests",
];

#[test]
fn dependencies_point_one_way() {
    let allowed = BTreeMap::from(EDGES);
    let packages = packages();
    let mut faults = Vec::new();

    for name in allowed.keys().filter(|name| !packages.contains_key(**name)) {
        faults.push(format!("`{name}` is in the table of edges but not in the workspace"));
    }
    for (name, dependencies) in &packages {
        let Some(allowed) = allowed.get(name.as_str()) else {
            faults.push(format!("`{name}` is in the workspace but not in the table of edges"));
            continue;
        };
        for dependency in dependencies {
            if packages.contains_key(dependency) && !allowed.contains(&dependency.as_str()) {
                faults.push(format!("`{name}` depends on `{dependency}`; it may only on {allowed:?}"));
            }
            if WITHOUT_BURN.contains(&name.as_str()) && dependency.starts_with("burn") {
                faults.push(format!("`{name}` depends on `{dependency}`, but it only knows bytes"));
            }
            if name != ROOT && CLI_ONLY.contains(&dependency.as_str()) {
                faults.push(format!("`{name}` depends on `{dependency}`, which belongs to the command line"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn table_of_edges_has_no_circle() {
    // Each row names only rows above it, so the order of the table is an order to build in.
    for (row, (name, allowed)) in EDGES.iter().enumerate() {
        for dependency in *allowed {
            assert!(
                EDGES[..row].iter().any(|(above, _)| above == dependency),
                "`{name}` may depend on `{dependency}`, which does not stand above it"
            );
        }
    }
}

#[test]
fn top_level_is_tidy() {
    // What git tracks: models that a user quantized here are not part of the repository. Without git, all that is there.
    let tracked = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let names: Vec<String> = match tracked {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split_terminator('\0')
            .map(|path| path.split('/').next().unwrap_or(path).to_owned())
            .collect(),
        _ => entries(&root()).iter().map(|path| file_name(path)).filter(|name| name != "target").collect(),
    };
    let found: BTreeSet<String> =
        names.into_iter().filter(|name| !name.starts_with('.') && name != "Cargo.lock").collect();
    assert_eq!(found, TOP.map(str::to_owned).into(), "left: found, right: expected");
}

#[test]
fn every_config_is_a_recipe() {
    let mut configs = files(&root().join("configs"), &["toml"]);
    // The machines of `quench fit`, and how far predictions were off.
    configs.retain(|path| !["devices.toml", "predictions.toml"].contains(&file_name(path).as_str()));
    assert!(!configs.is_empty(), "configs holds no recipe");
    for path in configs {
        let recipe = Recipe::from_toml(&read(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(file_name(&path), format!("{}.toml", recipe.name), "a recipe is named as its file");
    }
}

#[test]
fn every_reference_into_docs_exists() {
    let mut sources = vec![root().join("README.md"), root().join("Cargo.toml")];
    for folder in ["benches", "configs", "crates", "docs", "examples", "tests"] {
        sources.extend(files(&root().join(folder), &["rs", "toml", "md", "py"]));
    }
    let mut faults = Vec::new();
    let mut found = 0;
    for source in sources {
        let text = read(&source);
        for (number, line) in text.lines().enumerate() {
            for reference in references(line) {
                found += 1;
                if let Err(fault) = resolve(reference) {
                    let source = source.strip_prefix(root()).unwrap_or(&source);
                    faults.push(format!("{}:{}: {fault}", source.display(), number + 1));
                }
            }
        }
    }
    assert!(found > 0, "no reference into docs was found: is the search broken?");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn references_are_found_in_text() {
    let docs = "docs";
    for (line, expected) in [
        (format!("Source: Frantar et al. (`{docs}/references.md#gptq`)."), vec!["references.md#gptq"]),
        (format!("see [how]({docs}/format.md) and {docs}/results.md."), vec!["format.md", "results.md"]),
        (format!("https://example.org/{docs}/format.md, rten:{docs}/adding.md"), vec![]),
        (format!("the folder {docs}/ and {docs}/{{name}}.md"), vec![]),
    ] {
        assert_eq!(references(&line).collect::<Vec<_>>(), expected, "{line}");
    }
}

#[test]
fn headings_become_anchors() {
    for (heading, expected) in [
        ("# GPTQ", Some("gptq")),
        ("## `Code` and `Scheme`: the meaning", Some("code-and-scheme-the-meaning")),
        ("### 3.1 Log-signed codes, C = B + 1", Some("31-log-signed-codes-c--b--1")),
        ("no heading", None),
        ("#hashtag", None),
    ] {
        assert_eq!(anchor(heading).as_deref(), expected, "{heading}");
    }
}

/// The packages of the workspace by folder name, each with the names of all that it depends on, in any way; workspace
/// crates by their folder names.
fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let short = |name: &Value| {
        let name = name.as_str().expect("a name");
        name.strip_prefix("quench-").unwrap_or(name).to_owned()
    };
    let array = |value: &Value| value.as_array().expect("an array").clone();
    array(&metadata["packages"])
        .iter()
        .map(|package| {
            let dependencies = array(&package["dependencies"]).iter().map(|found| short(&found["name"])).collect();
            (short(&package["name"]), dependencies)
        })
        .collect()
}

/// What stands behind `docs/` where a line names a Markdown file there: `name.md` or `name.md#anchor`.
fn references(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("docs/").filter_map(|(start, prefix)| {
        // `owner:docs/...` and `.../docs/...` belong to someone else.
        let before = line[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, ':' | '/' | '-' | '_' | '.')) {
            return None;
        }
        let rest = &line[start + prefix.len()..];
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let file = rest.find(|c| !part(c)).filter(|end| *end > 0 && rest[*end..].starts_with(".md"))? + ".md".len();
        let anchor = rest[file..].strip_prefix('#').map_or(0, |key| 1 + key.find(|c| !part(c)).unwrap_or(key.len()));
        Some(&rest[..file + anchor])
    })
}

/// Checks that `docs` has the file, and the file the heading.
fn resolve(reference: &str) -> Result<(), String> {
    let (file, key) = reference.split_once('#').map_or((reference, None), |(file, key)| (file, Some(key)));
    let path = root().join("docs").join(file);
    if !path.is_file() {
        return Err(format!("`docs/{file}` does not exist"));
    }
    match key {
        Some(key) if !read(&path).lines().filter_map(anchor).any(|found| found == key) => {
            Err(format!("`docs/{file}` has no heading for `#{key}`"))
        }
        _ => Ok(()),
    }
}

/// The anchor that GitHub gives a Markdown heading: lower case, spaces to hyphens, other punctuation dropped.
fn anchor(line: &str) -> Option<String> {
    let heading = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
}

/// All files below `folder` that end in one of `extensions`.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(|path| path.is_dir());
    let wanted =
        |path: &PathBuf| path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
    let mut found: Vec<PathBuf> = files.into_iter().filter(wanted).collect();
    found.extend(folders.iter().flat_map(|folder| self::files(folder, extensions)));
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = read.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a file name").to_string_lossy().into_owned()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
