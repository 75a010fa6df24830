//! What the user asked for.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use quench_format::{Code, FloatKind, Group, Scale};
use serde::{Deserialize, Serialize};

use crate::quantizer::{Method, Order, Refine, ScaleSearch};
use crate::{Balance, CodeChoice, QuantizeError, Target, text};

/// A request in the user's words: rules over layer names, calibration, and gates.
///
/// Read from TOML; unknown keys are errors that name the nearest valid key. The first rule whose pattern matches a
/// layer decides about it; a layer that no rule matches stays dense.
///
/// ```
/// let recipe = quench_quantize::Recipe::from_toml(r#"
///     name = "gptq-int4-g128"
///     [[rules]]
///     layers = "*"
///     code = "int4"
///     group = 128
/// "#)?;
/// assert_eq!(recipe.rules.len(), 1);
/// # Ok::<(), quench_quantize::QuantizeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A name for reports and file names.
    pub name: String,
    /// One line about it, shown by `quench recipes`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Which ends of the model stay dense whatever the rules say.
    #[serde(default)]
    pub keep: Keep,
    /// The calibration inputs.
    #[serde(default)]
    pub calibration: Calibration,
    /// How the result is measured.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// What is done to the network before it is quantized, in this order; what does not apply to it is left out.
    #[serde(default = "Transform::usual")]
    pub transforms: Vec<Transform>,
    /// What is done to which layers; the first match decides.
    pub rules: Vec<Rule>,
    /// The limits that the result must hold.
    #[serde(default)]
    pub gates: Gates,
}

/// A change to the network that leaves what it computes as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// Batch norms become part of the convolutions before them.
    FoldBatchNorms,
    /// The residual stream is turned by a random Hadamard matrix, at no cost afterwards but for a head that was tied.
    RotateResidual,
    /// The values of each head are turned, at no cost afterwards.
    RotateHeads,
    /// What the last matrix of each block reads is turned, each time that the network runs.
    RotateMlp,
    /// Channels are scaled by [`Balance::Awq`].
    Awq,
    /// Channels are scaled by [`Balance::SmoothQuant`].
    #[serde(rename = "smoothquant")]
    SmoothQuant,
}

impl Transform {
    /// Those of a recipe that names none.
    pub fn usual() -> Vec<Self> {
        vec![Self::FoldBatchNorms]
    }

    /// How it finds the scales of channels, where that is what it does.
    pub const fn balance(self) -> Option<Balance> {
        match self {
            Self::Awq => Some(Balance::Awq),
            Self::SmoothQuant => Some(Balance::SmoothQuant),
            Self::FoldBatchNorms | Self::RotateResidual | Self::RotateHeads | Self::RotateMlp => None,
        }
    }

    /// Whether it is a rotation, which is done only where plain rounding is predicted to gain by it.
    pub const fn is_rotation(self) -> bool {
        matches!(self, Self::RotateResidual | Self::RotateHeads | Self::RotateMlp)
    }
}

/// As in recipes: `fold-batch-norms`.
impl std::fmt::Display for Transform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FoldBatchNorms => "fold-batch-norms",
            Self::RotateResidual => "rotate-residual",
            Self::RotateHeads => "rotate-heads",
            Self::RotateMlp => "rotate-mlp",
            Self::Awq => Balance::Awq.name(),
            Self::SmoothQuant => Balance::SmoothQuant.name(),
        })
    }
}

/// The ends of the model, which rules reach only if they are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Keep the token embedding dense.
    pub embeddings: bool,
    /// Keep the output head dense.
    pub head: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self { embeddings: true, head: true }
    }
}

/// How many calibration tokens are drawn, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calibration {
    /// Sequences in all, shared equally among the languages.
    pub samples: usize,
    /// Tokens per sequence.
    pub length: usize,
    /// Sequences that run through the model together.
    pub batch: usize,
    /// Seed of the draw.
    pub seed: u64,
    /// Whether layers are calibrated on what the quantized layers before them in the same block give, and not only on
    /// what the blocks before give.
    pub sequential: bool,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { samples: 128, length: 256, batch: 8, seed: 0, sequential: true }
    }
}

/// How the result is compared with the dense model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Tokens per window.
    pub length: usize,
    /// Tokens from one window to the next; equal to `length` for disjoint windows.
    pub stride: usize,
    /// Windows scored per language.
    pub windows: usize,
    /// Windows that run through the model together.
    pub batch: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { length: 256, stride: 256, windows: 60, batch: 8 }
    }
}

