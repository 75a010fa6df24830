//! The product from either side: which kernel does it, and the one for many rows.
//!
//! A cube makes 64 by 64 outputs. It decodes 32 deep blocks of weights into shared memory, beside the block of `x` that
//! they meet, and each of its 256 units adds up 4 by 4 outputs in registers.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::untile;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, features::MmaConfig};
use cubecl::prelude::*;
use quench_format::tiles::STEP;

use super::decode::decode_step;
use super::gemv::{self, Runs, gemv};
use super::{Operands, Packing, Words, address_type, decode, empty};
use crate::ops::{PackedParts, Side};

/// Rows and columns of a block of the product.
const BLOCK: usize = 64;
/// How deep a block of `x` and one of weights are.
const DEPTH: usize = 32;
/// Steps of a block's depth, and of its columns.
const DEPTH_STEPS: usize = DEPTH / STEP;
const BLOCK_STEPS: usize = BLOCK / STEP;
/// Units along a side of a block; each has 4 by 4 outputs.
const ACROSS: usize = BLOCK / 4;
const UNITS: usize = ACROSS * ACROSS;
/// Rows up to which blocks are decoded anew for every 64 of them; above, the dense matrix is written and read once.
const MOST_ROWS: usize = 256;

/// `x · Wᵀ` or `x · W`; `x` `[rows, in or out]` of any float dtype, which the product has too.
pub(crate) fn matmul(x: CubeTensor, w: PackedParts<CubeBackend>, side: Side) -> CubeTensor {
    let x = untile(x);
    let [rows, _] = x.shape().dims::<2>();
    let [_, columns] = side.columns(w.layout.shape);
    if rows == 0 {
        return empty(&x, [0, columns], x.dtype);
    }
    match Plan::of(&x, &w, side) {
        Plan::Lanes(runs) => gemv(x, &Operands::new(w), runs),
        Plan::Blocks => blocks(x, &Operands::new(w), side),
        Plan::Decoded => {
            let w = decode(w, x.dtype);
            match side {
                Side::Transposed => CubeBackend::float_matmul(x, CubeBackend::float_transpose(w)),
                Side::Plain => CubeBackend::float_matmul(x, w),
            }
        }
    }
}

/// How a product is made; every scheme and shape has a way.
enum Plan {
    /// Codes to registers: `x · Wᵀ` of a few rows.
    Lanes(Runs),
    /// Codes to shared memory, a block at a time.
    Blocks,
    /// The dense matrix in memory as long as the product takes, and Burn's product: many rows, and halves where the
    /// device has matrix units for them, which Burn's product uses.
    Decoded,
}

impl Plan {
    fn of(x: &CubeTensor, w: &PackedParts<CubeBackend>, side: Side) -> Self {
        let [rows, _] = x.shape().dims::<2>();
        let [_, columns] = side.columns(w.layout.shape);
        if !matches!(x.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Self::Decoded;
        }
        match (side, Runs::of(w.layout)) {
            (Side::Transposed, Some(runs)) if rows <= gemv::MOST_ROWS => Self::Lanes(runs),
            _ if rows <= MOST_ROWS && has_room(x, columns) && !has_matrix_units(x) => Self::Blocks,
            _ => Self::Decoded,
        }
    }
}

/// Whether the device can launch [`blocks_kernel`] for so many columns.
fn has_room(x: &CubeTensor, columns: usize) -> bool {
    let hardware = &x.client.properties().hardware;
    let shared = 2 * BLOCK * DEPTH * size_of::<f32>();
    hardware.max_shared_memory_size >= shared
        && hardware.max_units_per_cube as usize >= UNITS
        && hardware.max_cube_count.0 as usize >= columns.div_ceil(BLOCK)
}

/// Whether the device multiplies blocks of this dtype at once.
fn has_matrix_units(x: &CubeTensor) -> bool {
    let dtype: ElemType = dtype_to_storage_type(x.dtype);
    let takes = |unit: &MmaConfig| unit.a_type == dtype && unit.b_type == dtype;
    x.client.features().matmul.cmma.iter().any(takes)
}

