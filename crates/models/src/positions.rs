//! Tables of vectors that stay dense: learned positions, and the two kinds of text that BERT tells apart.

use burn::module::Param;
use burn::tensor::Tensor;

use crate::ModelError;
use crate::load::{Loader, Stored};

/// A table `P` `[rows, hidden]` whose rows are added to a hidden state.
#[derive(Clone)]
pub(crate) struct PositionTable {
    stored: Stored<2>,
    table: Param<Tensor<2>>,
}

impl PositionTable {
    pub(crate) fn new(loader: &Loader<'_>, name: &str, shape: [usize; 2]) -> Result<Self, ModelError> {
        let stored = loader.matrix(&format!("{name}.weight"), shape)?;
        Ok(Self { table: stored.lazy(), stored })
    }

    /// `y_t = x_t + P[start + t]`, `x`: `[batch, seq, hidden]` → the same.
    ///
    /// Panics if the table ends before the last position.
    pub(crate) fn add(&self, x: Tensor<3>, start: usize) -> Tensor<3> {
        let (table, count) = (self.table.val(), x.dims()[1]);
        let positions = table.dims()[0];
        assert!(start + count <= positions, "{} positions, the model has {positions}", start + count);
        x + table.narrow(0, start, count).unsqueeze()
    }

    /// `y_t = x_t + P[row]`, `x`: `[batch, seq, hidden]` → the same.
    pub(crate) fn add_row(&self, x: Tensor<3>, row: usize) -> Tensor<3> {
        x + self.table.val().narrow(0, row, 1).unsqueeze()
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        self.stored.load(&mut self.table)
    }
}
