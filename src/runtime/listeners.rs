//! The listening sockets: bound once, kept over every replacement.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::fd::{OwnedFd, RawFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use super::{manager, rights::Rights, socket_keeper::SocketFiles};
use rcluster_core::{
    balance::Balance,
    ipc::bounds::MAX_KEYS,
    ipc::{Listening, Query},
    supervisor::{Generation, Listened, Pid, Slot, Time, WorkerId},
};
use rcluster_sys::listener::{self, BindError, Bound, Endpoint, FileOptions};

mod asked;
mod carried;
mod declared;
mod group;
mod handed;
mod idle;
mod paths;

pub(super) use carried::ListenersState;
use declared::{Declared, Source};
pub(super) use group::Group;
pub(super) use paths::PathJob;

/// Names a [`Group`]; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct GroupId(u64);

/// How a worker gets the connections of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Holding {
    /// It has this seat's socket and accepts from it.
    Seat(u32),
    /// The master accepts, and hands them over one by one.
    Handed,
}

/// One worker's part in a listener.
#[derive(Clone, Copy, Debug)]
struct Holder {
    how: Holding,
    slot: Slot,
    /// A TLS server asked for it: its query had data.
    tls: bool,
}

/// Most listeners that workers hold.
const MAX_LISTENERS: usize = 64;

#[derive(Debug)]
struct Listener {
    group: GroupId,
    query: Query,
    /// The first that is not null of what workers said, for all (TLS ticket keys; `handle.data ||= message.data` in
    /// lib/internal/cluster/primary.js).
    data: Value,
    holders: BTreeMap<WorkerId, Holder>,
    generations: BTreeSet<Generation>,
    /// The how many-th it was.
    opened: u64,
    /// Slots whose worker drained or died while it held it, and has no successor there that held it.
    awaited: BTreeSet<Slot>,
    /// Workers whose app closed it.
    closed_by: BTreeMap<Slot, WorkerId>,
    /// Nobody holds or awaits it since then.
    idle_since: Option<Time>,
}

/// What a worker gets for its query.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) key: String,
    pub(super) what: Grant,
    pub(super) data: Value,
    pub(super) udp: bool,
}

/// See [`Holding`].
#[derive(Debug)]
pub(super) enum Grant {
    Socket(Arc<OwnedFd>),
    /// Connections to this address come one by one.
    ByHand(SocketAddr),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) id: WorkerId,
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    /// How its generation is balanced.
    pub(super) balance: Balance,
}

/// All listeners, by the key that Node gives them.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    by_key: BTreeMap<String, Listener>,
    groups: BTreeMap<GroupId, Group>,
    declared: Vec<Declared>,
    /// To be looked after.
    pub(super) files: SocketFiles,
    rights: Rights,
    backlog: i32,
    /// It was said that the kernel cuts it.
    cut: bool,
    opened: u64,
    /// Workers whose app said that it leaves.
    leaving: BTreeSet<WorkerId>,
    /// When one may have to be closed.
    due: Option<Time>,
}

impl Listeners {
    pub(super) fn new(rights: Rights, backlog: i32) -> Self {
        Self {
            rights,
            backlog,
            ..Self::default()
        }
    }

    fn add(&mut self, group: Group) -> GroupId {
        self.opened += 1;
        let id = GroupId(self.opened);
        self.insert_group(id, group);
        id
    }

    fn insert_group(&mut self, id: GroupId, group: Group) {
        if let Some(file) = &group.file {
            self.files.add(file.care());
        }
        self.groups.insert(id, group);
    }

    /// Binds what `--bind` declares, unless it is there already.
    pub(super) fn declare(&mut self, endpoints: &[Endpoint]) -> Result<(), BindError> {
        for endpoint in endpoints {
            if let Some(there) = self.declared.iter_mut().find(|d| d.serves(endpoint)) {
                there.asked = endpoint.clone();
                there.from = Source::Bind;
                continue;
            }
            let bound = listener::bind(endpoint, self.backlog, &self.file_options())?;
            let local = bound.local.clone();
            let group = self.open_group(bound);
            self.declared.push(Declared {
                asked: endpoint.clone(),
                local,
                group,
                used: false,
                from: Source::Bind,
                handed: None,
            });
        }
        Ok(())
    }

    fn open_group(&mut self, bound: Bound) -> GroupId {
        let Bound {
            socket,
            local,
            file,
        } = bound;
        if let Some((_, held)) = listener::accept_queue(&socket)
            && i64::from(held) < i64::from(self.backlog)
            && !std::mem::replace(&mut self.cut, true)
        {
            warn!(
                wanted = self.backlog,
                held,
                event = "backlog_cut",
                "the kernel cuts --backlog: raise net.core.somaxconn (sysctl -w), or ask for less"
            );
        }
        if listener::is_findable(&socket, &local) {
            manager::keep(&socket, &local, 0);
        }
        self.add(Group::new(socket, local, file))
    }

