//! What one program of a master tells the next, and who can read what.
//!
//! Plain structs as JSON. A field that is added carries `#[serde(default)]`, so
//! that an older state is read; one that is not known is skipped, so that a
//! newer one is. What would be misread that way makes [`VERSION`] grow, and
//! [`READABLE_FROM`] with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Fd;
use crate::{
    admin::{Token, UpgradeView},
    config::Config,
    logs::{Begun, Kept},
    runtime::{
        figures::FiguresState, guarding::Guarding, hands::HandsState, listeners::ListenersState,
        overview::BusState, release::Release, reread::Reread, senses::OomCounter,
        shim_file::ShimState,
    },
};
use rcluster_core::{
    ipc::{Channel, LineDecoder, Outgoing, Query},
    supervisor::{Exit, Generation, Pid, Supervisor, Time, WorkerId},
};
use rcluster_sys::control_dir::Inode;

/// The version that is written.
pub(super) const VERSION: u32 = 3;
/// The oldest version that is read.
const OLDEST: u32 = 1;
/// Programs that read this version or a newer one read what is written: they
/// skip what they do not know.
pub(super) const READABLE_FROM: u32 = 1;
/// The same where there is what version 1 had not: several sockets at an address, connections in our hands, workers'
/// pipes, a second door of the API.
pub(super) const RICH_FROM: u32 = 2;
/// The same where workers have queues of connections.
pub(super) const QUEUES_FROM: u32 = 3;

/// What every version says of a state that it would misread.
pub(super) const TOO_NEW: &str = "which needs a binary that reads";

/// The newest version that is read without loss; a test may ask a debug build for less.
fn newest() -> u32 {
    if super::pack::is_asked_to("reads-1") {
        return 1;
    }
    VERSION
}

/// Why a state cannot be read.
#[derive(Debug, Error)]
pub enum StateError {
    /// Written by a newer program, in a way that older ones would misread. The master adds what that is
    /// ([`TOO_NEW`]).
    #[error(
        "the running master (rcluster {program}) writes state version {version}, which needs a binary that reads {needs}; this one (rcluster {ours}) reads {OLDEST} to {newest}",
        ours = env!("CARGO_PKG_VERSION"), newest = newest()
    )]
    TooNew {
        /// The version.
        version: u32,
        /// The least version that a reader must know.
        needs: u32,
        /// The version of the program that wrote it.
        program: String,
    },
    /// Written by a program that is too old.
    #[error(
        "the running master (rcluster {program}) writes state version {version}; this binary (rcluster {ours}) reads {OLDEST} to {VERSION}: upgrade to a version between them first",
        ours = env!("CARGO_PKG_VERSION")
    )]
    TooOld {
        /// The version.
        version: u32,
        /// The version of the program that wrote it.
        program: String,
    },
    /// No state at all, or one that breaks its own rules.
    #[error("this binary (rcluster {ours}) cannot read the state of the running master: {0}", ours = env!("CARGO_PKG_VERSION"))]
    Malformed(#[from] serde_json::Error),
}

/// What every version can read of every other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) version: u32,
    /// A reader must know this version or a newer one.
    pub(super) readable_from: u32,
    /// The program that wrote it.
    pub(super) program: String,
    /// The master's process.
    pub(super) pid: u32,
    /// A number that only a reader of this state can know.
    pub(super) nonce: u64,
}

impl Header {
    pub(super) fn new(readable_from: u32) -> Self {
        Self {
            version: VERSION,
            readable_from,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            nonce: fastrand::u64(..),
        }
    }

    fn check(&self) -> Result<(), StateError> {
        let (version, program) = (self.version, self.program.clone());
        if self.readable_from > newest() {
            let needs = self.readable_from;
            return Err(StateError::TooNew {
                version,
                needs,
                program,
            });
        }
        if version < OLDEST {
            return Err(StateError::TooOld { version, program });
        }
        Ok(())
    }
}

/// The envelope that is looked at before the letter is read.
#[derive(Deserialize)]
struct Envelope {
    header: Header,
}

/// One worker's channel.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct LinkState {
    pub(super) id: WorkerId,
    pub(super) stream: Fd,
    pub(super) has_shim: bool,
    #[serde(default)]
    pub(super) has_queues: bool,
    #[serde(default)]
    pub(super) has_stack: bool,
    /// The line that has not ended yet.
    pub(super) decoder: LineDecoder,
    /// What waits, and the handle that is not acknowledged.
    pub(super) channel: Channel<Fd>,
    /// The message on the wire, and how much of it is written.
    pub(super) writing: Option<(Outgoing<Fd>, usize)>,
    #[serde(default)]
    pub(super) resend: Option<Outgoing<Fd>>,
    /// What the loop said last.
    #[serde(default)]
    pub(super) orders: Vec<Outgoing<Fd>>,
    #[serde(default)]
    pub(super) malformed: u32,
    #[serde(default)]
    pub(super) complained: bool,
    #[serde(default)]
    pub(super) closed: bool,
}

/// The guard's process and the pipe to it.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct GuardState {
    pub(super) pid: Pid,
    pub(super) pipe: Fd,
}

/// `--admin`.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct AdminState {
    pub(super) listener: Fd,
    #[serde(default)]
    pub(super) token: Option<Token>,
}

/// One stream of one worker, with what was read of a line that has not ended.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct StreamState {
    pub(super) pipe: Fd,
    #[serde(flatten)]
    pub(super) begun: Begun,
}

/// What workers print, where it passes through the master.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct LogState {
    /// The last lines of each slot.
    #[serde(default)]
    pub(super) kept: Vec<Kept>,
    pub(super) streams: Vec<StreamState>,
}

