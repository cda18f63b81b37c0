//! Binding sockets, once for all workers.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
pub use socket2::SockAddr;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub use super::reuse_port::{accept, has_reuse_port, is_listening, join, watch};
use super::safe_path::{Refusal, Use};
use super::socket_file::address;
pub use super::socket_file::{SocketFile, SocketFileState, is_stale};
use super::startup::with_umask_of_children;

/// Where to bind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// TCP. `None` is "any": `::` for both families, or `0.0.0.0` without IPv6.
    Tcp {
        /// The address.
        ip: Option<IpAddr>,
        /// Scope of a link-local IPv6 address; 0 for none.
        scope: u32,
        /// The port; 0 lets the kernel choose.
        port: u16,
        /// Keep IPv4 clients off an IPv6 address.
        v6_only: bool,
    },
    /// UDP.
    Udp {
        /// The address.
        ip: IpAddr,
        /// Scope of a link-local IPv6 address; 0 for none.
        scope: u32,
        /// The port; 0 lets the kernel choose.
        port: u16,
        /// Keep IPv4 clients off an IPv6 address.
        v6_only: bool,
        /// `SO_REUSEADDR`, as the app asked for it.
        reuse_addr: bool,
    },
    /// A stream socket at a path.
    Path(PathBuf),
    /// A stream socket in Linux's abstract namespace, without the leading NUL.
    Abstract(Vec<u8>),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { ip, port, .. } => {
                let ip = ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
                SocketAddr::new(ip, *port).fmt(f)
            }
            Self::Udp { ip, port, .. } => write!(f, "udp:{}", SocketAddr::new(*ip, *port)),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// A socket that is bound and, unless it is UDP, listens.
#[derive(Debug)]
pub struct Bound {
    /// The socket: close-on-exec, non-blocking.
    pub socket: OwnedFd,
    /// Where it is bound in fact (`getsockname(2)`).
    pub local: Endpoint,
    /// Its file, if it has one.
    pub file: Option<SocketFile>,
}

/// A failed bind, with what the user can do about it.
#[derive(Debug)]
pub struct BindError {
    /// The endpoint that was asked for.
    pub endpoint: String,
    /// `errno(3)`.
    pub errno: i32,
    hint: String,
    /// The TCP port that another process has.
    taken: Option<u16>,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.errno {
            libc::EADDRINUSE => "address already in use".to_owned(),
            libc::EACCES | libc::EPERM => "permission denied".to_owned(),
            libc::EADDRNOTAVAIL => "the address is not of this machine".to_owned(),
            other => {
                let text = io::Error::from_raw_os_error(other).to_string();
                text.split(" (os error").next().unwrap_or("").to_lowercase()
            }
        };
        write!(f, "failed to bind {}: {what}", self.endpoint)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for BindError {}

impl BindError {
    /// A refusal that does not come from the kernel.
    pub fn refused(endpoint: impl fmt::Display, errno: i32, hint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.to_string(),
            errno,
            hint: hint.into(),
            taken: None,
        }
    }

    /// The TCP port that another process has, if that is the reason.
    pub fn taken_port(&self) -> Option<u16> {
        self.taken
    }

    /// Names the owner of the port, as [`super::procfs::port_owners`] has it.
    #[must_use]
    pub fn with_owner(mut self, owners: &BTreeMap<u16, String>) -> Self {
        if let Some(owner) = self.taken.and_then(|port| owners.get(&port)) {
            self.hint = format!("by {owner}");
        }
        self
    }

    fn new(endpoint: &Endpoint, error: &io::Error) -> Self {
        if error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Refusal>)
        {
            let cure = "let only root write there, choose another folder, or let workers be another user (--user)";
            return Self::refused(endpoint, libc::EACCES, format!("{error}; {cure}"));
        }
        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
        let mut taken = None;
        let hint = match (errno, endpoint) {
            (libc::EADDRINUSE, Endpoint::Tcp { port, .. }) => {
                taken = Some(*port);
                "find its owner with: ss -ltnp".to_owned()
            }
            (libc::EADDRINUSE, Endpoint::Path(path)) => match std::fs::symlink_metadata(path) {
                Ok(meta) if !meta.file_type().is_socket() => {
                    "the path is not a socket; it is left alone".to_owned()
                }
                Ok(_) | Err(_) => "a process listens there".to_owned(),
            },
            (
                libc::EACCES | libc::EPERM,
                Endpoint::Tcp { port, .. } | Endpoint::Udp { port, .. },
            ) if *port < 1024 => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: run as root, or setcap cap_net_bind_service=+ep on the rcluster binary".to_owned()
            }
            (libc::ENAMETOOLONG, _) => {
                format!("a socket path has at most {MAX_PATH} bytes")
            }
            (libc::ENOENT, Endpoint::Path(path)) => format!(
                "the folder {} does not exist",
                path.parent().unwrap_or(Path::new("/")).display()
            ),
            _ => String::new(),
        };
        Self {
            endpoint: endpoint.to_string(),
            errno,
            hint,
            taken,
        }
    }
}

