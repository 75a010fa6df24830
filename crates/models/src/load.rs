//! [`Loader`]: weights by name from a [`Source`], dense ones lazily, packed ones as they are.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use quench_checkpoint::{Dtype, Source, dialect};
use quench_nn::{Embedding, LayerInfo, Linear, Part, Role, Tap, Weight};

use crate::ModelError;
use crate::joint::Cut;

/// In which order a file has the matrix of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[out, in]`, as a [`Weight`] has it.
    OutIn,
    /// `[in, out]`: transposed on the way in. Packed matrices are `[out, in]` in any file.
    InOut,
}

/// Makes layers under one dotted path of a source.
#[derive(Clone)]
pub(crate) struct Loader<'a> {
    pub source: &'a Arc<dyn Source>,
    pub device: &'a Device,
    /// With its last dot, `"model.layers.3."`.
    pub path: String,
    /// The block under construction.
    pub block: Option<usize>,
    /// The order of the matrices of its blocks.
    pub order: Order,
}

impl Loader<'_> {
    /// The loader one step down: `at("self_attn")`.
    pub(crate) fn at(&self, part: &str) -> Self {
        Self { path: format!("{}{part}.", self.path), ..self.clone() }
    }

    /// A site under this path.
    pub(crate) fn site(&self, part: &str) -> String {
        format!("{}{part}", self.path)
    }

    /// A linear layer `[out, in]`, which reads `site`.
    pub(crate) fn linear(&self, name: &str, shape: [usize; 2], bias: bool, site: &str) -> Result<Layer, ModelError> {
        let turned = self.role() == Role::Block && self.order == Order::InOut;
        let file = if turned { [shape[1], shape[0]] } else { shape };
        let (info, origin, weight) = self.weight(name, shape, site, self.role(), &file)?;
        let (bias, bias_origin) = match bias {
            false => (None, None),
            true => {
                let stored = self.stored(&format!("{name}.bias"), [shape[0]])?;
                (Some(stored.lazy()), Some(stored))
            }
        };
        Ok(Layer { output: info.output(), info, origin, bias_origin, linear: Linear { weight, bias } })
    }

    /// A table of vectors `[vocab, dim]`.
    pub(crate) fn table(&self, name: &str, shape: [usize; 2]) -> Result<Table, ModelError> {
        let (info, origin, weight) = self.weight(name, shape, "", Role::Embedding, &shape)?;
        Ok(Table { info, origin, embedding: Embedding::new(weight) })
    }

    /// A convolution of `[out, in]` channels, its matrix `[out, in · kernel]`; outside of blocks, the network's first.
    pub(crate) fn convolution(
        &self,
        name: &str,
        [out, channels]: [usize; 2],
        [height, width]: [usize; 2],
        site: &str,
    ) -> Result<(LayerInfo, Origin, Weight), ModelError> {
        let role = if self.block.is_some() { Role::Block } else { Role::Embedding };
        let shape = [out, channels * height * width];
        self.weight(name, shape, site, role, &[out, channels, height, width])
    }

    /// A vector, the gain of a norm for example.
    pub(crate) fn vector(&self, name: &str, width: usize) -> Result<Stored<1>, ModelError> {
        self.stored(name, [width])
    }

    /// A matrix that is never quantized.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Stored<2>, ModelError> {
        self.stored(name, shape)
    }

    fn role(&self) -> Role {
        if self.block.is_some() { Role::Block } else { Role::Head }
    }

    /// - `file`: the shape of the dense tensor in the file
    fn weight(
        &self,
        name: &str,
        shape: [usize; 2],
        site: &str,
        role: Role,
        file: &[usize],
    ) -> Result<(LayerInfo, Origin, Weight), ModelError> {
        let layer = format!("{}{name}", self.path);
        let info =
            LayerInfo { name: layer.clone(), site: site.to_owned(), shape, role, block: self.block, residual: None };
        if let Some(packed) = dialect::read(self.source.as_ref(), &layer)? {
            if packed.shape() != shape {
                return Err(ModelError::Shape {
                    path: self.source.path().to_owned(),
                    tensor: layer,
                    expected: shape.to_vec(),
                    found: packed.shape().to_vec(),
                });
            }
            let weight = Weight::packed(&packed, self.device);
            return Ok((info, Origin { stored: None, opened: false }, weight));
        }
        let transposed = role == Role::Block && self.order == Order::InOut;
        let stored = self.stored_as(&format!("{name}.weight"), shape, file)?;
        let mut stored = Stored { transposed, ..stored };
        // What is usually left dense stays in the halves of its file; what is quantized is worked on in f32.
        if role != Role::Block {
            stored.keep_halves();
        }
        let weight = Weight::Dense(stored.lazy());
        Ok((info, Origin { stored: Some(stored), opened: false }, weight))
    }

    /// A dense tensor, its presence and shape checked from the headers alone.
    fn stored<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Stored<D>, ModelError> {
        self.stored_as(name, shape, &shape)
    }

    /// A dense tensor that has the shape `file` in the file.
    fn stored_as<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        file: &[usize],
    ) -> Result<Stored<D>, ModelError> {
        let tensor = format!("{}{name}", self.path);
        let path = || self.source.path().to_owned();
        match self.source.info(&tensor) {
            None => Err(ModelError::MissingTensor { path: path(), tensor, expected: file.to_vec() }),
            Some(info) if info.shape != file => {
                Err(ModelError::Shape { path: path(), tensor, expected: file.to_vec(), found: info.shape })
            }
            Some(_) => {
                let (source, device) = (self.source.clone(), self.device.clone());
                Ok(Stored { source, device, name: tensor, shape, dtype: DType::F32, transposed: false })
            }
        }
    }
}

