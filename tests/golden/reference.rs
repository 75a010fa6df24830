//! Ten families against the logits of the reference library, known perplexities, and cached decoding.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use quench::models::generate::{Sampling, generate};
use quench::models::{Cache, Decoder, Tokenizer, ids, open, text};
use quench::nn::{Model, Role, Tap};
use safetensors::SafeTensors;

use crate::{data, devices, error, first_device, values};

/// Largest difference over largest value, of logits and hidden states, against the reference library in f32.
const TOLERANCE: f64 = 1e-4;

const FAMILIES: [&str; 10] =
    ["llama", "llama3-rope", "mistral", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "phi3", "gpt2"];

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
        // Four sites a block, the residual stream twice, the head's input, and what each layer gives, each seen once.
        let giving = layers.iter().filter(|layer| layer.role != Role::Embedding).count();
        assert_eq!(record.0.len(), 6 * decoder.blocks() + 1 + giving, "{family}");
        for layer in &layers {
            let width_at = |name: &str| record.0.iter().find(|(site, _)| site == name).map(|(_, width)| *width);
            if let Some(residual) = &layer.residual {
                assert_eq!(width_at(residual), Some(layer.shape[0]), "{family}: {layer:?}");
            }
            let width = width_at(&layer.site);
            let expected = (layer.role != Role::Embedding).then_some(layer.shape[1]);
            assert_eq!(width, expected, "{family}: {layer:?}");
            assert_eq!(width_at(&layer.output()), expected.map(|_| layer.shape[0]), "{family}: {layer:?}");
            let part = decoder.open(layer.section()).into_iter().find(|part| part.name == layer.name);
            assert_eq!(part.map(|part| part.weight.shape()), Some(layer.shape), "{family}: {layer:?}");
        }
        assert_eq!(layers.iter().any(|layer| layer.role == Role::Head), !decoder.config().tied, "{family}");
    }
}
