//! Paths that somebody else may be able to redirect, and with whose rights the master uses them.
//!
//! The rule for a master that runs as root: a path that a worker can choose is used with the worker's rights. A path of
//! an option is used with root's rights only if nobody but root can change where it leads: every folder on the way, also
//! through symbolic links, belongs to root and can be written to by root alone (or is sticky, as `/tmp`, and what is in
//! it belongs to root). [`Use`] holds the rule; [`Place`] is a name in a folder that is open, so that nobody can swap
//! the folder between two steps.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
    unistd::{LinkatFlags, UnlinkatFlags, linkat, unlinkat},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use super::account::{Account, Need};

/// Most symbolic links on one way (`MAXSYMLINKS` of the kernel).
const MAX_LINKS: u32 = 40;
/// The one folder that a group other than root's may write to: Ubuntu gives it to its log daemon.
const LOGS: &str = "/var/log";
const FOLDER: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Why a path is not used.
#[derive(Debug, Error)]
pub enum Refusal {
    /// Somebody else can change where it leads.
    #[error("{path} {why}, and could lead root to another file")]
    Unsafe {
        /// The folder, or the entry of a sticky folder.
        path: PathBuf,
        /// Who can.
        why: String,
    },
    /// The kernel says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<nix::errno::Errno> for Refusal {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Io(error) => error,
            Refusal::Unsafe { .. } => Self::new(io::ErrorKind::PermissionDenied, refusal),
        }
    }
}

/// With whose rights a path is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Use {
    /// Our own, wherever it leads: we are not root, or whoever chose it is root.
    Own,
    /// Ours, as long as only root can change where it leads; else those of this account. Without one it is refused.
    Option(Option<Account>),
    /// Those of this account.
    As(Account),
}

impl Use {
    /// For a path of an option. `worker` is whose rights workers have, if not ours.
    pub fn option(worker: Option<&Account>) -> Self {
        if nix::unistd::geteuid().is_root() {
            Self::Option(worker.cloned())
        } else {
            Self::Own
        }
    }

    /// For a file that is read for workers. Without an account of their own they have our rights.
    pub fn for_workers(worker: Option<&Account>) -> Self {
        match worker {
            Some(_) => Self::option(worker),
            None => Self::Own,
        }
    }

    /// Does something with a path, with the right rights. `work` may follow the path: nobody can redirect it to what
    /// those rights do not allow.
    ///
    /// # Errors
    /// That of `work`, or why the path is not used.
    pub fn run<T: Send>(
        &self,
        path: &Path,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match self {
            Self::Own => work(),
            Self::As(account) => account.run(work),
            Self::Option(account) => match (walk(path, account.as_ref()), account) {
                (Ok(_), _) => work(),
                (Err(Refusal::Unsafe { .. }), Some(account)) => account.run(work),
                (Err(refusal), _) => Err(refusal.into()),
            },
        }
    }

    /// The same with the folder held open.
    ///
    /// # Errors
    /// That of `work`, or why the path is not used.
    pub fn at<T: Send>(
        &self,
        path: &Path,
        work: impl FnOnce(&Place) -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match self {
            Self::Own => work(&Place::plain(path)?),
            Self::As(account) => account.run(|| work(&Place::plain(path)?.nameable())),
            Self::Option(account) => match (walk(path, account.as_ref()), account) {
                (Ok(place), _) => work(&place.named(path)),
                (Err(Refusal::Unsafe { .. }), Some(account)) => {
                    account.run(|| work(&Place::plain(path)?.nameable()))
                }
                (Err(refusal), _) => Err(refusal.into()),
            },
        }
    }
}

/// Whether nobody but root (and we) can change where a path leads. What it leads to need not exist; its folder must.
///
/// # Errors
/// A [`Refusal`].
pub fn check(path: &Path) -> Result<(), Refusal> {
    walk(path, None).map(drop)
}

/// A name in a folder that is open.
#[derive(Clone, Debug)]
pub struct Place {
    folder: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
    /// The path can be used instead: nobody can redirect it to what our rights do not allow.
    by_path: bool,
    /// Others can make files in the folder, but not replace root's.
    shared: bool,
    /// The name is a symbolic link that is to be followed.
    follow: bool,
}