/// Where a dense tensor can be read, as often as needed.
#[derive(Clone)]
pub(crate) struct Stored<const D: usize> {
    source: Arc<dyn Source>,
    device: Device,
    name: String,
    shape: [usize; D],
    /// On the device.
    dtype: DType,
    /// Whether the file has the matrix the other way round; such a tensor is one of f32.
    transposed: bool,
}

impl<const D: usize> Stored<D> {
    /// Keeps the dtype of the file, if that is one of halves and the device has it.
    fn keep_halves(&mut self) {
        let dtype = match self.source.info(&self.name).map(|info| info.dtype) {
            Some(Dtype::BF16) => DType::BF16,
            Some(Dtype::F16) => DType::F16,
            _ => return,
        };
        if self.device.supports_dtype(dtype) {
            self.dtype = dtype;
        }
    }

    /// The values; beside them, only this tensor's bytes are mapped, and only for as long as it takes.
    fn values(&self) -> Result<Vec<f32>, ModelError> {
        let values = self.source.tensor(&self.name)?.to_finite_f32()?;
        Ok(if self.transposed { transposed(&values, self.shape[0]) } else { values })
    }

    /// The tensor, in its dtype whatever that of the file.
    fn read(&self, device: &Device) -> Result<Tensor<D>, ModelError> {
        let data = match self.dtype {
            DType::F32 => TensorData::new(self.values()?, self.shape),
            // Those of the file, as they are.
            halves => {
                TensorData::from_bytes_vec(self.source.tensor(&self.name)?.to_finite_halves()?, self.shape, halves)
            }
        };
        Ok(Tensor::from_data(data, (device, self.dtype)))
    }

    /// A parameter that reads itself when it is first used.
    pub(crate) fn lazy(&self) -> Param<Tensor<D>> {
        let stored = self.clone();
        Param::uninitialized(
            ParamId::new(),
            // There is no way to return an error from here; `Model::load` is the one that does.
            move |device, _| stored.read(device).unwrap_or_else(|error| panic!("{error}")),
            self.device.clone(),
            false,
            Shape::new(self.shape),
        )
    }

    /// Reads the parameter if nobody did yet.
    pub(crate) fn load(&self, param: &mut Param<Tensor<D>>) -> Result<(), ModelError> {
        if !param.is_initialized() {
            *param = Param::initialized(param.id, self.read(&self.device)?);
        }
        Ok(())
    }

    /// Its name in the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// One axis of the tensor, counted as `shape` has them.
    pub(crate) fn cut(&self, axis: usize) -> Cut {
        let places = 0..self.shape[axis];
        let axis = if self.transposed { D - 1 - axis } else { axis };
        Cut { tensor: self.name.clone(), axis, extent: places.end, places, one: 0.0 }
    }

    /// Whether the parameter still has the values of the file, bit for bit.
    fn is_unchanged(&self, param: &Param<Tensor<D>>) -> bool {
        let Ok(values) = self.values() else { return false };
        let held = param.val();
        if held.dims() != self.shape {
            return false;
        }
        match held.into_data_as::<f32>().try_to_vec::<f32>() {
            Ok(held) => held.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()),
            Err(_) => false,
        }
    }
}

