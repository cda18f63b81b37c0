//! A handle on a running load.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

/// Name of the phase that a load begins in.
pub(super) const QUIET: &str = "quiet";

/// Stops a load, marks its phases, tells how far it is. Clones speak of the same load; usable from any thread. May be shared by
/// several loads.
#[derive(Clone, Debug)]
pub struct Control(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stop: watch::Sender<bool>,
    /// Index of the last mark.
    epoch: AtomicUsize,
    marks: Mutex<Vec<(Instant, String)>>,
    done: AtomicU64,
    lost: AtomicU64,
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl Control {
    /// A handle for a new load, in the phase `quiet`.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            stop: watch::Sender::new(false),
            epoch: AtomicUsize::new(0),
            marks: Mutex::new(vec![(Instant::now(), QUIET.into())]),
            done: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }))
    }

    /// No new requests. Those under way are still waited for, so that each gets its class.
    pub fn stop(&self) {
        self.0.stop.send_replace(true);
    }

    /// From now on requests belong to this phase (`quiet` is the one at the start). A request that touches several phases
    /// belongs to the first one that is not `quiet`: what a reload disturbs is the reload's.
    pub fn mark(&self, phase: &str) {
        let mut marks = self.marks();
        marks.push((Instant::now(), phase.into()));
        self.0.epoch.store(marks.len() - 1, Ordering::Release);
    }

    /// Requests that have got their class so far.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Requests lost so far.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Resolves at [`Control::stop`].
    pub(super) async fn stopped(&self) {
        // Cannot fail: the sender lives in self.
        drop(self.0.stop.subscribe().wait_for(|stop| *stop).await);
    }

    pub(super) fn epoch(&self) -> usize {
        self.0.epoch.load(Ordering::Acquire)
    }

    pub(super) fn marks(&self) -> MutexGuard<'_, Vec<(Instant, String)>> {
        self.0.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_done(&self) {
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_lost(&self) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
    }
}
