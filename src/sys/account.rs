//! Using files with another user's rights.

use std::{io, thread};

use serde::{Deserialize, Serialize};

use crate::supervisor::Pid;

/// A user, as far as the file system asks for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::unsafe_derive_deserialize,
    reason = "its unsafe calls rely on nothing that the fields promise"
)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Account {
    /// With which rights a process uses files now (`Uid`, `Gid` and `Groups` of `proc_pid_status(5)`).
    ///
    /// # Errors
    /// The errno of `open(2)`; `InvalidData` for a file that lacks them.
    pub fn of_process(pid: Pid) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let numbers = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            numbers.collect::<Result<Vec<_>, _>>().ok()
        };
        let last = |name| numbers(name)?.last().copied();
        let found = || {
            Some(Self {
                uid: last("Uid:")?,
                gid: last("Gid:")?,
                groups: numbers("Groups:")?,
            })
        };
        found().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Does something with this user's rights on files, on a thread of its own: other threads keep theirs.
    ///
    /// # Errors
    /// That of `work`; the errno of `clone(2)`, `setgroups(2)`, `setfsgid(2)` or `setfsuid(2)`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("as-worker".to_owned())
                .stack_size(256 * 1024)
                .spawn_scoped(scope, || {
                    self.assume()?;
                    work()
                })?;
            let panicked = |_| Err(io::Error::other("a thread panicked"));
            thread.join().unwrap_or_else(panicked)
        })
    }

    /// For this thread alone: the system calls, and not glibc's functions, which change all threads.
    fn assume(&self) -> io::Result<()> {
        let refused = || io::Error::from_raw_os_error(libc::EPERM);
        // SAFETY: setgroups reads as many numbers as it is told there are; the others take numbers.
        #[expect(unsafe_code)]
        unsafe {
            if libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            // They return what was before, whether they succeed or not (setfsuid(2)).
            libc::syscall(libc::SYS_setfsgid, self.gid);
            libc::syscall(libc::SYS_setfsuid, self.uid);
            let group = libc::syscall(libc::SYS_setfsgid, -1);
            let user = libc::syscall(libc::SYS_setfsuid, -1);
            if group != i64::from(self.gid) || user != i64::from(self.uid) {
                return Err(refused());
            }
        }
        Ok(())
    }

    pub(super) fn has_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
