//! How the columns of an output are shared among threads.
//!
//! Long work goes to rayon's pool. Work of some tenths of a millisecond, a product with one row, is done by the thread that asks
//! for it together with *helpers*, one fewer than rayon has threads, which stay awake for a moment after each product and
//! wait for the next one: a thread that must be woken begins too late to be of use.

use std::iter::repeat_with;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

/// How the columns of an output are shared.
pub(crate) struct Columns {
    /// All of them.
    pub out: usize,
    /// Columns that stay together, a unit.
    pub width: usize,
    /// Products that each element sums up.
    pub k: usize,
    /// Most columns of a task.
    pub most: usize,
    /// Whether it takes less than some milliseconds, so that waking threads counts.
    pub short: bool,
}

/// Products of so few operations are not worth the way to another thread: some microseconds.
const ALONE: usize = 1 << 18;

/// Shares the columns of `y` `[.., out]` among threads: runs `task` for ranges of units that make them up, with the part of
/// every row of `y` that is theirs.
pub(crate) fn share(columns: Columns, y: &mut [f32], task: impl Fn(Range<usize>, &mut [&mut [f32]]) + Sync) {
    let Columns { out, width, k, most, short } = columns;
    let units = out.div_ceil(width);
    let threads = rayon::current_num_threads();
    let alone = threads == 1 || y.len().saturating_mul(k) < ALONE;
    let most = (most / width).max(1);
    // Some more parts than threads even out what each of them gets; short work pays for each place where it begins to read.
    let per_thread = if short { 2 } else { 4 };
    let per_task = if alone { most } else { most.min(units.div_ceil(per_thread * threads)) }.max(1);
    let rows = y.len() / out;
    let mut parts: Vec<Vec<&mut [f32]>> =
        repeat_with(|| Vec::with_capacity(rows)).take(units.div_ceil(per_task)).collect();
    for row in y.chunks_exact_mut(out) {
        for (part, to) in parts.iter_mut().zip(row.chunks_mut(per_task * width)) {
            part.push(to);
        }
    }
    let run = |(p, mut to): (usize, Vec<&mut [f32]>)| task(p * per_task..units.min((p + 1) * per_task), &mut to);
    if alone {
        return parts.into_iter().enumerate().for_each(run);
    }
    // A thread of a pool is not asked to wait for others: it may be one of those who are needed.
    match HELPERS.as_ref().filter(|_| short && rayon::current_thread_index().is_none()) {
        None => parts.into_par_iter().enumerate().with_max_len(1).for_each(run),
        Some(helpers) => {
            let parts = Mutex::new(parts.into_iter().enumerate());
            helpers.together(|| {
                loop {
                    let Some(part) = parts.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
                    run(part);
                }
            });
        }
    }
}

/// None where rayon has a single thread, or no more can be had.
static HELPERS: LazyLock<Option<Helpers>> = LazyLock::new(|| Helpers::new(rayon::current_num_threads() - 1));

/// Threads that help with short work.
struct Helpers {
    pool: ThreadPool,
    threads: usize,
    start: Instant,
    /// When there was work, in nanoseconds after the start.
    last: AtomicU64,
    /// For each thread whether it waits for work, awake.
    awake: Vec<AtomicBool>,
}

/// How long a helper stays awake: longer than a model takes between two of its products.
const AWAKE: Duration = Duration::from_micros(200);

impl Helpers {
    fn new(threads: usize) -> Option<Self> {
        if threads == 0 {
            return None;
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("quench-{i}")).build().ok()?;
        let awake = repeat_with(|| AtomicBool::new(false)).take(threads).collect();
        Some(Self { pool, threads, start: Instant::now(), last: AtomicU64::new(0), awake })
    }

    /// Runs `work` on the calling thread and on all helpers, and returns when each has returned.
    fn together(&'static self, work: impl Fn() + Sync) {
        let done = AtomicUsize::new(0);
        self.pool.in_place_scope(|scope| {
            scope.spawn_broadcast(|_, _| {
                work();
                done.fetch_add(1, Ordering::Release);
            });
            work();
            // Others end in a moment: sooner than a thread that goes to sleep until then would be awake again.
            let start = Instant::now();
            while done.load(Ordering::Acquire) < self.threads && start.elapsed() < AWAKE {
                // Perhaps one of them waits for this very core.
                thread::yield_now();
            }
            // And a last moment for the pool to see it.
            for _ in 0..LAST_MOMENT {
                std::hint::spin_loop();
            }
        });
        self.last.store(self.now(), Ordering::Relaxed);
        if self.awake.iter().any(|awake| !awake.load(Ordering::Relaxed)) {
            self.pool.spawn_broadcast(|context| self.stay_awake(&self.awake[context.index()]));
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Does what there is to do, until there was nothing for a while.
    fn stay_awake(&self, awake: &AtomicBool) {
        if awake.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut idle = self.now();
        loop {
            if rayon::yield_now() == Some(Yield::Executed) {
                idle = self.now();
                continue;
            }
            let now = self.now();
            if now.saturating_sub(self.last.load(Ordering::Relaxed)) > AWAKE.as_nanos() as u64 {
                break;
            }
            // Others may want this core; but who gives way at once comes back too late for the next of many products.
            match now - idle < PATIENCE.as_nanos() as u64 {
                true => std::hint::spin_loop(),
                false => thread::yield_now(),
            }
        }
        awake.store(false, Ordering::Relaxed);
    }
}

/// How long a helper keeps its core to itself.
const PATIENCE: Duration = Duration::from_micros(20);
/// Turns of waiting.
const LAST_MOMENT: usize = 16;
