//! Where a sink's bytes end up: a standard stream, or files.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{File, OpenOptions},
    io::{self, IoSlice, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use super::{plan::PathPlan, render::Stream};
use crate::sys::terminal;

/// Which file: slot and stream. The same everywhere for a standard stream.
pub(super) type Key = (u32, Stream);

/// Where bytes go.
#[derive(Debug)]
pub(super) enum Target {
    /// A standard stream of the master.
    Standard(File),
    /// `--log-file`.
    Files {
        plan: PathPlan,
        /// Do not follow a symbolic link: the folder may be another user's.
        careful: bool,
        open: BTreeMap<PathBuf, File>,
    },
}

impl Target {
    /// A standard stream, by a descriptor of our own.
    pub(super) fn standard(fd: impl AsFd) -> io::Result<Self> {
        let fd: OwnedFd = fd.as_fd().try_clone_to_owned()?;
        Ok(Self::Standard(File::from(fd)))
    }

    /// Files, those of the first `slots` slots opened at once: what is wrong is said at the start.
    pub(super) fn files(
        plan: &PathPlan,
        slots: u32,
        careful: bool,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let mut open = BTreeMap::new();
        for slot in 0..slots {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let path = plan.expand(slot, stream);
                if let Entry::Vacant(vacant) = open.entry(path) {
                    let file = open_file(vacant.key(), careful);
                    let file = file.map_err(|e| (vacant.key().clone(), e))?;
                    vacant.insert(file);
                }
            }
        }
        Ok(Self::Files {
            plan: plan.clone(),
            careful,
            open,
        })
    }

    /// Writes what it can; may block.
    pub(super) fn write(&mut self, key: Key, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Standard(file) => file.write_vectored(slices),
            Self::Files {
                plan,
                careful,
                open,
            } => {
                let file = match open.entry(plan.expand(key.0, key.1)) {
                    Entry::Occupied(file) => file.into_mut(),
                    Entry::Vacant(vacant) => {
                        let file = open_file(vacant.key(), *careful)?;
                        vacant.insert(file)
                    }
                };
                file.write_vectored(slices)
            }
        }
    }

    /// Opens each file anew, under its name: it was renamed by logrotate. One that
    /// cannot be opened stays as it is, and is named.
    pub(super) fn reopen(&mut self) -> Vec<(PathBuf, io::Error)> {
        let Self::Files { careful, open, .. } = self else {
            return vec![];
        };
        let mut failed = vec![];
        for (path, file) in open.iter_mut() {
            match open_file(path, *careful) {
                Ok(fresh) => *file = fresh,
                Err(error) => failed.push((path.clone(), error)),
            }
        }
        failed
    }

    /// Waits until a non-blocking target takes bytes again, for a second at most.
    pub(super) fn wait(&self, key: Key) {
        match self {
            Self::Standard(file) => terminal::wait_writable(file),
            Self::Files { plan, open, .. } => {
                if let Some(file) = open.get(&plan.expand(key.0, key.1)) {
                    terminal::wait_writable(file);
                }
            }
        }
    }
}

fn open_file(path: &Path, careful: bool) -> io::Result<File> {
    let mut flags = libc::O_NOCTTY;
    if careful {
        flags |= libc::O_NOFOLLOW;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        // A FIFO without a reader is an error now, not a wait for ever.
        .custom_flags(flags | libc::O_NONBLOCK)
        .open(path)
}
