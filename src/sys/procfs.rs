//! What `/proc` tells. Every answer may be missing: other systems, other users.

use std::{collections::HashSet, fs, path::Path};

use crate::supervisor::Pid;

/// Who listens on a TCP port, as `name (pid N)`.
pub fn port_owner(port: u16) -> Option<String> {
    let inodes: HashSet<u64> = listening()
        .into_iter()
        .filter(|(p, _)| *p == port)
        .map(|(_, inode)| inode)
        .collect();
    if inodes.is_empty() {
        return None;
    }
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        if sockets(Pid(pid)).any(|inode| inodes.contains(&inode)) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Whether a process holds a listening TCP socket.
pub fn listens(pid: Pid) -> bool {
    let inodes: HashSet<u64> = listening().into_iter().map(|(_, inode)| inode).collect();
    sockets(pid).any(|inode| inodes.contains(&inode))
}

/// Port and inode of every listening TCP socket (`proc_net_tcp` in the kernel's documentation).
fn listening() -> Vec<(u16, u64)> {
    let mut found = vec![];
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else {
                continue;
            };
            let port = local
                .rsplit_once(':')
                .and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            if let (Some(port), Ok(inode)) = (port, inode.parse()) {
                found.push((port, inode));
            }
        }
    }
    found
}

/// Inodes of the sockets that a process holds.
fn sockets(pid: Pid) -> impl Iterator<Item = u64> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let name = target.to_str()?;
            name.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
}

/// The command line of a process, its arguments separated by spaces.
pub fn command_line(pid: Pid) -> Option<String> {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    Some(
        String::from_utf8_lossy(&bytes)
            .replace('\0', " ")
            .trim()
            .to_owned(),
    )
}
