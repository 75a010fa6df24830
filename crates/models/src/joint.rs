//! [`Joint`]: where one matrix writes what another reads.

use std::ops::Range;
use std::sync::Arc;

use quench_checkpoint::{Edit, Edited};
use quench_format::Rotation;

use crate::ModelError;
use crate::load::Layer;

/// Some places along one axis of a tensor of the file.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub tensor: String,
    pub axis: usize,
    /// All places along the axis.
    pub extent: usize,
    pub places: Range<usize>,
    /// What is added to the file's numbers when they are used: 1 for the gains of Gemma.
    pub one: f64,
}

impl Cut {
    /// Multiplies each place with its factor.
    pub(crate) fn scale(&self, to: &mut Edited, factors: impl IntoIterator<Item = f64>) -> Result<(), ModelError> {
        let mut by = vec![1.0; self.extent];
        by[self.places.clone()].iter_mut().zip(factors).for_each(|(by, factor)| *by = factor);
        let scale = Edit::Scale { axis: self.axis, by: by.into() };
        if self.one == 0.0 {
            return Ok(to.edit(&self.tensor, scale)?);
        }
        to.edit(&self.tensor, Edit::Add(self.one))?;
        to.edit(&self.tensor, scale)?;
        Ok(to.edit(&self.tensor, Edit::Add(-self.one))?)
    }

    /// Turns the places, as many at a time as the rotation has dimensions.
    pub(crate) fn turn(&self, to: &mut Edited, by: &Arc<Rotation>) -> Result<(), ModelError> {
        Ok(to.edit(&self.tensor, Edit::Turn { axis: self.axis, at: self.places.clone(), by: by.clone() })?)
    }
}

/// A place where activations may be scaled: who writes each channel and who reads it.
pub(crate) struct Joint {
    pub site: String,
    pub readers: Vec<String>,
    pub reading: Vec<Cut>,
    pub writing: Vec<Cut>,
    /// For each channel that is read the one that is written, as [`Seam`](quench_nn::Seam) has it.
    pub source: Vec<usize>,
}

impl Joint {
    pub(crate) fn new(site: &str, writing: Vec<Cut>, readers: &[Layer]) -> Self {
        Self {
            site: site.to_owned(),
            readers: readers.iter().map(|layer| layer.info.name.clone()).collect(),
            reading: readers.iter().flat_map(Layer::input_cut).collect(),
            writing,
            source: (0..readers.first().map_or(0, |layer| layer.info.shape[1])).collect(),
        }
    }

    /// Whether all of it can be changed: a packed weight cannot.
    pub(crate) fn is_open(&self) -> bool {
        self.reading.len() == self.readers.len() && !self.writing.is_empty()
    }
}
