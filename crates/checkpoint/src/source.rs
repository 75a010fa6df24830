//! Named tensors to read from: the trait, and one tensor as it lies in a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use safetensors::Dtype;

use crate::{CheckpointError, Manifest};

/// A checkpoint: tensors by name, and strings by key. Nothing is read until a tensor is asked for.
pub trait Source: Send + Sync {
    /// The names of all tensors, sorted.
    fn names(&self) -> Vec<&str>;

    /// Type and shape of a tensor, from the header alone; `None` if there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// One tensor.
    ///
    /// Errors: [`CheckpointError::MissingTensor`], and whatever is wrong with the file that holds it.
    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError>;

    /// Bytes that a tensor takes in its file, which an `.lsq` file packs tighter than its type and shape say, and an entropy coder
    /// tighter still; `None` if there is no such tensor.
    fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.info(name).and_then(|info| byte_len(info.dtype, &info.shape))
    }

    /// The stream of a tensor that is entropy-coded in its file ([`Manifest::coded`]), which [`Source::tensor`] decodes; `None` for
    /// every other.
    ///
    /// Errors: as [`Source::tensor`].
    fn stream(&self, _name: &str) -> Result<Option<TensorView>, CheckpointError> {
        Ok(None)
    }

    /// The metadata strings of all files together.
    fn metadata(&self) -> &BTreeMap<String, String>;

    /// The packed layers, and the checksums on record; empty for a checkpoint that was made elsewhere.
    fn manifest(&self) -> &Manifest {
        Manifest::empty()
    }

    /// What the model's configuration says of its quantization, where another tool made it: `quantization_config` of
    /// `config.json`, or `quantize_config.json`.
    fn quantization(&self) -> Option<&serde_json::Value> {
        None
    }

    /// The folder or file, for messages.
    fn path(&self) -> &Path;
}

/// Makes numbers of some bytes.
type Convert = fn(&[u8], &mut [f32]);

/// Bytes that are converted at a time.
const STRETCH: usize = 1 << 22;

/// What a header says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Extent of each axis, outermost first.
    pub shape: Vec<usize>,
}

