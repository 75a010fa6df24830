//! The model card: what stands beside a result for whoever finds it, on a hub or in a folder.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use quench_eval::{Comparison, Interval, Measured};
use quench_hub::{Cache, Reference};
use quench_models::{Kind, companion};
use quench_quantize::{Plan, Planned};

use crate::{CalibrationSize, JobError, Report};

/// The card's name, and that of the dense model's card before it.
pub(crate) const CARD: &str = "README.md";

/// What the card of the dense model is called beside ours.
pub(crate) const BASE_CARD: &str = "README.base.md";

/// What the head of a card says of a model that is still true once it is quantized.
const INHERITED: [&str; 5] = ["license", "license_name", "license_link", "language", "pipeline_tag"];

/// What is known of the dense model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base {
    /// Where it is on the hub.
    pub(crate) reference: Option<Reference>,
    /// Its own card.
    pub(crate) card: Option<Vec<u8>>,
}

impl Base {
    /// Of the model at `path`. One that was downloaded says by its place where it came from.
    pub(crate) fn of(path: &Path) -> Result<Self, JobError> {
        let real = || path.canonicalize().ok().and_then(|path| Cache::reference(&path));
        let card = match companion(path, CARD) {
            Ok(card) => Some(card),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(JobError::Read { path: path.join(CARD), source }),
        };
        Ok(Self { reference: Cache::reference(path).or_else(real), card })
    }
}

/// The card of a result, as Markdown with the head that hubs read.
///
/// It names no folder of this machine and no time, so the same job gives the same card.
pub(crate) fn card(report: &Report, kind: Kind, base: &Base) -> String {
    [
        head(report, kind, base),
        title(report, base),
        size(report),
        layers(&report.plan, report),
        loss(report),
        calibration(&report.calibration),
        usage(kind, base),
        recipe(report),
    ]
    .join("\n")
}

/// A name with `*` for the number of a block: `model.layers.*.mlp.up_proj`.
pub fn layer_kind(name: &str) -> String {
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').map(|word| if is_number(word) { "*" } else { word }).collect::<Vec<_>>().join(".")
}

fn head(report: &Report, kind: Kind, base: &Base) -> String {
    let mut head = "---\nlibrary_name: quench\n".to_owned();
    if let Some(reference) = &base.reference {
        head.push_str(&format!("base_model: {}\nbase_model_relation: quantized\n", reference.repository()));
    }
    let inherited = base.card.as_deref().map(inherited).unwrap_or_default();
    head.push_str(&inherited);
    if !inherited.lines().any(|line| line.starts_with("pipeline_tag:")) {
        let task = match kind {
            Kind::Decoder => "text-generation",
            Kind::Encoder => "sentence-similarity",
            Kind::ResNet => "image-classification",
        };
        head.push_str(&format!("pipeline_tag: {task}\n"));
    }
    head.push_str("tags:\n- quench\n- quantized\n");
    let treatments = || report.plan.layers.iter().filter_map(|layer| layer.treatment.as_ref());
    let mut tags: BTreeSet<String> = treatments().map(|treatment| treatment.method.name().to_owned()).collect();
    tags.extend(treatments().filter_map(|treatment| {
        let target = treatment.stages.last()?.to_string();
        // A curvature has a colon, which would be a key.
        target.split(['/', ':']).next().map(str::to_owned)
    }));
    tags.iter().for_each(|tag| head.push_str(&format!("- {tag}\n")));
    head.push_str(&format!("quantized_by: quench {}\n---\n", report.version));
    head
}

/// The lines of a card's head that are taken over, as they are.
fn inherited(card: &[u8]) -> String {
    let text = String::from_utf8_lossy(card);
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return String::new();
    }
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let mut taken = String::new();
    let mut within = false;
    for line in head {
        // What is indented, or a dash, goes on with the key before it.
        if !line.starts_with([' ', '\t', '-', '#']) && !line.is_empty() {
            within = line.split_once(':').is_some_and(|(key, _)| INHERITED.contains(&key.trim()));
        }
        if within && !line.trim().is_empty() {
            taken.push_str(&format!("{}\n", line.trim_end()));
        }
    }
    taken
}

