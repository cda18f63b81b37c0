//! The guard: a tiny second process that ends the workers if the master cannot.
//!
//! A worker that spins does not see that its channel closed, and would keep
//! the port for ever. The guard holds the read end of a pipe; its end of file
//! means that the master is gone, however it went. Workers then have the drain
//! timeout to finish what they have in flight; what is left after it is killed,
//! group by group. A successor under the same name does not wait that long:
//! workers that still listen then (they spin, or run without the shim's drain)
//! are killed after [`SUCCESSOR_GRACE`].
//!
//! It must not hold a listening socket, nor decide anything else.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};

use super::{control_dir::PID_LENGTH, files, process, procfs};
use crate::supervisor::Pid;

/// How long workers that still listen live on when a successor has come.
pub const SUCCESSOR_GRACE: Duration = Duration::from_millis(500);
/// The hidden command that runs the guard.
pub const COMMAND: &str = "__guard";
/// How often the guard looks at orphans; it only does so when the master is gone.
const POLL: Duration = Duration::from_millis(25);

/// The master's side.
#[derive(Debug)]
pub struct Guard {
    pid: Pid,
    pipe: std::process::ChildStdin,
    path: PathBuf,
}

impl Guard {
    /// Starts the guard. `path` is its file beside the control socket.
    ///
    /// # Errors
    /// The errno of `fork(2)` or `execve(2)`.
    pub fn start(path: &Path, grace: Duration) -> io::Result<Self> {
        let program = if cfg!(target_os = "linux") {
            // Still there when the file was replaced by a newer release.
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        let mut child = Command::new(program)
            .arg0("rcluster-guard")
            .arg(COMMAND)
            .arg(path)
            .arg(grace.as_millis().to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pipe = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("no pipe to the guard"))?;
        Ok(Self {
            pid: Pid(pid),
            pipe,
            path: path.to_owned(),
        })
    }

    /// The guard's process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The pipe to it, for the next program of this process.
    pub fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// The guard that the program before this one started.
    pub fn resume(path: &Path, pid: Pid, pipe: OwnedFd) -> Self {
        Self {
            pid,
            pipe: pipe.into(),
            path: path.to_owned(),
        }
    }

    /// Puts a worker under guard.
    ///
    /// # Errors
    /// The errno of `write(2)`; the guard is gone.
    pub fn add(&mut self, worker: Pid) -> io::Result<()> {
        writeln!(self.pipe, "+{worker}")
    }

    /// Takes a worker that was reaped from under guard.
    ///
    /// # Errors
    /// The errno of `write(2)`; the guard is gone.
    pub fn remove(&mut self, worker: Pid) -> io::Result<()> {
        writeln!(self.pipe, "-{worker}")
    }

    /// Gives workers another time to end by themselves.
    ///
    /// # Errors
    /// The errno of `write(2)`; the guard is gone.
    pub fn set_grace(&mut self, grace: Duration) -> io::Result<()> {
        writeln!(self.pipe, "={}", grace.as_millis())
    }

    /// Ends the guard and waits for it. No worker may be left.
    pub fn finish(self) {
        drop(self.pipe);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid.0), None);
        let _ = fs::remove_file(&self.path);
    }
}

/// Waits until the orphans of a predecessor have let go of their listening
/// sockets; whether there were any that had not. Only under the control lock. Bounded by `limit`: with zero
/// the predecessor's guard is told that we are here, and ends its orphans by itself.
pub fn relieve_predecessor(path: &Path, limit: Duration) -> bool {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let Ok(mut file) = opened else {
        return false;
    };
    let text = files::rest(&file, PID_LENGTH).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let guard = text.trim().parse().ok().map(Pid).filter(|pid| {
        // The number may be somebody else's by now.
        procfs::command_line(*pid).is_none_or(|line| line.contains(COMMAND))
    });
    let started = Instant::now();
    let mut told = false;
    while let Err((back, _)) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        file = back;
        if let Some(pid) = guard.filter(|_| !told) {
            process::signal(pid, Signal::SIGUSR1);
        }
        told = true;
        if started.elapsed() >= limit {
            break;
        }
        std::thread::sleep(POLL);
    }
    // Our own guard has a file of its own: that one stays the other's, without a name.
    let _ = fs::remove_file(path);
    told
}

