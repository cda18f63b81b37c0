//! One worker: its states and what is known about it.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{action::Gate, time::Time};

/// Never reused; Node knows it as `cluster.worker.id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub u64);

/// A stable seat, 0 up, that survives its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

/// Bumped by each reload; 1 is the first boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// A process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub i32);

macro_rules! display_inner {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_inner!(WorkerId, Slot, Generation, Pid);

/// The life of a worker. States never move left; each waiting state has a deadline.
///
/// | state | waits for | when it takes too long |
/// |---|---|---|
/// | starting | the process | killing |
/// | booting | readiness, or the gate | stopping |
/// | held | the gate to open | the reload that holds it ends |
/// | ready | | |
/// | draining | its connections | stopping |
/// | stopping | its exit after the stop signal | killing |
/// | killing | its exit after SIGKILL | SIGKILL again |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Ordered, no process yet.
    Starting,
    /// The process runs, the app is not ready.
    Booting,
    /// Ready to listen, held at the gate.
    Held,
    /// Takes connections.
    Ready,
    /// Finishes its connections, takes no new ones.
    Draining,
    /// Has been sent the stop signal.
    Stopping,
    /// Has been sent SIGKILL.
    Killing,
}

impl State {
    /// Lower-case name, as in status and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Booting => "booting",
            Self::Held => "held",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Killing => "killing",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the supervisor knows about one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Whose release it runs.
    pub generation: Generation,
    /// Its process, once started.
    pub pid: Option<Pid>,
    /// Where it is in its life.
    pub state: State,
    /// When the present state runs out.
    pub deadline: Option<Time>,
    /// When it was ordered.
    pub started: Time,
    /// When it became ready.
    pub ready_at: Option<Time>,
    /// When it reached the gate.
    pub held_at: Option<Time>,
    /// Whether its requests for listeners are answered.
    pub gate: Gate,
    /// Addresses that it serves.
    pub listening: BTreeSet<String>,
    /// The channel to it has not reached its end.
    pub channel_open: bool,
    /// The app said that it leaves (`exitedAfterDisconnect`).
    pub leaving: bool,
    /// The fact that makes it ready has been seen (perhaps while held).
    pub readiness_seen: bool,
    /// To be replaced, and why.
    pub condemned: Option<String>,
    /// Its own fault that it ends (boot timeout, misbehaviour): counts for the backoff.
    pub at_fault: bool,
    /// The last uncaught error it reported.
    pub last_error: Option<String>,
    /// Connections that its drain had left when it last told.
    pub left: u64,
    /// How many connections its drain cut, once it is drained.
    pub drained: Option<u64>,
}

impl Worker {
    /// A worker that is only ordered yet.
    pub fn new(
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        gate: Gate,
        now: Time,
        boot: Duration,
    ) -> Self {
        Self {
            id,
            slot,
            generation,
            pid: None,
            state: State::Starting,
            deadline: Some(now + boot),
            started: now,
            ready_at: None,
            held_at: None,
            gate,
            listening: BTreeSet::new(),
            channel_open: true,
            leaving: false,
            readiness_seen: false,
            condemned: None,
            at_fault: false,
            last_error: None,
            left: 0,
            drained: None,
        }
    }

    /// Holds a seat: it serves or is on its way to.
    pub fn is_seated(&self) -> bool {
        self.state <= State::Ready
    }

    /// Seated, and nobody wants it replaced.
    pub fn is_sound(&self) -> bool {
        self.is_seated() && self.condemned.is_none()
    }

    /// Takes connections.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// How long it has been ready at `now`, if it ever was.
    pub fn ready_for(&self, now: Time) -> Option<Duration> {
        self.ready_at.map(|at| now.since(at))
    }
}
