//! Byte-level BPE as the `tokenizer.json` of Hugging Face, from the tokenizer of a GGUF file and to it.
//!
//! Both have the same tokens and merges. How a text is split before them, `tokenizer.json` says by a regular expression and GGUF by
//! a name: the table has those that are known here. SentencePiece (`llama`) and others are refused.

use serde_json::{Map, Value as Json, json};

use super::error::GgufError;
use super::tokenizer::Tokenizer;

/// The kind of tokenizer in GGUF.
const MODEL: &str = "gpt2";

/// Types of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const UNUSED: i32 = 5;

/// A way to split texts.
struct Split {
    /// The names that llama.cpp has for it, of which the first is written.
    names: &'static [&'static str],
    /// The regular expression; none for that of GPT-2, which the byte-level splitter has in it.
    regex: Option<&'static str>,
    /// Whether a word that is a token is taken as it is, whatever the merges say.
    ignore_merges: bool,
    /// Whether texts are composed (NFC) first.
    composed: bool,
}

const SPLITS: [Split; 3] = [
    Split { names: &["gpt-2"], regex: None, ignore_merges: false, composed: false },
    Split {
        names: &["llama-bpe", "llama3", "llama-v3"],
        regex: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: true,
        composed: false,
    },
    Split {
        names: &["qwen2"],
        regex: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: false,
        composed: true,
    },
];

fn refused(reason: impl Into<String>) -> GgufError {
    GgufError::Model { reason: reason.into() }
}

impl Tokenizer {
    /// The tokenizer of a `tokenizer.json`, with the special tokens that `config.json` names.
    ///
    /// Ids up to the vocabulary of `config.json` that no token has become unused tokens, as llama.cpp's converter does it.
    ///
    /// Errors: one that is not byte-level BPE, or splits texts in a way that is not known here; an id beyond the vocabulary.
    pub fn from_json(tokenizer: &Json, config: &Json) -> Result<Self, GgufError> {
        let model = &tokenizer["model"];
        let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
            return Err(refused("tokenizer.json has no BPE, whose vocabulary and merges GGUF could hold"));
        };
        let regex = regex(&tokenizer["pre_tokenizer"])?;
        let Some(split) = SPLITS.iter().find(|split| split.regex == regex) else {
            let regex = regex.unwrap_or_default();
            return Err(refused(format!("tokenizer.json splits texts by `{regex}`, for which no name is known here")));
        };
        let size = config["vocab_size"].as_u64().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
        let (mut tokens, mut types) = (vec![None; size], vec![UNUSED; size]);
        let mut put = |token: &str, id: &Json, kind| match id.as_u64().and_then(|id| usize::try_from(id).ok()) {
            Some(id) if id < size => {
                (tokens[id], types[id]) = (Some(token.to_owned()), kind);
                Ok(())
            }
            _ => Err(refused(format!("token `{token}` has the id {id}, below the {size} of config.json expected"))),
        };
        vocabulary.iter().try_for_each(|(token, id)| put(token, id, NORMAL))?;
        for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let kind = if added["special"] == true { CONTROL } else { USER };
            put(added["content"].as_str().unwrap_or_default(), &added["id"], kind)?;
        }
        let merge = |merge: &Json| match (merge.as_str(), merge[0].as_str(), merge[1].as_str()) {
            (Some(merge), ..) => Ok(merge.to_owned()),
            (None, Some(left), Some(right)) => Ok(format!("{left} {right}")),
            _ => Err(refused(format!("tokenizer.json has a merge {merge}, two tokens expected"))),
        };
        let id = |name: &str| {
            // Some models end in several tokens: the first.
            let id = &config[name];
            id.as_u64().or(id[0].as_u64()).and_then(|id| u32::try_from(id).ok())
        };
        let unused = |(id, token): (usize, Option<String>)| token.unwrap_or_else(|| format!("[PAD{id}]"));
        let (begins, ends) = template(&tokenizer["post_processor"]);
        Ok(Self {
            model: MODEL.to_owned(),
            pre: Some(split.names[0].to_owned()),
            tokens: tokens.into_iter().enumerate().map(unused).collect(),
            types,
            merges: merges.iter().map(merge).collect::<Result<_, _>>()?,
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            padding: id("pad_token_id"),
            add_bos: Some(begins),
            add_eos: ends.then_some(true),
            ..Self::default()
        })
    }

    /// The `tokenizer.json` of this tokenizer.
    ///
    /// Errors: one that is not byte-level BPE, or splits texts in a way that is not known here.
    pub fn to_json(&self) -> Result<Json, GgufError> {
        if self.model != MODEL {
            return Err(refused(format!(
                "the tokenizer is of the kind `{}`, only `{MODEL}` is known here",
                self.model
            )));
        }
        let pre = self.pre.as_deref().unwrap_or_default();
        let Some(split) = SPLITS.iter().find(|split| split.names.contains(&pre)) else {
            let known: Vec<_> = SPLITS.iter().map(|split| split.names[0]).collect();
            return Err(refused(format!("the tokenizer splits texts as `{pre}`, known here are {}", known.join(", "))));
        };
        let kind = |id: usize| self.types.get(id).copied().unwrap_or(NORMAL);
        let mut vocabulary = Map::new();
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| kind(*id) != UNUSED) {
            if matches!(kind(id), CONTROL | USER) {
                added.push(json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": kind(id) == CONTROL,
                }));
            }
            vocabulary.insert(token.clone(), json!(id));
        }
        let bytes = |own_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": own_regex });
        let splitter = match split.regex {
            None => bytes(true),
            Some(regex) => json!({
                "type": "Sequence",
                "pretokenizers": [
                    { "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false },
                    bytes(false),
                ],
            }),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": split.composed.then(|| json!({ "type": "NFC" })),
            "pre_tokenizer": splitter,
            "post_processor": self.post_processor(),
            "decoder": bytes(true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": split.ignore_merges,
                "vocab": vocabulary,
                "merges": self.merges,
            },
        }))
    }

    /// What is put around a text.
    fn post_processor(&self) -> Json {
        let token = |asked: Option<bool>, id: Option<u32>| {
            let id = id.filter(|_| asked == Some(true))?;
            Some((id, self.tokens.get(id as usize)?.as_str()))
        };
        let [begin, end] = [token(self.add_bos, self.bos), token(self.add_eos, self.eos)];
        let around = |text: &str, kind: u8| {
            let special = |token: Option<(u32, &str)>| {
                token.map(|(_, token)| json!({ "SpecialToken": { "id": token, "type_id": kind } }))
            };
            let text = Some(json!({ "Sequence": { "id": text, "type_id": kind } }));
            [special(begin), text, special(end)].into_iter().flatten()
        };
        let named =
            |(id, token): (u32, &str)| (token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        let special: Map<_, _> = [begin, end].into_iter().flatten().map(named).collect();
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0).collect::<Vec<_>>(),
            "pair": around("A", 0).chain(around("B", 1)).collect::<Vec<_>>(),
            "special_tokens": special,
        })
    }
}

