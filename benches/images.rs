//! Residual networks with packed convolutions beside the same networks with dense ones.
//!
//!     cargo bench --bench images                                      # all networks, two or three minutes
//!     cargo bench --bench images -- --network resnet56 --batch 1
//!
//! Weights are random and norms are folded. Contestants take turns, in another order in each round; a turn is as many passes
//! as take some milliseconds, and what is shown is the median over the rounds. The first convolution and the head are
//! dense in every contestant. Each is checked before it is timed: against its own decoded weights, in f32.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use clap::Parser;
use quench::checkpoint::{CheckpointError, Dtype, Source, TensorInfo, TensorView};
use quench::kernels::Activations;
use quench::models::{Layout, ResNet, ResNetConfig};
use quench::nn::{Model, Weight};
use quench::quantize::{Recipe, run};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Compares packed with dense convolutions.
#[derive(Parser)]
struct Args {
    /// Networks.
    #[arg(long, value_delimiter = ',', default_value = "resnet20,resnet56,resnet18")]
    network: Vec<String>,
    /// Images at once.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    batch: Vec<usize>,
    /// Codes and groups.
    #[arg(long, value_delimiter = ',', default_value = "slog5/16,slog5/64,int4/32,int8/64")]
    scheme: Vec<String>,
    /// In which precision packed products read their input.
    #[arg(long, default_value = "int8")]
    activations: Activations,
    /// How often everybody has a turn.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// What cargo says to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The least that a turn takes.
const TURN: Duration = Duration::from_millis(40);

fn main() {
    let args = Args::parse();
    let device = Device::flex();
    println!("| network | batch | weights | median, ms | dense / it |\n| --- | ---: | --- | ---: | ---: |");
    for name in &args.network {
        let config = config(name);
        let [height, width] = config.input.size;
        let dense = network(config, &device);
        let mut contestants = vec![("dense f32".to_owned(), dense.clone())];
        contestants.extend(args.scheme.iter().map(|scheme| (scheme.clone(), packed(&dense, scheme, args.activations))));
        for &batch in &args.batch {
            let x = Tensor::random([batch, 3, height, width], Distribution::Normal(0.0, 1.0), &device);
            let medians = medians(&contestants, &x, args.rounds);
            for ((weights, _), median) in contestants.iter().zip(&medians) {
                let ratio = medians[0] / median;
                println!("| {name} | {batch} | {weights} | {:.3} | {ratio:.2} |", 1e3 * median);
            }
        }
    }
}

/// Seconds of a pass of each contestant.
fn medians(contestants: &[(String, ResNet)], x: &Tensor<4>, rounds: usize) -> Vec<f64> {
    let pass = |network: &ResNet| black_box(network.classify(x.clone()).into_data());
    let passes: Vec<usize> = contestants
        .iter()
        .map(|(_, network)| {
            pass(network);
            let start = Instant::now();
            pass(network);
            (TURN.as_secs_f64() / start.elapsed().as_secs_f64()).ceil().max(1.0) as usize
        })
        .collect();
    let mut times = vec![Vec::new(); contestants.len()];
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let who = (turn + round) % contestants.len();
            let start = Instant::now();
            (0..passes[who]).for_each(|_| drop(pass(&contestants[who].1)));
            times[who].push(start.elapsed().as_secs_f64() / passes[who] as f64);
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

/// A network whose norms are folded.
fn config(name: &str) -> ResNetConfig {
    let depth = name.strip_prefix("resnet").and_then(|depth| depth.parse().ok()).unwrap_or(0);
    let config = ResNetConfig::cifar(depth).or_else(|| ResNetConfig::torchvision(depth));
    ResNetConfig { folded: true, ..config.unwrap_or_else(|| panic!("no network {name}")) }
}

fn network(config: ResNetConfig, device: &Device) -> ResNet {
    let source = Arc::new(Random::new(&config));
    let mut network = ResNet::new(config, source, device).expect("every tensor is there");
    network.load_all().expect("numbers");
    network
}

/// The network with its blocks packed, and checked.
fn packed(dense: &ResNet, scheme: &str, activations: Activations) -> ResNet {
    let (code, group) = scheme.split_once('/').unwrap_or((scheme, "row"));
    let group = if group.parse::<u32>().is_ok() { group.to_owned() } else { format!("\"{group}\"") };
    let recipe = format!(
        "name = \"images\"\n[[rules]]\nlayers = \"*\"\ncode = \"{code}\"\ngroup = {group}\nmethod = \"rtn\"\nsearch = \"absmax\"\n"
    );
    let plan = Recipe::from_toml(&recipe).and_then(|recipe| recipe.plan(&dense.layers())).expect("a scheme");
    let mut network = dense.clone();
    run(&mut network, &plan, &[], &mut (), &mut |_| ControlFlow::Continue(())).expect("finite weights");
    network.load_all().expect("numbers");
    network.set_activations(activations);

    let mut decoded = network.clone();
    for section in decoded.sections() {
        for part in decoded.open(section).into_iter().filter(|part| part.weight.is_quantized()) {
            *part.weight = Weight::dense(part.weight.val());
        }
    }
    let [height, width] = dense.config().input.size;
    let x = Tensor::random([2, 3, height, width], Distribution::Normal(0.0, 1.0), dense.device());
    let [y, expected] = [network.classify(x.clone()), decoded.classify(x)];
    let part: f32 = ((y - expected.clone()).square().sum() / expected.square().sum()).sqrt().into_scalar();
    assert!(part < 0.05, "{scheme}: {part} of the output is wrong");
    network
}

/// Random weights of a network.
struct Random {
    shapes: BTreeMap<String, Vec<usize>>,
    metadata: BTreeMap<String, String>,
}

impl Random {
    fn new(config: &ResNetConfig) -> Self {
        let mut shapes = BTreeMap::new();
        let mut add = |name: String, shape: Vec<usize>| {
            shapes.insert(format!("{name}.bias"), vec![shape[0]]);
            shapes.insert(format!("{name}.weight"), shape);
        };
        let mut channels = config.widths[0];
        let (stem, head) = match config.layout {
            Layout::Cifar => (3, "linear"),
            Layout::Torchvision => (7, "fc"),
        };
        add("conv1".to_owned(), vec![channels, 3, stem, stem]);
        for (stage, (&width, &count)) in config.widths.iter().zip(&config.blocks).enumerate() {
            for place in 0..count {
                let at = format!("layer{}.{place}", stage + 1);
                let output = width * config.unit.expansion();
                let units = match config.unit.expansion() {
                    1 => vec![[width, channels, 3], [width, width, 3]],
                    _ => vec![[width, channels, 1], [width, width, 3], [output, width, 1]],
                };
                for (index, [out, input, kernel]) in units.into_iter().enumerate() {
                    add(format!("{at}.conv{}", index + 1), vec![out, input, kernel, kernel]);
                }
                if config.layout == Layout::Torchvision && place == 0 && (stage > 0 || channels != output) {
                    add(format!("{at}.downsample.0"), vec![output, channels, 1, 1]);
                }
                channels = output;
            }
        }
        add(head.to_owned(), vec![config.classes, channels]);
        Self { shapes, metadata: BTreeMap::new() }
    }
}

impl Source for Random {
    fn names(&self) -> Vec<&str> {
        self.shapes.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.shapes.get(name).map(|shape| TensorInfo { dtype: Dtype::F32, shape: shape.clone() })
    }

    /// Uniform, of a variance with which what goes through neither grows nor dies.
    fn tensor(&self, name: &str) -> Result<TensorView, CheckpointError> {
        let shape = self.shapes[name].clone();
        let bound = (3.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
        let mut random = SmallRng::seed_from_u64(name.bytes().map(u64::from).sum());
        let values = (0..shape.iter().product()).map(|_| random.random_range(-bound..=bound));
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        TensorView::owned(self.path(), name, Dtype::F32, shape, bytes)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        Path::new("random")
    }
}
