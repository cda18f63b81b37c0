//! The guard while the master runs: one that ends is started again, spaced as a slot's restarts are.

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::effects::World;
use rcluster_core::supervisor::{Backoff, Death, Exit, Supervisor, Terms, Time, WorkerId};
use rcluster_sys::guard::{Grace, Guard};

/// No two guards run at once: there is nobody to come back together with.
const NO_JITTER: u8 = 255;

/// When the guard is started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Guarding {
    backoff: Backoff,
    /// When the present guard was started, or the last one.
    since: Time,
    /// `None` while one runs.
    due: Option<Time>,
}

impl Guarding {
    /// The guard ended; returns how many milliseconds there will be none.
    fn ended(&mut self, now: Time) -> u64 {
        let lived = Some(now.since(self.since));
        self.wait(now, lived)
    }

    fn wait(&mut self, now: Time, lived: Option<std::time::Duration>) -> u64 {
        let delay = self.backoff.died(now, lived, Death::Own, NO_JITTER);
        self.due = Some(self.backoff.not_before());
        u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
    }

    fn started(&mut self, now: Time) {
        self.since = now;
        self.due = None;
    }

    /// There is no guard, for whatever reason: one is wanted as soon as it may be.
    pub(super) fn miss(&mut self) {
        self.due.get_or_insert_default();
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.due
    }
}

/// How long a worker may live on if the master is killed.
pub(super) fn grace(terms: &Terms) -> Grace {
    let (drain, stop) = terms.orphan_graces();
    Grace { drain, stop }
}

/// The same of a worker that runs, by what it was told at its start.
pub(super) fn grace_of(id: WorkerId, supervisor: &Supervisor) -> Grace {
    let worker = supervisor.worker(id);
    let terms = worker.map_or_else(|| supervisor.policy().terms(), |w| supervisor.terms(w));
    grace(&terms)
}

impl World {
    pub(super) fn guard_ended(&mut self, exit: Exit, now: Time, supervisor: &Supervisor) {
        self.guard = None;
        let retry_ms = self.guarding.ended(now);
        warn!(%exit, retry_ms, event = "guard_ended", "the guard ended; it is started again");
        self.keep_guard(now, supervisor);
    }

    /// Starts the guard if there is none and it is time to.
    pub(super) fn keep_guard(&mut self, now: Time, supervisor: &Supervisor) {
        if self.guarding.due().is_none_or(|due| due > now) {
            return;
        }
        let path = self.config.control.with_extension("guard");
        self.reserve.lend();
        let started = Guard::start(&path, self.config.policy.orphan_grace());
        self.reserve.refill();
        match started {
            Ok(mut guard) => {
                for (pid, id) in &self.pids {
                    // Its end is noticed as any child's.
                    let _ = guard.add(*pid, grace_of(*id, supervisor));
                }
                info!(
                    pid = guard.pid().0,
                    event = "guard_started",
                    "the guard runs again"
                );
                self.guard = Some(guard);
                self.guarding.started(now);
            }
            Err(error) => {
                let retry_ms = self.guarding.wait(now, None);
                warn!(%error, retry_ms, event = "guard_failed", "failed to start the guard: if the master is killed now, a worker that hangs outlives it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_that_dies_at_once_is_started_ever_more_rarely() {
        let mut guarding = Guarding::default();
        let mut now = Time(0);
        let mut delays = vec![];
        for _ in 0..11 {
            delays.push(guarding.ended(now));
            now = guarding.due().unwrap();
            guarding.started(now);
            assert_eq!(guarding.due(), None);
        }
        assert_eq!(delays[..5], [0, 100, 200, 400, 800]);
        assert_eq!(delays[10], 30_000);
        // One that held out for a minute is replaced at once.
        assert_eq!(guarding.ended(Time(now.0 + 60_000)), 0);
    }

    #[test]
    fn one_that_cannot_be_started_is_tried_again() {
        let mut guarding = Guarding::default();
        guarding.miss();
        assert_eq!(guarding.due(), Some(Time(0)));
        assert_eq!([7, 8].map(|t| guarding.wait(Time(t), None)), [100, 100]);
        guarding.miss();
        assert_eq!(guarding.due(), Some(Time(108)));
    }
}
