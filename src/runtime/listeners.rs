//! The listening sockets: bound once, kept over every replacement.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use super::{manager, rights::Rights};
use crate::{
    ipc::{AddressType, Listening, Query},
    supervisor::{Generation, WorkerId},
    sys::inherit::Inherited,
    sys::listener::{self, BindError, Bound, Endpoint, SocketFile},
};

mod carried;

pub(super) use carried::ListenersState;

/// Most listeners of one master.
const MAX_LISTENERS: usize = 64;

#[derive(Debug)]
struct Listener {
    socket: Arc<OwnedFd>,
    local: Endpoint,
    file: Option<Arc<SocketFile>>,
    query: Query,
    /// What the first worker said, for all (TLS ticket keys).
    data: Value,
    holders: BTreeSet<WorkerId>,
    generations: BTreeSet<Generation>,
    /// The how many-th it was.
    opened: u64,
}

#[derive(Debug)]
struct Declared {
    asked: Endpoint,
    socket: Arc<OwnedFd>,
    local: Endpoint,
    file: Option<Arc<SocketFile>>,
    used: bool,
    from: Source,
    /// The descriptor as which it was handed to the master, and its name.
    handed: Option<(RawFd, String)>,
}

/// Where a socket comes from that is there before a worker asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    /// `--bind`.
    Bind,
    /// A socket unit. Its name counts only for `--bind fd://NAME`: Node compares the port that it
    /// asked for with the socket's (`checkBindError` in lib/net.js).
    Unit,
    /// The service manager's store: an earlier master had it.
    Store,
}

impl Declared {
    fn serves(&self, wanted: &Endpoint) -> bool {
        let any = |ip: &Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
        match (&self.local, wanted) {
            (
                Endpoint::Tcp { ip, port, .. },
                Endpoint::Tcp {
                    ip: ip2,
                    port: port2,
                    ..
                },
            ) => port == port2 && (ip == ip2 || any(ip) || any(ip2)),
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

/// What a worker gets for its query.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) key: String,
    pub(super) socket: Arc<OwnedFd>,
    pub(super) data: Value,
    pub(super) udp: bool,
}

/// A socket with its address and its file.
type Taken = (Arc<OwnedFd>, Endpoint, Option<Arc<SocketFile>>);

/// All listeners, by the key that Node gives them.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    by_key: BTreeMap<String, Listener>,
    declared: Vec<Declared>,
    rights: Rights,
    opened: u64,
}

impl Listeners {
    pub(super) fn new(rights: Rights) -> Self {
        Self {
            rights,
            ..Self::default()
        }
    }

    /// The stream listener that a worker holds and that was opened first, and
    /// whether a TLS server asked for it (its data are the ticket keys).
    pub(super) fn first_of(&self, worker: WorkerId) -> Option<(String, bool)> {
        self.by_key
            .iter()
            .filter(|(_, l)| l.holders.contains(&worker) && !l_is_udp(l))
            .min_by_key(|(_, l)| l.opened)
            .map(|(key, l)| (key.clone(), !l.data.is_null()))
    }

    /// Takes over what a service manager hands to us. An address that comes
    /// twice (its unit's, and stored) is one socket.
    pub(super) fn adopt(&mut self, inherited: Vec<Inherited>) {
        for Inherited {
            name,
            number,
            socket,
            local,
        } in inherited
        {
            let stored = manager::is_stored(&name);
            // A stored path may have been removed since; nobody could connect to it.
            let file = match &local {
                Endpoint::Path(path) if stored => match SocketFile::made(path) {
                    Ok(file) => Some(Arc::new(file)),
                    Err(_) => continue,
                },
                Endpoint::Path(_)
                | Endpoint::Tcp { .. }
                | Endpoint::Udp { .. }
                | Endpoint::Abstract(_) => None,
            };
            if self.declared.iter().any(|d| d.local == local) {
                continue;
            }
            info!(address = %local, fd = number, name, stored, "socket taken over");
            let from = if stored { Source::Store } else { Source::Unit };
            self.declared.push(Declared {
                asked: local.clone(),
                socket: Arc::new(socket),
                local,
                file,
                used: false,
                from,
                handed: Some((number, name)),
            });
        }
    }

