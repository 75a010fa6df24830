//! [`DecoderConfig`]: what a decoder is made of, read from a Hugging Face `config.json` of either layout.

use std::fmt;
use std::path::Path;

use crate::ModelError;
use crate::family::{self, Traits};
use crate::fields::Fields;
use crate::rope::Rope;

/// Everything that distinguishes one decoder from another, as data; the decoder itself is written once.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family, by its `model_type`.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Width of the gated or hidden layer of a block.
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; `heads · head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// The longest context the model was made for, in tokens.
    pub max_positions: usize,
    /// How positions enter.
    pub positions: Positions,
    /// What the norms compute.
    pub norm: NormKind,
    /// The ε of the norms, added to the mean square or the variance.
    pub norm_eps: f64,
    /// Whether the norms multiply by `w` or by `1 + w`.
    pub gain: Gain,
    /// Where in a block the norms stand.
    pub norms: Norms,
    /// Whether queries and keys are normed head by head.
    pub qk_norm: bool,
    /// What stands between the attentions.
    pub feed: Feed,
    /// The function of the gate, or of the one hidden layer.
    pub activation: Activation,
    /// Which attention projections have a bias.
    pub attention_bias: AttentionBias,
    /// Whether the projections of the gated or hidden layer have a bias.
    pub mlp_bias: bool,
    /// Whether q, k, v and gate, up are one matrix each.
    pub projections: Projections,
    /// Factor on the attention scores.
    pub attention_scale: f64,
    /// Attention scores `s` become `cap · tanh(s / cap)`.
    pub attention_cap: Option<f64>,
    /// Logits `l` become `cap · tanh(l / cap)`.
    pub logit_cap: Option<f64>,
    /// Factor on the embedding.
    pub embedding_scale: f64,
    /// Whether the head is the embedding again.
    pub tied: bool,
    /// Whether what the last matrix of each [`Feed`] reads is turned by the rotation of its width; key [`TURNED_MLP`].
    pub turned_mlp: bool,
    /// The rotary embeddings in use; layers name theirs by index. Empty where positions are learned.
    pub ropes: Vec<Rope>,
    /// The layers, in order.
    pub layers: Vec<LayerConfig>,
    /// The token a text begins with.
    pub bos: Option<u32>,
    /// The tokens a text may end with.
    pub eos: Vec<u32>,
}

/// What one layer has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// How many positions a query sees, its own included; all before it where `None`.
    pub window: Option<usize>,
    /// Index into [`DecoderConfig::ropes`]; `None` where positions are learned.
    pub rope: Option<usize>,
}

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 1, 2, 3 and what is built like them.
    Llama,
    /// Mistral, with its sliding window.
    Mistral,
    /// Gemma 1.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// The text model of Gemma 3.
    Gemma3,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Phi 3, 3.5 and 4.
    Phi3,
    /// GPT-2.
    Gpt2,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::Mistral,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
        Self::Qwen2,
        Self::Qwen3,
        Self::Phi3,
        Self::Gpt2,
    ];

    /// The `model_type` of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Phi3 => "phi3",
            Self::Gpt2 => "gpt2",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Queries and keys are turned by [`Rope`]s.
    Rotary,
    /// A learned vector per position is added to the embedding: GPT-2.
    Learned,
}

/// What a norm computes, over the hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / √(mean(x²) + ε) · gain`.
    Rms,
    /// `(x − mean(x)) / √(var(x) + ε) · w + b`.
    Layer,
}

/// The part of a block that sees one position at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// `W_down · (act(W_gate x) ⊙ W_up x)`.
    Gated,
    /// `W_out · act(W_in x)`: GPT-2.
    Plain,
}

/// What a norm multiplies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// `w`.
    Plain,
    /// `1 + w`: Gemma stores the difference from 1.
    PlusOne,
}

/// Where in a block the norms stand; `f` is the attention or what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// `x + f(norm(x))`.
    Before,
    /// `x + norm(f(norm(x)))`: Gemma 2 and 3.
    Around,
}

/// The function of the gate, or of the one hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)`, exactly.
    Gelu,
    /// `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
}

/// Which projections of the attention have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionBias {
    /// None.
    None,
    /// q, k and v: Qwen 2.
    Input,
    /// All four.
    All,
}

