//! How a matrix is cut into sequences, and where the string of each lies among its words.
//!
//! A sequence runs down the rows of one stored column: a quantizer that goes from column to column has every weight of one before it
//! begins the next, and a product has one input for 256 sums. Rows are cut into *bands* of 256, of which the last takes what is left
//! over too; every column of a band is one sequence.
//!
//! ```text
//! w [700, 3] in trellis2:12: bands of 256 and 444 rows, strings of 16 words and of ceil(2 * 444 / 32) = 28
//!
//! words   0 ..  48    rows   0 .. 256:   column 0 (16 words) | column 1 (16) | column 2 (16)
//! words  48 .. 132    rows 256 .. 700:   column 0 (28 words) | column 1 (28) | column 2 (28)
//! ```
//!
//! Bands lie outermost, so that a kernel that makes 256 sums reads their words in order, whole lines of a cache at a time. Only strings
//! of the last band can have padding, since `256 * K` bits fill whole words.

use std::ops::Range;

use super::{TILE, Trellis};
use crate::{FormatError, bits};

/// Columns handled at once: those of a band of 256 rows are 32 KiB of levels, and two lines of a cache in every row.
const BLOCK: usize = 32;

/// Where the strings of a matrix `[out, in]` lie among its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strings {
    trellis: Trellis,
    shape: [usize; 2],
}

impl Strings {
    /// The strings of a matrix of any shape `[out, in]`, also of one with too few rows for a window ([`Strings::least_rows`]).
    pub const fn new(trellis: Trellis, shape: [usize; 2]) -> Self {
        Self { trellis, shape }
    }

    /// The code whose strings these are.
    pub const fn trellis(&self) -> Trellis {
        self.trellis
    }

    /// Rows below which a string is shorter than a window: `ceil(L / K)`.
    pub const fn least_rows(&self) -> usize {
        self.trellis.state().div_ceil(self.trellis.bits()) as usize
    }

    /// Bands of rows: `out / 256`, or 1 where there are fewer rows.
    pub const fn bands(&self) -> usize {
        let bands = self.shape[0] / TILE;
        if bands == 0 { 1 } else { bands }
    }

    /// The rows of a band: 256, or 256 to 511 for the last, fewer where the matrix has fewer.
    ///
    /// # Panics
    /// If there is no such band.
    pub fn rows(&self, band: usize) -> Range<usize> {
        assert!(band < self.bands(), "band {band} of {}", self.bands());
        let end = if band + 1 == self.bands() { self.shape[0] } else { (band + 1) * TILE };
        band * TILE..end
    }

    /// Words of one string of a band.
    ///
    /// # Panics
    /// If there is no such band.
    pub fn words_per_string(&self, band: usize) -> usize {
        self.trellis.words(self.rows(band).len())
    }

    /// Words of all strings; as many as a `usize` counts where there are more.
    pub fn words(&self) -> usize {
        let last = self.bands() - 1;
        (last * self.trellis.words(TILE)).saturating_add(self.words_per_string(last)).saturating_mul(self.shape[1])
    }

    /// The words of a band, `[in, words_per_string]`.
    ///
    /// # Panics
    /// If there is no such band.
    pub fn band(&self, band: usize) -> Range<usize> {
        let begin = band * self.trellis.words(TILE) * self.shape[1];
        begin..begin + self.words_per_string(band) * self.shape[1]
    }

    /// The words of one string: that of a stored column in a band.
    ///
    /// # Panics
    /// If there is no such band or column.
    pub fn string(&self, band: usize, column: usize) -> Range<usize> {
        assert!(column < self.shape[1], "column {column} of {}", self.shape[1]);
        let (begin, words) = (self.band(band).start, self.words_per_string(band));
        begin + column * words..begin + (column + 1) * words
    }

    /// Words of the strings of one column.
    pub fn words_per_column(&self) -> usize {
        let last = self.bands() - 1;
        last * self.trellis.words(TILE) + self.words_per_string(last)
    }