/// The transpose of a matrix of `columns` columns; row-major both.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    (0..values.len()).map(|index| values[index % rows * columns + index / rows]).collect()
}

/// The way back from a weight to its file.
#[derive(Clone)]
pub(crate) struct Origin {
    /// Absent where the source holds the weight packed.
    stored: Option<Stored<2>>,
    /// Whether someone was handed the weight to change it.
    opened: bool,
}

impl Origin {
    pub(crate) fn load(&self, weight: &mut Weight) -> Result<(), ModelError> {
        match (&self.stored, weight) {
            (Some(stored), Weight::Dense(param)) => stored.load(param),
            _ => Ok(()),
        }
    }

    /// Forgets a dense weight that the file still has. One that was handed out is first compared with the file, for
    /// what was changed in place exists nowhere else.
    pub(crate) fn release(&mut self, weight: &mut Weight) {
        if let (Some(stored), Weight::Dense(param)) = (&self.stored, weight)
            && param.is_initialized()
            && (!self.opened || stored.is_unchanged(param))
        {
            *param = stored.lazy();
            self.opened = false;
        }
    }

    pub(crate) fn open<'a>(&mut self, info: &LayerInfo, weight: &'a mut Weight) -> Part<'a> {
        self.opened = true;
        Part { name: info.name.clone(), site: info.site.clone(), weight }
    }
}

/// A linear layer that knows its name and its file.
#[derive(Clone)]
pub(crate) struct Layer {
    pub info: LayerInfo,
    pub linear: Linear,
    /// The site of its output.
    output: String,
    origin: Origin,
    bias_origin: Option<Stored<1>>,
}

impl Layer {
    /// `x`: `[.., in]` → `[.., out]`, tapped at [`LayerInfo::output`]. The input is tapped by whoever calls this, once for all
    /// layers that read it.
    pub(crate) fn forward<const D: usize, T: Tap>(&self, x: Tensor<D>, tap: &mut T) -> Tensor<D> {
        if tap.is_over() {
            let mut shape = x.dims();
            shape[D - 1] = self.outputs();
            return Tensor::zeros(shape, (&x.device(), x.dtype()));
        }
        tap.tap(&self.output, self.linear.forward(x))
    }

    /// What reads each channel of the input; nothing where the weight is packed.
    pub(crate) fn input_cut(&self) -> Vec<Cut> {
        self.origin.stored.iter().map(|stored| stored.cut(1)).collect()
    }

    /// What writes some channels of the output.
    pub(crate) fn output_cuts(&self, places: Range<usize>) -> Vec<Cut> {
        let weight = self.origin.stored.iter().map(|stored| stored.cut(0));
        let bias = self.bias_origin.iter().map(|stored| stored.cut(0));
        weight.chain(bias).map(|cut| Cut { places: places.clone(), ..cut }).collect()
    }

    /// Channels of the output.
    pub(crate) fn outputs(&self) -> usize {
        self.info.shape[0]
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        self.origin.load(&mut self.linear.weight)?;
        match (&self.bias_origin, &mut self.linear.bias) {
            (Some(stored), Some(bias)) => stored.load(bias),
            _ => Ok(()),
        }
    }

    pub(crate) fn release(&mut self) {
        self.origin.release(&mut self.linear.weight);
    }

    pub(crate) fn open(&mut self) -> Part<'_> {
        self.origin.open(&self.info, &mut self.linear.weight)
    }
}

/// An embedding that knows its name and its file.
#[derive(Clone)]
pub(crate) struct Table {
    pub info: LayerInfo,
    pub embedding: Embedding,
    origin: Origin,
}

impl Table {
    /// What writes each channel.
    pub(crate) fn output_cuts(&self) -> Vec<Cut> {
        self.origin.stored.iter().map(|stored| stored.cut(1)).collect()
    }

    pub(crate) fn load(&mut self) -> Result<(), ModelError> {
        self.origin.load(&mut self.embedding.weight)
    }

    pub(crate) fn release(&mut self) {
        self.origin.release(&mut self.embedding.weight);
    }

    pub(crate) fn open(&mut self) -> Part<'_> {
        self.origin.open(&self.info, &mut self.embedding.weight)
    }
}