/// How the projections are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projections {
    /// `q_proj`, `k_proj`, `v_proj`; `gate_proj`, `up_proj`.
    Separate,
    /// `qkv_proj`; `gate_up_proj`: Phi 3, and `c_attn` of GPT-2.
    Fused,
}

/// The key of a configuration that says whether the head is the embedding again.
pub const TIED: &str = "tie_word_embeddings";

/// The key of a configuration whose last matrices of each block are stored turned, with the value `true`: a file of Quench
/// alone, since other programs would have to turn what these matrices read.
pub const TURNED_MLP: &str = "quench_turned_mlp";

impl DecoderConfig {
    /// Reads `config.json`, of the newest layout (`rope_parameters`, `dtype`) or the older ones (`rope_theta`,
    /// `rope_scaling`, `torch_dtype`).
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not JSON; if the architecture or something it asks for is unknown, naming what
    /// is known; if a key is absent or makes no model, naming file and key.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let (family, fields) = family::of(Fields::read(path)?)?;
        let traits = family::traits(family, &fields)?;
        Self::from_fields(family, &fields, traits)
    }

    fn from_fields(family: Family, fields: &Fields, traits: Traits) -> Result<Self, ModelError> {
        let vocab_size = fields.size("vocab_size")?;
        let hidden_size = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let kv_heads = fields.optional_size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(fields.wrong("num_key_value_heads", format!("a divisor of num_attention_heads {heads}")));
        }
        let head_dim = match fields.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                return Err(fields.wrong("num_attention_heads", format!("a divisor of hidden_size {hidden_size}")));
            }
        };
        let (ropes, layers) = layers(fields, &traits, head_dim)?;
        Ok(Self {
            family,
            vocab_size,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            max_positions: fields.size("max_position_embeddings")?,
            positions: traits.positions,
            norm: traits.norm,
            norm_eps: fields.positive("rms_norm_eps")?,
            gain: traits.gain,
            norms: traits.norms,
            qk_norm: traits.qk_norm,
            feed: traits.feed,
            activation: traits.activation,
            attention_bias: traits.attention_bias,
            mlp_bias: traits.mlp_bias,
            projections: traits.projections,
            attention_scale: traits.query_scalar.unwrap_or(head_dim as f64).powf(-0.5),
            attention_cap: traits.attention_cap,
            logit_cap: traits.logit_cap,
            embedding_scale: if traits.scaled_embedding { (hidden_size as f64).sqrt() } else { 1.0 },
            tied: fields.optional_flag(TIED)?.unwrap_or(traits.tied),
            turned_mlp: fields.optional_flag(TURNED_MLP)?.unwrap_or(false),
            ropes,
            layers,
            bos: fields.token_ids("bos_token_id", vocab_size)?.first().copied(),
            eos: fields.token_ids("eos_token_id", vocab_size)?,
        })
    }
}

/// Far above every real model; a damaged file is refused before anything is allocated for it.
pub(crate) const MOST_LAYERS: usize = 4096;

/// The layers, each with its window and rotary embedding.
fn layers(fields: &Fields, traits: &Traits, head_dim: usize) -> Result<(Vec<Rope>, Vec<LayerConfig>), ModelError> {
    const FULL: &str = "full_attention";
    const SLIDING: &str = "sliding_attention";
    let count = fields.size("num_hidden_layers")?;
    if count > MOST_LAYERS {
        return Err(fields.wrong("num_hidden_layers", format!("at most {MOST_LAYERS}")));
    }
    let sliding: Vec<bool> = match fields.optional_texts("layer_types")? {
        Some(types) if types.len() != count => {
            return Err(fields.wrong("layer_types", format!("a list of num_hidden_layers {count} entries")));
        }
        Some(types) => types
            .into_iter()
            .map(|name| match name {
                FULL => Ok(false),
                SLIDING => Ok(true),
                other => Err(fields.unsupported("layer_types", other, &[FULL, SLIDING])),
            })
            .collect::<Result<_, _>>()?,
        None => (0..count).map(|index| traits.sliding.contains(index)).collect(),
    };
    // Where the family has no window, `sliding_attention` in the list asks for nothing.
    let window = traits.window;
    if traits.positions == Positions::Learned {
        let layer = |sliding: bool| LayerConfig { window: window.filter(|_| sliding), rope: None };
        return Ok((Vec::new(), sliding.into_iter().map(layer).collect()));
    }
    let (full, local) = ropes(fields, traits, head_dim)?;
    let shared = full == local;
    let ropes = if shared { vec![full] } else { vec![full, local] };
    let layers = sliding
        .into_iter()
        .map(|sliding| LayerConfig { window: window.filter(|_| sliding), rope: Some(usize::from(sliding && !shared)) })
        .collect();
    Ok((ropes, layers))
}

