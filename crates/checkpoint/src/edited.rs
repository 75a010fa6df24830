//! [`Edited`]: a checkpoint as if some of its tensors had been changed before it was saved.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use quench_format::Rotation;
use safetensors::Dtype;

use crate::{CheckpointError, Source, TensorInfo, TensorView};

/// A change to a tensor.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A number is added to every element.
    Add(f64),
    /// Elements are multiplied with the factor of their place along an axis.
    Scale {
        /// The axis, 0 the outermost.
        axis: usize,
        /// As many factors as the axis is long.
        by: Arc<[f64]>,
    },
    /// Elements are turned along an axis: `x ← x R`, [`Rotation::size`] places after another.
    Turn {
        /// The axis, 0 the outermost.
        axis: usize,
        /// Which places along it are turned; a multiple of the size of the rotation.
        at: Range<usize>,
        /// `R`.
        by: Arc<Rotation>,
    },
}

/// A checkpoint over another, with some tensors changed, added, or left out.
///
/// What is changed is f32 here, whatever it is below; it is computed in f64 and rounded once, each time that it is read.
pub struct Edited {
    source: Arc<dyn Source>,
    tensors: BTreeMap<String, Tensor>,
}

/// Where a tensor comes from, and what is done to it then.
struct Tensor {
    origin: Origin,
    edits: Vec<Edit>,
}

enum Origin {
    /// The source has it under this name.
    Source(String),
    /// It is here.
    Values(Vec<usize>, Vec<f32>),
}

impl Edited {
    /// The tensors of `source` as they are.
    pub fn new(source: Arc<dyn Source>) -> Self {
        let tensor = |name: &str| Tensor { origin: Origin::Source(name.to_owned()), edits: Vec::new() };
        let tensors = source.names().into_iter().map(|name| (name.to_owned(), tensor(name))).collect();
        Self { source, tensors }
    }

    /// Changes a tensor, after what was done to it before.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`] if there is none of this name; [`CheckpointError::Edit`] if the axis is not there, or
    /// has not the length of the edit.
    pub fn edit(&mut self, name: &str, edit: Edit) -> Result<(), CheckpointError> {
        let info = self.info(name).ok_or_else(|| self.missing(name))?;
        let extent = |axis: usize| info.shape.get(axis).copied().unwrap_or(0);
        let fits = match &edit {
            Edit::Add(_) => true,
            Edit::Scale { axis, by } => extent(*axis) == by.len(),
            Edit::Turn { axis, at, by } => {
                at.start <= at.end && at.end <= extent(*axis) && at.len().is_multiple_of(by.size())
            }
        };
        match self.tensors.get_mut(name).filter(|_| fits) {
            Some(tensor) => tensor.edits.push(edit),
            None => {
                let (file, tensor) = (self.source.path().to_owned(), name.to_owned());
                return Err(CheckpointError::Edit { file, tensor, shape: info.shape });
            }
        }
        Ok(())
    }

    /// Puts a tensor of f32 in the place of one, or beside the others.
    ///
    /// # Errors
    /// [`CheckpointError::Size`] if the values do not fill the shape.
    pub fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), CheckpointError> {
        crate::source::check_size(name, Dtype::F32, shape, 4 * values.len() as u64)?;
        let origin = Origin::Values(shape.to_vec(), values);
        self.tensors.insert(name.to_owned(), Tensor { origin, edits: Vec::new() });
        Ok(())
    }

    /// Gives a tensor of the source a second name; the edits of the first are not those of the second.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`] if the source has none of this name.
    pub fn copy(&mut self, from: &str, to: &str) -> Result<(), CheckpointError> {
        if self.source.info(from).is_none() {
            return Err(self.missing(from));
        }
        self.tensors.insert(to.to_owned(), Tensor { origin: Origin::Source(from.to_owned()), edits: Vec::new() });
        Ok(())
    }

    /// Leaves out the tensors whose names begin so.
    pub fn leave_out(&mut self, prefix: &str) {
        self.tensors.retain(|name, _| !name.starts_with(prefix));
    }

    fn missing(&self, name: &str) -> CheckpointError {
        CheckpointError::MissingTensor { path: self.source.path().to_owned(), tensor: name.to_owned() }
    }
}

