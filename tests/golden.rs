//! The decoder against the reference library: logits of nine families, cached decoding, known perplexities; and what it
//! says of folders that make no model.
//!
//! The data is read from `QUENCH_DATA` (default `../shared/data`); without it those tests pass with a printed line, or
//! fail if `QUENCH_REQUIRE_DATA` is set.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use quench::checkpoint::{Dtype, Writer};
use quench::format::{Code, Group, Packed, Scale, Scales, Scheme};
use quench::models::generate::{Sampling, generate};
use quench::models::{Cache, Decoder, ModelError, Tokenizer, ids, open, text};
use quench::nn::{Model, Role, Section, Tap, Weight};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Largest difference over largest value, of logits and hidden states, against the reference library in f32.
const TOLERANCE: f64 = 1e-4;

const FAMILIES: [&str; 9] = ["llama", "llama3-rope", "mistral", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "phi3"];

/// The devices that this build has.
fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", ndarray()),
        // Mesa's CPU driver: WGSL runs on it, Burn's SPIR-V crashes it.
        #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
        ("wgpu", Device::wgpu(burn::tensor::DeviceKind::Cpu)),
        #[cfg(feature = "cuda")]
        ("cuda", Device::cuda(0)),
    ]
}

/// Deprecated in Burn, and the reference here.
#[cfg(feature = "ndarray")]
#[expect(deprecated)]
fn ndarray() -> Device {
    Device::ndarray()
}

/// A part of the data, or `None` where it is absent and may be.
fn data(part: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("QUENCH_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("QUENCH_REQUIRE_DATA").is_none(), "{} is absent", path.display());
    println!("skipped: {} is absent", path.display());
    None
}

/// One model folder of the reference library and what it computed.
struct Golden {
    folder: PathBuf,
    tokens: Vec<Vec<u32>>,
    /// `[batch, seq, vocab]`.
    logits: Vec<f32>,
    /// `[blocks + 1, batch, seq, hidden]`; the last after the final norm.
    hidden: Vec<f32>,
}

impl Golden {
    fn read(family: &str) -> Option<Self> {
        let folder = data(&format!("golden/{family}"))?;
        let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> { tensors.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec() };
        let floats = |name: &str| words(name).into_iter().map(f32::from_le_bytes).collect();
        let length = tensors.tensor("input_ids").unwrap().shape()[1];
        let tokens: Vec<u32> = words("input_ids").into_iter().map(|word| i32::from_le_bytes(word) as u32).collect();
        Some(Self {
            tokens: tokens.chunks(length).map(<[u32]>::to_vec).collect(),
            logits: floats("output"),
            hidden: floats("hidden_states"),
            folder,
        })
    }

    fn batch(&self) -> Vec<&[u32]> {
        self.tokens.iter().map(Vec::as_slice).collect()
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_to_vec().unwrap()
}

/// Largest difference over largest expected value.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let difference = found.iter().zip(expected).fold(0f32, |largest, (a, b)| {
        assert!(a.is_finite(), "{a}");
        largest.max((a - b).abs())
    });
    f64::from(difference) / f64::from(largest)
}