/// The rotary embeddings of full and of sliding layers, from either layout.
fn ropes(fields: &Fields, traits: &Traits, head_dim: usize) -> Result<(Rope, Rope), ModelError> {
    let theta = fields.optional_positive("rope_theta")?.unwrap_or(traits.rope_theta);
    let rotary = fields.optional_positive("partial_rotary_factor")?.unwrap_or(1.0);
    let read = |parameters: Option<&Fields>, theta| Rope::read(fields, parameters, theta, rotary, head_dim);
    // Before `rope_parameters`, the sliding layers of Gemma 3 had a key of their own, and were never scaled.
    let local = |full: &Rope| match fields.optional_positive("rope_local_base_freq")? {
        Some(theta) => read(None, theta),
        None => Ok(full.clone()),
    };
    if let Some(parameters) = fields.object("rope_parameters")? {
        if let (Some(full), sliding) = (parameters.object("full_attention")?, parameters.object("sliding_attention")?) {
            let full = read(Some(&full), theta)?;
            let sliding = match sliding {
                Some(sliding) => read(Some(&sliding), theta)?,
                None => full.clone(),
            };
            return Ok((full, sliding));
        }
        let full = read(Some(&parameters), theta)?;
        let local = local(&full)?;
        return Ok((full, local));
    }
    let full = read(fields.object("rope_scaling")?.as_ref(), theta)?;
    let local = local(&full)?;
    Ok((full, local))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::RopeScaling;

    fn read(config: &Value) -> Result<DecoderConfig, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        DecoderConfig::read(&path)
    }

    /// `base` with some keys replaced; null takes a key away.
    fn with(base: &Value, changes: Value) -> Value {
        let mut config = base.clone();
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => config.as_object_mut().unwrap().shift_remove(key),
                value => config.as_object_mut().unwrap().insert(key.clone(), value.clone()),
            };
        }
        config
    }

    fn llama() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 199, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-6, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": [2, 3],
            "tie_word_embeddings": false, "rope_parameters": { "rope_theta": 500000.0, "rope_type": "default" },
        })
    }

    fn gemma3() -> Value {
        with(
            &llama(),
            json!({
                "model_type": "gemma3_text", "head_dim": 16, "hidden_act": null, "num_hidden_layers": 7,
                "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 16, "query_pre_attn_scalar": 16,
                "tie_word_embeddings": null, "rope_parameters": null,
            }),
        )
    }

    #[test]
    fn the_common_keys() {
        let config = read(&llama()).unwrap();
        assert_eq!((config.heads, config.kv_heads, config.head_dim), (6, 2, 8));
        assert_eq!((config.bos, config.eos.as_slice()), (Some(1), [2, 3].as_slice()));
        assert_eq!(config.layers, [LayerConfig { window: None, rope: Some(0) }; 3]);
        assert_eq!(config.ropes, [Rope { theta: 500000.0, rotary: 8, scaling: RopeScaling::Default }]);
        assert_eq!(config.attention_scale, 8f64.powf(-0.5));
        // Llama 1 has one key head per query head, and does not say so.
        let config = read(&with(&llama(), json!({ "num_key_value_heads": null }))).unwrap();
        assert_eq!(config.kv_heads, 6);
    }

    #[test]
    fn the_older_layout_equals_the_newer() {
        let llama3 = json!({
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        });
        let phi = with(&llama(), json!({ "model_type": "phi3", "rope_parameters": null }));
        let cases = [
            (
                "llama",
                llama(),
                with(&llama(), json!({ "rope_parameters": null, "rope_theta": 500000.0, "torch_dtype": "bfloat16" })),
            ),
            (
                "llama3",
                with(
                    &llama(),
                    json!({ "rope_parameters": with(&llama3, json!({ "rope_theta": 1e4, "rope_type": "llama3" })) }),
                ),
                with(
                    &llama(),
                    json!({ "rope_parameters": null, "rope_theta": 1e4,
                            "rope_scaling": with(&llama3, json!({ "rope_type": "llama3" })) }),
                ),
            ),
            (
                "linear, oldest key",
                with(
                    &llama(),
                    json!({ "rope_parameters": { "rope_theta": 1e4, "rope_type": "linear", "factor": 4.0 } }),
                ),
                with(&llama(), json!({ "rope_parameters": null, "rope_scaling": { "type": "linear", "factor": 4.0 } })),
            ),
            (
                "phi3",
                with(&phi, json!({ "rope_parameters": { "rope_theta": 1e4, "partial_rotary_factor": 0.5 } })),
                with(&phi, json!({ "rope_theta": 1e4, "partial_rotary_factor": 0.5 })),
            ),
            (
                "gemma3",
                with(
                    &gemma3(),
                    json!({ "rope_parameters": {
                        "full_attention": { "rope_theta": 1e6, "rope_type": "linear", "factor": 8.0 },
                        "sliding_attention": { "rope_theta": 1e4, "rope_type": "default" },
                    }, "layer_types": [
                        "sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                        "sliding_attention", "full_attention", "sliding_attention",
                    ] }),
                ),
                with(
                    &gemma3(),
                    json!({ "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6,
                            "rope_scaling": { "rope_type": "linear", "factor": 8.0 } }),
                ),
            ),
        ];
        for (name, newer, older) in cases {
            assert_eq!(read(&newer).unwrap(), read(&older).unwrap(), "{name}");
        }
    }

    #[test]
    fn gemma3_has_two_ropes_and_a_full_layer_in_six() {
        let config = read(&gemma3()).unwrap();
        let expected = |theta| Rope { theta, rotary: 16, scaling: RopeScaling::Default };
        assert_eq!(config.ropes, [expected(1e6), expected(1e4)]);
        for (index, layer) in config.layers.iter().enumerate() {
            let full = index == 5;
            assert_eq!(
                *layer,
                LayerConfig { window: (!full).then_some(16), rope: Some(usize::from(!full)) },
                "{index}"
            );
        }
        assert!(config.tied && config.qk_norm);
        assert_eq!((config.attention_cap, config.logit_cap), (None, None));
    }

    #[test]
    fn gemma3_by_its_text_config() {
        let outer = json!({
            "model_type": "gemma3", "eos_token_id": [1, 106], "bos_token_id": 2,
            "text_config": { "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                "num_hidden_layers": 34, "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
                "sliding_window": 1024 },
        });
        let config = read(&outer).unwrap();
        assert_eq!((config.family, config.vocab_size, config.head_dim), (Family::Gemma3, 262_208, 256));
        assert_eq!((config.bos, config.eos.as_slice()), (Some(2), [1, 106].as_slice()));
        assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!(config.ropes[1].scaling, RopeScaling::Default);
        assert_eq!(config.layers.iter().filter(|layer| layer.window.is_none()).count(), 5);
    }

    #[test]
    fn gemma2_slides_in_every_other_layer_and_caps() {
        let config = with(&gemma3(), json!({ "model_type": "gemma2", "num_hidden_layers": 4 }));
        let config = read(&config).unwrap();
        let windows: Vec<_> = config.layers.iter().map(|layer| layer.window).collect();
        assert_eq!(windows, [Some(16), None, Some(16), None]);
        assert_eq!((config.attention_cap, config.logit_cap), (Some(50.0), Some(30.0)));
        // Null is a value: no cap.
        let mut uncapped = gemma3();
        uncapped["model_type"] = json!("gemma2");
        uncapped["final_logit_softcapping"] = Value::Null;
        assert_eq!(read(&uncapped).unwrap().logit_cap, None);
    }

    #[test]
    fn qwen_slides_only_when_told() {
        let qwen = with(&llama(), json!({ "model_type": "qwen2", "sliding_window": 16, "max_window_layers": 1 }));
        let windows =
            |config: &Value| -> Vec<_> { read(config).unwrap().layers.iter().map(|layer| layer.window).collect() };
        assert_eq!(windows(&qwen), [None; 3]);
        assert_eq!(windows(&with(&qwen, json!({ "use_sliding_window": true }))), [None, Some(16), Some(16)]);
    }

    #[test]
    fn gpt2_by_its_own_keys() {
        let gpt2 = json!({
            "model_type": "gpt2", "vocab_size": 199, "n_embd": 48, "n_head": 6, "n_layer": 3, "n_positions": 128,
            "n_inner": null, "layer_norm_epsilon": 1e-6, "bos_token_id": 1,
        });
        let config = read(&gpt2).unwrap();
        assert_eq!((config.hidden_size, config.heads, config.kv_heads, config.head_dim), (48, 6, 6, 8));
        assert_eq!((config.intermediate_size, config.max_positions, config.norm_eps), (192, 128, 1e-6));
        assert_eq!((config.positions, config.norm, config.feed), (Positions::Learned, NormKind::Layer, Feed::Plain));
        assert_eq!((config.activation, config.tied), (Activation::GeluTanh, true));
        assert_eq!(config.layers, [LayerConfig { window: None, rope: None }; 3]);
        assert_eq!(config.attention_scale, 8f64.powf(-0.5));
        let cases = [
            (json!({ "n_embd": 50 }), vec!["`n_head`", "divisor of hidden_size 50"]),
            (json!({ "n_layer": 0 }), vec!["`n_layer`", "found 0"]),
            (json!({ "activation_function": "relu6" }), vec!["`activation_function`", "relu6"]),
            (json!({ "scale_attn_by_inverse_layer_idx": true }), vec!["`scale_attn_by_inverse_layer_idx`", "true"]),
        ];
        for (change, words) in cases {
            let message = read(&with(&gpt2, change)).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{message:?} does not name {word:?}");
            }
        }
        assert_eq!(read(&with(&gpt2, json!({ "n_inner": 100 }))).unwrap().intermediate_size, 100);
    }

    #[test]
    fn what_makes_no_model_is_named() {
        let rope = |parameters: Value| json!({ "rope_parameters": parameters });
        let cases = [
            (json!({ "model_type": "mamba" }), vec!["model_type", "mamba", "llama", "gemma3", "phi3"]),
            (json!({ "model_type": null }), vec!["model_type", "nothing"]),
            (json!({ "hidden_size": null }), vec!["hidden_size", "nothing"]),
            (json!({ "hidden_size": 0 }), vec!["hidden_size", "found 0"]),
            (json!({ "hidden_size": 50 }), vec!["num_attention_heads", "divisor of hidden_size 50"]),
            (json!({ "hidden_size": -48 }), vec!["hidden_size", "-48"]),
            (json!({ "vocab_size": 1e30 }), vec!["vocab_size"]),
            (json!({ "vocab_size": "many" }), vec!["vocab_size", "many"]),
            (json!({ "num_key_value_heads": 4 }), vec!["num_key_value_heads", "divisor", "6"]),
            (json!({ "num_hidden_layers": 100_000_000 }), vec!["num_hidden_layers", "4096"]),
            (json!({ "head_dim": 7 }), vec!["head_dim", "even"]),
            (json!({ "rms_norm_eps": 0.0 }), vec!["rms_norm_eps", "above 0"]),
            (json!({ "hidden_act": "relu6" }), vec!["hidden_act", "relu6", "silu"]),
            (json!({ "eos_token_id": 199 }), vec!["eos_token_id", "199"]),
            (json!({ "layer_types": ["full_attention"] }), vec!["layer_types", "num_hidden_layers 3"]),
            (
                json!({ "layer_types": ["full_attention", "linear_attention", "full_attention"] }),
                vec!["layer_types", "linear_attention", "sliding_attention"],
            ),
            (rope(json!({ "rope_type": "longrope" })), vec!["rope_parameters.rope_type", "longrope", "llama3", "yarn"]),
            (rope(json!({ "rope_type": "linear" })), vec!["rope_parameters.factor"]),
            (rope(json!({ "rope_theta": -1.0 })), vec!["rope_parameters.rope_theta"]),
            (rope(json!("fast")), vec!["rope_parameters", "an object"]),
            (json!({ "partial_rotary_factor": 0.01 }), vec!["partial_rotary_factor"]),
        ];
        for (change, words) in cases {
            let message = read(&with(&llama(), change.clone())).unwrap_err().to_string();
            for word in words.into_iter().chain(["config.json"]) {
                assert!(message.contains(word), "{change}: {message:?} does not name {word:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_not_json_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        assert!(DecoderConfig::read(&path).unwrap_err().to_string().contains("config.json"));
        for text in ["", "{", "[1]", "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            assert!(DecoderConfig::read(&path).unwrap_err().to_string().contains("config.json"), "{text:?}");
        }
    }
}
