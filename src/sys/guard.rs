//! The guard: a tiny second process that ends the workers if the master cannot.
//!
//! A worker that spins does not see that its channel closed, and would keep
//! the port for ever. The guard holds the read end of a pipe; its end of file
//! means that the master is gone, however it went. Workers then have the grace
//! that the master named for each of them to finish what they have in flight (drain timeout and closing time), and, once
//! they have closed their listening sockets, to run their handlers of the stop signal (the rest of the kill timeout). What
//! is left after it is killed, group by group. A successor under the same name does not wait that long:
//! workers that still listen then (they spin, or run without the shim's drain)
//! are killed after [`SUCCESSOR_GRACE`].
//!
//! If master and guard are killed at once, the next master under the same name ends what they left: the
//! guard's file lists the workers, each with its start time, so that nobody else of the same number is hit.
//!
//! It must not hold a listening socket, nor decide anything else. A filter of system calls keeps it to
//! that (`seccomp(2)`).

mod predecessor;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg, OFlag},
    sys::signal::Signal,
    unistd::pipe2,
};

pub use self::predecessor::{Orphan, Predecessor, left_somebody, relieve_predecessor};
use super::{
    files,
    process::{self, Watch},
    procfs,
    spawn::{Output, Spawn, spawn},
};
use rcluster_core::supervisor::Pid;

/// How long workers that still listen live on when a successor has come.
pub const SUCCESSOR_GRACE: Duration = Duration::from_millis(500);
/// The hidden command that runs the guard.
pub const COMMAND: &str = "__guard";
/// Bytes of the guard's file that are read: a line a worker.
const MAX_FILE: u64 = 1 << 20;
/// How often the guard looks at orphans; it only does so when the master is gone.
const POLL: Duration = Duration::from_millis(25);

/// How long a worker of a dead master may live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// In any case.
    pub drain: Duration,
    /// After that, without a listening socket.
    pub stop: Duration,
}

/// The master's side.
#[derive(Debug)]
pub struct Guard {
    pid: Pid,
    pipe: File,
    path: PathBuf,
}

