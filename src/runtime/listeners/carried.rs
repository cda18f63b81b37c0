//! The listeners written out, for a master that is replaced in place, and read back.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::RawFd,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Declared, Group, GroupId, Holder, Holding, Listener, Listeners, Source};
use crate::runtime::{
    rights::Rights,
    upgrade::{Fd, Packing, Unpacking},
};
use rcluster_core::{
    ipc::Query,
    supervisor::{Generation, Slot, Time, WorkerId},
};
use rcluster_sys::{
    identity::Identity,
    listener::{Endpoint, SocketFile, SocketFileState},
    steer::Kernel,
};

/// [`Listeners`] written out. One socket may stand behind several names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::runtime) struct ListenersState {
    sockets: Vec<SocketState>,
    keys: Vec<KeyState>,
    declared: Vec<DeclaredState>,
    opened: u64,
    rights: Rights,
    #[serde(default = "backlog")]
    backlog: i32,
    /// Workers whose app said that it leaves.
    #[serde(default)]
    leaving: BTreeSet<WorkerId>,
}

fn backlog() -> i32 {
    4096
}

#[derive(Debug, Serialize, Deserialize)]
struct SocketState {
    fd: Fd,
    local: Endpoint,
    #[serde(default)]
    file: Option<SocketFileState>,
    /// Its name; since state version 2.
    #[serde(default)]
    id: Option<GroupId>,
    /// The seats after the first one.
    #[serde(default)]
    seats: Vec<Fd>,
    /// All seats in the kernel's order.
    #[serde(default)]
    order: Vec<u32>,
    /// The eBPF program that chooses among them, as `Kernel::descriptors` names it.
    #[serde(default)]
    program: Option<[Fd; 4]>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyState {
    /// Which of the sockets.
    socket: usize,
    query: Query,
    #[serde(default)]
    data: Value,
    holders: BTreeSet<WorkerId>,
    /// How they get its connections, if not by the first seat.
    #[serde(default)]
    holdings: Vec<(WorkerId, Holding)>,
    /// Those of them that have a TLS server there; missing: all, if there are data.
    #[serde(default)]
    tls: Option<BTreeSet<WorkerId>>,
    /// Their slots, those for which it is kept, and whose app closed it.
    #[serde(default)]
    slots: Option<SlotsState>,
    generations: BTreeSet<Generation>,
    #[serde(default)]
    opened: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SlotsState {
    holders: Vec<(WorkerId, Slot)>,
    awaited: BTreeSet<Slot>,
    closed_by: BTreeMap<Slot, WorkerId>,
    idle_since: Option<Time>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeclaredState {
    socket: usize,
    asked: Endpoint,
    used: bool,
    from: Source,
    #[serde(default)]
    handed: Option<(RawFd, String)>,
}

impl ListenersState {
    /// Whether a program that knows one socket an address would misread it.
    pub(in crate::runtime) fn has_seats(&self) -> bool {
        let by_hand = |k: &KeyState| !k.holdings.is_empty();
        self.sockets.iter().any(|s| !s.seats.is_empty()) || self.keys.iter().any(by_hand)
    }
}

impl Listeners {
    /// Written out.
    pub(in crate::runtime) fn pack(&self, packing: &mut Packing) -> ListenersState {
        let index: BTreeMap<_, _> = self.groups.keys().zip(0..).collect();
        let at = |id: &GroupId| index.get(id).copied().unwrap_or_default();
        let sockets = self.groups.iter().map(|(id, group)| {
            let program = group.program().map(Kernel::descriptors);
            let program = program.map(|fds| fds.map(|fd| packing.carry(&fd)));
            let mut carry = |seat| packing.carry(seat);
            SocketState {
                program,
                fd: carry(group.first()),
                local: group.local.clone(),
                file: group.file.as_ref().map(SocketFile::state),
                id: Some(*id),
                seats: group.seats[1..].iter().map(carry).collect(),
                order: group.order.clone(),
            }
        });
        let sockets = sockets.collect();
        let keys = self.by_key.values().map(|l| KeyState {
            socket: at(&l.group),
            query: l.query.clone(),
            data: l.data.clone(),
            holders: l.holders.keys().copied().collect(),
            holdings: (l.holders.iter())
                .filter(|(_, holder)| holder.how != Holding::Seat(0))
                .map(|(id, holder)| (*id, holder.how))
                .collect(),
            tls: Some(
                (l.holders.iter())
                    .filter(|(_, h)| h.tls)
                    .map(|(id, _)| *id)
                    .collect(),
            ),
            slots: Some(SlotsState {
                holders: l.holders.iter().map(|(id, h)| (*id, h.slot)).collect(),
                awaited: l.awaited.clone(),
                closed_by: l.closed_by.clone(),
                idle_since: l.idle_since,
            }),
            generations: l.generations.clone(),
            opened: l.opened,
        });
        let declared = self.declared.iter().map(|d| DeclaredState {
            socket: at(&d.group),
            asked: d.asked.clone(),
            used: d.used,
            from: d.from,
            handed: d.handed.clone(),
        });
        ListenersState {
            sockets,
            keys: keys.collect(),
            declared: declared.collect(),
            opened: self.opened,
            rights: self.rights.clone(),
            backlog: self.backlog,
            leaving: self.leaving.clone(),
        }
    }

    /// Read back.
    ///
    /// # Errors
    /// `EBADF` for a socket that was not left open, `InvalidData` for one that is not named.
    pub(in crate::runtime) fn unpack(
        state: ListenersState,
        identity: Option<&Identity>,
        unpacking: &mut Unpacking,
    ) -> io::Result<Self> {
        let mut all = Self {
            rights: state.rights.resume(identity),
            backlog: state.backlog,
            opened: state.opened,
            leaving: state.leaving,
            ..Self::default()
        };
        let mut ids = vec![];
        for s in state.sockets {
            let seats = [s.fd].into_iter().chain(s.seats);
            let seats: Vec<_> = seats
                .map(|fd| unpacking.shared(fd))
                .collect::<io::Result<_>>()?;
            let file = s.file;
            let file = file.map(|file| SocketFile::resume(file, all.rights.worker()));
            let mut group = Group::resume(seats, s.local, file);
            group.keep_order(s.order);
            if let Some([control, schedule, sockets, program]) = s.program {
                let mut own = |fd| unpacking.own(fd);
                let descriptors = [own(control)?, own(schedule)?, own(sockets)?, own(program)?];
                group.keep_program(Kernel::resume(descriptors)?);
            }
            let id = match s.id {
                Some(id) => {
                    all.insert_group(id, group);
                    id
                }
                None => all.add(group),
            };
            ids.push(id);
        }
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a socket is missing");
        let named = |index: usize| ids.get(index).copied().ok_or_else(missing);
        for k in state.keys {
            let mut how: BTreeMap<_, _> = (k.holders.into_iter())
                .map(|id| (id, Holding::Seat(0)))
                .collect();
            how.extend(k.holdings);
            let has_tls = |id: &WorkerId| match &k.tls {
                Some(ids) => ids.contains(id),
                None => !k.data.is_null(),
            };
            let known = k.slots.is_some();
            let slots = k.slots.unwrap_or_default();
            let slot_of = |id| slots.holders.iter().find(|(holder, _)| *holder == id);
            let holders = how.into_iter().map(|(id, how)| {
                let tls = has_tls(&id);
                let slot = slot_of(id).map_or(Slot(0), |(_, slot)| *slot);
                (id, Holder { how, slot, tls })
            });
            let holders = holders.collect();
            let mut listener = Listener {
                awaited: slots.awaited,
                closed_by: slots.closed_by,
                idle_since: slots.idle_since,
                group: named(k.socket)?,
                data: k.data,
                holders,
                generations: k.generations,
                opened: k.opened,
                query: k.query,
            };
            if !known {
                listener.await_all();
            }
            all.by_key.insert(listener.query.key(), listener);
        }
        for d in state.declared {
            let group = named(d.socket)?;
            let local = all.groups.get(&group).map(|g| g.local.clone());
            all.declared.push(Declared {
                asked: d.asked,
                local: local.ok_or_else(missing)?,
                group,
                used: d.used,
                from: d.from,
                handed: d.handed,
            });
        }
        Ok(all)
    }
}