impl Place {
    fn plain(path: &Path) -> io::Result<Self> {
        let no_file = || io::Error::from_raw_os_error(libc::EISDIR);
        let name = path.file_name().ok_or_else(no_file)?.to_owned();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        let own = !nix::unistd::geteuid().is_root();
        Ok(Self {
            folder: Arc::new(open(folder, FOLDER, Mode::empty())?),
            name,
            path: path.to_owned(),
            by_path: own || walk(path, None).is_ok(),
            shared: false,
            follow: own,
        })
    }

    /// As it was given, unless its last name is a symbolic link.
    fn named(self, path: &Path) -> Self {
        if path.file_name() == Some(&self.name) {
            Self {
                path: path.to_owned(),
                ..self
            }
        } else {
            self
        }
    }

    fn nameable(self) -> Self {
        Self {
            by_path: true,
            ..self
        }
    }

    /// As it was given, or where a symbolic link leads.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path itself may be given to the kernel.
    pub fn is_nameable(&self) -> bool {
        self.by_path
    }

    /// Another name in the same folder.
    #[must_use]
    pub fn beside(&self, name: impl Into<OsString>) -> Self {
        let name = name.into();
        Self {
            path: self.path.with_file_name(&name),
            name,
            follow: false,
            ..self.clone()
        }
    }

    /// The name.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// A path to it by way of the open folder; valid as long as this value lives.
    pub fn through_folder(&self) -> PathBuf {
        let folder = self.folder.as_raw_fd();
        let mut path = PathBuf::from(format!("/proc/self/fd/{folder}"));
        path.push(&self.name);
        path
    }

    /// What is there; a symbolic link is not followed.
    ///
    /// # Errors
    /// The errno of `fstatat(2)`.
    pub fn stat(&self) -> io::Result<FileStat> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(fstatat(&*self.folder, self.name.as_os_str(), flags)?)
    }

    /// Removes it.
    ///
    /// # Errors
    /// The errno of `unlinkat(2)`.
    pub fn remove(&self) -> io::Result<()> {
        let flag = UnlinkatFlags::NoRemoveDir;
        Ok(unlinkat(&*self.folder, self.name.as_os_str(), flag)?)
    }

    /// Gives it a second name in its folder.
    ///
    /// # Errors
    /// The errno of `linkat(2)`.
    pub fn link(&self, to: &Self) -> io::Result<()> {
        let (from, name) = (self.name.as_os_str(), to.name.as_os_str());
        let flags = LinkatFlags::empty();
        Ok(linkat(&*self.folder, from, &*to.folder, name, flags)?)
    }

    /// Opens it: close-on-exec, never a controlling terminal, never waiting for the other end of a FIFO.
    ///
    /// # Errors
    /// The errno of `openat(2)`; `ELOOP` for a symbolic link; a [`Refusal`] for a file of several names in a folder in
    /// which others can make names.
    pub fn open(&self, flags: OFlag, mode: u32) -> io::Result<File> {
        let mut flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        if !self.follow {
            flags |= OFlag::O_NOFOLLOW;
        }
        let mode = Mode::from_bits_truncate(mode);
        let file = openat(&*self.folder, self.name.as_os_str(), flags, mode)?;
        let stat = fstat(&file)?;
        if self.shared && kind(&stat) == SFlag::S_IFREG && stat.st_nlink > 1 {
            return Err(Refusal::Unsafe {
                path: self.path.clone(),
                why: "has a second name, which others may have made".to_owned(),
            }
            .into());
        }
        Ok(File::from(file))
    }

    /// Opens it to append to it; makes it with this mode if it is not there.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn open_to_append(&self, mode: u32) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
        self.open(flags, mode)
    }

    /// Adds permissions to a socket's file, if it is still this one.
    ///
    /// # Errors
    /// The errno of `openat(2)` or `chmod(2)`.
    pub fn add_mode(&self, mode: u32, inode: (u64, u64)) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&*self.folder, self.name.as_os_str(), flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let there = stat.st_mode & 0o7777;
        if (stat.st_dev, stat.st_ino) == inode && there & mode != mode {
            // fchmod(2) does not take such a descriptor.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let mode = std::os::unix::fs::PermissionsExt::from_mode(there | mode);
            std::fs::set_permissions(path, mode)?;
        }
        Ok(())
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// One folder on the way, and its path.
type Step = (Arc<OwnedFd>, PathBuf, bool);

