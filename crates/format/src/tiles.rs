//! How kernels hold a matrix in memory: tiles of 16 rows, read in order by vector units of any width.
//!
//! Files keep rows ([`crate::bits`]); this arrangement is made when a matrix is put on a device and never written.
//!
//! ```text
//! codes  [tiles, chunks, 16 * bits words]     a tile is 16 rows, a chunk 32 columns of them, both padded with code 0
//! scales [tiles, groups, 16 values]           f32: 16 words; f16 or bf16: 8 words, the even row in the low half
//! zeros  [tiles, groups, 16 values]           up to 8 bits: 4 words of 4 bytes; above: 8 words of 2 halves
//! minimums [tiles, groups, 16 values]         f32: 16 words
//! ```
//!
//! A chunk is split into *planes* of 8, 4, 2 or 1 bits of every code, widest first, low bits first: 4 = `[4]`,
//! 3 = `[2, 1]`, 6 = `[4, 2]`, 12 = `[8, 4]`. A plane of `p` bits is `p` lines of 16 words, one word for each row, so
//! that a line is one 64-byte vector whose lanes are rows. Of the four bytes in a word, byte `e` holds `8 / p` fields,
//! and field `f` of line `i` belongs to the columns of *step* `s = i * 8 / p + f`:
//!
//! ```text
//! column = 32 * chunk + 4 * s + e                      s = 0..8,  e = 0..4
//!
//! p = 4      line 0, word r                  line 1, word r
//!   byte     3       2       1       0       ...
//!   high     col 7   col 6   col 5   col 4   (step 1)
//!   low      col 3   col 2   col 1   col 0   (step 0)
//! ```
//!
//! One shift and one mask give the codes of a step: 16 rows by 4 neighbouring columns, the operand of a 4-way byte dot
//! product (`vpdpbusd`, `sdot`), and the order in which matrix units read their right operand.

use half::{bf16, f16};

use crate::{FloatKind, Packed, Scale, Scheme, bits};

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Columns of a chunk.
pub const CHUNK: usize = 32;
/// Columns of a step: the bytes of a word.
pub const STEP: usize = 4;
/// Steps of a chunk.
pub const STEPS: usize = CHUNK / STEP;

/// The sizes of a matrix in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Bits of one code, 1 to 16.
    pub bits: u32,
    /// Columns that share a scale; the last group of a row may have fewer.
    pub group: usize,
    /// What a scale is kept as.
    pub scale: FloatKind,
}

impl Layout {
    /// The layout of a matrix `[out, in]` of this scheme; scales that are no floats are kept multiplied out, as `f32`.
    pub fn new(scheme: Scheme, shape: [usize; 2]) -> Self {
        let scale = match scheme.scale {
            Scale::Float(kind) => kind,
            Scale::PowerOfTwo | Scale::Nested { .. } => FloatKind::F32,
        };
        Self { shape, bits: scheme.code.bits(), group: scheme.group.size(shape[1]), scale }
    }

    /// Tiles: `ceil(out / 16)`.
    pub const fn tiles(&self) -> usize {
        self.shape[0].div_ceil(ROWS)
    }

    /// Chunks of a tile: `ceil(in / 32)`.
    pub const fn chunks(&self) -> usize {
        self.shape[1].div_ceil(CHUNK)
    }

    /// Groups of a row: `ceil(in / group)`.
    pub const fn groups(&self) -> usize {
        self.shape[1].div_ceil(self.group)
    }

    /// Words of the codes of one tile.
    pub const fn code_words(&self) -> usize {
        self.chunks() * ROWS * self.bits as usize
    }

    /// Words of the scales of one tile.
    pub const fn scale_words(&self) -> usize {
        self.groups() * scale_words(self.scale)
    }

    /// Words of the zero points of one tile, where the code has them.
    pub const fn zero_words(&self) -> usize {
        self.groups() * if self.bits <= 8 { ROWS / 4 } else { ROWS / 2 }
    }

    /// Words of the minimums of one tile, where the scheme has them: always as `f32`.
    pub const fn minimum_words(&self) -> usize {
        self.groups() * ROWS
    }

