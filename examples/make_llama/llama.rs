//! The synthetic model: its shape, its weights and its tokenizer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use half::bf16;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::{View, serialize_to_file};
use serde_json::{Map, Value, json};

/// The extents of a Llama model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    layers: usize,
    dim: usize,
    mlp: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    context: usize,
}

impl Shape {
    /// `1.1b` is TinyLlama 1.1B; `tiny` is the least that still has every part, for tests.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "1.1b" => {
                Some(Self { layers: 22, dim: 2048, mlp: 5632, heads: 32, kv_heads: 4, vocab: 32000, context: 2048 })
            }
            "tiny" => Some(Self { layers: 2, dim: 64, mlp: 176, heads: 4, kv_heads: 2, vocab: 512, context: 128 }),
            _ => None,
        }
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.tensors(0).iter().map(Random::parameters).sum()
    }

    /// All tensors in the order of the forward pass.
    fn tensors(&self, seed: u64) -> Vec<Random> {
        let Self { layers, dim, mlp, heads, kv_heads, vocab, .. } = *self;
        let kv = dim / heads * kv_heads;
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            tensors.push(Random { name, shape: shape.to_vec(), seed, stream: tensors.len() as u64 });
        };
        add("model.embed_tokens.weight".into(), &[vocab, dim]);
        for layer in 0..layers {
            let mut add = |name: &str, shape: &[usize]| add(format!("model.layers.{layer}.{name}.weight"), shape);
            add("input_layernorm", &[dim]);
            add("self_attn.q_proj", &[dim, dim]);
            add("self_attn.k_proj", &[kv, dim]);
            add("self_attn.v_proj", &[kv, dim]);
            add("self_attn.o_proj", &[dim, dim]);
            add("post_attention_layernorm", &[dim]);
            add("mlp.gate_proj", &[mlp, dim]);
            add("mlp.up_proj", &[mlp, dim]);
            add("mlp.down_proj", &[dim, mlp]);
        }
        add("model.norm.weight".into(), &[dim]);
        add("lm_head.weight".into(), &[vocab, dim]);
        tensors
    }

    fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "intermediate_size": self.mlp,
            "max_position_embeddings": self.context,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_scaling": null,
            "rope_theta": 10000.0,
            "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
        })
    }
}

/// Writes the model into the new folder `out`: config, tokenizer, index and `shards` files of about equal size. Never
/// more than one tensor is in memory.
///
/// Errors: `out` exists, cannot be written, or the model does not divide into so many shards.
pub fn write(out: &Path, shape: Shape, shards: usize, seed: u64) -> Result<(), Box<dyn Error>> {
    let tensors = shape.tensors(seed);
    let (count, total) = (tensors.len(), tensors.iter().map(Random::data_len).sum::<usize>());
    let misfit = || format!("{count} tensors do not divide into {shards} shards");
    if !(1..=count).contains(&shards) {
        return Err(misfit().into());
    }
    let mut files: Vec<Vec<Random>> = (0..shards).map(|_| Vec::new()).collect();
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.data_len();
        files[offset * shards / total].push(tensor);
        offset = end;
    }
    if files.iter().any(Vec::is_empty) {
        return Err(misfit().into());
    }

    fs::create_dir(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let save = |name: &str, value: &Value| fs::write(out.join(name), format!("{value:#}\n"));
    save("config.json", &shape.config())?;
    save("tokenizer.json", &tokenizer(shape.vocab))?;

    let mut weight_map = Map::new();
    for (index, tensors) in files.into_iter().enumerate() {
        let name = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", index + 1),
        };
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor));
        serialize_to_file(tensors, Some(metadata), &out.join(&name))?;
    }
    if shards > 1 {
        save(
            "model.safetensors.index.json",
            &json!({ "metadata": { "total_size": total }, "weight_map": weight_map }),
        )?;
    }
    Ok(())
}

/// A tensor that is made when it is asked for.
struct Random {
    name: String,
    shape: Vec<usize>,
    seed: u64,
    /// Its own stream of random numbers, so that no tensor depends on another.
    stream: u64,
}

impl Random {
    fn parameters(&self) -> usize {
        self.shape.iter().product()
    }
}

impl View for Random {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data_len(&self) -> usize {
        2 * self.parameters()
    }

    /// Ones for a norm; else about normal, with deviation 1 for the embedding and `1/sqrt(in)` for the layers, which
    /// keeps activations near 1.
    ///
    /// A weight is the sum of eight random bytes (Irwin-Hall), looked up in a table: integers all the way, so that
    /// every machine writes the same bytes.
    fn data(&self) -> Cow<'_, [u8]> {
        let deviation = match self.shape[..] {
            [_, _] if self.name.contains("embed") => 1.0,
            [_, columns] => 1.0 / (columns as f64).sqrt(),
            _ => return bf16::ONE.to_le_bytes().repeat(self.parameters()).into(),
        };
        // Eight bytes: mean 8 * 255/2, variance 8 * (256^2 - 1)/12.
        let scale = deviation / (8.0 * 65535.0 / 12.0_f64).sqrt();
        let table: Vec<[u8; 2]> =
            (0..=8 * 255).map(|sum| bf16::from_f64(scale * f64::from(sum - 4 * 255)).to_le_bytes()).collect();

        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(self.stream);
        let mut bytes = vec![0; 8 << 10];
        let mut data = Vec::with_capacity(self.data_len());
        while data.len() < self.data_len() {
            random.fill_bytes(&mut bytes);
            let left = (self.data_len() - data.len()) / 2;
            for weight in bytes.as_chunks().0.iter().take(left) {
                data.extend_from_slice(&table[byte_sum(u64::from_le_bytes(*weight))]);
            }
        }
        data.into()
    }
}

