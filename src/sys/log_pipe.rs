//! A pipe for what a worker prints, that does not break when its reader dies.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::stat::Mode,
    unistd::mkfifo,
};

/// What a pipe is asked to hold, bytes; the kernel may give less.
const CAPACITY: libc::c_int = 256 * 1024;

/// Makes such a pipe: our end, non-blocking, and the worker's.
///
/// The worker's end is open for reading too, so that the worker never gets
/// EPIPE (which Node throws): a killed master must not take its workers' requests
/// with it. They can print [`CAPACITY`] bytes more before they block. The end
/// of file still comes when the last process that has the worker's end is gone.
///
/// `name` is a path for a moment only, in a folder that nobody else can write to.
///
/// # Errors
/// The errno of `mkfifo(3)` or `open(2)`.
pub fn log_pipe(name: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let _ = fs::remove_file(name);
    mkfifo(name, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let ends = open_both(name);
    let _ = fs::remove_file(name);
    ends
}

fn open_both(name: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let theirs = OpenOptions::new().read(true).write(true).open(name)?;
    let ours = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(name)?;
    // A worker of another user may open its own /dev/stdout; nobody else has a path to it.
    theirs.set_permissions(Permissions::from_mode(0o666))?;
    #[cfg(target_os = "linux")]
    // Over the user's limit (fs.pipe-user-pages-soft) it stays as it is.
    let _ = fcntl(&theirs, FcntlArg::F_SETPIPE_SZ(CAPACITY));
    Ok((ours.into(), theirs.into()))
}