fn blocks(x: CubeTensor, w: &Operands, side: Side) -> CubeTensor {
    let [rows, depth] = x.shape().dims::<2>();
    let [_, columns] = side.columns(w.layout.shape);
    let output = empty(&x, [rows, columns], x.dtype);
    let strides = x.meta.strides().clone();
    // SAFETY: rows, columns and depth are checked against the sizes at every read and write.
    unsafe {
        blocks_kernel::launch_unchecked(
            &x.client,
            CubeCount::Static(columns.div_ceil(BLOCK) as u32, rows.div_ceil(BLOCK) as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            address_type([&w.codes, &x, &output]),
            w.words(1, 1),
            w.order(),
            x.clone().into_buffer_arg(),
            strides[0],
            strides[1],
            output.clone().into_buffer_arg(),
            rows,
            depth,
            columns,
            side,
            w.packing(),
            dtype_to_storage_type(x.dtype),
        );
    }
    output
}

/// One block of the product.
#[cube(launch_unchecked, address_type = "dynamic")]
fn blocks_kernel<F: Float>(
    w: &Words<u32, u32>,
    order: &ComptimeOption<Box<[u32]>>,
    x: &[F],
    x_row: usize,
    x_column: usize,
    output: &mut [F],
    rows: usize,
    depth: usize,
    columns: usize,
    #[comptime] side: Side,
    #[comptime] packing: Packing,
    #[define(F)] _dtype: ElemType,
) {
    let first_row = CUBE_POS_Y as usize * BLOCK;
    let first_column = CUBE_POS_X as usize * BLOCK;
    let unit = UNIT_POS as usize;
    let (down, across) = (unit / ACROSS, unit % ACROSS);

    // [64 rows, 8 steps], and [64 columns, 8 steps] or [32 deep, 16 steps] as the side has it.
    let mut xs = Shared::<[Vector<f32, Const<4>>]>::new_slice(BLOCK * DEPTH_STEPS);
    let mut ws = Shared::<[Vector<f32, Const<4>>]>::new_slice(BLOCK * DEPTH_STEPS);
    let mut sums = Array::<f32>::new(16usize);
    #[unroll]
    for i in 0..16usize {
        sums[i] = 0.0f32;
    }

    for first in range_stepped(0usize, depth, DEPTH) {
        #[unroll]
        for i in 0..2usize {
            let item = unit + i * UNITS;
            let (row, step) = (item / DEPTH_STEPS, item % DEPTH_STEPS);
            let mut values = Vector::<f32, Const<4>>::new(0.0f32);
            #[unroll]
            for e in 0..STEP {
                let k = first + step * STEP + e;
                if first_row + row < rows && k < depth {
                    let at = match comptime!(side) {
                        Side::Transposed => column_of(order, k),
                        Side::Plain => k,
                    };
                    values.insert(e, f32::cast_from(x[(first_row + row) * x_row + at * x_column]));
                }
            }
            xs[item] = values;
        }
        #[unroll]
        for i in 0..2usize {
            let item = unit + i * UNITS;
            match comptime!(side) {
                Side::Transposed => {
                    let (column, step) = (item % BLOCK, item / BLOCK);
                    ws[turned(column, step)] = weights(w, first_column + column, first / STEP + step, packing);
                }
                Side::Plain => {
                    let (k, step) = (item / BLOCK_STEPS, item % BLOCK_STEPS);
                    ws[item] = weights(w, first + k, first_column / STEP + step, packing);
                }
            }
        }
        sync_cube();
        for step in 0..DEPTH_STEPS {
            let mut a = Array::<Vector<f32, Const<4>>>::new(4usize);
            let mut b = Array::<Vector<f32, Const<4>>>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                a[i] = xs[(down * 4 + i) * DEPTH_STEPS + step];
                b[i] = match comptime!(side) {
                    Side::Transposed => ws[turned(across + i * ACROSS, step)],
                    Side::Plain => ws[(step * STEP + i) * BLOCK_STEPS + across],
                };
            }
            #[unroll]
            for i in 0..4usize {
                #[unroll]
                for j in 0..4usize {
                    #[unroll]
                    for e in 0..STEP {
                        let weight = match comptime!(side) {
                            Side::Transposed => b[j].extract(e),
                            Side::Plain => b[e].extract(j),
                        };
                        sums[i * 4 + j] += a[i].extract(e) * weight;
                    }
                }
            }
        }
        sync_cube();
    }

    #[unroll]
    for i in 0..4usize {
        #[unroll]
        for j in 0..4usize {
            let row = first_row + down * 4 + i;
            let column = match comptime!(side) {
                Side::Transposed => first_column + across + j * ACROSS,
                Side::Plain => first_column + across * 4 + j,
            };
            if row < rows && column < columns {
                let column = match comptime!(side) {
                    Side::Transposed => column,
                    Side::Plain => column_of(order, column),
                };
                output[row * columns + column] = F::cast_from(sums[i * 4 + j]);
            }
        }
    }
}

/// Where a step of a column lies in a block of weights: rotated, so that neighbouring columns are in other banks.
#[cube]
fn turned(column: usize, step: usize) -> usize {
    column * DEPTH_STEPS + (step + column) % DEPTH_STEPS
}

/// A step of `W`, 0 outside of it.
#[cube]
fn weights(w: &Words<u32, u32>, row: usize, step: usize, #[comptime] packing: Packing) -> Vector<f32, Const<4>> {
    let mut values = Vector::<f32, Const<4>>::new(0.0f32);
    if row < w.out && step * STEP < w.columns {
        values = decode_step(w, row, step, packing);
    }
    values
}

/// The column of the matrix that is stored at `stored`.
#[cube]
fn column_of(order: &ComptimeOption<Box<[u32]>>, stored: usize) -> usize {
    #[comptime]
    match order {
        ComptimeOption::Some(order) => order[stored] as usize,
        ComptimeOption::None => stored,
    }
}
