//! Sockets that a service manager (`sd_listen_fds(3)`) or whoever else started the master hands to it.

use std::{
    collections::BTreeSet,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{SockRef, Type};

use super::{listener::Endpoint, spawn::close_on_exec_from};

/// A socket from a socket unit, or from the fd store.
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=` of the unit, or the name under which it was stored.
    pub name: String,
    /// The descriptor as which it came.
    pub number: RawFd,
    /// The socket: close-on-exec, non-blocking.
    pub socket: OwnedFd,
    /// Where it is bound.
    pub local: Endpoint,
}

impl Inherited {
    /// The same socket once more.
    ///
    /// # Errors
    /// The errno of `dup(2)`.
    pub fn again(&self) -> std::io::Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            number: self.number,
            socket: self.socket.try_clone()?,
            local: self.local.clone(),
        })
    }

    /// Takes over one. `None` for what is no stream or UDP socket that is bound; it is closed.
    fn take(number: RawFd, name: String) -> Option<Self> {
        // SAFETY: the callers name each descriptor once, and it was opened for us: nobody else here has it.
        #[expect(unsafe_code)]
        let first = unsafe { OwnedFd::from_raw_fd(number) };
        // Number 3 must be free for the workers' channels.
        let socket = first.try_clone().ok()?;
        let local = local(&socket)?;
        SockRef::from(&socket).set_nonblocking(true).ok()?;
        Some(Self {
            name,
            number,
            socket,
            local,
        })
    }
}

/// Takes over what a service manager handed to this process, and those of `numbers` that whoever started it
/// left open; whatever is no stream or UDP socket that is bound is closed. What else is open is close-on-exec from
/// then on. Does something only once.
pub fn inherited(numbers: impl Iterator<Item = RawFd>) -> Vec<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return vec![];
    }
    let managed = sd_notify::listen_fds_with_names();
    let managed: Vec<_> = managed.into_iter().flatten().collect();
    let mut seen: BTreeSet<_> = managed.iter().map(|(fd, _)| *fd).collect();
    let others = numbers.filter(|number| seen.insert(*number) && was_left_open(*number));
    let others: Vec<_> = others.map(|number| (number, String::new())).collect();
    let all = managed.into_iter().chain(others);
    let taken = all.filter_map(|(number, name)| Inherited::take(number, name));
    let taken = taken.collect();
    close_on_exec_from(3);
    taken
}

/// Whether a descriptor came from outside: all that are our own are close-on-exec.
fn was_left_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes a number, and fails for one that is not open.
    #[expect(unsafe_code)]
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

fn local(socket: &OwnedFd) -> Option<Endpoint> {
    let socket = SockRef::from(socket);
    let kind = socket.r#type().ok()?;
    let address = socket.local_addr().ok()?;
    if kind == Type::STREAM && !socket.is_listener().unwrap_or(true) {
        return None;
    }
    if let Some(inet) = address.as_socket() {
        let scope = match inet {
            std::net::SocketAddr::V4(_) => 0,
            std::net::SocketAddr::V6(v6) => v6.scope_id(),
        };
        let v6_only = inet.is_ipv6() && socket.only_v6().unwrap_or(false);
        let (ip, port) = (inet.ip(), inet.port());
        return match kind {
            Type::STREAM => Some(Endpoint::Tcp {
                ip: Some(ip),
                scope,
                port,
                v6_only,
            }),
            Type::DGRAM => Some(Endpoint::Udp {
                ip,
                scope,
                port,
                v6_only,
                reuse_addr: socket.reuse_address().unwrap_or(false),
            }),
            _ => None,
        };
    }
    if kind != Type::STREAM {
        return None;
    }
    #[cfg(target_os = "linux")]
    if let Some(name) = address.as_abstract_namespace() {
        return Some(Endpoint::Abstract(name.to_vec()));
    }
    address.as_pathname().map(PathBuf::from).map(Endpoint::Path)
}