fn title(report: &Report, base: &Base) -> String {
    let (recipe, version) = (&report.recipe.name, &report.version);
    let by = format!("quantized by [Quench]({}) {version} with the recipe `{recipe}`", env!("CARGO_PKG_REPOSITORY"));
    let text = match &base.reference {
        Some(reference) => {
            let (repository, revision) = (reference.repository(), reference.revision());
            let file = reference.file().map(|file| format!(", file `{file}`")).unwrap_or_default();
            format!(
                "# {}, {recipe}\n\n[{repository}](https://huggingface.co/{repository}) at commit `{revision}`{file}, {by}.\n",
                reference.name()
            )
        }
        None => format!("# A model quantized with {recipe}\n\nA dense model, {by}.\n"),
    };
    match base.card {
        Some(_) => format!("{text}\nThe card of the dense model, as it was, is in [{BASE_CARD}]({BASE_CARD}).\n"),
        None => text,
    }
}

fn size(report: &Report) -> String {
    let size = &report.size;
    let dense_bits = 8.0 * size.dense_bytes as f64 / size.parameters.max(1) as f64;
    let rows = [
        ["bytes of tensors".to_owned(), grouped(size.dense_bytes), grouped(size.bytes)],
        [
            "bits per parameter, over the whole model".to_owned(),
            format!("{dense_bits:.3}"),
            format!("{:.3}", size.bits_per_parameter),
        ],
        [
            "bits per weight in the quantized layers, with scales".to_owned(),
            String::new(),
            format!("{:.3}", size.bits_per_weight),
        ],
    ];
    let table = table(&["", "dense", "quantized"], 1, &rows.map(Vec::from));
    format!(
        "## Size\n\n{table}\n{} parameters; {:.2} times smaller than the dense checkpoint was stored, {:.2} times smaller than in \
         32 bits.\n",
        grouped(size.parameters),
        size.compression,
        size.compression_f32
    )
}

/// A row for each kind of layer that is treated alike.
fn layers(plan: &Plan, report: &Report) -> String {
    let mut kinds: Vec<([String; 4], Vec<&Planned>)> = Vec::new();
    for layer in &plan.layers {
        let (scheme, method) = match &layer.treatment {
            None => ("dense".to_owned(), String::new()),
            Some(treatment) => {
                let stages: Vec<String> = treatment.stages.iter().map(ToString::to_string).collect();
                (stages.join(" > "), treatment.method.name().to_owned())
            }
        };
        let key = [layer_kind(&layer.name), format!("{:?}", layer.shape), scheme, method];
        match kinds.iter_mut().find(|(found, _)| *found == key) {
            Some((_, members)) => members.push(layer),
            None => kinds.push((key, vec![layer])),
        }
    }
    let rows: Vec<Vec<String>> = kinds
        .into_iter()
        .map(|([kind, shape, scheme, method], members)| {
            let entries = members.iter().filter_map(|layer| report.ledger.last(&layer.name));
            let bits: Vec<f64> = entries.map(|entry| entry.bits_per_weight).collect();
            // They are of one shape, so each counts alike.
            let mean = bits.iter().sum::<f64>() / bits.len().max(1) as f64;
            let bits = if bits.is_empty() { String::new() } else { format!("{mean:.3}") };
            let name = if let [only] = members[..] { only.name.clone() } else { kind };
            vec![format!("`{name}`"), shape, scheme, method, members.len().to_string(), bits]
        })
        .collect();
    let table = table(&["layers", "shape", "scheme", "method", "number", "bits per weight"], 4, &rows);
    let done = report.transforms.iter().filter(|done| done.applied);
    let done: Vec<String> = done.map(|done| format!("`{}`", done.transform)).collect();
    let before = match done.is_empty() {
        true => String::new(),
        false => format!(" Before that the network was transformed by {}.", done.join(", ")),
    };
    format!("{table}\nA scheme is code / group / scale. `plan.toml` has every layer.{before}\n")
}

fn loss(report: &Report) -> String {
    let mut text = "## Loss\n\n".to_owned();
    match &report.comparison {
        None => text.push_str("Not measured: no evaluation data was given.\n"),
        Some(Measured::Texts(comparison)) => {
            text.push_str("Against the dense model, on the same tokens of text. KL divergence in nats per token.\n\n");
            text.push_str(&texts(comparison));
        }
        Some(other) => text.push_str(&format!("Against the dense model, on the same data.\n\n{}", other.table())),
    }
    if let Some(cascade) = &report.cascade {
        text.push_str(&format!("\nCascade or direct? {}.\n", cascade.sentence));
    }
    if !report.gates.is_empty() {
        text.push_str("\nLimits that the recipe sets:\n\n");
        report.gates.iter().for_each(|gate| text.push_str(&format!("- {gate}\n")));
    }
    text
}

