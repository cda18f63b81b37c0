//! The folder of control sockets, and the lock that makes a name one master's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use super::{files, listener, safe_path::Use};
use crate::supervisor::Pid;

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
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("rcluster"),
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
                    let text = String::from_utf8_lossy(&text);
                    return Err(ControlError::Taken {
                        name: name.to_owned(),
                        pid: text.trim().parse().ok().map(Pid),
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

impl Drop for Lock {
    fn drop(&mut self) {
        // While still locked: nobody else can have taken it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the control socket (0600). Only under the [`Lock`]: a socket file
/// that is there is of a master that died.
///
/// # Errors
/// [`ControlError::InTheWay`] for a file that is no socket, [`ControlError::InUse`]
/// for a socket that somebody listens on, [`ControlError::Folder`] otherwise.
pub fn bind_socket(
    path: &Path,
    _lock: &Lock,
) -> Result<std::os::unix::net::UnixListener, ControlError> {
    use std::os::unix::{fs::FileTypeExt, net::UnixListener};
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
    Ok(listener)
}

fn is_stale(path: &Path) -> io::Result<bool> {
    Use::option(None).at(path, |place| Ok(listener::is_stale(place)))
}