/// One tensor. Its bytes are mapped from the file when touched and unmapped when the view is dropped, so a program that
/// looks at one tensor after another never has more than one of them resident.
#[derive(Debug)]
pub struct TensorView {
    file: Arc<Path>,
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl TensorView {
    pub(crate) fn mapped(file: Arc<Path>, name: &str, info: TensorInfo, map: Mmap) -> Self {
        let TensorInfo { dtype, shape } = info;
        Self { file, name: name.to_owned(), dtype, shape, data: Data::Mapped(map) }
    }

    /// A tensor that is in memory already; `file` is named in errors.
    ///
    /// Errors: [`CheckpointError::Size`] if `bytes` do not fill `shape`.
    pub fn owned(
        file: &Path,
        name: &str,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: Vec<u8>,
    ) -> Result<Self, CheckpointError> {
        check_size(name, dtype, &shape, bytes.len() as u64)?;
        Ok(Self { file: file.into(), name: name.to_owned(), dtype, shape, data: Data::Owned(bytes) })
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Extent of each axis, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements as they lie in the file: row-major, little-endian, at no particular alignment.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map) => map,
            Data::Owned(bytes) => bytes,
        }
    }

    /// The elements as `f32`, row-major; exact, since `f32` holds every `f16` and `bf16`.
    ///
    /// What is converted does not stay resident, so beside the result this takes no memory.
    ///
    /// Errors: [`CheckpointError::Dtype`] for elements other than `f32`, `f16` and `bf16`.
    pub fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let (size, convert): (usize, Convert) = match self.dtype {
            Dtype::F32 => (4, |bytes, values| fill(values, words(bytes, f32::from_le_bytes))),
            Dtype::BF16 => (2, |bytes, values| {
                fill(values, words(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)));
            }),
            Dtype::F16 => (2, f16_to_f32),
            _ => return Err(self.wrong_dtype("F32, F16 or BF16")),
        };
        let mut values = vec![0.0; self.bytes().len() / size];
        let stretches = values.chunks_mut(STRETCH / size).zip(self.bytes().chunks(STRETCH));
        let mut start = 0;
        for (values, bytes) in stretches {
            convert(bytes, values);
            self.forget(start, bytes.len());
            start += bytes.len();
        }
        Ok(values)
    }

    /// Lets go of the memory behind some bytes of a mapped tensor; read again, they come from the file again.
    #[cfg(unix)]
    fn forget(&self, start: usize, length: usize) {
        if let Data::Mapped(map) = &self.data {
            // SAFETY: nobody writes to the map, so what is read from the file again is what was there.
            // Where the system does not take the advice, the memory stays for as long as the view.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
        }
    }

    #[cfg(not(unix))]
    fn forget(&self, _start: usize, _length: usize) {}

    /// [`TensorView::to_f32`], for weights: NaN and infinities are errors.
    ///
    /// Errors: [`CheckpointError::NonFinite`] with the position of the first one.
    pub fn to_finite_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let values = self.to_f32()?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(self.non_finite(index, values[index])),
        }
    }

    /// The bytes of a tensor of halves, for weights: NaN and infinities are errors.
    ///
    /// Errors: [`CheckpointError::NonFinite`] with the position of the first one; [`CheckpointError::Dtype`] for a tensor of
    /// something else.
    pub fn to_finite_halves(&self) -> Result<Vec<u8>, CheckpointError> {
        let value: fn([u8; 2]) -> f32 = match self.dtype {
            Dtype::F16 => |bytes| f16::from_le_bytes(bytes).to_f32(),
            Dtype::BF16 => |bytes| bf16::from_le_bytes(bytes).to_f32(),
            _ => return Err(self.wrong_dtype("F16 or BF16")),
        };
        let mut halves = Vec::with_capacity(self.bytes().len());
        for bytes in self.bytes().chunks(STRETCH) {
            if let Some((index, value)) = words(bytes, value).enumerate().find(|(_, value)| !value.is_finite()) {
                return Err(self.non_finite(halves.len() / 2 + index, value));
            }
            halves.extend_from_slice(bytes);
            self.forget(halves.len() - bytes.len(), bytes.len());
        }
        Ok(halves)
    }

    fn wrong_dtype(&self, expected: &str) -> CheckpointError {
        CheckpointError::Dtype {
            file: self.file.to_path_buf(),
            tensor: self.name.clone(),
            expected: expected.to_owned(),
            found: self.dtype,
        }
    }

    fn non_finite(&self, index: usize, value: f32) -> CheckpointError {
        CheckpointError::NonFinite { file: self.file.to_path_buf(), tensor: self.name.clone(), index, value }
    }
}

/// Bytes that a tensor takes; `None` where that is no whole number of bytes, or more than a `u64` counts.
pub(crate) fn byte_len(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, &extent| bits.checked_mul(extent as u64))?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Errors if `found` bytes do not fill `shape`.
pub(crate) fn check_size(tensor: &str, dtype: Dtype, shape: &[usize], found: u64) -> Result<(), CheckpointError> {
    match byte_len(dtype, shape) {
        Some(expected) if expected == found => Ok(()),
        expected => {
            Err(CheckpointError::Size { tensor: tensor.to_owned(), expected: expected.unwrap_or(u64::MAX), found })
        }
    }
}

/// Little-endian words of `N` bytes, each made into a `T`.
pub(crate) fn words<const N: usize, T>(bytes: &[u8], make: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    let (words, _) = bytes.as_chunks::<N>();
    words.iter().map(move |word| make(*word))
}

fn fill(values: &mut [f32], from: impl Iterator<Item = f32>) {
    for (value, from) in values.iter_mut().zip(from) {
        *value = from;
    }
}

