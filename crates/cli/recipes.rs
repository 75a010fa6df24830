//! `quench recipes`: what can be asked for by name.

use quench::job::recipes;

use crate::args::Recipes;
use crate::failure::Outcome;
use crate::table;

/// Lists the recipes, or prints the one that is named.
pub fn run(arguments: &Recipes) -> anyhow::Result<Outcome> {
    let text = match &arguments.name {
        Some(name) => recipes::text(name)?,
        None => list()?,
    };
    table::print(&text)?;
    Ok(Outcome::Done)
}

fn list() -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for (name, _) in recipes::all() {
        let default = if *name == recipes::DEFAULT { " (default)" } else { "" };
        lines.push([(*name).to_owned(), format!("{}{default}", recipes::find(name)?.about)]);
    }
    let example = recipes::DEFAULT;
    Ok(format!(
        "{}\n`quench recipes {example} > my.toml` is a start for your own; --recipe my.toml uses it.\n",
        table::aligned(&lines)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_has_its_line() {
        let list = list().unwrap();
        for (name, _) in recipes::all() {
            assert!(list.lines().any(|line| line.starts_with(name) && line.len() > name.len() + 8), "{name}:\n{list}");
        }
    }
}