/// Longest socket path in bytes: `sun_path` of `unix(7)` less its NUL.
pub const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// How the file of a Unix socket is made.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// With whose rights.
    pub how: Use,
    /// Permissions that are added to what the umask leaves.
    pub mode: u32,
}

/// Binds and listens.
///
/// # Errors
/// The errno of `socket(2)`, `bind(2)` or `listen(2)`; `ENAMETOOLONG` for a path that does not fit.
pub fn bind(endpoint: &Endpoint, backlog: i32, file: &FileOptions) -> Result<Bound, BindError> {
    let bound = match endpoint {
        Endpoint::Tcp {
            ip: None,
            port,
            v6_only,
            ..
        } => {
            // As `createServerHandle` in Node's lib/net.js: `::` first, then IPv4.
            let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), *port);
            bind_tcp(v6, *v6_only, backlog).or_else(|_| {
                let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), *port);
                bind_tcp(v4, false, backlog)
            })
        }
        Endpoint::Tcp {
            ip: Some(ip),
            scope,
            port,
            v6_only,
        } => bind_tcp(with_scope(*ip, *port, *scope), *v6_only, backlog),
        Endpoint::Udp {
            ip,
            scope,
            port,
            v6_only,
            reuse_addr,
        } => bind_udp(with_scope(*ip, *port, *scope), *v6_only, *reuse_addr),
        Endpoint::Path(path) => bind_path(path, backlog, file),
        Endpoint::Abstract(name) => bind_abstract(name, backlog),
    };
    bound.map_err(|error| BindError::new(endpoint, &error))
}

pub(super) fn with_scope(ip: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    }
}

fn bind_tcp(address: SocketAddr, v6_only: bool, backlog: i32) -> io::Result<Bound> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // As libuv's uv__tcp_bind: restart while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    let local = local_inet(&socket)?;
    Ok(Bound {
        local: Endpoint::Tcp {
            ip: Some(local.ip()),
            scope: scope_of(&local),
            port: local.port(),
            v6_only,
        },
        socket: socket.into(),
        file: None,
    })
}

fn bind_udp(address: SocketAddr, v6_only: bool, reuse_addr: bool) -> io::Result<Bound> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    if reuse_addr {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.bind(&address.into())?;
    let local = local_inet(&socket)?;
    Ok(Bound {
        local: Endpoint::Udp {
            ip: local.ip(),
            scope: scope_of(&local),
            port: local.port(),
            v6_only,
            reuse_addr,
        },
        socket: socket.into(),
        file: None,
    })
}

fn local_inet(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

fn scope_of(address: &SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    }
}

fn bind_path(path: &Path, backlog: i32, file: &FileOptions) -> io::Result<Bound> {
    file.how.at(path, |place| {
        let address = address(place)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let bind = || with_umask_of_children(|| socket.bind(&address));
        match bind() {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && is_stale(place) => {
                place.remove()?;
                bind()?;
            }
            other => other?,
        }
        let made = SocketFile::made(place, &file.how)?;
        made.allow(place, file.mode)?;
        socket.listen(backlog)?;
        Ok(Bound {
            socket: socket.into(),
            local: Endpoint::Path(path.to_owned()),
            file: Some(made),
        })
    })
}

