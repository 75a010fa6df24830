//! The tokenizer that a GGUF file carries in its metadata.

use super::container::{Kind, Metadata, Value, shown};
use super::error::GgufError;

/// A tokenizer as the metadata of GGUF spell it; the page `gguf.md` of ggml says what each entry means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokenizer {
    /// Its kind: `llama` (SentencePiece), `gpt2` (byte-level BPE), ...
    pub model: String,
    /// How texts are split before it, by the name that llama.cpp has for that.
    pub pre: Option<String>,
    /// The tokens, by id.
    pub tokens: Vec<String>,
    /// The score of each token; empty where the kind has none.
    pub scores: Vec<f32>,
    /// The type of each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty where it is not said.
    pub types: Vec<i32>,
    /// The merges of BPE, best first, each two tokens with a space between; empty where the kind has none.
    pub merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The token for what is unknown.
    pub unknown: Option<u32>,
    /// The token that fills up.
    pub padding: Option<u32>,
    /// Whether `bos` is put before every text.
    pub add_bos: Option<bool>,
    /// Whether `eos` is put after every text.
    pub add_eos: Option<bool>,
    /// Whether a space is put before every text.
    pub add_space_prefix: Option<bool>,
    /// The template of conversations, in Jinja.
    pub chat_template: Option<String>,
}

const PREFIX: &str = "tokenizer.ggml.";
const TEMPLATE: &str = "tokenizer.chat_template";

impl Tokenizer {
    /// The tokenizer of a file.
    ///
    /// Errors: an entry missing, of another kind than it should be, or a list that has not as many elements as there are
    /// tokens.
    pub fn read(metadata: &Metadata) -> Result<Self, GgufError> {
        let wrong = |key: &str, reason: String| GgufError::Key { key: format!("{PREFIX}{key}"), reason };
        let of = |key: &str| metadata.get(&format!("{PREFIX}{key}"));
        let needed = |key: &str| of(key).ok_or_else(|| wrong(key, "is missing".to_owned()));
        let expected =
            |key: &str, what: &str, found: &Value| wrong(key, format!("is {}, expected {what}", shown(found)));
        let texts = |key: &str, value: &Value| match value.texts() {
            Some(texts) => Ok(texts.to_vec()),
            None => Err(expected(key, "an array of texts", value)),
        };
        let text = |key: &str, value: &Value| match value.text() {
            Some(text) => Ok(text.to_owned()),
            None => Err(expected(key, "a text", value)),
        };
        let tokens = texts("tokens", needed("tokens")?)?;
        let list = |key: &str, kind: Kind| match of(key) {
            None => Ok(Vec::new()),
            Some(value @ Value::Numbers { kind: found, .. }) if *found == kind => match value.list() {
                Some(list) if list.len() == tokens.len() => Ok(list),
                _ => Err(expected(key, &format!("an array of {} {kind:?}", tokens.len()), value)),
            },
            Some(value) => Err(expected(key, &format!("an array of {} {kind:?}", tokens.len()), value)),
        };
        let id = |key: &str| match of(key) {
            None => Ok(None),
            Some(value) => match value.count().and_then(|id| u32::try_from(id).ok()) {
                Some(id) => Ok(Some(id)),
                None => Err(expected(key, "a token's number", value)),
            },
        };
        let flag = |key: &str| match of(key) {
            None => Ok(None),
            Some(value) => value.flag().map(Some).ok_or_else(|| expected(key, "true or false", value)),
        };
        let template = metadata.get(TEMPLATE).map(|value| {
            let wrong =
                || GgufError::Key { key: TEMPLATE.to_owned(), reason: format!("is {}, expected a text", shown(value)) };
            value.text().map(str::to_owned).ok_or_else(wrong)
        });
        Ok(Self {
            model: text("model", needed("model")?)?,
            pre: of("pre").map(|value| text("pre", value)).transpose()?,
            scores: list("scores", Kind::F32)?.into_iter().map(|score| score as f32).collect(),
            types: list("token_type", Kind::I32)?.into_iter().map(|kind| kind as i32).collect(),
            merges: of("merges").map(|value| texts("merges", value)).transpose()?.unwrap_or_default(),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            unknown: id("unknown_token_id")?,
            padding: id("padding_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            chat_template: template.transpose()?,
            tokens,
        })
    }

    /// Adds its entries to the metadata of a file.
    pub(super) fn write(&self, metadata: &mut Metadata) {
        let mut set = |key: &str, value: Value| metadata.set(format!("{PREFIX}{key}"), value);
        set("model", Value::from(self.model.as_str()));
        if let Some(pre) = &self.pre {
            set("pre", Value::from(pre.as_str()));
        }
        set("tokens", Value::from(&self.tokens[..]));
        if !self.scores.is_empty() {
            set("scores", Value::from(&self.scores[..]));
        }
        if !self.types.is_empty() {
            set("token_type", Value::from(&self.types[..]));
        }
        if !self.merges.is_empty() {
            set("merges", Value::from(&self.merges[..]));
        }
        let ids = [("bos", self.bos), ("eos", self.eos), ("unknown", self.unknown), ("padding", self.padding)];
        for (name, id) in ids {
            if let Some(id) = id {
                set(&format!("{name}_token_id"), Value::from(id));
            }
        }
        let flags = [
            ("add_bos_token", self.add_bos),
            ("add_eos_token", self.add_eos),
            ("add_space_prefix", self.add_space_prefix),
        ];
        for (key, flag) in flags {
            if let Some(flag) = flag {
                set(key, Value::from(flag));
            }
        }
        if let Some(template) = &self.chat_template {
            metadata.set(TEMPLATE, template.as_str());
        }
    }
}
