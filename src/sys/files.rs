//! Reading files whose paths others may have chosen: never a pipe or a device, never more than a limit.
//!
//! `open(2)` of a FIFO waits for a writer, and `/dev/zero` has no end; whoever can put such a file at a path that the
//! master reads must not stop it. What a file system does that does not answer (a dead NFS server, FUSE) no flag of
//! `open(2)` prevents: read such files on a thread of their own, see [`within`].

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use thiserror::Error;

/// Most bytes of a configuration file, an environment file or the like: what is longer is none.
pub const LONGEST: u64 = 1024 * 1024;

/// How long a file system may take to answer. A disk that spins up takes a few seconds; after this it counts as dead.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why a file is not read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The kernel's word, without its number.
    #[error("{}", plain(.0))]
    Io(#[from] io::Error),
    /// A pipe, a device, a socket or a folder.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// Longer than the limit, in bytes.
    #[error("it is longer than {} KiB, the most that is read", .0 / 1024)]
    TooLong(u64),
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    NotText,
}

/// An error of the kernel in words, without the errno.
pub fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or folder".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ELOOP) => "its symbolic links go in a circle".to_owned(),
        Some(libc::ENOTDIR) => "not a folder".to_owned(),
        Some(libc::ETIMEDOUT) => {
            "its file system does not answer (a dead NFS server, FUSE?)".to_owned()
        }
        // Not the kernel's.
        None => error.to_string(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or("").to_lowercase()
        }
    }
}

/// Opens a regular file for reading: `O_NONBLOCK`, `O_CLOEXEC`, `O_NOCTTY`. Symbolic links are followed.
///
/// # Errors
/// The errno of `stat(2)` or `open(2)`; [`ReadError::NotRegular`].
pub fn open(path: &Path) -> Result<(File, Metadata), ReadError> {
    // Opening some devices does something; the look after the open is the one that counts.
    is_regular(&fs::metadata(path)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let meta = file.metadata()?;
    is_regular(&meta)?;
    Ok((file, meta))
}

/// Whether this is a regular file.
///
/// # Errors
/// [`ReadError::NotRegular`], with what it is.
pub fn is_regular(meta: &Metadata) -> Result<(), ReadError> {
    let kind = meta.file_type();
    Err(ReadError::NotRegular(if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }))
}

/// All of an open file, if that is at most `limit` bytes.
///
/// # Errors
/// The errno of `read(2)`; [`ReadError::TooLong`].
pub fn rest(file: impl io::Read, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![];
    // It may grow while it is read.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLong(limit));
    }
    Ok(bytes)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// A [`ReadError`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let (file, _) = open(path)?;
    rest(file, limit)
}

/// Reads a regular file of at most `limit` bytes of UTF-8.
///
/// # Errors
/// A [`ReadError`].
pub fn read_text(path: &Path, limit: u64) -> Result<String, ReadError> {
    String::from_utf8(read(path, limit)?).map_err(|_| ReadError::NotText)
}

/// Does something with files on a thread of its own and waits for it, at most `limit`. For what happens before there
/// is a loop: a file system that does not answer then costs a thread, and the caller can say so and end.
///
/// # Errors
/// The errno of `pthread_create(3)`; `ETIMEDOUT`.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("files".to_owned())
        .spawn(move || {
            // Nobody may wait any more.
            let _ = done.send(work());
        })?;
    result.recv_timeout(limit).map_err(|error| {
        io::Error::from_raw_os_error(match error {
            RecvTimeoutError::Timeout => libc::ETIMEDOUT,
            // It panicked, and has said so.
            RecvTimeoutError::Disconnected => libc::EIO,
        })
    })
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert!(matches!(read(&path, 4), Err(ReadError::TooLong(4))));
        fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read_text(&path, 4), Err(ReadError::NotText)));
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for path in [&fifo, &link] {
            let error = read(path, 5).unwrap_err();
            assert!(matches!(error, ReadError::NotRegular("a FIFO")), "{error}");
        }
        for path in ["/dev/zero", "/dev/null"] {
            let error = read(Path::new(path), 5).unwrap_err();
            assert!(
                matches!(error, ReadError::NotRegular("a device")),
                "{error}"
            );
        }
        let error = read(dir.path(), 5).unwrap_err();
        assert_eq!(error.to_string(), "it is a folder, not a regular file");
        let error = read(&dir.path().join("none"), 5).unwrap_err();
        assert_eq!(error.to_string(), "no such file or folder");
    }

    #[test]
    fn waiting_for_files_has_an_end() {
        assert_eq!(within(Duration::from_secs(60), || 1).unwrap(), 1);
        let (keep, gone) = mpsc::channel::<()>();
        let late = within(Duration::from_millis(1), move || gone.recv());
        assert_eq!(late.unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
        drop(keep);
    }
}