    /// Whether an earlier master's sockets are here, with all that is to be bound among them.
    pub(super) fn are_stored(&self, binds: &[Endpoint]) -> bool {
        self.declared.iter().any(|d| d.from == Source::Store)
            && (binds.iter()).all(|wanted| self.declared.iter().any(|d| d.serves(wanted)))
    }

    /// What `--bind fd://` names comes first, and is no less declared than an address.
    pub(super) fn declare_handed(&mut self, wanted: &[String]) -> Result<(), BindError> {
        for which in wanted.iter().rev() {
            let named = |d: &mut Declared| {
                d.handed
                    .as_ref()
                    .is_some_and(|(number, name)| name == which || which.parse() == Ok(*number))
            };
            let mut found: Vec<_> = self.declared.extract_if(.., named).collect();
            if found.is_empty() {
                return Err(BindError::refused(
                    format_args!("fd://{which}"),
                    libc::EBADF,
                    "no listening socket was handed to rcluster under that number or name; systemd's names are those of FileDescriptorName=, or the socket unit's own",
                ));
            }
            for declared in &mut found {
                declared.from = Source::Bind;
            }
            self.declared.splice(..0, found);
        }
        Ok(())
    }

    /// Binds what `--bind` declares, unless it is there already.
    pub(super) fn declare(&mut self, endpoints: &[Endpoint]) -> Result<(), BindError> {
        for endpoint in endpoints {
            if let Some(there) = self.declared.iter_mut().find(|d| d.serves(endpoint)) {
                there.asked = endpoint.clone();
                there.from = Source::Bind;
                continue;
            }
            let Bound {
                socket,
                local,
                file,
            } = listener::bind(endpoint)?;
            manager::keep(&socket, &local);
            self.declared.push(Declared {
                asked: endpoint.clone(),
                socket: Arc::new(socket),
                local,
                file: file.map(Arc::new),
                used: false,
                from: Source::Bind,
                handed: None,
            });
        }
        Ok(())
    }

    /// Port of the first declared TCP address: the workers' `PORT`.
    pub(super) fn declared_port(&self) -> Option<u16> {
        // What an earlier master had bound on its own is no hint to the app.
        let hints = self.declared.iter().filter(|d| d.from != Source::Store);
        hints.into_iter().find_map(|d| match d.local {
            Endpoint::Tcp { port, .. } => Some(port),
            Endpoint::Udp { .. } | Endpoint::Path(_) | Endpoint::Abstract(_) => None,
        })
    }

    /// Declared addresses that no worker has asked for.
    pub(super) fn unused(&self) -> impl Iterator<Item = String> + '_ {
        self.declared
            .iter()
            .filter(|d| !d.used)
            .map(|d| d.local.to_string())
    }

    /// Answers a query: the socket of its key, bound now if it is new.
    pub(super) fn grant(
        &mut self,
        worker: WorkerId,
        generation: Generation,
        query: &Query,
    ) -> Result<Granted, BindError> {
        let key = query.key();
        if !self.by_key.contains_key(&key) {
            let listener = self.open(query)?;
            self.by_key.insert(key.clone(), listener);
        }
        let refused = |errno, hint: &str| BindError::refused(&key, errno, hint);
        let Some(listener) = self.by_key.get_mut(&key) else {
            return Err(refused(libc::EINVAL, ""));
        };
        if !listener.holders.insert(worker) {
            // A second handle under one key would kill the worker by assertion.
            return Err(refused(
                libc::EADDRINUSE,
                "this worker listens there already",
            ));
        }
        listener.generations.insert(generation);
        if let Some(file) = &listener.file {
            // The worker may have removed it before it asked.
            file.restore();
        }
        Ok(Granted {
            socket: Arc::clone(&listener.socket),
            data: listener.data.clone(),
            udp: query.address_type.is_udp(),
            key,
        })
    }

