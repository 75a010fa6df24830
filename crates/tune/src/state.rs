//! The state of a run on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::TuneError;

/// Tensors of f32 with two dimensions, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tensors(BTreeMap<String, ([usize; 2], Vec<f32>)>);

impl Tensors {
    pub(crate) fn put(&mut self, name: impl Into<String>, shape: [usize; 2], values: Vec<f32>) {
        self.0.insert(name.into(), (shape, values));
    }

    /// # Errors
    ///
    /// [`TuneError::Damaged`] if there is none of that name.
    pub(crate) fn take(&mut self, name: &str, path: &Path) -> Result<([usize; 2], Vec<f32>), TuneError> {
        self.0.remove(name).ok_or_else(|| damaged(path, format!("it has no tensor {name}")))
    }

    /// As a safetensors file with these metadata.
    pub(crate) fn to_bytes(&self, metadata: &[(&str, String)]) -> Vec<u8> {
        let views = self.0.iter().map(|(name, (shape, values))| {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
            (name.as_str(), view.unwrap_or_else(|error| unreachable!("{name} has its shape: {error}")))
        });
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        serialize(views, Some(metadata)).unwrap_or_else(|error| unreachable!("names and shapes are in order: {error}"))
    }

    /// # Errors
    ///
    /// [`TuneError::Damaged`] if it is no such file.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<(Self, BTreeMap<String, String>), TuneError> {
        let wrong = |error: safetensors::SafeTensorError| damaged(path, error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
        let file = SafeTensors::deserialize(bytes).map_err(wrong)?;
        let mut tensors = Self::default();
        for (name, view) in file.tensors() {
            let (Dtype::F32, &[rows, columns]) = (view.dtype(), view.shape()) else {
                return Err(damaged(path, format!("{name} is no matrix of f32")));
            };
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            tensors.put(name, [rows, columns], values);
        }
        let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok((tensors, metadata))
    }
}

/// An evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps done before.
    pub step: usize,
    /// The divergence from the teacher on what was held out, in nats per row.
    pub kl: f64,
}

/// Everything that the rest of a run depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Steps done.
    pub(crate) step: usize,
    /// The loss of every step.
    pub(crate) losses: Vec<f64>,
    /// Every evaluation.
    pub(crate) points: Vec<Point>,
    /// Trained tensors by their names, and the moments of AdamW as `name#1` and `name#2`.
    pub(crate) tensors: Tensors,
    /// Trained tensors where the divergence was least.
    pub(crate) best: Tensors,
}

/// What is written as text. Floats are bits: `serde_json` may read back another last one.
#[derive(Serialize, Deserialize)]
struct Text {
    run: String,
    step: usize,
    losses: Vec<u64>,
    points: Vec<(usize, u64)>,
}

const KEY: &str = "quench.tune";
const BEST: &str = "best:";

impl State {
    /// Writes beside `path` and renames.
    pub(crate) fn write(&self, run: &str, path: &Path) -> Result<(), TuneError> {
        let text = Text {
            run: run.to_owned(),
            step: self.step,
            losses: self.losses.iter().map(|loss| loss.to_bits()).collect(),
            points: self.points.iter().map(|point| (point.step, point.kl.to_bits())).collect(),
        };
        let text = serde_json::to_string(&text).unwrap_or_else(|error| unreachable!("a state is plain data: {error}"));
        let mut all = self.tensors.clone();
        for (name, (shape, values)) in &self.best.0 {
            all.put(format!("{BEST}{name}"), *shape, values.clone());
        }
        write_file(path, &all.to_bytes(&[(KEY, text)]))
    }

    /// - `run`: what the state must be of
    pub(crate) fn read(run: &str, path: &Path) -> Result<Self, TuneError> {
        let (all, metadata) = Tensors::from_bytes(&read_file(path)?, path)?;
        let text = metadata.get(KEY).ok_or_else(|| damaged(path, "it is no state of a run".to_owned()))?;
        let text: Text = serde_json::from_str(text).map_err(|error| damaged(path, error.to_string()))?;
        if text.run != run {
            return Err(TuneError::OtherRun { path: path.to_owned(), what: "settings, model or data" });
        }
        let (mut tensors, mut best) = (Tensors::default(), Tensors::default());
        for (name, (shape, values)) in all.0 {
            match name.strip_prefix(BEST) {
                Some(name) => best.put(name, shape, values),
                None => tensors.put(name, shape, values),
            }
        }
        let points = text.points.into_iter().map(|(step, kl)| Point { step, kl: f64::from_bits(kl) }).collect();
        let losses = text.losses.into_iter().map(f64::from_bits).collect();
        Ok(Self { step: text.step, losses, points, tensors, best })
    }
}

fn damaged(path: &Path, reason: String) -> TuneError {
    TuneError::Damaged { path: path.to_owned(), reason }
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, TuneError> {
    fs::read(path).map_err(|source| TuneError::File { path: path.to_owned(), source })
}

/// Writes a file under another name, brings it to the disk, and renames it.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), TuneError> {
    let partial = path.with_extension("partial");
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| TuneError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let mut state = State { step: 7, losses: vec![0.1 + 0.2, f64::MIN_POSITIVE], ..State::default() };
        state.points = vec![Point { step: 0, kl: 1.0 / 3.0 }, Point { step: 7, kl: 0.1 }];
        state.tensors.put("a.latent", [2, 3], vec![1.0, -0.0, 1e-30, f32::MAX, 5.0, 0.1]);
        state.best.put("a.latent", [1, 1], vec![2.0]);
        state.write("this", &path).unwrap();
        assert_eq!(State::read("this", &path).unwrap(), state);
        assert!(matches!(State::read("that", &path), Err(TuneError::OtherRun { .. })));
        // What is left of a write that was broken off is not looked at.
        fs::write(path.with_extension("partial"), b"half").unwrap();
        assert_eq!(State::read("this", &path).unwrap(), state);
        fs::write(&path, b"half").unwrap();
        assert!(matches!(State::read("this", &path), Err(TuneError::Damaged { .. })));
    }
}
