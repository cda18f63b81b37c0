//! Limits of this process: what `ulimit` and the cgroup say.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd, RawFd},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit};

/// Soft and hard limit of open files.
pub fn files() -> (u64, u64) {
    getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0))
}

/// Descriptors that the start of a worker or of the guard opens at most, with pipes for its logs.
const RESERVE: u64 = 16;
/// Those that it opens without such pipes.
const LEAST: u64 = 8;

/// Descriptors that clients of the API leave at most, those of the reserve among them.
const LEFT: u64 = 64;

/// Descriptors that the reserve lacks: it is lent, or could not be filled.
static LACKING: AtomicUsize = AtomicUsize::new(0);

/// Descriptors of a full reserve under this limit: an eighth of it, 8 to 16.
fn reserve(limit: u64) -> u64 {
    (limit / 8).clamp(LEAST, RESERVE)
}

/// Descriptors that are kept back, so that a worker can be replaced while clients of the API hold all
/// others. A process has one.
#[derive(Debug, Default)]
pub struct Reserve(Vec<OwnedFd>);

impl Reserve {
    /// Takes as many as are wanted, or as many as there are: an eighth of the limit, 8 to 16.
    pub fn refill(&mut self) {
        let wanted = reserve(files().0) as usize;
        while self.0.len() < wanted {
            let fd = match self.0.first() {
                Some(fd) => fd.as_fd().try_clone_to_owned().ok(),
                None => spare(),
            };
            let Some(fd) = fd else {
                break;
            };
            self.0.push(fd);
        }
        LACKING.store(wanted.saturating_sub(self.0.len()), Ordering::Relaxed);
    }

    /// Gives them back to the process, until [`Reserve::refill`].
    pub fn lend(&mut self) {
        self.0.clear();
        LACKING.store(reserve(files().0) as usize, Ordering::Relaxed);
    }
}

/// A descriptor to close when one is needed.
pub fn spare() -> Option<OwnedFd> {
    fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Whether a client of the API whose descriptor has this number leaves too few to workers: a quarter of the limit, 8 to
/// 64, and a stranger twice as many. The reserve is a part of them.
pub fn is_short(number: RawFd, stranger: bool) -> bool {
    let (limit, _) = files();
    let lacking = LACKING.load(Ordering::Relaxed) as u64;
    let used = if lacking == 0 {
        // The kernel gives the lowest free number: all below are in use.
        u64::try_from(number).map_or(0, |number| number + 1)
    } else if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // What is lent left gaps below.
        entries.count() as u64
    } else {
        return true;
    };
    leaves_too_few(limit, used + lacking, stranger)
}

/// The same for so many descriptors in use; a full reserve counts as used.
fn leaves_too_few(limit: u64, used: u64, stranger: bool) -> bool {
    let left = (limit / 4).clamp(LEAST, LEFT) * if stranger { 2 } else { 1 };
    used + left > limit + reserve(limit)
}

/// Whether a thread can be started now. Libraries panic where the standard library gives an error: they are called
/// after this. Waits for a thread that ends at once.
///
/// # Errors
/// The errno of `clone(2)`: `EAGAIN` in a full pids cgroup.
pub fn can_start_thread() -> io::Result<()> {
    let thread = std::thread::Builder::new().spawn(nix::unistd::gettid)?;
    let Ok(tid) = thread.join() else {
        return Ok(());
    };
    // It counts until the kernel has released it, a moment after it can be joined.
    let entry = PathBuf::from(format!("/proc/self/task/{tid}"));
    for _ in 0..1000 {
        if !entry.exists() {
            break;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_a_quarter_to_workers_with_the_reserve_in_it() {
        for (limit, stranger, most) in [
            (40, false, 38),
            (40, true, 28),
            (64, false, 56),
            (1024, false, 1024 - 48),
            (1024, true, 1024 - 112),
        ] {
            assert!(!leaves_too_few(limit, most, stranger), "{limit} {stranger}");
            assert!(
                leaves_too_few(limit, most + 1, stranger),
                "{limit} {stranger}"
            );
        }
    }
}
