//! The way out: drain, stop, kill, and the exit code.

use super::{
    action::Action,
    event::Urgency,
    machine::{Phase, Supervisor},
    worker::State,
};
use crate::exit_code::ExitCode;

impl Supervisor {
    pub(super) fn begin_stop(&mut self, urgency: Urgency) {
        if !matches!(self.phase, Phase::Stopping(_)) {
            self.killed = 0;
        }
        self.phase = Phase::Stopping(urgency);
        self.abandon_reloads();
        // Whoever was on its way out by other terms has no longer than the stop.
        let drain = self.policy.drain_timeout + self.policy.closing();
        let kill = self.policy.kill_timeout;
        let now = self.now;
        for id in self.fleet.ids(|w| !w.is_seated()) {
            if let Some(worker) = self.fleet.worker_mut(id) {
                let drains = worker.state == State::Draining;
                let limit = now + if drains { drain } else { kill };
                if worker.state != State::Killing {
                    worker.deadline = worker.deadline.map(|deadline| deadline.min(limit));
                }
            }
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_))
    }

    pub(super) fn wind_down(&mut self) {
        let Phase::Stopping(urgency) = self.phase else {
            return;
        };
        match urgency {
            Urgency::Graceful => {
                for id in self.fleet.ids(super::Worker::is_seated) {
                    self.retire(id, "the master stops");
                }
            }
            Urgency::Now => {
                for id in self.fleet.ids(|w| w.state != State::Killing) {
                    self.kill(id, "the master stops now");
                }
            }
        }
        if self.fleet.is_empty() {
            self.phase = Phase::Over;
            let (code, reason) = match self.verdict.take() {
                Some((code, reason)) => (code, Some(reason)),
                None if self.killed > 0 => {
                    let reason = format!("{} workers had to be killed", self.killed);
                    (ExitCode::Killed, Some(reason))
                }
                None => (ExitCode::Ok, None),
            };
            self.out.push(Action::Exit { code, reason });
        }
    }
}
