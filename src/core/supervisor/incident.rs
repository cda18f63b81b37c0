//! What went wrong lately: the last incidents, oldest first.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    event::{Exit, Finding},
    machine::Supervisor,
    time::Time,
    worker::{Generation, Pid, Slot, Worker, WorkerId},
};

/// What kind of trouble ended a worker, or made it be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its process ended although nobody had asked it to.
    Crashed,
    /// It was killed by SIGKILL, which the master had not sent: perhaps out of memory.
    Killed,
    /// It could not be started.
    NotStarted,
    /// It did not get ready in time.
    NeverReady,
    /// Its event loop was silent.
    Hung,
    /// Its process was stopped (SIGSTOP, a debugger).
    Stopped,
    /// Its health check failed.
    Unhealthy,
    /// It had closed all its listeners.
    NotServing,
    /// It broke the protocol, flooded, or did not read.
    Misbehaved,
    /// It closed its channel, or said that it leaves.
    Left,
    /// It reached a limit (requests, lifetime, memory, heap, descriptors).
    Recycled,
    /// An operator asked for it.
    Restarted,
    /// It ended in the middle of its drain, by itself.
    Undrained,
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 13] = [
        Self::Crashed,
        Self::Killed,
        Self::NotStarted,
        Self::NeverReady,
        Self::Hung,
        Self::Stopped,
        Self::Unhealthy,
        Self::NotServing,
        Self::Misbehaved,
        Self::Left,
        Self::Recycled,
        Self::Restarted,
        Self::Undrained,
    ];

    /// As in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Killed => "killed",
            Self::NotStarted => "not-started",
            Self::NeverReady => "never-ready",
            Self::Hung => "hung",
            Self::Stopped => "stopped",
            Self::Unhealthy => "unhealthy",
            Self::NotServing => "not-serving",
            Self::Misbehaved => "misbehaved",
            Self::Left => "left",
            Self::Recycled => "recycled",
            Self::Restarted => "restarted",
            Self::Undrained => "undrained",
        }
    }

    /// Whether a worker took its place because of it; the place of one that drains is taken already.
    pub fn is_restart(self) -> bool {
        self != Self::Undrained
    }

    /// Whether the worker did nothing wrong.
    pub fn is_planned(self) -> bool {
        matches!(self, Self::Recycled | Self::Restarted)
    }
}

/// One of the last things that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// When, on the master's clock: milliseconds since its start, less its own pauses.
    pub at: Time,
    /// The worker's slot.
    pub slot: Slot,
    /// The worker.
    pub worker: WorkerId,
    /// Its process, if it had one.
    pub pid: Option<Pid>,
    /// Its generation.
    pub generation: Generation,
    /// What kind of trouble.
    pub kind: Kind,
    /// Why, in words.
    pub reason: String,
    /// How its process ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The last uncaught error that it reported, with its stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where its JavaScript was when it hung, innermost frame first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// By how much the `oom_kill` counter of its memory cgroup rose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

/// A ring of the last [`Incidents::KEPT`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Incidents(VecDeque<Incident>);

impl Incidents {
    /// So many are kept.
    pub(super) const KEPT: usize = 20;

    fn push(&mut self, incident: Incident) {
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back(incident);
    }

    /// The last one of a worker.
    fn of(&mut self, id: WorkerId) -> Option<&mut Incident> {
        self.0.iter_mut().rev().find(|i| i.worker == id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Incident> {
        self.0.iter()
    }
}

impl Supervisor {
    /// Notes an incident, and counts it for the slot.
    pub(super) fn note(&mut self, worker: &Worker, kind: Kind, reason: &str) {
        let incident = Incident {
            at: self.now,
            slot: worker.slot,
            worker: worker.id,
            pid: worker.pid,
            generation: worker.generation,
            kind,
            reason: reason.to_owned(),
            exit: None,
            error: worker.error(self.now).cloned(),
            stack: None,
            oom_kills: worker.oom_kills,
        };
        self.incidents.push(incident);
        if kind.is_restart() {
            *self.seat(worker.slot).troubles.entry(kind).or_default() += 1;
        }
    }

    /// What is to be said of old workers that ended in the middle of their drain since then, for the answer to a reload.
    pub fn undrained(&self, before: Generation, since: Time) -> Vec<String> {
        let ended = self
            .incidents
            .iter()
            .filter(|i| i.kind == Kind::Undrained && i.generation < before && i.at > since);
        ended
            .map(|i| format!("old worker {} (slot {}) {}", i.worker, i.slot, i.reason))
            .collect()
    }

    /// Completes a worker's incident by the end of its process.
    pub(super) fn note_exit(&mut self, worker: &Worker, exit: Exit) {
        if let Some(incident) = self.incidents.of(worker.id) {
            incident.exit = Some(exit);
            incident.error = incident.error.take().or_else(|| worker.last_error.clone());
            incident.oom_kills = worker.oom_kills;
        }
    }

    /// Completes a worker's incident by what a look into it found.
    pub(super) fn note_finding(&mut self, id: WorkerId, finding: &Finding) {
        let Some(incident) = self.incidents.of(id) else {
            return;
        };
        match finding {
            Finding::Busy { stack } => incident.stack = Some(stack.clone()),
            Finding::Stopped => {
                incident.kind = Kind::Stopped;
                "its process is stopped (SIGSTOP or a debugger)".clone_into(&mut incident.reason);
            }
            Finding::Idle => {
                incident.reason =
                    format!("{} (its event loop is idle, not blocked)", incident.reason);
            }
            Finding::Unknown(why) => {
                incident.reason = format!("{} (no stack: {why})", incident.reason);
            }
        }
    }
}
