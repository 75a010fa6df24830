//! Which model is meant: a folder, one on the Hugging Face hub, or the one inside this program.

use std::borrow::Cow;
use std::path::Path;

use anyhow::bail;
use burn::tensor::Device;
use quench::hub::{Cache, HubError, Reference};
use quench::models::text::TextSource;
use quench::models::{Decoder, Tokenizer, open, spark};
use quench::nn::Model;

use crate::download;

/// The word for the embedded model; a folder of that name is `./spark`.
pub const SPARK: &str = "spark";

/// What the embedded model is asked to continue.
pub const SPARK_PROMPT: &str = "Once upon a time there was";

/// Which of the embedded texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// To calibrate on.
    Calibration,
    /// To measure with; held out from training and calibration.
    Evaluation,
}

/// Whether the embedded model is meant.
pub fn is_spark(model: &Path) -> bool {
    model == Path::new(SPARK)
}

/// The model on the hub that is meant, if it is one.
///
/// # Errors
/// If it begins as such a name does, and is none.
pub fn reference(model: &Path) -> Result<Option<Reference>, HubError> {
    model.to_str().filter(|text| Reference::is_meant(text)).map(str::parse).transpose()
}

/// The folder of the model; the embedded one is unpacked, one on the hub is downloaded, with a bar unless `quiet`.
///
/// # Errors
/// If there is no such folder, or the embedded model cannot be written, or the one on the hub cannot be had.
pub fn folder(model: &Path, quiet: bool) -> anyhow::Result<Cow<'_, Path>> {
    if is_spark(model) {
        return Ok(Cow::Owned(spark::unpack()?));
    }
    if let Some(reference) = reference(model)? {
        return Ok(Cow::Owned(download::fetch(&reference, quiet)?));
    }
    if !model.exists() {
        bail!(
            "there is no {}; a model is a folder as downloaded from Hugging Face, a .gguf file, hf:OWNER/NAME, or the word `{SPARK}`",
            model.display()
        );
    }
    Ok(Cow::Borrowed(model))
}

/// How to name the model in this folder in a command: one that was downloaded by its name on the hub.
pub fn spelled(folder: &Path) -> String {
    Cache::reference(folder).map_or_else(|| folder.display().to_string(), |reference| reference.to_string())
}

/// The texts of the embedded model: a folder with a file per language.
pub fn spark_texts(texts: Texts) -> anyhow::Result<TextSource> {
    let name = match texts {
        Texts::Calibration => "calibration",
        Texts::Evaluation => "evaluation",
    };
    Ok(TextSource::new(spark::unpack()?.join("text").join(name)))
}

/// The last part of the model's path, for a file name: `Llama-3.2-1B`.
pub fn name(model: &Path) -> String {
    let whole = match reference(model) {
        // Without the revision, which may have slashes.
        Ok(Some(reference)) => reference.file().unwrap_or(reference.name()).into(),
        _ if is_spark(model) => model.to_owned(),
        _ => model.canonicalize().unwrap_or_else(|_| model.to_owned()),
    };
    whole.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A model with all weights read, and its tokenizer.
pub fn load(folder: &Path, device: &Device) -> anyhow::Result<(Decoder, Tokenizer)> {
    let tokenizer = Tokenizer::open(folder)?;
    let mut decoder = open(folder, device)?;
    decoder.load_all()?;
    Ok((decoder, tokenizer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let here = std::env::current_dir().unwrap();
        let own = here.file_name().unwrap().to_string_lossy().into_owned();
        for (path, expected) in [
            ("spark", "spark"),
            ("a/Llama-3.2-1B", "Llama-3.2-1B"),
            ("b/", "b"),
            (".", own.as_str()),
            ("/", "model"),
            ("hf:meta-llama/Llama-3.2-1B", "Llama-3.2-1B"),
            ("hf:meta-llama/Llama-3.2-1B@refs/pr/7", "Llama-3.2-1B"),
            ("hf:a/b-GGUF/q4/b-Q4_0.gguf", "b-Q4_0.gguf"),
        ] {
            assert_eq!(name(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn what_begins_as_a_name_on_the_hub_is_one_or_an_error() {
        assert_eq!(reference(Path::new("hf:a/b")).unwrap().unwrap().repository(), "a/b");
        assert_eq!(reference(Path::new("./hf:a/b")).unwrap(), None);
        let error = folder(Path::new("hf:gpt2"), true).unwrap_err().to_string();
        assert!(error.contains("`gpt2` has no owner") && error.contains("hf:OWNER/NAME"), "{error}");
    }

    #[test]
    fn a_downloaded_model_is_called_as_it_was() {
        let folder = Cache::new("/hub").snapshot("a/b", "0123456789abcdef0123456789abcdef01234567");
        assert_eq!(spelled(&folder), "hf:a/b@0123456789abcdef0123456789abcdef01234567");
        assert_eq!(spelled(Path::new("a/b")), "a/b");
    }

    #[test]
    fn only_the_word_means_the_embedded_model() {
        assert!(is_spark(Path::new("spark")));
        assert!(!is_spark(Path::new("./spark")) && !is_spark(Path::new("/x/spark")));
    }
}
