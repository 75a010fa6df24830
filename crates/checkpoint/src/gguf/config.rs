//! `config.json` of Hugging Face from the metadata of a Llama, and back.

use serde_json::{Map, Value as Json, json};

use super::container::{Contents, Metadata, Value, shown};
use super::error::GgufError;
use super::names;

/// The only architecture that is known here.
pub(super) const ARCHITECTURE: &str = "llama";

const ARCHITECTURE_KEY: &str = "general.architecture";

/// Sizes by their keys, `llama.` left out, and at Hugging Face.
const SIZES: [(&str, &str); 5] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
];

fn wrong(key: &str, reason: String) -> GgufError {
    GgufError::Key { key: key.to_owned(), reason }
}

fn model(reason: impl Into<String>) -> GgufError {
    GgufError::Model { reason: reason.into() }
}

/// Errors where a file has no model of a known architecture.
pub(super) fn check_architecture(metadata: &Metadata) -> Result<(), GgufError> {
    match metadata.get(ARCHITECTURE_KEY) {
        Some(value) if value.text() == Some(ARCHITECTURE) => Ok(()),
        Some(value) => Err(wrong(ARCHITECTURE_KEY, format!("is {}, expected the text `{ARCHITECTURE}`", shown(value)))),
        None => Err(wrong(ARCHITECTURE_KEY, "is missing: the file holds no model".to_owned())),
    }
}

/// A size that must be there, of one number for all blocks.
fn size(metadata: &Metadata, key: &str) -> Result<Option<u64>, GgufError> {
    let key = format!("{ARCHITECTURE}.{key}");
    let Some(value) = metadata.get(&key) else { return Ok(None) };
    match value.count() {
        Some(size) if u32::try_from(size).is_ok() => Ok(Some(size)),
        _ => Err(wrong(&key, format!("is {}, expected one number below 2^32", shown(value)))),
    }
}

fn needed(metadata: &Metadata, key: &str) -> Result<u64, GgufError> {
    size(metadata, key)?.ok_or_else(|| wrong(&format!("{ARCHITECTURE}.{key}"), "is missing".to_owned()))
}

fn float(metadata: &Metadata, key: &str) -> Result<Option<f64>, GgufError> {
    let key = format!("{ARCHITECTURE}.{key}");
    let Some(value) = metadata.get(&key) else { return Ok(None) };
    match value.number() {
        // The shortest decimal of the f32, which is what was written in the first place: 1e-5 and not 9.99999974e-6.
        Some(number) => Ok((number as f32).to_string().parse().ok()),
        None => Err(wrong(&key, format!("is {}, expected a number", shown(value)))),
    }
}

/// Heads of the queries and of the keys.
pub(super) fn heads(metadata: &Metadata) -> Result<[usize; 2], GgufError> {
    let heads = needed(metadata, "attention.head_count")?;
    let keys = size(metadata, "attention.head_count_kv")?.unwrap_or(heads);
    Ok([heads, keys].map(|heads| heads as usize))
}

/// `config.json` of the model in a file.
///
/// - `factors`: the tensor `rope_freqs.weight`, where there is one
///
/// Errors: another architecture, an entry missing or of another kind, a way to scale RoPE that `config.json` has no words for.
pub(super) fn read(contents: &Contents, factors: Option<&[f32]>) -> Result<Json, GgufError> {
    let metadata = &contents.metadata;
    check_architecture(metadata)?;
    let find = |name: &str| contents.tensors.iter().find(|tensor| tensor.name == name);
    let mut config = Map::new();
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("architectures", json!(["LlamaForCausalLM"]));
    set("model_type", json!("llama"));
    for (key, name) in SIZES {
        set(name, json!(needed(metadata, key)?));
    }
    let [heads, keys] = heads(metadata)?;
    set("num_key_value_heads", json!(keys));
    let hidden = needed(metadata, "embedding_length")?;
    if heads == 0 {
        return Err(wrong("llama.attention.head_count", "is 0".to_owned()));
    }
    let width = size(metadata, "attention.key_length")?.unwrap_or(hidden / heads as u64);
    let rope = size(metadata, "rope.dimension_count")?.unwrap_or(width);
    if rope != width {
        return Err(wrong("llama.rope.dimension_count", format!("is {rope}, expected all {width} of a head")));
    }
    set("head_dim", json!(width));
    let epsilon = float(metadata, "attention.layer_norm_rms_epsilon")?;
    let missing = || wrong("llama.attention.layer_norm_rms_epsilon", "is missing".to_owned());
    set("rms_norm_eps", json!(epsilon.ok_or_else(missing)?));
    let theta = float(metadata, "rope.freq_base")?.unwrap_or(10_000.0);
    set("rope_theta", json!(theta));
    if let Some(scaling) = read_scaling(metadata, factors, theta, width)? {
        set("rope_scaling", scaling);
    }
    let Some(embedding) = find("token_embd.weight") else {
        return Err(GgufError::Tensor { tensor: "token_embd.weight".to_owned(), reason: "is missing".to_owned() });
    };
    set("vocab_size", json!(embedding.shape.first()));
    set("tie_word_embeddings", json!(find("output.weight").is_none()));
    set("attention_bias", json!(find("blk.0.attn_q.bias").is_some()));
    set("mlp_bias", json!(find("blk.0.ffn_up.bias").is_some()));
    set("hidden_act", json!("silu"));
    for name in ["bos", "eos"] {
        let id = metadata.get(&format!("tokenizer.ggml.{name}_token_id")).and_then(Value::count);
        set(&format!("{name}_token_id"), json!(id));
    }
    Ok(Json::Object(config))
}

