//! Requests to the loop, and the documents that go over the wire.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tokio::sync::oneshot;

use super::{
    balance::BalanceStatus,
    figures::{MasterFigures, ReloadFigures, SlotFigures},
};

use crate::logs;
use rcluster_core::{
    exit_code::ExitCode,
    supervisor::{
        FleetView, Generation, Incident, Policy, ReloadOutcome, Report, Scale, Slot, WorkerId,
        WorkerView,
    },
};
use rcluster_sys::control_dir::Repaired;

/// A request to the loop, with the place for its answer.
#[derive(Debug)]
pub enum Request {
    /// The control socket or its lock was removed and is made again.
    Repaired(Repaired),
    /// The status document.
    Status(oneshot::Sender<Status>),
    /// Whether new traffic should come.
    Readiness(oneshot::Sender<Readiness>),
    /// A reload or rollback; answered when it has ended.
    Reload(ReloadWish, oneshot::Sender<ReloadReply>),
    /// Another number of workers; answered at once.
    Scale {
        /// How many.
        scale: Scale,
        /// Also more than are sensible on this host.
        force: bool,
        /// The place for the answer, or why it is refused.
        reply: oneshot::Sender<Result<ScaleReply, String>>,
    },
    /// What workers printed, `None` where the master does not carry it.
    Logs(logs::Wish, oneshot::Sender<Option<logs::Feed>>),
    /// A slot's worker anew; answered at once, `None` if none serves there.
    Restart(Slot, oneshot::Sender<Option<RestartReply>>),
    /// Another program for the master itself; answered when it has been asked whether it can.
    Upgrade(UpgradeWish, oneshot::Sender<UpgradeReply>),
    /// A file of the app has changed (`--watch`).
    Changed(std::path::PathBuf),
    /// A stop; answered when every worker is gone.
    Stop {
        /// SIGKILL at once.
        now: bool,
        /// The place for the answer.
        reply: oneshot::Sender<StopReply>,
    },
}

/// `GET /readyz`: 200 where `ready`, else 503.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether new traffic should come.
    pub ready: bool,
    /// Whether a stop was asked for.
    pub leaving: bool,
    /// Workers that are ready.
    pub workers_ready: u32,
}

/// What kind of reload, and when to answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReloadWish {
    /// Answer only when the last old worker is gone.
    #[serde(default)]
    pub drained: bool,
    /// `false`: answer at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
    /// Addresses that the new code need not listen on although the old code does: as status shows them, `:PORT`, or `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_drop: Vec<String>,
    /// Go back to the previous release. Set by the route, not by the client.
    #[serde(skip)]
    pub rollback: bool,
}

/// How many workers: `N`, `+N`, `-N` or `auto` (the CPUs that the master may use).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScaleWish {
    /// As on the command line. A JSON number is the same as its digits.
    #[serde(deserialize_with = "text_or_number")]
    pub workers: String,
    /// Also more than are sensible on this host ([`Policy::sensible_workers`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "workers is neither a text nor a number")]
    enum Count {
        Text(String),
        Number(f64),
    }
    match Count::deserialize(from)? {
        Count::Text(text) => Ok(text),
        // `-1` as a text takes one away.
        Count::Number(number) if number < 0.0 => Err(D::Error::custom(format_args!(
            "invalid number of workers: {number}; to take workers away, send the text \"{number}\""
        ))),
        Count::Number(number) => Ok(number.to_string()),
    }
}

impl ScaleWish {
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(&self) -> Result<Scale, String> {
        let text = self.workers.as_str();
        let wrong = || {
            format!(
                "invalid number of workers `{text}`: use 1 to {}, +1, -1 or auto",
                Policy::MAX_WORKERS
            )
        };
        // Rust reads a sign there, and zeros before the number, too.
        let plain = |n: &str| {
            let digits = n.len() < 10 && n.bytes().all(|b| b.is_ascii_digit());
            digits && (n == "0" || !n.starts_with('0'))
        };
        let by = |n: &str| {
            let n = n.parse::<i32>().ok().filter(|_| plain(n));
            n.ok_or_else(wrong)
        };
        if text == "auto" {
            Ok(Scale::To(crate::config::cpus()))
        } else if let Some(more) = text.strip_prefix('+') {
            by(more).map(Scale::By)
        } else if let Some(fewer) = text.strip_prefix('-') {
            by(fewer).map(|n| Scale::By(-n))
        } else {
            let to = text
                .parse()
                .ok()
                .filter(|n| plain(text) && (1..=Policy::MAX_WORKERS).contains(n));
            to.map(Scale::To).ok_or_else(wrong)
        }
    }
}

/// The answer to a scale.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ScaleReply {
    /// Wanted workers from now on; never fewer than 1.
    pub workers: u32,
}

/// The answer to a restart of a slot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RestartReply {
    /// The slot.
    pub slot: Slot,
    /// The worker that will be replaced.
    pub worker: WorkerId,
}

/// How to stop.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StopWish {
    /// SIGKILL at once.
    #[serde(default)]
    pub now: bool,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// `IP:PORT`, `udp:IP:PORT`, `unix:PATH` or `unix:@NAME`.
    pub address: String,
    /// TCP: connections that wait to be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    /// TCP: how many may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// Sockets that are bound to it: one, or one a slot.
    #[serde(default)]
    pub seats: u32,
    /// Who chooses among them: `ebpf`, `cbpf`, or the kernel's `hash`. Absent where there is no choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steering: Option<String>,
    /// How much of what comes each of them is to get, in proportion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<u32>,
    /// TCP: connections that it could not take since it was opened: its queue was full, or memory short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u32>,
}

