//! Groups of sockets on one port (`SO_REUSEPORT` of socket(7)), all of them the master's.
//!
//! The kernel numbers the sockets of a group in the order of their listen(2). When one is closed or shut down, the last
//! one takes its number.

use std::{io, os::fd::OwnedFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::listener::{Endpoint, with_scope};

#[cfg(target_os = "linux")]
fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

/// Elsewhere the option means something else.
#[cfg(not(target_os = "linux"))]
fn share(_socket: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// One more listening socket in the group of `first`, which is bound to `local` and listens. It gets the next number.
///
/// `first` was bound without the option and gets it here: so a port on which another group listens is in use, as
/// for everybody, and is not shared with that group unnoticed.
///
/// # Errors
/// The errno of `socket(2)`, `setsockopt(2)` (`EPERM` and the like where the option is forbidden), `bind(2)` or
/// `listen(2)`; `EINVAL` for what is no TCP port.
pub fn join(first: &OwnedFd, local: &Endpoint, backlog: i32) -> io::Result<OwnedFd> {
    let Endpoint::Tcp {
        ip: Some(ip),
        scope,
        port,
        v6_only,
    } = *local
    else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    if port == 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if !has_reuse_port(first) {
        share(&SockRef::from(first))?;
    }
    let address = with_scope(ip, port, scope);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    share(&socket)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Whether `SO_REUSEPORT` is set.
pub fn has_reuse_port(socket: &OwnedFd) -> bool {
    SockRef::from(socket).reuse_port().unwrap_or(false)
}

/// Whether it listens (`SO_ACCEPTCONN`): not before listen(2), and not after somebody's shutdown(2).
pub fn is_listening(socket: &OwnedFd) -> bool {
    nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::AcceptConn).unwrap_or(false)
}

/// Tells when a connection waits. By a copy of the descriptor: the same one can be watched for one thing only.
///
/// # Errors
/// The errno of `dup(2)` or `epoll_ctl(2)`.
pub fn watch(socket: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = socket.try_clone()?;
    // SAFETY: the descriptor lives in the AsyncFd and nowhere else.
    #[expect(unsafe_code)]
    let watched = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) };
    Ok(watched?)
}

/// Accepts a connection that waits: close-on-exec, non-blocking. `None` if none does. One that its client gave up
/// meanwhile is skipped.
///
/// # Errors
/// The errno of `accept(2)`: `EMFILE` and `ENFILE` without a free descriptor (the connection waits on), `EINVAL` for a
/// socket that does not listen.
pub fn accept(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    loop {
        match accept_one(socket) {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    // accept(2): errors of the new connection, not of the listener.
                    Some(
                        libc::EINTR
                            | libc::ECONNABORTED
                            | libc::EPROTO
                            | libc::ENETDOWN
                            | libc::ENETUNREACH
                            | libc::EHOSTDOWN
                            | libc::EHOSTUNREACH
                    )
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn accept_one(socket: &OwnedFd) -> io::Result<OwnedFd> {
    use nix::sys::socket::{SockFlag, accept4};
    use std::os::fd::{AsRawFd, FromRawFd};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let accepted = accept4(socket.as_raw_fd(), flags)?;
    // SAFETY: accept4(2) has just opened it for us, and nobody else knows its number.
    #[expect(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(accepted) })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn accept_one(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let (accepted, _) = SockRef::from(socket).accept()?;
    accepted.set_nonblocking(true)?;
    Ok(accepted.into())
}
