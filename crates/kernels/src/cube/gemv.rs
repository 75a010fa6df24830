//! `x · Wᵀ` of up to 16 rows: every word of the weights is read once, and the sums of all rows are in registers.
//!
//! A cube makes the outputs of one tile, 16 rows of `W`. Its units are `slots` times four: unit `4 · slot + quad` reads
//! rows `4 · quad ..` of chunks `slot`, `slot + slots`, .., a 16-byte vector a line, so that four units read a 64-byte
//! line and a warp eight chunks. Sums of a quad are folded by shuffles within a plane, and between planes through shared
//! memory; without planes all of it is shared memory. Where tiles are too few for the device, cubes share a tile's
//! chunks, and a second launch adds what they found.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::features::Plane;
use cubecl::prelude::*;
use quench_format::FloatKind;
use quench_format::tiles::{CHUNK, ROWS, STEP, STEPS, planes};

use super::decode::{BIAS, BIAS_BITS, half, integer, plane};
use super::{Operands, Packing, Values, ValuesExpand, Words, address_type, empty};
use crate::ops::{Layout, Levels};

/// Rows of `x` that one launch takes.
pub(super) const MOST_ROWS: usize = 16;
/// Bits of a code that the kernel takes: a table of more values does not fit beside the sums.
const MOST_BITS: u32 = 8;
/// Rows up to which a group is summed before it is scaled; above, the registers are better kept for the rows.
const ROWS_SUMMED_BY_GROUP: usize = 4;
/// Units that read the same columns: 16 rows in vectors of four.
const QUADS: usize = ROWS / 4;

/// How the columns of a chunk share scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Runs {
    /// Steps that certainly share a scale: 8, 4, 2 or 1.
    steps: usize,
    /// Steps of a group; none if a row has one group.
    group: Option<usize>,
}

impl Runs {
    /// For a layout that this kernel takes: codes of up to 8 bits, in groups of whole steps.
    pub(super) fn of(layout: Layout) -> Option<Self> {
        let Layout { shape: [_, columns], bits, group, .. } = layout;
        if bits > MOST_BITS {
            return None;
        }
        if group >= columns {
            return Some(Self { steps: STEPS, group: None });
        }
        let steps = [8, 4, 2, 1].into_iter().find(|steps| group.is_multiple_of(STEP * steps))?;
        Some(Self { steps, group: Some(group / STEP) })
    }
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    /// Rows of `x`.
    rows: usize,
    /// Chunks read at a time.
    slots: usize,
    /// Units whose sums are folded by shuffles: a plane, or 4, the quads of one slot, where the device has no planes.
    fold: usize,
    runs: Runs,
    /// Values of the table, if there is one.
    table: usize,
}

/// `x · Wᵀ`, `x` `[rows, in]` with 1 to 16 rows of f32, f16 or bf16: `[rows, out]`, in the dtype of `x`.
pub(super) fn gemv(x: CubeTensor, w: &Operands, runs: Runs) -> CubeTensor {
    let [out, _] = w.layout.shape;
    let [rows, _] = x.shape().dims::<2>();
    let (tiles, chunks) = (w.layout.tiles(), w.layout.chunks());
    let client = x.client.clone();
    let hardware = &client.properties().hardware;

    let sizes = (hardware.plane_size_min, hardware.plane_size_max);
    let has_planes = client.features().plane.contains(Plane::Ops) && sizes.0 == sizes.1 && sizes.0 >= 8;
    let fold = if has_planes { sizes.0 as usize } else { QUADS };
    // Shared memory holds a vector for each row of each group of units that shuffles do not fold: 8 KiB of them.
    let most = (128 / rows * fold / QUADS).min(64).min(hardware.max_units_per_cube as usize / QUADS);
    let slots = chunks.next_power_of_two().min(1 << most.ilog2()).max(fold / QUADS);

    // Two cubes for every multiprocessor, as long as each slot still has two chunks to read.
    let wanted = 2 * hardware.num_streaming_multiprocessors.unwrap_or(32) as usize;
    let splits = wanted.div_ceil(tiles).min(chunks.div_ceil(2 * slots));
    let per_split = chunks.div_ceil(splits);
    let splits = chunks.div_ceil(per_split);

    let dtype = x.dtype;
    let table = match w.levels {
        Levels::Table(_) => 1 << w.layout.bits,
        Levels::Signed | Levels::Unsigned | Levels::Affine(_) => 0,
    };
    let form = Form { rows, slots, fold, runs, table };
    let x = arranged(x, w);
    let sums = empty(&x, [splits * rows, out], if splits == 1 { dtype } else { DType::F32 });
    let across = tiles.min(hardware.max_cube_count.0 as usize);
    let scale_lanes = if w.layout.scale == FloatKind::F32 { 4 } else { 2 };
    // SAFETY: cubes beyond the last tile return at once, chunks and rows stay within the matrix, `arranged` has filled
    // `x` up to whole chunks, and rows of the last tile beyond `out` are not written.
    unsafe {
        gemv_kernel::launch_unchecked(
            &client,
            CubeCount::Static(across as u32, tiles.div_ceil(across) as u32, splits as u32),
            CubeDim::new_2d(fold as u32, (slots * QUADS / fold) as u32),
            address_type([&w.codes, &x, &sums]),
            scale_lanes,
            w.words(4, scale_lanes),
            x.clone().into_buffer_arg(),
            x.meta.strides()[0] / STEP,
            sums.clone().into_buffer_arg(),
            chunks,
            per_split,
            form,
            w.packing(),
            [dtype_to_storage_type(dtype), dtype_to_storage_type(sums.dtype)],
        );
    }
    if splits == 1 { sums } else { added(sums, splits, dtype) }
}

