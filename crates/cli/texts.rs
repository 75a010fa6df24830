//! Data as it is named on the command line: `[LANG=]PATH`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use quench::models::text::TextSource;

/// What the arguments name, looked at before the work begins.
///
/// A folder in which every file is named for a language, as `en.txt` beside `de.txt`, is one source per file; any other
/// folder is one source. A file is one source.
///
/// # Errors
/// If a path does not exist, or is the folder of a model: the user meant another argument.
pub fn sources(arguments: &[TextSource]) -> anyhow::Result<Vec<TextSource>> {
    let mut sources = Vec::new();
    for argument in arguments {
        match by_language(argument)? {
            Some(languages) => sources.extend(languages),
            None => sources.push(argument.clone()),
        }
    }
    Ok(sources)
}

fn by_language(argument: &TextSource) -> anyhow::Result<Option<Vec<TextSource>>> {
    let [folder] = &argument.paths[..] else { return Ok(None) };
    let about = || format!("cannot read {}", folder.display());
    if !fs::metadata(folder).with_context(about)?.is_dir() {
        return Ok(None);
    }
    if folder.join("config.json").exists() {
        bail!("{} is the folder of a model; give MODEL before the data", folder.display());
    }
    if argument.language.is_some() {
        return Ok(None);
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).with_context(about)? {
        let file = entry.with_context(about)?.path();
        let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if file.is_file() && !hidden {
            files.push(file);
        }
    }
    files.sort();
    let named =
        files.into_iter().map(|path| Some(TextSource { language: Some(language_of(&path)?), paths: vec![path] }));
    Ok(named.collect::<Option<Vec<_>>>().filter(|sources| !sources.is_empty()))
}

/// The language that a text file is named for: `en.txt`, `pt-BR.utf8`. Tables, such as `dev.tsv`, are named for none.
fn language_of(file: &Path) -> Option<String> {
    if file.extension().is_some_and(|ending| ending == "tsv" || ending == "csv") {
        return None;
    }
    let stem = file.file_stem()?.to_str()?;
    let (primary, region) = stem.split_once('-').unwrap_or((stem, "x"));
    let is_code = (2..=3).contains(&primary.len()) && primary.chars().all(|c| c.is_ascii_lowercase());
    let is_region = !region.is_empty() && region.chars().all(|c| c.is_ascii_alphanumeric());
    (is_code && is_region).then(|| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_in_file_names() {
        for (name, language) in [
            ("en.txt", Some("en")),
            ("pt-BR.utf8", Some("pt-BR")),
            ("x/zho.txt", Some("zho")),
            ("wiki.txt", None),
            ("c4.utf8", None),
            ("README", None),
            ("EN.txt", None),
            ("en-.txt", None),
            ("dev.tsv", None),
        ] {
            assert_eq!(language_of(Path::new(name)).as_deref(), language, "{name}");
        }
    }

    #[test]
    fn a_folder_of_languages_is_one_source_each() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["de.txt", "en.txt", ".DS_Store"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let given = TextSource::new(folder.path());
        let languages = |argument: &TextSource| -> Vec<_> {
            sources(std::slice::from_ref(argument)).unwrap().into_iter().map(|source| source.language).collect()
        };
        assert_eq!(languages(&given), [Some("de".to_owned()), Some("en".to_owned())]);
        // With a language of its own it is one source, and so it is with a file that is named for none.
        assert_eq!(languages(&TextSource { language: Some("xx".into()), ..given.clone() }), [Some("xx".to_owned())]);
        fs::write(folder.path().join("wiki.txt"), "x").unwrap();
        assert_eq!(languages(&given), [None]);
    }

    #[test]
    fn absent_texts_and_models_are_named() {
        let error = sources(&[TextSource::new("no/such.txt")]).unwrap_err().to_string();
        assert!(error.contains("no/such.txt"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        let error = sources(&[TextSource::new(folder.path())]).unwrap_err().to_string();
        assert!(error.contains("MODEL"), "{error}");
    }
}
