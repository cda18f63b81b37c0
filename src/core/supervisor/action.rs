//! What the supervisor can order.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    event::{Exit, Finding, Ticket},
    worker::{Generation, Pid, Slot, State, WorkerId},
};
use crate::exit_code::ExitCode;

/// Whether a worker's request for a listener is answered at once or withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    /// Answered at once.
    Open,
    /// Withheld until [`Action::OpenGate`].
    Closed,
}

/// Which signal a worker is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// The configured stop signal (SIGTERM unless told otherwise).
    Stop,
    /// SIGKILL.
    Kill,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadOutcome {
    /// The new generation alone takes connections.
    Done {
        /// The generation that serves.
        generation: Generation,
    },
    /// The new workers failed; the old generation serves on.
    Failed {
        /// Why.
        reason: String,
    },
    /// A later request took its place.
    Superseded {
        /// By what.
        reason: String,
    },
}

/// Something worth a log line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Report {
    /// A worker moved from one state to the next.
    Moved {
        /// The worker.
        id: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Its process, once known.
        pid: Option<Pid>,
        /// Its generation.
        generation: Generation,
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why, in words.
        reason: String,
        /// The generation whose reload brings or replaces it.
        #[serde(skip)]
        of_reload: Option<Generation>,
    },
    /// A worker ended.
    Ended {
        /// The worker.
        id: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Its process, if one was started.
        pid: Option<Pid>,
        /// Its generation.
        generation: Generation,
        /// How, if a process was reaped.
        exit: Option<Exit>,
        /// Whether nobody had asked it to end.
        unexpected: bool,
        /// What else is known: the last error, or what was cut.
        detail: Option<String>,
        /// When unexpected: milliseconds until its slot is filled again.
        retry_ms: Option<u64>,
        /// As in [`Report::Moved`].
        #[serde(skip)]
        of_reload: Option<Generation>,
    },
    /// A serving worker is to be replaced.
    Condemned {
        /// The worker.
        id: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Why.
        reason: String,
    },
    /// No heartbeat comes from a worker whose event loop turns.
    NoHeartbeat {
        /// The worker.
        id: WorkerId,
        /// Its slot.
        slot: Slot,
        /// How long it has sent none.
        silent: Duration,
        /// It has sent one before.
        before: bool,
    },
    /// What a look into a silent worker found.
    Examined {
        /// The worker.
        id: WorkerId,
        /// Its slot.
        slot: Slot,
        /// What.
        finding: Finding,
    },
    /// A spare took the place of a worker.
    Promoted {
        /// The worker.
        id: WorkerId,
        /// Its slot from now on.
        slot: Slot,
    },
    /// Another number of workers is wanted.
    Scaled {
        /// Before.
        from: u32,
        /// Now.
        to: u32,
    },
    /// All workers are to drain; the listeners stay.
    Parked,
    /// A reload began.
    ReloadStarted {
        /// The new generation.
        generation: Generation,
    },
    /// A reload ended.
    ReloadEnded {
        /// The new generation.
        generation: Generation,
        /// Milliseconds it took.
        took_ms: u64,
        /// How it ended.
        outcome: ReloadOutcome,
    },
}

/// An order: something the runtime has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Resolve the release of a generation (script, folder, environment);
    /// answered by `Prepared` or `PrepareFailed`.
    Prepare {
        /// The generation to resolve.
        generation: Generation,
        /// Take this generation's release over instead of looking anew.
        from: Option<Generation>,
    },
    /// Start a worker; answered by `Spawned` or `SpawnFailed`.
    Spawn {
        /// The worker.
        id: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Whose release it runs.
        generation: Generation,
        /// Whether it is held at the gate.
        gate: Gate,
    },
    /// Answer the withheld requests for listeners.
    OpenGate {
        /// The worker.
        id: WorkerId,
    },
    /// Tell a worker to drain.
    Drain {
        /// The worker.
        id: WorkerId,
    },
    /// Send a signal.
    Signal {
        /// The worker.
        id: WorkerId,
        /// Which.
        signal: StopSignal,
    },
    /// A spare takes a slot: tell it its number. Its gate opens next.
    Promote {
        /// The worker.
        id: WorkerId,
        /// Its slot from now on.
        slot: Slot,
    },
    /// Ask a worker's health path; answered by `Fact::Probed` within the policy's timeout.
    Probe {
        /// The worker.
        id: WorkerId,
    },
    /// Look what the kernel counts for a worker; answered by `Fact::Measured`, or not if it is gone.
    Measure {
        /// The worker.
        id: WorkerId,
    },
    /// A worker has been silent for too long: look whether its event loop is idle; answered by `Fact::Idle` within
    /// [`Policy::DOUBT`](super::Policy::DOUBT) if it is, else not at all.
    CheckIdle {
        /// The worker.
        id: WorkerId,
    },
    /// A worker is silent: look into it; answered by `Fact::Examined` within [`Policy::EXAMINATION`](super::Policy::EXAMINATION).
    Examine {
        /// The worker.
        id: WorkerId,
    },
    /// Tell those who wait how a reload ended.
    ReloadEnded {
        /// Who waits.
        tickets: Vec<Ticket>,
        /// The generation that it was to bring, if it has begun.
        of: Option<Generation>,
        /// How it ended.
        outcome: ReloadOutcome,
    },
    /// No worker of an older generation is left: listeners and releases that
    /// none of these generations uses may go.
    Retire {
        /// Generations whose releases are still of use.
        keep: Vec<Generation>,
    },
    /// Write a log line.
    Report(Report),
    /// End the master.
    Exit {
        /// With this code.
        code: ExitCode,
        /// And this reason, when it is a failure.
        reason: Option<String>,
    },
}
