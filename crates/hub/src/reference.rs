//! [`Reference`]: the name of a model on the hub.

use std::fmt;
use std::str::FromStr;

use crate::HubError;

/// A model on the hub, `hf:OWNER/NAME[@REVISION][/FILE.gguf]`.
///
/// ```text
/// hf:meta-llama/Llama-3.2-1B                      its newest state
/// hf:meta-llama/Llama-3.2-1B@4e20de3              a branch, a tag or a commit
/// hf:meta-llama/Llama-3.2-1B@refs/pr/7            a pull request; in other revisions with a slash that is %2F
/// hf:bartowski/Llama-3.2-1B-GGUF/x-Q4_0.gguf      one GGUF file
/// hf:bartowski/Llama-3.2-1B-GGUF@main/q4/x.gguf   both
/// ```
///
/// This is how `huggingface_hub` writes paths of its file system. Every part is checked when it is read: none leads out of a
/// folder that it is appended to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `OWNER/NAME`.
    repository: String,
    revision: Option<String>,
    file: Option<String>,
}

/// What every reference begins with.
const PREFIX: &str = "hf:";

/// Where a repository stands if nothing else is said.
const MAIN: &str = "main";

/// The hub's limit for `OWNER/NAME`.
const LONGEST: usize = 96;

impl Reference {
    /// Whether `text` is meant to be a reference: it begins with `hf:`.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// The repository `OWNER/NAME` at `revision`.
    pub(crate) fn at(repository: &str, revision: &str, file: Option<String>) -> Result<Self, String> {
        Ok(Self { repository: repository_name(repository)?, revision: Some(revision_name(revision)?), file })
    }

    /// `OWNER/NAME`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `NAME`.
    pub fn name(&self) -> &str {
        self.repository.split_once('/').map_or(&self.repository, |(_, name)| name)
    }

    /// The branch, tag or commit; `main` where none is named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The GGUF file, by its path in the repository.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The same repository and revision with that file.
    pub fn with_file(&self, file: &str) -> Self {
        Self { file: Some(file.to_owned()), ..self.clone() }
    }
}

/// As it is typed.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.repository)?;
        if let Some(revision) = &self.revision {
            let plain = is_special(revision);
            write!(f, "@{}", if plain { revision.clone() } else { revision.replace('/', "%2F") })?;
        }
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

impl FromStr for Reference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        parse(text).map_err(|reason| HubError::Reference { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let rest = text.strip_prefix(PREFIX).ok_or_else(|| format!("it does not begin with {PREFIX}"))?;
    if rest.starts_with('/') {
        return Err("no slash comes after the colon".to_owned());
    }
    let (repository, revision, file) = match rest.split_once('@') {
        // An `@` may also belong to the name of a file.
        Some((repository, rest)) if repository.matches('/').count() == 1 => {
            let (revision, file) = revision_and_file(rest);
            (repository, Some(revision_name(&revision.replace("%2F", "/").replace("%2f", "/"))?), file)
        }
        _ => match rest.match_indices('/').nth(1) {
            Some((end, _)) => (&rest[..end], None, Some(&rest[end + 1..])),
            None => (rest, None, None),
        },
    };
    let file = file.map(|file| gguf_name(file).map(|()| file.to_owned())).transpose()?;
    Ok(Reference { repository: repository_name(repository)?, revision, file })
}

/// Splits what stands behind `@`.
fn revision_and_file(text: &str) -> (&str, Option<&str>) {
    // `refs/pr/7` and `refs/convert/parquet` have slashes of their own.
    let from = if is_special(text) { text.match_indices('/').nth(1).map_or(0, |(at, _)| at + 1) } else { 0 };
    match text[from..].find('/') {
        Some(end) => (&text[..from + end], Some(&text[from + end + 1..])),
        None => (text, None),
    }
}

fn is_special(revision: &str) -> bool {
    ["refs/pr/", "refs/convert/"].iter().any(|prefix| revision.starts_with(prefix))
}

/// `OWNER/NAME` by the rules of the hub, under which `--` can stand for the slash in the name of a folder.
fn repository_name(text: &str) -> Result<String, String> {
    let Some((owner, name)) = text.split_once('/') else {
        return Err(format!("`{text}` has no owner"));
    };
    for part in [owner, name] {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if part.is_empty() || !part.chars().all(fits) {
            return Err(format!("`{part}` is no name: letters, digits, `-`, `_` and `.` are"));
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.contains("--") || part.contains("..") {
            return Err(format!("`{part}` is no name: `-` and `.` stand alone, and between other letters"));
        }
    }
    if text.len() > LONGEST { Err(format!("`{text}` is longer than {LONGEST} letters")) } else { Ok(text.to_owned()) }
}

/// A revision by the rules of Git, as far as a path and an address need them.
fn revision_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    let parts = text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'));
    if parts && !text.contains("..") && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no branch, tag or commit"))
    }
}