#[test]
fn logits_agree_with_the_reference() {
    let mut wrong = Vec::new();
    for (name, device) in devices() {
        for family in FAMILIES {
            let Some(golden) = Golden::read(family) else { continue };
            let decoder = open(&golden.folder, &device).unwrap();
            let mut carry = decoder.start(ids(&golden.batch(), &device), &mut ());
            let mut states = vec![values(carry.hidden().clone())];
            for block in 0..decoder.blocks() {
                carry = decoder.block(block, carry, &mut ());
                states.push(values(carry.hidden().clone()));
            }
            let logits = error(&values(decoder.finish(carry, &mut ())), &golden.logits);
            // The reference stores the last state after the final norm: the logits stand for it.
            let expected = golden.hidden.chunks(golden.hidden.len() / states.len());
            let states: Vec<f64> = states
                .iter()
                .zip(expected)
                .take(decoder.blocks())
                .map(|(state, expected)| error(state, expected))
                .collect();
            println!("{name} {family}: logits {logits:.1e}, hidden states {states:?}");
            if logits > TOLERANCE || states.iter().any(|state| *state > TOLERANCE) {
                wrong.push(format!("{name} {family}: logits {logits:.1e}, hidden states {states:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn cached_decoding_equals_one_pass() {
    let mut wrong = Vec::new();
    for (name, device) in devices() {
        for family in FAMILIES {
            let Some(golden) = Golden::read(family) else { continue };
            let mut decoder = open(&golden.folder, &device).unwrap();
            decoder.load_all().unwrap();
            let length = golden.tokens[0].len();
            // The golden windows are 16 positions: both ways run far past them.
            for stride in [1, 7, length] {
                let mut cache = Cache::new(decoder.config());
                let parts: Vec<Tensor<3>> = (0..length)
                    .step_by(stride)
                    .map(|first| {
                        let last = length.min(first + stride);
                        let batch: Vec<&[u32]> = golden.tokens.iter().map(|tokens| &tokens[first..last]).collect();
                        decoder.step(ids(&batch, &device), &mut cache)
                    })
                    .collect();
                assert_eq!(cache.seen(), length);
                let error = error(&values(Tensor::cat(parts, 1)), &golden.logits);
                if error > TOLERANCE {
                    wrong.push(format!("{name} {family}, {stride} at a time: {error:.1e}"));
                }
            }
            let mut cache = Cache::new(decoder.config());
            let last = values(decoder.step_last(ids(&golden.batch(), &device), &mut cache));
            let vocab = decoder.config().vocab_size;
            let expected: Vec<f32> =
                golden.logits.chunks(length * vocab).flat_map(|all| &all[all.len() - vocab..]).copied().collect();
            assert!(error(&last, &expected) <= TOLERANCE, "{name} {family}: last position");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Summed negative log-likelihood of each next token of one sequence, and how many there are.
fn loss(decoder: &Decoder, tokens: &[u32], device: &Device) -> (f64, usize) {
    let vocab = decoder.config().vocab_size;
    let logits = decoder.forward(ids(&[tokens], device), &mut ());
    let likelihoods = values(log_softmax(logits, 2));
    let next = tokens[1..].iter().zip(likelihoods.chunks(vocab));
    (next.map(|(token, row)| -f64::from(row[*token as usize])).sum(), tokens.len() - 1)
}

/// exp of the mean loss over sequences.
fn perplexity<'a>(decoder: &Decoder, device: &Device, sequences: impl Iterator<Item = &'a [u32]>) -> (f64, usize) {
    let (sum, count) = sequences
        .map(|tokens| loss(decoder, tokens, device))
        .fold((0.0, 0), |(sum, count), (more, tokens)| (sum + more, count + tokens));
    ((sum / count as f64).exp(), count)
}

/// The first device alone: the others are held to it by the logits.
fn first_device() -> (&'static str, Device) {
    devices().into_iter().next().expect("a backend is compiled in")
}

/// The protocol of the data's README: stories 1 to 40, each trimmed, BOS before it, cut at 512 tokens.
#[test]
fn stories260k_has_its_known_perplexity() {
    let (Some(folder), Some(stories)) = (data("models/stories260k"), data("text/tinystories/tinystories_sample.txt"))
    else {
        return;
    };
    let (_, device) = first_device();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    assert!(tokenizer.adds_bos());
    let stories = fs::read_to_string(stories).unwrap();
    let sequences: Vec<Vec<u32>> = stories
        .split("<|endoftext|>")
        .skip(1)
        .take(40)
        .map(|story| {
            let mut ids = tokenizer.encode(story.trim(), true).unwrap();
            ids.truncate(512);
            ids
        })
        .collect();
    let mut decoder = open(&folder, &device).unwrap();
    decoder.load_all().unwrap();
    let (perplexity, tokens) = perplexity(&decoder, &device, sequences.iter().map(Vec::as_slice));
    println!("stories260k: perplexity {perplexity:.4} over {tokens} tokens");
    assert_eq!(tokens, 12_532);
    assert!((perplexity - 3.476).abs() <= 0.002, "{perplexity}");
}

/// The protocol of the model's README: 60 windows of 256 tokens without BOS, from the first 400,000 characters.
#[test]
fn ref_llama_has_its_known_perplexity() {
    let (Some(folder), Some(file)) = (data("models/ref-llama"), data("text/wikitext2/test.txt")) else { return };
    let (_, device) = first_device();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    assert!(!tokenizer.adds_bos());
    let all: String = fs::read_to_string(file).unwrap().chars().take(400_000).collect();
    let tokens = tokenizer.encode(&all, false).unwrap();
    let mut decoder = open(&folder, &device).unwrap();
    decoder.load_all().unwrap();
    let (perplexity, _) = perplexity(&decoder, &device, text::windows(&tokens, 256).take(60));
    println!("ref-llama: perplexity {perplexity:.3}");
    assert!((perplexity - 44.481).abs() <= 0.01, "{perplexity}");
}

#[test]
fn ref_llama_writes_words() {
    let Some(folder) = data("models/ref-llama") else { return };
    let (_, device) = first_device();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let decoder = open(&folder, &device).unwrap();
    let prompt = tokenizer.encode("Once upon a time, there was a little girl named", true).unwrap();
    let greedy = Sampling { max_tokens: 24, ..Sampling::default() };
    let mut seen = Vec::new();
    let new = generate(&decoder, &prompt, &greedy, tokenizer.eos(), |token| {
        seen.push(token);
        ControlFlow::Continue(())
    })
    .unwrap();
    let text = tokenizer.decode(&new).unwrap();
    println!("ref-llama: {text:?}");
    assert_eq!(new, seen);
    assert!(text.starts_with(' ') && text.contains(" a ") && text.contains("She"), "{text:?}");

    // Greedy is the argmax of one pass over the whole.
    let all = [prompt.as_slice(), &new].concat();
    let logits = values(decoder.forward(ids(&[&all], &device), &mut ()));
    let rows: Vec<&[f32]> = logits.chunks(tokenizer.vocab_size()).collect();
    for (index, token) in new.iter().enumerate() {
        let row = rows[prompt.len() + index - 1];
        let best = row.iter().copied().fold(f32::MIN, f32::max);
        assert!(best - row[*token as usize] <= 1e-3, "token {index}");
    }

    let warm = Sampling { temperature: 1.0, top_k: Some(40), top_p: Some(0.95), seed: 3, max_tokens: 16 };
    let run = |sampling: &Sampling| generate(&decoder, &prompt, sampling, &[], |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(run(&warm), run(&warm));
    assert_ne!(run(&warm), run(&Sampling { seed: 4, ..warm.clone() }));
    let stopped = generate(&decoder, &prompt, &greedy, &[new[2]], |_| ControlFlow::Continue(())).unwrap();
    assert!(stopped.len() <= 2 && new.starts_with(&stopped));
    let broken = generate(&decoder, &prompt, &greedy, &[], |_| ControlFlow::Break(())).unwrap();
    assert_eq!(broken, new[..1]);
}

/// Tensors of a folder under construction: shape and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const VOCAB: usize = 24;
const HIDDEN: usize = 16;

/// A Llama of two blocks with arbitrary weights, and its configuration.
fn tiny() -> (Value, Tensors) {
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[usize]| {
        let salt = tensors.len();
        let wave = |index: usize| ((index * 7 + salt * 13) as f32 * 0.61).sin() * 0.3;
        let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
        let count = shape.iter().product();
        tensors.insert(name, (shape.to_vec(), (0..count).map(|index| wave(index) + offset).collect()));
    };
    for block in 0..2 {
        let at = |name: &str| format!("model.layers.{block}.{name}.weight");
        add(at("input_layernorm"), &[HIDDEN]);
        add(at("post_attention_layernorm"), &[HIDDEN]);
        add(at("self_attn.q_proj"), &[HIDDEN, HIDDEN]);
        add(at("self_attn.k_proj"), &[HIDDEN / 2, HIDDEN]);
        add(at("self_attn.v_proj"), &[HIDDEN / 2, HIDDEN]);
        add(at("self_attn.o_proj"), &[HIDDEN, HIDDEN]);
        add(at("mlp.gate_proj"), &[32, HIDDEN]);
        add(at("mlp.up_proj"), &[32, HIDDEN]);
        add(at("mlp.down_proj"), &[HIDDEN, 32]);
    }
    add("model.norm.weight".to_owned(), &[HIDDEN]);
    add("model.embed_tokens.weight".to_owned(), &[VOCAB, HIDDEN]);
    add("lm_head.weight".to_owned(), &[VOCAB, HIDDEN]);
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false, "rope_theta": 10000.0,
    });
    (config, tensors)
}

/// Writes a folder; layers of `packed` in place of their tensors.
fn write(folder: &Path, config: &Value, tensors: &Tensors, packed: &[(&str, Packed)]) {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut writer = Writer::create(folder, u64::MAX).unwrap();
    for (name, (shape, values)) in tensors {
        if !packed.iter().any(|(layer, _)| *name == format!("{layer}.weight")) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.add(name, Dtype::F32, shape.clone(), bytes).unwrap();
        }
    }
    for (layer, packed) in packed {
        writer.packed(*layer, packed.clone()).unwrap();
    }
    writer.finish().unwrap();
}

fn tokens() -> Vec<u32> {
    (0..12).map(|index| index * 5 % VOCAB as u32).collect()
}

#[test]
fn folders_that_make_no_model_are_refused_by_name() {
    let (_, device) = first_device();
    let q = "model.layers.1.self_attn.q_proj.weight";
    type Damage = fn(&mut Value, &mut Tensors);
    let cases: [(&str, Damage, &[&str]); 5] = [
        ("missing", |_, t| drop(t.remove("model.layers.1.self_attn.q_proj.weight")), &[q, "[16, 16]"]),
        ("missing norm", |_, t| drop(t.remove("model.norm.weight")), &["model.norm.weight"]),
        ("missing head", |_, t| drop(t.remove("lm_head.weight")), &["lm_head.weight"]),
        (
            "transposed",
            |_, t| t.get_mut("model.layers.0.mlp.down_proj.weight").unwrap().0.reverse(),
            &["model.layers.0.mlp.down_proj.weight", "[32, 16]", "[16, 32]"],
        ),
        (
            "other vocabulary",
            |c, _| c["vocab_size"] = json!(25),
            &["model.embed_tokens.weight", "[24, 16]", "[25, 16]"],
        ),
    ];
    for (name, damage, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (mut config, mut tensors) = tiny();
        damage(&mut config, &mut tensors);
        write(folder.path(), &config, &tensors, &[]);
        let message = open(folder.path(), &device).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{name}: {message:?} does not name {word:?}");
        }
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path(), &device).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn a_truncated_file_is_refused() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = tiny();
    write(folder.path(), &config, &tensors, &[]);
    let file = folder.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    let error = open(folder.path(), &device).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint(_)) && error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn a_weight_that_is_not_finite_is_an_error_at_load_and_a_panic_at_use() {
    let (_, device) = first_device();
    for bad in [f32::NAN, f32::INFINITY] {
        for (name, section) in [
            ("model.layers.1.mlp.up_proj.weight", Section::Block(1)),
            ("model.layers.0.input_layernorm.weight", Section::Block(0)),
            ("model.embed_tokens.weight", Section::Embedding),
            ("model.norm.weight", Section::Head),
            ("lm_head.weight", Section::Head),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (config, mut tensors) = tiny();
            tensors.get_mut(name).unwrap().1[3] = bad;
            write(folder.path(), &config, &tensors, &[]);
            let mut decoder = open(folder.path(), &device).unwrap();
            for other in [Section::Embedding, Section::Block(0), Section::Block(1), Section::Head] {
                assert_eq!(decoder.load(other).is_err(), other == section, "{name} {other}");
            }
            let message = decoder.load(section).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
            assert!(decoder.load_all().is_err());
            let lazy = open(folder.path(), &device).unwrap();
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                lazy.forward(ids(&[&tokens()], &device), &mut ())
            }))
            .unwrap_err();
            assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains(name)), "{name}");
        }
    }
}