impl Guard {
    /// Starts the guard. `path` is its file beside the control socket. Does not wait for `execve(2)`: one that fails there ends.
    ///
    /// # Errors
    /// The errno of `pipe(2)`, `open(2)` or `fork(2)`.
    pub fn start(path: &Path, grace: Duration) -> io::Result<Self> {
        let program = if cfg!(target_os = "linux") {
            // Still there when the file was replaced by a newer release.
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        never_wait_for(&ours)?;
        let null = || OpenOptions::new().write(true).open("/dev/null");
        let started = spawn(&Spawn {
            program,
            name: Some("rcluster-guard".into()),
            args: vec![
                COMMAND.into(),
                path.into(),
                grace.as_millis().to_string().into(),
            ],
            script: None,
            cwd: "/".into(),
            safe_cwd: true,
            set: vec![],
            remove: std::env::vars_os().map(|(name, _)| name).collect(),
            identity: None,
            stdin: Some(theirs),
            output: Some(Output {
                stdout: null()?.into(),
                stderr: null()?.into(),
            }),
            channel: None,
            core: Some(0),
            expendable: false,
        })?;
        Ok(Self {
            pid: started.pid,
            pipe: ours.into(),
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
    ///
    /// # Errors
    /// The errno of `fcntl(2)`.
    pub fn resume(path: &Path, pid: Pid, pipe: OwnedFd) -> io::Result<Self> {
        never_wait_for(&pipe)?;
        Ok(Self {
            pid,
            pipe: pipe.into(),
            path: path.to_owned(),
        })
    }

    /// Puts a worker under guard.
    ///
    /// # Errors
    /// The errno of `write(2)`: the guard is gone, or it takes nothing and was killed.
    pub fn add(&mut self, worker: Pid, grace: Grace) -> io::Result<()> {
        self.tell(format_args!("+{worker}"))?;
        self.give(worker, grace)
    }

    /// Says how long a worker under guard may live on. A guard of an earlier release does not know it, and gives all the same.
    ///
    /// # Errors
    /// As [`Guard::add`].
    pub fn give(&mut self, worker: Pid, grace: Grace) -> io::Result<()> {
        let (drain, stop) = (grace.drain.as_millis(), grace.stop.as_millis());
        self.tell(format_args!("@{worker} {drain} {stop}"))
    }

    /// Has it end a process that a dead master and its dead guard left behind: at once if it listens, else after
    /// the grace.
    ///
    /// # Errors
    /// As [`Guard::add`].
    pub fn end(&mut self, orphan: Orphan) -> io::Result<()> {
        self.tell(format_args!("!{} {}", orphan.pid, orphan.born))
    }

    /// Takes a worker that was reaped from under guard.
    ///
    /// # Errors
    /// The errno of `write(2)`: the guard is gone, or it takes nothing and was killed.
    pub fn remove(&mut self, worker: Pid) -> io::Result<()> {
        self.tell(format_args!("-{worker}"))
    }

    /// Gives another time to those that were given none of their own.
    ///
    /// # Errors
    /// The errno of `write(2)`: the guard is gone, or it takes nothing and was killed.
    pub fn set_grace(&mut self, grace: Duration) -> io::Result<()> {
        self.tell(format_args!("={}", grace.as_millis()))
    }

    /// Ends the guard, whether it runs or is stopped. No worker may be left. It is a zombie then until
    /// [`Guard::has_ended`] or the end of this process.
    pub fn finish(&self) {
        process::signal(self.pid, Signal::SIGKILL);
        // If somebody removed it, another master's guard may have made one there: the first line says whose it is.
        let there = files::read_text(&self.path, MAX_FILE).unwrap_or_default();
        let whose = there.lines().next().and_then(|line| line.parse().ok());
        if whose.is_none_or(|pid: i32| pid == self.pid.0) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Reaps it if it has ended. Does not wait.
    pub fn has_ended(&self) -> bool {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        let pid = nix::unistd::Pid::from_raw(self.pid.0);
        !matches!(
            waitpid(pid, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive)
        )
    }

    /// One line, written whole or not at all: it is shorter than `PIPE_BUF`.
    fn tell(&mut self, what: std::fmt::Arguments<'_>) -> io::Result<()> {
        let done = self.pipe.write_all(format!("{what}\n").as_bytes());
        if done
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
        {
            // 64 KiB wait for it: it is stopped. The next one is told of all workers.
            process::signal(self.pid, Signal::SIGKILL);
        }
        done
    }
}

/// A guard that is stopped must not stop the master.
fn never_wait_for(pipe: impl AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

static SUCCESSOR: AtomicBool = AtomicBool::new(false);

extern "C" fn successor_came(_: libc::c_int) {
    SUCCESSOR.store(true, Ordering::Relaxed);
}

/// The guard's side: the whole life of that process.
pub fn run(path: &Path, grace: Duration) {
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
    super::confine::guard();
    // Held until no orphan listens any more: a successor waits for it.
    let mut watch = Watching {
        grace,
        file: own_file(path),
        workers: BTreeMap::new(),
        orphans: BTreeMap::new(),
    };
    watch.write_down();
    watch.listen();
    watch.end_all();
}

/// A process, its own grace, and when it was orphaned.
type Orphaned = BTreeMap<Pid, (Watch, Option<Grace>, Instant)>;

/// What the guard knows.
struct Watching {
    /// How long those may live on that were given no time of their own.
    grace: Duration,
    file: Option<Flock<File>>,
    workers: BTreeMap<Pid, (Watch, Option<Grace>)>,
    /// Those of an earlier master.
    orphans: Orphaned,
}

impl Watching {
    /// Hears the master until it is gone.
    fn listen(&mut self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut stdin = io::stdin().lock();
        let (mut unread, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let wait = if self.orphans.is_empty() {
                PollTimeout::NONE
            } else {
                end_orphans(&mut self.orphans, self.grace, true);
                PollTimeout::try_from(POLL).unwrap_or(PollTimeout::ZERO)
            };
            let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, wait), Ok(1..)) {
                // Time to look at orphans, or a signal came.
                continue;
            }
            match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => unread.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            let mut changed = false;
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                changed |= self.hear(line.trim_end());
            }
            if changed {
                self.write_down();
            }
        }
    }

    /// One line of the master's; whether it changes the list of workers.
    fn hear(&mut self, line: &str) -> bool {
        let (op, rest) = line.split_at(line.len().min(1));
        match (op, rest.parse()) {
            ("=", Ok(ms)) => {
                self.grace = Duration::from_millis(ms);
                false
            }
            ("+", Ok(pid)) => {
                let pid = i32::try_from(pid).map(Pid);
                pid.is_ok_and(|pid| self.workers.insert(pid, (Watch::on(pid), None)).is_none())
            }
            ("-", Ok(pid)) => {
                let pid = i32::try_from(pid).map(Pid);
                pid.is_ok_and(|pid| self.workers.remove(&pid).is_some())
            }
            ("@", Err(_)) => {
                let mut numbers = rest.split(' ').map(str::parse::<u64>);
                let mut next = || numbers.next().and_then(Result::ok);
                let pid = next().and_then(|pid| i32::try_from(pid).ok()).map(Pid);
                let times = next().zip(next());
                if let Some((_, grace)) = pid.and_then(|pid| self.workers.get_mut(&pid)) {
                    *grace = times.map(|(drain, stop)| Grace {
                        drain: Duration::from_millis(drain),
                        stop: Duration::from_millis(stop),
                    });
                }
                false
            }
            ("!", Err(_)) => {
                let orphan = Orphan::read(rest);
                if let Some(orphan) = orphan.filter(|orphan| orphan.lives()) {
                    let watch = (Watch::on(orphan.pid), None, Instant::now());
                    self.orphans.insert(orphan.pid, watch);
                }
                orphan.is_some()
            }
            _ => false,
        }
    }

    /// Writes down whom a next master would have to end if we were killed, too.
    fn write_down(&mut self) {
        let Some(file) = &self.file else { return };
        let mut text = format!("{}\n", std::process::id());
        for pid in self.workers.keys().chain(self.orphans.keys()) {
            if let Some(born) = procfs::born(*pid) {
                let _ = writeln!(text, "{pid} {born}");
            }
        }
        let bytes = text.as_bytes();
        // A disk that is full costs no more than this list.
        let _ = file.write_all_at(bytes, 0);
        let _ = file.set_len(bytes.len() as u64);
    }

    /// The master is gone.
    fn end_all(mut self) {
        let now = Instant::now();
        let workers = self.workers.into_iter();
        self.orphans
            .extend(workers.map(|(pid, (watch, grace))| (pid, (watch, grace, now))));
        let mut successor_at = None;
        loop {
            if SUCCESSOR.load(Ordering::Relaxed) {
                successor_at.get_or_insert_with(Instant::now);
            }
            let impatient = successor_at.is_some_and(|at| at.elapsed() >= SUCCESSOR_GRACE)
                && self.file.is_some();
            end_orphans(&mut self.orphans, self.grace, impatient);
            if self.orphans.is_empty() {
                return;
            }
            if self.file.is_some() && !self.orphans.keys().any(|pid| procfs::listens(*pid)) {
                self.file = None;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Kills orphans whose time is over, and with `impatient` those that still listen after
/// [`SUCCESSOR_GRACE`]. Forgets those that have ended.
fn end_orphans(orphans: &mut Orphaned, grace: Duration, impatient: bool) {
    orphans.retain(|pid, (watch, own, since)| {
        let lives = watch.lives();
        let waited = since.elapsed();
        let (drain, stop) = own.map_or((grace, Duration::ZERO), |own| (own.drain, own.stop));
        let late = || waited >= drain + stop || (waited >= drain && procfs::listens(*pid));
        let hangs = || impatient && waited >= SUCCESSOR_GRACE && procfs::listens(*pid);
        if !lives || late() || hangs() {
            // Its children go with it.
            process::signal_group(*pid, Signal::SIGKILL);
        }
        lives
    });
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
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}
