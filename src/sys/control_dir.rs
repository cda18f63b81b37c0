//! The folder of control sockets, and the lock that makes a name one master's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use super::{
    files, listener, procfs,
    safe_path::{self, Refusal, Use},
};
use rcluster_core::supervisor::Pid;

/// Most bytes of a file that holds a pid.
pub(super) const PID_LENGTH: u64 = 32;

/// Why a control path cannot be used.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The folder cannot be made or looked at.
    #[error("failed to use the control folder {0}: {1}")]
    Folder(PathBuf, #[source] io::Error),
    /// Somebody else could put a socket in its place.
    #[error(
        "the control folder {0} is not safe: {1}; use a folder that only you can write to (chmod 700)"
    )]
    Unsafe(PathBuf, String),
    /// Something that is no socket is in the way.
    #[error("{0} exists and is not a socket; it is left alone: use another --control path")]
    InTheWay(PathBuf),
    /// Somebody who is no rcluster listens there.
    #[error("another program listens on {0}; it is left alone: use another --control path")]
    InUse(PathBuf),
    /// The path does not fit into a socket address.
    #[error("the control path {0} is too long: a socket path has at most {max} bytes", max = super::listener::MAX_PATH)]
    TooLong(PathBuf),
    /// Another master has the name.
    #[error(
        "another rcluster already runs as `{name}`{pid}; stop it with `rcluster stop --control {path}`, or give this one another --name",
        pid = .pid.map(|p| format!(" (pid {p})")).unwrap_or_default(),
        path = .path.display()
    )]
    Taken {
        /// The name.
        name: String,
        /// The other master.
        pid: Option<Pid>,
        /// Its control path.
        path: PathBuf,
    },
    /// The lock file cannot be made.
    #[error("failed to lock {0}: {1}")]
    Lock(PathBuf, #[source] io::Error),
}

/// The folder for control sockets of this user: below `XDG_RUNTIME_DIR`, in
/// `/run` for root, in the temporary folder for others.
pub fn default_folder() -> PathBuf {
    let uid = nix::unistd::geteuid();
    let named = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty());
    let named = named.map(|dir| PathBuf::from(dir).join("rcluster"));
    // After `su` or `sudo -E` it is the folder of who root was before.
    let theirs = |folder: &Path| {
        uid.is_root() && matches!(safe_path::check(folder), Err(Refusal::Unsafe { .. }))
    };
    match named.filter(|folder| !theirs(folder)) {
        Some(folder) => folder,
        None if uid.is_root() && Path::new("/run").is_dir() => PathBuf::from("/run/rcluster"),
        None => std::env::temp_dir().join(format!("rcluster-{uid}")),
    }
}

/// Makes the default folder (0700) and refuses one that is not ours alone.
///
/// # Errors
/// [`ControlError::Folder`] and [`ControlError::Unsafe`].
pub fn prepare_default(folder: &Path) -> Result<(), ControlError> {
    match DirBuilder::new().mode(0o700).recursive(true).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ControlError::Folder(folder.to_owned(), error));
        }
        Ok(()) | Err(_) => {}
    }
    let meta = fs::symlink_metadata(folder)
        .map_err(|error| ControlError::Folder(folder.to_owned(), error))?;
    let wrong = |why: &str| Err(ControlError::Unsafe(folder.to_owned(), why.to_owned()));
    if meta.file_type().is_symlink() {
        wrong("it is a symbolic link")
    } else if !meta.is_dir() {
        wrong("it is not a folder")
    } else if meta.uid() != nix::unistd::geteuid().as_raw() {
        wrong("it belongs to another user")
    } else if meta.mode() & 0o077 != 0 {
        wrong("others can enter it")
    } else {
        Ok(())
    }
}

