//! The files of a folder: their names, and the index that says which shard holds which tensor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::CheckpointError;

/// The weights of a folder that are not sharded.
pub const WEIGHTS: &str = "model.safetensors";

/// The index of a sharded folder.
pub const INDEX: &str = "model.safetensors.index.json";

/// The weights of a folder as `transformers` once saved them, not sharded.
pub(crate) const PICKLED_WEIGHTS: &str = "pytorch_model.bin";

/// The index of such a folder, sharded.
pub(crate) const PICKLED_INDEX: &str = "pytorch_model.bin.index.json";

/// The name of shard `at` of `shards`, counted from 1, as `transformers` has it.
pub(crate) fn shard_name(at: usize, shards: usize) -> String {
    match shards {
        1 => WEIGHTS.to_owned(),
        _ => format!("model-{at:05}-of-{shards:05}.safetensors"),
    }
}

/// True for `model-00001-of-00002.safetensors` and its like.
pub(crate) fn is_shard_name(name: &str) -> bool {
    let number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    numbers.and_then(|numbers| numbers.split_once("-of-")).is_some_and(|(at, of)| number(at) && number(of))
}

/// Which shard holds which tensor.
pub(crate) fn read_index(index: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let wrong = |reason: String| CheckpointError::Index { file: index.to_path_buf(), reason };
    let text = fs::read(index).map_err(|source| CheckpointError::Read { file: index.to_path_buf(), source })?;
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if weight_map.is_empty() {
        return Err(wrong("it names no tensor".into()));
    }
    for shard in weight_map.values() {
        // A name such as ../../secret would leave the folder.
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(wrong(format!("`{shard}` is not the name of a file in its folder")));
        }
    }
    Ok(weight_map)
}

/// The text of the index at `index`, as `transformers` writes it; `total` counts tensor bytes.
pub(crate) fn index_text(map: &BTreeMap<String, String>, total: u64, index: &Path) -> Result<Vec<u8>, CheckpointError> {
    #[derive(Serialize)]
    struct Index<'a> {
        metadata: Total,
        weight_map: &'a BTreeMap<String, String>,
    }
    #[derive(Serialize)]
    struct Total {
        total_size: u64,
    }
    let index_of = Index { metadata: Total { total_size: total }, weight_map: map };
    let mut text = serde_json::to_vec_pretty(&index_of)
        .map_err(|error| CheckpointError::Write { file: index.to_path_buf(), source: error.into() })?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_known_by_their_names() {
        for at in [1, 2, 100_000] {
            assert!(is_shard_name(&shard_name(at, 100_000)));
        }
        for name in
            [WEIGHTS, INDEX, "model-1-of-2.safetensors", "model-0000x-of-00002.safetensors", "model-00001.safetensors"]
        {
            assert!(!is_shard_name(name), "{name}");
        }
    }
}
