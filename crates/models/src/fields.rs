//! [`Fields`]: a JSON object whose values are asked for by key and type, with errors that name file and key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{ModelError, companion};

/// The largest size a configuration may name. Above every real model, and so low that products do not overflow.
const LARGEST: u64 = 1 << 28;

/// A JSON object of a file, or one nested in it.
///
/// A key that is absent is looked up among the defaults; one that is `null` is absent without default, as in the
/// reference library.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    path: PathBuf,
    /// The dotted path of a nested object, with its last dot; empty at the top.
    at: String,
    values: Map<String, Value>,
    /// Keys that this file spells in its own way: ours, then the file's.
    spelling: &'static [(&'static str, &'static str)],
}

impl Fields {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, ModelError> {
        let text = companion::read(path).map_err(ModelError::read(path))?;
        let values = serde_json::from_slice(&text).map_err(ModelError::json(path))?;
        Ok(Self { path: path.to_owned(), at: String::new(), values, spelling: &[] })
    }

    /// Fills in what is absent (not what is `null`).
    pub(crate) fn with_defaults(mut self, defaults: Value) -> Self {
        if let Value::Object(defaults) = defaults {
            for (key, value) in defaults {
                self.values.entry(key).or_insert(value);
            }
        }
        self
    }

    /// Replaces one value: a layout that says the same in other words is first rewritten.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// Reads some keys under the names that the file has for them; errors name the file's.
    pub(crate) fn with_spelling(self, spelling: &'static [(&'static str, &'static str)]) -> Self {
        Self { spelling, ..self }
    }

    fn spelled<'a>(&self, key: &'a str) -> &'a str {
        self.spelling.iter().find(|(ours, _)| *ours == key).map_or(key, |(_, theirs)| theirs)
    }

    pub(crate) fn raw(&self, key: &str) -> Option<&Value> {
        self.values.get(self.spelled(key)).filter(|value| !value.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// The error that `key` is not what it must be.
    pub(crate) fn wrong(&self, key: &str, expected: impl Into<String>) -> ModelError {
        let key = self.spelled(key);
        let found = match self.values.get(key) {
            Some(value) => value.to_string(),
            None => "nothing".to_owned(),
        };
        ModelError::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.at),
            expected: expected.into(),
            found,
        }
    }

    /// The error that `key` asks for something not supported.
    pub(crate) fn unsupported(&self, key: &str, found: &str, known: &[&str]) -> ModelError {
        let key = self.spelled(key);
        ModelError::Unsupported {
            path: self.path.clone(),
            key: format!("{}{key}", self.at),
            found: format!("\"{found}\""),
            known: known.join(", "),
        }
    }

    /// A nested object, if it is there.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.raw(key) {
            None => Ok(None),
            Some(Value::Object(values)) => {
                let (path, at) = (self.path.clone(), format!("{}{key}.", self.at));
                Ok(Some(Self { path, at, values: values.clone(), spelling: &[] }))
            }
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    /// A size, 1 or more, if it is there.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=LARGEST) => Ok(Some(size as usize)),
            _ => Err(self.wrong(key, format!("an integer from 1 to {LARGEST}"))),
        }
    }

    /// A size, 1 or more.
    pub(crate) fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    /// A finite number above 0, if it is there.
    pub(crate) fn optional_positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.wrong(key, "a number above 0")),
        }
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<f64, ModelError> {
        self.optional_positive(key)?.ok_or_else(|| self.wrong(key, "a number above 0"))
    }

    /// A boolean, if it is there.
    pub(crate) fn optional_flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.raw(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A boolean; `false` where it is absent.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, ModelError> {
        Ok(self.optional_flag(key)?.unwrap_or(false))
    }

    /// A string, if it is there.
    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.raw(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// A string.
    pub(crate) fn text(&self, key: &str) -> Result<&str, ModelError> {
        self.optional_text(key)?.ok_or_else(|| self.wrong(key, "a string"))
    }

    /// A list of strings, if it is there.
    pub(crate) fn optional_texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        match self.raw(key) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().ok_or_else(|| self.wrong(key, "a list of strings")))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Err(self.wrong(key, "a list of strings")),
        }
    }

    /// A token id below `vocab_size` or a list of them; empty where the key is absent.
    pub(crate) fn token_ids(&self, key: &str, vocab_size: usize) -> Result<Vec<u32>, ModelError> {
        let items = match self.raw(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items.as_slice(),
            Some(item) => std::slice::from_ref(item),
        };
        items
            .iter()
            .map(|item| match item.as_u64() {
                Some(id) if (id as usize) < vocab_size => Ok(id as u32),
                _ => {
                    Err(self
                        .wrong(key, format!("a token id below the vocabulary size {vocab_size}, or a list of them")))
                }
            })
            .collect()
    }
}
