//! What is in memory: a step of training makes no dense matrix, a network read from a file takes little more than the file, and no
//! metric of `n` vectors takes `n²` numbers.

#[path = "support/data.rs"]
mod data;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use data::data;
use quench::checkpoint::Writer;
use quench::format::{Packed, Scales};
use quench::kernels::{Activations, QTensor};
use quench::metrics::{Neighbours, Pairs, Preservation, Source, cka, rsa};
use quench::models::{FOLDED, ResNet};
use quench::nn::{Model, Section};
use quench::quantize::{Finished, Journal, Recipe, run};

/// Counts what is allocated, by all threads.
struct Counting;

/// Whoever counts must be alone.
static ALONE: Mutex<()> = Mutex::new(());

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that a task takes at most beside what there was.
fn most(task: impl FnOnce()) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    task();
    MOST.load(Ordering::Relaxed) - before
}

#[test]
fn a_gradient_through_packed_matrices_makes_no_dense_one() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const SIZE: usize = 2048;
    const ROWS: usize = 4;
    let device = Device::flex().autodiff();
    let codes: Vec<u16> = (0..SIZE * SIZE).map(|i| (i * 7 % 16) as u16).collect();
    let scales = Scales::Float(vec![1.0 / 128.0; SIZE * SIZE / 64]);
    let packed = Packed::from_codes("int4/64/f16".parse().unwrap(), [SIZE; 2], &codes, scales, None, None).unwrap();
    let x = TensorData::new((0..ROWS * SIZE).map(|i| (i % 13) as f32 - 6.0).collect(), [ROWS, SIZE]);
    let dense = SIZE * SIZE * size_of::<f32>();
    for activations in Activations::ALL {
        let w = QTensor::from_packed(&packed, &device).with_activations(activations);
        let step = |multiply: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let x = Tensor::<2>::from_data(x.clone(), (&device, DType::F32)).require_grad();
            // Three layers, so that something would have to be kept for the way back.
            let y = multiply(multiply(multiply(x.clone()).tanh()).tanh());
            let gradient = x.grad(&y.sum().backward()).expect("x takes part");
            assert!(gradient.abs().sum().into_scalar::<f32>() > 0.0);
        };
        step(&|x| w.matmul(x)); // threads and their buffers
        let packed = most(|| step(&|x| w.matmul(x)));
        assert!(packed < dense / 4, "{activations}: {packed} bytes, of which a dense matrix would be {dense}");
        // What the bound is there to find.
        let decoded = most(|| step(&|x| x.matmul(w.dequantize().transpose())));
        assert!(decoded > dense, "{activations}: {decoded} bytes with matrices that are decoded");
    }
}

/// The layers that a run has finished.
#[derive(Default)]
struct Layers(Vec<Finished>);

impl Journal for Layers {
    fn record(
        &mut self,
        _: usize,
        _: Section,
        layers: &[Finished],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.extend_from_slice(layers);
        Ok(())
    }
}

/// A folder with the network of another one in 5 bits, norms folded; the bytes of its `.lsq` file.
fn in_5_bits(from: &Path, to: &Path) -> usize {
    let mut network = ResNet::open(from, &Device::flex()).unwrap();
    network.fold().unwrap();
    let recipe = "name = \"t\"\n[keep]\nembeddings = false\nhead = false\n[[rules]]\nlayers = \"*\"\ncode = \"slog5\"\n\
        group = 16\nmethod = \"rtn\"\nsearch = \"absmax\"\n";
    let plan = Recipe::from_toml(recipe).unwrap().plan(&network.layers()).unwrap();
    let mut layers = Layers::default();
    run(&mut network, &plan, &[], &mut layers, &mut |_| ControlFlow::Continue(())).unwrap();

    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config[FOLDED] = true.into();
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let file = to.join("model.lsq");
    let (source, mut writer) = (network.source(), Writer::lsq(&file));
    for name in source.names() {
        match layers.0.iter().find(|finished| name.strip_suffix(".weight") == Some(&finished.entry.layer)) {
            Some(finished) => writer.packed(&finished.entry.layer, finished.packed.clone()).unwrap(),
            None => writer.copy(source.as_ref(), name).unwrap(),
        }
    }
    writer.finish().unwrap();
    fs::metadata(file).unwrap().len() as usize
}

/// From the opening of the file to the class of an image, a network takes less than one and a half times its file, beside
/// what one pass through a network that is loaded takes: activations, and the buffers of the products.
#[test]
fn a_network_takes_little_more_than_its_file() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(dense) = data("models/resnet56-cifar10") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = in_5_bits(&dense, folder.path());
    let device = Device::flex();
    let x = Tensor::<4>::ones([1, 3, 32, 32], &device);
    let open = || {
        let mut network = ResNet::open(folder.path(), &device).unwrap();
        network.load_all().unwrap();
        network
    };
    let classify = |network: &ResNet| assert_eq!(network.classify(x.clone()).into_data().num_elements(), 10);
    let network = open();
    classify(&network); // threads and their buffers
    // How much of the work of two threads overlaps differs from time to time: the least of some is comparable.
    let least = |task: &dyn Fn()| (0..10).map(|_| most(task)).min().unwrap_or(0);
    let pass = least(&|| classify(&network));
    drop(network);
    let whole = least(&|| classify(&open()));
    println!("{file} bytes of file, {pass} of a pass, {whole} in all");
    assert!(whole < file * 3 / 2 + pass, "{whole} bytes for a file of {file} and activations of {pass}");
}

/// All pairs of 20,000 vectors would be 1.6 GB on each side, and 400 MB of 10,000. What compares neighbours works through all of them,
/// and so gets fewer and shorter vectors here; its blocks are no larger for more (`crates/metrics/examples/many_points.rs`). Procrustes
/// takes the products of CKA, but faer's threads reserve twice the cache of the machine each, of which they use little.
#[test]
fn metrics_of_many_vectors_take_no_matrix_of_pairs() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::flex();
    let vectors = |points: usize, width: usize, seed| -> Tensor<2> {
        let values = Source::Gaussian.samples(points * width, seed);
        Tensor::from_data(TensorData::new(values, [points, width]), (&device, DType::F32))
    };
    let check = |name: &str, bytes: usize| {
        println!("{name}: {bytes} bytes");
        assert!(bytes < 256 << 20, "{name} took {bytes} bytes");
    };
    let (x, y) = (vectors(20_000, 384, 1), vectors(20_000, 384, 2));
    check("CKA", most(|| assert!(cka(x.clone(), y.clone()).is_some())));
    check("RSA", most(|| assert!(rsa(x.clone(), y.clone(), Pairs::default()).is_some())));
    let (x, y) = (vectors(10_000, 8, 1), vectors(10_000, 8, 2));
    check("neighbours", most(|| assert!(Neighbours::of(x.clone(), 10).chance() > 0.0)));
    check("trustworthiness", most(|| assert!(Preservation::of(x.clone(), y.clone(), 10).chance() > 0.0)));
}
