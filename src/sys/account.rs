//! Using files with another user's rights.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};
use serde::{Deserialize, Serialize};

use super::identity;
use rcluster_core::supervisor::Pid;

/// What a path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A file that is read.
    Read,
    /// A program.
    Execute,
    /// A working directory.
    Enter,
}

/// A file or folder that a user may not use.
#[derive(Debug)]
pub struct Closed {
    path: PathBuf,
    user: String,
    owner: String,
    mode: u32,
    folder: bool,
}

impl Closed {
    fn new(path: PathBuf, uid: u32) -> Self {
        let name = |uid| identity::name_of(uid).unwrap_or_else(|| format!("uid {uid}"));
        let meta = fs::metadata(&path);
        let meta = meta.as_ref();
        Self {
            user: name(uid),
            owner: meta.map_or_else(|_| "unknown".to_owned(), |meta| name(meta.uid())),
            mode: meta.map_or(0, |meta| meta.mode() & 0o7777),
            folder: meta.is_ok_and(fs::Metadata::is_dir),
            path,
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            user,
            owner,
            mode,
            folder,
        } = self;
        let path = path.display();
        let (kind, way) = if *folder {
            ("folder", "search it (chmod o+x, or its group)")
        } else {
            (
                "file",
                "use it (chmod o+r, o+x for a program, or its group)",
            )
        };
        write!(
            f,
            "the {kind} {path} is closed to user {user} (owner {owner}, mode {mode:04o}); let that user {way}, or choose another --user"
        )
    }
}

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

    /// Why this user cannot use a path so, if that is so: the folder on the way that it may not search, or the path
    /// itself. An error other than `EACCES` is none of it.
    ///
    /// # Errors
    /// What is closed to it.
    pub fn may(&self, path: &Path, need: Need) -> Result<(), Closed> {
        let flags = match need {
            Need::Read => AccessFlags::R_OK,
            Need::Execute | Need::Enter => AccessFlags::X_OK,
        };
        let closed = |path: &Path, flags| {
            // AT_EACCESS: with the rights of this thread, and not those of the process (faccessat2(2), Linux 5.8).
            faccessat(AT_FDCWD, path, flags, AtFlags::AT_EACCESS) == Err(Errno::EACCES)
        };
        let first = || {
            if !closed(path, flags) {
                return Ok(None);
            }
            let folders: Vec<_> = path.ancestors().skip(1).collect();
            let folder = folders
                .into_iter()
                .rev()
                .find(|f| closed(f, AccessFlags::X_OK));
            Ok(Some(folder.unwrap_or(path).to_owned()))
        };
        // Where its rights cannot be had, the worker finds out by itself.
        match self.run(first).ok().flatten() {
            None => Ok(()),
            Some(closed) => Err(Closed::new(closed, self.uid)),
        }
    }

    /// For this thread alone, and for those that it starts, for as long as they run: the system calls, and not glibc's
    /// functions, which change all threads.
    ///
    /// # Errors
    /// The errno of `setgroups(2)`; `EPERM` where the others are refused.
    pub fn assume(&self) -> io::Result<()> {
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
