//! Where no unit that multiplies matrices is known.

use std::convert::Infallible;

use quench_format::tiles::ROWS;

/// There is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix(Infallible);

/// There is none.
pub(crate) struct MatrixTiles(Infallible);

/// Sixteen rows of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Block<T>(pub [[T; ROWS]; ROWS]);

impl Matrix {
    pub(crate) fn tiles(self) -> MatrixTiles {
        match self.0 {}
    }
}

impl MatrixTiles {
    pub(crate) fn multiply(&self, _: [&[Block<u32>]; 2], _: [&[Block<u32>]; 2], _: [[&mut Block<f32>; 2]; 2]) {
        match self.0 {}
    }

    pub(crate) fn multiply_one(&self, _: &[Block<u32>], _: [&[Block<u32>]; 2], _: [&mut Block<f32>; 2]) {
        match self.0 {}
    }
}
