//! [`QTensor`]: a packed matrix on a device.

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchDevice};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use half::{bf16, f16};
use quench_format::tiles::Tiles;
use quench_format::{Code, FloatKind, Group, Offsets, Packed, Scales, Scheme};

use crate::ops::{Activations, Layout, Levels, Minimums, Order, PackedParts, QuantBackend, Side, Window};

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
    /// `[tiles, words]`, u32 bit-cast to i32: an unsigned type is not on every backend.
    codes: Param<Tensor<2, Int>>,
    /// `[tiles, groups · 16]`, as the scheme keeps them where the device can, else f32.
    scales: Param<Tensor<2>>,
    /// `[tiles, words]`, with an affine code.
    zeros: Option<Param<Tensor<2, Int>>>,
    /// `[2^bits]`, f32, with a code that is neither symmetric nor affine.
    levels: Option<Param<Tensor<1>>>,
    /// `[tiles, groups · 16]`, f32, where the scheme has minimums.
    minimums: Option<Param<Tensor<2>>>,
    /// `[in]`, i32: the column of the matrix that is stored at `j`.
    order: Option<Param<Tensor<1, Int>>>,
    /// Scales that are coded in turn, which their values do not tell; plain ones come back from the device.
    #[module(skip)]
    nested: Option<Arc<Scales>>,
    /// Minimums likewise.
    #[module(skip)]
    nested_minimums: Option<Arc<Scales>>,
    #[module(skip)]
    scheme: Scheme,
    #[module(skip)]
    shape: [usize; 2],
    #[module(skip)]
    activations: Activations,
}

impl QTensor {
    /// Uploads a packed matrix, in tiles; products are [`Activations::Int8`] until said otherwise.
    ///
    /// Scales that are coded in turn are f32 on the device, and so are halves where it has none. Products of a matrix that is not
    /// [served](Self::is_served) panic.
    pub fn from_packed(packed: &Packed, device: &Device) -> Self {
        let (scheme, shape) = (packed.scheme(), packed.shape());
        let Tiles { layout, codes, scales, zeros, minimums } = Tiles::new(packed);
        let tiles = layout.tiles();
        let scales = match layout.scale {
            FloatKind::F32 => floats(scales, tiles),
            FloatKind::F16 => halves::<f16>(&scales, tiles),
            FloatKind::BF16 => halves::<bf16>(&scales, tiles),
        };
        let dtype = if device.supports_dtype(scales.dtype()) { scales.dtype() } else { DType::F32 };
        Self {
            codes: fixed(codes, [tiles, layout.code_words()], device),
            scales: frozen(scales, dtype, device),
            zeros: zeros.map(|zeros| fixed(zeros, [tiles, layout.zero_words()], device)),
            levels: match scheme.code {
                Code::Int { .. } | Code::Affine { .. } => None,
                code => Some(frozen(TensorData::new(code.levels(), [code.len()]), DType::F32, device)),
            },
            minimums: minimums.map(|minimums| frozen(floats(minimums, tiles), DType::F32, device)),
            order: packed.parts().order.as_ref().map(|order| fixed(order.clone(), [shape[1]], device)),
            nested: nested(Some(&packed.parts().scales)),
            nested_minimums: nested(packed.parts().offsets.minimums()),
            scheme,
            shape,
            activations: Activations::default(),
        }
    }

    /// Whether this device makes products from the codes of such a matrix; one that it does not serve is decoded before it is put there.
    ///
    /// Of what [`Scheme::has_kernel`] says, Flex and NdArray serve all, and other devices what has no minimums.
    pub fn is_served(scheme: Scheme, device: &Device) -> bool {
        let host = match device.clone().without_autodiff().as_dispatch() {
            #[cfg(feature = "flex")]
            DispatchDevice::Flex(_) => true,
            #[cfg(feature = "ndarray")]
            DispatchDevice::NdArray(_) => true,
            #[allow(unreachable_patterns, reason = "which devices there are depends on the features")]
            _ => false,
        };
        scheme.has_kernel() && (host || scheme.minimum.is_none())
    }

