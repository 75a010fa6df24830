//! Threads that call contestants: one for each library, since libraries keep things in the thread that calls them (the
//! configuration of AMX tiles, a team of OpenMP threads) and would find each other's.

use std::fs;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does what it is told, one thing after the other.
pub struct Host {
    jobs: Sender<Job>,
}

impl Host {
    /// A thread with this name.
    pub fn new(name: &str) -> Self {
        let (jobs, received) = channel::<Job>();
        let body = move || received.into_iter().for_each(|job| job());
        thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread");
        Self { jobs }
    }

    /// Does `job` on the thread and waits for it.
    ///
    /// # Panics
    ///
    /// If `job` does.
    pub fn call<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, answered) = channel();
        let job = Box::new(move || drop(answer.send(job())));
        self.jobs.send(job).expect("the thread waits for jobs");
        answered.recv().expect("a contestant panicked")
    }
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    unsafe extern "C" {
        // In microseconds, as POSIX has it.
        safe fn clock() -> std::ffi::c_long;
    }
    Duration::from_micros(clock() as u64)
}

/// Waits until no thread of this process runs: pools look for work in a loop for a while before they sleep, and would
/// take the CPU from the next contestant. How long that took; `None` if they do not sleep within a second.
pub fn wait_for_rest() -> Option<Duration> {
    const LOOK: Duration = Duration::from_millis(2);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let (cpu, looked) = (cpu_time(), Instant::now());
        thread::sleep(LOOK);
        if cpu_time() - cpu < looked.elapsed() / 20 {
            return Some(start.elapsed() - LOOK);
        }
    }
    None
}

/// CPU time of all processes and of this one, in ticks; `None` where Linux does not tell.
pub fn ticks() -> Option<[u64; 2]> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|f| f.parse().ok()).collect();
    // user, nice, system, idle, waiting, interrupts of two kinds, stolen
    let all = fields.iter().take(8).sum::<u64>() - fields.get(3)? - fields.get(4)?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    let own: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
    Some([all, own.get(11)?.parse::<u64>().ok()? + own.get(12)?.parse::<u64>().ok()?])
}
