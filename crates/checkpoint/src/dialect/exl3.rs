//! The dialect of exllamav3, EXL3; only read, and decoded, for its weights share bits.
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `<layer>.trellis` | I16 | `[in / 16, out / 16, 16 K]` | tiles of 16 by 16 weights, `K` bits for each |
//! | `<layer>.suh`, `<layer>.svh` | F16 | `[in]`, `[out]` | factors of the inputs and of the outputs, with their signs |
//! | `<layer>.su`, `<layer>.sv` | I16 | `[in / 16]`, `[out / 16]` | in early files, in place of those: signs, a bit each, 1 for −1 |
//! | `<layer>.mcg` or `<layer>.mul1` | I32 | `[]` | which codebook, by its multiplier; neither is `3inst` |
//!
//! ```text
//! W = diag(suh) · H · Ŵ · H · diag(svh)         [in, out], the transpose of what is handed over
//! ```
//!
//! with `H` of Hadamard matrices (Sylvester's, divided by `√128`) of 128 inputs or outputs along its diagonal, and `Ŵ` of the tiles.
//!
//! **A tile.** Its 16 K words are a ring of `256 K` bits: words of 32 bits, each made of two of the file, the second of them first,
//! and read from the highest bit. Weight `t` is the value that its codebook gives to the 16 bits that end with bit
//! `K (t + 1) − 1` of the ring: neighbours share `16 − K` bits. It stands where a tensor core wants it:
//!
//! ```text
//! t = 8 l + j      row 2 (l mod 4) + (j mod 2) + 8 (j / 2 mod 2)        column l / 4 + 8 (j / 4)
//! ```
//!
//! **A codebook** makes a half `v` of 16 bits `x`, all products modulo 2^32, sums of halves rounded to halves:
//!
//! ```text
//! 3inst   y = x · 89226354 + 64248484     v = low half of z + high half of z,   z = (y & 8FFF8FFFh) ^ 3B603B60h
//! mcg     y = x · CBAC1FEDh               likewise
//! mul1    y = x · 83DCD12Dh               v = (1024 + sum of the bytes of y) · k − b,  rounded once;  k = 1EEEh, b = 4931h
//! ```
//!
//! What exllamav3 multiplies by differs from this in the last bits of halves, in one way or another by the number of rows at hand:
//! it rounds to halves after each step. Here `Ŵ` is exact, the rest is computed in f64, and the weight is rounded once, to f32.
//!
//! Layers whose sides are no multiples of 128 are padded with zeros by the tool before it quantizes them, and are that much larger
//! here.
//!
//! Source: turboderp-org/exllamav3, `exllamav3_ext/quant/{codebook,exl3_dq}.cuh`, `reconstruct.cu`, `modules/quant/exl3.py`.

use half::f16;
use safetensors::Dtype;

use super::Spelled;
use crate::source::words;
use crate::{CheckpointError, Source};

/// The last words of a layer's tensors.
pub const TENSORS: [&str; 7] = [TRELLIS, "suh", "svh", "su", "sv", "mcg", "mul1"];

const TRELLIS: &str = "trellis";
/// Weights along a side of a tile.
const TILE: usize = 16;
/// Weights along a side of what one Hadamard matrix transforms.
const BLOCK: usize = 128;

/// What 16 bits stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codebook {
    ThreeInstructions,
    Mcg,
    Mul1,
}

impl Codebook {
    /// The codebook of a layer, by its marker.
    fn of(layer: Spelled<'_>) -> Result<Self, CheckpointError> {
        let has = |suffix| layer.info(suffix).is_some();
        let (suffix, book) = match (has("mcg"), has("mul1")) {
            (false, false) => return Ok(Self::ThreeInstructions),
            (true, false) => ("mcg", Self::Mcg),
            (false, true) => ("mul1", Self::Mul1),
            (true, true) => {
                return Err(layer.invalid("mul1", "there is `mcg` too, and one codebook at most".to_owned()));
            }
        };
        let info = layer.needed(suffix)?;
        if !matches!(info.dtype, Dtype::I32 | Dtype::U32) || info.shape.iter().any(|&extent| extent != 1) {
            return Err(layer.refused(suffix, "one element of I32".to_owned(), &info));
        }
        let view = layer.source.tensor(&layer.name(suffix))?;
        match words(view.bytes(), u32::from_le_bytes).next() {
            Some(found) if found == book.multiplier() => Ok(book),
            found => {
                let reason = format!("multiplier {:#x}, expected {:#x}", found.unwrap_or(0), book.multiplier());
                Err(layer.invalid(suffix, reason))
            }
        }
    }

    const fn multiplier(self) -> u32 {
        match self {
            Self::ThreeInstructions => 89_226_354,
            Self::Mcg => 0xcbac_1fed,
            Self::Mul1 => 0x83dc_d12d,
        }
    }