    fn open(&mut self, query: &Query) -> Result<Listener, BindError> {
        self.opened += 1;
        let (socket, local, file) = match query.fd {
            Some(fd) => self.take_handed(query, fd)?,
            None => self.take_or_bind(&endpoint(query)?)?,
        };
        Ok(Listener {
            socket,
            local,
            file,
            query: query.clone(),
            data: query.data.clone(),
            holders: BTreeSet::new(),
            generations: BTreeSet::new(),
            opened: self.opened,
        })
    }

    fn take_or_bind(&mut self, endpoint: &Endpoint) -> Result<Taken, BindError> {
        match self.take_declared(endpoint) {
            Some(declared) => Ok(declared),
            None if self.by_key.len() >= MAX_LISTENERS => Err(BindError::refused(
                endpoint,
                libc::EMFILE,
                format!("the app has {MAX_LISTENERS} listeners already"),
            )),
            None => {
                self.rights.check(endpoint)?;
                let bound = listener::bind(endpoint)?;
                manager::keep(&bound.socket, &bound.local);
                let file = bound.file.map(Arc::new);
                Ok((Arc::new(bound.socket), bound.local, file))
            }
        }
    }

    /// `listen({ fd })`: the socket that was handed to the master under that number.
    fn take_handed(&mut self, query: &Query, fd: i64) -> Result<Taken, BindError> {
        let is_it = |d: &Declared| d.handed.as_ref().is_some_and(|(n, _)| i64::from(*n) == fd);
        let Some(index) = self.declared.iter().position(is_it) else {
            return Err(BindError::refused(
                query.key(),
                libc::EBADF,
                "listen({fd}) is answered with a socket that was handed to rcluster under that number (by a socket unit, or --bind fd://N); there is none",
            ));
        };
        Ok(self.take_at(index))
    }

    /// A declared socket serves a query for its port on its address, or where
    /// one of the two says "any".
    fn take_declared(&mut self, wanted: &Endpoint) -> Option<Taken> {
        let index = self.declared.iter().position(|d| d.serves(wanted))?;
        Some(self.take_at(index))
    }

    fn take_at(&mut self, index: usize) -> Taken {
        if self.declared[index].from == Source::Store {
            // From now on it is as if the app's own listen() had bound it.
            let stored = self.declared.swap_remove(index);
            return (stored.socket, stored.local, stored.file);
        }
        let declared = &mut self.declared[index];
        declared.used = true;
        (
            Arc::clone(&declared.socket),
            declared.local.clone(),
            declared.file.clone(),
        )
    }

    /// A server of a worker listens: finds the address, and repairs the backlog,
    /// which the worker's own `listen()` has just set to what the app said.
    pub(super) fn listening(&mut self, worker: WorkerId, told: &Listening) -> Option<String> {
        let listener = self.by_key.values().find(|l| {
            let port_matches = l.query.port == told.port
                || l.query.fd.is_some() && port_of(&l.local) == u16::try_from(told.port).ok()
                || (l.query.port == 0 && port_of(&l.local) == u16::try_from(told.port).ok());
            l.holders.contains(&worker)
                && l.query.address == told.address
                && l.query.address_type == told.address_type
                && port_matches
        })?;
        if !l_is_udp(listener) {
            // Fails only for a socket that cannot listen; then there is no backlog either.
            let _ = listener::relisten(&listener.socket);
        }
        Some(listener.local.to_string())
    }

