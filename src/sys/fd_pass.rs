//! Bytes and descriptors over a Unix stream socket (`SCM_RIGHTS`, `unix(7)`).

use std::{
    io,
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net as std_net,
    },
};

use sendfd::{RecvWithFd, SendWithFd};
use tokio::net::UnixStream;

/// Descriptors taken from one `recvmsg(2)`; the kernel closes what is beyond.
const MAX_FDS: usize = 16;

/// A connected pair: ours first, for tokio; then the worker's. Both close-on-exec.
///
/// # Errors
/// The errno of `socketpair(2)`.
pub fn channel() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std_net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Writes bytes, the first of them with a descriptor if there is one.
/// Returns the bytes written; the descriptor has gone with the first.
///
/// # Errors
/// `WouldBlock` when the socket is full; else the errno of `sendmsg(2)`.
pub fn send(stream: &UnixStream, bytes: &[u8], handle: Option<&OwnedFd>) -> io::Result<usize> {
    match handle {
        Some(fd) => stream.send_with_fd(bytes, &[fd.as_raw_fd()]),
        None => stream.try_write(bytes),
    }
}

/// Reads bytes. Descriptors that came along are closed: the master takes none
/// from a worker. Returns the bytes read and the descriptors closed.
///
/// # Errors
/// `WouldBlock` when tokio knows of nothing to read; else the errno of `recvmsg(2)`.
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    receive_from(stream, buffer)
}

/// The same, although tokio may not yet know that there is something to read.
///
/// # Errors
/// `WouldBlock` when the socket is empty; else the errno of `recvmsg(2)`.
pub fn receive_now(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and nothing here closes it.
    #[expect(unsafe_code)]
    let raw = ManuallyDrop::new(unsafe { std_net::UnixStream::from_raw_fd(stream.as_raw_fd()) });
    receive_from(&*raw, buffer)
}

fn receive_from(stream: &impl RecvWithFd, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    let mut fds: [RawFd; MAX_FDS] = [-1; MAX_FDS];
    let (bytes, count) = stream.recv_with_fd(buffer, &mut fds)?;
    for fd in &fds[..count] {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        #[expect(unsafe_code)]
        let owned = unsafe { OwnedFd::from_raw_fd(*fd) };
        drop(owned);
    }
    Ok((bytes, count))
}
