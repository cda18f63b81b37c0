//! `rcluster check`: one worker boots behind the gate, proves itself, and goes.

use super::{
    action::Gate,
    event::Urgency,
    machine::{Phase, Supervisor},
    policy::Policy,
    time::Time,
    worker::{Slot, State},
};
use crate::exit_code::ExitCode;

impl Supervisor {
    /// A supervisor that only tries whether a release gets ready: its listeners
    /// are withheld, and the exit code says how it went.
    pub fn checking(policy: &Policy, seed: u64) -> Self {
        let mut supervisor = Self::new(
            Policy {
                workers: 1,
                ..policy.clone()
            },
            seed,
        );
        supervisor.phase = Phase::Checking;
        supervisor
    }

    /// When the worker at the gate has lived for the minimum uptime.
    fn checked_at(&self) -> Option<Time> {
        let worker = self.fleet.sound(Slot(0), self.committed)?;
        let at = worker.held_at.or(worker.ready_at)?;
        (worker.state >= State::Held).then(|| at + self.policy.min_uptime)
    }

    pub(super) fn check(&mut self) {
        if self.seat(Slot(0)).spawned.is_none() {
            self.spawn(Slot(0), self.committed, Gate::Closed);
        } else if self.checked_at().is_some_and(|at| at <= self.now) {
            self.verdict = Some((ExitCode::Ok, "ready".to_owned()));
            self.begin_stop(Urgency::Graceful);
        } else if !self.fleet.any_seated() {
            self.give_up();
        }
    }

    pub(super) fn checking_deadlines(&self) -> Vec<Time> {
        self.checked_at().into_iter().collect()
    }
}
