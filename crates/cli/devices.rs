//! `quench devices`: what there is to compute on.

use crate::device::{Backend, Found, Kind, Probe, Wanted};
use crate::failure::Outcome;
use crate::table;

/// Prints one line per device, and per backend without one.
pub fn run() -> anyhow::Result<Outcome> {
    let mut lines: Vec<[String; 3]> = Vec::new();
    for backend in Backend::ALL {
        let line = |state: &str, about: String| [backend.to_string(), state.to_owned(), about];
        match backend.probe() {
            Probe::NotCompiled => lines.push(line("not compiled in", format!("build with --features {backend}"))),
            Probe::Broken(reason) => lines.push(line("absent", reason)),
            Probe::Compiled(found) if found.is_empty() => {
                lines.push(line("absent", "no driver, or no card".to_owned()))
            }
            Probe::Compiled(found) => {
                lines.extend(found.iter().enumerate().map(|(at, found)| describe(backend, at, found)))
            }
        }
    }
    // What works first; the order of `auto` among those.
    lines.sort_by_key(|[_, state, _]| {
        ["ready", "broken", "absent"].iter().position(|known| known == state).unwrap_or(3)
    });
    let mut text = table::aligned(&lines);
    match Wanted::Auto.resolve_named() {
        Ok((name, _)) => text.push_str(&format!("\n--device auto takes {name}\n")),
        Err(error) => text.push_str(&format!("\n{error}\n")),
    }
    table::print(&text)?;
    Ok(Outcome::Done)
}

fn describe(backend: Backend, at: usize, found: &Found) -> [String; 3] {
    let name = backend.of(at);
    let about = match found.kind {
        Kind::Software => format!("{} (software)", found.name),
        Kind::Gpu | Kind::Cpu => found.name.clone(),
    };
    match found.fault() {
        None => [name, "ready".to_owned(), about],
        Some(fault) => [name, "broken".to_owned(), format!("{about}: {fault}")],
    }
}