/// Whether the next process that gets a listening socket will find out where it is bound: the kernel keeps the path that it
/// was given, which may lead through a descriptor of ours.
pub fn is_findable(socket: &OwnedFd, local: &Endpoint) -> bool {
    match local {
        Endpoint::Path(path) => {
            bound_to(socket).is_ok_and(|address| address.as_pathname() == Some(path.as_path()))
        }
        Endpoint::Tcp { .. } | Endpoint::Udp { .. } | Endpoint::Abstract(_) => true,
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_abstract(name: &[u8], backlog: i32) -> io::Result<Bound> {
    use std::os::{linux::net::SocketAddrExt, unix::net};
    let address = net::SocketAddr::from_abstract_name(name)?;
    let listener = net::UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    let socket = OwnedFd::from(listener);
    relisten(&socket, backlog)?;
    Ok(Bound {
        socket,
        local: Endpoint::Abstract(name.to_owned()),
        file: None,
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_abstract(_name: &[u8], _backlog: i32) -> io::Result<Bound> {
    Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// Calls `listen(2)` again: repairs a backlog that a worker's own `listen`
/// lowered, and a listener that somebody shut down.
///
/// # Errors
/// The errno of `listen(2)`.
pub fn relisten(socket: &OwnedFd, backlog: i32) -> io::Result<()> {
    // SAFETY: listen(2) takes no pointer; the descriptor is open for as long as the reference lives.
    #[expect(unsafe_code)]
    let result = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The address that a socket is bound to.
///
/// # Errors
/// The errno of `getsockname(2)`.
pub fn bound_to(socket: &OwnedFd) -> io::Result<SockAddr> {
    SockRef::from(socket).local_addr()
}

/// Lets a socket listen again at its address that somebody has shut down.
///
/// # Errors
/// The errno of `bind(2)` or `listen(2)`; `ESHUTDOWN` where they do not undo it, as for a Unix socket.
pub fn reopen(socket: &OwnedFd, address: &SockAddr, backlog: i32) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    // Shut down twice it would listen again, but each connection that it accepts would be shut down as well. Only
    // the shutdown of a socket that listens clears that (`tcp_disconnect` of the kernel).
    relisten(socket, backlog)?;
    let _ = socket_ref.shutdown(Shutdown::Both);
    // A port that the kernel had chosen has been given back to it; any other is kept, and cannot be bound again.
    // For a path the kernel would make a file first, with our rights, and remove it again.
    if address.domain() != Domain::UNIX {
        let _ = socket_ref.bind(address);
    }
    relisten(socket, backlog)?;
    if bound_to(socket)? != *address {
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
    }
    let mut look = [nix::poll::PollFd::new(
        socket.as_fd(),
        nix::poll::PollFlags::empty(),
    )];
    nix::poll::poll(&mut look, nix::poll::PollTimeout::ZERO)?;
    let ended = look[0]
        .revents()
        .is_some_and(|r| r.intersects(nix::poll::PollFlags::POLLHUP));
    if ended {
        return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
    }
    Ok(())
}

/// Connections that wait to be accepted on a TCP listener, and how many may: `tcpi_unacked` and `tcpi_sacked`
/// of a listening socket (`tcp_get_info` of the kernel). `None` for other sockets.
pub fn accept_queue(socket: &OwnedFd) -> Option<(u32, u32)> {
    // SAFETY: tcp_info is plain numbers, for which zero is a value.
    #[expect(unsafe_code)]
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes into `info`, which both live for the call.
    #[expect(unsafe_code)]
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    let listens = result == 0 && info.tcpi_state == 10; // TCP_LISTEN
    listens.then_some((info.tcpi_unacked, info.tcpi_sacked))
}

/// Whether two descriptors are of one socket.
pub fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let inode = |fd: &OwnedFd| {
        let stat = nix::sys::stat::fstat(fd).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    inode(one).is_some() && inode(one) == inode(other)
}

/// Connections that a TCP listener could not take since it was opened: its queue was full, or memory short
/// (`SK_MEMINFO_DROPS` of `SO_MEMINFO`, `sk_drops` in the kernel). It wraps at 2^32.
pub fn dropped(socket: &OwnedFd) -> Option<u32> {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS, linux/sock_diag.h
    let mut info = [0u32; DROPS + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    // SAFETY: the kernel writes at most `length` bytes into `info`, which both live for the call.
    #[expect(unsafe_code)]
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length as usize == size_of_val(&info)).then_some(info[DROPS])
}

/// The index of a network interface, for an address such as `fe80::1%eth0`.
pub fn interface_index(name: &str) -> Option<u32> {
    name.parse()
        .ok()
        .or_else(|| nix::net::if_::if_nametoindex(name).ok())
}
