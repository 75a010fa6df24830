//! The packed product beside Burn's products and those of other libraries, all in one process.
//!
//!     benches/peers/build.sh                                   # ggml, ik_llama.cpp and candle, once
//!     cargo bench --bench kernels                              # 4096x4096, cold weights, a few minutes
//!     cargo bench --bench kernels -- --full --json all.json    # everything, an hour
//!     cargo bench --bench kernels -- --rows 1 --contestant int4,ggml/q4_0
//!
//! Contestants take turns, in another order in each round, and before each turn a buffer larger than the caches is read:
//! its speed is the bandwidth that the turn is compared with, and after it nothing of a weight is in a cache. Within a turn
//! a contestant goes round copies of its weight, except with `--hot`. Each product is checked before it is timed.

mod contestant;
mod host;
mod limits;
mod peer;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use contestant::{Burn, Burns, Contestant, OURS, Ours, Problem};
use host::Host;
use limits::{Stream, median};
use peer::{PEERS, Peer, Peers};
use quench::format::Scheme;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde_json::json;

/// Compares the packed product with Burn's and with those of other libraries.
#[derive(Parser)]
struct Args {
    /// Shapes of the weight, out x in.
    #[arg(long, value_delimiter = ',', default_value = "4096x4096", value_name = "OUTxIN")]
    shape: Vec<Size>,
    /// Rows of the input.
    #[arg(long, value_delimiter = ',', default_value = "1,8,128,512", value_name = "M")]
    rows: Vec<usize>,
    /// Every shape and number of rows of the tables, with hot weights too.
    #[arg(long, conflicts_with_all = ["shape", "rows", "hot", "cold"])]
    full: bool,
    /// Only contestants whose name contains one of these.
    #[arg(long, value_delimiter = ',', value_name = "TEXT")]
    contestant: Vec<String>,
    /// Weights from memory; the default.
    #[arg(long)]
    cold: bool,
    /// The same weight again and again, in a cache if it fits.
    #[arg(long)]
    hot: bool,
    /// How often everybody has a turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of each product; all cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Megabytes of copies of a weight; 320, or less where half of the free memory is not enough for that, if not given.
    #[arg(long, value_name = "MB")]
    footprint: Option<usize>,
    /// Writes all that was measured there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Names the contestants and stops.
    #[arg(long)]
    list: bool,
    /// What cargo says to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

/// `[out, in]`, written `4096x11008`.
#[derive(Clone, Copy)]
struct Size([usize; 2]);

const SHAPES: [Size; 4] = [Size([4096, 4096]), Size([4096, 11008]), Size([11008, 4096]), Size([2048, 2048])];
const ROWS: [usize; 6] = [1, 2, 8, 32, 128, 512];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| text.parse().ok().filter(|&size: &usize| size > 0);
        let sizes = text.split_once('x').and_then(|(n, k)| Some([parse(n)?, parse(k)?]));
        sizes.map(Self).ok_or_else(|| "two sizes such as 4096x11008".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([n, k]) = self;
        write!(f, "{n}x{k}")
    }
}

/// Whether a turn finds its weights in a cache.
#[derive(Clone, Copy, PartialEq)]
enum Caches {
    Cold,
    Hot,
}

impl Caches {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Hot => "hot",
        }
    }
}

type Make = Arc<dyn Fn(&Arc<Problem>) -> Option<Box<dyn Contestant>> + Send + Sync>;

/// Who may take part.
struct Entry {
    /// `ggml/q4_0_repack`: the library first.
    name: String,
    /// Bits of a code.
    bits: u32,
    host: Arc<Host>,
    make: Make,
}

impl Entry {
    fn is_ours(&self) -> bool {
        self.name.starts_with("quench/")
    }
}

/// A contestant that is ready, and its results so far.
struct Starter<'a> {
    entry: &'a Entry,
    /// `None` while its host has it.
    contestant: Option<Box<dyn Contestant>>,
    bytes: usize,
    copies: usize,
    /// The copy that is next.
    next: usize,
    /// The longest that its threads took to go to sleep after a turn.
    rest: Option<Duration>,
}

/// What turns with one number of rows gave.
#[derive(Default)]
struct Times {
    /// Seconds of each product.
    runs: Vec<f64>,
    /// The median of each turn, in seconds, and the bandwidth just before it, in bytes a second.
    turns: Vec<[f64; 2]>,
    /// Seconds of one product, to plan with.
    first: f64,
}