impl Source for Edited {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.tensors.get(name)?;
        let info = match &tensor.origin {
            Origin::Source(name) => self.source.info(name)?,
            Origin::Values(shape, _) => TensorInfo { dtype: Dtype::F32, shape: shape.clone() },
        };
        Some(if tensor.edits.is_empty() { info } else { TensorInfo { dtype: Dtype::F32, ..info } })
    }

    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let (shape, values) = match &tensor.origin {
            Origin::Source(name) => {
                let view = self.source.tensor(name)?;
                if tensor.edits.is_empty() {
                    return Ok(view);
                }
                (view.shape().to_vec(), view.to_finite_f32()?)
            }
            Origin::Values(shape, values) => (shape.clone(), values.clone()),
        };
        let mut exact: Vec<f64> = values.into_iter().map(f64::from).collect();
        tensor.edits.iter().for_each(|edit| edit.apply(&shape, &mut exact));
        let bytes = exact.into_iter().flat_map(|value| (value as f32).to_le_bytes()).collect();
        TensorView::owned(self.source.path(), name, Dtype::F32, shape, bytes)
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        match self.tensors.get(name)? {
            Tensor { origin: Origin::Source(name), edits } if edits.is_empty() => self.source.stored_bytes(name),
            _ => self.info(name).and_then(|info| crate::source::byte_len(info.dtype, &info.shape)),
        }
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.source.metadata()
    }

    fn manifest(&self) -> &crate::Manifest {
        self.source.manifest()
    }

    fn quantization(&self) -> Option<&serde_json::Value> {
        self.source.quantization()
    }

    fn path(&self) -> &Path {
        self.source.path()
    }
}

