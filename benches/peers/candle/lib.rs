//! The products of candle as a peer of the kernel benchmark: `../peer.h` says what each function does.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{CpuStorage, Device, Module, Result, Storage, Tensor};
use rayon::prelude::*;

/// Names, candle's types, and the bits that a weight takes where a product with one row reads it.
///
/// Q4K and Q8_0 are laid out anew for VNNI at the first product: tiles of 16 rows, in Q4K with scales and minima as f32.
const KINDS: [(&CStr, Option<GgmlDType>, f64); 4] = [
    (c"f32", None, 32.0),
    (c"q4_0", Some(GgmlDType::Q4_0), 4.5),
    (c"q4_k", Some(GgmlDType::Q4K), 6.0),
    (c"q8_0", Some(GgmlDType::Q8_0), 8.5),
];

enum Weight {
    Dense(Tensor),
    Quantized(QMatMul),
}

impl Weight {
    /// `x · Wᵀ`.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(w) => x.matmul(&w.t()?),
            Self::Quantized(w) => w.forward(x),
        }
    }
}

struct Peer {
    k: usize,
    bytes: usize,
    copies: Vec<Weight>,
    /// Inputs by address and rows.
    inputs: HashMap<(usize, usize), Tensor>,
    /// The last result.
    y: Option<Tensor>,
}

impl Peer {
    fn new(kind: Option<GgmlDType>, bits: f64, [n, k]: [usize; 2], w: &[f32], footprint: usize) -> Result<Self> {
        let bytes = (n as f64 * k as f64 * bits / 8.0) as usize;
        let w = Tensor::from_slice(w, (n, k), &Device::Cpu)?;
        let copies = 0..footprint.div_ceil(bytes).max(1);
        let copies: Vec<Weight> = match kind {
            None => copies.map(|_| Ok(Weight::Dense(w.copy()?))).collect::<Result<_>>()?,
            Some(kind) => {
                let quantized = QTensor::quantize(&w, kind)?;
                let data = quantized.data()?;
                let copy = || {
                    let storage = QStorage::from_data(data.as_ref().into(), &Device::Cpu, kind)?;
                    Ok(Weight::Quantized(QMatMul::from_qtensor(QTensor::new(storage, (n, k))?)?))
                };
                copies.map(|_| copy()).collect::<Result<_>>()?
            }
        };
        // The layouts for one row and for many are made here, not in the first timed product.
        copies.par_iter().try_for_each(|weight| match weight {
            Weight::Dense(_) => Ok(()),
            Weight::Quantized(_) => [1, 64].iter().try_for_each(|&m| {
                let x = Tensor::zeros((m, k), candle_core::DType::F32, &Device::Cpu)?;
                weight.product(&x).map(|_| ())
            }),
        })?;
        Ok(Self { k, bytes, copies, inputs: HashMap::new(), y: None })
    }

    /// # Safety
    ///
    /// `x` points to `m` rows of floats.
    unsafe fn run(&mut self, copy: usize, m: usize, x: *const f32) -> Result<*const f32> {
        let input = match self.inputs.get(&(x.addr(), m)) {
            Some(input) => input.clone(),
            None => {
                // SAFETY: the caller's promise.
                let values = unsafe { std::slice::from_raw_parts(x, m * self.k) };
                let input = Tensor::from_slice(values, (m, self.k), &Device::Cpu)?;
                self.inputs.insert((x.addr(), m), input.clone());
                input
            }
        };
        let y = self.y.insert(self.copies[copy].product(&input)?);
        let (storage, layout) = y.storage_and_layout();
        match &*storage {
            // The tensor in `self.y` keeps the values where they are.
            Storage::Cpu(CpuStorage::F32(values)) if layout.is_contiguous() => {
                Ok(values[layout.start_offset()..].as_ptr())
            }
            _ => candle_core::bail!("a product that is not a row-major f32 tensor on the CPU"),
        }
    }
}

/// The value, or null and a line that says why not.
fn or_null<T>(result: Result<*const T>) -> *const T {
    result.unwrap_or_else(|error| {
        eprintln!("candle: {error}");
        std::ptr::null()
    })
}

#[unsafe(no_mangle)]
extern "C" fn quench_peer_version() -> *const c_char {
    c"candle-core 0.11.1".as_ptr()
}

/// # Safety
///
/// `names` can be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn quench_peer_kinds(names: *mut *const *const c_char) -> c_int {
    let found: Vec<*const c_char> = KINDS.iter().map(|(name, ..)| name.as_ptr()).collect();
    // SAFETY: the caller's promise. The list is leaked: it is asked for once.
    unsafe { *names = found.leak().as_ptr() };
    KINDS.len() as c_int
}

/// # Safety
///
/// `kind` is a C string and `w` points to `n * k` floats.
#[unsafe(no_mangle)]
unsafe extern "C" fn quench_peer_new(
    kind: *const c_char,
    n: i64,
    k: i64,
    w: *const f32,
    footprint: usize,
) -> *const c_void {
    let [n, k] = [n as usize, k as usize];
    // SAFETY: the caller's promise.
    let (kind, w) = unsafe { (CStr::from_ptr(kind), std::slice::from_raw_parts(w, n * k)) };
    let Some(&(_, kind, bits)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
        return std::ptr::null();
    };
    let peer = Peer::new(kind, bits, [n, k], w, footprint);
    or_null(peer.map(|peer| Box::into_raw(Box::new(peer)).cast_const().cast()))
}

/// # Safety
///
/// `peer` is from [`quench_peer_new`].
#[unsafe(no_mangle)]
unsafe extern "C" fn quench_peer_copies(peer: *const c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { &*peer.cast::<Peer>() }.copies.len() as c_int
}

/// # Safety
///
/// `peer` is from [`quench_peer_new`].
#[unsafe(no_mangle)]
unsafe extern "C" fn quench_peer_bytes(peer: *const c_void) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*peer.cast::<Peer>() }.bytes
}

/// # Safety
///
/// `peer` is from [`quench_peer_new`], used by nobody else, and `x` points to `m` rows of floats.
#[unsafe(no_mangle)]
unsafe extern "C" fn quench_peer_run(
    peer: *mut c_void,
    copy: c_int,
    m: i64,
    x: *const f32,
    _threads: c_int,
) -> *const f32 {
    // SAFETY: the caller's promise.
    or_null(unsafe { (*peer.cast::<Peer>()).run(copy as usize, m as usize, x) })
}

/// Its threads go to sleep by themselves.
#[unsafe(no_mangle)]
extern "C" fn quench_peer_rest() {}

/// # Safety
///
/// `peer` is from [`quench_peer_new`] and not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn quench_peer_free(peer: *mut c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(peer.cast::<Peer>()) });
}
