//! The user that workers run as, when the master is root.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::safe_path::Account;

/// `--user` or `--group` that cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Only root may become somebody else.
    #[error("--user and --group need a master that runs as root")]
    NotRoot,
    /// There is no such user.
    #[error(
        "failed to find the user `{0}`: see `getent passwd`; a bare number without an entry there needs --group"
    )]
    User(String),
    /// There is no such group.
    #[error("failed to find the group `{0}`: see `getent group`")]
    Group(String),
    /// The user database could not be read.
    #[error("failed to look up `{0}`: {1}")]
    Lookup(String, #[source] io::Error),
}

/// Who workers are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::unsafe_derive_deserialize,
    reason = "its unsafe calls rely on nothing that the fields promise"
)]
pub struct Identity {
    /// Real, effective and saved user.
    pub uid: u32,
    /// Real, effective and saved group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// `USER` and `HOME`, where the user has an entry.
    pub home: Option<(String, PathBuf)>,
}

impl Identity {
    /// Looks `--user` and `--group` up; each is a name or a number.
    ///
    /// # Errors
    /// An [`IdentityError`].
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, IdentityError> {
        if user.is_none() && group.is_none() {
            return Ok(None);
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(IdentityError::NotRoot);
        }
        let group = group.map(find_group).transpose()?;
        let Some(name) = user else {
            let gid = group.unwrap_or_else(nix::unistd::getgid).as_raw();
            return Ok(Some(Self {
                uid: 0,
                gid,
                groups: vec![gid],
                home: None,
            }));
        };
        let entry = find_user(name)?;
        let uid = match (&entry, name.parse().ok(), group) {
            (Some(entry), _, _) => entry.uid,
            (None, Some(uid), Some(_)) => Uid::from_raw(uid),
            (None, _, _) => return Err(IdentityError::User(name.to_owned())),
        };
        let gid = group
            .or(entry.as_ref().map(|entry| entry.gid))
            .ok_or_else(|| IdentityError::User(name.to_owned()))?;
        let groups = match &entry {
            Some(entry) => groups(&entry.name, gid)
                .map_err(|error| IdentityError::Lookup(name.to_owned(), error))?,
            None => vec![gid.as_raw()],
        };
        Ok(Some(Self {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            groups,
            home: entry.map(|entry| (entry.name, entry.dir)),
        }))
    }

    /// The rights that its files are used with; `None` for root, who has ours.
    pub fn account(&self) -> Option<Account> {
        (self.uid != 0).then(|| Account {
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
        })
    }

    /// Whether this user can follow a path to its end (search permission on
    /// every folder, `path_resolution(7)`; access control lists are not looked at).
    pub fn reaches(&self, folder: &Path) -> bool {
        folder.ancestors().all(|folder| {
            fs::metadata(folder).is_ok_and(|meta| {
                let class = if self.uid == 0 || meta.uid() == self.uid {
                    0o100
                } else if meta.gid() == self.gid || self.groups.contains(&meta.gid()) {
                    0o010
                } else {
                    0o001
                };
                self.uid == 0 || meta.mode() & class != 0
            })
        })
    }

    /// Lets a command run as it.
    pub fn become_in(&self, command: &mut Command) {
        let identity = self.clone();
        // SAFETY: the closure runs between fork and exec and calls async-signal-safe functions only.
        #[expect(unsafe_code)]
        unsafe {
            command.pre_exec(move || identity.assume());
        }
    }

