//! The clock behind [`Time`]: monotonic, less the master's own pauses.

use std::time::Duration;

use tokio::time::Instant;

use crate::supervisor::Time;

/// Being this late means that the master itself stood still (SIGSTOP, suspend,
/// a starved machine), not that a worker was slow.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts the master's running time.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    paused: Duration,
    planned: Option<Instant>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            paused: Duration::ZERO,
            planned: None,
        }
    }

    pub(super) fn now(&self) -> Time {
        let elapsed = self.start.elapsed().saturating_sub(self.paused);
        Time(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    /// When a deadline comes, and notes that the loop means to wake by then.
    pub(super) fn plan(&mut self, deadline: Option<Time>) -> Option<Instant> {
        self.planned = deadline.map(|d| self.start + self.paused + Duration::from_millis(d.0));
        self.planned
    }

    /// To be called at each wake-up. Time by which the loop overslept does not
    /// count: nobody is late because the master was. Returns the pause.
    pub(super) fn woke(&mut self) -> Option<Duration> {
        let late = Instant::now().saturating_duration_since(self.planned?);
        (late > PAUSE).then(|| {
            self.paused += late;
            late
        })
    }
}