    /// Whether a key is bound.
    pub(super) fn has(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    /// A worker closed its handle: it may ask for the key again.
    /// Returns the address.
    pub(super) fn release(&mut self, worker: WorkerId, key: &str) -> Option<String> {
        let listener = self.by_key.get_mut(key)?;
        listener.holders.remove(&worker);
        Some(listener.local.to_string())
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        for listener in self.by_key.values_mut() {
            listener.holders.remove(&worker);
        }
    }

    /// Closes listeners that the generation which now serves alone never
    /// asked for. Returns their addresses.
    pub(super) fn retire(&mut self, committed: Generation) -> Vec<String> {
        let gone: Vec<_> = self
            .by_key
            .iter()
            .filter(|(_, l)| l.holders.is_empty() && !l.generations.contains(&committed))
            .map(|(key, _)| key.clone())
            .collect();
        for listener in self.by_key.values_mut() {
            listener.generations.retain(|g| *g >= committed);
        }
        // What an earlier master had, and nobody asks for any more.
        let stale = |d: &mut Declared| d.from == Source::Store;
        let stale = self.declared.extract_if(.., stale).map(|d| d.local);
        let gone = gone
            .iter()
            .filter_map(|key| self.by_key.remove(key))
            .map(|l| l.local);
        let gone: Vec<_> = stale.chain(gone).collect();
        for local in &gone {
            manager::let_go(local);
        }
        gone.iter().map(ToString::to_string).collect()
    }

    /// Addresses, each once, with their sockets.
    pub(super) fn addresses(&self) -> BTreeMap<String, Arc<OwnedFd>> {
        let declared = self.declared.iter().map(|d| (&d.local, &d.socket));
        let asked = self.by_key.values().map(|l| (&l.local, &l.socket));
        let all = declared.chain(asked);
        all.map(|(local, socket)| (local.to_string(), socket.clone()))
            .collect()
    }
}

fn l_is_udp(listener: &Listener) -> bool {
    listener.query.address_type.is_udp()
}

fn port_of(endpoint: &Endpoint) -> Option<u16> {
    match endpoint {
        Endpoint::Tcp { port, .. } | Endpoint::Udp { port, .. } => Some(*port),
        Endpoint::Path(_) | Endpoint::Abstract(_) => None,
    }
}

/// What a query asks for, in our terms.
fn endpoint(query: &Query) -> Result<Endpoint, BindError> {
    let wrong = |errno, hint: &str| BindError::refused(query.key(), errno, hint);
    if query.address_type == AddressType::Unix {
        let path = query.address.as_deref().unwrap_or("");
        // Node makes every path absolute first, an abstract name too: `cwd/\0name`
        // (`cluster._getServer` in `lib/internal/cluster/child.js`).
        let name = path
            .strip_prefix('\0')
            .or_else(|| path.split_once("/\0").map(|(_, name)| name));
        return match name {
            Some(name) => Ok(Endpoint::Abstract(
                name.trim_end_matches('\0').as_bytes().to_vec(),
            )),
            None if path.is_empty() => Err(wrong(libc::EINVAL, "the path is empty")),
            None => Ok(Endpoint::Path(PathBuf::from(path))),
        };
    }
    let port = u16::try_from(query.port).map_err(|_| wrong(libc::EINVAL, "the port is wrong"))?;
    let (ip, scope) = match query.address.as_deref().filter(|a| !a.is_empty()) {
        None => (None, 0),
        Some(text) => {
            let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| {
                (ip, listener::interface_index(scope))
            });
            let ip = ip
                .parse::<IpAddr>()
                .map_err(|_| wrong(libc::EINVAL, "not an IP address"))?;
            (Some(ip), scope.unwrap_or(0))
        }
    };
    // UV_TCP_IPV6ONLY and UV_UDP_IPV6ONLY are both 1, UV_UDP_REUSEADDR is 4 (uv.h).
    let v6_only = query.flags & 1 != 0;
    Ok(match query.address_type {
        AddressType::Udp4 | AddressType::Udp6 => Endpoint::Udp {
            ip: ip.unwrap_or(match query.address_type {
                AddressType::Udp6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
                AddressType::Udp4 | AddressType::Tcp4 | AddressType::Tcp6 | AddressType::Unix => {
                    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
                }
            }),
            scope,
            port,
            v6_only,
            reuse_addr: query.flags & 4 != 0,
        },
        AddressType::Tcp4 | AddressType::Tcp6 | AddressType::Unix => Endpoint::Tcp {
            ip,
            scope,
            port,
            v6_only,
        },
    })
}
