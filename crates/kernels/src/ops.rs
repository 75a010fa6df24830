//! [`QuantBackend`]: the operations on packed matrices, as a Burn backend extension.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, backend_extension};
#[cfg(feature = "cube")]
use burn::tensor::{DType, Shape};

pub use quench_cpu::{Activations, Side, Window};
pub use quench_format::tiles::Layout;

use crate::convolve::convolve;
use crate::dense::dense;

/// A packed matrix `W` `[out, in]` as one backend holds it: in tiles of sixteen rows ([`quench_format::tiles`]).
///
/// `W[i, order[j]] = scales[i, g] · (level(code[i, j]) − zeros[i, g]) + minimums[i, g]`, `g = j / group`, where `j` counts stored columns.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct PackedParts<B: Backend> {
    /// The codes `[tiles, words]`: u32 words bit-cast to i32.
    pub codes: IntTensor<B>,
    /// The scales `[tiles, groups · 16]`, of the layout's dtype; one shared by the whole matrix is repeated.
    pub scales: FloatTensor<B>,
    /// How a code becomes a number.
    #[extension_type]
    pub levels: Levels<B>,
    /// What is added to a group.
    #[extension_type]
    pub minimums: Minimums<B>,
    /// Where a stored column belongs.
    #[extension_type]
    pub order: Order<B>,
    /// What the words hold.
    pub layout: Layout,
    /// In which precision a product reads its input, on backends that give the choice: Flex and NdArray.
    pub activations: Activations,
}

/// How a code `u` becomes a number at scale 1.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Levels<B: Backend> {
    /// A symmetric integer, `u − 2^(bits−1)`.
    Signed,
    /// The code itself: of an affine code with minimums.
    Unsigned,
    /// An integer against the zero point of its group, `u − zeros[i, g]`; words `[tiles, words]`, bit-cast to i32.
    Affine(IntTensor<B>),
    /// A value from a table, `levels[u]`; `[2^bits]`, f32.
    Table(FloatTensor<B>),
}

/// What is added to all weights of a group.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Minimums<B: Backend> {
    /// Nothing.
    None,
    /// A number for each group of each row, `[tiles, groups · 16]`, f32.
    Floats(FloatTensor<B>),
}

/// Where a stored column belongs in the matrix.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Order<B: Backend> {
    /// Columns are stored as they are.
    Natural,
    /// Stored column `j` is column `order[j]` of the matrix; `[in]`, i32.
    Permuted(IntTensor<B>),
}

/// The operations on packed matrices.
///
/// They are called through [`QTensor`](crate::QTensor), which checks shapes; here a wrong shape is a panic of the
/// backend. What they mean is said by [`Packed::decode`](quench_format::Packed::decode): decode and select give its very
/// values. Cube has none for minimums, and panics ([`QTensor::is_served`](crate::QTensor::is_served)).
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait QuantBackend: Backend {
    /// `W`, dense: `[out, in]`, f32, columns in their original order.
    #[fusion(dtype = DType::F32, shape = Shape::from(w.layout.shape))]
    fn packed_decode(#[extension_type] w: PackedParts<Self>) -> FloatTensor<Self>;

    /// `x · Wᵀ` or `x · W`, by `side`; `x` `[rows, in or out]` of any float dtype, which the product has too.
    #[fusion(dtype = x, shape = Shape::from([x[0], side.columns(w.layout.shape)[1]]))]
    fn packed_matmul(x: FloatTensor<Self>, #[extension_type] w: PackedParts<Self>, side: Side) -> FloatTensor<Self>;

    /// The rows of `W` named by `rows` `[n]`: `[n, in]`, f32.
    #[fusion(dtype = DType::F32, shape = Shape::from([rows[0], w.layout.shape[1]]))]
    fn packed_select(rows: IntTensor<Self>, #[extension_type] w: PackedParts<Self>) -> FloatTensor<Self>;

    /// `W ⋆ x + b`, where a row of `W` is a kernel over all channels.
    ///
    /// - `x`: `[batch, channels, height, width]` of any float dtype, which the result has too
    /// - `bias`: `[out]`
    /// - returns `[batch, out, output height, output width]`
    #[fusion(default)]
    fn packed_convolve(
        x: FloatTensor<Self>,
        #[extension_type] w: PackedParts<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self> {
        convolve::<Self>(x, w, bias, &window)
    }

    /// `x · Wᵀ` for a dense matrix: `x` `[rows, in]`, `w` `[out, in]`, the product in the dtype of `x`.
    #[fusion(default)]
    fn dense_matmul(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        dense::<Self>(x, w)
    }
}
