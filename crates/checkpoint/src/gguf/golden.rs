//! Files that llama.cpp itself wrote: read, understood, and written again byte for byte.

#[path = "../../../../tests/support/data.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::container::{Contents, Elements, Entry, Planned, header, read};
use super::{BlockType, Gguf, Tokenizer, Writer};
use crate::{Folder, Source, dialect};

use shared::data;

/// The files of llama.cpp, those with models apart from the others.
fn files() -> Option<(Vec<PathBuf>, Vec<PathBuf>)> {
    let folder = data("peers/llama.cpp")?;
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "gguf"));
    files.sort();
    assert!(!files.is_empty());
    Some(files.into_iter().partition(|path| !path.ends_with("imatrix.gguf")))
}

/// Metadata, names, types, places and data: the whole file is what its contents say, to the byte.
#[test]
fn every_file_is_written_again_as_it_was() {
    let Some((models, others)) = files() else { return };
    for path in models.iter().chain(&others) {
        let bytes = fs::read(path).unwrap();
        let Contents { metadata, tensors } = read(&bytes).unwrap();
        let plan = |entry: &Entry| Planned {
            name: entry.name.clone(),
            number: entry.elements.number().unwrap(),
            shape: entry.shape.clone(),
            bytes: entry.bytes,
        };
        let planned: Vec<_> = tensors.iter().map(plan).collect();
        let (mut again, offsets) = header(&metadata, &planned).unwrap();
        let data = again.len();
        for (entry, offset) in tensors.iter().zip(offsets) {
            assert_eq!(entry.begin, data as u64 + offset, "{} in {}", entry.name, path.display());
            again.resize(entry.begin as usize, 0);
            let old = &bytes[entry.begin as usize..][..entry.bytes as usize];
            match (entry.elements, entry.shape.as_slice()) {
                (Elements::Blocks(kind), &[rows, columns]) => {
                    let packed = kind.decode([rows, columns], old).unwrap();
                    assert_eq!(packed.storage_bits(), 8 * entry.bytes, "{}", entry.name);
                    again.extend(kind.encode(&packed));
                }
                _ => again.extend(old),
            }
        }
        again.resize(again.len().next_multiple_of(32), 0);
        assert!(again == bytes, "{}", path.display());
    }
}

/// Through names, order of rows and `config.json`: every tensor has the bytes that it had.
#[test]
fn every_model_is_written_again_with_the_same_tensors() {
    let Some((models, _)) = files() else { return };
    let folder = tempfile::tempdir().unwrap();
    for path in models {
        let gguf = Gguf::open(&path).unwrap();
        let source = Folder::open(&path).unwrap();
        let target = folder.path().join("again.gguf");
        let (config, tokenizer) = (gguf.config().unwrap(), gguf.tokenizer().unwrap());
        let mut writer = Writer::new(&target, &config, &tokenizer).unwrap();
        writer.copy_all(&source).unwrap();
        let length = writer.finish().unwrap();
        assert_eq!(length, fs::metadata(&target).unwrap().len());
        let again = Gguf::open(&target).unwrap();
        assert_eq!(again.config().unwrap(), config);
        assert_eq!(again.tokenizer().unwrap(), tokenizer);
        let tensors = |path: &Path, gguf: &Gguf| -> BTreeMap<String, (Elements, Vec<usize>, Vec<u8>)> {
            let bytes = fs::read(path).unwrap();
            let of = |entry: &Entry| bytes[entry.begin as usize..][..entry.bytes as usize].to_vec();
            let entries = gguf.contents().tensors.iter();
            entries.map(|entry| (entry.name.clone(), (entry.elements, entry.shape.clone(), of(entry)))).collect()
        };
        assert!(tensors(&path, &gguf) == tensors(&target, &again), "{}", path.display());
        // What llama.cpp wrote of the model, we write too.
        let mine = &again.contents().metadata;
        for (key, value) in gguf.contents().metadata.iter().filter(|(key, _)| !key.starts_with("quantize.")) {
            assert_eq!(mine.get(key), Some(value), "{key} in {}", path.display());
        }
    }
}

/// The weights are those of the model that was quantized, as near as so many bits bring them; rows in another order would give
/// an error of 1.
#[test]
fn weights_are_near_those_of_the_model() {
    let (Some((models, _)), Some(model)) = (files(), data("models/ref-llama")) else { return };
    let dense = Folder::open(model).unwrap();
    // Root mean squares of the error against the weights, by type; measured on these files and rounded up.
    let bound = |kind: BlockType| match kind {
        BlockType::Q8_0 => 0.007,
        BlockType::Q6_K => 0.022,
        BlockType::Q5_K => 0.045,
        BlockType::Q4_K | BlockType::IQ4_NL | BlockType::IQ4_XS | BlockType::Q4_0 => 0.1,
        BlockType::Q3_K => 0.18,
        BlockType::Q2_K => 0.32,
        _ => 0.0,
    };
    let mut worst = BTreeMap::<BlockType, f64>::new();
    for path in models {
        let source = Folder::open(&path).unwrap();
        let layers = dialect::layers(&source);
        assert_eq!(layers.len(), 6 * 7 + 2);
        for layer in layers {
            let packed = dialect::read(&source, &layer).unwrap().unwrap();
            let kind = BlockType::of(packed.scheme()).unwrap();
            let weights = dense.tensor(&format!("{layer}.weight")).unwrap();
            assert_eq!(weights.shape(), packed.shape(), "{layer}");
            let square = |x: f32| f64::from(x) * f64::from(x);
            let (mut signal, mut noise) = (0.0, 0.0);
            for (w, decoded) in weights.to_f32().unwrap().into_iter().zip(packed.decode()) {
                signal += square(w);
                noise += square(w - decoded);
            }
            let error = f64::sqrt(noise / signal);
            assert!(error < bound(kind), "{layer} of {} as {kind}: {error}", path.display());
            let worst = worst.entry(kind).or_default();
            *worst = worst.max(error);
        }
        for name in source.names().into_iter().filter(|name| name.ends_with("norm.weight")) {
            let expected = dense.tensor(name).unwrap().to_f32().unwrap();
            assert_eq!(source.tensor(name).unwrap().to_f32().unwrap(), expected, "{name}");
        }
    }
    println!("{worst:?}");
}

/// `config.json` is the one that the model had, and so is the tokenizer.
#[test]
fn the_configuration_is_that_of_the_model() {
    let (Some((models, others)), Some(model)) = (files(), data("models/ref-llama")) else { return };
    let original: serde_json::Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    for path in &models {
        let config = Gguf::open(path).unwrap().config().unwrap();
        assert_eq!(config["rope_theta"], original["rope_parameters"]["rope_theta"]);
        for (key, value) in config.as_object().unwrap().iter().filter(|(key, _)| *key != "rope_theta") {
            assert_eq!(*value, original[key], "{key} in {}", path.display());
        }
    }
    let file: serde_json::Value = serde_json::from_slice(&fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_json(&file, &original).unwrap();
    let again = tokenizer.to_json().unwrap();
    for part in ["pre_tokenizer", "added_tokens"] {
        assert_eq!(again[part], file[part], "{part}");
    }
    for part in ["vocab", "ignore_merges"] {
        assert_eq!(again["model"][part], file["model"][part], "{part}");
    }
    for path in models {
        assert_eq!(Gguf::open(&path).unwrap().tokenizer().unwrap(), tokenizer, "{}", path.display());
    }
    for path in others {
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.contains("`general.architecture`") && error.contains("imatrix.gguf"), "{error}");
    }
}