    /// Codes `[out, in]`, row-major, of the words of all tiles.
    ///
    /// # Panics
    ///
    /// If there are not as many words as the layout has.
    pub fn codes(&self, words: &[u32]) -> Vec<u16> {
        let [out, columns] = self.shape;
        assert_eq!(words.len(), self.tiles() * self.code_words(), "the words of the codes of {self:?}");
        let mut codes = vec![0; out * columns];
        let mut row = vec![0; self.chunks() * CHUNK];
        for (r, codes) in codes.chunks_exact_mut(columns.max(1)).enumerate() {
            self.row(words, r, &mut row);
            codes.copy_from_slice(&row[..columns]);
        }
        codes
    }

    /// The codes of row `r`, padding included: `[32 * chunks]`, overwritten.
    ///
    /// # Panics
    ///
    /// If the words do not reach the row or `codes` has another length.
    pub fn row(&self, words: &[u32], r: usize, codes: &mut [u16]) {
        assert_eq!(codes.len(), self.chunks() * CHUNK, "the codes of a row of {self:?}");
        let words = &words[r / ROWS * self.code_words()..][..self.code_words()];
        let lines = ROWS * self.bits as usize;
        for (chunk, codes) in words.chunks_exact(lines).zip(codes.chunks_exact_mut(CHUNK)) {
            codes.fill(0);
            for plane in planes(self.bits) {
                for (s, codes) in codes.chunks_exact_mut(STEP).enumerate() {
                    let (line, shift) = plane.place(s);
                    let fields = chunk[line * ROWS + r % ROWS] >> shift & plane.mask();
                    for (code, byte) in codes.iter_mut().zip(fields.to_le_bytes()) {
                        *code |= u16::from(byte) << plane.low;
                    }
                }
            }
        }
    }

    /// Scales `[out, groups]` of the words of all tiles.
    ///
    /// # Panics
    ///
    /// If there are not as many words as the layout has.
    pub fn scales(&self, words: &[u32]) -> Vec<f32> {
        assert_eq!(words.len(), self.tiles() * self.scale_words(), "the words of the scales of {self:?}");
        self.by_row(words, scale_words(self.scale), |group, r| scale(self.scale, group, r))
    }

    /// Minimums `[out, groups]` of the words of all tiles.
    ///
    /// # Panics
    ///
    /// If there are not as many words as the layout has.
    pub fn minimums(&self, words: &[u32]) -> Vec<f32> {
        assert_eq!(words.len(), self.tiles() * self.minimum_words(), "the words of the minimums of {self:?}");
        self.by_row(words, ROWS, |group, r| scale(FloatKind::F32, group, r))
    }

    /// Zero points `[out, groups]` of the words of all tiles.
    ///
    /// # Panics
    ///
    /// If there are not as many words as the layout has.
    pub fn zeros(&self, words: &[u32]) -> Vec<u16> {
        assert_eq!(words.len(), self.tiles() * self.zero_words(), "the words of the zero points of {self:?}");
        self.by_row(words, self.zero_words() / self.groups(), zero)
    }

    /// Values kept for 16 rows at a time, as `[out, groups]`.
    fn by_row<T>(&self, words: &[u32], per_group: usize, value: impl Fn(&[u32], usize) -> T) -> Vec<T> {
        let groups = self.groups();
        let of = |r: usize, g: usize| value(&words[(r / ROWS * groups + g) * per_group..][..per_group], r % ROWS);
        (0..self.shape[0]).flat_map(|r| (0..groups).map(move |g| (r, g))).map(|(r, g)| of(r, g)).collect()
    }
}

/// Words of 16 scales.
pub const fn scale_words(kind: FloatKind) -> usize {
    match kind {
        FloatKind::F32 => ROWS,
        FloatKind::F16 | FloatKind::BF16 => ROWS / 2,
    }
}

/// The scale of row `r` of a tile, of the words of one group.
pub fn scale(kind: FloatKind, words: &[u32], r: usize) -> f32 {
    let half = || (words[r / 2] >> (r % 2 * 16)) as u16;
    match kind {
        FloatKind::F32 => f32::from_bits(words[r]),
        FloatKind::F16 => f16::from_bits(half()).to_f32(),
        FloatKind::BF16 => bf16::from_bits(half()).to_f32(),
    }
}

/// The zero point of row `r` of a tile, of the words of one group: 4 words of bytes or 8 of halves.
pub fn zero(words: &[u32], r: usize) -> u16 {
    match words.len() {
        4 => (words[r / 4] >> (r % 4 * 8) & 0xff) as u16,
        _ => (words[r / 2] >> (r % 2 * 16)) as u16,
    }
}

