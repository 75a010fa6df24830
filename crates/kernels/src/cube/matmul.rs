//! The product from either side: which kernel does it.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::gemv::{self, Runs, gemv};
use super::{Operands, decode, empty};
use crate::ops::{PackedParts, Side};

/// `x · Wᵀ` or `x · W`; `x` `[rows, in or out]` of any float dtype, which the product has too.
pub(crate) fn matmul(x: CubeTensor, w: PackedParts<CubeBackend>, side: Side) -> CubeTensor {
    let [rows, _] = x.shape().dims::<2>();
    let [_, columns] = side.columns(w.layout.shape);
    if rows == 0 {
        return empty(&x, [0, columns], x.dtype);
    }
    match Plan::of(&x, &w, side) {
        Plan::Lanes(runs) => gemv(x, &Operands::new(w), runs),
        Plan::Decoded => {
            let w = decode(w, x.dtype);
            match side {
                Side::Transposed => CubeBackend::float_matmul(x, CubeBackend::float_transpose(w)),
                Side::Plain => CubeBackend::float_matmul(x, w),
            }
        }
    }
}

/// How a product is made, by scheme and shape.
enum Plan {
    /// Codes to registers: `x · Wᵀ` of a few rows.
    Lanes(Runs),
    /// The dense matrix in memory as long as the product takes.
    Decoded,
}

impl Plan {
    fn of(x: &CubeTensor, w: &PackedParts<CubeBackend>, side: Side) -> Self {
        let [rows, _] = x.shape().dims::<2>();
        if !matches!(x.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Self::Decoded;
        }
        match (side, Runs::of(w.layout)) {
            (Side::Transposed, Some(runs)) if rows <= gemv::MOST_ROWS => Self::Lanes(runs),
            _ => Self::Decoded,
        }
    }
}