#[test]
fn what_is_released_is_read_again_and_what_was_changed_is_kept() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = tiny();
    write(folder.path(), &config, &tensors, &[]);
    let run = |decoder: &Decoder| values(decoder.forward(ids(&[&tokens()], &device), &mut ()));
    let sections = [Section::Embedding, Section::Block(0), Section::Block(1), Section::Head];

    let mut decoder = open(folder.path(), &device).unwrap();
    let before = run(&decoder);
    for section in sections {
        decoder.load(section).unwrap();
        decoder.open(section);
        decoder.release(section);
    }
    assert_eq!(run(&decoder), before);

    // Changed: what the file has is no longer the weight.
    for part in decoder.open(Section::Block(0)) {
        if part.name == "model.layers.0.mlp.up_proj" {
            let changed = part.weight.val().mul_scalar(2.0);
            *part.weight = Weight::dense(changed);
        }
    }
    let changed = run(&decoder);
    assert_ne!(changed, before);
    for section in sections {
        decoder.release(section);
    }
    assert_eq!(run(&decoder), changed);
    // A change in place, under the same parameter id.
    if let Some(part) = decoder.open(Section::Head).into_iter().next()
        && let Weight::Dense(param) = part.weight
    {
        *param = param.clone().map(|w| w.mul_scalar(-1.0));
    }
    decoder.release(Section::Head);
    let negated: Vec<f32> = changed.iter().map(|logit| -logit).collect();
    assert_eq!(run(&decoder), negated);
}

