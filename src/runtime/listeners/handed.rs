//! Sockets that a service manager, or who else started the master, hands to it.

use tracing::info;

use super::{Declared, Group, Listeners, Source};
use crate::runtime::manager;
use rcluster_sys::{
    inherit::Inherited,
    listener::{BindError, Endpoint, SocketFile},
};

impl Listeners {
    /// Takes over what a service manager hands to us. An address that comes
    /// twice (its unit's, and stored) is one socket.
    pub(in crate::runtime) fn adopt(&mut self, mut inherited: Vec<Inherited>) {
        // The kernel numbers the seats in the order of their listen(2), which was this one.
        inherited.sort_by_key(|i| manager::is_stored(&i.name).then(|| manager::seat_of(&i.name)));
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
                Endpoint::Path(path) if stored => {
                    match SocketFile::found(path, &self.rights.of_option()) {
                        Ok(file) => Some(file),
                        Err(_) => continue,
                    }
                }
                Endpoint::Path(_)
                | Endpoint::Tcp { .. }
                | Endpoint::Udp { .. }
                | Endpoint::Abstract(_) => None,
            };
            if let Some(there) = self.declared.iter().find(|d| d.local == local) {
                // A further seat's; a second copy of the same socket shows by its inode.
                if let Some(group) = self.groups.get_mut(&there.group) {
                    group.adopt(socket);
                }
                continue;
            }
            info!(address = %local, fd = number, name, stored, event = "socket_inherited", "socket taken over");
            let from = if stored { Source::Store } else { Source::Unit };
            let group = self.add(Group::new(socket, local.clone(), file));
            self.declared.push(Declared {
                asked: local.clone(),
                local,
                group,
                used: false,
                from,
                handed: Some((number, name)),
            });
        }
    }

    /// Whether an earlier master's sockets are here, with all that is to be bound among them.
    pub(in crate::runtime) fn are_stored(&self, binds: &[Endpoint]) -> bool {
        self.declared.iter().any(|d| d.from == Source::Store)
            && (binds.iter()).all(|wanted| self.declared.iter().any(|d| d.serves(wanted)))
    }

    /// What `--bind fd://` names comes first, and is no less declared than an address.
    pub(in crate::runtime) fn declare_handed(
        &mut self,
        wanted: &[String],
    ) -> Result<(), BindError> {
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
}
