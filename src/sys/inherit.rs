//! Sockets that a service manager hands to the master (`sd_listen_fds(3)`).

use std::{
    os::fd::{FromRawFd, OwnedFd},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{SockRef, Type};

use super::listener::Endpoint;

/// A socket from a socket unit, or from the fd store.
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=` of the unit, or the name under which it was stored.
    pub name: String,
    /// The socket: close-on-exec, non-blocking.
    pub socket: OwnedFd,
    /// Where it is bound.
    pub local: Endpoint,
}

/// Takes over what was handed to this process; whatever is no stream or UDP
/// socket that is bound is closed. To be called once, before anything else is opened.
pub fn inherited() -> Vec<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return vec![];
    }
    let Ok(list) = sd_notify::listen_fds_with_names() else {
        return vec![];
    };
    let taken = list.filter_map(|(fd, name)| {
        // SAFETY: LISTEN_PID is ours, so the descriptor was opened for us and nobody else has it.
        #[expect(unsafe_code)]
        let first = unsafe { OwnedFd::from_raw_fd(fd) };
        // Number 3 must be free for the workers' channels.
        let socket = first.try_clone().ok()?;
        let local = local(&socket)?;
        SockRef::from(&socket).set_nonblocking(true).ok()?;
        Some(Inherited {
            name,
            socket,
            local,
        })
    });
    taken.collect()
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