    /// Becomes it, for good: groups, group, user, and no way back through a
    /// set-user-id binary. The key ring of our session stays here, and so do capabilities, unless it is root
    /// that it becomes. Between fork and exec.
    ///
    /// # Errors
    /// The errno of the call that failed; the process must not go on.
    pub(super) fn assume(&self) -> io::Result<()> {
        // SAFETY: setgroups reads as many numbers as it is told there are; the others take numbers.
        // All are plain system calls, no lock is taken in a child that has one thread.
        #[expect(unsafe_code)]
        unsafe {
            #[cfg(target_os = "linux")]
            {
                own_key_ring();
                if self.uid != 0 {
                    drop_capabilities()?;
                }
            }
            #[cfg(target_os = "linux")]
            let count = self.groups.len();
            #[cfg(not(target_os = "linux"))]
            let count = self.groups.len() as libc::c_int;
            if libc::setgroups(count, self.groups.as_ptr().cast()) != 0
                || libc::setgid(self.gid) != 0
                || libc::setuid(self.uid) != 0
            {
                return Err(io::Error::last_os_error());
            }
            #[cfg(target_os = "linux")]
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            // Whoever can come back has not left.
            if self.uid != 0 && libc::setuid(0) == 0 {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
            }
        }
        Ok(())
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether every user can follow a path to its end, as in [`Identity::reaches`].
pub fn others_reach(folder: &Path) -> bool {
    let open = |folder: &Path| fs::metadata(folder).is_ok_and(|meta| meta.mode() & 0o001 != 0);
    folder.ancestors().all(open)
}

/// A session key ring of its own: who possesses ours could read root's keys (`session-keyring(7)`). Async-signal-safe.
#[cfg(target_os = "linux")]
fn own_key_ring() {
    // SAFETY: keyctl(2) takes a number, and no name: the ring is anonymous.
    #[expect(unsafe_code)]
    unsafe {
        // It fails where the kernel has no keys, or a sandbox forbids them to everybody.
        libc::syscall(
            libc::SYS_keyctl,
            libc::c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING),
            std::ptr::null::<libc::c_char>(),
        );
    }
}

/// Empties the bounding, ambient and inheritable sets (capabilities(7)); setuid(2) empties the others. Before
/// setuid(2). Async-signal-safe.
///
/// # Errors
/// The errno of prctl(2) or capset(2).
#[cfg(target_os = "linux")]
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
    const VERSION: u32 = 0x2008_0522;
    // SAFETY: prctl(2) takes numbers here. capget(2) and capset(2) take the version and thread 0, which is the
    // caller, and twice three words.
    #[expect(unsafe_code)]
    unsafe {
        // Before Linux 4.3 there is no such set.
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    // EINVAL: the kernel has no more. EPERM: a master without CAP_SETPCAP cannot, but
                    // no_new_privs keeps the worker from gaining any.
                    Some(libc::EINVAL | libc::EPERM) => break,
                    _ => return Err(error),
                }
            }
        }
        let mut header = [VERSION, 0];
        // Effective, permitted, inheritable, for the low and the high capabilities.
        let mut sets = [[0u32; 3]; 2];
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) == 0 {
            for set in &mut sets {
                set[2] = 0;
            }
            if libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

fn find_user(name: &str) -> Result<Option<User>, IdentityError> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    found.map_err(|errno| IdentityError::Lookup(name.to_owned(), errno.into()))
}

fn find_group(name: &str) -> Result<Gid, IdentityError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    Group::from_name(name)
        .map_err(|errno| IdentityError::Lookup(name.to_owned(), errno.into()))?
        .map(|group| group.gid)
        .ok_or_else(|| IdentityError::Group(name.to_owned()))
}

#[cfg(target_os = "linux")]
fn groups(user: &str, gid: Gid) -> io::Result<Vec<u32>> {
    let name = CString::new(user)?;
    let groups = nix::unistd::getgrouplist(&name, gid)?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

#[cfg(not(target_os = "linux"))]
fn groups(_user: &str, gid: Gid) -> io::Result<Vec<u32>> {
    Ok(vec![gid.as_raw()])
}

/// The effective user id of this process.
pub fn effective() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The name of a user id, if the user database has one.
pub fn name_of(uid: u32) -> Option<String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map(|user| user.name)
}

/// Keeps others of the same user from looking into this process or stopping it
/// in a debugger, and its memory out of core files (`PR_SET_DUMPABLE`, prctl(2)).
pub fn forbid_dumps() {
    #[cfg(target_os = "linux")]
    {
        // Cannot fail with these arguments.
        let _ = nix::sys::prctl::set_dumpable(false);
    }
}