    fn value(self, bits: u16) -> f16 {
        let product = u32::from(bits).wrapping_mul(self.multiplier());
        let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
        let sum_of_halves = |y: u32| {
            let z = (y & 0x8fff_8fff) ^ 0x3b60_3b60;
            // Exact in f32: both are between 1/8 and 2.
            f16::from_f32(half(z) + half(z >> 16))
        };
        match self {
            Self::ThreeInstructions => sum_of_halves(product.wrapping_add(64_248_484)),
            Self::Mcg => sum_of_halves(product),
            Self::Mul1 => {
                let bytes: u32 = product.to_le_bytes().into_iter().map(u32::from).sum();
                // Exact in f32: 11 bits by 11, and both multiples of 2^-18 below 16.
                f16::from_f32((1024 + bytes) as f32 * half(0x1eee) - half(0x4931))
            }
        }
    }

    /// The values of all 2^16 strings of bits.
    fn values(self) -> Vec<f16> {
        (0..=u16::MAX).map(|bits| self.value(bits)).collect()
    }
}

/// Whether `source` has the tensors of `layer`: a trellis, and factors or signs of both sides.
pub(super) fn is_there(source: &dyn Source, layer: &str) -> bool {
    let has = |suffix| Spelled { source, layer }.info(suffix).is_some();
    has(TRELLIS) && (has("suh") || has("su")) && (has("svh") || has("sv"))
}

/// `[out, in]` of a layer, and the bits of a weight, from the header alone.
///
/// Errors: a trellis of another type or shape; naming it.
pub fn shape(source: &dyn Source, layer: &str) -> Result<([usize; 2], usize), CheckpointError> {
    let layer = Spelled { source, layer };
    let info = layer.needed(TRELLIS)?;
    let expected = "I16 [in / 16, out / 16, 16 bits], both sides by 128 and 1 to 8 bits";
    let refused = || layer.refused(TRELLIS, expected.to_owned(), &info);
    let [tall, wide, size] = <[usize; 3]>::try_from(info.shape.as_slice()).map_err(|_| refused())?;
    let full = |tiles: usize| tiles > 0 && tiles.is_multiple_of(BLOCK / TILE);
    let bits = size / TILE;
    if info.dtype != Dtype::I16 || !full(tall) || !full(wide) || !size.is_multiple_of(TILE) || !(1..=8).contains(&bits)
    {
        return Err(refused());
    }
    Ok(([wide * TILE, tall * TILE], bits))
}

/// The weights of a layer, `[out, in]`.
///
/// Errors: a tensor missing, of the wrong type or shape; a codebook that is not known; a factor that is not finite; naming file and
/// tensor.
pub fn decode(source: &dyn Source, layer: &str) -> Result<Vec<f32>, CheckpointError> {
    let ([outputs, inputs], bits) = shape(source, layer)?;
    let layer = Spelled { source, layer };
    let values = Codebook::of(layer)?.values();
    let input_factors = factors(layer, ["suh", "su"], inputs)?;
    let output_factors = factors(layer, ["svh", "sv"], outputs)?;
    let trellis = layer.tensor(TRELLIS, Dtype::I16, &[inputs / TILE, outputs / TILE, TILE * bits])?;
    let tile_bytes = 2 * TILE * bits;
    let mut weights = vec![0.0; outputs * inputs];
    // [in, out] of one block, in f64, which holds all of its sums exactly.
    let mut block = vec![0.0; BLOCK * BLOCK];
    for input in (0..inputs).step_by(BLOCK) {
        for output in (0..outputs).step_by(BLOCK) {
            for (row, column) in tiles() {
                let at = (input + row) / TILE * (outputs / TILE) + (output + column) / TILE;
                let bytes = &trellis.bytes()[at * tile_bytes..][..tile_bytes];
                place(&values, &ring(bytes), bits, &mut block[row * BLOCK + column..]);
            }
            transform(&mut block);
            for (o, &output_factor) in output_factors[output..][..BLOCK].iter().enumerate() {
                let row = &mut weights[(output + o) * inputs + input..][..BLOCK];
                for (i, weight) in row.iter_mut().enumerate() {
                    let factor = f64::from(input_factors[input + i]) * f64::from(output_factor);
                    // Each Hadamard matrix divides by the root of its side.
                    *weight = (block[i * BLOCK + o] / BLOCK as f64 * factor) as f32;
                }
            }
        }
    }
    Ok(weights)
}

/// Where the tiles of a block begin, row and column.
fn tiles() -> impl Iterator<Item = (usize, usize)> {
    let starts = || (0..BLOCK).step_by(TILE);
    starts().flat_map(move |row| starts().map(move |column| (row, column)))
}

/// Factors of one side, or the signs that early files have for them.
fn factors(layer: Spelled<'_>, [halves, signs]: [&str; 2], count: usize) -> Result<Vec<f32>, CheckpointError> {
    if layer.info(halves).is_some() || layer.info(signs).is_none() {
        return layer.tensor(halves, Dtype::F16, &[count])?.to_finite_f32();
    }
    let view = layer.tensor(signs, Dtype::I16, &[count / TILE])?;
    let sign = |word: u16, at: u32| if word >> at & 1 == 1 { -1.0 } else { 1.0 };
    Ok(words(view.bytes(), u16::from_le_bytes).flat_map(|word| (0..16).map(move |at| sign(word, at))).collect())
}