/// A matrix as 8-bit integers with one scale a row.
fn pack(shape: [usize; 2], w: &[f32]) -> Packed {
    let code: Code = "int8".parse().unwrap();
    let scale: Scale = "f32".parse().unwrap();
    let scheme = Scheme { code, group: Group::Row, scale };
    let mut scales = Vec::new();
    let mut codes = Vec::new();
    for row in w.chunks(shape[1]) {
        let scale = row.iter().fold(0f32, |largest, w| largest.max(w.abs())) / code.max_level();
        scales.push(scale);
        codes.extend(row.iter().map(|w| code.nearest(w / scale)));
    }
    Packed::from_codes(scheme, shape, &codes, Scales::Float(scales), None, None).unwrap()
}

#[test]
fn packed_layers_come_packed_and_compute_what_they_decode_to() {
    for (name, device) in devices() {
        let (mut config, mut tensors) = tiny();
        for tied in [false, true] {
            config["tie_word_embeddings"] = json!(tied);
            let layers = ["model.embed_tokens", "model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"];
            let packed = layers.map(|layer| {
                let (shape, w) = &tensors[&format!("{layer}.weight")];
                (layer, pack([shape[0], shape[1]], w))
            });
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &config, &tensors, &packed);
            for (layer, packed) in &packed {
                tensors.get_mut(&format!("{layer}.weight")).unwrap().1 = packed.decode();
            }
            let decoded = tempfile::tempdir().unwrap();
            write(decoded.path(), &config, &tensors, &[]);

            let mut decoder = open(folder.path(), &device).unwrap();
            decoder.load_all().unwrap();
            decoder.release(Section::Embedding);
            let quantized: Vec<String> = [Section::Embedding, Section::Block(0), Section::Block(1), Section::Head]
                .into_iter()
                .flat_map(|section| {
                    let parts = decoder.open(section);
                    parts
                        .into_iter()
                        .filter(|part| part.weight.is_quantized())
                        .map(|part| part.name)
                        .collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(quantized, layers, "{name}");
            let dense = open(decoded.path(), &device).unwrap();
            let input = || ids(&[&tokens(), &tokens()], &device);
            let error = error(&values(decoder.forward(input(), &mut ())), &values(dense.forward(input(), &mut ())));
            assert!(error < 1e-5, "{name}, tied {tied}: {error:.1e}");
        }
        // Of another shape than the configuration's.
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &config, &tensors, &[("model.layers.0.self_attn.k_proj", pack([4, 8], &[0.5; 32]))]);
        let message = open(folder.path(), &device).unwrap_err().to_string();
        assert!(message.contains("model.layers.0.self_attn.k_proj") && message.contains("[4, 8]"), "{message}");
    }
}