impl Edit {
    fn apply(&self, shape: &[usize], values: &mut [f64]) {
        match self {
            Self::Add(term) => values.iter_mut().for_each(|value| *value += term),
            Self::Scale { axis, by } => {
                let inner: usize = shape[axis + 1..].iter().product();
                let places = values.chunks_exact_mut(inner.max(1));
                places.zip(by.iter().cycle()).for_each(|(values, by)| values.iter_mut().for_each(|value| *value *= by));
            }
            Self::Turn { axis, at, by } => {
                let (extent, inner): (usize, usize) = (shape[*axis], shape[axis + 1..].iter().product());
                let mut line = vec![0.0; by.size()];
                for values in values.chunks_exact_mut((extent * inner).max(1)) {
                    for start in at.clone().step_by(by.size()) {
                        for i in 0..inner {
                            let place = |j: usize| (start + j) * inner + i;
                            line.iter_mut().enumerate().for_each(|(j, x)| *x = values[place(j)]);
                            by.apply(&mut line);
                            line.iter().enumerate().for_each(|(j, x)| values[place(j)] = *x);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Folder, Writer};

    /// `w` is `[[0, 1, 2, 3], [4, 5, 6, 7]]` in bf16, `b` `[1, 2]` in f32.
    fn edited() -> (tempfile::TempDir, Edited) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path(), 1 << 20).unwrap();
        let w: Vec<u8> = (0..8).flat_map(|i| half::bf16::from_f32(i as f32).to_le_bytes()).collect();
        writer.add("w", Dtype::BF16, [2, 4], w).unwrap();
        let b: Vec<u8> = [1.0_f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
        writer.add("b", Dtype::F32, [2], b).unwrap();
        writer.finish().unwrap();
        let source = Arc::new(Folder::open(folder.path()).unwrap());
        (folder, Edited::new(source))
    }

    fn values(source: &Edited, name: &str) -> Vec<f32> {
        source.tensor(name).unwrap().to_finite_f32().unwrap()
    }

    fn scale(axis: usize, by: &[f64]) -> Edit {
        Edit::Scale { axis, by: by.into() }
    }

    #[test]
    fn edits_follow_each_other_and_what_has_none_stays_as_it_is() {
        let (_folder, mut source) = edited();
        assert_eq!(source.info("w").unwrap().dtype, Dtype::BF16);
        assert_eq!(source.tensor("w").unwrap().dtype(), Dtype::BF16);
        source.edit("w", scale(1, &[1.0, 10.0, 1.0, 0.5])).unwrap();
        source.edit("w", scale(0, &[1.0, -1.0])).unwrap();
        source.edit("w", Edit::Add(1.0)).unwrap();
        assert_eq!(source.info("w").unwrap(), TensorInfo { dtype: Dtype::F32, shape: vec![2, 4] });
        assert_eq!(values(&source, "w"), [1.0, 11.0, 3.0, 2.5, -3.0, -49.0, -5.0, -2.5]);
        assert_eq!(values(&source, "b"), [1.0, 2.0]);
        assert_eq!((source.stored_bytes("w"), source.stored_bytes("b")), (Some(32), Some(8)));
    }

    #[test]
    fn turns_are_those_of_the_rotation_along_either_axis() {
        let (_folder, mut source) = edited();
        let pair = Arc::new(Rotation::new(2, 3));
        source.edit("w", Edit::Turn { axis: 1, at: 2..4, by: pair.clone() }).unwrap();
        let mut expected: Vec<f64> = (0..8).map(f64::from).collect();
        pair.apply(&mut expected[2..4]);
        pair.apply(&mut expected[6..8]);
        let close =
            |found: &[f32], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6);
        assert!(close(&values(&source, "w"), &expected));

        source.edit("w", Edit::Turn { axis: 0, at: 0..2, by: pair.clone() }).unwrap();
        for column in 0..4 {
            let mut line = [expected[column], expected[4 + column]];
            pair.apply(&mut line);
            (expected[column], expected[4 + column]) = (line[0], line[1]);
        }
        assert!(close(&values(&source, "w"), &expected));
    }

    #[test]
    fn tensors_are_put_copied_and_left_out() {
        let (_folder, mut source) = edited();
        source.copy("w", "head").unwrap();
        source.edit("w", Edit::Add(1.0)).unwrap();
        source.put("c", &[1, 2], vec![5.0, 6.0]).unwrap();
        source.edit("c", Edit::Add(-5.0)).unwrap();
        source.leave_out("b");
        assert_eq!(source.names(), ["c", "head", "w"]);
        assert_eq!((values(&source, "head")[0], values(&source, "w")[0]), (0.0, 1.0));
        assert_eq!(values(&source, "c"), [0.0, 1.0]);
        assert!(matches!(source.tensor("b"), Err(CheckpointError::MissingTensor { .. })));
    }

    #[test]
    fn edits_that_do_not_fit_are_errors() {
        let (_folder, mut source) = edited();
        let turn = |at: Range<usize>| Edit::Turn { axis: 1, at, by: Arc::new(Rotation::new(4, 0)) };
        for edit in [scale(0, &[1.0; 3]), scale(2, &[1.0]), turn(0..3), turn(2..6)] {
            let error = source.edit("w", edit).unwrap_err().to_string();
            assert!(error.contains("`w`") && error.contains("[2, 4]"), "{error}");
        }
        assert!(matches!(source.edit("x", Edit::Add(1.0)), Err(CheckpointError::MissingTensor { .. })));
        assert!(matches!(source.copy("x", "y"), Err(CheckpointError::MissingTensor { .. })));
        assert!(matches!(source.put("x", &[3], vec![0.0]), Err(CheckpointError::Size { .. })));
    }
}
