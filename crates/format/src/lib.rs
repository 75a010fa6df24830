//! What a quantized matrix is: codes, groups, scales, packed bits and the reference decode.
//!
//! A weight matrix `w [out, in]` is kept as small integers, *codes*, and a few numbers that give the codes
//! their meaning. This crate defines that meaning and nothing else: no file format, no device, no Burn.
//!
//! # One page
//!
//! A [`Scheme`] is four choices, each free of the others:
//!
//! | choice | question | values |
//! | --- | --- | --- |
//! | [`Code`] | what number does a code stand for? | `int4` `uint4` `slog5:mu8` `lns4:oct3.5` `nf4` `e2m1` `e4m3` `trellis2:12` ..., 1 to 16 bits |
//! | [`Group`] | which weights share a scale? | `tensor`, `row`, or any number of columns of a row: `128` |
//! | [`Scale`] | how is the scale itself kept? | `f32` `f16` `bf16` `e8m0`, or coded in turn: `int8/16:f32` |
//! | [`Scale`] | does each group have a minimum, and how is it kept? | none, or as a scale is |
//!
//! Written together: `int4/128/f16`, or with minimums `uint4/32/f16/min:f16`. The matrix itself is a [`Packed`], and it means
//!
//! ```text
//! w[r, c] = scale[r, g] * (level(code[r, j]) - zero[r, g])      c = order[j],  g = j / group
//! w[r, c] = scale[r, g] * level(code[r, j]) + minimum[r, g]     where the scheme has minimums
//!
//!            scale   [out, groups]   one for all with `tensor`; groups = ceil(in / group), the last may be short
//!            level   the code's own number at scale 1, Code::level
//!            zero    [out, groups]   integers, only where the code is affine and has no minimums; 0 otherwise
//!            minimum [out, groups]   as many as scales, kept like them
//!            order   [in]            which original column stands at stored column j; j itself where absent
//! ```
//!
//! with one rounding to `f32` at each multiplication and addition. [`Packed::decode`] computes exactly this, slowly and plainly;
//! every kernel and every file dialect is tested against it. A `Packed` is checked when it is made, so whoever holds one
//! can index it freely: lengths agree, scales are finite and exactly representable in the kind the scheme names, zeros
//! are in range, the order is a permutation, and padding is zero.
//!
//! Codes are packed tightly, least significant bit first, into `u32` words; every row starts on a new word ([`bits`]).
//! The size is counted to the bit, row padding, scales, zeros and order included ([`Packed::bits_per_weight`]).
//!
//! For storage and transfer codes can be shorter still, at the length of their entropy ([`rans`]).
//!
//! Quantizers ask one question, *which code is nearest?*, of a [`Grid`] that they build once per code. The weights of a [`Trellis`]
//! share bits, so that they are not asked one by one ([`Code::is_scalar`]): they are packed in strings down the columns, and have an
//! encoder of their own ([`trellis`]).
//!
//! # Example
//!
//! Two rows of four weights, 4-bit integers, two columns to a group, a 16-bit scale for each:
//!
//! ```
//! use quench_format::{Packed, Scales, Scheme};
//!
//! let scheme: Scheme = "int4/2/f16".parse()?;
//! let w: [f32; 8] = [0.5, -1.0, 0.25, 0.125, 3.0, 7.0, 0.0, -2.0];
//!
//! // One scale for each group of two weights, so that the largest of them meets the largest level, 7.
//! let top = scheme.code.max_level();
//! let Some(kind) = scheme.scale.float() else { unreachable!("f16 is a float scale") };
//! let scales: Vec<f32> = w.chunks(2).map(|g| kind.round(g[0].abs().max(g[1].abs()) / top)).collect();
//!
//! let grid = scheme.code.grid();
//! let codes: Vec<u16> = w.iter().enumerate().map(|(i, w)| grid.nearest(w / scales[i / 2])).collect();
//!
//! let packed = Packed::from_codes(scheme, [2, 4], &codes, Scales::Float(scales.clone()), None, None)?;
//! for (i, decoded) in packed.decode().into_iter().enumerate() {
//!     assert!((w[i] - decoded).abs() <= 0.51 * scales[i / 2]); // half a step, and the rounding of the scale
//! }
//! // A row is 16 bits of code in one 32-bit word, and two scales of 16 bits: (32 + 2 * 16) / 4.
//! assert_eq!(packed.bits_per_weight(), 16.0);
//! # Ok::<(), quench_format::FormatError>(())
//! ```
//!
//! `docs/format.md` lists every code with its levels and draws the packing; `docs/adding-a-code.md` says how to add one.

#![deny(missing_docs)]

pub mod bits;
mod code;
mod error;
mod float;
mod geometric;
mod grid;
mod ladder;
mod log;
mod packed;
pub mod published;
pub mod rans;
mod regrid;
pub mod rotation;
mod scheme;
mod spelling;
pub mod tiles;
pub mod trellis;

pub use code::{Bits, Code};
pub use error::FormatError;
pub use float::Minifloat;
pub use geometric::Octaves;
pub use grid::Grid;
pub use ladder::Ladder;
pub use log::Mu;
pub use packed::{Offsets, Packed, Parts, Scales};
pub use rotation::Rotation;
pub use scheme::{FloatKind, Group, Scale, Scheme, power_of_two};
pub use trellis::Trellis;
