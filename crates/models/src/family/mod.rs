//! What differs between the families, and only that, as data.

mod gemma;
mod gpt2;
mod llama;
mod mistral;
mod phi;
mod qwen;

use serde_json::Value;

use crate::ModelError;
use crate::config::{Activation, AttentionBias, Family, Feed, Gain, NormKind, Norms, Positions, Projections};
use crate::fields::Fields;
use crate::load::Order;

/// The traits of a family, with the values that its configuration gives them.
#[derive(Clone, Debug)]
pub(crate) struct Traits {
    pub positions: Positions,
    pub norm: NormKind,
    pub feed: Feed,
    pub activation: Activation,
    pub attention_bias: AttentionBias,
    pub mlp_bias: bool,
    pub projections: Projections,
    pub gain: Gain,
    pub norms: Norms,
    pub qk_norm: bool,
    /// The attention scale is `query_scalar^(−1/2)`; the head width where absent.
    pub query_scalar: Option<f64>,
    pub attention_cap: Option<f64>,
    pub logit_cap: Option<f64>,
    /// Whether the embedding is multiplied by `√hidden_size`.
    pub scaled_embedding: bool,
    /// Whether the head is tied where the configuration does not say.
    pub tied: bool,
    /// θ where the configuration does not say.
    pub rope_theta: f64,
    /// The width of the sliding window, if there is one.
    pub window: Option<usize>,
    /// Which layers slide where the configuration does not list them.
    pub sliding: Sliding,
}

/// Which layers have the sliding window.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sliding {
    /// All of them.
    All,
    /// Those from this one on.
    From(usize),
    /// All but every n-th, counted from 1.
    AllButEvery(usize),
}

impl Sliding {
    pub(crate) fn contains(self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::From(first) => index >= first,
            Self::AllButEvery(period) => !(index + 1).is_multiple_of(period),
        }
    }
}

impl Traits {
    /// The common decoder: pre-norms, plain gains, separate projections without bias, full attention, untied head.
    fn plain(fields: &Fields) -> Result<Self, ModelError> {
        Ok(Self::bare(activation(fields, "hidden_act")?))
    }

    /// The same with a given gate.
    fn bare(activation: Activation) -> Self {
        Self {
            positions: Positions::Rotary,
            norm: NormKind::Rms,
            feed: Feed::Gated,
            activation,
            attention_bias: AttentionBias::None,
            mlp_bias: false,
            projections: Projections::Separate,
            gain: Gain::Plain,
            norms: Norms::Before,
            qk_norm: false,
            query_scalar: None,
            attention_cap: None,
            logit_cap: None,
            scaled_embedding: false,
            tied: false,
            rope_theta: 10_000.0,
            window: None,
            sliding: Sliding::All,
        }
    }
}

/// The family of a configuration, and the fields that describe its decoder.
///
/// A model that also sees images keeps its decoder's fields in `text_config`.
pub(crate) fn of(fields: Fields) -> Result<(Family, Fields), ModelError> {
    let name = fields.text("model_type")?.to_owned();
    let (family, mut fields) = if name == "gemma3" {
        let text = fields.object("text_config")?.ok_or_else(|| fields.wrong("text_config", "an object"))?;
        (Family::Gemma3, inherit(text, &fields))
    } else {
        let known = Family::ALL.map(Family::name).into_iter().chain(["gemma3"]).collect::<Vec<_>>();
        match Family::ALL.into_iter().find(|family| family.name() == name) {
            Some(family) => (family, fields),
            None => return Err(fields.unsupported("model_type", &name, &known)),
        }
    };
    // A checkpoint may write what was once a default as null.
    for key in ["rope_parameters", "rope_scaling"] {
        if fields.raw(key).is_some_and(|value| value.as_object().is_some_and(|object| object.is_empty())) {
            fields.set(key, Value::Null);
        }
    }
    let fields = match family {
        Family::Gemma => fields.with_defaults(gemma::defaults_1()),
        Family::Gemma2 => fields.with_defaults(gemma::defaults_2()),
        Family::Gemma3 => fields.with_defaults(gemma::defaults_3()),
        Family::Qwen3 => fields.with_defaults(qwen::defaults_3()),
        Family::Gpt2 => gpt2::respelled(fields)?,
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Phi3 => fields,
    };
    Ok((family, fields))
}

/// Token ids stand outside of `text_config`.
fn inherit(mut text: Fields, outer: &Fields) -> Fields {
    for key in ["bos_token_id", "eos_token_id", "tie_word_embeddings"] {
        if let (false, Some(value)) = (text.has(key), outer.raw(key)) {
            text.set(key, value.clone());
        }
    }
    text
}

/// The traits of `family` as `fields` give them.
pub(crate) fn traits(family: Family, fields: &Fields) -> Result<Traits, ModelError> {
    match family {
        Family::Llama => llama::traits(fields),
        Family::Mistral => mistral::traits(fields),
        Family::Gemma => gemma::traits_1(fields),
        Family::Gemma2 => gemma::traits_2(fields),
        Family::Gemma3 => gemma::traits_3(fields),
        Family::Qwen2 => qwen::traits_2(fields),
        Family::Qwen3 => qwen::traits_3(fields),
        Family::Phi3 => phi::traits(fields),
        Family::Gpt2 => gpt2::traits(fields),
    }
}

/// What a family calls its tensors, and how it stores them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Where the decoder may stand in a file; the first that has the embedding.
    pub prefixes: &'static [&'static str],
    pub embedding: &'static str,
    /// The learned positions, in a family that has them.
    pub positions: &'static str,
    /// Before the number of a block.
    pub blocks: &'static str,
    pub before_attention: &'static str,
    /// Where the norms stand before; around, the names say where.
    pub before_mlp: &'static str,
    pub last_norm: &'static str,
    pub attention: &'static str,
    /// q, k and v in one.
    pub qkv: &'static str,
    pub attention_output: &'static str,
    /// Gate and up in one, or the one hidden layer.
    pub mlp_input: &'static str,
    pub mlp_output: &'static str,
    /// The order of the matrices inside of blocks.
    pub order: Order,
}

/// Nearly all families; models that also see images keep the decoder one or two names down.
const COMMON: Names = Names {
    prefixes: &["model.", "language_model.model.", "model.language_model."],
    embedding: "embed_tokens",
    positions: "embed_positions",
    blocks: "layers",
    before_attention: "input_layernorm",
    before_mlp: "post_attention_layernorm",
    last_norm: "norm",
    attention: "self_attn",
    qkv: "qkv_proj",
    attention_output: "o_proj",
    mlp_input: "gate_up_proj",
    mlp_output: "down_proj",
    order: Order::OutIn,
};

/// The names that `family` has in its files.
pub(crate) fn names(family: Family) -> &'static Names {
    match family {
        Family::Gpt2 => &gpt2::NAMES,
        _ => &COMMON,
    }
}

/// The gate's function, by its name in the reference library.
pub(crate) fn activation(fields: &Fields, key: &str) -> Result<Activation, ModelError> {
    match fields.text(key)? {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(fields.unsupported(key, other, &["silu", "gelu", "gelu_pytorch_tanh", "gelu_new"])),
    }
}

/// A bias on all four attention projections, if the configuration asks for it.
fn attention_bias(fields: &Fields) -> Result<AttentionBias, ModelError> {
    Ok(if fields.flag("attention_bias")? { AttentionBias::All } else { AttentionBias::None })
}
