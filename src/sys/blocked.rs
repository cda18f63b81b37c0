//! How long the calling thread was kept waiting by the kernel.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use nix::{
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};

/// Reads the scheduler's counters of one thread (`/proc/thread-self/schedstat`, proc(5)).
#[derive(Debug)]
pub struct ThreadTimes(File);

/// The counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: Instant,
    /// Time on a processor.
    ran: Duration,
    /// Time in a run queue, ready to run.
    queued: Duration,
    /// How often it waited in a call.
    waits: i64,
}

impl ThreadTimes {
    /// Opens the counters of the calling thread.
    ///
    /// # Errors
    /// The errno of `open(2)`: `ENOENT` for a kernel without `CONFIG_SCHED_INFO`.
    pub fn of_this_thread() -> io::Result<Self> {
        File::open("/proc/thread-self/schedstat").map(Self)
    }

    /// The counters now. `None` if the kernel does not tell them.
    pub fn sample(&self) -> Option<Sample> {
        let mut text = [0; 80];
        let length = self.0.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        let queued = text.split(' ').nth(1)?.parse().ok()?;
        let ran = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
        Some(Sample {
            at: Instant::now(),
            ran: ran.into(),
            queued: Duration::from_nanos(queued),
            waits: getrusage(UsageWho::RUSAGE_THREAD)
                .ok()?
                .voluntary_context_switches(),
        })
    }
}

impl Sample {
    /// How long the thread was blocked since `earlier`: neither on a processor nor ready to run. Zero if it waited in
    /// no call: then a hypervisor took the time.
    pub fn blocked_since(&self, earlier: &Self) -> Duration {
        if self.waits == earlier.waits {
            return Duration::ZERO;
        }
        let busy =
            self.ran.saturating_sub(earlier.ran) + self.queued.saturating_sub(earlier.queued);
        self.at.duration_since(earlier.at).saturating_sub(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(start: &Sample, at: u32, ran: u32, queued: u32, waits: i64) -> Sample {
        Sample {
            at: start.at + MS * at,
            ran: start.ran + MS * ran,
            queued: start.queued + MS * queued,
            waits: start.waits + waits,
        }
    }

    #[test]
    fn counts_waiting_but_not_computing() {
        let start = ThreadTimes::of_this_thread().unwrap().sample().unwrap();
        let blocked =
            |at, ran, queued, waits| after(&start, at, ran, queued, waits).blocked_since(&start);
        assert_eq!(blocked(60, 0, 0, 1), MS * 60);
        assert_eq!(blocked(60, 50, 10, 1), Duration::ZERO);
        assert_eq!(blocked(60, 20, 10, 2), MS * 30);
        // Taken by the hypervisor: the thread waited in no call.
        assert_eq!(blocked(60, 20, 10, 0), Duration::ZERO);
        // The counters are read one after another, so the parts can exceed the whole.
        assert_eq!(blocked(60, 55, 10, 1), Duration::ZERO);
    }

    #[test]
    fn the_kernel_counts_what_this_thread_did() {
        let times = ThreadTimes::of_this_thread().unwrap();
        let before = times.sample().unwrap();
        std::thread::sleep(MS);
        let slept = times.sample().unwrap();
        assert!(slept.waits > before.waits);
        while times.sample().unwrap().ran < slept.ran + MS {
            std::hint::spin_loop();
        }
    }
}
