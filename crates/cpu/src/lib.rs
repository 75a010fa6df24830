//! Products of packed matrices on the CPU, which never write the dense matrix.
//!
//! A matrix comes in tiles of sixteen rows ([`quench_format::tiles`]); [`matmul`] multiplies by it from either side,
//! [`decode`] and [`select`] write it out, whole or by rows; [`convolve`] multiplies by it what a window sees of an image;
//! [`dense`] is for the few matrices that stay dense. Slices in, slices out: no Burn here.
//!
//! # Numerics
//!
//! | [`Activations`] | input | sums | relative error of a product |
//! | --- | --- | --- | --- |
//! | `Int8` | rounded to 8 bits, one scale for up to 128 columns of a row | i32, exact | about 4e-3, at most what [`Activations::Int8`] says |
//! | `Bf16` | rounded to bf16 | f32 | about 2e-3 |
//! | `F32` | as it is | f32 | that of f32 |
//!
//! Results do not depend on the number of threads; nor on how many rows are multiplied at once, but for the step at 13
//! rows (`Bf16`: 5) where a matrix unit (AMX) takes over.
//!
//! # Instruction sets
//!
//! Each algorithm is written once over a small trait and compiled for AVX-512 with VNNI (and AMX), AVX2 with and without VNNI, NEON
//! with the dot product, and plain Rust; [`Isa::chosen`] takes the best the machine has, or what `QUENCH_ISA` names.
//! `unsafe` is in `isa/`, nowhere else.

#![expect(clippy::needless_range_loop, reason = "arrays are registers here, and such loops are unrolled")]

mod activations;
mod convolve;
mod decoded;
mod dense;
mod input;
mod int8;
mod isa;
mod matrix;
mod pairs;
mod product;
mod simd;
mod threads;
mod unpack;
mod weights;

pub use activations::Activations;
pub use convolve::{Images, Window, convolve};
pub use dense::{DENSE_ROWS, Dense, dense};
pub use isa::Isa;
pub use product::{Side, decode, matmul, select};
pub use weights::{Levels, Weights};