/// One thing that happened, as `GET /v1/events` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// One more for each; a gap means that the reader was too slow.
    pub seq: u64,
    /// On the master's clock, as [`Status::clock_ms`].
    pub at_ms: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// The reload by which it happened, by its id; for events that belong to no worker, the reload that went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
    /// What; `event` has its kind.
    #[serde(flatten)]
    pub what: Report,
}

/// `GET /v1/workers/{slot}`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlotStatus {
    /// The slot.
    pub slot: Slot,
    /// The workers in it: one, or during a replacement two or more.
    pub workers: Vec<WorkerView>,
    /// What is counted over all its workers.
    pub figures: Option<SlotFigures>,
}

/// `GET /v1/incidents`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IncidentList {
    /// The master's clock, to which their times refer.
    pub clock_ms: u64,
    /// What went wrong lately, oldest first.
    pub incidents: Vec<Incident>,
}

/// Processes in sessions of their own that workers started and left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedStatus {
    /// How many live now.
    pub living: u64,
    /// How many were ended (`--reap-detached`) since this program of the master began.
    pub ended: u64,
}

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of this document; grows when a field changes its meaning or goes.
    pub version: u32,
    /// The master's name.
    pub name: String,
    /// The master's process.
    pub pid: u32,
    /// The master's clock, to which the times of incidents refer: milliseconds since its start, less its own pauses.
    #[serde(default)]
    pub clock_ms: u64,
    /// The version of the program that runs.
    #[serde(default)]
    pub program: String,
    /// Its own upgrades in place.
    #[serde(default)]
    pub upgrade: UpgradeView,
    /// Tells this run of the master from others; ids of reloads begin with it.
    #[serde(default)]
    pub run: String,
    /// The id of the reload in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_id: Option<String>,
    /// Where this API listens besides the control socket (`--admin`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// The master's own figures.
    #[serde(default)]
    pub master: MasterFigures,
    /// How reloads ended.
    #[serde(default)]
    pub reloads: ReloadFigures,
    /// What is counted for each slot over all its workers.
    #[serde(default)]
    pub figures: Vec<SlotFigures>,
    /// How connections reach the workers, and how evenly.
    #[serde(default)]
    pub balance: BalanceStatus,
    /// Processes that ended workers left behind.
    #[serde(default)]
    pub detached: DetachedStatus,
    /// The workers and what goes on with them.
    #[serde(flatten)]
    pub fleet: FleetView,
    /// Where workers listen.
    pub listeners: Vec<ListenerStatus>,
    /// Addresses of `--bind` that no worker has asked for.
    #[serde(default)]
    pub unused_binds: Vec<String>,
}

/// The state of a worker in the words of every view: `spare`, `silent 7 s`, or the state's own name.
pub fn shown_state(worker: &WorkerView) -> Cow<'static, str> {
    match worker.silent_ms.filter(|_| worker.silent) {
        _ if worker.spare => "spare".into(),
        Some(ms) => format!("silent {} s", ms / 1000).into(),
        None => worker.state.name().into(),
    }
}

impl Status {
    /// The present version.
    pub const VERSION: u32 = 1;
}

/// `POST /v1/upgrade`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UpgradeWish {
    /// The binary, absolute; by default the path by which the master was started.
    #[serde(default)]
    pub binary: Option<std::path::PathBuf>,
}

/// The first answer to an upgrade. That it is done only the new program can
/// say: by [`UpgradeView::answered`] in the status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpgradeReply {
    /// The attempt's number; 0 when it did not come to one.
    pub attempt: u64,
    /// Whether the binary can take over, and is about to.
    pub accepted: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl UpgradeReply {
    /// It is about to happen.
    pub fn accepted(attempt: u64) -> Self {
        Self {
            attempt,
            accepted: true,
            reason: None,
        }
    }

    /// Nothing has changed.
    pub fn refused(attempt: u64, reason: &str) -> Self {
        Self {
            attempt,
            accepted: false,
            reason: Some(reason.to_owned()),
        }
    }
}

/// What became of attempts to replace the master's program in place. Counted over all its programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeView {
    /// Attempts.
    pub attempts: u64,
    /// Those that succeeded.
    pub done: u64,
    /// The last attempt of which the outcome is known.
    pub answered: u64,
    /// Why that one changed nothing; none if it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nobody waited for its end.
    Accepted,
    /// Its generation serves.
    Done,
    /// The old workers serve on.
    Failed,
    /// A later request took its place.
    Superseded,
}

impl Outcome {
    /// Lower-case name, as in documents and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The answer to a reload or rollback.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReloadReply {
    /// The reload's id, as in log, events and metrics; none if it never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How it ended, or that it was accepted.
    pub outcome: Outcome,
    /// The generation that serves alone, if it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Why it is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Old workers that ended in the middle of their drain until now, and how many connections that cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl ReloadReply {
    /// The exit code of the command that waited for it.
    pub fn code(&self) -> ExitCode {
        match self.outcome {
            Outcome::Done | Outcome::Accepted => ExitCode::Ok,
            Outcome::Superseded => ExitCode::Superseded,
            Outcome::Failed => ExitCode::ReloadFailed,
        }
    }
}

impl ReloadReply {
    /// What is told of an end.
    pub fn new(id: Option<String>, outcome: &ReloadOutcome) -> Self {
        let (outcome, generation, reason) = match outcome {
            ReloadOutcome::Done { generation } => (Outcome::Done, Some(*generation), None),
            ReloadOutcome::Failed { reason } => (Outcome::Failed, None, Some(reason.clone())),
            ReloadOutcome::Superseded { reason } => {
                (Outcome::Superseded, None, Some(reason.clone()))
            }
        };
        Self {
            id,
            outcome,
            generation,
            reason,
            warnings: vec![],
        }
    }
}

/// The answer to a stop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopReply {
    /// The master's exit code.
    pub code: u8,
    /// Why it is not 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