    /// How files of declared sockets are made.
    fn file_options(&self) -> FileOptions {
        FileOptions {
            how: self.rights.of_option(),
            mode: 0,
        }
    }

    /// Answers a query: the socket of its key, bound now if it is new and not a path (see [`Listeners::path_job`]).
    pub(super) fn grant(&mut self, asker: Asker, query: &Query) -> Result<Granted, BindError> {
        let query = &self.numbered(asker.id, query);
        let key = query.key();
        if !self.by_key.contains_key(&key) {
            let listener = self.open(query)?;
            self.by_key.insert(key.clone(), listener);
        }
        let refused = |errno, hint: &str| BindError::refused(&key, errno, hint);
        let Some(listener) = self.by_key.get_mut(&key) else {
            return Err(refused(libc::EINVAL, ""));
        };
        if listener.holders.contains_key(&asker.id) {
            // A second handle under one key would kill the worker by assertion.
            return Err(refused(
                libc::EADDRINUSE,
                "this worker listens there already",
            ));
        }
        let Some(group) = self.groups.get_mut(&listener.group) else {
            return Err(refused(libc::EINVAL, ""));
        };
        let seat = match asker.balance {
            Balance::Shared => 0,
            other if !group.can(other) => 0,
            Balance::LeastConn => 0,
            Balance::Spread | Balance::SourceIp => group.seat(asker.slot, self.backlog),
        };
        let by_hand = group.inet().filter(|_| asker.balance == Balance::LeastConn);
        let (what, holding) = if let Some(local) = by_hand {
            (Grant::ByHand(local), Holding::Handed)
        } else {
            let socket = group.socket(seat).unwrap_or(group.first());
            (Grant::Socket(Arc::clone(socket)), Holding::Seat(seat))
        };
        let tls = !query.data.is_null();
        if listener.data.is_null() {
            listener.data.clone_from(&query.data);
        }
        let holder = Holder {
            how: holding,
            slot: asker.slot,
            tls,
        };
        listener.holders.insert(asker.id, holder);
        listener.awaited.remove(&asker.slot);
        listener.closed_by.remove(&asker.slot);
        listener.idle_since = None;
        listener.generations.insert(asker.generation);
        Ok(Granted {
            what,
            data: listener.data.clone(),
            udp: query.address_type.is_udp(),
            key,
        })
    }

    /// Of UDP queries without a port the `index` says nothing: Node counts `bind()` and `bind(callback)` apart. The
    /// first that the worker does not hold is meant.
    fn numbered(&self, worker: WorkerId, query: &Query) -> Query {
        let mut query = query.clone();
        if query.no_port {
            let held = |query: &Query| {
                let listener = self.by_key.get(&query.key());
                listener.is_some_and(|l| l.holders.contains_key(&worker))
            };
            query.index = 0;
            while held(&query) {
                query.index += 1;
            }
        }
        query
    }

    fn open(&mut self, query: &Query) -> Result<Listener, BindError> {
        if self.by_key.len() >= MAX_KEYS {
            // One declared address can be written in many ways.
            let hint = "the workers have too many listeners already";
            return Err(BindError::refused(query.key(), libc::EMFILE, hint));
        }
        let group = match query.fd {
            Some(fd) => self.take_handed(query, fd)?,
            None => self.take_or_bind(&asked::endpoint(query)?)?,
        };
        Ok(self.listener(group, query))
    }

    fn listener(&mut self, group: GroupId, query: &Query) -> Listener {
        self.opened += 1;
        Listener {
            group,
            query: Query {
                data: Value::Null,
                ..query.clone()
            },
            data: query.data.clone(),
            holders: BTreeMap::new(),
            generations: BTreeSet::new(),
            opened: self.opened,
            awaited: BTreeSet::new(),
            closed_by: BTreeMap::new(),
            idle_since: None,
        }
    }

    fn take_or_bind(&mut self, endpoint: &Endpoint) -> Result<GroupId, BindError> {
        match self.take_declared(endpoint) {
            Some(declared) => Ok(declared),
            None if self.held() >= MAX_LISTENERS => Err(BindError::refused(
                endpoint,
                libc::EMFILE,
                format!("the app has {MAX_LISTENERS} listeners already"),
            )),
            None => {
                self.rights.check(endpoint)?;
                if let Endpoint::Path(_) = endpoint {
                    return Err(BindError::refused(endpoint, libc::EINVAL, ""));
                }
                let bound = listener::bind(endpoint, self.backlog, &self.file_options())?;
                Ok(self.open_group(bound))
            }
        }
    }

    fn held(&self) -> usize {
        let held = self.by_key.values().filter(|l| !l.holders.is_empty());
        held.count()
    }

