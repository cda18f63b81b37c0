//! A bench leaves nothing behind, however it ends: every contender carries a mark in its environment, which all of its
//! descendants inherit, and what carries it is ended.
//!
//! A list of pids would not do: a worker may outlive its master, a daemon starts itself, and between a fork and the note of its
//! pid a signal can come.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// The variable that marks what this run has started.
const MARK: &str = "RCLUSTER_BENCH_RUN";
/// Argument that makes a bench the guard of another.
pub(crate) const GUARD: &str = "--guard";
/// The guard's process: its pipe is to end with this process, and not before.
static KEPT: OnceLock<Child> = OnceLock::new();
/// After this what was asked to end is killed.
const GRACE: Duration = Duration::from_secs(2);

/// Name of this run, unlike that of any other.
fn run() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        format!("{}x{:x}", std::process::id(), now.as_micros())
    })
}

/// What this command starts is ended with the bench.
pub(crate) fn mark(command: &mut Command) -> &mut Command {
    command.env(MARK, run())
}

/// Begin of the names of this run's temporary folders.
pub(crate) fn folders() -> String {
    format!("rcb-{}-", run())
}

/// Ends this run's processes at SIGINT, SIGTERM and SIGHUP. Handlers, not a blocked mask: children would inherit that. And starts a
/// guard that does it when this process is killed or aborts.
pub(crate) fn on_interrupt() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let guard = runtime.enter();
    let mut int = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut term = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut hup = signal(SignalKind::hangup()).context("watch SIGHUP")?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hup.recv() => {}
            }
        });
        sweep(run());
        std::process::exit(130);
    });
    let child = Command::new(std::env::current_exe()?)
        .args([GUARD, run()])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the guard")?;
    let _ = KEPT.set(child);
    Ok(())
}

/// The guard: waits for the end of the bench that started it, and ends what that left behind.
pub(crate) fn guard(run: &str) {
    let mut rest = Vec::new();
    // An error is an end as well.
    let _ = std::io::stdin().read_to_end(&mut rest);
    sweep(run);
}

/// Ends all processes with that mark, and waits until they are gone; removes their folders.
fn sweep(run: &str) {
    let began = Instant::now();
    let mut signal = Signal::SIGTERM;
    loop {
        let found = marked(run);
        if found.is_empty() {
            break;
        }
        for pid in found {
            // A stopped process would not see it before.
            let _ = kill(pid, signal).and_then(|()| kill(pid, Signal::SIGCONT));
        }
        if began.elapsed() > GRACE {
            signal = Signal::SIGKILL;
        }
        if began.elapsed() > 3 * GRACE {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let prefix = format!("rcb-{run}-");
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Processes that carry the mark of a run; zombies have no environment any more.
fn marked(run: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={run}").into_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Ok(environment) = fs::read(entry.path().join("environ"))
            && environment.split(|&byte| byte == 0).any(|v| v == mark)
        {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}