/// What is done to the layers that a pattern matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Glob over layer names (`*` any text, `?` one character), e.g. `"*.mlp.*"`.
    pub layers: String,
    /// `quantize` (the default) or `keep`.
    #[serde(default)]
    pub action: Action,
    /// The code of the result, e.g. `"int4"`, `"uint4"`, `"nf4"`, `"e2m1"`, `"slog5:mu8"`, or `"slog5:mu*"` to have `mu`
    /// searched for every matrix.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeChoice>,
    /// Codes of earlier cascade stages, e.g. `["int8"]` for INT8 to INT4; empty for direct quantization.
    #[serde(default, with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub cascade: Vec<CodeChoice>,
    /// Who shares a scale: `"tensor"`, `"row"` or a number of columns; 128 where it is not said, `"tensor"` for the
    /// [published codec](Rule::is_published_codec).
    #[serde(default, with = "text::group", skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// How a scale is kept: `"f32"`, `"f16"`, `"bf16"`, or nested as in `"int8/16:f32"`; `"f16"` where it is not said,
    /// `"f32"` for the published codec.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// How the minimum of a group is kept, as `scale` is, where an affine code is to have one in place of a zero point: `"f16"`, or
    /// `"uint6/8:f16"` for the blocks of llama.cpp.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Scale>,
    /// The quantizer: `"gptq"` or `"rtn"`.
    #[serde(default)]
    pub method: MethodName,
    /// How scales are found: `"mse"`, `"gram"`, `"absmax"` or `"none"`; `"mse"` where it is not said, `"absmax"` for the
    /// published codec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<ScaleSearch>,
    /// GPTQ: the order in which columns are rounded.
    #[serde(default)]
    pub order: Order,
    /// GPTQ: damping relative to the mean of the Gram diagonal.
    #[serde(default = "default_damping")]
    pub damping: f64,
    /// GPTQ: columns per lazy batch update.
    #[serde(default = "default_block")]
    pub block: usize,
    /// Whether scales and zero points are refitted to the codes in closed form; where it is not said, GPTQ does and plain
    /// rounding does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refit: Option<bool>,
    /// Most sweeps of coordinate descent over the codes; where it is not said, 4 for GPTQ and 0 for plain rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descent: Option<usize>,
    /// Most sweeps over pairs of codes after that; where it is not said, 2 for GPTQ and 0 for plain rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<usize>,
    /// GPTQ: how often the columns are rounded anew on the refitted grid, each row keeping the best; where it is not said, 2,
    /// or 0 without `refit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<usize>,
    /// GPTQ: which part of what the layers before have lost a layer makes up for, 0 to 1.
    #[serde(default = "default_feedback")]
    pub feedback: f64,
}

/// Whether a rule quantizes or keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Quantize the layers.
    #[default]
    Quantize,
    /// Leave them dense.
    Keep,
}

/// The quantizers by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// Round to nearest; needs no calibration.
    Rtn,
    /// GPTQ; needs the Gram matrix of the inputs.
    #[default]
    Gptq,
}

/// Sweeps where a recipe does not say.
const DESCENT: usize = 4;
/// Sweeps over pairs, and restarts.
const PAIRS: usize = 2;
const RESTARTS: usize = 2;

fn default_damping() -> f64 {
    0.01
}
fn default_feedback() -> f64 {
    1.0
}
fn default_block() -> usize {
    128
}

/// Limits that the result must hold; a limit that is not given is not checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// Largest allowed `perplexity / dense perplexity − 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_perplexity_increase: Option<f64>,
    /// Largest allowed mean KL divergence, nats per token or image; of vectors of sentences `1 − cos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kl: Option<f64>,
    /// Smallest allowed top-1 agreement, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_agreement: Option<f64>,
    /// Largest allowed `dense accuracy − accuracy`, a share of the images, or of a probe's texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_accuracy_drop: Option<f64>,
    /// Largest allowed `dense correlation − correlation` with people's scores of pairs of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_correlation_drop: Option<f64>,
    /// Smallest allowed overlap of each text's 10 nearest neighbours with those in the dense model, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_neighbours: Option<f64>,
    /// Smallest allowed compression: bytes of the dense checkpoint over bytes of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_compression: Option<f64>,
    /// Limits for single languages.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub languages: BTreeMap<String, LanguageGates>,
}

/// Limits for one language.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageGates {
    /// Largest allowed `perplexity / dense perplexity − 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_perplexity_increase: Option<f64>,
    /// Largest allowed mean KL divergence, nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kl: Option<f64>,
    /// Smallest allowed top-1 agreement, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_agreement: Option<f64>,
}