/// Sites in the order of the pass, with the width of what goes through.
struct Record(Vec<(String, usize)>);

impl Tap for Record {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        self.0.push((site.to_owned(), x.dims()[D - 1]));
        x
    }
}

#[test]
fn layers_and_sites_fit_together() {
    let (_, device) = first_device();
    for family in FAMILIES {
        let Some(golden) = Golden::read(family) else { continue };
        let mut decoder = open(&golden.folder, &device).unwrap();
        let layers = decoder.layers();
        let mut record = Record(Vec::new());
        decoder.forward(ids(&golden.batch(), &device), &mut record);
        // Four sites a block, and the head's, each seen once.
        assert_eq!(record.0.len(), 4 * decoder.blocks() + 1, "{family}");
        for layer in &layers {
            let width = record.0.iter().find(|(site, _)| *site == layer.site).map(|(_, width)| *width);
            let expected = (layer.role != Role::Embedding).then_some(layer.shape[1]);
            assert_eq!(width, expected, "{family}: {layer:?}");
            let part = decoder.open(layer.section()).into_iter().find(|part| part.name == layer.name);
            assert_eq!(part.map(|part| part.weight.shape()), Some(layer.shape), "{family}: {layer:?}");
        }
        assert_eq!(layers.iter().any(|layer| layer.role == Role::Head), !decoder.config().tied, "{family}");
    }
}

