//! [`QTensor`]: a packed matrix on a device.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use quench_format::{Code, Group, Packed, Parts, Scales, Scheme};

use crate::ops::{Layout, Levels, Order, PackedParts, QuantBackend, Side};

/// A packed matrix `W` `[out, in]` on a device: codes, scales, and what else its [`Scheme`] needs.
///
/// It is a Burn module, so it moves with the model it is in; its parameters take no gradient. Clones share memory.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, Tensor};
/// use quench_format::{Packed, Scales};
/// use quench_kernels::QTensor;
///
/// // Two rows of three 4-bit integers, stored as q + 8; one scale per row.
/// let codes = [8 + 1, 8 + 2, 8 + 3, 8 - 1, 8, 8 + 1];
/// let scales = Scales::Float(vec![0.5, 2.0]);
/// let packed = Packed::from_codes("int4/row/f32".parse()?, [2, 3], &codes, scales, None, None)?;
/// let w = QTensor::from_packed(&packed, &Device::flex());
///
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// assert_eq!(w.matmul(x).into_data().try_to_vec::<f32>().unwrap(), [3.0, 0.0]);
/// assert_eq!(w.to_packed(), packed);
/// # }
/// # Ok::<(), quench_format::FormatError>(())
/// ```
#[derive(Module, Debug)]
pub struct QTensor {
    /// `[out, words]`, u32 bit-cast to i32: an unsigned type is not on every backend.
    codes: Param<Tensor<2, Int>>,
    /// `[out, groups]`, f32.
    scales: Param<Tensor<2>>,
    /// `[out, groups]`, f32, with an affine code.
    zeros: Option<Param<Tensor<2>>>,
    /// `[2^bits]`, f32, with a code that is neither symmetric nor affine.
    levels: Option<Param<Tensor<1>>>,
    /// `[in]`, i32: where column `k` of the matrix is stored.
    inverse: Option<Param<Tensor<1, Int>>>,
    /// Scales that are coded in turn, which their values do not tell; plain ones come back from the device.
    #[module(skip)]
    nested: Option<Arc<Scales>>,
    #[module(skip)]
    scheme: Scheme,
    #[module(skip)]
    shape: [usize; 2],
}

impl QTensor {
    /// Uploads a packed matrix.
    ///
    /// On the device a scale is an f32 and a zero point too, whatever the scheme keeps them in.
    pub fn from_packed(packed: &Packed, device: &Device) -> Self {
        let (scheme, shape, parts) = (packed.scheme(), packed.shape(), packed.parts());
        let [out, columns] = shape;
        let words = parts.codes.iter().map(|&word| word.cast_signed()).collect();
        let groups = scheme.group.groups_per_row(columns);
        let levels = match scheme.code {
            Code::Int { .. } | Code::Affine { .. } => None,
            code => Some(frozen(code.levels(), [code.len()], device)),
        };
        Self {
            codes: fixed(words, [out, parts.codes.len() / out], device),
            scales: frozen(packed.scale_values(), [out, groups], device),
            zeros: packed.zero_values().map(|zeros| frozen(zeros, [out, groups], device)),
            levels,
            inverse: parts.order.as_ref().map(|order| fixed(invert(order), [columns], device)),
            nested: match &parts.scales {
                Scales::Float(_) => None,
                nested => Some(Arc::new(nested.clone())),
            },
            scheme,
            shape,
        }
    }