/// The sum of the eight bytes of `word`.
fn byte_sum(word: u64) -> usize {
    // Four sums of two bytes, 16 bits each; the product adds them up in its top 16 bits.
    let pairs = (word & 0x00ff_00ff_00ff_00ff) + ((word >> 8) & 0x00ff_00ff_00ff_00ff);
    (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as usize
}

/// A byte-level BPE tokenizer with exactly `vocab` tokens: three special ones, the 256 bytes, and merges of two bytes
/// until the vocabulary is full.
fn tokenizer(vocab: usize) -> Value {
    let special = ["<unk>", "<s>", "</s>"];
    let bytes: Vec<char> = (0..=255).map(byte_char).collect();
    let pairs: Vec<[char; 2]> = bytes
        .iter()
        .flat_map(|a| bytes.iter().map(move |b| [*a, *b]))
        .take(vocab.saturating_sub(special.len() + bytes.len()))
        .collect();
    let tokens = special
        .into_iter()
        .map(str::to_owned)
        .chain(bytes.iter().map(char::to_string))
        .chain(pairs.iter().map(|pair| pair.iter().collect()));
    let vocabulary: Map<String, Value> = tokens.zip((0..).map(Value::from)).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
            ],
            "pair": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "Sequence": { "id": "B", "type_id": 1 } },
            ],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": pairs.iter().map(|pair| pair.map(String::from)).collect::<Vec<_>>(),
        },
    })
}

/// The printable character that stands for `byte` in GPT-2's byte-level vocabularies: the byte itself where Latin-1
/// prints it, else the next free one from 256 on.
fn byte_char(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        return byte.into();
    }
    let before = (0..byte).filter(|other| !prints(*other)).count() as u32;
    char::from_u32(256 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::SafeTensors;
    use tokenizers::Tokenizer;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_preset_has_the_size_of_tinyllama() {
        assert_eq!(Shape::named("1.1b").unwrap().parameters(), 1_100_048_384);
    }

    #[test]
    fn the_same_seed_writes_the_same_bytes_however_they_are_sharded() {
        let tiny = Shape::named("tiny").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let read = |run: &str, shards, seed| {
            let out = folder.path().join(run);
            write(&out, tiny, shards, seed).unwrap();
            let mut found = Vec::new();
            for entry in fs::read_dir(out).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "safetensors") {
                    let bytes = fs::read(&path).unwrap();
                    let file = SafeTensors::deserialize(&bytes).unwrap();
                    found.extend(file.iter().map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())));
                }
            }
            found.sort();
            found
        };
        let whole = read("whole", 1, 0);
        assert_eq!(whole.len(), tiny.tensors(0).len());
        assert_eq!(read("sharded", 4, 0), whole);
        assert_ne!(read("other", 4, 1), whole);
        assert!(write(&folder.path().join("whole"), tiny, 1, 0).unwrap_err().to_string().contains("whole"));
    }

    #[test]
    fn weights_have_the_deviation_that_is_stated() {
        let w = Random { name: "w".into(), shape: vec![64, 256], seed: 0, stream: 0 };
        let squares = w.data().as_chunks().0.iter().map(|w| bf16::from_le_bytes(*w).to_f64().powi(2)).sum::<f64>();
        // 16384 draws: a relative standard error of 0.6 % on the variance.
        assert!((squares / 64.0 - 1.0).abs() < 0.03, "{squares}");
    }

    #[test]
    fn eight_bytes_are_summed() {
        for word in [0, 1, u64::MAX, 0x0102_0304_0506_0708, 0xff00_ff00_ff00_ff00] {
            assert_eq!(byte_sum(word), word.to_le_bytes().into_iter().map(usize::from).sum::<usize>());
        }
    }

    #[test]
    fn the_tokenizer_fills_the_vocabulary_and_says_any_text() {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        let mut bytes: Vec<char> = (0..=255).map(byte_char).collect();
        alphabet.sort();
        bytes.sort();
        assert_eq!(bytes, alphabet);

        for vocab in [259, 512, 32000] {
            let text = self::tokenizer(vocab).to_string();
            let tokenizer: Tokenizer = text.parse().unwrap();
            assert_eq!(tokenizer.get_vocab_size(true), vocab);
            let said = "Quench what burns: \u{e4}\u{4e16}\n";
            let ids = tokenizer.encode(said, true).unwrap().get_ids().to_vec();
            assert_eq!(ids[0], 1, "begins with <s>");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), said);
        }
    }
}
