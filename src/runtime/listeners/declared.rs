//! Sockets that are there before a worker asks for them.

use std::{net::IpAddr, os::fd::RawFd};

use serde::{Deserialize, Serialize};

use super::GroupId;
use crate::sys::listener::Endpoint;

#[derive(Debug)]
pub(super) struct Declared {
    pub(super) asked: Endpoint,
    pub(super) local: Endpoint,
    pub(super) group: GroupId,
    pub(super) used: bool,
    pub(super) from: Source,
    /// The descriptor as which it was handed to the master, and its name.
    pub(super) handed: Option<(RawFd, String)>,
}

/// Where a socket comes from that is there before a worker asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Source {
    /// `--bind`.
    Bind,
    /// A socket unit. Its name counts only for `--bind fd://NAME`: Node compares the port that it
    /// asked for with the socket's (`checkBindError` in lib/net.js).
    Unit,
    /// The service manager's store: an earlier master had it.
    Store,
}

/// Whether a socket at `local` serves clients of `wanted`: its port on its address, or where one of the two says "any".
pub(super) fn meets(local: &Endpoint, wanted: &Endpoint) -> bool {
    let any = |ip: &Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    match (local, wanted) {
        (
            Endpoint::Tcp { ip, port, .. },
            Endpoint::Tcp {
                ip: ip2,
                port: port2,
                ..
            },
        ) => port == port2 && (ip == ip2 || any(ip) || any(ip2)),
        _ => local == wanted,
    }
}

impl Declared {
    pub(super) fn serves(&self, wanted: &Endpoint) -> bool {
        match (&self.local, wanted) {
            (Endpoint::Tcp { .. }, Endpoint::Tcp { .. }) => meets(&self.local, wanted),
            (
                Endpoint::Udp { ip, port, .. },
                Endpoint::Udp {
                    ip: ip2,
                    port: port2,
                    ..
                },
            ) => port == port2 && ip == ip2,
            _ => self.asked == *wanted || self.local == *wanted,
        }
    }
}