/// All of a master.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct State {
    pub(super) header: Header,
    /// The clock, and what `CLOCK_MONOTONIC` said then, in microseconds.
    pub(super) clock: (Time, u64),
    pub(in crate::runtime) supervisor: Supervisor,
    pub(super) config: Config,
    pub(super) reread: Reread,
    pub(super) releases: Vec<(Generation, Release)>,
    pub(super) pids: Vec<(Pid, WorkerId)>,
    pub(super) links: Vec<LinkState>,
    pub(super) listeners: ListenersState,
    #[serde(default)]
    pub(super) hands: HandsState,
    #[serde(default)]
    pub(super) withheld: Vec<(WorkerId, Vec<Query>)>,
    #[serde(default)]
    pub(super) endings: Vec<(WorkerId, bool, Option<Exit>)>,
    #[serde(default)]
    pub(super) refused: Vec<(WorkerId, String)>,
    pub(super) oom: OomCounter,
    #[serde(default)]
    pub(super) probes: u64,
    #[serde(default)]
    pub(super) next_ticket: u64,
    pub(super) shim: Option<ShimState>,
    pub(super) guard: Option<GuardState>,
    #[serde(default)]
    pub(super) guarding: Guarding,
    /// The control socket, and its lock.
    pub(super) control: (Fd, Fd),
    /// Which file the socket has.
    #[serde(default)]
    pub(super) control_inode: Option<Inode>,
    /// Whether the pid file is there.
    #[serde(default)]
    pub(super) pidfile: bool,
    #[serde(default)]
    pub(super) admin: Option<AdminState>,
    /// What is counted.
    #[serde(default)]
    pub(super) figures: FiguresState,
    #[serde(default)]
    pub(super) bus: Option<BusState>,
    #[serde(default)]
    pub(super) logs: Option<LogState>,
    /// The binary that the next upgrade takes unless it is told another.
    pub(in crate::runtime) program: PathBuf,
    /// The path of the program that replaced the one before; its attempt's number is in `upgrade`.
    pub(super) upgrade: UpgradeView,
    /// The options for whose sake version 1 would misread it. Not written.
    #[serde(skip)]
    pub(super) news: Vec<&'static str>,
}

impl State {
    /// # Errors
    /// A path that is not UTF-8.
    pub(super) fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        #[cfg(debug_assertions)]
        if let Some(bytes) = super::pack::pretend(self)? {
            return Ok(bytes);
        }
        serde_json::to_vec(self)
    }

    /// # Errors
    /// A [`StateError`].
    pub(in crate::runtime) fn read(bytes: &[u8]) -> Result<Self, StateError> {
        let envelope: Envelope = serde_json::from_slice(bytes)?;
        envelope.header.check()?;
        Ok(serde_json::from_slice(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Written by masters of those versions: the first that could be replaced in place, and the first with what
    /// [`RICH_FROM`] is about, all of it in use.
    const WRITTEN: [(u32, &[u8]); 2] = [
        (1, include_bytes!("state-1.json")),
        (2, include_bytes!("state-2.json")),
    ];

    /// If this fails, a field was added without `#[serde(default)]`, or one that is
    /// needed has changed: masters that run now could not be upgraded.
    #[test]
    fn the_states_of_older_versions_are_read() {
        for (version, text) in WRITTEN {
            let state = State::read(text).unwrap();
            assert_eq!(state.header.version, version);
            assert!(!state.links.is_empty() && !state.pids.is_empty());
        }
        let state = State::read(WRITTEN[1].1).unwrap();
        assert!(state.listeners.has_seats() && state.hands.held() > 0);
        let admin = state.admin.expect("--admin");
        assert!(admin.token.is_some());
        let logs = state.logs.expect("--log-file");
        assert!(!logs.kept.is_empty() && !logs.streams.is_empty());
    }

    /// Where `new` has not what `old` has, or says it otherwise.
    fn missing(old: &Value, new: &Value, at: &str, found: &mut Vec<String>) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => {
                for (key, value) in old {
                    let at = format!("{at}/{key}");
                    match new.get(key) {
                        Some(new) => missing(value, new, &at, found),
                        None => found.push(at),
                    }
                }
            }
            (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
                for (index, (old, new)) in old.iter().zip(new).enumerate() {
                    missing(old, new, &format!("{at}/{index}"), found);
                }
            }
            // The header is the writer's own.
            _ if old == new || at.starts_with("/header/") => {}
            _ => found.push(at.to_owned()),
        }
    }

    /// The way back: all that an older version wrote, and so reads, is still written in the same words. If this fails,
    /// masters could not be downgraded.
    #[test]
    fn what_older_versions_read_is_still_written() {
        for (version, text) in WRITTEN {
            let old: Value = serde_json::from_slice(text).unwrap();
            let again = State::read(text).unwrap().write().unwrap();
            let mut found = vec![];
            missing(
                &old,
                &serde_json::from_slice(&again).unwrap(),
                "",
                &mut found,
            );
            assert!(found.is_empty(), "version {version}: {found:#?}");
        }
    }

    #[test]
    fn who_can_read_what() {
        let header = |version, readable_from| Header {
            version,
            readable_from,
            ..Header::new(READABLE_FROM)
        };
        assert!(header(VERSION, READABLE_FROM).check().is_ok());
        assert!(header(VERSION + 1, VERSION).check().is_ok());
        let new = header(VERSION + 2, VERSION + 1).check().unwrap_err();
        let needs = format!("needs a binary that reads {}", VERSION + 1);
        assert!(new.to_string().contains(&needs), "{new}");
        let old = header(OLDEST - 1, 0).check().unwrap_err();
        assert!(matches!(old, StateError::TooOld { version: 0, .. }));
    }
}
