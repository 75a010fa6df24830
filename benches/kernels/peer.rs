//! Products of other libraries, loaded at run time: `benches/peers/peer.h` says what they offer, `benches/peers/build.sh`
//! builds them.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::Library;

use crate::contestant::{Contestant, Problem};

/// The libraries that build.sh makes.
pub const PEERS: [&str; 3] = ["ggml", "ik", "candle"];

/// A loaded library.
pub struct Peers {
    /// `ggml` of `libquench_peer_ggml.so`.
    pub name: &'static str,
    /// What it says of itself.
    pub version: String,
    /// The kinds of weight it has.
    pub kinds: Vec<String>,
    new: unsafe extern "C" fn(*const c_char, i64, i64, *const f32, usize) -> *mut c_void,
    copies: unsafe extern "C" fn(*const c_void) -> c_int,
    bytes: unsafe extern "C" fn(*const c_void) -> usize,
    run: unsafe extern "C" fn(*mut c_void, c_int, i64, *const f32, c_int) -> *const f32,
    rest: unsafe extern "C" fn(),
    free: unsafe extern "C" fn(*mut c_void),
    _library: Library,
}

/// Where the libraries are: `QUENCH_PEERS`, as in build.sh.
pub fn folder() -> PathBuf {
    let cache = || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/quench-peers");
    std::env::var_os("QUENCH_PEERS").filter(|path| !path.is_empty()).map_or_else(cache, PathBuf::from)
}

impl Peers {
    /// Loads `libquench_peer_NAME.so`, or says why it does not. Call it on the thread that will run its products.
    pub fn load(name: &'static str) -> Result<Self, String> {
        let path = folder().join(format!("libquench_peer_{name}.so"));
        if !path.exists() {
            return Err(format!("no {}", path.display()));
        }
        Self::open(name, &path).map_err(|error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }

    fn open(name: &'static str, path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: loading runs the library's initializers; it is one that build.sh built. The types below are those of
        // peer.h, and the functions live as long as the library, which is kept beside them.
        unsafe {
            let library = Library::new(path)?;
            let version: unsafe extern "C" fn() -> *const c_char = *library.get(b"quench_peer_version")?;
            let kinds: unsafe extern "C" fn(*mut *const *const c_char) -> c_int = *library.get(b"quench_peer_kinds")?;
            let mut names = std::ptr::null();
            let count = kinds(&mut names);
            let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
            Ok(Self {
                name,
                version: text(version()),
                kinds: std::slice::from_raw_parts(names, count as usize).iter().map(|&name| text(name)).collect(),
                new: *library.get(b"quench_peer_new")?,
                copies: *library.get(b"quench_peer_copies")?,
                bytes: *library.get(b"quench_peer_bytes")?,
                run: *library.get(b"quench_peer_run")?,
                rest: *library.get(b"quench_peer_rest")?,
                free: *library.get(b"quench_peer_free")?,
                _library: library,
            })
        }
    }
}

/// Weights of one kind in one library.
pub struct Peer {
    library: Arc<Peers>,
    problem: Arc<Problem>,
    handle: *mut c_void,
}

// SAFETY: the library's thread makes it, uses it and drops it; other threads only hold it (`crate::host`).
unsafe impl Send for Peer {}

impl Peer {
    /// The weights of `problem` as `kind`; `None` if this CPU has no kernel for it.
    pub fn new(library: &Arc<Peers>, kind: &str, problem: &Arc<Problem>) -> Option<Self> {
        let [n, k] = problem.shape;
        let name = CString::new(kind).expect("kinds are C strings");
        // SAFETY: `w` is `[n, k]`.
        let handle = unsafe { (library.new)(name.as_ptr(), n as i64, k as i64, problem.w.as_ptr(), problem.footprint) };
        (!handle.is_null()).then(|| Self { library: library.clone(), problem: problem.clone(), handle })
    }

    /// y `[rows, n]`, where the library keeps it.
    fn product(&mut self, copy: usize, rows: usize) -> *const f32 {
        let Problem { x, threads, .. } = &*self.problem;
        assert!(copy < self.copies() && rows * self.problem.shape[1] <= x.len());
        // SAFETY: the handle is live, the copy is there, `x` has these rows and lives as long as `self`.
        let y = unsafe { (self.library.run)(self.handle, copy as c_int, rows as i64, x.as_ptr(), *threads as c_int) };
        assert!(!y.is_null(), "a product of {} failed", self.library.name);
        y
    }
}

impl Contestant for Peer {
    fn bytes(&self) -> usize {
        // SAFETY: the handle is live.
        unsafe { (self.library.bytes)(self.handle) }
    }

    fn copies(&self) -> usize {
        // SAFETY: the handle is live.
        unsafe { (self.library.copies)(self.handle) as usize }
    }

    fn run(&mut self, copy: usize, rows: usize) {
        self.product(copy, rows);
    }

    fn result(&mut self, copy: usize, rows: usize) -> Vec<f32> {
        let y = self.product(copy, rows);
        // SAFETY: the library promises `[rows, n]` until its next product.
        unsafe { std::slice::from_raw_parts(y, rows * self.problem.shape[0]) }.to_vec()
    }

    fn rest(&mut self) {
        // SAFETY: it may be called at any time between products.
        unsafe { (self.library.rest)() }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again.
        unsafe { (self.library.free)(self.handle) }
    }
}