    /// The words of a column, those of each band with its rows.
    ///
    /// - `words`: `[words_per_column]`
    ///
    /// # Panics
    /// If the number of words is wrong.
    pub fn of_column<'w>(&self, words: &'w mut [u32]) -> impl Iterator<Item = (Range<usize>, &'w mut [u32])> {
        assert!(words.len() == self.words_per_column(), "{} words for a column of {:?}", words.len(), self.shape);
        let (strings, mut rest) = (*self, words);
        (0..self.bands()).map(move |band| {
            let words = rest.split_off_mut(..strings.words_per_string(band)).unwrap_or_default();
            (strings.rows(band), words)
        })
    }

    /// Takes the words of a column to their places among those of the matrix.
    ///
    /// - `column`: `[words_per_column]`
    /// - `words`: `[words]`
    ///
    /// # Panics
    /// If a number of words is wrong, or there is no such column.
    pub fn put_column(&self, j: usize, column: &[u32], words: &mut [u32]) {
        assert!(column.len() == self.words_per_column(), "{} words for a column of {:?}", column.len(), self.shape);
        let mut from = column;
        for band in 0..self.bands() {
            let (string, rest) = from.split_at(self.words_per_string(band));
            words[self.string(band, j)].copy_from_slice(string);
            from = rest;
        }
    }

    /// Windows `[out, in]` of the words.
    ///
    /// # Panics
    /// If the number of words is wrong, or the strings are shorter than a window.
    pub fn windows(&self, words: &[u32]) -> Vec<u16> {
        let columns = self.shape[1];
        let mut windows = vec![0; self.shape[0] * columns];
        self.by_row(words, Trellis::windows, |row, first, block| {
            windows[row * columns + first..][..block.len()].copy_from_slice(block);
        });
        windows
    }

    /// The words of windows `[out, in]`.
    ///
    /// # Errors
    /// [`FormatError::Window`] where one has bits that are not those of the windows after it, or too many.
    ///
    /// # Panics
    /// If the number of windows is wrong, or the strings are shorter than a window.
    pub fn pack(&self, windows: &[u16]) -> Result<Vec<u32>, FormatError> {
        let [rows, columns] = self.shape;
        assert!(windows.len() == rows * columns, "{} windows for a matrix {:?}", windows.len(), self.shape);
        let own = (1 << self.trellis.bits()) - 1;
        let mut words = vec![0; self.words()];
        for band in 0..self.bands() {
            let rows = self.rows(band);
            let length = rows.len();
            let (mut asked, mut codes, mut found) = (vec![0; BLOCK * length], vec![0; length], vec![0; length]);
            for first in (0..columns).step_by(BLOCK) {
                let width = BLOCK.min(columns - first);
                for (t, row) in rows.clone().enumerate() {
                    for (j, window) in windows[row * columns + first..][..width].iter().enumerate() {
                        asked[j * length + t] = *window;
                    }
                }
                for (column, asked) in (first..first + width).zip(asked.chunks_exact(length)) {
                    for (code, window) in codes.iter_mut().zip(asked) {
                        *code = window & own;
                    }
                    let words = &mut words[self.string(band, column)];
                    bits::pack_row(&codes, self.trellis.bits(), words);
                    self.trellis.windows(words, &mut found);
                    if let Some(t) = asked.iter().zip(&found).position(|(asked, found)| asked != found) {
                        let row = rows.start + t;
                        return Err(FormatError::Window { row, column, found: asked[t], expected: found[t] });
                    }
                }
            }
        }
        Ok(words)
    }

    /// The first string whose last word has bits beyond its weights: its column, and its first row.
    pub(crate) fn padded(&self, words: &[u32]) -> Option<(usize, usize)> {
        let (band, columns) = (self.bands() - 1, self.shape[1]);
        let rows = self.rows(band);
        let padded = |column: &usize| {
            !bits::padding_is_zero(&words[self.string(band, *column)], rows.len(), self.trellis.bits())
        };
        (0..columns).find(padded).map(|column| (column, rows.start))
    }

    /// Decodes all strings and hands out the matrix in parts of rows: `put(row, first column, values)`.
    ///
    /// - `decode`: the values of one string
    pub(crate) fn by_row<T: Copy + Default>(
        &self,
        words: &[u32],
        decode: impl Fn(Trellis, &[u32], &mut [T]),
        mut put: impl FnMut(usize, usize, &[T]),
    ) {
        let columns = self.shape[1];
        assert!(words.len() == self.words(), "{} words for a matrix {:?}", words.len(), self.shape);
        for band in 0..self.bands() {
            let rows = self.rows(band);
            let length = rows.len();
            let mut block = vec![T::default(); BLOCK * length]; // [columns, rows]
            for first in (0..columns).step_by(BLOCK) {
                let width = BLOCK.min(columns - first);
                for (column, values) in (first..first + width).zip(block.chunks_exact_mut(length)) {
                    decode(self.trellis, &words[self.string(band, column)], values);
                }
                let mut part = [T::default(); BLOCK];
                for (t, row) in rows.clone().enumerate() {
                    for (j, value) in part[..width].iter_mut().enumerate() {
                        *value = block[j * length + t];
                    }
                    put(row, first, &part[..width]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(bits: u32, state: u32, shape: [usize; 2]) -> Strings {
        Strings::new(Trellis::new(bits, state).unwrap(), shape)
    }

    /// Words of random bits, padding zero.
    fn words(strings: &Strings, seed: u32) -> Vec<u32> {
        let mut words: Vec<u32> = (0..strings.words() as u32)
            .map(|i| (i ^ seed).wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca77))
            .collect();
        for band in 0..strings.bands() {
            let used = strings.rows(band).len() as u32 * strings.trellis.bits() % 32;
            for column in (0..strings.shape[1]).filter(|_| used != 0) {
                words[strings.string(band, column).end - 1] &= (1 << used) - 1;
            }
        }
        words
    }

    #[test]
    fn bands_by_hand() {
        // Where each band ends.
        let cases = [(6, vec![6]), (256, vec![256]), (511, vec![511]), (512, vec![256, 512]), (700, vec![256, 700])];
        for (rows, ends) in cases {
            let strings = strings(2, 12, [rows, 3]);
            assert_eq!(strings.bands(), ends.len(), "{rows} rows");
            for (band, end) in ends.into_iter().enumerate() {
                assert_eq!(strings.rows(band), band * 256..end, "{rows} rows");
            }
        }
        let strings = strings(2, 12, [700, 3]);
        assert_eq!((strings.words(), strings.least_rows()), (132, 6));
        assert_eq!((strings.band(0), strings.band(1)), (0..48, 48..132));
        assert_eq!((strings.string(0, 2), strings.string(1, 1)), (32..48, 76..104));
    }

    #[test]
    fn shapes_beyond_memory_are_counted_without_overflow() {
        assert_eq!(strings(4, 16, [usize::MAX, usize::MAX]).words(), usize::MAX);
        assert_eq!(strings(1, 16, [0, 0]).words(), 0);
    }

    #[test]
    fn windows_that_do_not_agree_are_refused() {
        let strings = strings(2, 8, [300, 40]);
        let mut windows = strings.windows(&words(&strings, 1));
        // Bits 2 to 7 of a window are those of the three weights below, around the end.
        for (row, column, bit) in [(0, 0, 7), (17, 35, 2), (299, 39, 5)] {
            let at = row * 40 + column;
            windows[at] ^= 1 << bit;
            let (found, expected) = (windows[at], windows[at] ^ 1 << bit);
            assert_eq!(strings.pack(&windows), Err(FormatError::Window { row, column, found, expected }));
            windows[at] ^= 1 << bit;
        }
        // Its own bits are read by those above it, first of all by the one at the top.
        windows[5 * 40] ^= 1;
        assert!(matches!(strings.pack(&windows), Err(FormatError::Window { row: 2, column: 0, .. })));
        windows[5 * 40] ^= 1;
        windows[5 * 40] |= 1 << 8;
        assert!(matches!(strings.pack(&windows), Err(FormatError::Window { row: 5, column: 0, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn windows_come_back_and_are_the_definition(
            bits in 1_u32..=4, state in 8_u32..=16, extra in 0_usize..700, columns in 1_usize..70, seed: u32,
        ) {
            let least = strings(bits, state, [0, 0]).least_rows();
            let strings = strings(bits, state, [least + extra, columns]);
            let words = words(&strings, seed);
            prop_assert_eq!(strings.padded(&words), None);
            let windows = strings.windows(&words);
            prop_assert_eq!(strings.pack(&windows), Ok(words.clone()));
            for band in 0..strings.bands() {
                let rows = strings.rows(band);
                for (t, row) in rows.clone().enumerate() {
                    let column = (row * 7 + seed as usize % 5) % columns;
                    let string = &words[strings.string(band, column)];
                    let window = strings.trellis.window(string, rows.len(), t);
                    prop_assert_eq!(u32::from(windows[row * columns + column]), window);
                }
            }
        }

        #[test]
        fn any_bit_of_padding_is_seen(bits in 1_u32..=4, rows in 16_usize..600, columns in 1_usize..9, bit in 0_u32..32) {
            let strings = strings(bits, 8, [rows, columns]);
            let (band, column, mut words) = (strings.bands() - 1, columns / 2, vec![0; strings.words()]);
            let (rows, end) = (strings.rows(band), strings.string(band, column).end);
            words[end - 1] = 1 << bit;
            let used = rows.len() as u32 * bits - (strings.words_per_string(band) as u32 - 1) * 32;
            prop_assert_eq!(strings.padded(&words), (bit >= used).then_some((column, rows.start)));
        }
    }
}
