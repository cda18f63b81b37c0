//! What the supervisor can be told.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy::Policy;
use super::worker::{Generation, Pid, Slot, WorkerId};

/// Names whoever waits for the end of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// How much of a hurry a stop is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Urgency {
    /// Drain, then the stop signal, then SIGKILL.
    Graceful,
    /// SIGKILL at once.
    Now,
}

/// How a process ended, as `waitpid(2)` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// `exit(code)`.
    Code(i32),
    /// Killed by a signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel says a core was dumped.
        core: bool,
    },
}

impl Exit {
    /// Killed by SIGKILL.
    pub fn is_kill(self) -> bool {
        matches!(self, Self::Signal { signal: 9, .. })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core } => {
                write!(f, "killed by {}", crate::names::signal(*signal))?;
                if *core {
                    write!(f, " (core dumped)")?;
                }
                Ok(())
            }
        }
    }
}

/// What a worker's shim tells about its event loop, every beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Requests answered over HTTP/1 and HTTP/2 since the process started.
    pub requests: u64,
    /// Connections open now.
    pub connections: u64,
    /// Bytes of JavaScript heap in use (`v8.getHeapStatistics().used_heap_size`).
    pub heap_used: u64,
    /// Bytes that the heap may grow to (`heap_size_limit`).
    pub heap_limit: u64,
    /// How late the event loop was for this beat, microseconds.
    pub delay_us: u64,
    /// How late it was half of the time since the beat before, microseconds.
    #[serde(default)]
    pub delay_p50_us: u64,
    /// The same for 99 of 100 looks, ten a second.
    #[serde(default)]
    pub delay_p99_us: u64,
    /// Share of the time since the last beat in which the loop was busy, thousandths.
    pub busy: u32,
}

/// What the kernel tells about a worker's process (`proc_pid_status(5)`, `proc_pid_fd(5)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of resident memory (RSS).
    pub memory: u64,
    /// CPU time used so far, user and system, milliseconds.
    pub cpu_ms: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Soft limit of descriptors.
    pub fd_limit: u64,
}

/// What a look into a silent worker found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Its JavaScript runs on; the stack at one moment, innermost first.
    Busy {
        /// One frame a line: function, file, line and column.
        stack: String,
    },
    /// Its process is stopped (SIGSTOP, a debugger).
    Stopped,
    /// Its event loop waits for events: it is idle.
    Idle,
    /// Nothing could be learnt, and why.
    Unknown(String),
}

/// How many workers somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scale {
    /// So many.
    To(u32),
    /// So many more, or fewer if negative; never fewer than 1.
    By(i32),
}

/// An address at which a server of a worker listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listened {
    /// As status shows it.
    pub address: String,
    /// The app asked for port 0, and the kernel chose the port.
    pub chosen: bool,
    /// The address names the worker's process: no other worker can listen there.
    #[serde(default)]
    pub private: bool,
    /// Clients may know the address: neither the kernel chose it on the loopback interface, nor does it name the process.
    #[serde(default)]
    pub front: bool,
    /// The addresses that `--bind` declares, if this is not one of them: then it makes no worker ready.
    pub instead_of: Option<String>,
}

impl Listened {
    /// One that nothing is special about.
    pub fn on(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            chosen: false,
            private: false,
            front: false,
            instead_of: None,
        }
    }
}

/// A fact about one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// Node has started (`act: "online"`).
    Online,
    /// It asked for a listener and the answer is withheld.
    AtGate,
    /// One of its servers listens.
    Listening(Listened),
    /// It closed its handle on the listener at that address.
    Closed(String),
    /// The app called `process.send('ready')`.
    SaidReady,
    /// It drains, and so many connections are still open.
    Left(u64),
    /// Every connection is finished; so many had to be cut.
    Drained {
        /// Connections cut at the deadline.
        cut: u64,
        /// The app has handlers of the stop signal, and the shim runs them now.
        stopping: bool,
    },
    /// The app itself called `worker.disconnect()` or `.kill()`.
    Leaving,
    /// The channel to it reached its end.
    ChannelClosed,
    /// An uncaught error, message first, stack after.
    Failed(String),
    /// It asked for an address that could not be bound.
    BindFailed(String),
    /// It breaks the protocol, floods, or does not read.
    Misbehaves(String),
    /// The shim is loaded: from here on it beats.
    Hello,
    /// Its event loop turns (heartbeat of the shim).
    Beat(Beat),
    /// What the kernel counts for it. Answers [`Action::Measure`](super::Action::Measure).
    Measured(Usage),
    /// Its health check was answered well (`Ok`) or not, and why not. Answers [`Action::Probe`](super::Action::Probe).
    Probed(Result<(), String>),
    /// Its event loop waits for events, although no heartbeat comes. Answers [`Action::CheckIdle`](super::Action::CheckIdle).
    Idle,
    /// Answers [`Action::Examine`](super::Action::Examine).
    Examined(Finding),
    /// It was killed, and the `oom_kill` counter of its memory cgroup rose by so much. Comes before its exit.
    OutOfMemory {
        /// How many processes of the cgroup the kernel killed.
        kills: u64,
    },
}

/// An event: something that happened outside the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Time went by.
    Tick,
    /// A worker's process was started.
    Spawned {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: Pid,
    },
    /// A worker's process could not be started.
    SpawnFailed {
        /// The worker.
        id: WorkerId,
        /// What happened, and to what.
        reason: String,
    },
    /// A worker did or said something.
    Worker {
        /// The worker.
        id: WorkerId,
        /// What.
        fact: Fact,
    },
    /// A worker's process was reaped.
    Exited {
        /// The worker.
        id: WorkerId,
        /// How it ended.
        exit: Exit,
    },
    /// Somebody wants new code.
    Reload {
        /// Who waits for the end, if anybody.
        ticket: Option<Ticket>,
        /// Addresses that the new code need not listen on.
        may_drop: Vec<String>,
    },
    /// Somebody wants the previous generation's release back.
    Rollback {
        /// Who waits for the end, if anybody.
        ticket: Option<Ticket>,
        /// Addresses that the previous code need not listen on.
        may_drop: Vec<String>,
    },
    /// The release of a generation is resolved.
    Prepared {
        /// The generation.
        generation: Generation,
    },
    /// The configuration was read anew for a generation; comes before its `Prepared`.
    /// In force at once, but for the number of workers, which counts when the
    /// generation is committed; if the reload fails, all is as before.
    Configured {
        /// The generation.
        generation: Generation,
        /// What is wanted from now on.
        policy: Box<Policy>,
    },
    /// The release of a generation cannot be had.
    PrepareFailed {
        /// The generation.
        generation: Generation,
        /// What happened, and to what.
        reason: String,
    },
    /// The master was replaced in place: what it was finding out by itself (health, where a worker hangs) will not be told any more.
    Resumed,
    /// Stop the master.
    Stop(Urgency),
    /// Another number of workers.
    Scale(Scale),
    /// Drain every worker and keep the listeners, until a reload or a scale asks for workers again.
    Park,
    /// Replace the worker of one slot, new one first.
    Restart {
        /// The slot.
        slot: Slot,
        /// Why, in words.
        reason: String,
    },
}