fn main() {
    let args = Args::parse();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = args.threads.unwrap_or(cores).max(1);
    // SAFETY: no other thread runs yet. Rayon's pools, also that in candle's library, and OpenMP read these.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
        std::env::set_var("OMP_NUM_THREADS", threads.to_string());
    }

    let (entries, versions) = entries(&args);
    if args.list {
        entries.iter().for_each(|entry| println!("{}", entry.name));
        return;
    }
    assert!(!entries.is_empty(), "no contestant has such a name; --list shows all");
    let (shapes, rows) = if args.full { (SHAPES.to_vec(), ROWS.to_vec()) } else { (args.shape, args.rows) };
    let caches = match (args.cold, args.hot) {
        (true, true) => vec![Caches::Cold, Caches::Hot],
        (false, true) => vec![Caches::Hot],
        (_, false) if args.full => vec![Caches::Cold, Caches::Hot],
        (_, false) => vec![Caches::Cold],
    };
    assert!(!rows.contains(&0) && args.rounds > 0, "rows and rounds count from 1");

    let ticks = host::ticks();
    let cpu = cpu_name();
    println!("{cpu}, {threads} threads, last cache {} MB", limits::last_cache() >> 20);
    let stream = Stream::new(threads);
    let bandwidth = median((0..7).map(|_| stream.read()).collect());
    println!("  {:<24} {:>8.1} GB/s, {} MB", "memory, read", bandwidth / 1e9, stream.bytes() >> 20);
    let peaks = limits::peaks(threads);
    for peak in &peaks {
        println!("  {:<24} {:>8.0} Gop/s", peak.name, peak.ops / 1e9);
    }

    let footprint = args.footprint.unwrap_or_else(|| footprint(entries.len())) << 20;
    println!("  {:<24} {:>8} MB of each weight", "copies", footprint >> 20);
    let (mut results, mut longest) = (Vec::new(), BTreeMap::new());
    for shape in shapes {
        let most = rows.iter().copied().max().unwrap_or(1);
        let problem = Arc::new(Problem::new(shape.0, most, footprint, threads));
        let (mut starters, first) = prepare(&entries, &problem, &rows);
        for &caches in &caches {
            for &rows in &rows {
                let mut times: Vec<Times> =
                    first.iter().map(|first| Times { first: first[&rows], ..Times::default() }).collect();
                for round in 0..args.rounds {
                    let (state, turn, rounds) = (caches.name(), round + 1, args.rounds);
                    progress(&format!("{shape}, {rows} rows, {state} weights: round {turn} of {rounds}"));
                    take_turns(&mut starters, &mut times, &stream, rows, caches, round);
                }
                progress("");
                results.extend(report(&starters, &times, shape, rows, caches));
            }
        }
        rests(&starters, &mut longest);
        for starter in starters {
            let Starter { entry, contestant, .. } = starter;
            entry.host.call(move || drop(contestant));
        }
    }

    let others = ticks.zip(host::ticks()).map(|([all, own], [all_now, own_now])| {
        let (all, own) = (all_now - all, own_now - own);
        all.saturating_sub(own) as f64 / all.max(1) as f64
    });
    let longest: Vec<String> = longest.iter().map(|(name, rest)| format!("{name} {:.1}", 1e3 * rest)).collect();
    println!("\nLongest wait for threads to sleep after a turn, in ms: {}.", longest.join(", "));
    if let Some(others) = others {
        println!("Other processes had {:.0} % of the CPU time that was used.", 100.0 * others);
    }
    if let Some(path) = args.json {
        let peaks: BTreeMap<_, _> = peaks.iter().map(|peak| (peak.name, peak.ops)).collect();
        let all = json!({
            "cpu": cpu, "threads": threads, "rounds": args.rounds, "footprint": footprint,
            "stream": { "bytes": stream.bytes(), "bytes_per_second": bandwidth }, "peaks": peaks, "peers": versions,
            "others_share_of_cpu_time": others, "results": results,
        });
        fs::write(&path, format!("{all:#}\n")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// All contestants that the arguments ask for, and what the peers say of themselves. Peers that are not there are named.
fn entries(args: &Args) -> (Vec<Entry>, BTreeMap<&'static str, String>) {
    let home = Arc::new(Host::new("quench and burn"));
    let mut entries = Vec::new();
    for (text, modes) in OURS {
        let scheme: Scheme = text.parse().expect("a valid scheme");
        let bits = scheme.code.bits();
        for &activations in modes {
            let name = text.strip_suffix("/f16").unwrap_or(text).replace('/', " g");
            let make: Make = Arc::new(move |problem| Some(Box::new(Ours::new(scheme, activations, problem))));
            entries.push(Entry { name: format!("quench/{name} {activations}"), bits, host: home.clone(), make });
        }
    }
    for (kind, name, bits) in Burn::ALL {
        let make: Make = Arc::new(move |problem| Some(Box::new(Burns::new(kind, problem))));
        entries.push(Entry { name: name.to_owned(), bits, host: home.clone(), make });
    }
    let mut versions = BTreeMap::new();
    for name in PEERS {
        let host = Arc::new(Host::new(name));
        match host.call(move || Peers::load(name)) {
            Err(error) => eprintln!("{name} does not take part (benches/peers/build.sh builds it): {error}"),
            Ok(library) => {
                let library = Arc::new(library);
                versions.insert(name, library.version.clone());
                for kind in library.kinds.clone() {
                    let (name, bits) = (format!("{name}/{kind}"), first_number(&kind));
                    let library = library.clone();
                    let make: Make = Arc::new(move |problem| {
                        Peer::new(&library, &kind, problem).map(|peer| Box::new(peer) as Box<dyn Contestant>)
                    });
                    entries.push(Entry { name, bits, host: host.clone(), make });
                }
            }
        }
    }
    let asked = |name: &str| args.contestant.is_empty() || args.contestant.iter().any(|text| name.contains(text));
    entries.retain(|entry| asked(&entry.name));
    (entries, versions)
}

/// Megabytes of copies that each of so many contestants may have.
fn footprint(contestants: usize) -> usize {
    const ENOUGH: usize = 320;
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    let megabytes = available.and_then(|kilobytes| kilobytes.parse::<usize>().ok()).map(|kilobytes| kilobytes >> 10);
    megabytes.map_or(ENOUGH, |megabytes| (megabytes / 2 / contestants.max(1)).min(ENOUGH))
}

/// The bits of a peer's kind: 4 of `iq4_nl_r4`, 16 of `bf16`.
fn first_number(kind: &str) -> u32 {
    let digits = kind.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or(32)
}

/// Makes the weights of all entries and checks their products; the seconds that one takes, by rows.
fn prepare<'a>(
    entries: &'a [Entry],
    problem: &Arc<Problem>,
    rows: &[usize],
) -> (Vec<Starter<'a>>, Vec<BTreeMap<usize, f64>>) {
    let [n, k] = problem.shape;
    let checked: Vec<Vec<f32>> = problem.checked.iter().map(|&row| problem.w[row * k..][..k].to_vec()).collect();
    let (mut starters, mut firsts) = (Vec::new(), Vec::new());
    for entry in entries {
        progress(&format!("{n}x{k}: preparing {}", entry.name));
        let (make, problem, rows, checked) = (entry.make.clone(), problem.clone(), rows.to_vec(), checked.clone());
        let name = entry.name.clone();
        let made = entry.host.call(move || {
            let mut contestant = make(&problem)?;
            let mut first = BTreeMap::new();
            for rows in rows {
                let y = contestant.result(0, rows);
                let start = Instant::now();
                contestant.run(0, rows);
                first.insert(rows, start.elapsed().as_secs_f64());
                let error = problem.error(&y, rows, contestant.weight().unwrap_or(&checked));
                assert!(error < 0.2, "{name}: relative error {error} with {rows} rows");
            }
            // Some lay a weight out anew at its first product. Who is slow even with the fewest rows does not.
            if first.values().next().is_some_and(|&seconds| seconds < 0.05) {
                (0..contestant.copies()).for_each(|copy| contestant.run(copy, 1));
            }
            contestant.rest();
            Some((contestant, first))
        });
        let Some((contestant, first)) = made else {
            progress("");
            eprintln!("{} does not take part: nothing for this CPU or shape", entry.name);
            continue;
        };
        let (bytes, copies) = (contestant.bytes(), contestant.copies());
        starters.push(Starter { entry, contestant: Some(contestant), bytes, copies, next: 0, rest: None });
        firsts.push(first);
    }
    progress("");
    (starters, firsts)
}

/// One round: a turn for everybody, in an order of its own.
fn take_turns(
    starters: &mut [Starter],
    times: &mut [Times],
    stream: &Stream,
    rows: usize,
    caches: Caches,
    round: usize,
) {
    /// How long the timed products of a turn take together, about.
    const TURN: f64 = 0.03;
    /// Products longer than this are not worth a place in every round.
    const LONG: f64 = 0.1;

    let mut order: Vec<usize> = (0..starters.len()).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(round as u64 ^ 0x5eed));
    for i in order {
        let (starter, times) = (&mut starters[i], &mut times[i]);
        if times.first > LONG && round >= 2 {
            continue;
        }
        host::wait_for_rest();
        let bandwidth = stream.read();
        let mut contestant = starter.contestant.take().expect("it is back from its last turn");
        let (first, copies, next) = (times.first, starter.copies, starter.next);
        let (contestant, runs, next) = starter.entry.host.call(move || {
            let mut next = next;
            let mut product = || {
                if caches == Caches::Cold {
                    next = (next + 1) % copies;
                }
                let start = Instant::now();
                contestant.run(next, rows);
                start.elapsed().as_secs_f64()
            };
            let warm = if first < TURN / 3.0 { (copies / 4).clamp(1, 3) } else { usize::from(first < LONG) };
            for _ in 0..warm {
                product();
            }
            // No weight twice in a turn, or it is not cold.
            let most = if caches == Caches::Cold { copies.saturating_sub(warm).max(1) } else { usize::MAX };
            let start = Instant::now();
            let mut runs = vec![product()];
            while runs.len() < most && start.elapsed().as_secs_f64() < TURN {
                runs.push(product());
            }
            contestant.rest();
            (contestant, runs, next)
        });
        starter.contestant = Some(contestant);
        starter.next = next;
        let rest = host::wait_for_rest();
        if rest.is_none() {
            progress("");
            eprintln!("the threads of {} do not sleep after its turn", starter.entry.name);
        }
        starter.rest = starter.rest.max(rest);
        times.turns.push([median(runs.clone()), bandwidth]);
        times.runs.extend(runs);
    }
}

