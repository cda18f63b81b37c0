//! Addresses of listeners, as `status` names them and as a client connects to them.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// A socket may stay silent this long before a test gives up on it.
const SILENCE: Duration = Duration::from_secs(40);

/// Something to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Addr {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Abstract(String),
}

/// A connected stream of any kind.
pub(crate) trait Stream: Read + Write + Send {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

impl Addr {
    /// Loopback on `port`.
    pub(crate) fn port(port: u16) -> Self {
        Self::Tcp((Ipv4Addr::LOCALHOST, port).into())
    }

    /// Reads one entry of `listeners[].address`; a wildcard becomes the loopback address of its family.
    pub(crate) fn parse(address: &str) -> Option<Self> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Some(path.strip_prefix('@').map_or_else(
                || Self::Unix(path.into()),
                |name| Self::Abstract(name.into()),
            ));
        }
        let mut socket: SocketAddr = address
            .strip_prefix("tcp:")
            .unwrap_or(address)
            .parse()
            .ok()?;
        if socket.ip().is_unspecified() {
            socket.set_ip(if socket.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        Some(Self::Tcp(socket))
    }

    /// The port of a TCP address.
    #[track_caller]
    pub(crate) fn tcp_port(&self) -> u16 {
        match self {
            Self::Tcp(socket) => socket.port(),
            Self::Unix(_) | Self::Abstract(_) => panic!("{self} has no port"),
        }
    }

    /// Connects, with a bound on every later read and write.
    pub(crate) fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(socket) => {
                let stream = TcpStream::connect_timeout(socket, SILENCE)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(bounded(UnixStream::connect(path)?)?),
            Self::Abstract(name) => Box::new(bounded(UnixStream::connect_addr(
                &UnixAddr::from_abstract_name(name)?,
            )?)?),
        })
    }

    /// A TCP port below the ephemeral range that is free at this moment; the caller's server may still lose a race,
    /// so tests prefer port 0 and use this only where the port itself is the subject.
    pub(crate) fn free_port() -> u16 {
        loop {
            let port = fastrand::u16(20_000..32_000);
            if TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok()
                && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            {
                return port;
            }
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) => write!(f, "{socket}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

fn bounded(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}
