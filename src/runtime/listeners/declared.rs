//! Sockets that are there before a worker asks for them.

use std::{ffi::OsString, net::IpAddr, os::fd::RawFd};

use serde::{Deserialize, Serialize};

use super::{GroupId, Listener, Listeners, l_is_udp};
use rcluster_core::supervisor::WorkerId;
use rcluster_sys::listener::Endpoint;

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

impl Listeners {
    /// The stream listener of a worker whose server is asked whether it is well, and whether that is a TLS server: the one
    /// at `at`, or else the first that `--bind` declares, or where it declares nothing the one that was opened first.
    ///
    /// # Errors
    /// Which listener the worker has not got, in words.
    pub(in crate::runtime) fn asked_of(
        &self,
        worker: WorkerId,
        at: Option<&Endpoint>,
    ) -> Result<(String, bool), String> {
        let held = (self.by_key.iter())
            .filter(|(_, l)| !l_is_udp(l))
            .filter_map(|(key, l)| Some((key, l, l.holders.get(&worker)?)));
        let declared = |group: GroupId| {
            let binds = self.declared.iter().filter(|d| d.from == Source::Bind);
            let mut streams = binds.filter(|d| !matches!(d.local, Endpoint::Udp { .. }));
            streams.position(|d| d.group == group)
        };
        let binds = self.groups.keys().any(|group| declared(*group).is_some());
        let local = |l: &Listener| self.groups.get(&l.group).map(|group| &group.local);
        let meant = |l: &Listener| match at {
            Some(at) => local(l).is_some_and(|local| meets(local, at)),
            None => !binds || declared(l.group).is_some(),
        };
        let asked = held
            .filter(|(_, l, _)| meant(l))
            .min_by_key(|(_, l, _)| (declared(l.group).filter(|_| at.is_none()), l.opened));
        let missing = || match at {
            Some(at) => format!("it does not listen on {at}"),
            None if binds => "it does not listen on an address that --bind declares".to_owned(),
            None => "it has no listener that speaks TCP or HTTP".to_owned(),
        };
        let (key, _, holder) = asked.ok_or_else(missing)?;
        Ok((key.clone(), holder.tls))
    }

    /// The workers' `PORT`: the port of the first declared TCP address or else, as Node's `listen(PORT)` takes it, the first
    /// declared path.
    pub(in crate::runtime) fn declared_port(&self) -> Option<OsString> {
        // What an earlier master had bound on its own is no hint to the app.
        let hints = || self.declared.iter().filter(|d| d.from != Source::Store);
        let port = hints().find_map(|d| match d.local {
            Endpoint::Tcp { port, .. } => Some(port.to_string().into()),
            Endpoint::Udp { .. } | Endpoint::Path(_) | Endpoint::Abstract(_) => None,
        });
        let path = || {
            hints().find_map(|d| match &d.local {
                Endpoint::Path(path) => Some(path.clone().into_os_string()),
                Endpoint::Tcp { .. } | Endpoint::Udp { .. } | Endpoint::Abstract(_) => None,
            })
        };
        port.or_else(path)
    }

    /// Declared addresses that no worker has asked for.
    pub(in crate::runtime) fn unused(&self) -> impl Iterator<Item = String> + '_ {
        self.declared
            .iter()
            .filter(|d| !d.used)
            .map(|d| d.local.to_string())
    }

    /// What a worker listens on and what `--bind` declares, if it listens, and on nothing of that.
    pub(in crate::runtime) fn elsewhere(&self, worker: WorkerId) -> Option<(String, String)> {
        let held = (self.by_key.values()).filter(|l| l.holders.contains_key(&worker));
        let mut declared = None;
        let mut addresses = vec![];
        for listener in held {
            declared = Some(self.instead_of(Some(listener.group))?);
            addresses.push(self.groups.get(&listener.group)?.local.to_string());
        }
        Some((addresses.join(" and "), declared?))
    }

    /// What `--bind` declares, if anything and if this is none of it.
    pub(in crate::runtime) fn instead_of(&self, group: Option<GroupId>) -> Option<String> {
        let binds = self.declared.iter().filter(|d| d.from == Source::Bind);
        if binds.clone().any(|d| Some(d.group) == group) {
            return None;
        }
        let binds: Vec<_> = binds.map(|d| d.local.to_string()).collect();
        (!binds.is_empty()).then(|| binds.join(" and "))
    }
}