impl Recipe {
    /// Reads a recipe from TOML.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] for a syntax error, an unknown key (with the nearest valid one), or a value out of
    /// range; [`QuantizeError::Rule`] for a rule that contradicts itself.
    pub fn from_toml(source: &str) -> Result<Self, QuantizeError> {
        let recipe: Self = text::from_toml(source)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The recipe as TOML; defaults are written out but for those that depend on the code.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| unreachable!("a recipe is plain data: {error}"))
    }

    /// The same recipe without earlier cascade stages: direct quantization at the same final bits.
    pub fn direct(&self) -> Self {
        let mut direct = self.clone();
        direct.rules.iter_mut().for_each(|rule| rule.cascade.clear());
        direct
    }

    /// Whether any rule has earlier cascade stages.
    pub fn is_cascade(&self) -> bool {
        self.rules.iter().any(|rule| !rule.cascade.is_empty())
    }

    /// Takes the scales from every rule of the published codec, which then refuses weights outside [-1, 1].
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] if no rule has a code of that codec.
    pub fn without_scales(mut self) -> Result<Self, QuantizeError> {
        let published = |code: CodeChoice| matches!(code, CodeChoice::Code(Code::PublishedLog { .. }));
        let mut rules: Vec<&mut Rule> = self.rules.iter_mut().filter(|rule| rule.code.is_some_and(published)).collect();
        if rules.is_empty() {
            return Err(invalid("no rule has a code that does without a scale; that is plog2..plog16".into()));
        }
        rules.iter_mut().for_each(|rule| rule.search = Some(ScaleSearch::Unscaled));
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), QuantizeError> {
        let Calibration { samples, length, batch, .. } = self.calibration;
        let sizes = [
            ("calibration.samples", samples),
            ("calibration.length", length),
            ("calibration.batch", batch),
            ("evaluation.length", self.evaluation.length),
            ("evaluation.stride", self.evaluation.stride),
            ("evaluation.windows", self.evaluation.windows),
            ("evaluation.batch", self.evaluation.batch),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, value)| *value == 0) {
            return Err(invalid(format!("`{key}` is 0; it must be at least 1")));
        }
        if self.evaluation.length < 2 || self.evaluation.stride > self.evaluation.length {
            return Err(invalid("`evaluation.length` must be at least 2 and `evaluation.stride` at most that".into()));
        }
        if self.rules.is_empty() {
            return Err(invalid("there is no [[rules]] entry, so nothing would be quantized".into()));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|reason| QuantizeError::Rule {
                rule: index + 1,
                pattern: rule.layers.clone(),
                reason,
            })?;
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if self.action == Action::Keep {
            return Ok(());
        }
        let Some(code) = self.code else {
            return Err("it has no `code`; give one, e.g. code = \"int4\", or action = \"keep\"".into());
        };
        if !(self.damping > 0.0 && self.damping.is_finite()) {
            return Err(format!("`damping` is {}; it must be a positive number such as 0.01", self.damping));
        }
        if !(0.0..=1.0).contains(&self.feedback) {
            return Err(format!("`feedback` is {}; it is a part, from 0 to 1", self.feedback));
        }
        if self.block == 0 {
            return Err("`block` is 0; it must be at least 1".into());
        }
        if self.method == MethodName::Gptq
            && self.order == Order::Activation
            && matches!(self.scale, Some(Scale::Nested { .. }))
        {
            return Err("`order = \"activation\"` stores an order and cannot be combined with nested scales; \
                        use order = \"static\""
                .into());
        }
        let method = self.method();
        self.stages(code).iter().try_for_each(|target| method.check(*target))
    }

    /// Whether this asks for the published signed-log codec as it is: its code, and its own map instead of the nearest
    /// level, which is how plain rounding writes that code.
    pub fn is_published_codec(&self) -> bool {
        let code = matches!(self.code, Some(CodeChoice::Code(Code::PublishedLog { .. })));
        code && self.method == MethodName::Rtn
    }

    /// The targets of all stages, `code` in the last.
    pub(crate) fn stages(&self, code: CodeChoice) -> Vec<Target> {
        let (group, scale) = if self.is_published_codec() {
            (Group::Tensor, FloatKind::F32)
        } else {
            (Group::Columns(NonZeroU32::new(128).unwrap_or(NonZeroU32::MIN)), FloatKind::F16)
        };
        let (group, scale) = (self.group.unwrap_or(group), self.scale.unwrap_or(Scale::Float(scale)));
        let minimum = self.minimum;
        self.cascade.iter().copied().chain([code]).map(|code| Target { code, group, scale, minimum }).collect()
    }

    /// The quantizer that this rule asks for.
    pub fn method(&self) -> Method {
        let search = match self.search {
            Some(search) => search,
            None if self.is_published_codec() => ScaleSearch::AbsMax,
            None => ScaleSearch::default(),
        };
        let refines = self.method == MethodName::Gptq;
        let refine = Refine {
            refit: self.refit.unwrap_or(refines),
            descent: self.descent.unwrap_or(if refines { DESCENT } else { 0 }),
            pairs: self.pairs.unwrap_or(if refines { PAIRS } else { 0 }),
        };
        let restarts = self.restarts.unwrap_or(if refine.refit { RESTARTS } else { 0 });
        match self.method {
            MethodName::Rtn => Method::Rtn { search, refine },
            MethodName::Gptq => Method::Gptq {
                search,
                order: self.order,
                damping: self.damping,
                block: self.block,
                refine,
                restarts,
                feedback: self.feedback,
            },
        }
    }
}