/// Refuses a folder in which others could put a socket in place of ours.
///
/// # Errors
/// [`ControlError::Folder`], [`ControlError::Unsafe`], [`ControlError::TooLong`].
pub fn check_path(path: &Path) -> Result<(), ControlError> {
    if path.as_os_str().len() > super::listener::MAX_PATH {
        return Err(ControlError::TooLong(path.to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let meta =
        fs::metadata(folder).map_err(|error| ControlError::Folder(folder.to_owned(), error))?;
    let us = nix::unistd::geteuid().as_raw();
    let wrong = |why: &str| Err(ControlError::Unsafe(folder.to_owned(), why.to_owned()));
    if !meta.is_dir() {
        wrong("it is not a folder")
    } else if meta.uid() != us && meta.uid() != 0 {
        wrong("it belongs to another user")
    } else if meta.mode() & 0o022 != 0 {
        wrong("others can write to it")
    } else {
        root_alone(path)
    }
}

/// For root: nobody else may swap a folder on the way.
fn root_alone(path: &Path) -> Result<(), ControlError> {
    match Use::option(None).run(path, || Ok(())) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error().is_none() => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            Err(ControlError::Unsafe(folder.to_owned(), error.to_string()))
        }
        Err(error) => Err(ControlError::Folder(path.to_owned(), error)),
    }
}

/// How often, and after which pause, a lock is tried again whose holder is not the one that it names.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The lock on a control path. Held for the life of the master; its file goes
/// with it.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: Flock<File>,
}

impl Lock {
    /// Takes the lock beside a control path.
    ///
    /// # Errors
    /// [`ControlError::Taken`] when another master holds it, [`ControlError::Lock`] otherwise.
    pub fn take(control: &Path, name: &str) -> Result<Self, ControlError> {
        let path = control.with_extension("lock");
        let failed = |error: io::Error| ControlError::Lock(path.clone(), error);
        let mut tries = TRIES;
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .map_err(failed)?;
            let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => locked,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                    let text = files::rest(&file, PID_LENGTH).unwrap_or_default();
                    let pid = String::from_utf8_lossy(&text).trim().parse().ok().map(Pid);
                    if tries > 0 && !pid.is_some_and(procfs::is_alive) {
                        // It holds it for a moment, to remove what a killed master left; or it has not written its number.
                        tries -= 1;
                        std::thread::sleep(PAUSE);
                        continue;
                    }
                    return Err(ControlError::Taken {
                        name: name.to_owned(),
                        pid,
                        path: control.to_owned(),
                    });
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            // The holder before us may have removed the file between open and lock.
            let ours = locked.metadata().map_err(failed)?.ino();
            if fs::symlink_metadata(&path).is_ok_and(|m| m.ino() == ours) {
                locked.set_len(0).map_err(failed)?;
                locked
                    .write_all(std::process::id().to_string().as_bytes())
                    .map_err(failed)?;
                return Ok(Self { path, file: locked });
            }
        }
    }
}

impl Lock {
    /// The locked file, for the next program of this process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The lock that the program before this one took: it goes with the open file.
    ///
    /// # Errors
    /// [`ControlError::Lock`] for a file that another one has locked meanwhile.
    pub fn resume(control: &Path, file: OwnedFd) -> Result<Self, ControlError> {
        let path = control.with_extension("lock");
        match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { path, file }),
            Err((_, errno)) => Err(ControlError::Lock(path, errno.into())),
        }
    }
}

