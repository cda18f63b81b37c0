//! What a master finds of one that was killed under the same name.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};

use super::{COMMAND, MAX_FILE, POLL, SUCCESSOR_GRACE};
use crate::{files, process, procfs};
use rcluster_core::supervisor::Pid;

/// A worker of a master that was killed together with its guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub(super) pid: Pid,
    /// When it started, as `/proc` counts: nobody else of this number has the same.
    pub(super) born: u64,
}

impl Orphan {
    pub(super) fn read(line: &str) -> Option<Self> {
        let (pid, born) = line.split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok().map(Pid).filter(|pid| pid.0 > 1)?,
            born: born.parse().ok()?,
        })
    }

    pub(super) fn lives(self) -> bool {
        procfs::born(self.pid) == Some(self.born) && procfs::is_alive(self.pid)
    }
}

/// What was found of a master that was killed.
#[derive(Debug, Default)]
pub struct Predecessor {
    /// Workers of its were still there.
    pub left_workers: bool,
    /// Those that nobody guards, for [`Guard::end`].
    pub orphans: Vec<Orphan>,
}

/// Waits until the orphans of a predecessor have let go of their listening
/// sockets. Only under the control lock. Bounded by `limit`: with zero
/// the predecessor's guard is told that we are here, and ends its orphans by itself.
pub fn relieve_predecessor(path: &Path, limit: Duration) -> Predecessor {
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let Ok(mut file) = options else {
        return Predecessor::default();
    };
    let text = files::rest(&file, MAX_FILE).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines = text.lines();
    let guard = lines
        .next()
        .and_then(|line| line.trim().parse().ok())
        .map(Pid);
    let guard = guard.filter(|pid| {
        // The number may be somebody else's by now.
        procfs::command_line(*pid).is_none_or(|line| line.contains(COMMAND))
    });
    let started = Instant::now();
    let mut told = false;
    while let Err((back, _)) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        file = back;
        if let Some(pid) = guard.filter(|_| !told) {
            process::signal(pid, Signal::SIGUSR1);
        }
        told = true;
        if started.elapsed() >= limit {
            break;
        }
        std::thread::sleep(POLL);
    }
    let mut orphans = vec![];
    if !told {
        // Its guard was killed, too.
        orphans.extend(lines.filter_map(Orphan::read).filter(|o| o.lives()));
    }
    let left_workers = told || !orphans.is_empty();
    while orphans.iter().any(|o| procfs::listens(o.pid)) && started.elapsed() < limit {
        if started.elapsed() >= SUCCESSOR_GRACE {
            for orphan in orphans.iter().filter(|o| procfs::listens(o.pid)) {
                process::signal_group(orphan.pid, Signal::SIGKILL);
            }
        }
        std::thread::sleep(POLL);
        orphans.retain(|orphan| orphan.lives());
    }
    // Our own guard has a file of its own: that one stays the other's, without a name.
    let _ = fs::remove_file(path);
    Predecessor {
        left_workers,
        orphans,
    }
}

/// Whether a killed master left anybody: its guard, or workers that nobody guards. `path` is the guard's file.
pub fn left_somebody(path: &Path) -> bool {
    if crate::control_dir::is_held(path) {
        return true;
    }
    match files::read_text(path, MAX_FILE) {
        Ok(text) => (text.lines().skip(1).filter_map(Orphan::read)).any(Orphan::lives),
        Err(_) => path.exists(),
    }
}