#[test]
fn prompts_that_cannot_be_continued_are_errors() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (config, tensors) = tiny();
    write(folder.path(), &config, &tensors, &[]);
    let decoder = open(folder.path(), &device).unwrap();
    let go = |prompt: &[u32]| generate(&decoder, prompt, &Sampling::default(), &[], |_| ControlFlow::Continue(()));
    for (prompt, word) in [(vec![], "empty"), (vec![0, 24], "24"), (vec![0; 65], "64")] {
        let message = go(&prompt).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    // To the end of the context and no further.
    assert_eq!(go(&[0; 60]).unwrap().len(), 4);
    assert_eq!(go(&[0; 64]).unwrap().len(), 0);
}

/// Long sequences are attended some queries at a time: the same values.
#[test]
fn a_long_sequence_equals_its_steps() {
    let (_, device) = first_device();
    let folder = tempfile::tempdir().unwrap();
    let (mut config, tensors) = tiny();
    config["model_type"] = json!("mistral");
    config["sliding_window"] = json!(300);
    write(folder.path(), &config, &tensors, &[]);
    let decoder = open(folder.path(), &device).unwrap();
    // 4 heads · 2500² scores are more than are held at a time.
    let all: Vec<u32> = (0..2500).map(|index| index * 11 % VOCAB as u32).collect();
    let whole = values(decoder.forward(ids(&[&all], &device), &mut ()));
    let mut cache = Cache::new(decoder.config());
    let steps: Vec<Tensor<3>> = all.chunks(500).map(|part| decoder.step(ids(&[part], &device), &mut cache)).collect();
    assert!(error(&values(Tensor::cat(steps, 1)), &whole) < 1e-4);
}

#[test]
fn token_ids_become_a_tensor() {
    let (_, device) = first_device();
    let tensor = ids(&[&[1, 2, 3], &[4, 5, 6]], &device);
    assert_eq!(tensor.dims(), [2, 3]);
    let expected = TensorData::from([[1, 2, 3], [4, 5, 6]]);
    tensor.into_data().assert_eq(&expected, false);
}
