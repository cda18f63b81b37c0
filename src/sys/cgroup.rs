//! What the memory cgroup of this process counts (`cgroups(7)`).

use std::{fs, path::PathBuf};

/// Processes of our cgroup that the kernel has killed for memory so far
/// (`oom_kill` in v2's `memory.events`, in v1's `memory.oom_control`). `None`
/// without such a cgroup.
pub fn oom_kills() -> Option<u64> {
    let (path, file) = memory_folder()?;
    let text = fs::read_to_string(path.join(file)).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?
        .trim()
        .parse()
        .ok()
}

/// The folder of our memory cgroup, and the file that counts in it.
fn memory_folder() -> Option<(PathBuf, &'static str)> {
    let table = fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in table.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|c| c == "memory") {
            let folder = PathBuf::from("/sys/fs/cgroup/memory").join(path);
            return Some((folder, "memory.oom_control"));
        }
    }
    let unified = table.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = PathBuf::from("/sys/fs/cgroup").join(unified.trim_start_matches('/'));
    Some((folder, "memory.events"))
}
