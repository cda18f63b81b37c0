//! The listeners written out, for a master that is replaced in place, and read back.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Declared, Listener, Listeners, Source, Taken};
use crate::{
    ipc::Query,
    runtime::{
        rights::Rights,
        upgrade::{Fd, Packing, Unpacking},
    },
    supervisor::{Generation, WorkerId},
    sys::listener::{Endpoint, SocketFile, SocketFileState},
};

/// [`Listeners`] written out. One socket may stand behind several names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::runtime) struct ListenersState {
    sockets: Vec<SocketState>,
    keys: Vec<KeyState>,
    declared: Vec<DeclaredState>,
    opened: u64,
    rights: Rights,
}

#[derive(Debug, Serialize, Deserialize)]
struct SocketState {
    fd: Fd,
    local: Endpoint,
    #[serde(default)]
    file: Option<SocketFileState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyState {
    /// Which of the sockets.
    socket: usize,
    query: Query,
    #[serde(default)]
    data: Value,
    holders: BTreeSet<WorkerId>,
    generations: BTreeSet<Generation>,
    #[serde(default)]
    opened: u64,
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

/// Sockets in the order in which they were first met.
#[derive(Default)]
struct Sockets {
    list: Vec<SocketState>,
    index: HashMap<RawFd, usize>,
}

impl Sockets {
    fn of(
        &mut self,
        packing: &mut Packing,
        socket: &Arc<OwnedFd>,
        local: &Endpoint,
        file: Option<&Arc<SocketFile>>,
    ) -> usize {
        let list = &mut self.list;
        *self.index.entry(socket.as_raw_fd()).or_insert_with(|| {
            list.push(SocketState {
                fd: packing.carry(socket),
                local: local.clone(),
                file: file.map(|file| file.state()),
            });
            list.len() - 1
        })
    }
}

impl Listeners {
    /// Written out.
    pub(in crate::runtime) fn pack(&self, packing: &mut Packing) -> ListenersState {
        let mut sockets = Sockets::default();
        let keys = self.by_key.values().map(|l| KeyState {
            socket: sockets.of(packing, &l.socket, &l.local, l.file.as_ref()),
            query: l.query.clone(),
            data: l.data.clone(),
            holders: l.holders.clone(),
            generations: l.generations.clone(),
            opened: l.opened,
        });
        let keys = keys.collect();
        let declared = self.declared.iter().map(|d| DeclaredState {
            socket: sockets.of(packing, &d.socket, &d.local, d.file.as_ref()),
            asked: d.asked.clone(),
            used: d.used,
            from: d.from,
            handed: d.handed.clone(),
        });
        let declared = declared.collect();
        ListenersState {
            sockets: sockets.list,
            keys,
            declared,
            opened: self.opened,
            rights: self.rights.clone(),
        }
    }

    /// Read back.
    ///
    /// # Errors
    /// `EBADF` for a socket that was not left open, `InvalidData` for one that is not named.
    pub(in crate::runtime) fn unpack(
        state: ListenersState,
        unpacking: &mut Unpacking,
    ) -> io::Result<Self> {
        let sockets = state.sockets.into_iter().map(|s| {
            let file = s.file.map(SocketFile::resume).map(Arc::new);
            Ok((unpacking.shared(s.fd)?, s.local, file))
        });
        let sockets: Vec<Taken> = sockets.collect::<io::Result<_>>()?;
        let shared = |index: usize| {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, "a socket is missing");
            sockets.get(index).cloned().ok_or_else(missing)
        };
        let keys = state.keys.into_iter().map(|k| {
            let (socket, local, file) = shared(k.socket)?;
            let listener = Listener {
                socket,
                local,
                file,
                data: k.data,
                holders: k.holders,
                generations: k.generations,
                opened: k.opened,
                query: k.query,
            };
            Ok((listener.query.key(), listener))
        });
        let by_key = keys.collect::<io::Result<_>>()?;
        let declared = state.declared.into_iter().map(|d| {
            let (socket, local, file) = shared(d.socket)?;
            Ok(Declared {
                asked: d.asked,
                socket,
                local,
                file,
                used: d.used,
                from: d.from,
                handed: d.handed,
            })
        });
        Ok(Self {
            declared: declared.collect::<io::Result<_>>()?,
            by_key,
            rights: state.rights,
            opened: state.opened,
        })
    }
}