/// Through a small aligned buffer: `half` converts whole slices with F16C or NEON, about ten times as fast as one by one,
/// but a mapped tensor may start at an odd address.
fn f16_to_f32(bytes: &[u8], values: &mut [f32]) {
    const CHUNK: usize = 4096;
    let mut halves = [f16::ZERO; CHUNK];
    for (values, bytes) in values.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
        let halves = &mut halves[..values.len()];
        for (half, word) in halves.iter_mut().zip(words(bytes, f16::from_le_bytes)) {
            *half = word;
        }
        halves.convert_to_f32_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn view(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> TensorView {
        TensorView::owned(Path::new("m.safetensors"), "w", dtype, shape.to_vec(), bytes).unwrap()
    }

    #[test]
    fn every_half_becomes_the_float_it_stands_for() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
        let f16s = view(Dtype::F16, &[256, 256], bytes.clone()).to_f32().unwrap();
        let bf16s = view(Dtype::BF16, &[65536], bytes).to_f32().unwrap();
        for bits in 0..=u16::MAX {
            assert!(same(f16s[bits as usize], f16::from_bits(bits).to_f32()), "f16 {bits:#x}");
            assert!(same(bf16s[bits as usize], bf16::from_bits(bits).to_f32()), "bf16 {bits:#x}");
        }
    }

    #[test]
    fn an_odd_number_of_halves_is_converted_to_the_last() {
        let bytes: Vec<u8> = (0..5001).flat_map(|i| f16::from_f32(i as f32 / 8.0).to_le_bytes()).collect();
        let values = view(Dtype::F16, &[5001], bytes).to_f32().unwrap();
        assert!(values.iter().enumerate().all(|(i, &value)| value == f16::from_f32(i as f32 / 8.0).to_f32()));
    }

    #[test]
    fn other_types_are_refused_by_name() {
        let error = view(Dtype::I32, &[1], vec![0; 4]).to_f32().unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("m.safetensors") && error.contains("I32"), "{error}");
    }

    #[test]
    fn nan_and_infinity_are_found_where_they_are() {
        for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let bytes = [1.0, 2.0, value, f32::NAN].into_iter().flat_map(f32::to_le_bytes).collect();
            let error = view(Dtype::F32, &[2, 2], bytes).to_finite_f32().unwrap_err();
            assert!(matches!(error, CheckpointError::NonFinite { index: 2, .. }));
            assert!(error.to_string().contains(&format!("holds {shown} at element 2")), "{error}");
        }
    }

    #[test]
    fn halves_are_kept_as_they_are() {
        let bytes: Vec<u8> = [0x3f80_u16, 0xc000, 0x0001].into_iter().flat_map(u16::to_le_bytes).collect();
        let halves = view(Dtype::BF16, &[3], bytes.clone());
        assert_eq!(halves.to_finite_halves().unwrap(), bytes);
        assert!(matches!(view(Dtype::F32, &[1], vec![0; 4]).to_finite_halves(), Err(CheckpointError::Dtype { .. })));
        for (dtype, infinity) in [(Dtype::F16, 0x7c00_u16), (Dtype::BF16, 0xff80)] {
            let bytes = [0, 0, infinity].into_iter().flat_map(u16::to_le_bytes).collect();
            let error = view(dtype, &[3], bytes).to_finite_halves().unwrap_err();
            assert!(matches!(error, CheckpointError::NonFinite { index: 2, .. }), "{error}");
        }
    }

    #[test]
    fn bytes_must_fill_the_shape() {
        let wrong = |shape: &[usize], bytes| TensorView::owned(Path::new("m"), "w", Dtype::F32, shape.to_vec(), bytes);
        assert!(matches!(wrong(&[2], vec![0; 7]), Err(CheckpointError::Size { expected: 8, found: 7, .. })));
        assert!(matches!(wrong(&[usize::MAX, 9], vec![]), Err(CheckpointError::Size { .. })));
        assert_eq!(byte_len(Dtype::F4, &[3]), None);
        assert_eq!(byte_len(Dtype::F4, &[4]), Some(2));
    }
}