/// The longest that the threads of each library took to sleep, in seconds.
fn rests<'a>(starters: &[Starter<'a>], longest: &mut BTreeMap<&'a str, f64>) {
    for starter in starters {
        let library = starter.entry.name.split('/').next().unwrap_or_default();
        let longest = longest.entry(library).or_insert(0.0);
        *longest = longest.max(starter.rest.unwrap_or_default().as_secs_f64());
    }
}

/// Prints the table of one shape, number of rows and state of the caches, fastest first, and gives its lines for the file.
fn report(starters: &[Starter], times: &[Times], shape: Size, rows: usize, caches: Caches) -> Vec<serde_json::Value> {
    let Size([n, k]) = shape;
    let operations = 2.0 * n as f64 * k as f64 * rows as f64;
    let medians: Vec<f64> = times.iter().map(|times| median(times.runs.clone())).collect();
    let bandwidths: Vec<f64> = times.iter().flat_map(|times| times.turns.iter().map(|turn| turn[1])).collect();
    println!(
        "\n{shape}, {rows} row{}, {} weights; memory read at {:.1} GB/s (median of {})",
        if rows == 1 { "" } else { "s" },
        caches.name(),
        median(bandwidths.clone()) / 1e9,
        bandwidths.len(),
    );
    println!(
        "  {:<24} {:>10} {:>10} {:>7} {:>9} {:>6}  against the best other library of no fewer bits",
        "", "median us", "best us", "GB/s", "GFLOP/s", "of BW"
    );

    let mut order: Vec<usize> = (0..starters.len()).filter(|&i| !times[i].runs.is_empty()).collect();
    order.sort_by(|&i, &j| medians[i].total_cmp(&medians[j]));
    let mut lines = Vec::new();
    for i in order.iter().copied() {
        let (starter, times) = (&starters[i], &times[i]);
        let rate = starter.bytes as f64 / medians[i];
        let share = median(times.turns.iter().map(|[seconds, bytes]| starter.bytes as f64 / seconds / bytes).collect());
        let best = times.turns.iter().map(|turn| turn[0]).fold(f64::INFINITY, f64::min);
        let library = |i: usize| starters[i].entry.name.split('/').next();
        let rival = order.iter().copied().find(|&j| {
            let other = starters[j].entry;
            !other.is_ours() && library(i) != library(j) && other.bits >= starter.entry.bits
        });
        let against = rival.map(|j| (medians[j] / medians[i], starters[j].entry.name.as_str()));
        println!(
            "  {:<24} {:>10.1} {:>10.1} {:>7.1} {:>9.1} {:>5.0}%  {}",
            starter.entry.name,
            medians[i] * 1e6,
            best * 1e6,
            rate / 1e9,
            operations / medians[i] / 1e9,
            100.0 * share,
            against.map_or(String::new(), |(ratio, name)| format!("{ratio:5.2} x {name}")),
        );
        lines.push(json!({
            "shape": [n, k], "rows": rows, "weights": caches.name(), "contestant": starter.entry.name,
            "bits": starter.entry.bits, "bytes": starter.bytes, "copies": starter.copies, "runs": times.runs.len(),
            "median_seconds": medians[i], "best_turn_seconds": best, "share_of_bandwidth": share,
            "turns": times.turns.iter().map(|[seconds, bytes]| json!({ "median_seconds": seconds, "stream_bytes_per_second": bytes })).collect::<Vec<_>>(),
            "best_other": against.map(|(ratio, name)| json!({ "contestant": name, "times_as_fast": ratio })),
            "longest_rest_seconds": starter.rest.map(|rest| rest.as_secs_f64()),
        }));
    }
    lines
}

/// A line that the next one replaces, for a person who waits.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{text:70}\r{text}");
    }
}

fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "unknown CPU".to_owned(), |(_, name)| name.trim().to_owned())
}