    /// Downloads the matrix: what [`from_packed`](Self::from_packed) was given, exactly.
    ///
    /// # Panics
    ///
    /// If the device fails, or if a parameter was replaced since so that the parts no longer agree.
    pub fn to_packed(&self) -> Packed {
        let rows = match self.scheme.group {
            Group::Tensor => 1,
            Group::Row | Group::Columns(_) => self.shape[0],
        };
        let per_row = self.scheme.group.groups_per_row(self.shape[1]);
        let scales = match &self.nested {
            Some(nested) => (**nested).clone(),
            None => {
                let mut scales: Vec<f32> = read(self.scales.val().into_data());
                scales.truncate(rows * per_row);
                Scales::Float(scales)
            }
        };
        let words: Vec<i32> = read(self.codes.val().into_data());
        let parts = Parts {
            codes: words.into_iter().map(i32::cast_unsigned).collect(),
            scales,
            zeros: self.zeros.as_ref().map(|zeros| {
                let zeros: Vec<f32> = read(zeros.val().into_data());
                zeros.into_iter().take(rows * per_row).map(|zero| zero as u16).collect()
            }),
            order: self.inverse.as_ref().map(|inverse| {
                let inverse: Vec<i32> = read(inverse.val().into_data());
                let inverse: Vec<u32> = inverse.into_iter().map(i32::cast_unsigned).collect();
                invert(&inverse).into_iter().map(i32::cast_unsigned).collect()
            }),
        };
        Packed::new(self.scheme, self.shape, parts)
            .unwrap_or_else(|error| panic!("the parameters of a QTensor {:?} were changed: {error}", self.shape))
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// How the matrix is coded.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Stored bits over weights, everything counted; that of [`Packed::bits_per_weight`], not of the device's memory.
    pub fn bits_per_weight(&self) -> f64 {
        let [out, columns] = self.shape;
        let order = if self.inverse.is_some() { columns as u64 * u64::from(u32::BITS) } else { 0 };
        (self.scheme.storage_bits(self.shape) + order) as f64 / (out as f64 * columns as f64)
    }

    /// `W` `[out, in]`, f32, dense and in its original column order; the very values of [`Packed::decode`].
    ///
    /// Under autodiff it is a constant.
    pub fn dequantize(&self) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_decode(self.parts()))
    }

    /// `y = x · Wᵀ`, `x`: `[.., in]` → `y`: `[.., out]`, in the float dtype of `x`.
    ///
    /// Under autodiff the gradient of `x` is `dy · W`, and nothing dense is kept for it.
    ///
    /// # Panics
    ///
    /// If the last dimension of `x` is not `in`, naming both shapes.
    pub fn matmul<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.matmul_from(x, Side::Transposed)
    }

    /// `x · Wᵀ`, `[.., in]` → `[.., out]`, or `x · W`, `[.., out]` → `[.., in]`, by `side`.
    ///
    /// # Panics
    ///
    /// If the last dimension of `x` does not fit, naming both shapes.
    pub fn matmul_from<const D: usize>(&self, x: Tensor<D>, side: Side) -> Tensor<D> {
        let [expected, columns] = side.columns(self.shape);
        let mut dims = x.dims();
        assert_eq!(
            dims[D - 1],
            expected,
            "x {dims:?} does not fit a packed matrix {:?}: its last dimension must be {expected}",
            self.shape
        );
        let rows = dims[..D - 1].iter().product();
        dims[D - 1] = columns;
        // Not `Tensor::reshape`: there a 0 does not mean an empty batch but "keep this dimension".
        let x = Dispatch::float_reshape(x.into_dispatch(), Shape::from([rows, expected]));
        let y = <Dispatch as QuantBackend>::packed_matmul(x, self.parts(), side); // [rows, columns]
        Tensor::from_dispatch(Dispatch::float_reshape(y, Shape::from(dims)))
    }

    /// The rows of `W` named by `rows` `[n]`, `[n, in]`, f32: an embedding lookup. Only they are decoded.
    ///
    /// # Panics
    ///
    /// If a row is not below `out`, on backends that check indices (Flex and NdArray do, Cube does not).
    pub fn select(&self, rows: Tensor<1, Int>) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_select(rows.into_dispatch(), self.parts()))
    }

    pub(crate) fn parts(&self) -> PackedParts<Dispatch> {
        PackedParts {
            codes: self.codes.val().into_dispatch(),
            scales: self.scales.val().into_dispatch(),
            levels: match (&self.zeros, &self.levels) {
                (Some(zeros), _) => Levels::Affine(zeros.val().into_dispatch()),
                (None, Some(levels)) => Levels::Table(levels.val().into_dispatch()),
                (None, None) => Levels::Signed,
            },
            order: match &self.inverse {
                Some(inverse) => Order::Permuted(inverse.val().into_dispatch()),
                None => Order::Natural,
            },
            layout: Layout {
                shape: self.shape,
                bits: self.scheme.code.bits(),
                group: self.scheme.group.size(self.shape[1]),
            },
        }
    }
}

/// A float parameter that takes no gradient; f32 even where the device prefers another float.
fn frozen<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    let tensor = Tensor::from_data(TensorData::new(values, shape), (device, DType::F32));
    Param::initialized(ParamId::new(), tensor)
}

/// An integer parameter, i32 even where the device prefers another integer.
fn fixed<const D: usize>(values: Vec<i32>, shape: [usize; D], device: &Device) -> Param<Tensor<D, Int>> {
    let tensor = Tensor::from_data(TensorData::new(values, shape), (device, DType::I32));
    Param::initialized(ParamId::new(), tensor)
}

fn read<E: burn::tensor::Element>(data: TensorData) -> Vec<E> {
    let found = data.dtype();
    data.try_into_vec().unwrap_or_else(|_| panic!("a parameter of a QTensor became {found:?}"))
}

/// The inverse of a permutation: `inverse[order[j]] = j`.
fn invert(order: &[u32]) -> Vec<i32> {
    let mut inverse = vec![0; order.len()];
    for (stored, &column) in (0..).zip(order) {
        inverse[column as usize] = stored;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_undoes_its_order() {
        assert_eq!(invert(&[2, 0, 3, 1]), [1, 3, 0, 2]);
    }
}
