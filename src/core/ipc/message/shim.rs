//! What the shim says (`cmd: "NODE_RCLUSTER"`).

use serde::Deserialize;

use super::super::numbers::{buckets, classes, count, name, text, thousandths};

/// What a worker has counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Told {
    /// Requests answered over HTTP/1 and HTTP/2.
    #[serde(default, deserialize_with = "count")]
    pub requests: u64,
    /// Connections accepted.
    #[serde(default, deserialize_with = "count")]
    pub accepted: u64,
    /// The responses by class, 1xx first; empty with `--no-request-metrics`.
    #[serde(default, deserialize_with = "classes")]
    pub classes: Vec<u64>,
    /// Their durations added up, microseconds.
    #[serde(default, deserialize_with = "count")]
    pub duration_us: u64,
    /// How many took so long; buckets as in `bucketOf` of the shim.
    #[serde(default, deserialize_with = "buckets")]
    pub durations: Vec<u64>,
}

/// What the shim says (`cmd: "NODE_RCLUSTER"`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "act", rename_all = "camelCase")]
pub enum ShimMessage {
    /// The shim is loaded.
    Hello {
        /// Node's version.
        #[serde(default, deserialize_with = "name")]
        node: String,
        /// It takes connections from a queue of their own.
        #[serde(default)]
        queues: bool,
        /// It can tell the stack of a loop that does not turn.
        #[serde(default)]
        stack: bool,
    },
    /// What the event loop executes instead of turning; told when it was asked by SIGUSR1.
    Stack {
        /// One frame a line, innermost first.
        #[serde(default)]
        stack: String,
    },
    /// The drain has begun.
    Draining {
        /// Connections that were open.
        #[serde(default, deserialize_with = "count")]
        connections: u64,
    },
    /// The drain goes on; told when the number changes, and not more often than ten times a second.
    Left {
        /// Connections that are still open.
        #[serde(default, deserialize_with = "count")]
        connections: u64,
    },
    /// Nothing is left to drain.
    Drained {
        /// Connections cut at the deadline.
        #[serde(default, deserialize_with = "count")]
        cut: u64,
        /// Event streams that were closed before, because they had been silent.
        #[serde(default, deserialize_with = "count")]
        silent: u64,
        /// The app has handlers of the stop signal, and they run now.
        #[serde(default)]
        stopping: bool,
    },
    /// The app called `worker.disconnect()`, which closes its servers next.
    Leaving {},
    /// A server listens on a socket that the worker bound by itself (`exclusive`, `reusePort`).
    Listening {},
    /// The event loop turns.
    Beat {
        /// What is counted.
        #[serde(flatten)]
        told: Told,
        /// Connections open now.
        #[serde(default, deserialize_with = "count")]
        connections: u64,
        /// Bytes of heap in use.
        #[serde(default, deserialize_with = "count")]
        heap_used: u64,
        /// Bytes that the heap may grow to.
        #[serde(default, deserialize_with = "count")]
        heap_limit: u64,
        /// How late the loop was for this beat, microseconds.
        #[serde(default, deserialize_with = "count")]
        delay_us: u64,
        /// How late it was half of the time since the last beat, microseconds.
        #[serde(default, deserialize_with = "count")]
        delay_p50_us: u64,
        /// The same for 99 of 100 looks.
        #[serde(default, deserialize_with = "count")]
        delay_p99_us: u64,
        /// Share of the time in which the loop was busy, thousandths.
        #[serde(default, deserialize_with = "thousandths")]
        busy: u32,
    },
    /// What is open changed; told between two beats where connections are steered by it.
    Load {
        /// Connections accepted since the start.
        #[serde(default, deserialize_with = "count")]
        accepted: u64,
        /// Connections open now.
        #[serde(default, deserialize_with = "count")]
        connections: u64,
    },
    /// The last figures, before its end.
    Figures(Told),
    /// An uncaught error is about to end the process.
    Error {
        /// `TypeError` and the like.
        #[serde(default, deserialize_with = "name")]
        name: String,
        /// Its message.
        #[serde(default, deserialize_with = "text")]
        message: String,
        /// Its stack.
        #[serde(default, deserialize_with = "text")]
        stack: String,
        /// The app handles uncaught errors itself: the process lives on.
        #[serde(default)]
        handled: bool,
    },
    /// The shim itself failed; told once, with the first fault.
    Fault {
        /// Its message.
        #[serde(default, deserialize_with = "text")]
        message: String,
        /// Its stack.
        #[serde(default, deserialize_with = "text")]
        stack: String,
    },
    /// An act of a later version of the shim.
    #[serde(other)]
    Other,
}