/// Some neighbouring bits of every code of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Bits of a code in this plane: 8, 4, 2 or 1; also the lines it takes.
    pub width: u32,
    /// The lowest of them in the code.
    pub low: u32,
}

impl Plane {
    /// The line of the chunk and the shift within each byte that hold step `s`.
    pub const fn place(self, s: usize) -> (usize, u32) {
        let fields = 8 / self.width as usize;
        // Planes lie in the order of their bits, and each takes as many lines as it has bits.
        (self.low as usize + s / fields, (s % fields) as u32 * self.width)
    }

    /// The bits of one field in every byte of a word.
    pub const fn mask(self) -> u32 {
        ((1 << self.width) - 1) * 0x0101_0101
    }
}

/// The planes of a code of `bits` bits, 1 to 16.
pub fn planes(bits: u32) -> impl Iterator<Item = Plane> {
    let mut low = 0;
    std::iter::from_fn(move || {
        let rest = bits - low;
        let width = if rest >= 8 { 8 } else { 1 << rest.checked_ilog2()? };
        let plane = Plane { width, low };
        low += width;
        Some(plane)
    })
}

/// A matrix in tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiles {
    /// Its sizes.
    pub layout: Layout,
    /// `[tiles, chunks, 16 * bits]`.
    pub codes: Vec<u32>,
    /// `[tiles, groups, 16 or 8]`; a scale shared by the whole matrix is repeated.
    pub scales: Vec<u32>,
    /// `[tiles, groups, 4 or 8]`, where the code is affine and has no minimums.
    pub zeros: Option<Vec<u32>>,
    /// `[tiles, groups, 16]`, f32, where the scheme has minimums.
    pub minimums: Option<Vec<u32>>,
}

impl Tiles {
    /// Rearranges a matrix; [`Layout::codes`], [`Layout::scales`], [`Layout::zeros`] and [`Layout::minimums`] are the way back.
    ///
    /// # Panics
    ///
    /// If the matrix has a trellis code, which has no place in tiles: decode it instead ([`Scheme::has_kernel`]).
    pub fn new(packed: &Packed) -> Self {
        assert!(packed.scheme().has_kernel(), "no tiles for {}: it has no kernel", packed.scheme());
        let layout = Layout::new(packed.scheme(), packed.shape());
        Self {
            layout,
            codes: codes(layout, &packed.parts().codes),
            scales: scales(layout, &packed.scale_values()),
            zeros: packed.zero_values().map(|zeros| self::zeros(layout, &zeros)),
            minimums: packed.minimums().map(|minimums| scales(Layout { scale: FloatKind::F32, ..layout }, &minimums)),
        }
    }
}

fn codes(layout: Layout, rows: &[u32]) -> Vec<u32> {
    let (columns, lines) = (layout.shape[1], ROWS * layout.bits as usize);
    let mut words = vec![0; layout.tiles() * layout.code_words()];
    let mut codes = vec![0; layout.chunks() * CHUNK];
    for (r, row) in rows.chunks_exact(bits::words_per_row(columns, layout.bits)).enumerate() {
        bits::unpack_row(row, layout.bits, &mut codes[..columns]);
        let tile = &mut words[r / ROWS * layout.code_words()..][..layout.code_words()];
        for (chunk, codes) in tile.chunks_exact_mut(lines).zip(codes.chunks_exact(CHUNK)) {
            for (s, codes) in codes.chunks_exact(STEP).enumerate() {
                let bytes = |shift: u32| u32::from_le_bytes(std::array::from_fn(|e| (codes[e] >> shift) as u8));
                let (low, high) = (bytes(0), bytes(8));
                for plane in planes(layout.bits) {
                    let fields = if plane.low < 8 { low >> plane.low } else { high >> (plane.low - 8) };
                    let (line, shift) = plane.place(s);
                    chunk[line * ROWS + r % ROWS] |= (fields & plane.mask()) << shift;
                }
            }
        }
    }
    words
}

