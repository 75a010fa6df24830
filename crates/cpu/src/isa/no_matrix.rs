//! Where no unit that multiplies matrices is known.

use quench_format::tiles::ROWS;

/// There is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Matrix {}

/// There is none.
pub(crate) enum MatrixTiles {}

/// Sixteen rows of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Block<T>(pub [[T; ROWS]; ROWS]);

impl Matrix {
    pub(crate) fn tiles(self) -> MatrixTiles {
        match self {}
    }
}

impl MatrixTiles {
    pub(crate) fn multiply(&self, _: [&[Block<u32>]; 2], _: [&[Block<u32>]; 2], _: [[&mut Block<f32>; 2]; 2]) {
        match *self {}
    }
}
