//! Limits of this process: what `ulimit` and the cgroup say.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
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

/// Descriptors that are kept back, so that a worker can be replaced while clients of the API hold all
/// others.
#[derive(Debug, Default)]
pub struct Reserve(Vec<OwnedFd>);

impl Reserve {
    /// Takes as many as are wanted, or as many as there are: an eighth of the limit, within [`LEAST`] and [`RESERVE`].
    pub fn refill(&mut self) {
        let wanted = RESERVE.min((files().0 / 8).max(LEAST)) as usize;
        if self.0.len() >= wanted {
            return;
        }
        let Some(null) = fs::File::open("/dev/null").ok() else {
            return;
        };
        self.0.push(null.into());
        while self.0.len() < wanted {
            match self.0[0].as_fd().try_clone_to_owned() {
                Ok(fd) => self.0.push(fd),
                Err(_) => return,
            }
        }
    }

    /// Gives them back to the process, until [`Reserve::refill`]. Nothing may be waited for meanwhile.
    pub fn lend(&mut self) {
        self.0.clear();
    }
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
