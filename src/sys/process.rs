//! Reaping and signalling processes.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid as NixPid,
};

use rcluster_core::supervisor::{Exit, Pid};

/// Takes one ended child, or `None` when there is no (further) one.
///
/// For a child that `leads` a process group of ours, what is left of the group
/// is killed first: until the child is reaped, its number cannot belong to
/// anybody else.
pub fn reap(leads: impl Fn(Pid) -> bool) -> Option<(Pid, Exit)> {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let pid = loop {
        match waitid(Id::All, peek) {
            Ok(status) => break status.pid()?,
            Err(Errno::EINTR) => {}
            // ECHILD: there are no children.
            Err(_) => return None,
        }
    };
    if leads(Pid(pid.as_raw())) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                return Some((Pid(pid.as_raw()), Exit::Code(code)));
            }
            Ok(WaitStatus::Signaled(pid, signal, core)) => {
                let signal = signal as i32;
                return Some((Pid(pid.as_raw()), Exit::Signal { signal, core }));
            }
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// Makes this process the parent of descendants whose own parent ends (`PR_SET_CHILD_SUBREAPER`, prctl(2)): what
/// workers leave behind can be found, reaped and ended. An exec keeps it. Process 1 has that task anyway.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    {
        // Cannot fail since Linux 3.4.
        let _ = nix::sys::prctl::set_child_subreaper(true);
    }
}

/// Sends a signal to one process. A process that is gone is no error.
pub fn signal(pid: Pid, signal: Signal) {
    let _ = kill(NixPid::from_raw(pid.0), signal);
}

/// Sends a signal to a process group, named by its leader.
pub fn signal_group(leader: Pid, signal: Signal) {
    let _ = killpg(NixPid::from_raw(leader.0), signal);
}

/// Whether a process exists (a zombie does).
pub fn exists(pid: Pid) -> bool {
    !matches!(kill(NixPid::from_raw(pid.0), None), Err(Errno::ESRCH))
}

/// Blocks the signals that the master handles, until [`unblock_signals`]: from
/// the first instruction on none of them has its default action. All other signals are
/// unblocked, whatever the parent had blocked.
pub fn block_signals() {
    let set = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGWINCH,
    ]
    .into_iter()
    .collect();
    set_mask(set);
}

/// Unblocks every signal.
pub fn unblock_signals() {
    set_mask(SigSet::empty());
}

fn set_mask(set: SigSet) {
    // Cannot fail: SIG_SETMASK is one of the three that sigprocmask(2) knows.
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None);
}

/// Tells whether a process lives, without mistaking another one of the same number for it.
#[derive(Debug)]
pub struct Watch {
    pid: Pid,
    handle: Option<OwnedFd>,
}

impl Watch {
    /// Begins to watch a process that lives now.
    pub fn on(pid: Pid) -> Self {
        Self {
            pid,
            handle: pidfd(pid),
        }
    }

    /// Whether it has not ended. A zombie has.
    pub fn lives(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        match &self.handle {
            // A pidfd becomes readable when its process ends (pidfd_open(2)).
            Some(fd) => {
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
            }
            None => exists(self.pid),
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
