//! What can be wrong with the parts of a quantized matrix, or with the spelling of its scheme.

use thiserror::Error;

use crate::{Code, Scale};

/// Why a matrix or a scheme was refused.
///
/// Positions are flat indices into the part named. The crate knows no tensor names; who reads a file adds them.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum FormatError {
    /// A side of the matrix is zero, or its size does not fit in memory.
    #[error("shape [{}, {}] cannot be quantized: both sides must be at least 1, columns below 2^32, and their product must fit in memory", shape[0], shape[1])]
    Shape {
        /// The `[out, in]` given.
        shape: [usize; 2],
    },
    /// A code of one bit that keeps a sign and a magnitude: the sign alone.
    #[error("code {code} has no levels but zero: a sign and a magnitude need at least 2 bits")]
    NoMagnitude {
        /// The code given.
        code: Code,
    },
    /// A code whose neighbours share bits where each number needs one of its own: for scales or minimums.
    #[error("{code} is no code of scales or minimums: its neighbours share bits")]
    SharedBits {
        /// The code given.
        code: Code,
    },
    /// A matrix with fewer rows than a window of its trellis code reads.
    #[error("{rows} rows are too few for {code}, whose windows go down {least} of them")]
    ShortString {
        /// The code given.
        code: Code,
        /// Rows of the matrix.
        rows: usize,
        /// Rows that it needs.
        least: usize,
    },
    /// A window of a trellis code has bits that are not those of the windows after it in its column.
    #[error(
        "codes: window {found:#x} in row {row} of stored column {column} does not agree with its neighbours, which make it {expected:#x}"
    )]
    Window {
        /// Row of the window.
        row: usize,
        /// Stored column of the window.
        column: usize,
        /// The window given.
        found: u16,
        /// The window that the own bits of all weights of the column make.
        expected: u16,
    },
    /// The bits of a string's last word that belong to no weight are not all zero.
    #[error("codes: the padding of stored column {column} after the string that begins in row {row} is not zero")]
    StringPadding {
        /// Stored column of the string.
        column: usize,
        /// First row of the string.
        row: usize,
    },
    /// A weight that a code without a scale cannot hold.
    #[error("weights[{index}]: {value} is outside [-1, 1]; divide the weights by their largest magnitude first")]
    OutsideUnit {
        /// Flat index of the weight.
        index: usize,
        /// The weight given.
        value: f32,
    },
    /// A part does not have as many elements as scheme and shape ask for.
    #[error("{part}: expected {expected} elements, found {found}")]
    Length {
        /// `codes`, `scales`, `scale codes`, `outer scales`, `zeros`, `minimums`, `minimum codes`, `outer minimums` or `order`.
        part: &'static str,
        /// Elements that scheme and shape ask for.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A code does not fit in the width of its kind.
    #[error("{part}[{index}]: code {value} does not fit in {bits} bits")]
    CodeRange {
        /// `codes`, `scale codes` or `minimum codes`.
        part: &'static str,
        /// Flat index of the code.
        index: usize,
        /// The code given.
        value: u16,
        /// Bits a code has as a number.
        bits: u32,
    },
    /// The bits of a row's last word that belong to no code are not all zero.
    #[error("codes: the padding after row {row} is not zero")]
    Padding {
        /// The row whose last word is wrong.
        row: usize,
    },
    /// The scheme asks for float scales or minimums and nested ones were given, or the reverse.
    #[error("{part}: expected {expected} ones, found {found} ones")]
    ScaleForm {
        /// `scales` or `minimums`.
        part: &'static str,
        /// `float` or `nested`, as the scheme asks.
        expected: &'static str,
        /// `float` or `nested`, as given.
        found: &'static str,
    },
    /// A scale or minimum is infinite, not a number, or not a value of its kind.
    #[error("{part}[{index}]: {value} is not a finite {kind} number")]
    ScaleValue {
        /// `scales`, `outer scales`, `minimums` or `outer minimums`.
        part: &'static str,
        /// Flat index of the scale.
        index: usize,
        /// The scale given.
        value: f32,
        /// The kind the scheme names.
        kind: Scale,
    },
    /// A scale is so large that the code's largest level times it, and the minimum added, is no finite `f32`.
    #[error("scales[{index}]: {value} times the largest level overflows f32")]
    ScaleOverflow {
        /// Flat index of the scale, counted over `[out, groups]`.
        index: usize,
        /// The scale.
        value: f32,
    },
    /// An affine code came without zero points.
    #[error("zeros: code {code} is affine and needs a zero point for each group, found none")]
    ZerosMissing {
        /// The code of the scheme.
        code: Code,
    },
    /// The scheme asks for minimums and there are none, or the reverse.
    #[error("minimums: expected {expected}, found {found}")]
    Minimums {
        /// `minimums` or `none`, as the scheme says.
        expected: &'static str,
        /// `minimums`, `zero points` or `none`, as given.
        found: &'static str,
    },
    /// Zero points came with a code that has none.
    #[error("zeros: code {code} takes no zero points, found {found}")]
    ZerosUnexpected {
        /// The code of the scheme.
        code: Code,
        /// How many were given.
        found: usize,
    },
    /// A zero point does not fit in the bits of a code.
    #[error("zeros[{index}]: {value} does not fit in {bits} bits")]
    ZeroRange {
        /// Flat index of the zero point.
        index: usize,
        /// The zero point given.
        value: u16,
        /// Bits a zero point has: those of a code.
        bits: u32,
    },
    /// The column order names a column twice, or one that is not there.
    #[error("order[{index}]: column {column} is repeated or not below {columns}; the order must be a permutation")]
    Order {
        /// Position in the order.
        index: usize,
        /// The column named there.
        column: u32,
        /// Columns of the matrix.
        columns: usize,
    },
    /// A code, group, scale, scheme or trellis is spelled in a way this crate does not know.
    #[error("unknown {what} `{text}`: expected {expected}")]
    Spelling {
        /// `code`, `group`, `float kind`, `scale`, `scheme` or `trellis`.
        what: &'static str,
        /// The text given.
        text: String,
        /// What would have been understood.
        expected: &'static str,
    },
}