    /// The same matrix, whose products read their input in this precision where the device gives the choice.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// In which precision products read their input where the device gives the choice: on Flex and NdArray.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Downloads the matrix: what [`from_packed`](Self::from_packed) was given, exactly.
    ///
    /// # Panics
    ///
    /// If the device fails, or if a parameter was replaced since so that the parts no longer agree.
    pub fn to_packed(&self) -> Packed {
        let layout = self.layout();
        let values = match self.scheme.group {
            Group::Tensor => 1,
            Group::Row | Group::Columns(_) => self.shape[0] * layout.groups(),
        };
        let kept = |nested: &Option<Arc<Scales>>, values_of: &Param<Tensor<2>>| match nested {
            Some(nested) => (**nested).clone(),
            None => {
                // As words, so that one place knows where a scale lies.
                let words: Vec<f32> = read(values_of.val().cast(DType::F32).into_data());
                let layout = Layout { scale: FloatKind::F32, ..layout };
                let mut scales = layout.scales(&bytemuck::cast_vec::<f32, u32>(words));
                scales.truncate(values);
                Scales::Float(scales)
            }
        };
        let scales = kept(&self.nested, &self.scales);
        let words = |words: TensorData| bytemuck::cast_vec::<i32, u32>(read(words));
        let codes = layout.codes(&words(self.codes.val().into_data()));
        let zeros = self.zeros.as_ref().map(|zeros| {
            let mut zeros = layout.zeros(&words(zeros.val().into_data()));
            zeros.truncate(values);
            zeros
        });
        let order = self.order.as_ref().map(|order| words(order.val().into_data()));
        let offsets = match &self.minimums {
            Some(minimums) => Offsets::Minimums(kept(&self.nested_minimums, minimums)),
            None => Offsets::from(zeros),
        };
        Packed::from_codes(self.scheme, self.shape, &codes, scales, offsets, order)
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
        let order = if self.order.is_some() { columns as u64 * u64::from(u32::BITS) } else { 0 };
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

    /// `y = W ⋆ x + b`, where a row of `W` is a kernel over all channels: `[out, channels · kernel height · kernel width]`.
    ///
    /// - `x`: `[batch, channels, height, width]`
    /// - `bias`: `[out]`; zeros if not given
    /// - returns `[batch, out, output height, output width]` in the float dtype of `x`
    ///
    /// On Flex and NdArray the image is unfolded in parts that stay in a cache, elsewhere as a whole ([`unfold`]).
    ///
    /// # Panics
    ///
    /// If the channels of `x` or the bias do not fit, or the padded image is smaller than the kernel.
    ///
    /// [`unfold`]: crate::unfold
    pub fn convolve(&self, x: Tensor<4>, bias: Option<Tensor<1>>, window: &Window) -> Tensor<4> {
        let ([out, columns], [_, channels, ..]) = (self.shape, x.dims());
        let kernel: usize = window.kernel.iter().product();
        assert_eq!(columns, channels * kernel, "x {:?} does not fit a packed matrix {:?}", x.dims(), self.shape);
        let bias = bias.unwrap_or_else(|| Tensor::zeros([out], (&x.device(), DType::F32)));
        assert_eq!(bias.dims(), [out], "a packed matrix {:?} needs one bias per row", self.shape);
        let (x, bias) = (x.into_dispatch(), bias.into_dispatch());
        Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_convolve(x, self.parts(), bias, *window))
    }

    /// The rows of `W` named by `rows` `[n]`, `[n, in]`, f32: an embedding lookup. Only they are decoded.
    ///
    /// # Panics
    ///
    /// If a row is not below `out`, on Flex and NdArray; Cube does not look, and takes the last row for it.
    pub fn select(&self, rows: Tensor<1, Int>) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_select(rows.into_dispatch(), self.parts()))
    }

    /// The sizes of the parts, with the scales as the device has them.
    fn layout(&self) -> Layout {
        let scale = match self.scales.val().dtype() {
            DType::F16 => FloatKind::F16,
            DType::BF16 => FloatKind::BF16,
            _ => FloatKind::F32,
        };
        Layout { scale, ..Layout::new(self.scheme, self.shape) }
    }

    pub(crate) fn parts(&self) -> PackedParts<Dispatch> {
        PackedParts {
            codes: self.codes.val().into_dispatch(),
            scales: self.scales.val().into_dispatch(),
            levels: match (&self.zeros, &self.levels) {
                (Some(zeros), _) => Levels::Affine(zeros.val().into_dispatch()),
                (None, Some(levels)) => Levels::Table(levels.val().into_dispatch()),
                (None, None) if self.scheme.code.is_affine() => Levels::Unsigned,
                (None, None) => Levels::Signed,
            },
            minimums: match &self.minimums {
                Some(minimums) => Minimums::Floats(minimums.val().into_dispatch()),
                None => Minimums::None,
            },
            order: match &self.order {
                Some(order) => Order::Permuted(order.val().into_dispatch()),
                None => Order::Natural,
            },
            layout: self.layout(),
            activations: self.activations,
        }
    }
}

/// Scales or minimums that are coded in turn.
fn nested(scales: Option<&Scales>) -> Option<Arc<Scales>> {
    scales.filter(|scales| matches!(scales, Scales::Nested { .. })).map(|nested| Arc::new(nested.clone()))
}

/// A float parameter that takes no gradient, of this dtype even where the device prefers another.
fn frozen<const D: usize>(values: TensorData, dtype: DType, device: &Device) -> Param<Tensor<D>> {
    Param::initialized(ParamId::new(), Tensor::from_data(values, (device, dtype)))
}

/// An integer parameter: words bit-cast to i32, even where the device prefers another integer.
fn fixed<const D: usize>(words: Vec<u32>, shape: [usize; D], device: &Device) -> Param<Tensor<D, Int>> {
    let words = TensorData::new(bytemuck::cast_vec::<u32, i32>(words), shape);
    Param::initialized(ParamId::new(), Tensor::from_data(words, (device, DType::I32)))
}

/// Words of f32, `[tiles, ..]`.
fn floats(words: Vec<u32>, tiles: usize) -> TensorData {
    let shape = [tiles, words.len() / tiles];
    TensorData::new(bytemuck::cast_vec::<u32, f32>(words), shape)
}

/// Words of two halves each, `[tiles, ..]`.
fn halves<E: burn::tensor::Element + bytemuck::Pod>(words: &[u32], tiles: usize) -> TensorData {
    let halves: &[E] = bytemuck::cast_slice(words);
    TensorData::new(halves.to_vec(), [tiles, halves.len() / tiles])
}

fn read<E: burn::tensor::Element>(data: TensorData) -> Vec<E> {
    let found = data.dtype();
    data.try_into_vec().unwrap_or_else(|_| panic!("a parameter of a QTensor became {found:?}"))
}