fn invalid(message: String) -> QuantizeError {
    QuantizeError::Recipe { message, nearest: None }
}

/// Whether `name` matches the glob `pattern` (`*` any text, `?` one character).
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            // Let the last star take one character more.
            star = Some((at, taken + 1));
            p = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*", "model.layers.0.mlp.up_proj", true),
            ("*.mlp.*", "model.layers.0.mlp.up_proj", true),
            ("*.mlp.*", "model.layers.0.self_attn.q_proj", false),
            ("*.?_proj", "model.layers.0.self_attn.q_proj", true),
            ("lm_head", "lm_head", true),
            ("lm_head", "lm_heads", false),
            ("*layers.1.*", "model.layers.11.mlp", false),
            ("", "x", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn unknown_key_names_the_nearest() {
        let error =
            Recipe::from_toml("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngruop = 64\n").unwrap_err();
        assert!(error.to_string().contains("did you mean `group`?"), "{error}");
        assert!(error.to_string().contains("gruop"), "{error}");
    }

    #[test]
    fn defaults_and_errors() {
        let recipe = Recipe::from_toml("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\n").unwrap();
        assert_eq!(recipe.rules[0].stages(recipe.rules[0].code.unwrap())[0].to_string(), "int4/128/f16");
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
        assert!(recipe.keep.embeddings && recipe.keep.head);
        for (bad, expected) in [
            ("name = \"x\"\nrules = []\n", "no [[rules]]"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\n", "has no `code`"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int17\"\n", "int17"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ngroup = 0\n", "group"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\ndamping = -1\n", "damping"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\nfeedback = 1.5\n", "from 0 to 1"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\nsearch = \"none\"\n", "plog2..plog16"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\nsearch = \"grma\"\n", "did you mean `gram`?"),
            ("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"int4:mu*\"\n", "slog2:mu*"),
            (
                "name = \"x\"\n[calibration]\nsamples = 0\n[[rules]]\nlayers = \"*\"\ncode = \"int4\"\n",
                "calibration.samples",
            ),
        ] {
            let error = Recipe::from_toml(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn the_published_codec_has_defaults_of_its_own() {
        let rule = |text: &str| {
            let text = format!("name = \"x\"\n[[rules]]\nlayers = \"*\"\n{text}\n");
            let rule = Recipe::from_toml(&text).unwrap().rules.remove(0);
            let method = rule.method();
            format!("{} {} {:?}", rule.stages(rule.code.unwrap())[0], method.name(), method.search())
        };
        assert_eq!(rule("code = \"plog5\"\nmethod = \"rtn\""), "plog5/tensor/f32 rtn AbsMax");
        assert_eq!(
            rule("code = \"plog5\"\nmethod = \"rtn\"\ngroup = 64\nsearch = \"gram\"\nscale = \"f16\""),
            "plog5/64/f16 rtn Gram"
        );
        assert_eq!(rule("code = \"plog5\""), "plog5/128/f16 gptq Mse");
        assert_eq!(rule("code = \"slog5:mu*\"\nmethod = \"rtn\""), "slog5:mu*/128/f16 rtn Mse");
    }

    #[test]
    fn scales_are_taken_from_the_published_codec_alone() {
        let recipe = |code: &str| {
            let text = format!("name = \"x\"\n[[rules]]\nlayers = \"*\"\ncode = \"{code}\"\nmethod = \"rtn\"\n");
            Recipe::from_toml(&text).unwrap()
        };
        let unscaled = recipe("plog4").without_scales().unwrap();
        assert_eq!(unscaled.rules[0].method(), Method::rtn(ScaleSearch::Unscaled));
        assert_eq!(Recipe::from_toml(&unscaled.to_toml()).unwrap(), unscaled);
        let error = recipe("slog4").without_scales().unwrap_err().to_string();
        assert!(error.contains("plog2..plog16"), "{error}");
    }
}
