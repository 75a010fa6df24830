//! A packed matrix as slices.

use quench_format::tiles::{CHUNK, Layout, ROWS};

use crate::Activations;

/// A packed matrix `[out, in]` in tiles.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    layout: Layout,
    codes: &'a [u32],
    scales: &'a [u32],
    levels: Levels<'a>,
    minimums: Option<&'a [u32]>,
    order: Option<&'a [u32]>,
}

/// How a code `u` becomes a number at scale 1.
#[derive(Clone, Copy, Debug)]
pub enum Levels<'a> {
    /// `u − 2^(bits − 1)`.
    Signed,
    /// `u`: of an affine code with minimums.
    Unsigned,
    /// `u − zero`; the words of the zero points of all tiles.
    Affine(&'a [u32]),
    /// `levels[u]`; `[2^bits]`.
    Table(&'a [f32]),
}

impl<'a> Weights<'a> {
    /// The words of a matrix, and which original column stands at each stored one (themselves where `None`).
    ///
    /// # Panics
    ///
    /// If a length is not the layout's; products panic where the order names a column that is not there.
    pub fn new(
        layout: Layout,
        codes: &'a [u32],
        scales: &'a [u32],
        levels: Levels<'a>,
        order: Option<&'a [u32]>,
    ) -> Self {
        let tiles = layout.tiles();
        assert_eq!(codes.len(), tiles * layout.code_words(), "words of the codes of {layout:?}");
        assert_eq!(scales.len(), tiles * layout.scale_words(), "words of the scales of {layout:?}");
        match levels {
            Levels::Signed | Levels::Unsigned => {}
            Levels::Affine(zeros) => {
                assert_eq!(zeros.len(), tiles * layout.zero_words(), "words of the zero points of {layout:?}");
            }
            Levels::Table(levels) => assert_eq!(levels.len(), 1 << layout.bits, "levels of {layout:?}"),
        }
        if let Some(order) = order {
            assert_eq!(order.len(), layout.shape[1], "the order of {layout:?}");
        }
        Self { layout, codes, scales, levels, minimums: None, order }
    }

    /// The same matrix with something added to each group: the words of the minimums of all tiles.
    ///
    /// # Panics
    ///
    /// If the length is not the layout's.
    pub fn with_minimums(self, minimums: &'a [u32]) -> Self {
        let (layout, tiles) = (self.layout, self.layout.tiles());
        assert_eq!(minimums.len(), tiles * layout.minimum_words(), "words of the minimums of {layout:?}");
        Self { minimums: Some(minimums), ..self }
    }

    /// Its sizes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn levels(&self) -> Levels<'a> {
        self.levels
    }

    pub(crate) fn has_minimums(&self) -> bool {
        self.minimums.is_some()
    }

    pub(crate) fn order(&self) -> Option<&'a [u32]> {
        self.order
    }

    /// Rows `16 t ..` of the matrix.
    pub(crate) fn tile(&self, t: usize) -> Tile<'a> {
        let part = |words: &'a [u32], per_tile: usize| &words[t * per_tile..][..per_tile];
        Tile {
            codes: part(self.codes, self.layout.code_words()),
            scales: part(self.scales, self.layout.scale_words()),
            zeros: match self.levels {
                Levels::Affine(zeros) => Some(part(zeros, self.layout.zero_words())),
                Levels::Signed | Levels::Unsigned | Levels::Table(_) => None,
            },
            minimums: self.minimums.map(|minimums| part(minimums, self.layout.minimum_words())),
        }
    }

    /// Bytes of one tile.
    pub(crate) fn tile_bytes(&self) -> usize {
        let minimums = if self.minimums.is_some() { self.layout.minimum_words() } else { 0 };
        4 * (self.layout.code_words() + self.layout.scale_words() + minimums)
    }

    /// How the product with such an input is computed.
    pub(crate) fn route(&self, activations: Activations) -> Route {
        let Layout { bits, group, .. } = self.layout;
        let single = self.layout.groups() == 1;
        let table = matches!(self.levels, Levels::Table(_));
        match activations {
            Activations::Int8
                if matches!(bits, 2..=6 | 8) && (bits <= 4 || !table) && (single || group.is_multiple_of(ROWS)) =>
            {
                Route::Int8 { block: block(group, single) }
            }
            Activations::Bf16 if matches!(bits, 2..=5) && (single || group.is_multiple_of(CHUNK)) => Route::Pairs,
            _ => Route::Decoded,
        }
    }

    /// The numerics that bound the error of a product where these are asked for: of codes of more than 8 bits, which halves
    /// do not hold, always those of f32.
    pub fn activations(&self, asked: Activations) -> Activations {
        if self.layout.bits <= 8 { asked } else { Activations::F32 }
    }
}

/// One tile of a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<'a> {
    pub codes: &'a [u32],
    pub scales: &'a [u32],
    pub zeros: Option<&'a [u32]>,
    pub minimums: Option<&'a [u32]>,
}

/// The algorithm of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Input in blocks of `block` columns with a scale each: 16, or a multiple of 32.
    Int8 { block: usize },
    /// Pairs of bf16.
    Pairs,
    /// Weights decoded to f32, some columns of a tile at a time.
    Decoded,
}

/// The columns of the input that share a scale: up to 128 in whole chunks, or half a chunk where groups end within one.
fn block(group: usize, single: bool) -> usize {
    match single {
        true => 128,
        false => [128, 96, 64, 32].into_iter().find(|&block| group.is_multiple_of(block)).unwrap_or(16),
    }
}
