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
        lines.push([(*name).to_owned(), recipes::find(name)?.about]);
    }
    let (lines, default) = (table::aligned(&lines), recipes::DEFAULT);
    Ok(format!(
        "{lines}\nWithout --recipe it is {default}. To make your own: `quench recipes {default} > my.toml`, edit, --recipe my.toml\n"
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