static SUCCESSOR: AtomicBool = AtomicBool::new(false);

extern "C" fn successor_came(_: libc::c_int) {
    SUCCESSOR.store(true, Ordering::Relaxed);
}

/// The guard's side: the whole life of that process.
pub fn run(path: &Path, mut grace: Duration) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    let note = SigAction::new(
        SigHandler::Handler(successor_came),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    #[expect(unsafe_code)]
    unsafe {
        for signal in [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
        ] {
            let _ = sigaction(signal, &ignore);
        }
        let _ = sigaction(Signal::SIGUSR1, &note);
    }
    process::unblock_signals();
    // Held until no orphan listens any more: a successor waits for it.
    let lock = own_file(path);
    let mut workers = BTreeMap::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let (op, pid) = line.split_at(line.len().min(1));
        if op == "=" {
            grace = pid.parse().map_or(grace, Duration::from_millis);
            continue;
        }
        let Ok(pid) = pid.parse().map(Pid) else {
            continue;
        };
        if op == "+" {
            workers.insert(pid, Watch::on(pid));
        } else {
            workers.remove(&pid);
        }
    }
    end_orphans(workers, grace, lock);
}

fn own_file(path: &Path) -> Option<Flock<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .ok()?;
    let mut locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    let _ = locked.write_all(std::process::id().to_string().as_bytes());
    Some(locked)
}

fn end_orphans(mut workers: BTreeMap<Pid, Watch>, grace: Duration, lock: Option<Flock<File>>) {
    let orphaned = Instant::now();
    let mut successor_at = None;
    let mut lock = lock;
    loop {
        workers.retain(|pid, watch| {
            let lives = watch.lives();
            if !lives {
                // Its children go with it.
                process::signal_group(*pid, Signal::SIGKILL);
            }
            lives
        });
        if workers.is_empty() {
            return;
        }
        if lock.is_some() && !workers.keys().any(|pid| procfs::listens(*pid)) {
            lock = None;
        }
        if SUCCESSOR.load(Ordering::Relaxed) {
            let since = successor_at.get_or_insert_with(Instant::now);
            if lock.is_some() && since.elapsed() >= SUCCESSOR_GRACE {
                for pid in workers.keys().filter(|pid| procfs::listens(**pid)) {
                    process::signal_group(*pid, Signal::SIGKILL);
                }
            }
        }
        if orphaned.elapsed() >= grace {
            for pid in workers.keys() {
                process::signal_group(*pid, Signal::SIGKILL);
            }
        }
        std::thread::sleep(POLL);
    }
}

/// Tells whether a process lives, without mistaking another one of the same number for it.
#[derive(Debug)]
struct Watch {
    pid: Pid,
    handle: Option<OwnedFd>,
}

impl Watch {
    fn on(pid: Pid) -> Self {
        Self {
            pid,
            handle: pidfd(pid),
        }
    }

    fn lives(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        match &self.handle {
            // A pidfd becomes readable when its process ends (pidfd_open(2)).
            Some(fd) => {
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
            }
            None => process::exists(self.pid),
        }
    }
}

#[cfg(target_os = "linux")]
fn pidfd(pid: Pid) -> Option<OwnedFd> {
    use std::os::fd::{FromRawFd, RawFd};
    // SAFETY: pidfd_open(2) takes two numbers and returns a new descriptor that is ours.
    #[expect(unsafe_code)]
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.0, 0);
        RawFd::try_from(fd)
            .ok()
            .filter(|fd| *fd >= 0)
            .map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(not(target_os = "linux"))]
fn pidfd(_pid: Pid) -> Option<OwnedFd> {
    None
}
