//! What a process inherits from its parent (signal(7), umask(2), getrlimit(2)). The master resets what
//! would harm it. Workers get back what plain node would have inherited.
//!
//! Descriptors that the parent left open stay open in the master: `flock -F` and `setlock` hold a lock
//! by one. They are close-on-exec, so no child gets them.

use std::sync::OnceLock;

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};

/// The master's umask: only its user writes to the files that it makes.
const UMASK: Mode = Mode::from_bits_truncate(0o022);
/// The master raises its soft limit of open files to the hard one, but not beyond this number.
const MAX_FILES: u64 = 1 << 20;

/// What the parent had set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inherited {
    umask: Mode,
    /// Soft limit of open files.
    files: Option<u64>,
}

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// Gives signals that the parent ignores their default action. A child whose end is ignored cannot be
/// waited for. SIGHUP, SIGINT and SIGQUIT stay ignored where `nohup` or a shell's `&` says so: a master
/// handles them itself. SIGPIPE stays as the standard library sets it.
pub fn reset_signals() {
    let kept = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGKILL,
        libc::SIGSTOP,
    ];
    // 64 is the last one on Linux; a number that is not a signal changes nothing.
    for number in (1..=64).filter(|number| !kept.contains(number)) {
        // SAFETY: `old` is a plain struct that the call fills; SIG_DFL runs no code of ours. Handlers of the
        // standard library (stack overflow) are left alone.
        #[expect(unsafe_code)]
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(number, std::ptr::null(), &raw mut old) == 0
                && old.sa_sigaction == libc::SIG_IGN
            {
                libc::signal(number, libc::SIG_DFL);
            }
        }
    }
}

/// Sets umask and limits of a master, and remembers what its parent had set. Does so only once.
pub fn reset_limits() {
    INHERITED.get_or_init(|| Inherited {
        umask: umask(UMASK),
        files: raise_files(),
    });
}

/// The soft limit as it was.
fn raise_files() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = hard.min(MAX_FILES);
    if soft < wanted {
        // Without it the master has fewer descriptors, and works.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
    }
    Some(soft)
}

/// Puts back what the parent had set, until the value is dropped: for an exec of the next program, which
/// then resets it again.
#[derive(Debug)]
pub(super) struct AsInherited(());

impl AsInherited {
    pub(super) fn new() -> Self {
        if let Some(inherited) = INHERITED.get() {
            inherited.apply();
        }
        Self(())
    }
}

impl Drop for AsInherited {
    fn drop(&mut self) {
        if INHERITED.get().is_some() {
            umask(UMASK);
            raise_files();
        }
    }
}

/// What a child is to have.
pub(super) fn inherited() -> Option<Inherited> {
    INHERITED.get().copied()
}

/// Runs `make`, which makes a file of the app's, under the umask that the app has. Other threads of the
/// master make files with modes of their own.
pub(super) fn with_umask_of_children<T>(make: impl FnOnce() -> T) -> T {
    let Some(inherited) = INHERITED.get() else {
        return make();
    };
    umask(inherited.umask);
    let result = make();
    umask(UMASK);
    result
}

impl Inherited {
    /// Puts it back in this process. Async-signal-safe: plain system calls.
    pub(super) fn apply(self) {
        umask(self.umask);
        if let (Some(soft), Ok((_, hard))) = (self.files, getrlimit(Resource::RLIMIT_NOFILE)) {
            // Node raises its soft limit itself. A lower hard limit than at the start wins.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard);
        }
    }
}