fn gguf_name(text: &str) -> Result<(), String> {
    if !is_inside(text) {
        return Err(format!("`{text}` is no path in a repository"));
    }
    if !text.to_ascii_lowercase().ends_with(".gguf") {
        return Err(format!("`{text}` is no GGUF file, and of other models all files are taken that they need"));
    }
    Ok(())
}

/// Whether a path with slashes stays inside of what it is appended to, on every system.
pub(crate) fn is_inside(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.ends_with([' ', '.']);
    let fits = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    path.split('/').all(plain) && path.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written() {
        for (text, repository, revision, file) in [
            ("hf:a/b", "a/b", "main", None),
            ("hf:meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B", "main", None),
            ("hf:a/b@v1.0", "a/b", "v1.0", None),
            ("hf:a/b@refs/pr/7", "a/b", "refs/pr/7", None),
            ("hf:a/b@feature%2Fx", "a/b", "feature/x", None),
            ("hf:a/b/x-Q4_0.gguf", "a/b", "main", Some("x-Q4_0.gguf")),
            ("hf:a/b/deep/x.GGUF", "a/b", "main", Some("deep/x.GGUF")),
            ("hf:a/b/x@2.gguf", "a/b", "main", Some("x@2.gguf")),
            ("hf:a/b@main/q4/x.gguf", "a/b", "main", Some("q4/x.gguf")),
            ("hf:a/b@refs/pr/7/x.gguf", "a/b", "refs/pr/7", Some("x.gguf")),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (reference.repository(), reference.revision(), reference.file()),
                (repository, revision, file),
                "{text}"
            );
            assert_eq!(reference.to_string(), text);
        }
        let reference: Reference = "hf:a/b".parse().unwrap();
        assert_eq!(reference.name(), "b");
        assert_eq!(reference.with_file("x.gguf").to_string(), "hf:a/b/x.gguf");
    }

    #[test]
    fn what_is_no_reference_says_why_and_how_to_write_one() {
        for (text, reason) in [
            ("a/b", "does not begin with hf:"),
            ("hf:", "has no owner"),
            ("hf:gpt2", "`gpt2` has no owner"),
            ("hf://a/b", "no slash"),
            ("hf:a/", "`` is no name"),
            ("hf:/b", "no slash"),
            ("hf:a b/c", "`a b` is no name"),
            ("hf:a--b/c", "stand alone"),
            ("hf:../b", "`..` is no name"),
            ("hf:a/.git", "`.git` is no name"),
            ("hf:a/b@", "`` is no branch"),
            ("hf:a/b@x..y", "is no branch"),
            ("hf:a/b@..%2F..%2Fetc", "is no branch"),
            ("hf:a/b@x y", "is no branch"),
            ("hf:a/b/model.safetensors", "is no GGUF file"),
            ("hf:a/b/../x.gguf", "is no path"),
            ("hf:a/b/c:\\x.gguf", "is no path"),
            ("hf:a/b//x.gguf", "is no path"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("hf:OWNER/NAME"), "{text}: {error}");
        }
        let long = format!("hf:a/{}", "b".repeat(95));
        assert!(long.parse::<Reference>().unwrap_err().to_string().contains("longer than 96"));
    }
}
