//! Every exit code of `rcluster`, in one place.

use serde::{Deserialize, Serialize};

/// Exit codes of the master and of its commands. The numbers are a contract
/// with scripts and service managers: they never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// Clean stop; the command did what it was asked.
    Ok = 0,
    /// Internal error: a bug, or a machine that failed us.
    Internal = 1,
    /// Wrong usage or configuration; nothing was started.
    Usage = 2,
    /// First boot: every worker died before one became ready.
    BootFailed = 3,
    /// First boot: no worker became ready within the ready timeout.
    NeverReady = 4,
    /// An address could not be bound.
    BindFailed = 5,
    /// Stopped, but some workers had to be killed.
    Killed = 6,
    /// Reload: the new workers failed; the old ones still serve. Rehearsal: one of its reloads failed.
    ReloadFailed = 10,
    /// Reload: timed out; generations are mixed. Rehearsal: not done within `--limit`.
    ReloadTimedOut = 11,
    /// Reload: superseded by a later request or by a stop.
    Superseded = 12,
    /// No master answers under that name or control path.
    NoMaster = 13,
    /// Rehearsal: requests were lost that no killed worker had accepted.
    Lost = 14,
    /// `status --ready`: a master answers, but wants no new traffic.
    NotReady = 15,
    /// Upgrade: refused, by the new binary or because of the moment; all goes on as before.
    Refused = 16,
    /// Rehearsal: ended early by SIGINT or SIGTERM, and put away.
    Interrupted = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
