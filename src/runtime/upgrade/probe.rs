//! A binary is asked whether it can go on with the state, before anything changes.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::Signal,
    unistd::pipe2,
};
use tokio::time::Instant;

use super::{State, state::TOO_NEW};
use crate::runtime::start::MANAGERS;
use rcluster_core::{
    exit_code::ExitCode,
    supervisor::{Exit, Pid},
};
use rcluster_sys::{
    handover, process,
    spawn::{self, ExecReport, Output, Spawn, Started},
};

/// The word by which a binary is asked; the state is on its standard input.
pub const ASK: &str = "--probe-state";
/// How long it may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What is read of its answer, in bytes.
const ANSWER: u64 = 4096;

/// The asked binary's side: reads all of the state, and says so.
pub fn answer() -> ExitCode {
    let read = handover::unseal(io::stdin()).map_err(|error| error.to_string());
    let state = read.and_then(|bytes| State::read(&bytes).map_err(|error| error.to_string()));
    match state {
        Ok(state) => {
            crate::say::out(&wanted(state.header.nonce));
            ExitCode::Ok
        }
        Err(why) => {
            crate::say::error(why);
            ExitCode::Usage
        }
    }
}

/// What an answer must be: nobody says it by chance.
fn wanted(nonce: u64) -> String {
    format!("rcluster can go on with {nonce:016x}")
}

/// A binary that is being asked.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) pid: Pid,
    pub(super) binary: PathBuf,
    /// Which file it was.
    pub(super) identity: [i64; 5],
    pub(super) until: Instant,
    nonce: u64,
    news: Vec<&'static str>,
    exec: ExecReport,
    out: File,
    err: File,
}

impl Probe {
    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot be started, in words.
    pub(super) fn start(binary: &Path, state: &State) -> Result<Self, String> {
        let cannot = |what: &str, error: &dyn std::fmt::Display| {
            format!("failed to {what} {}: {error}", binary.display())
        };
        let identity = handover::identity(binary).map_err(|e| cannot("find", &e))?;
        let bytes = state
            .write()
            .map_err(|e| format!("failed to write the state down: {e}"))?;
        let sealed: OwnedFd = handover::seal(&bytes)
            .map_err(|e| format!("failed to write the state into a file in memory: {e}"))?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| cannot("make pipes for", &e));
        let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
        for pipe in [&out, &err] {
            // A process that it leaves behind must not hold us up.
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(|e| cannot("listen to", &e))?;
        }
        let Started { pid, exec } = spawn::spawn(&Spawn {
            program: binary.to_owned(),
            name: None,
            args: vec![ASK.into()],
            script: None,
            cwd: "/".into(),
            safe_cwd: true,
            set: vec![],
            remove: MANAGERS.map(Into::into).to_vec(),
            identity: None,
            stdin: Some(sealed),
            output: Some(Output { stdout, stderr }),
            channel: None,
            core: None,
            expendable: false,
        })
        .map_err(|e| cannot("run", &e))?;
        let (out, err) = (File::from(out), File::from(err));
        Ok(Self {
            pid,
            binary: binary.to_owned(),
            identity,
            until: Instant::now() + LIMIT,
            nonce: state.header.nonce,
            news: state.news.clone(),
            exec,
            out,
            err,
        })
    }

    /// Whether it may take over, after it has ended.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn verdict(&mut self, exit: Exit) -> Result<(), String> {
        let name = self.binary.display();
        if let Some(why) = self.exec.failure() {
            return Err(format!("failed to run {name}: {why}"));
        }
        let said = text(&mut self.out);
        if exit == Exit::Code(0) && said.trim() == wanted(self.nonce) {
            return Ok(());
        }
        let complaint = text(&mut self.err);
        let complaint = complaint.lines().rfind(|line| !line.trim().is_empty());
        Err(match (complaint, exit) {
            (Some(line), _) if line.starts_with("rcluster: ") => {
                let line = line.trim_start_matches("rcluster: ");
                if line.contains(TOO_NEW) && !self.news.is_empty() {
                    let news = self.news.join(", ");
                    format!(
                        "{name}: {line}. It does not know what is in use here ({news}): stop this master and start that one instead"
                    )
                } else {
                    format!("{name}: {line}")
                }
            }
            (_, Exit::Code(0)) => format!(
                "{name} ended well but did not say that it can go on: it is no rcluster, or one that cannot be upgraded to in place"
            ),
            (complaint, exit) => {
                let said = complaint.map_or(String::new(), |line| format!(": {line}"));
                format!("{name} cannot take over ({exit}){said}")
            }
        })
    }

    /// Why it is not waited for any longer.
    pub(super) fn late(&self) -> String {
        let limit = rcluster_core::names::duration(LIMIT);
        format!("{} did not answer within {limit}", self.binary.display())
    }

    /// Ends it. Its end is noticed as any child's.
    pub(super) fn kill(&self) {
        process::signal_group(self.pid, Signal::SIGKILL);
    }
}

/// What a pipe holds, up to a limit.
fn text(pipe: &mut impl Read) -> String {
    let mut bytes = vec![];
    // It ends with an error where a grandchild still holds the other end; what was read is there.
    let _ = pipe.take(ANSWER).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The program that this process runs, to go back to it.
///
/// # Errors
/// The errno of `open(2)`.
#[expect(clippy::disallowed_methods, reason = "procfs: memory of the kernel")]
pub(super) fn own_program() -> io::Result<File> {
    File::open("/proc/self/exe")
}