impl Lock {
    fn inode(&self) -> Option<Inode> {
        let meta = self.file.metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Another master's, if somebody removed ours: then it took the name.
        if inode(&self.path).is_some_and(|there| Some(there) == self.inode()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The lock of a master that was killed. While this value lives nobody starts under the name.
#[derive(Debug)]
pub struct Abandoned {
    path: PathBuf,
    file: Flock<File>,
}

impl Abandoned {
    /// `None`: somebody holds it, or it is none.
    pub fn take(path: &Path) -> Option<Self> {
        let file = open_lock(path).ok()?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        let meta = file.metadata().ok()?;
        let path = path.to_owned();
        (inode(&path) == Some((meta.dev(), meta.ino()))).then_some(Self { path, file })
    }

    /// Removes its file, the last one of the name.
    pub fn remove(self) -> bool {
        let removed = fs::remove_file(&self.path).is_ok();
        drop(self.file);
        removed
    }
}

/// Whether somebody holds this lock, or nobody can tell. Root looks only where it alone can change the path.
pub fn is_held(path: &Path) -> bool {
    let look = || {
        let file = open_lock(path)?;
        Ok(Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
    };
    match Use::option(None).run(path, look) {
        Ok(held) => held,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    // The look before the open is for devices, which do something then.
    files::is_regular(&fs::symlink_metadata(path)?).map_err(io::Error::other)?;
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Removes a socket on which nobody listens. Whether there is none any more.
pub fn remove_stale_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            is_stale(path).unwrap_or(false) && fs::remove_file(path).is_ok()
        }
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Device and number of a file.
pub type Inode = (u64, u64);

fn inode(path: &Path) -> Option<Inode> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The control socket's file, removed with this value, unless it was replaced.
#[derive(Debug)]
pub struct ControlFile {
    path: PathBuf,
    inode: Option<Inode>,
}

impl ControlFile {
    /// The one that the program before this one of this process made. Old programs did not say which it was.
    pub fn resume(path: &Path, made: Option<Inode>) -> Self {
        Self {
            path: path.to_owned(),
            inode: made.or_else(|| inode(path)),
        }
    }

    /// Which file it is.
    pub fn inode(&self) -> Option<Inode> {
        self.inode
    }
}

impl Drop for ControlFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Which files a master's control socket and lock are.
#[derive(Clone, Debug)]
pub struct ControlFiles {
    control: PathBuf,
    socket: Option<Inode>,
    lock: Option<Inode>,
    own_folder: bool,
}

/// Files that were made again.
#[derive(Debug)]
pub struct Repaired {
    /// The socket, if it was gone.
    pub socket: Option<(UnixListener, ControlFile)>,
    /// The lock, if it was gone.
    pub lock: Option<Lock>,
}

impl ControlFiles {
    /// Those of this socket and lock. `own_folder`: the folder is the default one, which is made if it is not there.
    pub fn new(socket: &ControlFile, lock: &Lock, own_folder: bool) -> Self {
        Self {
            control: socket.path.clone(),
            socket: socket.inode,
            lock: lock.inode(),
            own_folder,
        }
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.control
    }

    /// Makes again what somebody has removed. `None`: nothing was.
    ///
    /// # Errors
    /// A [`ControlError`]: [`ControlError::Taken`] when another master has the name meanwhile.
    pub fn repair(&self) -> Result<Option<Repaired>, ControlError> {
        let has_socket = inode(&self.control) == self.socket;
        let has_lock = inode(&self.control.with_extension("lock")) == self.lock;
        if has_socket && has_lock {
            return Ok(None);
        }
        if self.own_folder
            && let Some(folder) = self.control.parent()
        {
            prepare_default(folder)?;
        }
        check_path(&self.control)?;
        let name = self.control.file_stem().unwrap_or_default();
        let take = || Lock::take(&self.control, &name.to_string_lossy());
        let lock = (!has_lock).then(take).transpose()?;
        let bind = || bind_locked(&self.control);
        let socket = (!has_socket).then(bind).transpose()?;
        Ok(Some(Repaired { socket, lock }))
    }
}

/// Binds the control socket (0600). Only under the [`Lock`]: a socket file
/// that is there is of a master that died.
///
/// # Errors
/// [`ControlError::InTheWay`] for a file that is no socket, [`ControlError::InUse`]
/// for a socket that somebody listens on, [`ControlError::Folder`] otherwise.
pub fn bind_socket(path: &Path, _lock: &Lock) -> Result<(UnixListener, ControlFile), ControlError> {
    bind_locked(path)
}

fn bind_locked(path: &Path) -> Result<(UnixListener, ControlFile), ControlError> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |error| ControlError::Folder(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ControlError::InTheWay(path.to_owned()));
        }
        // Another program's: it does not know our lock.
        Ok(_) if !is_stale(path).map_err(failed)? => {
            return Err(ControlError::InUse(path.to_owned()));
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(_) => {}
    }
    // Between bind and chmod the folder's own mode keeps others out, or, where
    // others may enter, the peer's uid is checked at every connection.
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, ControlFile::resume(path, None)))
}

fn is_stale(path: &Path) -> io::Result<bool> {
    Use::option(None).at(path, |place| Ok(listener::is_stale(place)))
}