/// The regular expression by which texts are split, where it is not that of GPT-2.
fn regex(splitter: &Json) -> Result<Option<&str>, GgufError> {
    let steps = match splitter["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![splitter],
    };
    let [before @ .., last] = steps.as_slice() else { return Err(refused("tokenizer.json splits texts by nothing")) };
    if last["type"] != "ByteLevel" || last["add_prefix_space"] == true {
        return Err(refused("tokenizer.json is not byte-level, or puts a space before texts"));
    }
    match before {
        [] if last["use_regex"] != false => Ok(None),
        [split] if split["type"] == "Split" && last["use_regex"] == false => {
            let regex = split["pattern"]["Regex"].as_str();
            regex.map(Some).ok_or_else(|| refused("tokenizer.json splits texts by something else than an expression"))
        }
        _ => Err(refused("tokenizer.json splits texts in several steps, for which no name is known here")),
    }
}

/// Whether a special token is put before every text, and after it.
fn template(processor: &Json) -> (bool, bool) {
    let steps = processor["processors"].as_array();
    let steps = steps.map_or_else(|| vec![processor], |steps| steps.iter().collect());
    let single = steps.into_iter().find_map(|step| step["single"].as_array());
    let special = |piece: Option<&Json>| piece.is_some_and(|piece| piece.get("SpecialToken").is_some());
    single.map_or((false, false), |single| (special(single.first()), special(single.last())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Json {
        json!({ "vocab_size": 5, "bos_token_id": 3, "eos_token_id": [2, 0], "pad_token_id": null })
    }

    /// A tokenizer of this splitter with two letters, a pair of them, a token that begins texts, and a free id.
    fn tokenizer(pre: &str) -> Tokenizer {
        Tokenizer {
            model: "gpt2".to_owned(),
            pre: Some(pre.to_owned()),
            tokens: ["a", "b", "ab", "<s>", "[PAD4]"].map(str::to_owned).to_vec(),
            types: vec![NORMAL, NORMAL, NORMAL, CONTROL, UNUSED],
            merges: vec!["a b".to_owned()],
            bos: Some(3),
            eos: Some(2),
            add_bos: Some(true),
            ..Tokenizer::default()
        }
    }

    #[test]
    fn a_tokenizer_comes_back_through_json() {
        for split in SPLITS {
            let tokenizer = tokenizer(split.names[0]);
            let mut json = tokenizer.to_json().unwrap();
            assert_eq!(json["model"]["vocab"].as_object().unwrap().len(), 4);
            assert_eq!(json["model"]["ignore_merges"], split.ignore_merges);
            assert_eq!(json["post_processor"]["special_tokens"]["<s>"]["ids"][0], 3);
            assert_eq!(Tokenizer::from_json(&json, &config()).as_ref(), Ok(&tokenizer));
            // Merges as pairs, as newer files have them; a token that is no control token.
            json["model"]["merges"] = json!([["a", "b"]]);
            json["added_tokens"][0]["special"] = json!(false);
            let found = Tokenizer::from_json(&json, &config()).unwrap();
            assert_eq!((found.merges, found.types[3]), (tokenizer.merges, USER));
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let good = tokenizer("gpt-2").to_json().unwrap();
        let changes: [(&str, Json, &str); 6] = [
            ("/model/merges", Json::Null, "no BPE"),
            ("/model/merges/0", json!(3), "a merge 3"),
            ("/model/vocab/ab", json!(5), "`ab` has the id 5"),
            ("/pre_tokenizer/type", json!("Metaspace"), "not byte-level"),
            ("/pre_tokenizer/add_prefix_space", json!(true), "space"),
            ("/pre_tokenizer", json!({ "pretokenizers": [] }), "by nothing"),
        ];
        for (place, value, words) in changes {
            let mut json = good.clone();
            *json.pointer_mut(place).unwrap() = value;
            let error = Tokenizer::from_json(&json, &config()).unwrap_err().to_string();
            assert!(error.contains(words), "{place}: {error}");
        }
        let mut json = tokenizer("qwen2").to_json().unwrap();
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("x+");
        assert!(Tokenizer::from_json(&json, &config()).unwrap_err().to_string().contains("`x+`"));
        for (change, words) in [
            (Tokenizer { model: "llama".to_owned(), ..tokenizer("gpt-2") }, "`llama`"),
            (tokenizer("tekken"), "`tekken`"),
        ] {
            assert!(change.to_json().unwrap_err().to_string().contains(words));
        }
    }
}
