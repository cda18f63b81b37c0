//! Descriptors by number, on their way into the next program of this process.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use rcluster_sys::handover;

/// A descriptor in the state: its number, which `execve(2)` keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::runtime) struct Fd(RawFd);

/// Notes which descriptors must stay open.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Packing(BTreeSet<RawFd>);

impl Packing {
    /// Notes one. The caller keeps it open until the exec.
    pub(in crate::runtime) fn carry(&mut self, fd: &impl AsRawFd) -> Fd {
        self.0.insert(fd.as_raw_fd());
        Fd(fd.as_raw_fd())
    }

    /// All that were noted.
    pub(super) fn numbers(self) -> BTreeSet<RawFd> {
        self.0
    }
}

/// Takes descriptors over, each number once.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Unpacking {
    shared: HashMap<RawFd, Arc<OwnedFd>>,
    own: BTreeSet<RawFd>,
}

impl Unpacking {
    /// One that several may hold.
    ///
    /// # Errors
    /// `EBADF` when it was not left open.
    pub(in crate::runtime) fn shared(&mut self, fd: Fd) -> io::Result<Arc<OwnedFd>> {
        if let Some(there) = self.shared.get(&fd.0) {
            return Ok(Arc::clone(there));
        }
        let there = Arc::new(self.own(fd)?);
        self.shared.insert(fd.0, Arc::clone(&there));
        Ok(there)
    }

    /// One that nobody else holds.
    ///
    /// # Errors
    /// `EBADF` when it was not left open, `InvalidData` when it was taken already.
    pub(in crate::runtime) fn own(&mut self, Fd(number): Fd) -> io::Result<OwnedFd> {
        if !self.own.insert(number) {
            let why = format!("descriptor {number} is named twice");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("descriptor {number}: {error}"))
        };
        handover::adopt(number).map_err(named)
    }
}