/// `x` with its columns as they are stored, in whole chunks: the tensor itself where it lies like that.
fn arranged(x: CubeTensor, w: &Operands) -> CubeTensor {
    let [rows, columns] = x.shape().dims::<2>();
    let strides = x.meta.strides();
    if w.order.is_none() && columns.is_multiple_of(CHUNK) && strides[1] == 1 && strides[0].is_multiple_of(STEP) {
        return x;
    }
    let wide = w.layout.chunks() * CHUNK;
    let output = empty(&x, [rows, wide], x.dtype);
    let units = rows * wide;
    let dim = CubeDim::new(&x.client, units);
    // SAFETY: units beyond the last element return at once, and only columns of `x` are read.
    unsafe {
        arrange_kernel::launch_unchecked(
            &x.client,
            calculate_cube_count_elemwise(&x.client, units, dim),
            dim,
            address_type([&x, &output]),
            x.clone().into_tensor_arg(),
            w.order(),
            output.clone().into_buffer_arg(),
            units,
            wide,
            dtype_to_storage_type(x.dtype),
        );
    }
    output
}

/// The sum of every `splits`-th part of `parts` `[splits · rows, out]`: `[rows, out]`.
fn added(parts: CubeTensor, splits: usize, dtype: DType) -> CubeTensor {
    let [rows, out] = parts.shape().dims::<2>();
    let output = empty(&parts, [rows / splits, out], dtype);
    let units = rows / splits * out;
    let dim = CubeDim::new(&parts.client, units);
    // SAFETY: units beyond the last element return at once.
    unsafe {
        add_kernel::launch_unchecked(
            &parts.client,
            calculate_cube_count_elemwise(&parts.client, units, dim),
            dim,
            address_type([&parts, &output]),
            parts.clone().into_buffer_arg(),
            output.clone().into_buffer_arg(),
            units,
            splits,
            dtype_to_storage_type(dtype),
        );
    }
    output
}

