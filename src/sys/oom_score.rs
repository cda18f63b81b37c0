//! Whom the kernel ends first when memory runs out (`oom_score_adj`, proc(5)).

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

/// By how much a worker's `oom_score_adj` is above ours: a tenth of the memory that counts.
pub(super) const ABOVE: i32 = 100;

/// The `oom_score_adj` of an expendable child (proc(5)), if ours can be read.
pub(super) fn of_children() -> Option<String> {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    let own: i32 = own.trim().parse().ok()?;
    Some((own + ABOVE).min(1000).to_string())
}

/// Makes the kernel prefer this child to its parent when memory runs out: it can be replaced. Raising needs no
/// privilege. While a process cannot be dumped its files in `/proc` are root's, so the child of another user is
/// dumpable until it has written; the program that it runs will be anyway. Where it cannot be done nothing is lost
/// but the preference. Async-signal-safe.
pub(super) fn offer(score: &[u8]) {
    if write(score).is_err() && nix::sys::prctl::set_dumpable(true).is_ok() {
        let _ = write(score);
        let _ = nix::sys::prctl::set_dumpable(false);
    }
}

fn write(score: &[u8]) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    nix::unistd::write(&file, score).map(drop)
}