/// A row for all texts and one for each language, of each candidate.
fn texts(comparison: &Comparison) -> String {
    let percent = |value: f64| format!("{:.2} %", 100.0 * value);
    let change = |value: f64| format!("{:+.2} %", 100.0 * value);
    let nats = |value: f64| format!("{value:.5}");
    let several = comparison.candidates.len() > 1;
    let rows: Vec<Vec<String>> = comparison
        .candidates
        .iter()
        .flat_map(|candidate| {
            let whole = [("all", &candidate.total)].into_iter();
            let languages = candidate.languages.iter().map(|(name, score)| (name.as_str(), score));
            whole.chain(languages).map(|(text, score)| {
                vec![
                    if several { format!("{}, {text}", candidate.name) } else { text.to_owned() },
                    score.tokens.to_string(),
                    format!("{:.3}", score.dense_perplexity),
                    format!("{:.3}", score.perplexity),
                    within(score.increase, score.increase_interval, &change),
                    within(score.kl.mean, score.kl_interval, &nats),
                    within(score.agreement, score.agreement_interval, &percent),
                ]
            })
        })
        .collect();
    let header =
        ["text", "tokens", "dense perplexity", "perplexity", "increase", "mean KL divergence", "top-1 agreement"];
    let intervals = comparison.candidates.iter().filter_map(|candidate| candidate.total.kl_interval).next();
    let legend = intervals.map(|interval| {
        format!("\nIn brackets: bootstrap intervals of {:.0} %, over windows of text.\n", 100.0 * interval.level)
    });
    table(&header, 1, &rows) + &legend.unwrap_or_default()
}

/// A value, and the bounds of its interval in brackets.
fn within(value: f64, interval: Option<Interval>, write: &dyn Fn(f64) -> String) -> String {
    match interval {
        Some(Interval { low, high, .. }) => format!("{} ({} to {})", write(value), write(low), write(high)),
        None => write(value),
    }
}

fn calibration(size: &CalibrationSize) -> String {
    let CalibrationSize { unit, samples, tokens, languages } = size;
    if *samples == 0 {
        return "## Calibration\n\nNone: the recipe needs no data.\n".to_owned();
    }
    let plural = if *samples == 1 { "" } else { "s" };
    let tokens = if *tokens > 0 { format!(", {tokens} tokens") } else { String::new() };
    let parts: Vec<String> = languages.iter().map(|(name, tokens)| format!("{name} {tokens}")).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!("## Calibration\n\n{samples} {unit}{plural}{tokens}{parts}.\n")
}

fn usage(kind: Kind, base: &Base) -> String {
    let (note, dense) = match &base.reference {
        Some(reference) => ("", reference.to_string()),
        None => (" `DENSE` is the folder of the dense model, or its hf:OWNER/NAME.", "DENSE".to_owned()),
    };
    let generate = if kind == Kind::Decoder { "quench generate . --prompt 'TEXT'\n" } else { "" };
    let rust = match kind {
        Kind::Decoder => {
            "\nFrom Rust:\n\n```rust\nlet mut model = quench::models::open(folder, &Default::default())?;\nmodel.load_all()?;\n```\n"
        }
        Kind::Encoder | Kind::ResNet => "",
    };
    format!(
        "## Use\n\nIn this folder, or with hf:OWNER/NAME for the dot once it is on the hub.{note}\n\n```sh\n{generate}quench inspect .\n\
         quench eval . --against {dense} --data PATH\n```\n{rust}"
    )
}

