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
    /// For each load that has begun, its [`UnderWay::oldest`].
    oldest: Mutex<Vec<Arc<AtomicUsize>>>,
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
            oldest: Mutex::new(Vec::new()),
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
        self.0.epoch.store(marks.len() - 1, Ordering::SeqCst);
    }

    /// Whether each request that began before the last mark has got its class: what happens from now on can touch no request of an
    /// earlier phase.
    pub fn settled(&self) -> bool {
        let epoch = self.epoch();
        let oldest = self.0.oldest.lock();
        let oldest = oldest.unwrap_or_else(PoisonError::into_inner);
        oldest.iter().all(|o| o.load(Ordering::SeqCst) >= epoch)
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
        self.0.epoch.load(Ordering::SeqCst)
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

/// How many requests of one load are under way, by the epoch in which they began.
#[derive(Debug)]
pub(super) struct UnderWay {
    by_epoch: Vec<u64>,
    /// The first epoch of which there are some; `usize::MAX` if there are none.
    oldest: Arc<AtomicUsize>,
}

impl UnderWay {
    pub(super) fn new(control: &Control) -> Self {
        let oldest = Arc::new(AtomicUsize::new(usize::MAX));
        let all = control.0.oldest.lock();
        all.unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&oldest));
        Self {
            by_epoch: Vec::new(),
            oldest,
        }
    }

    /// One more; returns its epoch.
    pub(super) fn begin(&mut self, control: &Control) -> usize {
        let mut epoch = control.epoch();
        if self.oldest.load(Ordering::Relaxed) > epoch {
            // Told before the epoch is certain: `settled` must not miss a request that begins while somebody marks.
            loop {
                self.oldest.store(epoch, Ordering::SeqCst);
                let now = control.epoch();
                if now == epoch {
                    break;
                }
                epoch = now;
            }
        }
        if self.by_epoch.len() <= epoch {
            self.by_epoch.resize(epoch + 1, 0);
        }
        self.by_epoch[epoch] += 1;
        epoch
    }

    /// One that began in this epoch has got its class.
    pub(super) fn end(&mut self, epoch: usize) {
        self.by_epoch[epoch] -= 1;
        if self.by_epoch[epoch] == 0 && self.oldest.load(Ordering::Relaxed) == epoch {
            let mut rest = self.by_epoch.iter().skip(epoch);
            let oldest = rest.position(|n| *n > 0).map_or(usize::MAX, |n| epoch + n);
            self.oldest.store(oldest, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_when_all_that_began_before_the_mark_have_ended() {
        let control = Control::new();
        let mut one = UnderWay::new(&control);
        let mut two = UnderWay::new(&control);
        assert!(control.settled());
        let (a, b) = (one.begin(&control), two.begin(&control));
        assert!(
            control.settled(),
            "nothing began before the mark at the start"
        );
        control.mark("reload");
        assert!(!control.settled());
        one.end(a);
        let c = one.begin(&control);
        assert!(!control.settled(), "the other load has one left");
        two.end(b);
        assert!(control.settled());
        control.mark("quiet");
        assert!(!control.settled());
        let d = one.begin(&control);
        one.end(d);
        assert!(!control.settled(), "the older one is still under way");
        one.end(c);
        assert!(control.settled());
    }
}
