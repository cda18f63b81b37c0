//! How much a worker can make the log say.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::warn;

use rcluster_core::{ipc::bounds::MAX_LINES, supervisor::WorkerId};

/// The time in which [`MAX_LINES`] count.
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

/// The log lines that each worker caused lately.
#[derive(Debug, Default)]
pub(super) struct Chatter(HashMap<WorkerId, Said>);

impl Chatter {
    /// Whether one more line may be logged for what this worker did. The first line of the next window is
    /// preceded by the count of those that were not.
    pub(super) fn may(&mut self, id: WorkerId) -> bool {
        self.may_at(id, Instant::now())
    }

    fn may_at(&mut self, id: WorkerId, now: Instant) -> bool {
        let said = self.0.entry(id).or_insert(Said {
            since: now,
            lines: 0,
            suppressed: 0,
        });
        if now.duration_since(said.since) >= WINDOW {
            report(id, said.suppressed);
            *said = Said {
                since: now,
                lines: 0,
                suppressed: 0,
            };
        }
        if said.lines >= MAX_LINES {
            said.suppressed += 1;
            return false;
        }
        said.lines += 1;
        true
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, id: WorkerId) {
        if let Some(said) = self.0.remove(&id) {
            report(id, said.suppressed);
        }
    }
}

fn report(id: WorkerId, suppressed: u64) {
    if suppressed > 0 {
        warn!(
            event = "worker_lines_suppressed",
            worker = %id,
            lines = suppressed,
            "the worker caused more log lines than {MAX_LINES} in 10 s; the rest is only counted"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_a_number_of_lines_in_a_window() {
        let (mut chatter, start) = (Chatter::default(), Instant::now());
        let mut may = |id, ms| chatter.may_at(WorkerId(id), start + Duration::from_millis(ms));
        let granted = (0..100).filter(|n| may(1, *n)).count();
        assert_eq!(granted, MAX_LINES as usize);
        assert!(may(2, 100), "another worker has its own");
        assert!(!may(1, 9_999) && may(1, 10_000));
        chatter.forget(WorkerId(1));
        assert_eq!(chatter.0.len(), 1);
    }
}
