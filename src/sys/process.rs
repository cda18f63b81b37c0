//! Reaping and signalling processes.

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid as NixPid,
};

use crate::supervisor::{Exit, Pid};

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
/// the first instruction on none of them has its default action.
pub fn block_signals() {
    mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
}

/// Lets the signals through that [`block_signals`] held back.
pub fn unblock_signals() {
    mask(nix::sys::signal::SigmaskHow::SIG_UNBLOCK);
}

fn mask(how: nix::sys::signal::SigmaskHow) {
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
    // Cannot fail: `how` is one of the three that sigprocmask(2) knows.
    let _ = nix::sys::signal::sigprocmask(how, Some(&set), None);
}
