//! Starting a worker's process.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
};

use super::identity::Identity;
use crate::supervisor::Pid;

/// The descriptor on which a worker finds its channel.
pub const CHANNEL_FD: RawFd = 3;

/// What to start.
#[derive(Debug)]
pub struct Spawn {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without the zeroth.
    pub args: Vec<OsString>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Variables to set.
    pub set: Vec<(OsString, OsString)>,
    /// Variables to remove.
    pub remove: Vec<OsString>,
    /// Who it is to be; else who we are.
    pub identity: Option<Identity>,
    /// Where it prints; else where we do.
    pub output: Option<Output>,
}

/// Where a process prints.
#[derive(Debug)]
pub struct Output {
    /// Its stdout.
    pub stdout: OwnedFd,
    /// Its stderr.
    pub stderr: OwnedFd,
}

/// Occupies [`CHANNEL_FD`] in this process, so that no other descriptor can
/// have that number when a child's channel is put there.
///
/// # Errors
/// The errno of `open(2)`.
pub fn reserve_channel_fd() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    if null.as_raw_fd() == CHANNEL_FD {
        // Kept open for the life of the process, on purpose.
        let _ = OwnedFd::from(null).into_raw_fd();
    }
    Ok(())
}

/// Starts a process in a process group of its own, with the channel on
/// [`CHANNEL_FD`], stdin at `/dev/null`, stdout and stderr inherited unless
/// [`Spawn::output`] says otherwise, and no other descriptor.
///
/// # Errors
/// The errno of `fork(2)`, `chdir(2)` or `execve(2)`.
pub fn spawn(what: Spawn, channel: &OwnedFd) -> io::Result<Pid> {
    let mut command = Command::new(&what.program);
    command
        .args(&what.args)
        .current_dir(&what.cwd)
        .stdin(Stdio::null())
        .process_group(0);
    for name in &what.remove {
        command.env_remove(name);
    }
    command.envs(what.set);
    let channel = channel.as_raw_fd();
    let identity = what.identity;
    if let Some(output) = what.output {
        command.stdout(output.stdout).stderr(output.stderr);
    }
    // SAFETY: the closure runs between fork and exec and calls only
    // async-signal-safe functions (dup2, fcntl, close_range, and those of Identity::assume).
    #[expect(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            place_channel(channel)?;
            identity.as_ref().map_or(Ok(()), Identity::assume)
        });
    }
    let child = command.spawn()?;
    // Never waited for here: the master has one reaper.
    let pid = i32::try_from(child.id())
        .map(Pid)
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // Not in the child before its exec: our files in /proc are root's, since we cannot be dumped.
    offer_to_oom_killer(pid);
    Ok(pid)
}

/// By how much a worker's `oom_score_adj` is above ours: a tenth of the memory that counts.
pub const OOM_SCORE: i32 = 100;

/// Makes the kernel prefer a worker to us when memory runs out (`oom_score_adj`, proc(5)): one can be replaced.
/// Raising needs no privilege. Where it cannot be done nothing is lost but the preference.
fn offer_to_oom_killer(pid: Pid) {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    let own = own.ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(own) = own {
        let score = (own + OOM_SCORE).min(1000);
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", pid.0), score.to_string());
    }
}

fn place_channel(channel: RawFd) -> io::Result<()> {
    // SAFETY: both take numbers only.
    #[expect(unsafe_code)]
    unsafe {
        if channel == CHANNEL_FD {
            if libc::fcntl(channel, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
        } else if libc::dup2(channel, CHANNEL_FD) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    close_on_exec_from(CHANNEL_FD + 1);
    Ok(())
}

/// What a careless parent left open in us is for no child of ours. Async-signal-safe. Kernels before 5.11
/// do not know the flag: our own descriptors are close-on-exec anyway.
pub(super) fn close_on_exec_from(first: RawFd) {
    // SAFETY: it takes numbers only, and closes nothing now.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code)]
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first.cast_unsigned(),
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}