/// Goes along a path, name by name, and follows symbolic links by itself, so that what is checked is what is used.
fn walk(path: &Path, worker: Option<&Account>) -> Result<Place, Refusal> {
    let mut todo: VecDeque<OsString> = names(path).collect();
    let mut way = vec![root()?];
    if !path.is_absolute() {
        let here = std::env::current_dir()?;
        todo = names(&here).chain(names(path)).collect();
    }
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let Some((folder, at, shared)) = way.last().cloned() else {
            break;
        };
        let place = |follow| Place {
            folder: Arc::clone(&folder),
            name: name.clone(),
            path: at.join(&name),
            by_path: true,
            shared,
            follow,
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let entry = match openat(&*folder, name.as_os_str(), flags, Mode::empty()) {
            Ok(entry) => entry,
            Err(nix::errno::Errno::ENOENT) if todo.is_empty() => return Ok(place(false)),
            Err(errno) => return Err(errno.into()),
        };
        let stat = fstat(&entry)?;
        let here = at.join(&name);
        let refused = |why: String| Refusal::Unsafe {
            path: here.clone(),
            why,
        };
        if shared && !is_ours(stat.st_uid) {
            return Err(refused(format!("belongs to uid {}", stat.st_uid)));
        }
        if kind(&stat) == SFlag::S_IFLNK {
            // What `/dev/stdout` leads to in the end: a descriptor of our own, which has no path.
            if todo.is_empty() && is_ours(stat.st_uid) && is_procfs(&folder) {
                return Ok(place(true));
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(nix::errno::Errno::ELOOP.into());
            }
            let target = PathBuf::from(readlinkat(&entry, "")?);
            if target.is_absolute() {
                way.truncate(1);
            }
            todo = names(&target).chain(todo).collect();
        } else if todo.is_empty() {
            return Ok(place(false));
        } else if kind(&stat) == SFlag::S_IFDIR {
            let shared = shared_by_others(&stat, &here, worker).map_err(refused)?;
            way.push((Arc::new(entry), here, shared));
        } else {
            return Err(nix::errno::Errno::ENOTDIR.into());
        }
    }
    // It ended with `..`, or is the root.
    Err(nix::errno::Errno::EISDIR.into())
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let names = parts.filter(|name| !name.is_empty() && *name != b".");
    let names: Vec<_> = names
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect();
    names.into_iter()
}

fn root() -> Result<Step, Refusal> {
    let path = PathBuf::from("/");
    let folder = openat(AT_FDCWD, "/", FOLDER, Mode::empty())?;
    let stat = fstat(&folder)?;
    let shared = shared_by_others(&stat, &path, None).map_err(|why| Refusal::Unsafe {
        path: path.clone(),
        why,
    })?;
    Ok((Arc::new(folder), path, shared))
}

/// Whether others can make names in a folder, but not replace those of root.
///
/// # Errors
/// Who can do anything there.
fn shared_by_others(
    stat: &FileStat,
    path: &Path,
    worker: Option<&Account>,
) -> Result<bool, String> {
    if !is_ours(stat.st_uid) {
        return Err(format!("belongs to uid {}", stat.st_uid));
    }
    // An access control list that lets others write shows in the group's bits (acl(5)).
    let group = stat.st_mode & 0o020 != 0
        && ![0, nix::unistd::getegid().as_raw()].contains(&stat.st_gid)
        && (path != Path::new(LOGS) || worker.is_some_and(|w| w.has_group(stat.st_gid)));
    let all = stat.st_mode & 0o002 != 0;
    match (group || all, stat.st_mode & libc::S_ISVTX != 0) {
        (false, _) => Ok(false),
        (true, true) => Ok(true),
        (true, false) if all => Err("can be written to by everybody".to_owned()),
        (true, false) => Err(format!("can be written to by group {}", stat.st_gid)),
    }
}

/// Root, we, or, in a user namespace that does not map them, everybody outside of it: no process in it is theirs.
fn is_ours(uid: u32) -> bool {
    const OVERFLOW: u32 = 65534; // /proc/sys/kernel/overflowuid
    uid == 0 || uid == nix::unistd::geteuid().as_raw() || uid == OVERFLOW && !is_mapped(OVERFLOW)
}

/// Whether the user namespace knows a user (`/proc/PID/uid_map` of `user_namespaces(7)`).
fn is_mapped(uid: u32) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else {
        return true;
    };
    map.lines().any(|line| {
        let mut numbers = line
            .split_ascii_whitespace()
            .filter_map(|n| n.parse::<u32>().ok());
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        first
            .zip(count)
            .is_none_or(|(first, count)| uid >= first && uid - first < count)
    })
}

fn is_procfs(folder: &OwnedFd) -> bool {
    nix::sys::statfs::fstatfs(folder)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests;