/// The words of a tile's ring, each to be read from its highest bit.
fn ring(bytes: &[u8]) -> Vec<u32> {
    words(bytes, u32::from_le_bytes).collect()
}

/// The 16 bits of the ring that end with those of weight `t`.
fn state(ring: &[u32], bits: usize, t: usize) -> u16 {
    let end = bits * (t + 1);
    let last = (end - 1) / 32;
    let before = ring[(last + ring.len() - 1) % ring.len()];
    let both = u64::from(before) << 32 | u64::from(ring[last]);
    (both >> (32 * (last + 1) - end)) as u16
}

/// Writes the weights of a tile to the block, of which `block` begins with the tile's first.
fn place(values: &[f16], ring: &[u32], bits: usize, block: &mut [f64]) {
    for t in 0..TILE * TILE {
        let (lane, j) = (t / 8, t % 8);
        let (row, column) = (lane % 4 * 2 + j % 2 + j / 2 % 2 * 8, lane / 4 + j / 4 * 8);
        block[row * BLOCK + column] = values[usize::from(state(ring, bits, t))].to_f64();
    }
}

/// Sylvester's Hadamard matrix from both sides, not divided by anything.
fn transform(block: &mut [f64]) {
    for step in (0..BLOCK.trailing_zeros()).map(|log| 1 << log) {
        for row in block.chunks_exact_mut(BLOCK) {
            butterflies(row, step);
        }
        // Whole rows, as if each were one number.
        butterflies(block, step * BLOCK);
    }
}

/// Sums and differences of elements `step` apart.
fn butterflies(values: &mut [f64], step: usize) {
    for pair in values.chunks_exact_mut(2 * step) {
        let (low, high) = pair.split_at_mut(step);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

/// The tiles alone, `[in, out]`, without transforms and factors: what the reference decodes bit for bit.
#[cfg(test)]
pub(super) fn tiles_alone(bytes: &[u8], book: usize, bits: usize, [inputs, outputs]: [usize; 2]) -> Vec<f16> {
    let values = [Codebook::ThreeInstructions, Codebook::Mcg, Codebook::Mul1][book].values();
    assert_eq!([inputs, outputs], [BLOCK, BLOCK]);
    let mut block = vec![0.0; BLOCK * BLOCK];
    for ((row, column), bytes) in tiles().zip(bytes.chunks_exact(2 * TILE * bits)) {
        place(&values, &ring(bytes), bits, &mut block[row * BLOCK + column..]);
    }
    block.into_iter().map(f16::from_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of the products, where the transform has butterflies.
    #[test]
    fn the_transform_is_a_product_with_hadamard_matrices() {
        let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        let at = |i: usize, j: usize| ((i * 37 + j * 101) % 64) as f64 - 31.0;
        let mut block: Vec<f64> = (0..BLOCK * BLOCK).map(|n| at(n / BLOCK, n % BLOCK)).collect();
        transform(&mut block);
        for (i, j) in [(0, 0), (1, 0), (0, 1), (5, 77), (127, 127), (64, 3)] {
            let sum: f64 =
                (0..BLOCK * BLOCK).map(|n| sign(i, n / BLOCK) * at(n / BLOCK, n % BLOCK) * sign(n % BLOCK, j)).sum();
            assert_eq!(block[i * BLOCK + j], sum, "{i} {j}");
        }
    }

    #[test]
    fn a_ring_is_read_from_the_highest_bit_and_around_its_end() {
        // K = 1: 256 bits in 8 words.
        let mut ring = vec![0; 8];
        (ring[0], ring[7]) = (0x8000_0001, 0x0000_0003);
        assert_eq!(state(&ring, 1, 0), 0b111);
        assert_eq!(state(&ring, 1, 1), 0b1110);
        assert_eq!(state(&ring, 1, 31), 1);
        assert_eq!(state(&ring, 1, 255), 0b11);
        // K = 3: a window over two words.
        let mut ring = vec![0; 24];
        (ring[0], ring[1]) = (1, 0x8000_0000);
        assert_eq!(state(&ring, 3, 10), 0b11);
    }

    #[test]
    fn every_weight_of_a_tile_has_its_place() {
        let mut seen = vec![0; 256];
        for t in 0..256 {
            let mut block = vec![f64::NAN; 15 * BLOCK + TILE];
            // A ring of 8 bits a weight whose only other byte is that of weight t.
            let mut ring = vec![0_u32; 64];
            ring[t / 4] = 0xff << (24 - t % 4 * 8);
            let values: Vec<f16> =
                (0..=u16::MAX).map(|bits| f16::from_f32(f32::from(u8::from(bits & 255 == 255)))).collect();
            place(&values, &ring, 8, &mut block);
            let ones: Vec<usize> = (0..block.len()).filter(|&n| block[n] == 1.0).collect();
            assert_eq!(ones.len(), 1, "{t}");
            seen[ones[0] / BLOCK * TILE + ones[0] % BLOCK] += 1;
        }
        assert!(seen.iter().all(|&count| count == 1));
    }
}