/// What is known of a Llama 3 whose frequencies are scaled: of all that were published only the factor differs.
const LLAMA3: Llama3 = Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };

/// How Llama 3 scales RoPE's frequencies: those below a wavelength as they are, those above another divided, and between.
#[derive(Clone, Copy)]
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    /// The divisors of the frequencies of a head of `width`, `[width / 2]`.
    fn factors(self, theta: f64, width: u64) -> Vec<f32> {
        let divisor = |i: u64| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / width as f64);
            let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
            1.0 / ((1.0 - smooth.clamp(0.0, 1.0)) / self.factor + smooth.clamp(0.0, 1.0))
        };
        (0..width / 2).map(|i| divisor(i) as f32).collect()
    }
}

fn read_scaling(
    metadata: &Metadata,
    factors: Option<&[f32]>,
    theta: f64,
    width: u64,
) -> Result<Option<Json>, GgufError> {
    if let Some(factors) = factors {
        let factor = factors.iter().copied().fold(1.0, f32::max);
        let scaling = Llama3 { factor: f64::from(factor), ..LLAMA3 };
        let expected = scaling.factors(theta, width);
        let near = |(found, expected): (&f32, &f32)| (found - expected).abs() <= 1e-4 * expected;
        if factors.len() != expected.len() || !factors.iter().zip(&expected).all(near) {
            let reason = "scales RoPE in another way than Llama 3 does, which config.json has no words for".to_owned();
            return Err(GgufError::Tensor { tensor: names::FACTORS.to_owned(), reason });
        }
        return Ok(Some(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.original as u64,
        })));
    }
    let key = "llama.rope.scaling.type";
    match metadata.get(key).map(|value| (value, value.text())) {
        None | Some((_, Some("none"))) => Ok(None),
        Some((_, Some("linear"))) => {
            let factor = float(metadata, "rope.scaling.factor")?;
            let missing = || wrong("llama.rope.scaling.factor", "is missing".to_owned());
            Ok(Some(json!({ "rope_type": "linear", "factor": factor.ok_or_else(missing)? })))
        }
        Some((value, _)) => Err(wrong(key, format!("is {}, expected `none` or `linear`", shown(value)))),
    }
}

/// The metadata of a model, and the divisors of RoPE's frequencies where it has some.
///
/// Errors: a `config.json` of another architecture, one that lacks something, or one that asks for what a GGUF Llama has not.
pub(super) fn write(config: &Json, metadata: &mut Metadata) -> Result<Option<Vec<f32>>, GgufError> {
    if config["model_type"] != ARCHITECTURE {
        return Err(model(format!(
            "config.json has `model_type` {}, expected \"{ARCHITECTURE}\"",
            config["model_type"]
        )));
    }
    let size = |name: &str| {
        let value = config[name].as_u64().and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0);
        value.ok_or_else(|| model(format!("config.json has `{name}` {}, expected a size", config[name])))
    };
    let mut set = |key: &str, value: Value| metadata.set(format!("{ARCHITECTURE}.{key}"), value);
    for (key, name) in SIZES {
        set(key, Value::from(size(name)?));
    }
    let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let keys = if config["num_key_value_heads"].is_null() { heads } else { size("num_key_value_heads")? };
    set("attention.head_count_kv", Value::from(keys));
    let width = if config["head_dim"].is_null() { hidden / heads } else { size("head_dim")? };
    set("attention.key_length", Value::from(width));
    set("attention.value_length", Value::from(width));
    set("rope.dimension_count", Value::from(width));
    let epsilon = config["rms_norm_eps"].as_f64();
    let missing = || model(format!("config.json has `rms_norm_eps` {}, expected a number", config["rms_norm_eps"]));
    set("attention.layer_norm_rms_epsilon", Value::from(epsilon.ok_or_else(missing)? as f32));
    set("vocab_size", Value::from(size("vocab_size")?));
    if !matches!(config["hidden_act"].as_str(), None | Some("silu")) {
        return Err(model(format!("config.json has `hidden_act` {}, expected \"silu\"", config["hidden_act"])));
    }
    // Until version 5 of transformers there were two places, since then there is one.
    let rope = &config["rope_parameters"];
    let theta = rope["rope_theta"].as_f64().or(config["rope_theta"].as_f64()).unwrap_or(10_000.0);
    set("rope.freq_base", Value::from(theta as f32));
    let scaling = if rope.is_object() { rope } else { &config["rope_scaling"] };
    let number = |name: &str| {
        let value = scaling[name].as_f64().filter(|value| *value > 0.0);
        value.ok_or_else(|| model(format!("config.json has `{name}` {} for RoPE, expected a number", scaling[name])))
    };
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
    match kind {
        "default" => Ok(None),
        "linear" => {
            set("rope.scaling.type", Value::from("linear"));
            set("rope.scaling.factor", Value::from(number("factor")? as f32));
            Ok(None)
        }
        "llama3" => {
            let scaling = Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original: number("original_max_position_embeddings")?,
            };
            Ok(Some(scaling.factors(theta, u64::from(width))))
        }
        other => Err(model(format!("config.json scales RoPE by `{other}`, expected default, linear or llama3"))),
    }
}
