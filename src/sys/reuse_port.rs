//! Groups of sockets on one port (`SO_REUSEPORT` of socket(7)), all of them the master's.
//!
//! The kernel numbers the sockets of a group in the order of their listen(2). When one is closed or shut down, the last
//! one takes its number.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::listener::{BindError, Bound, Endpoint, bind, bound_tcp, listening_tcp, with_scope};

/// Binds and listens like [`bind`], but other sockets of this user can [`join`]. Only TCP ports have groups: for
/// another endpoint this is `bind`.
///
/// The port must be free as for `bind`: the option is set after bind(2), so that a port on which another group listens
/// is in use, and not shared with it unnoticed.
///
/// # Errors
/// As for `bind`. [`BindError::forbids_reuse_port`] says whether it is the option that failed.
pub fn bind_shared_port(endpoint: &Endpoint, backlog: i32) -> Result<Bound, BindError> {
    let Endpoint::Tcp {
        ip,
        scope,
        port,
        v6_only,
    } = *endpoint
    else {
        return bind(endpoint, backlog);
    };
    let mut forbids = false;
    let mut open = |address: SocketAddr, v6_only: bool| {
        let socket = bound_tcp(address, v6_only)?;
        share(&socket).inspect_err(|_| forbids = true)?;
        socket.listen(backlog)?;
        listening_tcp(socket, v6_only)
    };
    let bound = match ip {
        Some(ip) => open(with_scope(ip, port, scope), v6_only),
        // As in `bind`.
        None => open(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), v6_only)
            .or_else(|_| open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), false)),
    };
    bound.map_err(|error| {
        let mut error = BindError::new(endpoint, &error);
        error.forbids_reuse_port = forbids;
        error
    })
}

#[cfg(target_os = "linux")]
fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

/// Elsewhere the option means something else.
#[cfg(not(target_os = "linux"))]
fn share(_socket: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// One more listening socket in the group of `first`, which is bound to `local`. It gets the next number.
///
/// # Errors
/// The errno of `socket(2)`, `setsockopt(2)`, `bind(2)` or `listen(2)`; `EINVAL` if `first` has no group.
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

/// Tells when a connection waits.
///
/// # Errors
/// The errno of `epoll_ctl(2)`.
pub fn watch(socket: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is closed with the last Arc, one of which lives in the AsyncFd.
    #[expect(unsafe_code)]
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
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