fn recipe(report: &Report) -> String {
    format!("## Recipe\n\n```toml\n{}\n```\n", report.recipe.to_toml().trim_end())
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A Markdown table; columns from `numbers` on are aligned right.
fn table(header: &[&str], numbers: usize, rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = (0..header.len()).map(|at| if at < numbers { "---" } else { "---:" }.to_owned());
    let rule: Vec<String> = rule.collect();
    [line(&header), line(&rule)].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use quench_eval::{CandidateScore, ModelScore, Perplexity, Score, Summary, check};
    use quench_nn::{LayerInfo, Role};
    use quench_quantize::recipe::Transform;
    use quench_quantize::{Entry, Ledger, Recipe};

    use super::*;
    use crate::report::Transformed;
    use crate::{Seconds, Size};

    const RECIPE: &str = "\
name = \"test\"
[gates]
max_kl = 0.1
[[rules]]
layers = \"*\"
code = \"int4\"
group = 128
method = \"rtn\"
";

    /// Two blocks of one layer, and a head that stays dense.
    fn report(recipe: &str) -> Report {
        let recipe = Recipe::from_toml(recipe).unwrap();
        let layer = |name: &str, role| LayerInfo {
            name: name.to_owned(),
            site: "x".to_owned(),
            shape: [256, 128],
            role,
            block: None,
            residual: None,
        };
        let layers = [
            layer("model.layers.0.up_proj", Role::Block),
            layer("model.layers.1.up_proj", Role::Block),
            layer("lm_head", Role::Head),
        ];
        let plan = recipe.plan(&layers).unwrap();
        let entry = |layer: &LayerInfo| Entry {
            layer: layer.name.clone(),
            stage: 0,
            scheme: "int4/128/f16".to_owned(),
            method: "rtn".to_owned(),
            shape: layer.shape,
            bits_per_weight: 4.125,
            weight_snr_db: None,
            output_loss: None,
            damping: None,
            rounded_rows: 0,
        };
        Report {
            version: "1.2.3".to_owned(),
            model: "/home/somebody/models/secret".into(),
            output: "/home/somebody/out".into(),
            device: "Cpu".to_owned(),
            ledger: Ledger { entries: layers[..2].iter().map(entry).collect() },
            size: Size {
                dense_bytes: 1_234_567,
                bytes: 345_678,
                compression: 3.57,
                compression_f32: 7.14,
                bits_per_weight: 4.125,
                decoded_bits_per_weight: 4.125,
                bits_per_parameter: 4.5,
                parameters: 614_000,
            },
            comparison: None,
            cascade: None,
            transforms: Vec::new(),
            gates: check(&recipe.gates, None, 3.57),
            calibration: CalibrationSize::default(),
            seconds: Seconds { data: 1.0, quantize: 2.0, evaluate: 3.0, save: 4.0 },
            plan,
            recipe,
        }
    }

    fn measured() -> Measured {
        let around = |low, high| Some(Interval { low, high, level: 0.95 });
        let score = Score {
            tokens: 25_195,
            perplexity: 2.102,
            dense_perplexity: 2.093,
            increase: 0.0040,
            increase_interval: around(0.0031, 0.0050),
            kl: Summary { n: 25_195, mean: 0.00277, median: 0.0006, p99: 0.0318 },
            kl_interval: around(0.0026, 0.0029),
            agreement: 0.9752,
            agreement_interval: around(0.97, 0.98),
        };
        let alone = Score { increase_interval: None, kl_interval: None, agreement_interval: None, ..score };
        let dense = Perplexity { windows: 9, tokens: 25_195, nll: 0.7386, perplexity: 2.093, interval: None };
        let languages = [("de".to_owned(), alone)].into();
        let candidate = CandidateScore { name: "quantized".to_owned(), total: score, languages, layers: vec![] };
        let dense = ModelScore { total: dense, languages: Default::default() };
        Measured::Texts(Comparison { dense, candidates: vec![candidate] })
    }

    #[test]
    fn a_card_tells_what_is_known() {
        let mut report = report(RECIPE);
        report.comparison = Some(measured());
        report.gates = check(&report.recipe.gates, report.comparison.as_ref(), 3.57);
        report.calibration = CalibrationSize {
            unit: "sequence".into(),
            samples: 128,
            tokens: 32_768,
            languages: vec![("de".into(), 32_768)],
        };
        let card =
            b"---\nlicense: llama3.2\nlicense_link: https://x/y\nextra_gated_prompt: |\n  license: no\ntags:\n- chat\n\
                     language:\n- de\n- en\n---\n# The dense one\n";
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let base =
            Base { reference: Some(format!("hf:meta/Llama@{commit}").parse().unwrap()), card: Some(card.to_vec()) };
        let done = |transform, applied| Transformed { transform, applied, gain: None };
        report.transforms = vec![done(Transform::RotateHeads, false), done(Transform::Awq, true)];
        let recipe = report.recipe.to_toml();
        let expected = format!(
            "\
---
library_name: quench
base_model: meta/Llama
base_model_relation: quantized
license: llama3.2
license_link: https://x/y
language:
- de
- en
pipeline_tag: text-generation
tags:
- quench
- quantized
- int4
- rtn
quantized_by: quench 1.2.3
---

# Llama, test

[meta/Llama](https://huggingface.co/meta/Llama) at commit `{commit}`, quantized by \
[Quench](https://github.com/quench-rs/quench) 1.2.3 with the recipe `test`.

The card of the dense model, as it was, is in [README.base.md](README.base.md).

## Size

|  | dense | quantized |
| --- | ---: | ---: |
| bytes of tensors | 1,234,567 | 345,678 |
| bits per parameter, over the whole model | 16.086 | 4.500 |
| bits per weight in the quantized layers, with scales |  | 4.125 |

614,000 parameters; 3.57 times smaller than the dense checkpoint was stored, 7.14 times smaller than in 32 bits.

| layers | shape | scheme | method | number | bits per weight |
| --- | --- | --- | --- | ---: | ---: |
| `model.layers.*.up_proj` | [256, 128] | int4/128/f16 | rtn | 2 | 4.125 |
| `lm_head` | [256, 128] | dense |  | 1 |  |

A scheme is code / group / scale. `plan.toml` has every layer. Before that the network was transformed by `awq`.

## Loss

Against the dense model, on the same tokens of text. KL divergence in nats per token.

| text | tokens | dense perplexity | perplexity | increase | mean KL divergence | top-1 agreement |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| all | 25195 | 2.093 | 2.102 | +0.40 % (+0.31 % to +0.50 %) | 0.00277 (0.00260 to 0.00290) | 97.52 % (97.00 % to 98.00 %) |
| de | 25195 | 2.093 | 2.102 | +0.40 % | 0.00277 | 97.52 % |

In brackets: bootstrap intervals of 95 %, over windows of text.

Limits that the recipe sets:

- max_kl: 0.0028, limit 0.1: passed

## Calibration

128 sequences, 32768 tokens (de 32768).

## Use

In this folder, or with hf:OWNER/NAME for the dot once it is on the hub.

```sh
quench generate . --prompt 'TEXT'
quench inspect .
quench eval . --against hf:meta/Llama@{commit} --data PATH
```

From Rust:

```rust
let mut model = quench::models::open(folder, &Default::default())?;
model.load_all()?;
```

## Recipe

```toml
{}
```
",
            recipe.trim_end()
        );
        let found = super::card(&report, Kind::Decoder, &base);
        for (found, expected) in found.lines().zip(expected.lines()) {
            assert_eq!(found, expected);
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_known_is_said_or_left_out() {
        let card = super::card(&report(RECIPE), Kind::Encoder, &Base::default());
        for words in [
            "pipeline_tag: sentence-similarity",
            "Not measured: no evaluation data",
            "- max_kl: not evaluated",
            "None: the recipe needs no data",
            "--against DENSE",
            "`DENSE` is the folder",
        ] {
            assert!(card.contains(words), "{words}:\n{card}");
        }
        for words in ["base_model", "license", "README.base", "secret", "somebody", "quench generate"] {
            assert!(!card.contains(words), "{words}:\n{card}");
        }
    }

    #[test]
    fn the_head_of_another_card_is_taken_over_in_part() {
        for (card, expected) in [
            ("---\nlicense: mit\n---\n", "license: mit\n"),
            ("\u{feff}---\r\nlicense: mit\r\ntags: [a]\r\n---\r\n", "license: mit\n"),
            ("---\nlanguage:\n  - de\n\n  - en\nx: y\n---\n", "language:\n  - de\n  - en\n"),
            ("---\nx:\n  license: no\n---\nlicense: no\n", ""),
            ("# title\n---\nlicense: no\n---\n", ""),
            ("", ""),
        ] {
            assert_eq!(inherited(card.as_bytes()), expected, "{card}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
