//! One worker: its states and what is known about it.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    action::Gate,
    event::{Beat, Usage},
    incident::Kind,
    policy::{Policy, Terms},
    time::Time,
};

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

/// Health checks of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// When the next question is due.
    pub due: Time,
    /// Until when an answer is awaited.
    pub answer_by: Option<Time>,
    /// It has answered well once.
    pub well: bool,
    /// Bad answers in a row.
    pub bad: u32,
    /// The last bad answer.
    pub complaint: Option<String>,
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
    /// Those among them that clients know. Where there is one, a draining worker may keep the others for its own requests.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fronts: BTreeSet<String>,
    /// Those of them that no successor has to serve: the kernel chose the port, long after the worker was ready.
    #[serde(default)]
    pub passing: BTreeSet<String>,
    /// What `--bind` declares, if it listened elsewhere.
    #[serde(default)]
    pub instead_of: Option<String>,
    /// Until when it has to listen on what its predecessor serves, while it does not.
    #[serde(default)]
    pub complete_by: Option<Time>,
    /// The channel to it has not reached its end.
    pub channel_open: bool,
    /// The app said that it leaves (`exitedAfterDisconnect`).
    pub leaving: bool,
    /// The fact that makes it ready has been seen (perhaps while held).
    pub readiness_seen: bool,
    /// To be replaced, and why.
    pub condemned: Option<String>,
    /// What kind of trouble that is.
    pub trouble: Option<Kind>,
    /// Booted in advance, to take the place of one that dies.
    pub spare: bool,
    /// When it last gave a sign of its event loop; `None` without the shim.
    pub heard: Option<Time>,
    /// Silent for too long; believed a moment later.
    pub doubted: Option<Time>,
    /// It sends no heartbeat although its event loop turns, and that was reported.
    #[serde(default)]
    pub mute: bool,
    /// Silent: it will not drain.
    pub hung: bool,
    /// Until when a look into it is awaited.
    pub examined_by: Option<Time>,
    /// What it told last.
    pub beat: Option<Beat>,
    /// What the kernel counted last.
    pub usage: Option<Usage>,
    /// Samples in a row over the memory limit.
    pub over_memory: u8,
    /// When the last one was taken that counts.
    #[serde(default)]
    pub sampled: Option<Time>,
    /// When all its listeners were closed.
    pub unheard: Option<Time>,
    /// How it answers when it is asked whether it is well.
    pub pulse: Pulse,
    /// Shortens its limits, so that workers of one age do not go together: 0 not at all, 255 by a tenth.
    pub jitter: u8,
    /// What it was started with; unknown of workers that an older program started.
    #[serde(default)]
    pub terms: Option<Terms>,
    /// The cgroup's counter says that the kernel killed for memory.
    pub oom_kills: Option<u64>,
    /// The last uncaught error it reported.
    pub last_error: Option<String>,
    /// The last listen that was refused since it became ready, or before that, and when.
    #[serde(default)]
    pub refused: Option<(Time, String)>,
    /// Connections that its drain had left when it last told.
    pub left: u64,
    /// How many connections its drain cut, once it is drained.
    pub drained: Option<u64>,
    /// When its drain timeout passes, once it drains. What it needs after that is taken from its kill timeout.
    #[serde(default)]
    pub drain_due: Option<Time>,
    /// Its shim has run the app's handlers of the stop signal, so it must not be sent again.
    #[serde(default)]
    pub stopping: bool,
    /// The generation whose reload replaces it.
    #[serde(default)]
    pub replaced_by: Option<Generation>,
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
            fronts: BTreeSet::new(),
            passing: BTreeSet::new(),
            instead_of: None,
            complete_by: None,
            channel_open: true,
            leaving: false,
            readiness_seen: false,
            condemned: None,
            trouble: None,
            spare: false,
            heard: None,
            doubted: None,
            mute: false,
            hung: false,
            examined_by: None,
            beat: None,
            usage: None,
            over_memory: 0,
            sampled: None,
            unheard: None,
            pulse: Pulse::default(),
            jitter: 0,
            terms: None,
            oom_kills: None,
            last_error: None,
            refused: None,
            left: 0,
            drained: None,
            drain_due: None,
            stopping: false,
            replaced_by: None,
        }
    }

    /// What explains a trouble of now: its last error, or a listen that was refused. An app that serves on after a
    /// refusal has handled it; then nothing that happens later comes from it.
    pub fn error(&self, now: Time) -> Option<&String> {
        let refused = self.refused.as_ref();
        let refused =
            refused.filter(|(at, _)| self.ready_at.is_none() || now < *at + Policy::REFUSAL);
        self.last_error.as_ref().or(refused.map(|(_, why)| why))
    }

    /// Holds a seat: it serves or is on its way to.
    pub fn is_seated(&self) -> bool {
        self.state <= State::Ready
    }

    /// Seated, and nobody wants it replaced.
    pub fn is_sound(&self) -> bool {
        self.is_seated() && self.condemned.is_none()
    }

    /// On its way to readiness; one that waits at the gate has booted.
    pub fn is_booting(&self) -> bool {
        self.state <= State::Booting
    }

    /// Whether clients can still connect to it.
    pub fn accepts(&self) -> bool {
        if self.fronts.is_empty() {
            !self.listening.is_empty()
        } else {
            !self.fronts.is_disjoint(&self.listening)
        }
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
