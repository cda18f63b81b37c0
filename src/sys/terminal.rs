//! The terminal that the master was started in, if any, and the files that it prints to.

use std::{
    io::IsTerminal,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::{SFlag, fstat},
};

/// A terminal, kept to learn whether it went away.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    /// The terminal on one of the standard descriptors.
    pub fn of_process() -> Option<Self> {
        let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let candidates: [(bool, BorrowedFd<'_>); 3] = [
            (input.is_terminal(), input.as_fd()),
            (output.is_terminal(), output.as_fd()),
            (error.is_terminal(), error.as_fd()),
        ];
        let (_, fd) = candidates.into_iter().find(|(is, _)| *is)?;
        fd.try_clone_to_owned().ok().map(Self)
    }

    /// Whether it hung up: closed window, lost connection.
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::ZERO);
        ready.is_ok_and(|n| n > 0)
            && fds[0]
                .revents()
                .is_some_and(|r| r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }
}

/// Whether a descriptor takes bytes now; what is broken fails at once, and does.
pub fn takes_bytes(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Waits until a descriptor takes bytes again, for a second at most.
pub fn wait_writable(fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let _ = poll(&mut fds, PollTimeout::from(1000u16));
}

/// Whether stdout or stderr is a regular file.
pub fn prints_to_files() -> bool {
    !files_printed_to().is_empty()
}

/// Appends to stdout and stderr where they are files (`2>file`): after somebody has emptied the file, as logrotate's
/// `copytruncate` does, lines go to its beginning and not behind a gap of zeros.
pub fn append_to_files() {
    for fd in files_printed_to() {
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        // Without it lines go where the offset is.
        let _ = flags.and_then(|flags| fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_APPEND)));
    }
}

fn files_printed_to() -> Vec<OwnedFd> {
    let standard = [
        std::io::stdout().as_fd().try_clone_to_owned(),
        std::io::stderr().as_fd().try_clone_to_owned(),
    ];
    let is_file = |fd: &OwnedFd| {
        let kind =
            fstat(fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()));
        kind == Ok(SFlag::S_IFREG)
    };
    standard.into_iter().flatten().filter(is_file).collect()
}