    /// `listen({ fd })`: the socket that was handed to the master under that number.
    fn take_handed(&mut self, query: &Query, fd: i64) -> Result<GroupId, BindError> {
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
    fn take_declared(&mut self, wanted: &Endpoint) -> Option<GroupId> {
        let index = self.declared.iter().position(|d| d.serves(wanted))?;
        Some(self.take_at(index))
    }

    fn take_at(&mut self, index: usize) -> GroupId {
        if self.declared[index].from == Source::Store {
            // From now on it is as if the app's own listen() had bound it.
            return self.declared.swap_remove(index).group;
        }
        let declared = &mut self.declared[index];
        declared.used = true;
        declared.group
    }

    /// A server of a worker listens: finds the address, and repairs the backlog,
    /// which the worker's own `listen()` has just set to what the app said.
    /// `pid` is the worker's.
    pub(super) fn listening(
        &mut self,
        worker: WorkerId,
        pid: Option<Pid>,
        told: &Listening,
    ) -> Option<Listened> {
        let groups = &self.groups;
        let listener = self.by_key.values().find(|l| {
            let port = |group: &Group| port_of(&group.local);
            let port_matches = l.query.port == told.port
                || ((l.query.port == 0 || l.query.fd.is_some())
                    && groups.get(&l.group).and_then(port) == u16::try_from(told.port).ok());
            l.holders.contains_key(&worker)
                && l.query.address == told.address
                && l.query.address_type == told.address_type
                && port_matches
        })?;
        let group = self.groups.get(&listener.group)?;
        if !l_is_udp(listener) {
            match listener.holders.get(&worker).map(|holder| holder.how) {
                Some(Holding::Seat(seat)) => group.relisten(seat, self.backlog),
                Some(Holding::Handed) | None => {}
            }
        }
        let private = pid.is_some_and(|pid| asked::names(&group.local, pid));
        Some(Listened {
            address: group.local.to_string(),
            chosen: listener.query.port == 0 && listener.query.fd.is_none(),
            private,
            front: !private && !self.is_private(listener.group),
            instead_of: self.instead_of(Some(listener.group)),
        })
    }

    /// Whether a key is bound.
    pub(super) fn has(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
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
        for key in gone {
            self.by_key.remove(&key);
        }
        // What an earlier master had, and nobody asks for any more.
        self.declared.retain(|d| d.from != Source::Store);
        self.drop_unused_groups()
    }

    /// Closes the sockets that no key and no declaration names. Returns their addresses.
    fn drop_unused_groups(&mut self) -> Vec<String> {
        let used: BTreeSet<_> = (self.by_key.values().map(|l| l.group))
            .chain(self.declared.iter().map(|d| d.group))
            .collect();
        let stale = self.groups.extract_if(.., |id, _| !used.contains(id));
        let gone: Vec<_> = stale.map(|(_, group)| group).collect();
        for group in &gone {
            group.let_go();
        }
        gone.iter().map(|group| group.local.to_string()).collect()
    }

    /// The sockets that listen.
    pub(super) fn streams(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        let is_udp = |local: &Endpoint| matches!(local, Endpoint::Udp { .. });
        let streams = self.groups.values().filter(move |g| !is_udp(&g.local));
        streams.flat_map(|group| group.seats.iter())
    }

    /// A socket that somebody had shut down listens again.
    pub(super) fn reopened(&mut self, socket: RawFd) {
        for group in self.groups.values_mut() {
            group.reopened(socket);
        }
    }

    /// Whether all workers accept from one socket, everywhere.
    pub(super) fn are_plain(&self) -> bool {
        let plain = |holder: &Holder| holder.how == Holding::Seat(0);
        self.groups.values().all(|group| group.len() == 1)
            && (self.by_key.values()).all(|l| l.holders.values().all(plain))
    }

    /// All that are open, by address.
    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// One of them.
    pub(super) fn group(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.get_mut(&id)
    }

    /// Whether only the app itself can know the address: a draining worker is asked there until its requests, which may need
    /// it, have ended (`rankOf` in hooks.cjs).
    pub(super) fn is_private(&self, group: GroupId) -> bool {
        let mut of = self.by_key.values().filter(|l| l.group == group);
        let declared = self.declared.iter().any(|d| d.group == group);
        !declared && of.any(|l| asked::is_private(&l.query))
    }

    /// Who gets the connections of a group, under which key, and how.
    pub(super) fn holders(
        &self,
        group: GroupId,
    ) -> impl Iterator<Item = (WorkerId, Holding, &str)> {
        let keys = self.by_key.iter().filter(move |(_, l)| l.group == group);
        keys.flat_map(|(key, l)| l.holders.iter().map(|(id, h)| (*id, h.how, key.as_str())))
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
