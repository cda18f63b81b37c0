//! Another program in this process: a sealed file in memory for what it must
//! know (`memfd_create(2)`), and `execve(2)` with the descriptors it is to have.

use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileExt, MetadataExt},
        },
    },
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    time::{ClockId, clock_gettime},
};

use super::startup::AsInherited;

/// Largest state that is read, in bytes.
const MAX: u64 = 1 << 30;

/// `CLOCK_MONOTONIC`: the same clock for every program of this boot.
pub fn monotonic() -> Duration {
    // Cannot fail: every kernel has this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// A file in memory that nobody can change any more (`F_ADD_SEALS` in fcntl(2)). Close-on-exec.
///
/// # Errors
/// The errno of `memfd_create(2)`, `write(2)` or `fcntl(2)`.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    use nix::{
        fcntl::SealFlag,
        sys::memfd::{MFdFlags, memfd_create},
    };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = std::fs::File::from(memfd_create(c"rcluster-state", flags)?);
    file.write_all_at(bytes, 0)?;
    let seals = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// There is no such file elsewhere than on Linux.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn seal(_bytes: &[u8]) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What was sealed there. Its offset is shared with others and not used.
///
/// # Errors
/// The errno of `read(2)`; `InvalidData` for a file that could still change or is too large.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn unseal(file: impl AsFd) -> io::Result<Vec<u8>> {
    use nix::fcntl::SealFlag;
    let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS)?;
    let wanted = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    if !SealFlag::from_bits_truncate(seals).contains(wanted) {
        let why = "it is not sealed: no rcluster wrote it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let file = std::fs::File::from(file.as_fd().try_clone_to_owned()?);
    let size = file.metadata()?.len();
    if size > MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large",
        ));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// There is no such file elsewhere than on Linux.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn unseal(_file: impl AsFd) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Takes over a descriptor that the program before this one left open. To be
/// called once for each number, and close-on-exec from then on.
///
/// # Errors
/// `EBADF` for a number that is not open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes a number, and fails for one that is not open.
    #[expect(unsafe_code)]
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    if !open {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: it was left open for us by name, and the caller asks for each number once.
    #[expect(unsafe_code)]
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

/// Which file a path leads to, and which contents: device, inode, size and the time of its last change.
///
/// # Errors
/// The errno of `stat(2)`.
pub fn identity(path: &Path) -> io::Result<[i64; 5]> {
    let meta = std::fs::metadata(path)?;
    let number = |n: u64| i64::from_ne_bytes(n.to_ne_bytes());
    Ok([
        number(meta.dev()),
        number(meta.ino()),
        number(meta.size()),
        meta.mtime(),
        meta.mtime_nsec(),
    ])
}

/// Another program in this process. Only `carried` and the standard
/// descriptors stay open in it; `set` goes into its environment. Returns only
/// when it failed, and then all is as it was.
///
/// # Errors
/// The errno of `execve(2)`.
pub fn exec(
    program: &Path,
    words: &[OsString],
    set: (&str, &str),
    carried: &BTreeSet<RawFd>,
) -> io::Error {
    match prepared(program, words, set, carried) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn prepared(
    program: &Path,
    words: &[OsString],
    (name, value): (&str, &str),
    carried: &BTreeSet<RawFd>,
) -> io::Result<std::convert::Infallible> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
    let program = text(program.as_os_str())?;
    let words = words.iter().map(|word| text(word));
    let words = words.collect::<io::Result<Vec<_>>>()?;
    let mut variables = vec![text(OsStr::new(&format!("{name}={value}")))?];
    for (key, value) in std::env::vars_os().filter(|(key, _)| key != name) {
        let mut variable = key.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        variables.push(CString::new(variable).map_err(io::Error::other)?);
    }
    let mark = |flag: libc::c_int| {
        for fd in carried {
            // SAFETY: F_SETFD takes numbers only; they are open, the caller holds them.
            #[expect(unsafe_code)]
            unsafe {
                libc::fcntl(*fd, libc::F_SETFD, flag);
            }
        }
    };
    // From here to the exec nothing may start a child: it would have them too.
    mark(0);
    let inherited = AsInherited::new();
    let failed = nix::unistd::execve(&program, &words, &variables);
    drop(inherited);
    mark(libc::FD_CLOEXEC);
    failed.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_can_be_read_again_and_again_and_not_written() {
        let sealed = seal(b"state").unwrap();
        assert_eq!(unseal(&sealed).unwrap(), b"state");
        assert_eq!(unseal(&sealed).unwrap(), b"state");
        let file = std::fs::File::from(sealed);
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(unseal(std::fs::File::open("/proc/self/exe").unwrap()).is_err());
    }

    #[test]
    fn a_failed_exec_leaves_descriptors_as_they_were() {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/dev/null").unwrap();
        let carried = BTreeSet::from([file.as_raw_fd()]);
        let error = exec(Path::new("/nowhere"), &["x".into()], ("A", "b"), &carried);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(fcntl(&file, FcntlArg::F_GETFD).unwrap(), libc::FD_CLOEXEC);
    }
}