/// One tile, or the chunks of it that this cube of its column has.
#[cube(launch_unchecked, address_type = "dynamic")]
fn gemv_kernel<X: Float, Y: Float, S: Size>(
    w: &Words<Vector<u32, Const<4>>, Vector<u32, S>>,
    x: &[Vector<X, Const<4>>],
    x_pitch: usize,
    y: &mut [Y],
    chunks: usize,
    per_split: usize,
    #[comptime] form: Form,
    #[comptime] packing: Packing,
    #[define(X, Y)] _dtypes: [ElemType; 2],
) {
    let tile = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    if tile * ROWS >= w.out {
        terminate!();
    }
    let rows = comptime!(form.rows);
    let unit = UNIT_POS_Y as usize * comptime!(form.fold) + UNIT_POS_X as usize;
    let quad = unit % QUADS;
    let table = shared_table(&w.levels, unit, form);

    let mut sums = Array::<Vector<f32, Const<4>>>::new(rows);
    #[unroll]
    for m in 0..rows {
        sums[m] = Vector::new(0.0f32);
    }
    let first = CUBE_POS_Z as usize * per_split;
    let end = (first + per_split).min(chunks);
    for chunk in range_stepped(first + unit / QUADS, end, comptime!(form.slots)) {
        add_chunk::<X, S>(w, &table, x, x_pitch, &mut sums, tile, chunk, quad, form, packing);
    }

    // Sums of a quad: within a plane, whose units of one quad are four apart, then between planes.
    let folds = comptime!((form.fold / QUADS).ilog2());
    #[unroll]
    for m in 0..rows {
        #[unroll]
        for i in 0..folds {
            let sum = sums[m];
            sums[m] = sum + plane_shuffle_xor(sum, comptime!(QUADS as u32) << i);
        }
    }
    let parts = comptime!(form.slots * QUADS / form.fold);
    let mut shared = Shared::<[Vector<f32, Const<4>>]>::new_slice(comptime!(parts * QUADS * rows));
    if (UNIT_POS_X as usize) < QUADS {
        #[unroll]
        for m in 0..rows {
            shared[(m * parts + UNIT_POS_Y as usize) * QUADS + quad] = sums[m];
        }
    }
    sync_cube();
    for i in range_stepped(unit, comptime!(QUADS * rows), comptime!(form.slots * QUADS)) {
        let (m, quad) = (i / QUADS, i % QUADS);
        let mut sum = Vector::<f32, Const<4>>::new(0.0f32);
        for part in 0..parts {
            sum += shared[(m * parts + part) * QUADS + quad];
        }
        #[unroll]
        for r in 0..4usize {
            let row = tile * ROWS + quad * 4 + r;
            if row < w.out {
                y[(CUBE_POS_Z as usize * rows + m) * w.out + row] = Y::cast_from(sum.extract(r));
            }
        }
    }
}

/// Adds to the sums what the four rows of a quad have in a chunk.
#[cube]
fn add_chunk<X: Float, S: Size>(
    w: &Words<Vector<u32, Const<4>>, Vector<u32, S>>,
    table: &Shared<[f32]>,
    x: &[Vector<X, Const<4>>],
    x_pitch: usize,
    sums: &mut Array<Vector<f32, Const<4>>>,
    tile: usize,
    chunk: usize,
    quad: usize,
    #[comptime] form: Form,
    #[comptime] packing: Packing,
) {
    let rows = comptime!(form.rows);
    let lines = comptime!(packing.bits as usize);
    let first = tile * w.code_pitch + chunk * comptime!(lines * QUADS) + quad;
    let mut words = Array::<Vector<u32, Const<4>>>::new(lines);
    #[unroll]
    for line in 0..lines {
        words[line] = w.codes[first + line * QUADS];
    }
    let mut parts = Array::<Vector<f32, Const<4>>>::new(rows);
    let mut inputs = Array::<Vector<f32, Const<4>>>::new(rows);

    let runs = comptime!(STEPS / form.runs.steps);
    #[unroll]
    for run in 0..runs {
        let step = comptime!(run * form.runs.steps);
        let group = match comptime!(form.runs.group) {
            Some(steps) => (chunk * STEPS + step) / steps,
            None => 0usize.runtime(),
        };
        let scale = scales_of(w.scales[tile * w.scale_pitch + group * QUADS + quad], packing);
        let offset = offset_of(&w.levels, tile, group, quad, packing);
        #[unroll]
        for m in 0..rows {
            parts[m] = Vector::new(0.0f32);
        }
        let steps = comptime!(form.runs.steps);
        #[unroll]
        for i in 0..steps {
            let s = comptime!(step + i);
            #[unroll]
            for m in 0..rows {
                inputs[m] = Vector::cast_from(x[m * x_pitch + chunk * STEPS + s]);
            }
            #[unroll]
            for e in 0..STEP {
                let codes = codes_of(&words, s, e, packing.bits);
                let mut level =
                    if comptime!(form.table == 0) { integer(codes, offset) } else { looked_up(table, codes) };
                if comptime!(rows > ROWS_SUMMED_BY_GROUP) {
                    level *= scale;
                }
                #[unroll]
                for m in 0..rows {
                    let input = inputs[m].extract(e);
                    if comptime!(rows > ROWS_SUMMED_BY_GROUP) {
                        sums[m] += level * Vector::new(input);
                    } else {
                        parts[m] += level * Vector::new(input);
                    }
                }
            }
        }
        if comptime!(rows <= ROWS_SUMMED_BY_GROUP) {
            #[unroll]
            for m in 0..rows {
                sums[m] += parts[m] * scale;
            }
        }
    }
}

