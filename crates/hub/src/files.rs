//! Which files of a repository a model needs.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::reference::is_inside;
use crate::{HubError, Reference};

/// What belongs to a model beside its weights, as far as something here reads it or a result takes it along.
const BESIDE: [&str; 24] = [
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "recipe.toml",
    "plan.toml",
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "NOTICE.txt",
];

/// Weights by their names, in the order in which a folder of them is read. An index names its shards.
const WEIGHTS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model.lsq",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// PyTorch files of any name, of which a folder may have one.
const PICKLED: [&str; 3] = [".pt", ".pth", ".th"];

const INDEX: &str = ".index.json";

/// The files to take, but for the shards that an index among them names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) files: Vec<String>,
    pub(crate) index: Option<String>,
}

/// Chooses among the `names` of a repository what `reference` needs.
///
/// Errors: [`HubError::NoFile`], [`HubError::SplitGguf`], [`HubError::OnlyGguf`], [`HubError::NoWeights`].
pub(crate) fn choose(reference: &Reference, names: &[&str]) -> Result<Choice, HubError> {
    let repository = || reference.repository().to_owned();
    let whole = || {
        let files = names.iter().filter(|name| is_gguf(name) && !is_part(name));
        files.map(|name| reference.with_file(name).to_string()).collect::<Vec<_>>()
    };
    if let Some(file) = reference.file() {
        if !names.contains(&file) {
            let (revision, file) = (reference.revision().to_owned(), file.to_owned());
            return Err(HubError::NoFile { repository: repository(), revision, file, others: whole() });
        }
        if is_part(file) {
            return Err(HubError::SplitGguf { repository: repository(), file: file.to_owned(), others: whole() });
        }
        return Ok(Choice { files: vec![file.to_owned()], index: None });
    }
    let of_any_name = || {
        let ends = |name: &&&str| !name.contains('/') && PICKLED.iter().any(|ending| name.ends_with(ending));
        let found: Vec<&str> = names.iter().filter(ends).copied().collect();
        if let [only] = found[..] { Some(only) } else { None }
    };
    let Some(weights) = WEIGHTS.into_iter().find(|name| names.contains(name)).or_else(of_any_name) else {
        let files = whole();
        if files.is_empty() {
            let found = names.iter().map(|name| (*name).to_owned()).collect();
            return Err(HubError::NoWeights { repository: repository(), found });
        }
        return Err(HubError::OnlyGguf { repository: repository(), files });
    };
    // Small files first: what is wrong with a configuration is found before its weights are there.
    let files = BESIDE.into_iter().filter(|name| names.contains(name)).chain([weights]);
    Ok(Choice {
        files: files.map(str::to_owned).collect(),
        index: weights.ends_with(INDEX).then(|| weights.to_owned()),
    })
}

/// The shards that an index names, in the order of their names.
pub(crate) fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    match shards.iter().find(|shard| !is_inside(shard)) {
        Some(shard) => Err(format!("`{shard}` is no path in a repository")),
        None => Ok(shards),
    }
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether a GGUF file is one of several: `x-00001-of-00003.gguf`.
fn is_part(name: &str) -> bool {
    let stem = name.get(..name.len().saturating_sub(".gguf".len())).unwrap_or_default();
    let Some((rest, count)) = stem.rsplit_once("-of-") else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let part = rest.rsplit_once('-').is_some_and(|(_, part)| digits(part));
    part && digits(count) && count.trim_start_matches('0') != "1"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str, names: &[&str]) -> Result<Vec<String>, String> {
        choose(&text.parse().unwrap(), names).map(|choice| choice.files).map_err(|error| error.to_string())
    }

    #[test]
    fn one_set_of_weights_and_what_belongs_to_it() {
        for (names, expected) in [
            (
                &[
                    "README.md",
                    "config.json",
                    "model.safetensors",
                    "pytorch_model.bin",
                    "onnx/model.onnx",
                    "tf_model.h5",
                ][..],
                &["config.json", "README.md", "model.safetensors"][..],
            ),
            (
                &["a.png", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "tokenizer.json"],
                &["tokenizer.json", "model.safetensors.index.json"],
            ),
            (&["model.lsq", "config.json", "pytorch_model.bin"], &["config.json", "model.lsq"]),
            (&["pytorch_model.bin", "training_args.bin", "vocab.txt"], &["vocab.txt", "pytorch_model.bin"]),
            (&["resnet20.th", "config.json"], &["config.json", "resnet20.th"]),
        ] {
            assert_eq!(chosen("hf:a/b", names).unwrap(), expected, "{names:?}");
        }
        let choice = choose(&"hf:a/b".parse().unwrap(), &["model.safetensors.index.json"]).unwrap();
        assert_eq!(choice.index.as_deref(), Some("model.safetensors.index.json"));
    }

    #[test]
    fn a_gguf_file_is_named() {
        let names = ["README.md", "x-Q4_0.gguf", "q8/x.GGUF", "y-00001-of-00002.gguf", "z-00001-of-00001.gguf"];
        let error = chosen("hf:a/b", &names).unwrap_err();
        assert!(error.contains("hf:a/b/x-Q4_0.gguf, hf:a/b/q8/x.GGUF, hf:a/b/z-00001-of-00001.gguf"), "{error}");
        assert!(!error.contains("y-0"), "{error}");
        assert_eq!(chosen("hf:a/b/q8/x.GGUF", &names).unwrap(), ["q8/x.GGUF"]);
        let error = chosen("hf:a/b@v1/x-Q5_0.gguf", &names).unwrap_err();
        assert!(error.contains("no file `x-Q5_0.gguf` at v1") && error.contains("hf:a/b@v1/x-Q4_0.gguf"), "{error}");
        let error = chosen("hf:a/b/y-00001-of-00002.gguf", &names).unwrap_err();
        assert!(error.contains("a part of a model") && error.contains("hf:a/b/x-Q4_0.gguf"), "{error}");
    }

    #[test]
    fn without_weights_the_files_are_named() {
        let error = chosen("hf:a/b", &["tf_model.h5", "a.pth", "b.pth"]).unwrap_err();
        assert!(error.contains("expected model.safetensors") && error.contains("found tf_model.h5, a.pth"), "{error}");
        let many: Vec<String> = (0..40).map(|at| format!("{at}.npz")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(chosen("hf:a/b", &many).unwrap_err().ends_with("11.npz and 28 more"));
    }

    #[test]
    fn an_index_names_shards() {
        let index = br#"{"metadata":{"total_size":1},"weight_map":{"a":"x-2","b":"x-1","c":"x-2"}}"#;
        assert_eq!(Vec::from_iter(shards(index).unwrap()), ["x-1", "x-2"]);
        for wrong in [&b"{}"[..], b"[", br#"{"weight_map":{"a":"../x"}}"#] {
            assert!(shards(wrong).is_err());
        }
    }
}
