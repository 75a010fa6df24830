//! The shared data folder, for the tests that need real models and text, of the root package and of any crate.

use std::path::{Path, PathBuf};

/// A part of the data: under `QUENCH_DATA`, by default `../shared/data` beside the repository. `None`, with a printed line, where it is absent;
/// then a test passes without having looked, unless `QUENCH_REQUIRE_DATA` is set.
pub fn data(part: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("QUENCH_DATA") {
        Some(root) => PathBuf::from(root),
        None => {
            // The root package lies in the repository, any other two folders down.
            let package = Path::new(env!("CARGO_MANIFEST_DIR"));
            let repository = package.ancestors().find(|folder| folder.join("Cargo.lock").exists()).unwrap_or(package);
            repository.join("../shared/data")
        }
    };
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("QUENCH_REQUIRE_DATA").is_none(), "{} is absent", path.display());
    println!("skipped: {} is absent", path.display());
    None
}
