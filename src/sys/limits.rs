//! Limits of this process: what `ulimit` and the cgroup say.

use std::{fs, path::PathBuf};

use nix::sys::resource::{Resource, getrlimit};

/// Soft and hard limit of open files.
pub fn files() -> (u64, u64) {
    getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0))
}

/// Most connections that may wait at one listening socket: `net.core.somaxconn` (listen(2)).
pub fn backlog() -> Option<u64> {
    let text = fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?;
    text.trim().parse().ok()
}

/// Bytes of memory that the cgroup allows, in cgroup v2 or v1: the smallest limit on the way up.
pub fn memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().flat_map(|line| {
        // `0::/path` is v2, `4:memory:/path` is v1 (cgroups(7)).
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return vec![],
        };
        let path = PathBuf::from(format!("{root}{path}"));
        let folders = path
            .ancestors()
            .take_while(|folder| folder.starts_with(root));
        folders
            .filter_map(|folder| fs::read_to_string(folder.join(file)).ok())
            .filter_map(|text| text.trim().parse::<u64>().ok())
            .collect()
    });
    // v1 writes "no limit" as a number beyond any machine's memory.
    limits.filter(|limit| *limit < 1 << 60).min()
}
