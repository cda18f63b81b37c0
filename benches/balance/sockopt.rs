//! Two options of listening sockets that no safe interface of our dependencies sets (tcp(7)).
#![allow(
    unsafe_code,
    reason = "setsockopt(2) with a number; rcluster itself sets neither option"
)]

use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use socket2::Socket;

/// Accept a connection only when its first bytes are there, or after so many seconds.
pub(crate) fn defer_accept(socket: &Socket, seconds: i32) -> io::Result<()> {
    set(socket, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Take data with the SYN (RFC 7413), from so many connections at a time.
pub(crate) fn fast_open(socket: &Socket, queue: i32) -> io::Result<()> {
    set(socket, libc::TCP_FASTOPEN, queue)
}

fn set(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` lives; the value is a live i32 of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
