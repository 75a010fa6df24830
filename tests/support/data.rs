//! The shared data folder, for the tests that need real models and text.

use std::path::{Path, PathBuf};

/// A part of the data: under `QUENCH_DATA`, by default `../shared/data`. `None`, with a printed line, where it is absent;
/// then a test passes without having looked, unless `QUENCH_REQUIRE_DATA` is set.
pub fn data(part: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("QUENCH_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("QUENCH_REQUIRE_DATA").is_none(), "{} is absent", path.display());
    println!("skipped: {} is absent", path.display());
    None
}