fn scales(layout: Layout, values: &[f32]) -> Vec<u32> {
    let (groups, per_group) = (layout.groups(), scale_words(layout.scale));
    let mut words = vec![0; layout.tiles() * layout.scale_words()];
    for (i, &value) in values.iter().enumerate() {
        let (r, g) = (i / groups, i % groups);
        let (word, shift, bits) = match layout.scale {
            FloatKind::F32 => (r % ROWS, 0, value.to_bits()),
            FloatKind::F16 => (r % ROWS / 2, r % 2 * 16, u32::from(f16::from_f32(value).to_bits())),
            FloatKind::BF16 => (r % ROWS / 2, r % 2 * 16, u32::from(bf16::from_f32(value).to_bits())),
        };
        words[(r / ROWS * groups + g) * per_group + word] |= bits << shift;
    }
    words
}

fn zeros(layout: Layout, values: &[f32]) -> Vec<u32> {
    let groups = layout.groups();
    let per_group = layout.zero_words() / groups;
    let (per_word, width) = (ROWS / per_group, 32 * per_group / ROWS);
    let mut words = vec![0; layout.tiles() * layout.zero_words()];
    for (i, &value) in values.iter().enumerate() {
        let (r, g) = (i / groups, i % groups);
        words[(r / ROWS * groups + g) * per_group + r % ROWS / per_word] |= (value as u32) << (r % per_word * width);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Offsets, Scales};

    #[test]
    fn planes_make_up_the_code() {
        for bits in 1..=16 {
            let planes: Vec<_> = planes(bits).collect();
            let lows = planes.iter().scan(0, |low, plane| Some(std::mem::replace(low, *low + plane.width)));
            assert!(planes.iter().map(|plane| plane.low).eq(lows), "{bits} bits: {planes:?}");
            assert_eq!(planes.iter().map(|plane| plane.width).sum::<u32>(), bits, "{planes:?}");
        }
    }

    /// The drawing at the top of the file, by hand.
    #[test]
    fn four_bits_lie_as_drawn() {
        let codes: Vec<u16> = (0..32).map(|column| column % 16).collect();
        let scales = Scales::Float(vec![1.0]);
        let packed = Packed::from_codes("int4/row/f16".parse().unwrap(), [1, 32], &codes, scales, None, None).unwrap();
        let tiles = Tiles::new(&packed);
        let lines = [0x7362_5140, 0xfbea_d9c8, 0x7362_5140, 0xfbea_d9c8_u32];
        let expected: Vec<u32> = lines.iter().flat_map(|&line| [line].into_iter().chain([0; 15])).collect();
        assert_eq!(tiles.codes, expected);
        assert_eq!(tiles.scales, [0x3c00, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was(
            bits in 1..=16_u32, affine in any::<bool>(), minimum in any::<bool>(), group in 1..70_u32, kind in prop::sample::select(vec!["f32", "f16", "bf16"]),
            out in 1..40_usize, columns in 1..100_usize, seed in any::<u32>(),
        ) {
            let min = if minimum { "/min:f32" } else { "" };
            let scheme: Scheme = format!("{}int{bits}/{group}/{kind}{min}", if affine { "u" } else { "" }).parse().unwrap();
            let mut state = seed;
            let mut draw = || { state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); state >> 16 };
            let codes: Vec<u16> = (0..out * columns).map(|_| (draw() & ((1 << bits) - 1)) as u16).collect();
            let groups = out * scheme.group.groups_per_row(columns);
            let scales: Vec<f32> = (0..groups).map(|_| draw() as u8 as f32 / 64.0).collect();
            let minimums: Vec<f32> = (0..groups).map(|_| draw() as f32 / 64.0 - 300.0).collect();
            let zeros = scheme.has_zeros().then(|| (0..groups).map(|_| (draw() & ((1 << bits) - 1)) as u16).collect::<Vec<_>>());
            let offsets = match minimum {
                true => Offsets::Minimums(Scales::Float(minimums.clone())),
                false => Offsets::from(zeros.clone()),
            };
            let packed = Packed::from_codes(scheme, [out, columns], &codes, Scales::Float(scales.clone()), offsets, None).unwrap();
            let tiles = Tiles::new(&packed);
            prop_assert_eq!(tiles.layout.codes(&tiles.codes), codes);
            prop_assert_eq!(tiles.layout.scales(&tiles.scales), scales);
            prop_assert_eq!(tiles.zeros.map(|words| tiles.layout.zeros(&words)), zeros);
            prop_assert_eq!(tiles.minimums.map(|words| tiles.layout.minimums(&words)), minimum.then_some(minimums));
        }
    }
}
