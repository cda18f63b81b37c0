//! Where a sink's bytes end up: a standard stream, or files.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::{self, IoSlice, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{plan::PathPlan, render::Stream};
use rcluster_sys::{safe_path::Use, terminal};

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
        /// With whose rights they are opened.
        how: Use,
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
        how: &Use,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let mut open = BTreeMap::new();
        for slot in 0..slots {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let path = plan.expand(slot, stream);
                if let Entry::Vacant(vacant) = open.entry(path) {
                    let file = open_file(vacant.key(), how);
                    let file = file.map_err(|e| (vacant.key().clone(), e))?;
                    vacant.insert(file);
                }
            }
        }
        Ok(Self::Files {
            plan: plan.clone(),
            how: how.clone(),
            open,
        })
    }

    /// Writes what it can; may block.
    pub(super) fn write(&mut self, key: Key, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Standard(file) => file.write_vectored(slices),
            Self::Files { plan, how, open } => {
                let file = match open.entry(plan.expand(key.0, key.1)) {
                    Entry::Occupied(file) => file.into_mut(),
                    Entry::Vacant(vacant) => {
                        let file = open_file(vacant.key(), how)?;
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
        let Self::Files { how, open, .. } = self else {
            return vec![];
        };
        let mut failed = vec![];
        for (path, file) in open.iter_mut() {
            match open_file(path, how) {
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

fn open_file(path: &Path, how: &Use) -> io::Result<File> {
    // A FIFO without a reader is an error now, not a wait for ever.
    how.at(path, |place| place.open_to_append(0o640))
}