/// The codes of four rows in column `e` of step `s`, of the lines of a chunk.
#[cube]
fn codes_of(
    words: &Array<Vector<u32, Const<4>>>,
    #[comptime] s: usize,
    #[comptime] e: usize,
    #[comptime] bits: u32,
) -> Vector<u32, Const<4>> {
    let count = comptime!(planes(bits).count());
    let mut codes = Vector::<u32, Const<4>>::new(0u32);
    #[unroll]
    for p in 0..count {
        let plane = comptime!(plane(bits, p));
        let (line, shift) = comptime!(plane.place(s));
        let shift = comptime!(shift + 8 * e as u32);
        let field = (words[line] >> Vector::new(shift)) & Vector::new(comptime!((1u32 << plane.width) - 1));
        codes |= field << Vector::new(comptime!(plane.low));
    }
    codes
}

/// The scales of four rows, of two words of halves or four of f32.
#[cube]
fn scales_of<S: Size>(words: Vector<u32, S>, #[comptime] packing: Packing) -> Vector<f32, Const<4>> {
    let mut scales = Vector::<f32, Const<4>>::empty();
    #[unroll]
    for r in 0..4usize {
        if comptime!(packing.scale == FloatKind::F32) {
            scales.insert(r, f32::reinterpret(words.extract(r)));
        } else {
            let word = words.extract(comptime!(r / 2));
            scales.insert(r, half((word >> comptime!(r as u32 % 2 * 16)) & 0xffff, packing.scale));
        }
    }
    scales
}

/// What [`integer`] subtracts in four rows: `2^23` and their zero points; of no use with a table.
#[cube]
fn offset_of(
    levels: &Values,
    tile: usize,
    group: usize,
    quad: usize,
    #[comptime] packing: Packing,
) -> Vector<f32, Const<4>> {
    #[comptime]
    match levels {
        Values::Affine(zeros) => {
            let word = zeros.words[tile * zeros.pitch + group * QUADS + quad];
            let mut offset = Vector::<f32, Const<4>>::empty();
            #[unroll]
            for r in 0..4usize {
                offset.insert(r, f32::reinterpret(((word >> comptime!(8 * r as u32)) & 0xff) | BIAS_BITS));
            }
            offset
        }
        _ => Vector::new(comptime!(BIAS + (1u32 << (packing.bits - 1)) as f32).runtime()),
    }
}

/// The table in shared memory, where the code has one.
#[cube]
fn shared_table(levels: &Values, unit: usize, #[comptime] form: Form) -> Shared<[f32]> {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(form.table.max(1)));
    #[comptime]
    if let Values::Table(table) = levels {
        for i in range_stepped(unit, comptime!(form.table), comptime!(form.slots * QUADS)) {
            shared[i] = table[i];
        }
        sync_cube();
    }
    shared
}

#[cube]
fn looked_up(table: &Shared<[f32]>, codes: Vector<u32, Const<4>>) -> Vector<f32, Const<4>> {
    let mut levels = Vector::<f32, Const<4>>::empty();
    #[unroll]
    for r in 0..4usize {
        levels.insert(r, table[codes.extract(r) as usize]);
    }
    levels
}

/// Copies one element a unit; columns beyond the row are 0.
#[cube(launch_unchecked, address_type = "dynamic")]
fn arrange_kernel<F: Float>(
    x: &Tensor<F>,
    order: &ComptimeOption<Box<[u32]>>,
    output: &mut [F],
    units: usize,
    wide: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let row = ABSOLUTE_POS / wide;
    let stored = ABSOLUTE_POS % wide;
    let mut value = F::new(0.0f32);
    if stored < x.shape(1) {
        #[comptime]
        let column = match order {
            ComptimeOption::Some(order) => order[stored] as usize,
            ComptimeOption::None => stored,
        };
        value = x[row * x.stride(0) + column * x.stride(1)];
    }
    output[ABSOLUTE_POS] = value;
}

/// Adds one element of all parts a unit.
#[cube(launch_unchecked, address_type = "dynamic")]
fn add_kernel<F: Float>(parts: &[f32], output: &mut [F], units: usize, splits: usize, #[define(F)] _dtype: ElemType) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let mut sum = 0.0f32;
    for split in 0..splits {
        sum += parts[split * units + ABSOLUTE_POS];
    }
    output[ABSOLUTE_POS] = F::cast_from(sum);
}
