//! [`Tokenizer`]: text to token ids and back, by the folder's `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::ModelError;
use crate::companion;
use crate::encoder;
use crate::family;
use crate::fields::Fields;

/// A model's tokenizer, checked against the model's vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
    adds_bos: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and the first and last tokens of a text from `config.json`, `generation_config.json`
    /// and `tokenizer_config.json`.
    ///
    /// # Errors
    ///
    /// If a file cannot be read; if the tokens do not fit the vocabulary: an id that the embedding has no row for, or
    /// fewer than half as many tokens as rows (embeddings are padded, but not to the double).
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let config = Fields::read(&folder.join("config.json"))?;
        let config = if config.text("model_type")? == encoder::MODEL_TYPE { config } else { family::of(config)?.1 };
        let vocab_size = config.size("vocab_size")?;

        let path = folder.join("tokenizer.json");
        let bytes = companion::read(&path).map_err(ModelError::read(&path))?;
        let wrong = |error: tokenizers::Error| ModelError::Tokenizer { path: path.clone(), message: error.to_string() };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(wrong)?;
        // Some files carry the limits of a training run; a text is a text.
        inner.with_truncation(None).map_err(wrong)?;
        inner.with_padding(None);

        let vocabulary = inner.get_vocab(true);
        let (tokens, largest) = (vocabulary.len(), vocabulary.values().max().copied().unwrap_or(0));
        if largest as usize >= vocab_size || tokens * 2 < vocab_size {
            return Err(ModelError::Vocabulary { path, tokens, largest, vocab_size });
        }

        let named = |key: &str| -> Result<Option<u32>, ModelError> {
            let file = folder.join("tokenizer_config.json");
            if !file.exists() {
                return Ok(None);
            }
            let fields = Fields::read(&file)?;
            // A string, or an object around one.
            let token = match fields.raw(key) {
                Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
                Some(value) => value.as_str(),
                None => None,
            };
            Ok(token.and_then(|token| inner.token_to_id(token)))
        };
        let bos = match config.token_ids("bos_token_id", vocab_size)?.first() {
            Some(id) => Some(*id),
            None => named("bos_token")?,
        };
        let mut eos = config.token_ids("eos_token_id", vocab_size)?;
        // The chat variants of a model end their turn with a token that only this file names.
        let file = folder.join("generation_config.json");
        if file.exists() {
            eos.extend(Fields::read(&file)?.token_ids("eos_token_id", vocab_size)?);
        }
        eos.extend(named("eos_token")?);
        eos.sort_unstable();
        eos.dedup();

        let empty = inner.encode("", true).map_err(wrong)?;
        let adds_bos = bos.is_some() && empty.get_ids().first().copied() == bos;
        Ok(Self { path, inner, bos, eos, adds_bos })
    }

    /// The ids of `text`.
    ///
    /// - `special`: whether the tokenizer may add what it puts around a text, a first token for example
    ///
    /// # Errors
    ///
    /// If the tokenizer fails on the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, special).map_err(|error| self.wrong(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens left out.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails on the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(ids, true).map_err(|error| self.wrong(error))
    }

    /// Decodes ids one at a time, as they are generated.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, inner: self.inner.decode_stream(true) }
    }

    /// How many tokens there are, added ones included; the embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that a text begins with, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a text, sorted.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Whether `encode(text, true)` begins with [`bos`](Self::bos): the model was made to see it.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    fn wrong(&self, error: tokenizers::Error) -> ModelError {
        ModelError::Tokenizer { path: self.path.clone(), message: error.to_string() }
    }
}

/// Turns ids into text as they come; bytes of a character wait for the rest of it.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    inner: DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>,
}

impl TextStream<'_> {
    /// The text that `id` completes, if it does.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails on the id.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, ModelError> {
        self.inner.step(id).map_err(|error| self.tokenizer.wrong(error))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// One token per byte, after `<s>` = 0 and `</s>` = 1.
    pub(crate) fn bytes_tokenizer(add_bos: bool) -> Value {
        let mut vocab = serde_json::Map::new();
        vocab.insert("<s>".to_owned(), json!(0));
        vocab.insert("</s>".to_owned(), json!(1));
        for byte in 0..256 {
            vocab.insert(format!("<0x{byte:02X}>"), json!(byte + 2));
        }
        let special = |id: u32, content: &str| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        };
        let mut single = vec![json!({ "Sequence": { "id": "A", "type_id": 0 } })];
        if add_bos {
            single.insert(0, json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } }));
        }
        json!({
            "version": "1.0",
            "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
            "padding": null,
            "added_tokens": [special(0, "<s>"), special(1, "</s>")],
            "normalizer": null, "pre_tokenizer": null,
            "post_processor": { "type": "TemplateProcessing", "single": single, "pair": single,
                "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } } },
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": [] },
        })
    }

    pub(crate) fn write_folder(folder: &Path, vocab_size: usize, tokenizer: &Value) {
        let config = json!({ "model_type": "llama", "vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 1 });
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }

    #[test]
    fn text_goes_there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), 258, &bytes_tokenizer(true));
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(0), [1].as_slice(), true));
        assert_eq!(tokenizer.vocab_size(), 258);
        let text = "Grüße, 世界";
        let ids = tokenizer.encode(text, true).unwrap();
        // The file's limit of 4 tokens is not ours.
        assert_eq!((ids.len(), ids[0]), (text.len() + 1, 0));
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids[1..]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let mut stream = tokenizer.stream();
        let parts: Vec<String> = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(parts.concat(), text);
    }

    #[test]
    fn the_ends_come_from_all_files() {
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), 258, &bytes_tokenizer(false));
        let write = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
        write("config.json", json!({ "model_type": "llama", "vocab_size": 258, "bos_token_id": null }));
        write("generation_config.json", json!({ "eos_token_id": [7, 9] }));
        write("tokenizer_config.json", json!({ "bos_token": { "content": "<s>" }, "eos_token": "</s>" }));
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(0), [1, 7, 9].as_slice(), false));
    }

    #[test]
    fn another_models_tokenizer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (vocab_size, fits) in [(257, false), (258, true), (320, true), (516, true), (517, false)] {
            write_folder(folder.path(), vocab_size, &bytes_tokenizer(false));
            match Tokenizer::open(folder.path()) {
                Ok(_) => assert!(fits, "{vocab_size}"),
                Err(error) => {
                    let message = error.to_string();
                    assert!(!fits && message.contains("tokenizer.json") && message.contains("258"), "{message}");
                }
            }
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), 258, &bytes_tokenizer(false));
        fs::write(folder.path().join("tokenizer.json"), "{\"version\": ").unwrap();
        assert!(Tokenizer::open(folder.path()).unwrap_err().to_string().contains("tokenizer.json"));
        fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
        assert!(Tokenizer::open(folder.path()).unwrap_err().to_string().contains("tokenizer.json"));
    }
}
